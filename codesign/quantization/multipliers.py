"""Effective scales as fixed-point multipliers, the way TensorFlow Lite Micro prepares them."""

from __future__ import annotations

import math

import numpy as np

from codesign.quantization.integer import Multiplier, Profile

GATE_SCALE = 2.0**-12  # Q3.12, the gates' pre-activations
UNIT_SCALE = 2.0**-15  # Q0.15, sigmoid and tanh results


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


def scale_product(a: float, b: float, profile: Profile) -> float:
    """a * b for two float32 scales: exact in double ('tflm-double') or rounded to float32 ('tflm-float')."""
    if profile == "tflm-float":
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
