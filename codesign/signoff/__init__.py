"""Sign-off: the verdict on a deployment, signoff.json, and the report for the people who release it."""

from codesign.signoff.comparison import Comparison, compare
from codesign.signoff.criterion import CriterionResult
from codesign.signoff.folder import artifact_hashes, build_facts
from codesign.signoff.metrics import ErrorMetrics, accuracy, confusion_matrix, error_metrics
from codesign.signoff.record import checker_facts, load_schema, signoff_document, validate_signoff, write_signoff
from codesign.signoff.report import write_report
from codesign.signoff.signing import sign_off
from codesign.signoff.verdict import SignOff, decide

__all__ = [
    "Comparison",
    "CriterionResult",
    "ErrorMetrics",
    "SignOff",
    "accuracy",
    "artifact_hashes",
    "build_facts",
    "checker_facts",
    "compare",
    "confusion_matrix",
    "decide",
    "error_metrics",
    "load_schema",
    "sign_off",
    "signoff_document",
    "validate_signoff",
    "write_report",
    "write_signoff",
]
