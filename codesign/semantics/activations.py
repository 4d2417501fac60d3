"""SOFTMAX, LOGISTIC, TANH and RELU on int8, as TFLM's reference kernels compute them (int16: activations16.py).

The elementwise ones are functions of one int8, so tables of 256. Softmax is a table of exponentials over the difference
to the row's maximum, a sum, and a reciprocal. Formulas: gemmlowp's fixedpoint.h (exp_on_negative_values,
one_over_one_plus_x_for_x_in_0_1, logistic, tanh) and TFLite's softmax.h, integer_ops/logistic.h and tanh.h.
Fixed-point values are raw int32 held in int64; Qn means n integer bits and 31 - n fractional ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from codesign.quantization.integer import ActivationArray, IntActivation, Multiplier, Profile
from codesign.quantization.multipliers import quantize_multiplier
from codesign.semantics.activations16 import softmax16, table16
from codesign.semantics.primitives import INT32_MAX, INT32_MIN, Int64Array, mbqm, rdbp, srdhm

SOFTMAX_INTEGER_BITS = 5
SUM_INTEGER_BITS = 12
_Q4 = 4

# exp(-2^k) in Q0, for k = -2..4, and the constants of the polynomial and of Newton's division.
_EXP_POWERS = (
    (-2, 1672461947),
    (-1, 1302514674),
    (0, 790015084),
    (1, 290630308),
    (2, 39332535),
    (3, 720401),
    (4, 242),
)
_EXP_MINUS_EIGHTH, _THIRD = 1895147668, 715827883
_48_OVER_17, _MINUS_32_OVER_17 = 1515870810, -1010580540  # Q2


def _saturate(v: Int64Array) -> Int64Array:
    return np.clip(v, INT32_MIN, INT32_MAX)


def exp_on_negative_values(a: npt.NDArray[np.int64], integer_bits: int) -> Int64Array:
    """exp(a) for a <= 0 in Q(integer_bits), integer_bits <= 5; result in Q0 (exp(0) gives 2^31 - 1)."""
    fractional_bits = 31 - integer_bits
    quarter = 1 << (fractional_bits - 2)
    a = np.asarray(a, np.int64)
    reduced = (a & (quarter - 1)) - quarter  # in [-1/4, 0)
    x = (reduced << integer_bits) + (1 << 28)  # Q0, about -1/8
    x2 = srdhm(x, x)
    x3, x4 = srdhm(x2, x), srdhm(x2, x2)
    tail = rdbp(srdhm(rdbp(x4, 2) + x3, _THIRD) + x2, 1)
    result = _EXP_MINUS_EIGHTH + srdhm(_EXP_MINUS_EIGHTH, x + tail)
    remainder = reduced - a
    for power, factor in _EXP_POWERS:
        if integer_bits > power:
            bit = remainder >> (fractional_bits + power) & 1
            result = np.where(bit == 1, srdhm(result, factor), result)
    return np.where(a == 0, INT32_MAX, result)


def _two_over_one_plus(a: Int64Array) -> Int64Array:
    """2 / (1 + a) for a in [0, 1], a in Q0, result in Q2, by three Newton steps."""
    half_denominator = (a + INT32_MAX + 1) >> 1  # RoundingHalfSum of non-negative numbers
    x = _48_OVER_17 + srdhm(half_denominator, _MINUS_32_OVER_17)
    for _ in range(3):
        error = (1 << 29) - srdhm(half_denominator, x)
        x = x + _saturate(srdhm(x, error) << 2)
    return x


def one_over_one_plus(a: Int64Array) -> Int64Array:
    """1 / (1 + a) for a in [0, 1], both in Q0."""
    return _saturate(_two_over_one_plus(a) << 1)


def one_minus_over_one_plus(a: Int64Array) -> Int64Array:
    """(1 - a) / (1 + a) for a in [0, 1], both in Q0."""
    return _saturate((_two_over_one_plus(a) - (1 << 29)) << 2)


def _logistic_q4(a: Int64Array) -> Int64Array:
    positive = one_over_one_plus(exp_on_negative_values(-np.abs(a), _Q4))
    return np.where(a == 0, 1 << 30, np.where(a > 0, positive, INT32_MAX - positive))


def _tanh_q4(a: Int64Array) -> Int64Array:
    # exp(2 a): the raw value read with one more integer bit
    magnitude = one_minus_over_one_plus(exp_on_negative_values(-np.abs(a), _Q4 + 1))
    return np.where(a == 0, 0, np.where(a > 0, magnitude, -magnitude))


def _input_radius(integer_bits: int, left_shift: int) -> int:
    return math.floor(((1 << integer_bits) - 1) * 2.0 ** (31 - integer_bits) / 2.0**left_shift)


@lru_cache(maxsize=256)
def activation_table(op: IntActivation, profile: Profile = "tflm-double") -> ActivationArray:
    """A LOGISTIC, TANH or RELU as a whole: int8[256] indexed by q + 128, or int16[65536] indexed by q + 32768.

    Read-only. The profile changes RELU alone. ValueError for softmax.
    """
    q = np.arange(op.input.q_min, op.input.q_max + 1, dtype=np.int64) - op.input.zero_point
    if op.kind == "relu":
        out = mbqm(q, relu_multiplier(op, profile)) + op.output.zero_point
        values = np.clip(out, op.output.zero_point, op.output.q_max)
    elif op.input.dtype == "int16" and op.kind != "softmax":
        values = table16(op)
    elif op.kind in ("sigmoid", "tanh"):
        multiplier = quantize_multiplier(op.input.scale * 2.0 ** (31 - _Q4))
        radius = _input_radius(_Q4, multiplier.e)
        inside = np.abs(q) < radius
        scaled = mbqm(np.where(inside, q, 0), multiplier)
        out = rdbp(_logistic_q4(scaled), 23) - 128 if op.kind == "sigmoid" else rdbp(_tanh_q4(scaled), 24)
        values = np.where(inside, np.clip(out, -128, 127), np.where(q < 0, -128, 127))
    else:
        raise ValueError(f"{op.kind} is not a function of one value")
    table: ActivationArray = values.astype(op.output.dtype)
    table.setflags(write=False)
    return table


def relu_multiplier(op: IntActivation, profile: Profile = "tflm-double") -> Multiplier:
    """The RELU kernel's rescaling from input to output scale.

    The ratio is taken in double by the host TFLM interpreter ('...-double'; a test tells the two apart), in float32 by
    TFLM's sources of August 2026 ('...-float').
    """
    if profile.endswith("-float"):
        return quantize_multiplier(float(np.float32(op.input.scale) / np.float32(op.output.scale)))
    return quantize_multiplier(op.input.scale / op.output.scale)


@dataclass(frozen=True, eq=False)
class SoftmaxParameters:
    """What an int8 softmax needs: exponentials by the difference d = max - q >= 0, d = 0..255.

    `exp_q0`: int32 exp(-beta * scale * d) in Q0; 0 where the kernel leaves the term out (d > cutoff). `exp_sum`: the
    same in Q12.19, as it enters the sum. `multiplier` rescales differences to Q5.26.
    """

    multiplier: Multiplier
    cutoff: int
    exp_q0: npt.NDArray[np.int32]
    exp_sum: npt.NDArray[np.int32]


@lru_cache(maxsize=256)
def softmax_parameters(op: IntActivation) -> SoftmaxParameters:
    """The parameters and tables of SOFTMAX `op`."""
    real = op.beta * op.input.scale * 2.0 ** (31 - SOFTMAX_INTEGER_BITS)
    multiplier = quantize_multiplier(min(real, INT32_MAX * 1.0))
    cutoff = min(_input_radius(SOFTMAX_INTEGER_BITS, multiplier.e), 255)
    d = np.arange(256, dtype=np.int64)
    kept = d <= cutoff
    exp = exp_on_negative_values(mbqm(np.where(kept, -d, 0), multiplier), SOFTMAX_INTEGER_BITS)
    exp_q0 = np.where(kept, exp, 0).astype(np.int32)
    exp_sum = np.where(kept, rdbp(exp, SUM_INTEGER_BITS), 0).astype(np.int32)
    exp_q0.setflags(write=False)
    exp_sum.setflags(write=False)
    return SoftmaxParameters(multiplier, cutoff, exp_q0, exp_sum)


def reciprocal_of_sum(total: Int64Array) -> tuple[Int64Array, Int64Array]:
    """(scale, bits): 1 / total is scale * 2^-bits, for sums >= 2^19 in Q12.19; scale in Q0.

    gemmlowp's GetReciprocal.
    """
    headroom = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)  # leading zeros of a 32-bit word
    scale = one_over_one_plus((total << headroom) - (1 << 31))
    return scale, SUM_INTEGER_BITS - headroom


def softmax(op: IntActivation, q: ActivationArray) -> ActivationArray:
    """Softmax over the last axis, int8 or int16."""
    if op.input.dtype == "int16":
        return softmax16(op, q)
    parameters = softmax_parameters(op)
    values = q.astype(np.int64)
    d = values.max(-1, keepdims=True) - values
    total = parameters.exp_sum.astype(np.int64)[d].sum(-1, keepdims=True)
    scale, bits = reciprocal_of_sum(total)
    product = srdhm(parameters.exp_q0.astype(np.int64)[d], scale)
    shift = bits + 23
    out = ((product + (np.int64(1) << (shift - 1))) >> shift) - 128  # RDBP of a non-negative number
    return np.where(d <= parameters.cutoff, np.minimum(out, 127), -128).astype(np.int8)
