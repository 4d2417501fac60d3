"""The independent check of what a certificate says of float32 programs: budgets for Keras and for the device's outputs.

On top of `codesign.checker` and `codesign.domain_checker`, whose replayed ranges, or recorded states that they have
checked, it derives every budget from (docs/soundness.md, lemma 20).
"""

from codesign.float32_checker.statement import check_float32

__all__ = ["check_float32"]
