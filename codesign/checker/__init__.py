"""The independent checker: says whether a certificate holds, from the two model files and the recorded choices alone.

It shares no code with the verifier that searched for the bounds (`codesign.verification`); what it trusts is listed in
docs/soundness.md. Certificates over whole domains are checked by `codesign.domain_checker`, on top of this.
"""

from codesign.checker.check import CheckResult, check, replay_regions
from codesign.checker.claims import Claims, read_claims
from codesign.checker.result import CannotCheck, Invalid

__all__ = ["CannotCheck", "CheckResult", "Claims", "Invalid", "check", "read_claims", "replay_regions"]
