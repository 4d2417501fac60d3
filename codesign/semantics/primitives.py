"""The integer primitives of TFLite Micro, vectorised over int64 arrays.

Names: SRDHM = saturating rounding doubling high multiply, RDBP = rounding divide by power of two, MBQM = multiply by
quantized multiplier (gemmlowp, TFLite's common.h, double rounding), MBQM64 = its overload for int64 (common.cc, single
rounding). Arguments have to be such that the device's arithmetic does not overflow; `read_integer_network` refuses
files for which it could.
"""

from __future__ import annotations

from typing import Any, Union

import numpy as np
import numpy.typing as npt

from codesign.quantization.integer import Multiplier
from codesign.quantization.multipliers import quantize_multiplier

Int64Array = npt.NDArray[np.int64]
IntLike = Union[int, npt.NDArray[Any]]

INT16_MIN, INT16_MAX = -(1 << 15), (1 << 15) - 1
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1

__all__ = ["mbqm", "mbqm64", "quantize_multiplier", "rdbp", "sat16", "srdhm"]


def srdhm(a: IntLike, m: IntLike) -> Int64Array:
    """floor((a m + 2^30) / 2^31); ties go up. |a|, |m| < 2^31."""
    result: Int64Array = (np.asarray(a, np.int64) * m + (1 << 30)) >> 31
    return result


def rdbp(v: IntLike, n: int) -> Int64Array:
    """v / 2^n rounded half away from zero; 0 <= n <= 31."""
    v = np.asarray(v, np.int64)
    if n == 0:
        return v
    result: Int64Array = (v + (1 << (n - 1)) + (v >> 63)) >> n
    return result


def mbqm(v: IntLike, multiplier: Multiplier) -> Int64Array:
    """v times the multiplier's value: shift left by max(e, 0), SRDHM, RDBP by max(-e, 0)."""
    return rdbp(srdhm(np.asarray(v, np.int64) << max(multiplier.e, 0), multiplier.m), max(-multiplier.e, 0))


def mbqm64(v: IntLike, multiplier: Multiplier) -> Int64Array:
    """The rescaling of int64 accumulators (int16 activations): floor((v r + 2^(14-e)) / 2^(15-e)), ties up.

    r is the multiplier in 16 bits (`Multiplier.reduced`). |v| < 2^47 and e <= 7, as read_integer_network makes sure.
    """
    shift = 15 - multiplier.e
    result: Int64Array = (np.asarray(v, np.int64) * multiplier.reduced + (1 << (shift - 1))) >> shift
    return result


def sat16(v: IntLike) -> Int64Array:
    """v clipped to int16's range."""
    return np.minimum(np.maximum(np.asarray(v, np.int64), INT16_MIN), INT16_MAX)
