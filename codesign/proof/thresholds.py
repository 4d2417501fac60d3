"""Thresholds on outputs: what is asked, as a certificate writes it, and when outputs at one input show a failure.

An output v is on the upper side of T where v >= T, else on the lower side. For the integer network v is the dequantized
output, the real number scale * (q - zero_point).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError

Array = npt.NDArray[np.float64]
CLEAR = 1e-9  # float outputs this far apart are so whatever float64 rounding does
_RECIPE = "give a number such as 0.5, or OUTPUT:NUMBER such as 2:0.5"


@dataclass(frozen=True)
class Threshold:
    """Every output, or output `output` of each row (counted from 0), is to be on the same side of `value`."""

    value: float
    output: int | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or (self.output is not None and self.output < 0):
            raise InputError(f"the threshold {self} cannot be; {_RECIPE}")

    def __str__(self) -> str:
        return f"{self.value!r}" if self.output is None else f"{self.output}:{self.value!r}"

    @staticmethod
    def of(wanted: Threshold | float | str) -> Threshold:
        """From a number, or from the text of --threshold: 'T' or 'OUTPUT:T'. InputError for others."""
        if isinstance(wanted, Threshold):
            return wanted
        output, _, number = wanted.rpartition(":") if isinstance(wanted, str) else ("", "", wanted)
        try:
            return Threshold(float(number), int(output) if output else None)
        except (ValueError, OverflowError, TypeError):
            raise InputError(f"'{str(wanted)[:40]}' is no threshold; {_RECIPE}") from None

    def to_json(self) -> dict[str, float | int | None]:
        return {"value": self.value, "output": self.output}


def chosen(asked: dict[str, Any], values: npt.ArrayLike, width: int) -> Array:
    """Of flattened outputs (..., rows * width), those that a threshold is about."""
    found = np.asarray(values, dtype=np.float64)
    return found if asked["output"] is None else found[..., asked["output"] :: width]


def opposite(asked: dict[str, Any], real: Array, device: Array) -> npt.NDArray[np.bool_]:
    """Whether outputs (..., M) of both networks are on opposite sides of a threshold, (..., K).

    Of float outputs within `CLEAR` of it nothing is said: a float evaluation could be on either side.
    """
    width, value = real.shape[-1], asked["value"]
    v, d = chosen(asked, real, width), chosen(asked, device, width)
    return np.asarray((np.abs(v - value) > CLEAR) & ((v >= value) != (d >= value)))
