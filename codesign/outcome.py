"""What every verdict and status means: its words, its tone and the code that a command ends with, for all places alike.

The report's banner, its cards and table rows, the command line and the exit code read this one table; docs/verdicts.md
says what each verdict needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tone = Literal["good", "warn", "bad"]


@dataclass(frozen=True)
class Outcome:
    """`sentence` says what the verdict means; `tone` is the colour of everything that repeats it."""

    sentence: str
    tone: Tone
    exit_code: int


_OUTCOMES = {
    # of a deployment
    "PASS": Outcome("Signed off", "good", 0),
    "BIT-EXACT-ONLY": Outcome(
        "Only the cross-check was asked for: the device computes the integer model bit for bit; nothing is proved of "
        "its distance from the float model",
        "warn",
        0,
    ),
    "UNPROVED": Outcome("Not signed off: the device is bit-exact, but what is proved does not suffice", "warn", 1),
    "FAIL": Outcome("Not signed off: a check failed", "bad", 1),
    # of a certificate, and of a criterion
    "proved": Outcome("proved for every input of the regions", "good", 0),
    "unknown": Outcome("neither proved nor refuted, which counts as not proved", "warn", 1),
    "vacuous": Outcome("nothing follows but a bound that the outputs' ranges imply anyway", "warn", 1),
    "refuted": Outcome("an input is known that shows the opposite", "bad", 1),
}


def outcome(verdict: str) -> Outcome:
    """Of a deployment's, a certificate's or a criterion's verdict. KeyError for what is none."""
    return _OUTCOMES[verdict]


def same_class(status: str | None, verdict: str) -> tuple[str, Tone | None]:
    """(words, tone) of 'the same class in this region' under a verdict: a known difference of classes is in the colour
    of a failure only where the verdict is none to be glad of."""
    if status == "proved":
        return "proved", "good"
    if status == "refuted":
        return "differs on a known input", "warn" if outcome(verdict).exit_code == 0 else "bad"
    return ("not proved", "warn") if status == "unknown" else ("–", None)
