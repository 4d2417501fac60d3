"""The model of float32 programs that certificates rest on, and what the device's dequantisation rounds.

A program is within the model if it evaluates the network in IEEE float32, rounding to nearest, and: adds the products
of a dot product in any order, each product and each sum rounded once or fused; has sigmoid and tanh within `sigmoid`
and `tanh` units of 2^-24 absolutely, and exp(x), x <= 0, within `exp` + |x| units relatively; may flush subnormal
numbers to zero. TF32, bfloat16 and float16 are not float32. docs/soundness.md says what was measured
(`tools/measure_float32.py`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.quantization.integer import QuantizedTensor

Array = npt.NDArray[np.float64]
UNIT = 2.0**-24
SIGMOID, TANH, EXP = 8, 16, 8  # units of 2^-24
FLUSHED = 2.0**-126  # a result below this may be lost
LARGEST = 2.0**120  # sums of magnitudes up to here do not overflow

MODEL: dict[str, Any] = {
    "unit_roundoff": UNIT,
    "sigmoid": SIGMOID,
    "tanh": TANH,
    "exp": EXP,
    "flushed_below": FLUSHED,
    "statement": (
        "float32, rounded to nearest; dot products in any order, fused or not; sigmoid and tanh within that many units "
        "of 2^-24, exp(x) for x <= 0 within that many and |x| units relatively; subnormal numbers may be flushed; no "
        "TF32, bfloat16 or float16"
    ),
}


def total_bound(bound: npt.ArrayLike, *parts: npt.ArrayLike) -> Array:
    """A bound over the reals and float32 budgets together, rounded up."""
    total = np.asarray(bound, dtype=np.float64)
    for part in parts:
        total = total + np.asarray(part)
    return np.asarray(total * (1 + 2.0**-50))


def region_total(region: dict[str, Any]) -> Array:
    """Of a certificate's region: its bound with both budgets."""
    budget = region["float32"]
    return total_bound(region["bound"], budget["evaluation"], budget["dequantization"])


def region_ends(region: dict[str, Any]) -> tuple[Array, Array, Array, Array]:
    """Of a certificate's region: ranges of the float32 outputs, and of the device's float32 ones minus these, each end
    as (outputs,)."""
    keys = "float_lo", "float_hi", "difference_lo", "difference_hi"
    lo, hi, down, rise = (np.asarray(region[key], dtype=np.float64) for key in keys)
    evaluation = np.asarray(region["float32"]["evaluation"], dtype=np.float64)
    both = total_bound(evaluation, region["float32"]["dequantization"])
    return lo - evaluation, hi + evaluation, down - both, rise + both


def softmax_rounding(outputs: int) -> float:
    """What a float32 softmax of so many outputs can be off by, given its float32 logits.

    Its terms t_j = exp(v_j), v_j = l_j - max l <= 0, are off by EXP + 2 |v_j| units relatively (|v_j| by the
    difference's own rounding); sum_j p_j |v_j| <= log M, p_i |v_i| <= 1 / e, and the sum and the quotient round.
    """
    return UNIT * (2 * EXP + outputs + 2 * math.log(outputs) + 8) * 1.01 + outputs * FLUSHED


def dequantization_error(output: QuantizedTensor) -> float:
    """Largest |float32(scale * (q - zero_point)) - scale * (q - zero_point)|, all values of the type enumerated.

    Exact: the product of a 24-bit scale and an integer of at most 17 bits is a binary64 number, and so is what float32
    rounding loses of it.
    """
    q = np.arange(output.q_min, output.q_max + 1, dtype=np.int64) - output.zero_point
    exact = output.scale * q.astype(np.float64)
    single = np.float32(output.scale) * q.astype(np.float32)
    return float(np.abs(single.astype(np.float64) - exact).max())
