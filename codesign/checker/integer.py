"""What the integer arithmetic multiplies by and can lose, in real units: rescaling and the input's quantization.

Every interval of a step that some kernels leave out holds 0. Formulas: docs/semantics.md and docs/soundness.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codesign.proof.forms import UNIT, Array, Box, Flags, Matrix, up
from codesign.proof.requantization import requantization_bound
from codesign.quantization.integer import Int8Array, IntegerNetwork, Multiplier, QuantizedTensor

GATE_STEP = 2.0**-12
GATE_LO, GATE_HI = -8.0, 8.0 - GATE_STEP
FLOAT32 = 2.0**-24


def acting(multiplier: Multiplier, network: IntegerNetwork) -> Multiplier:
    """What an accumulator is multiplied by: 16 bits of the multiplier where activations are int16."""
    return multiplier if network.activations == "int8" else Multiplier(multiplier.reduced << 16, multiplier.e)


def rescaling_error(multiplier: Multiplier) -> float:
    """|rescaled - exact product| in output steps; 1/2 at least, which a single rounding needs."""
    return max(requantization_bound(multiplier.m, multiplier.e), 0.5)


def effective(
    weights: Int8Array, input_scale: float, profiles: Sequence[Sequence[Multiplier]], step: float
) -> tuple[Matrix, Array, Array, Array]:
    """What integer weights (M, N) amount to: (real weights, scale of a bias, its relative slack, rounding), each (M,).

    `profiles`: multipliers of the accumulators under each semantics profile, one or M; `step`: their result's unit.
    """
    shape = (len(weights),)
    scales = [np.broadcast_to([m.real * step for m in multipliers], shape) for multipliers in profiles]
    slack = np.max([np.abs(s / scales[0] - 1.0) for s in scales], axis=0) * 1.001 + 8 * UNIT
    lost = np.max([np.broadcast_to([rescaling_error(m) for m in ms], shape) for ms in profiles], axis=0)
    real = weights * (scales[0] / input_scale)[:, None]
    return Matrix(real, up(np.abs(real) * slack[:, None])), np.asarray(scales[0]), slack, up(lost * step)


def tensor_range(tensor: QuantizedTensor) -> tuple[float, float]:
    """Its smallest and largest real value, rounded outward."""
    lo, hi = (tensor.scale * (q - tensor.zero_point) for q in (tensor.q_min, tensor.q_max))
    return lo - 2 * UNIT * abs(lo), hi + 2 * UNIT * abs(hi)


def input_difference(tensor: QuantizedTensor, x: Box, on_grid: Flags) -> tuple[Box, Box, Flags]:
    """(noise, gap, by_grid): quantized input - x is `noise`, or where `by_grid` it is noise - x; `gap` holds it anyway.

    `on_grid` (B, 1): regions of dequantized inputs only, which the float network sees rounded to float32 at worst.
    """
    steps, zero = x.mag / tensor.scale, tensor.zero_point
    slack = (1 + steps) * 2.0**-23  # of the single-precision division, several times over
    q_lo = np.clip(np.ceil(x.lo / tensor.scale - 0.5 - slack) + zero, tensor.q_min, tensor.q_max)
    q_hi = np.clip(np.floor(x.hi / tensor.scale + 0.5 + slack) + zero, tensor.q_min, tensor.q_max)
    lo, hi = tensor.scale * (q_lo - zero), tensor.scale * (q_hi - zero)
    grid = Box(lo - 4 * UNIT * np.abs(lo), hi + 4 * UNIT * np.abs(hi))
    half = up(tensor.scale * (0.5 + 2.0**-22 * (1 + steps)))
    rounding = Box(-half, half) + (x + Box(-half, half)).saturation(*tensor_range(tensor))
    gap = Box(grid.lo - x.hi, grid.hi - x.lo).widen(4 * UNIT * (grid.mag + x.mag))
    # Clipping to the tensor's range moves no value away from one inside it.
    near = up(half + x.saturation(*tensor_range(tensor)).mag)
    gap = gap.meet(Box(-near, near))
    single = up(FLOAT32 * x.mag)
    rounding = Box(np.where(on_grid, -single, rounding.lo), np.where(on_grid, single, rounding.hi))
    by_grid = (grid.rad < rounding.rad) & ~on_grid
    return Box(np.where(by_grid, grid.lo, rounding.lo), np.where(by_grid, grid.hi, rounding.hi)), gap, by_grid
