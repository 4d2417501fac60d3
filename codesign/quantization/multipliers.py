"""Effective scales as fixed-point multipliers, the way TensorFlow Lite Micro prepares them."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from codesign.quantization.integer import Multiplier, Profile

GATE_SCALE = 2.0**-12  # Q3.12, the gates' pre-activations
UNIT_SCALE = 2.0**-15  # Q0.15, sigmoid and tanh results
_POWER_OF_TWO_TOLERANCE = 1e-3  # of log2, in TFLite's CheckedLog2


def quantize_multiplier(real: float) -> Multiplier:
    """The multiplier (m, e) with m * 2^(e - 31) nearest to `real` >= 0 (TFLite's QuantizeMultiplier).

    m is rounded half away from zero; a value under 2^-32 becomes (0, 0). ValueError unless `real` is finite and >= 0.
    """
    if not (math.isfinite(real) and real >= 0):
        raise ValueError(f"{real} is not a finite scale >= 0")
    if real == 0:
        return Multiplier(0, 0)
    fraction, e = math.frexp(real)
    m = math.floor(fraction * 2.0**31 + 0.5)
    if m == 1 << 31:
        m //= 2
        e += 1
    return Multiplier(0, 0) if e < -31 else Multiplier(m, e)


def table_multiplier(input_scale: float, kind: Literal["sigmoid", "tanh"]) -> tuple[int, int]:
    """(m, n) of the int16 LOGISTIC or TANH operator: it looks up d = (q m + round) >> n, with round = 2^(n-1) or 0.

    d is the input in steps of 1 / (3 * 2^12). A scale within 0.001 in log2 of 2^-12 (TANH: or of 2^-11) is taken as
    that power of two: m = 3 (or 6), n = 0. Others have m = trunc(scale * 12288 * 2^n) with m in [16383, 32767]
    (logistic_common.cc, tanh.cc). ValueError for scales beyond that, and for those so close to the tolerance that
    float32 implementations of log may disagree.
    """
    log2 = math.log2(input_scale)
    power = round(log2)
    if power in ((-12,) if kind == "sigmoid" else (-12, -11)):
        off = abs(log2 - power) - _POWER_OF_TWO_TOLERANCE
        if abs(off) < 1e-5:
            raise ValueError(f"scale {input_scale} may or may not be taken as 2^{power}")
        if off < 0:
            return 3 << (power + 12), 0
    real, n = input_scale * 4096.0 * 3.0, 0
    while real <= 32767.0 / 2.0 and n <= 30:
        n += 1
        real *= 2.0
    m = int(real)
    if not 16383 <= m <= 32767:
        raise ValueError(f"scale {input_scale} is out of range")
    return m, n


def softmax_multiplier(input_scale: float, beta: float) -> Multiplier:
    """The int16 SOFTMAX's rescaling of differences to steps of 10 / 65535 (softmax_common.cc)."""
    return quantize_multiplier(input_scale * beta / (10.0 / 65535.0))


def scale_product(a: float, b: float, profile: Profile) -> float:
    """a * b for two float32 scales: exact in double ('...-double') or rounded to float32 ('...-float')."""
    if profile.endswith("-float"):
        with np.errstate(over="ignore"):  # an infinite product is refused by quantize_multiplier
            return float(np.float32(a) * np.float32(b))
    return a * b


def gate_multiplier(input_scale: float, weight_scale: float, profile: Profile) -> Multiplier:
    """From an LSTM gate's accumulator (scale input_scale * weight_scale) to Q3.12."""
    return quantize_multiplier(scale_product(input_scale, weight_scale, profile) / GATE_SCALE)


def dense_multiplier(
    input_scale: float, weight_scale: float, output_scale: float, per_channel: bool, profile: Profile
) -> Multiplier:
    """From a FULLY_CONNECTED accumulator to the output's scale. TFLM takes per-channel products in double always."""
    product = scale_product(input_scale, weight_scale, "tflm-double" if per_channel else profile)
    return quantize_multiplier(product / output_scale)


def product_multiplier(output_scale: float, first_scale: float = UNIT_SCALE) -> Multiplier:
    """From the product of a Q0.15 value and one of scale `first_scale` to `output_scale` (LSTM's Mul steps)."""
    return quantize_multiplier(UNIT_SCALE * first_scale / output_scale)
