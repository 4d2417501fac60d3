"""What the integer arithmetic multiplies by and can lose, in real units (docs/semantics.md, docs/soundness.md)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codesign.checker.forms import UNIT, Array, Box, up
from codesign.proof.requantization import requantization_bound
from codesign.quantization.integer import Int8Array, Multiplier, QuantizedTensor

GATE_STEP = 2.0**-12
GATE_LO, GATE_HI = -8.0, 8.0 - GATE_STEP


def rescaling_error(multiplier: Multiplier) -> float:
    """|rescaled - exact product| in output steps; 1/2 at least, which a single rounding needs."""
    return max(requantization_bound(multiplier.m, multiplier.e), 0.5)


def effective(
    weights: Int8Array, input_scale: float, profiles: Sequence[Sequence[Multiplier]], step: float
) -> tuple[Box, Array, Array, Array]:
    """What integer weights (M, N) amount to: (real weights, scale of a bias, its relative slack, rounding), each (M,).

    `profiles`: multipliers of the accumulators under each semantics profile, one or M; `step`: their result's unit.
    """
    shape = (len(weights),)
    scales = [np.broadcast_to([m.real * step for m in multipliers], shape) for multipliers in profiles]
    slack = np.max([np.abs(s / scales[0] - 1.0) for s in scales], axis=0) * 1.001 + 8 * UNIT
    lost = np.max([np.broadcast_to([rescaling_error(m) for m in ms], shape) for ms in profiles], axis=0)
    real = weights * (scales[0] / input_scale)[:, None]
    return Box.around(real, np.abs(real) * slack[:, None]), np.asarray(scales[0]), slack, up(lost * step)


def tensor_range(tensor: QuantizedTensor) -> tuple[float, float]:
    """Its smallest and largest real value, rounded outward."""
    lo, hi = (tensor.scale * (q - tensor.zero_point) for q in (tensor.q_min, tensor.q_max))
    return lo - 2 * UNIT * abs(lo), hi + 2 * UNIT * abs(hi)
