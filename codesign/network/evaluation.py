"""Evaluation of the float network over the reals, that is in float64.

The network's meaning is the real-valued function that its float32 weights define. What a Keras or TFLite run in float32
adds is bounded apart from it (`codesign.verification.float32_budget`), and is part of every total.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.network.model import Activation, ActivationKind, Dense, FloatNetwork, Layer, Lstm, Reshape

Float64Array = npt.NDArray[np.float64]


def evaluate(network: FloatNetwork, x: npt.ArrayLike, logits: bool = False) -> Float64Array:
    """Outputs of the network for a batch, in float64: x (B, T, D) -> (B, ...).

    `logits` leaves out the final softmax, if there is one. Raises InputError on an x of another shape.
    NaN in x gives NaN out.
    """
    value = _batch(network, x)
    for layer in without_final_softmax(network) if logits else network.layers:
        value = _final(layer, _apply(layer, value))
    return value


def evaluate_layers(network: FloatNetwork, x: npt.ArrayLike) -> list[Float64Array]:
    """The output of each layer in turn for x (B, T, D), in float64.

    An LSTM always gives its whole hidden sequence (B, T, H), whether or not it returns sequences.
    Raises InputError on an x of another shape.
    """
    value = _batch(network, x)
    outputs = []
    for layer in network.layers:
        outputs.append(_apply(layer, value))
        value = _final(layer, outputs[-1])
    return outputs


def layer_shapes(network: FloatNetwork) -> list[tuple[int, ...]]:
    """The output shape of each layer, without batch; (H,) for an LSTM that does not return sequences."""
    shape: tuple[int, ...] = network.input_shape
    shapes = []
    for layer in network.layers:
        if isinstance(layer, Lstm):
            shape = (shape[0], layer.units) if layer.return_sequences else (layer.units,)
        elif isinstance(layer, Dense):
            shape = (*shape[:-1], layer.W.shape[0])
        elif isinstance(layer, Reshape):
            shape = layer.shape
        shapes.append(shape)
    return shapes


def without_final_softmax(network: FloatNetwork) -> tuple[Layer, ...]:
    """The layers with the softmax at the end (before any trailing reshapes) left out."""
    layers = list(network.layers)
    index = len(layers) - 1
    while index >= 0 and isinstance(layers[index], Reshape):
        index -= 1
    last = layers[index] if index >= 0 else None
    if isinstance(last, Activation) and last.kind == "softmax":
        del layers[index]
    elif isinstance(last, Dense) and last.activation == "softmax":
        layers[index] = Dense(last.name, last.W, last.b, "linear")
    return tuple(layers)


def final_activation(network: FloatNetwork) -> ActivationKind:
    """The activation that makes the outputs, before any trailing reshapes; 'linear' where there is none."""
    layers = [layer for layer in network.layers if not isinstance(layer, Reshape)]
    last = layers[-1] if layers else None
    if isinstance(last, Activation):
        return last.kind
    return last.activation if isinstance(last, Dense) else "linear"


def decisions(outputs: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """What a classifier with outputs (..., M) decides, (...): the largest one's class; of one output, whether it is at
    least 0.5."""
    values = np.asarray(outputs, dtype=np.float64)
    return np.asarray(values.argmax(-1) if values.shape[-1] > 1 else values[..., 0] >= 0.5, dtype=np.int64)


def activate(kind: ActivationKind, z: Float64Array) -> Float64Array:
    """The activation function in float64; softmax is over the last axis. No input overflows."""
    if kind == "relu":
        return np.maximum(z, 0.0)
    if kind == "tanh":
        return np.tanh(z)
    if kind == "sigmoid":
        from scipy.special import expit

        return np.asarray(expit(z), dtype=np.float64)
    if kind == "softmax":
        powers = np.exp(z - z.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float64)
    return z


def _batch(network: FloatNetwork, x: npt.ArrayLike) -> Float64Array:
    value = np.asarray(x, dtype=np.float64)
    steps, features = network.input_shape
    if value.ndim != 3 or value.shape[1:] != (steps, features):
        raise InputError(f"inputs have shape {value.shape}, but {network.name} needs (B, {steps}, {features})")
    return value


def _final(layer: Layer, value: Float64Array) -> Float64Array:
    return value[:, -1] if isinstance(layer, Lstm) and not layer.return_sequences else value


def _apply(layer: Layer, value: Float64Array) -> Float64Array:
    if isinstance(layer, Lstm):
        return _lstm(layer, value)
    if isinstance(layer, Dense):
        return activate(layer.activation, value @ layer.W.astype(np.float64).T + layer.b)
    if isinstance(layer, Activation):
        return activate(layer.kind, value)
    return value.reshape(len(value), *layer.shape) if len(value) else np.zeros((0, *layer.shape))


def _lstm(layer: Lstm, x: Float64Array) -> Float64Array:
    from scipy.special import expit

    batch, steps, units = len(x), x.shape[1], layer.units
    W = layer.W.astype(np.float64).reshape(4 * units, layer.features)
    R = layer.R.astype(np.float64).reshape(4 * units, units)
    driven = x @ W.T + layer.b.astype(np.float64).reshape(4 * units)
    h, c = np.zeros((batch, units)), np.zeros((batch, units))
    sequence = np.empty((batch, steps, units))
    for t in range(steps):
        z = driven[:, t] + h @ R.T
        i, f, o = (expit(z[:, g * units : (g + 1) * units]) for g in (0, 1, 3))
        c = f * c + i * np.tanh(z[:, 2 * units : 3 * units])
        if layer.cell_clip:
            c = np.clip(c, -layer.cell_clip, layer.cell_clip)
        h = o * np.tanh(c)
        sequence[:, t] = h
    return sequence


def output_size(network: FloatNetwork) -> int:
    """Number of values in one output."""
    return math.prod(layer_shapes(network)[-1])
