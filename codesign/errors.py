"""The one family of errors that users see, and the exit codes of the command line.

0    signed off, or everything asked for is proved
1    a check failed, or a criterion is not proved
2    bad usage or bad input
3    something on this machine is missing, or is used up (disk, memory)
4    soundness alarm: something was observed that exceeds what was about to be told as proved
5    internal error: a bug in codesign; it says nothing about the models
130  interrupted (Ctrl-C)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

INTERNAL_ERROR = 5
INTERRUPTED = 130


class CodesignError(Exception):
    """A check failed or a step could not be completed. The message is one sentence for the user."""

    exit_code = 1


class InputError(CodesignError):
    """Bad usage or bad input: says what is wrong and what to do instead."""

    exit_code = 2


class MissingToolError(CodesignError):
    """Something on this machine is missing: says what, and the command that installs it."""

    exit_code = 3


class SoundnessAlarm(Exception):  # noqa: N818 - the term of the field, and of the documentation
    """An exact evaluation exceeds a bound that was derived as proved: the bound is wrong, and so may others be.

    Nothing that was derived with it is written. It is no CodesignError: what goes on after one of those, with another
    method or with the next input, does not go on after this. `evidence` is what shows it: inputs, bounds, outputs.
    """

    exit_code = 4

    def __init__(self, message: str, evidence: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, dict(evidence or {}))  # both are arguments: it crosses process boundaries whole

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def evidence(self) -> dict[str, Any]:
        return dict(self.args[1])
