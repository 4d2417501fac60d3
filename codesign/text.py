"""Numbers as text."""

from __future__ import annotations

from decimal import ROUND_CEILING, Context, Decimal


def upward(value: float, digits: int = 4) -> str:
    """`value` in `digits` significant digits, rounded up: a bound that is printed is still one."""
    return f"{float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(Decimal(value))):.{digits}g}"
