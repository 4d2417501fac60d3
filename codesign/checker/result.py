"""What a check can end with, short of 'valid'."""

from __future__ import annotations


class Invalid(Exception):
    """Something that the certificate states is wrong or does not follow. The message names the first such item."""


class CannotCheck(Exception):
    """The certificate may be right, but rests on something that this checker does not derive."""
