"""SOFTMAX, LOGISTIC and TANH on int16, as TFLM's reference kernels compute them.

LOGISTIC and TANH are functions of one int16: tables of 65536. Softmax needs two more: the exponential by the
difference to the row's maximum, and the reciprocal of the row's sum. Both interpolate between 513 entries that TFLM
makes from float32 functions (common.h, LUTPopulateInt16; softmax_common.cc); the entries are constants, the same for
every model. Formulas: softmax.h (SoftmaxInt16), logistic.h and tanh.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.quantization.integer import IntActivation, Multiplier
from codesign.quantization.multipliers import softmax_multiplier, table_multiplier
from codesign.semantics.primitives import INT16_MAX, INT16_MIN, Int64Array, mbqm, sat16
from codesign.semantics.tables import sigmoid_of, tanh_of

Int16Array = npt.NDArray[np.int16]
Float32Array = npt.NDArray[np.float32]

LUT_STEPS = 512
EXP_RANGE = 10.0  # the table of exponentials spans exp(-10) to exp(0)
_LEVELS = np.float32(65535)
_X = np.arange(INT16_MIN, INT16_MAX + 1, dtype=np.int64)


def _round(values: Float32Array) -> Float32Array:
    """Half away from zero, as C's roundf."""
    return np.copysign(np.floor(np.abs(values).astype(np.float64) + 0.5), values).astype(np.float32)


def _exp(x: Float32Array) -> Float32Array:
    return np.exp(x.astype(np.float64)).astype(np.float32)  # the correctly rounded expf, but for unknown ties


def _one_over_one_plus(x: Float32Array) -> Float32Array:
    return np.float32(1) / (np.float32(1) + x)


def _lut(first: float, span: float, function: Callable[[Float32Array], Float32Array]) -> npt.NDArray[np.int16]:
    """513 samples of `function` on [first, first + span] in Q0.15, in TFLM's order of float32 operations.

    Each but the last is lowered by half of the error that interpolating to the next has in the middle.
    """
    one = np.float32(32768)
    step = np.float32(span / LUT_STEPS)  # exact for the two spans in use
    x = np.float32(first) + np.arange(LUT_STEPS + 1, dtype=np.float32) * step
    values = function(x)
    value, following, middle = values[:-1], values[1:], function(x[:-1] + step / np.float32(2))
    sample = _round(value * one)
    interpolated = _round((following * one + sample) / np.float32(2))
    bias = _round((interpolated - _round(middle * one)) / np.float32(2))
    entries = np.append(sample - bias, _round(values[-1:] * one))
    return _frozen(np.clip(entries, INT16_MIN, INT16_MAX))


def _frozen(values: npt.NDArray[Any]) -> Int16Array:
    table = values.astype(np.int16)
    table.setflags(write=False)
    return table


@cache
def exp_lut() -> Int16Array:
    """513 entries in Q0.15 of exp on [-10, 0], 10/512 apart. Read-only."""
    return _lut(-EXP_RANGE, EXP_RANGE, _exp)


@cache
def reciprocal_lut() -> Int16Array:
    """513 entries in Q0.15 of 1 / (1 + x) on [0, 1], 1/512 apart. Read-only."""
    return _lut(0.0, 1.0, _one_over_one_plus)


def lookup(v: Int64Array, lut: Int16Array) -> Int64Array:
    """Interpolation at int16 v: entry 256 + (v >> 7), plus ((slope * (v & 127) + 64) >> 7)."""
    entries = lut.astype(np.int64)
    index = 256 + (v >> 7)
    base = entries[index]
    result: Int64Array = base + (((entries[index + 1] - base) * (v & 127) + 64) >> 7)
    return result


@cache
def reciprocal_table() -> Int16Array:
    """1 / (1 + x) in Q0.15 by v = 65535 x - 32768: int16[65536] indexed by v + 32768. Read-only."""
    return _frozen(lookup(_X, reciprocal_lut()))


@dataclass(frozen=True, eq=False)
class Softmax16Parameters:
    """What an int16 softmax needs. `exp_q15`: int16[65536], exp(-beta * scale * d) in Q0.15 by d = max - q >= 0.

    It does not fall under its value at -10, which is 2. `multiplier` rescales differences to steps of 10 / 65535.
    """

    multiplier: Multiplier
    exp_q15: Int16Array


@lru_cache(maxsize=64)
def softmax16_parameters(op: IntActivation) -> Softmax16Parameters:
    """The parameters and the table of exponentials of int16 SOFTMAX `op`."""
    multiplier = softmax_multiplier(op.input.scale, op.beta)
    scaled = mbqm(-np.arange(1 << 16, dtype=np.int64), multiplier)
    return Softmax16Parameters(multiplier, _frozen(lookup(sat16(scaled + INT16_MAX), exp_lut())))


def softmax16(op: IntActivation, q: Int16Array) -> Int16Array:
    """int16 softmax over the last axis: exponentials, their sum S in Q16.15, times the reciprocal of S.

    With k the bit length of S (15 or more), S is 2^(k-16) (1 + x), x in [0, 1); the reciprocal table gives 1 / (1 + x).
    """
    values = q.astype(np.int64)
    exp = softmax16_parameters(op).exp_q15.astype(np.int64)[values.max(-1, keepdims=True) - values]
    total = exp.sum(-1, keepdims=True)
    length = np.frexp(total.astype(np.float64))[1].astype(np.int64)
    mantissa = ((total << (31 - length)) + (1 << 13)) >> 14  # 2^16 (1 + x)
    scale = reciprocal_table().astype(np.int64)[sat16(mantissa - (1 << 15) - (1 << 16)) + (1 << 15)]
    shift = length - 1
    out = (exp * scale + (np.int64(1) << (shift - 1))) >> shift
    result: Int16Array = np.clip(out, 0, INT16_MAX).astype(np.int16)
    return result


def table16(op: IntActivation) -> Int64Array:
    """An int16 LOGISTIC or TANH as 65536 values, by q + 32768. ValueError for others."""
    if op.kind not in ("sigmoid", "tanh"):
        raise ValueError(f"{op.kind} has no table of its own")
    m, n = table_multiplier(op.input.scale, op.kind)
    d = (_X * m + ((1 << n) >> 1)) >> n
    return sigmoid_of(d) if op.kind == "sigmoid" else tanh_of(d)
