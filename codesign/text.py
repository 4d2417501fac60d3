"""Numbers as text."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any


def upward(value: float, digits: int = 4) -> str:
    """`value` in `digits` significant digits, rounded up: a bound that is printed is still one."""
    return f"{float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(Decimal(value))):.{digits}g}"


def everything_proved(proof: Mapping[str, Any]) -> bool:
    """Whether every obligation that the bounds rest on was proved."""
    return bool(proof["mode"] != "none" and proof["proved"] == proof["checked"] == proof["obligations"])


def proved_sentence(proof: Mapping[str, Any]) -> str:
    """How many obligations were proved, and by what; what is missing to all of them."""
    total, checked, proved = (int(proof[key]) for key in ("obligations", "checked", "proved"))
    if everything_proved(proof):
        named = " and ".join(f"{int(count):,} by '{name}'" for name, count in (proof.get("provers") or {}).items())
        return f"all {total:,} proof obligations were proved{f', {named}' if named else ''}"
    if proved < checked:
        return f"{checked - proved:,} of {checked:,} proof obligations could not be proved"
    if not checked:
        return f"none of the {f'{total:,} ' if total else ''}proof obligations was proved; --prove all proves them"
    return f"only {checked:,} of {total:,} proof obligations were drawn and proved; --prove all proves all of them"


def second_sentence(proof: Mapping[str, Any]) -> str:
    """What dReal proved besides; '' where it was not asked."""
    second = proof.get("second")
    if not second:
        return ""
    if second["reason"]:
        return f"no second solver proved any besides: dReal cannot be run here ({second['reason']})"
    open_ = f" (of the others it said nothing: {second['undecided']:,})" if second["undecided"] else ""
    counts = f"{second['proved']:,} of {second['drawn']:,}"
    return f"a second solver on its own, dReal {second['version']}, proved {counts} drawn at random besides{open_}"
