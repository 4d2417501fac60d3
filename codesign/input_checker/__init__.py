"""Checks what a certificate says of single inputs: those that refute a criterion, and samples that lie on proved sides.

On top of `codesign.checker`: no bound and no 'proved' of a region rests on it.
"""

from codesign.input_checker.check import check_inputs

__all__ = ["check_inputs"]
