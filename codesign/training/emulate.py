"""An integer network made from a float one directly, with ranges that cover the whole domain.

For measuring a bound during training, in milliseconds instead of a conversion: weights and scales are what the
converter gives (int8, symmetric, per gate or per output), ranges what `codesign.training.ranges` gives an export.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.network import Activation, Dense, FloatNetwork, Lstm
from codesign.quantization import (
    Activations,
    IntActivation,
    IntDense,
    IntegerNetwork,
    IntLastStep,
    IntLstm,
    IntOp,
    QuantizedTensor,
)
from codesign.quantization.multipliers import dense_multiplier, gate_multiplier, product_multiplier
from codesign.training.ranges import Ranges, float_ranges

FloatArray = npt.NDArray[np.float64]


def tensor(name: str, shape: tuple[int, ...], lo: float, hi: float, activations: Activations) -> QuantizedTensor:
    """An activation tensor that holds [lo, hi], quantized as the converter does."""
    if activations == "int16":
        return QuantizedTensor(name, shape, "int16", float(np.float32(max(abs(lo), abs(hi)) / 32767)), 0)
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    scale = float(np.float32((hi - lo) / 255 or 1.0))
    return QuantizedTensor(name, shape, "int8", scale, int(np.clip(np.rint(-128 - lo / scale), -128, 127)))


def emulate(
    network: FloatNetwork, domain: tuple[FloatArray, FloatArray], activations: Activations, steps: int | None
) -> IntegerNetwork:
    """The integer network that an export of `network` for `domain` (lo, hi, each (D,)) amounts to; `content` is empty.

    InputError for layers besides LSTM, Dense, Activation at the last step or at every one.
    """
    ranges = float_ranges(network, domain, steps)
    shape: tuple[int, ...] = network.input_shape
    x = first = tensor("input", shape, float(domain[0].min()), float(domain[1].max()), activations)
    ops: list[IntOp] = []
    for layer, reach in zip(network.layers, ranges, strict=True):
        if isinstance(layer, Lstm):
            x = _lstm(layer, reach, x, ops, activations)
        elif isinstance(layer, Dense):
            x = _dense(layer, reach, x, ops, activations)
            if layer.activation not in ("linear", "relu"):
                x = _activation(layer.name, layer.activation, x, ops)
        elif isinstance(layer, Activation):
            x = _activation(layer.name, layer.kind, x, ops)
        else:
            raise InputError(f"layer '{layer.name}' reshapes; the bound in training takes LSTM and Dense layers only")
    return IntegerNetwork(network.name, first, x, tuple(ops), "0" * 64, "tflm-double", b"")


def _weights(w: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], float]:
    scale = float(np.float32(np.abs(w).max() / 127 or 1.0))
    return np.clip(np.rint(w.astype(np.float64) / scale), -127, 127).astype(np.int8), scale


def _lstm(
    layer: Lstm, reach: Ranges, x: QuantizedTensor, ops: list[IntOp], activations: Activations
) -> QuantizedTensor:
    steps = x.shape[0]
    int16 = activations == "int16"
    lo, hi = (-32767 / 32768, 32767 / 32768) if int16 else (reach.lo, reach.hi)
    out = tensor(layer.name, (steps, layer.units), lo, hi, activations)
    if int16:
        out = QuantizedTensor(layer.name, out.shape, "int16", 2.0**-15, 0)
    W, R = ([_weights(v[g]) for g in range(4)] for v in (layer.W, layer.R))
    b = np.stack([np.rint(layer.b[g] / (x.scale * W[g][1])) for g in range(4)])
    bias = b.astype(np.int64 if int16 else np.int32)
    ops.append(
        IntLstm(
            layer.name, x, out, np.stack([v[0] for v in W]), np.stack([v[0] for v in R]), bias,
            tuple(v[1] for v in W), tuple(v[1] for v in R), reach.cell_shift, 0,  # type: ignore[arg-type]
            tuple(gate_multiplier(x.scale, v[1], "tflm-double") for v in W),  # type: ignore[arg-type]
            tuple(gate_multiplier(out.scale, v[1], "tflm-double") for v in R),  # type: ignore[arg-type]
            product_multiplier(2.0**-15), product_multiplier(2.0**reach.cell_shift), product_multiplier(out.scale),
        )
    )  # fmt: skip
    if layer.return_sequences:
        return out
    last = QuantizedTensor(layer.name, (layer.units,), out.dtype, out.scale, out.zero_point)
    ops.append(IntLastStep(layer.name, out, last))
    return last


def _dense(
    layer: Dense, reach: Ranges, x: QuantizedTensor, ops: list[IntOp], activations: Activations
) -> QuantizedTensor:
    shape = (*x.shape[:-1], len(layer.b))
    double = 2.0 if activations == "int16" else 1.0
    out = tensor(layer.name, shape, double * reach.lo, double * reach.hi, activations)
    rows = [_weights(w) for w in layer.W]
    scales = tuple(v[1] for v in rows)
    b = np.rint(layer.b / (x.scale * np.asarray(scales)))
    multipliers = tuple(dense_multiplier(x.scale, s, out.scale, True, "tflm-double") for s in scales)
    low = out.zero_point if layer.activation == "relu" else out.q_min
    ops.append(
        IntDense(
            layer.name, x, out, np.stack([v[0] for v in rows]), b.astype(np.int64), scales, multipliers, low, out.q_max
        )
    )
    return out


def _activation(name: str, kind: str, x: QuantizedTensor, ops: list[IntOp]) -> QuantizedTensor:
    if kind == "linear":
        return x
    if kind == "relu":
        out = x
    elif x.dtype == "int16":
        out = QuantizedTensor(name, x.shape, "int16", 2.0**-15, 0)
    elif kind == "tanh":
        out = QuantizedTensor(name, x.shape, "int8", 1 / 128, 0)
    else:
        out = QuantizedTensor(name, x.shape, "int8", 1 / 256, -128)
    ops.append(IntActivation(name, kind, x, out))  # type: ignore[arg-type]
    return out
