"""The one family of errors that users see; the command line turns each into one sentence and an exit code."""

from __future__ import annotations


class CodesignError(Exception):
    """A check failed or a step could not be completed. The message is one sentence for the user."""

    exit_code = 1


class InputError(CodesignError):
    """Bad usage or bad input: says what is wrong and what to do instead."""

    exit_code = 2


class MissingToolError(CodesignError):
    """Something on this machine is missing: says what, and the command that installs it."""

    exit_code = 3
