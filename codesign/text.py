"""Numbers and names as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any

_NAMED = 5  # how many samples or regions a sentence names


def some(names: Sequence[object], what: str) -> str:
    named = ", ".join(str(n) for n in names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'} ({named})"


def percent(share: float) -> str:
    """A share in per cent, rounded down: 99.99 % is not told as all."""
    return f"{math.floor(1000 * share + 1e-9) / 10:.1f} %"


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


def domain_words(domain: Mapping[str, Any]) -> str:
    """A certificate's 'domain' in words; ends are rounded inward, so that nothing outside is told as inside."""
    ranges = [
        f"[{upward(lo, 6)}, {-float(upward(-hi, 6)):.6g}]" for lo, hi in zip(domain["lo"], domain["hi"], strict=True)
    ]
    if len(set(ranges)) == 1:
        return f"{ranges[0]} for every feature"
    return " x ".join(ranges) if len(ranges) <= 4 else "the features' ranges in certificate.json"
