"""Proof obligations: statements about one nonlinear function on one box, over the reals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from codesign.errors import InputError

Kind = Literal[
    "sigmoid",
    "tanh",
    "exp",
    "sigmoid_diff",
    "tanh_diff",
    "product",
    "square_difference",
    "sigmoid_square",
    "tanh_square",
    "sigmoid_patch",
    "tanh_patch",
    "gate_slopes",
    "forget_slopes",
]

VARIABLES: Mapping[str, tuple[str, ...]] = {
    "sigmoid": ("z",),
    "tanh": ("z",),
    "exp": ("z",),
    "sigmoid_diff": ("z", "d"),
    "tanh_diff": ("z", "d"),
    "product": ("x", "y"),
    "square_difference": ("p", "q"),
    "sigmoid_square": ("z", "p"),
    "tanh_square": ("z", "p"),
    "sigmoid_patch": ("z", "d", "g"),
    "tanh_patch": ("z", "d", "g"),
    "gate_slopes": ("s", "t", "p", "q"),
    "forget_slopes": ("s", "t", "p", "q"),
}
_MAGNITUDE = 1e9
_EXP_LIMIT = 700.0


@dataclass(frozen=True)
class Obligation:
    """For all v in `box`: lo <= F(v) - sum_i slopes_i v_i <= hi, over the reals.

    Every float is the binary64 number that it is, exactly. F by `kind`:

        sigmoid       F(z) = 1 / (1 + exp(-z))
        tanh          F(z) = tanh(z)
        exp           F(z) = exp(z)
        sigmoid_diff  F(z, d) = sigmoid(z + d) - sigmoid(z)
        tanh_diff     F(z, d) = tanh(z + d) - tanh(z)
        product       F(x, y) = x y
        square_difference  F(p, q) = (p^2 - q^2) / 4, the product of (p + q) / 2 and (p - q) / 2
        sigmoid_square     F(z, p) = sigmoid(z) - p z^2
        tanh_square        F(z, p) = tanh(z) - p z^2
        sigmoid_patch      F(z, d, g) = sigmoid(z + d) - sigmoid(z) - g z d
        tanh_patch         F(z, d, g) = tanh(z + d) - tanh(z) - g z d
        gate_slopes        F(s, t, p, q) = p s (1 - s) t + q s (1 - t^2)
        forget_slopes      F(s, t, p, q) = p s + q s (1 - s) t

    `box` holds one (lower, upper) pair a variable, `slopes` one number a variable. `tag` is the emitter's
    name for the place the statement is needed; it has no meaning here.

    Raises InputError for an unknown kind, wrong lengths, a reversed box, NaN or infinity anywhere, magnitudes
    over 1e9 and exp beyond 700. (lo > hi is allowed: such an obligation is false.)
    """

    kind: Kind
    box: tuple[tuple[float, float], ...]
    slopes: tuple[float, ...]
    lo: float
    hi: float
    tag: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"unknown obligation kind {self.kind!r}; known are {', '.join(get_args(Kind))}")
        count = len(VARIABLES[self.kind])
        if len(self.box) != count or len(self.slopes) != count:
            raise InputError(f"a {self.kind} obligation takes {count} box sides and {count} slopes")
        numbers = [*(end for side in self.box for end in side), *self.slopes, self.lo, self.hi]
        limit = math.inf if self.kind == "exp" else _MAGNITUDE
        if not all(math.isfinite(number) and abs(number) <= limit for number in numbers):
            raise InputError(f"the obligation {self.tag!r} has a number that is not finite or is over 1e9")
        if any(lower > upper for lower, upper in self.box):
            raise InputError(f"the obligation {self.tag!r} has a box side with its ends reversed")
        if self.kind == "exp" and max(abs(end) for end in self.box[0]) > _EXP_LIMIT:
            raise InputError(f"the obligation {self.tag!r} takes exp beyond {_EXP_LIMIT:g}")

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the variables, in the order of `box`."""
        return VARIABLES[self.kind]

    def to_json(self) -> dict[str, Any]:
        """A JSON object; floats survive Python's json module exactly (shortest round-trip decimals)."""
        return {
            "kind": self.kind,
            "box": [list(side) for side in self.box],
            "slopes": list(self.slopes),
            "lo": self.lo,
            "hi": self.hi,
            "tag": self.tag,
        }

    @classmethod
    def from_json(cls, data: object) -> Obligation:
        """The inverse of `to_json`. InputError for anything that is not such an object."""
        if not isinstance(data, dict) or set(data) != {"kind", "box", "slopes", "lo", "hi", "tag"}:
            raise InputError("an obligation is a JSON object with kind, box, slopes, lo, hi, tag")
        try:
            box = tuple((_number(side[0]), _number(side[1])) for side in data["box"] if _is_pair(side))
            slopes = tuple(_number(slope) for slope in data["slopes"])
            lo, hi = _number(data["lo"]), _number(data["hi"])
        except (TypeError, IndexError) as error:
            raise InputError("an obligation's box is a list of number pairs, its slopes a list of numbers") from error
        if not isinstance(data["tag"], str) or not isinstance(data["kind"], str):
            raise InputError("an obligation's kind and tag are strings")
        return cls(data["kind"], box, slopes, lo, hi, data["tag"])  # type: ignore[arg-type]


def _is_pair(side: object) -> bool:
    if not isinstance(side, list | tuple) or len(side) != 2:
        raise TypeError
    return True


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def from_planes(
    kind: Kind,
    lower: Iterable[Iterable[float]],
    upper: Iterable[Iterable[float]],
    slopes: Iterable[Iterable[float]],
    lo: Iterable[float],
    hi: Iterable[float],
    tags: Iterable[str],
) -> list[Obligation]:
    """Obligations from arrays: `lower`, `upper`, `slopes` of shape (N, variables); `lo`, `hi` (N,); N tags."""
    result = []
    for low, high, slope, a, b, tag in zip(lower, upper, slopes, lo, hi, tags, strict=True):
        box = tuple((float(p), float(q)) for p, q in zip(low, high, strict=True))
        result.append(Obligation(kind, box, tuple(map(float, slope)), float(a), float(b), tag))
    return result
