"""Between real numbers and the integer network's: the input quantisation rule, and its inverse."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.quantization.integer import ActivationArray, IntegerNetwork, QuantizedTensor


def quantize_input(network: IntegerNetwork, x: npt.ArrayLike) -> ActivationArray:
    """Real inputs [B, T, D] as int8 or int16, whichever the network takes, by the rule of docs/architecture.md.

    One IEEE single-precision division by the scale, rounded half away from zero, plus the zero point, clamped to the
    type. NaN gives the zero point. InputError for another shape or for values that are not numbers.
    """
    values = np.asarray(x)
    if values.dtype.kind not in "fiub" or values.ndim != 3 or values.shape[1:] != network.input.shape:
        raise InputError(
            f"Inputs have to be numbers of shape [batch, {', '.join(map(str, network.input.shape))}], "
            f"not {values.dtype} of shape {list(values.shape)}."
        )
    return quantize(network.input, values)


def quantize(tensor: QuantizedTensor, values: npt.ArrayLike) -> ActivationArray:
    """The same rule for one tensor, any shape."""
    with np.errstate(over="ignore", invalid="ignore"):
        x = np.asarray(values).astype(np.float32)
        ratio = (x / np.float32(tensor.scale)).astype(np.float64)
        # Adding 0.5 is exact in float64 for any float32 under 2^29; larger ones saturate whatever their fraction.
        rounded = np.copysign(np.floor(np.abs(ratio) + 0.5), ratio)
        rounded = np.where(np.isnan(rounded), 0.0, rounded)
        clipped = np.clip(np.clip(rounded, -(2**20), 2**20) + tensor.zero_point, tensor.q_min, tensor.q_max)
    result: ActivationArray = clipped.astype(tensor.dtype)
    return result


def dequantize(tensor: QuantizedTensor, q: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """scale * (q - zero_point), exact in float64 (a 24-bit scale times an integer of at most 17 bits)."""
    result: npt.NDArray[np.float64] = (np.asarray(q).astype(np.float64) - tensor.zero_point) * tensor.scale
    return result
