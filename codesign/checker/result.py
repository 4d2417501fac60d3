"""What a check can end with, short of 'valid'."""

from __future__ import annotations


class Invalid(Exception):  # noqa: N818
    """Something that the certificate states is wrong or does not follow. The message names the first such item."""


class CannotCheck(Exception):  # noqa: N818
    """The certificate may be right, but rests on something that this checker does not derive."""


def demand(condition: bool, item: str) -> None:
    """Invalid, naming the item, unless the condition holds."""
    if not condition:
        raise Invalid(item)


def same(what: str, stated: object, found: object) -> None:
    """Invalid unless what is stated is what was found."""
    demand(stated == found, f"{what}: {str(stated)[:80]} is stated, but it is {str(found)[:80]}")
