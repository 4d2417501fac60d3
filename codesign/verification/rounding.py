"""What the integer network's fixed-point arithmetic can lose, as intervals in real (dequantized) units.

Every function covers all supported semantics profiles at once: an error interval that contains 0 also covers a profile
that skips the step. Formulas: docs/semantics.md (TFLM's MultiplyByQuantizedMultiplier and its rounding helpers).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.proof.requantization import requantization_bound
from codesign.proof.tables import table_errors, table_range
from codesign.quantization.integer import IntActivation, Multiplier, QuantizedTensor
from codesign.verification.affine import UNIT, Array, Box, up

GATE_STEP = 2.0**-12  # gate pre-activations are Q3.12
TABLE_STEP = 2.0**-15  # gate outputs are Q0.15
# Far above the few roundings that it stands for.
_FUNCTION_SLACK = 1e-13


def requantization_error(multiplier: Multiplier) -> float:
    """Largest |MBQM(v, M) - v * M.real| over all v, in output steps; at least 1/2.

    It covers one rounding to nearest of the exact product too: MBQM64, and kernels that round once.
    """
    return max(requantization_bound(multiplier.m, multiplier.e), 0.5)


def saturation_error(box: Box, lo: float | Array, hi: float | Array) -> Box:
    """Interval of clip(v, lo, hi) - v over v in `box`; contains 0."""
    under = np.maximum(lo - box.lo, 0.0)
    over = np.minimum(hi - box.hi, 0.0)
    slack = up(2 * UNIT * box.mag)
    return Box(np.where(over < 0, over - slack, 0.0), np.where(under > 0, under + slack, 0.0))


def tensor_range(tensor: QuantizedTensor) -> tuple[float, float]:
    """Smallest and largest real value of the tensor; exact up to one rounding, which is added outward."""
    low, high = (-128, 127) if tensor.dtype == "int8" else (-32768, 32767)
    lo = tensor.scale * (low - tensor.zero_point)
    hi = tensor.scale * (high - tensor.zero_point)
    return lo - abs(lo) * 2 * UNIT, hi + abs(hi) * 2 * UNIT


@lru_cache(maxsize=64)
def _error_range(kind: str, cell_shift: int) -> tuple[Array, Array]:
    """Per-entry lower and upper bound of table(x) - function(x), all 65,536 int16 arguments, in ball arithmetic."""
    from codesign.semantics import sigmoid_table, tanh_table

    if kind == "sigmoid":
        return table_errors(sigmoid_table(), TABLE_STEP, "sigmoid", GATE_STEP, -32768)
    return table_errors(tanh_table(cell_shift), TABLE_STEP, "tanh", 2.0**cell_shift, -32768)


@lru_cache(maxsize=64)
def table_error(kind: str, cell_shift: int = -12) -> tuple[float, float]:
    """Range of table - function over all int16 arguments, by enumeration in ball arithmetic, in real units.

    `kind` is 'sigmoid' (argument Q3.12) or 'tanh' (argument scale 2^cell_shift).
    """
    low, high = _error_range(kind, cell_shift)
    return float(low.min()), float(high.max())


# Newton's division in one_over_one_plus: starting within 1/17 of the reciprocal, three steps leave (1/17)^8 < 2^-32,
# and each step's two roundings at most 2^-30 x + 2^-28 <= 2^-27 relative; 2^-24 is several times their sum.
_RECIPROCAL_ERROR = 2.0**-24


def softmax_error(op: IntActivation, probability: Box) -> Box:
    """Interval of (dequantized integer softmax) - (real softmax of the same integer logits), elementwise.

    `probability` holds the real softmax. int8: the kernel rounds E(d_i) / sum_j E'(d_j), with tables E (Q0) and E'
    (Q12.19) that are enumerated here, to steps of 1/256, and cuts 256/256 to 255/256. int16: see `_softmax16_error`.
    """
    if op.input.dtype == "int16":
        error = _softmax16_error(op, probability)
        return Box(-error, error)
    lost = _softmax_arithmetic_error(op)
    step = op.output.scale
    half = 0.5 * step + lost
    top = 255.5 * step - lost
    lo = np.where(probability.hi >= top, -(step + lost), -half)
    return Box(lo, np.full_like(lo, half))


def _softmax16_error(op: IntActivation, probability: Box) -> Array:
    """int16 softmax in Q0.15: p = E(d_i) r(S), S = sum_j E(d_j), E and r tables of 65,536 entries, enumerated here.

    With e the largest error of E (E(0) >= 0.999, so S >= 0.999): E / S is off by e / S + p (M e) / S; the mantissa of
    S is rounded to 2^-17 of it and may be cut by one step more, the table r to its own error (r >= 1/2: twice that
    relatively); the result is rounded to 2^-15, and 1 is cut to 1 - 2^-15.
    """
    table, reciprocal = _softmax16_tables(op)
    classes = op.output.shape[-1]
    relative = 1.01 * classes * table + 2.02 * reciprocal + 2.0**-15
    return np.asarray(1.01 * table + probability.mag * relative + 2.0**-15 + 1e-9)


@lru_cache(maxsize=64)
def _softmax16_tables(op: IntActivation) -> tuple[float, float]:
    """Largest error of the table of exponentials and of the table of reciprocals 1 / (1 + x)."""
    from codesign.semantics import reciprocal_table, softmax16_parameters

    d = np.arange(65536, dtype=np.float64)
    error = _exp_error(softmax16_parameters(op).exp_q15, TABLE_STEP, op)
    # entry v stands for x between v / 2^16 and (v + 1) / 2^16: mantissas from 2^16 (1 + x), cut at the last entry
    ends = [1.0 / (1.0 + (d + shift) / 65536.0) for shift in (0.0, 1.0)]
    table = reciprocal_table() * TABLE_STEP
    reciprocal = max(float(np.abs(table - end).max()) for end in ends) + _FUNCTION_SLACK
    return error, reciprocal


def _exp_error(table: npt.NDArray[np.signedinteger[Any]], unit: float, op: IntActivation) -> float:
    """Largest |unit table[d] - exp(-beta scale d)|, entry by entry in ball arithmetic."""
    lo, hi = table_range(table, unit, "exp", -op.beta * op.input.scale, 0)
    return max(-lo, hi) + _FUNCTION_SLACK  # the product beta scale is rounded once


@lru_cache(maxsize=64)
def _softmax_arithmetic_error(op: IntActivation) -> float:
    from codesign.semantics import softmax_parameters

    parameters = softmax_parameters(op)
    error = _exp_error(parameters.exp_q0, 2.0**-31, op)
    in_sum = _exp_error(parameters.exp_sum, 2.0**-19, op)
    classes = op.output.shape[-1]
    return error + (classes - 1) * in_sum + _RECIPROCAL_ERROR + 2.0**-31
