"""What the integer arithmetic can lose, in real units: rescaling, saturation, tables, the input's quantization.

Every interval of a step that some kernels leave out holds 0. Formulas: docs/semantics.md and docs/soundness.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import get_args

import numpy as np

from codesign.checker.forms import UNIT, Array, Box, Matrix, up
from codesign.checker.result import CannotCheck
from codesign.proof.requantization import requantization_bound
from codesign.proof.tables import table_errors, table_range
from codesign.quantization.integer import (
    IntActivation,
    IntDense,
    IntegerNetwork,
    Multiplier,
    Profile,
    QuantizedTensor,
)
from codesign.semantics import (
    activation_table,
    reciprocal_table,
    sigmoid_table,
    softmax16_parameters,
    softmax_parameters,
    tanh_table,
)

GATE_STEP, TABLE_STEP = 2.0**-12, 2.0**-15
GATE_LO, GATE_HI = -8.0, 8.0 - GATE_STEP
# Three Newton steps for the reciprocal of a softmax's sum, with their roundings: docs/soundness.md.
RECIPROCAL = 2.0**-24
FLOAT32 = 2.0**-24


def rescaling_error(multiplier: Multiplier) -> float:
    """|rescaled - exact product| in output steps; 1/2 at least, which a single rounding needs."""
    return max(requantization_bound(multiplier.m, multiplier.e), 0.5)


def acting(multiplier: Multiplier, network: IntegerNetwork) -> Multiplier:
    """What an accumulator is multiplied by: 16 bits of the multiplier where activations are int16."""
    if network.activations == "int8":
        return multiplier
    return Multiplier(multiplier.reduced << 16, multiplier.e)


def saturation(box: Box, lo: float, hi: float) -> Box:
    """clip(v, lo, hi) - v for v in the box; holds 0."""
    under, over = np.maximum(lo - box.lo, 0.0), np.minimum(hi - box.hi, 0.0)
    slack = up(2 * UNIT * box.mag)
    return Box(np.where(over < 0, over - slack, 0.0), np.where(under > 0, under + slack, 0.0))


def tensor_range(tensor: QuantizedTensor) -> tuple[float, float]:
    lo, hi = (tensor.scale * (q - tensor.zero_point) for q in (tensor.q_min, tensor.q_max))
    return lo - 2 * UNIT * abs(lo), hi + 2 * UNIT * abs(hi)


def lstm_table(function: str, cell_shift: int) -> tuple[float, float]:
    """Range of table - function over all int16 arguments of scale 2^cell_shift."""
    if function == "sigmoid":
        return table_range(sigmoid_table(), TABLE_STEP, "sigmoid", GATE_STEP, -32768)
    return table_range(tanh_table(cell_shift), TABLE_STEP, "tanh", 2.0**cell_shift, -32768)


@lru_cache(maxsize=64)
def activation_error(op: IntActivation) -> tuple[float, float]:
    """Range of the operator's output minus its function of the dequantized input, over all inputs and profiles."""
    first = op.input.q_min - op.input.zero_point
    lo, hi = np.inf, -np.inf
    for profile in get_args(Profile):
        table = activation_table(op, profile)
        if op.kind == "relu":
            x = op.input.scale * (np.arange(len(table)) + float(first))
            error = op.output.scale * (table.astype(np.float64) - op.output.zero_point) - np.maximum(x, 0.0)
            slack = 1e-13 * (1 + np.abs(x).max())
            ends = float(error.min()) - slack, float(error.max()) + slack
        elif op.kind in ("sigmoid", "tanh"):
            ends = table_range(table, op.output.scale, op.kind, op.input.scale, first, op.output.zero_point)  # type: ignore[arg-type]
        else:
            raise CannotCheck(f"operator '{op.name}' is no function of one value")
        lo, hi = min(lo, ends[0]), max(hi, ends[1])
    return lo, hi


def effective_dense(
    ops: Sequence[tuple[IntDense, IntegerNetwork]],
) -> tuple[Matrix, Array, Array, Array]:
    """Real weights (with slack), bias, its slack and rounding error of an output, over all profiles' multipliers."""
    op, network = ops[0]
    outputs = op.W.shape[0]
    scales = [
        np.broadcast_to([acting(m, net).real * o.output.scale for m in o.multipliers], (outputs,)) for o, net in ops
    ]
    spread = np.max([np.abs(s / scales[0] - 1.0) for s in scales], axis=0) * 1.001 + 8 * UNIT
    W = op.W * (scales[0] / op.input.scale)[:, None]
    b = op.b * scales[0]
    worst = [np.broadcast_to([rescaling_error(acting(m, net)) for m in o.multipliers], (outputs,)) for o, net in ops]
    noise = np.max(worst, axis=0) * op.output.scale
    return Matrix(W, up(np.abs(W) * spread[:, None])), b, up(np.abs(b) * spread), up(noise)


def input_difference(tensor: QuantizedTensor, x: Box, on_grid: np.ndarray) -> tuple[Box, Box, np.ndarray]:
    """(noise, gap, by_grid): quantized input - x is `noise`, or where `by_grid` is noise - x; `gap` holds it anyway.

    `on_grid` (B, 1): regions of dequantized inputs only, which the float network sees rounded to float32 at worst.
    """
    steps = x.mag / tensor.scale
    slack = (1 + steps) * 2.0**-23  # of the single-precision division, several times over
    q_lo = np.clip(np.ceil(x.lo / tensor.scale - 0.5 - slack) + tensor.zero_point, tensor.q_min, tensor.q_max)
    q_hi = np.clip(np.floor(x.hi / tensor.scale + 0.5 + slack) + tensor.zero_point, tensor.q_min, tensor.q_max)
    lo, hi = tensor.scale * (q_lo - tensor.zero_point), tensor.scale * (q_hi - tensor.zero_point)
    grid = Box(lo - 4 * UNIT * np.abs(lo), hi + 4 * UNIT * np.abs(hi))
    half = up(tensor.scale * (0.5 + 2.0**-22 * (1 + steps)))
    rounding = Box(-half, half)
    rounding = rounding + saturation(x + rounding, *tensor_range(tensor))
    gap = Box(grid.lo - x.hi, grid.hi - x.lo).widen(4 * UNIT * (grid.mag + x.mag))
    single = up(FLOAT32 * x.mag)
    rounding = Box(np.where(on_grid, -single, rounding.lo), np.where(on_grid, single, rounding.hi))
    by_grid = (grid.rad < rounding.rad) & ~on_grid
    return Box(np.where(by_grid, grid.lo, rounding.lo), np.where(by_grid, grid.hi, rounding.hi)), gap, by_grid


@lru_cache(maxsize=64)
def _exp_error(op: IntActivation, which: str) -> float:
    tables = {
        "exp_q0": lambda: (softmax_parameters(op).exp_q0, 2.0**-31),
        "exp_sum": lambda: (softmax_parameters(op).exp_sum, 2.0**-19),
        "exp_q15": lambda: (softmax16_parameters(op).exp_q15, TABLE_STEP),
    }
    table, unit = tables[which]()
    lo, hi = table_errors(table, unit, "exp", -op.beta * op.input.scale, 0)
    return float(np.maximum(-lo, hi).max()) + 1e-13


def softmax_error(op: IntActivation, probability: Box) -> Box:
    """Integer softmax - real softmax of the same logits, for real probabilities in the box; docs/soundness.md."""
    classes = op.output.shape[-1]
    if op.input.dtype == "int16":
        lost = _softmax16_error(op, probability)
        return Box(-lost, lost)
    arithmetic = _exp_error(op, "exp_q0") + (classes - 1) * _exp_error(op, "exp_sum") + RECIPROCAL + 2.0**-31
    half = 0.5 * op.output.scale + arithmetic
    top = 255.5 * op.output.scale - arithmetic
    lo = np.where(probability.hi >= top, -(op.output.scale + arithmetic), -half)
    return Box(lo, np.full_like(lo, half))


def _softmax16_error(op: IntActivation, probability: Box) -> Array:
    table, classes = _exp_error(op, "exp_q15"), op.output.shape[-1]
    x = np.arange(65536, dtype=np.float64) / 65536.0
    stored = reciprocal_table() * TABLE_STEP
    ends = (1.0 / (1.0 + x), 1.0 / (1.0 + (x + 2.0**-16)))
    reciprocal = max(float(np.abs(stored - end).max()) for end in ends) + 1e-13
    relative = 1.01 * classes * table + 2.02 * reciprocal + 2.0**-15
    return np.asarray(1.01 * table + probability.mag * relative + 2.0**-15 + 1e-9)
