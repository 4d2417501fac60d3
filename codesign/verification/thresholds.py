"""Proves that both networks' outputs are on one side of a threshold, and how wide the band is where they may not be.

With y the float output and y + d the integer one, y in [lo, hi] and d in [down, rise]: the integer output can be below
the threshold T with y >= T only for y in [max(lo, T), min(hi, T - down)), and above it with y < T only for y in
[max(lo, T - rise), min(hi, T)). Where both are empty, the sides agree for every input of the region.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from codesign.proof.thresholds import CLEAR, Threshold, chosen
from codesign.verification.affine import Array, Box, up

ROOM = 1e-12  # relative, of every comparison: a checker may round otherwise


class Sides(NamedTuple):
    """Of some outputs, each (K,): whether the sides agree, and half the width of the band around the threshold outside
    of which they do."""

    agree: npt.NDArray[np.bool_]
    hysteresis: Array


@dataclass(frozen=True)
class ThresholdResult:
    """One threshold over a region: `hysteresis` is half the width of the band of float outputs around it, outside of
    which the sides agree for every input of the region; 0 where they agree everywhere."""

    threshold: Threshold
    proved: bool
    hysteresis: float

    def to_json(self, status: str) -> dict[str, Any]:
        return {**self.threshold.to_json(), "status": status, "hysteresis": self.hysteresis}


def sides(value: float, real: Box, difference: Box) -> Sides:
    """Of outputs (K,) whose float values and differences lie in the boxes."""
    room = ROOM * (1.0 + abs(value) + real.mag + difference.mag)
    above, below = np.maximum(real.lo, value), np.minimum(real.hi, value)
    falls = (real.hi >= value) & (above + difference.lo < value + room)
    rises = (real.lo < value) & (below + difference.hi > value - room)
    down = np.where(falls, np.minimum(room - difference.lo, real.hi - value), 0.0)
    high = np.where(rises, np.minimum(room + difference.hi, value - real.lo), 0.0)
    return Sides(~(falls | rises), np.maximum(up(np.maximum(down, high) + room) * (falls | rises), 0.0))


def judge(threshold: Threshold, real: Box, difference: Box, width: int) -> ThresholdResult:
    """Over one region: `real`, `difference` are boxes of all outputs (rows * width,), as a certificate states them."""
    asked = threshold.to_json()
    parts = (Box(*(chosen(asked, end, width) for end in (box.lo, box.hi))) for box in (real, difference))
    found = sides(threshold.value, *parts)
    return ThresholdResult(threshold, bool(found.agree.all()), float(found.hysteresis.max()))


def covered(threshold: Threshold, outputs: Array, difference: Box, width: int, error: Array) -> npt.NDArray[np.bool_]:
    """Of inputs with float outputs (N, rows * width): whether the integer network's are on the same side, (N,).

    `error`: of a float32 evaluation; `difference` is of the integer network from one.
    """
    slack = CLEAR * (1.0 + np.abs(outputs)) + error
    asked = threshold.to_json()
    real = Box(chosen(asked, outputs - slack, width), chosen(asked, outputs + slack, width))
    moved = Box(*(np.broadcast_to(chosen(asked, end, width), real.lo.shape) for end in (difference.lo, difference.hi)))
    return np.asarray(sides(threshold.value, real, moved).agree.all(1))
