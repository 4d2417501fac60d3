"""The independent check of a certificate over a whole domain, of a fixed or any number of steps.

On top of `codesign.checker`, with which it shares everything but what such certificates rest on: a comparison system
over recorded states instead of zonotopes over recorded slopes.
"""

from codesign.domain_checker.check import check, read_claims, replay_domain

__all__ = ["check", "read_claims", "replay_domain"]
