"""Random pairs of a float and an integer network, built from the data classes, for property tests.

The quantization is arbitrary on purpose: scales far too small (everything saturates), far too large, cell clipping.
"""

from __future__ import annotations

import numpy as np

from codesign.network.model import Dense, FloatNetwork, Lstm
from codesign.quantization.integer import (
    IntActivation,
    IntDense,
    IntegerNetwork,
    IntLastStep,
    IntLstm,
    QuantizedTensor,
)
from codesign.quantization.multipliers import dense_multiplier, gate_multiplier, product_multiplier


def _scale(rng: np.random.Generator, lo: float, hi: float) -> float:
    return float(np.float32(np.exp(rng.uniform(np.log(lo), np.log(hi)))))


def _lstm(rng, name, source, units, last, gain, weight_error):
    steps, features = source.shape
    output = QuantizedTensor(f"{name}.h", (steps, units), "int8", _scale(rng, 0.002, 0.012), int(rng.integers(-60, 60)))
    W = rng.integers(-127, 128, (4, units, features)).astype(np.int8)
    R = rng.integers(-127, 128, (4, units, units)).astype(np.int8)
    W_scale = tuple(_scale(rng, 0.001, 0.006) * gain for _ in range(4))
    R_scale = tuple(_scale(rng, 0.001, 0.006) * gain for _ in range(4))
    W_scale, R_scale = (tuple(float(np.float32(s)) for s in group) for group in (W_scale, R_scale))
    b = np.stack([np.round(rng.normal(0, 0.5, units) / (source.scale * s)) for s in W_scale]).astype(np.int32)
    shift = int(rng.integers(-15, -9))
    op = IntLstm(
        name, source, output, W, R, b, W_scale, R_scale, shift, int(rng.choice([0, 0, 3000])),
        tuple(gate_multiplier(source.scale, s, "tflm-double") for s in W_scale),
        tuple(gate_multiplier(output.scale, s, "tflm-double") for s in R_scale),
        product_multiplier(2.0**-15), product_multiplier(2.0**shift), product_multiplier(output.scale),
    )  # fmt: skip

    def perturbed(q, scales):
        noise = rng.uniform(-weight_error, weight_error, q.shape)
        return ((q + noise) * np.asarray(scales)[:, None, None]).astype(np.float32)

    bias = np.stack([b[g] * source.scale * W_scale[g] for g in range(4)]).astype(np.float32)
    layer = Lstm(name, perturbed(W, W_scale), perturbed(R, R_scale), bias, not last)
    return layer, op


def random_pair(
    seed: int,
    gain: float = 1.0,
    softmax: bool = True,
    weight_error: float = 0.5,
    coarse: float = 1.0,
    outputs: int | None = None,
    sigmoid: bool = False,
) -> tuple[FloatNetwork, IntegerNetwork]:
    """One or two LSTMs, a dense layer, and perhaps a softmax. `gain` > 1 drives the pair into saturation.

    `weight_error`: largest difference of the weights, in their steps; `coarse` > 1: a larger input step; `outputs`: how
    many; `sigmoid`: in place of a ReLU or softmax.
    """
    rng = np.random.default_rng(seed)
    steps, features = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    tensor = QuantizedTensor(
        "x", (steps, features), "int8", coarse * _scale(rng, 0.002, 0.02), int(rng.integers(-128, 128))
    )
    first = tensor
    layers, ops = [], []
    count = int(rng.integers(1, 3))
    for index in range(count):
        last = index == count - 1
        layer, op = _lstm(rng, f"lstm{index}", tensor, int(rng.integers(1, 8)), last, gain, weight_error)
        layers.append(layer)
        ops.append(op)
        tensor = op.output
    tail = QuantizedTensor("last", tensor.shape[1:], "int8", tensor.scale, tensor.zero_point)
    ops.append(IntLastStep("last", tensor, tail))
    classes = int(rng.integers(2, 6))
    classes = outputs or classes
    out = QuantizedTensor("logits", (classes,), "int8", _scale(rng, 0.003, 0.03), int(rng.integers(-40, 40)))
    scales = tuple(_scale(rng, 0.001, 0.01) for _ in range(classes))
    W = rng.integers(-127, 128, (classes, tail.shape[0])).astype(np.int8)
    b = np.round(rng.normal(0, 0.3, classes) / (tail.scale * np.asarray(scales))).astype(np.int32)
    multipliers = tuple(dense_multiplier(tail.scale, s, out.scale, True, "tflm-double") for s in scales)
    relu = bool(rng.random() < 0.3) and not sigmoid
    ops.append(IntDense("dense", tail, out, W, b, scales, multipliers, out.zero_point if relu else -128, 127))
    wide = np.asarray(scales)[:, None]
    weights = ((W + rng.uniform(-weight_error, weight_error, W.shape)) * wide).astype(np.float32)
    bias = (b * tail.scale * np.asarray(scales)).astype(np.float32)
    activation = "sigmoid" if sigmoid else "relu" if relu else "softmax" if softmax else "linear"
    layers.append(Dense("dense", weights, bias, activation))
    if activation in ("softmax", "sigmoid"):
        probabilities = QuantizedTensor("p", (classes,), "int8", 1 / 256, -128)
        ops.append(IntActivation(activation, activation, out, probabilities))
        out = probabilities
    return (
        FloatNetwork("random", first.shape, tuple(layers), "0" * 64, "test"),
        IntegerNetwork("random", first, out, tuple(ops), "0" * 64, "tflm-double", b""),
    )
