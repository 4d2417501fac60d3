"""Gradients of the float network's logits with respect to its input (backpropagation through time, float64).

Only the adversarial search uses them: a wrong gradient could make it weaker, never a bound unsound.
"""

from __future__ import annotations

import numpy as np

from codesign.network import evaluate_layers, without_final_softmax
from codesign.network.evaluation import activate
from codesign.network.model import Activation, ActivationKind, Dense, FloatNetwork, Lstm, Reshape
from codesign.verification.affine import Array


def input_gradient(network: FloatNetwork, x: Array, weights: Array) -> Array:
    """d/dx of sum(weights * logits) for a batch: x (B, T, D), weights (B, ...) -> (B, T, D)."""
    layers = without_final_softmax(network)
    outputs = evaluate_layers(network, x)
    inputs = [x, *(_handed_on(layer, out) for layer, out in zip(network.layers, outputs, strict=True))]
    grad = weights.astype(np.float64)
    for index in range(len(layers) - 1, -1, -1):
        layer, value = layers[index], inputs[index]
        if isinstance(layer, Lstm):
            grad = _lstm(layer, value, grad)
        elif isinstance(layer, Dense):
            z = value @ layer.W.astype(np.float64).T + layer.b
            grad = (grad * _slope(layer.activation, z)) @ layer.W.astype(np.float64)
        elif isinstance(layer, Activation):
            grad = grad * _slope(layer.kind, value)
        elif isinstance(layer, Reshape):
            grad = grad.reshape(value.shape)
    return grad


def _handed_on(layer: object, output: Array) -> Array:
    return output[:, -1] if isinstance(layer, Lstm) and not layer.return_sequences else output


def _slope(kind: ActivationKind, z: Array) -> Array:
    if kind == "relu":
        return (z > 0).astype(np.float64)
    y = activate(kind, z)
    if kind == "tanh":
        return np.asarray(1.0 - y * y)
    if kind == "sigmoid":
        return np.asarray(y * (1.0 - y))
    return np.ones_like(z)


def _lstm(layer: Lstm, x: Array, grad: Array) -> Array:
    H = layer.units
    W = layer.W.astype(np.float64).reshape(4 * H, layer.features)
    R = layer.R.astype(np.float64).reshape(4 * H, H)
    batch, steps = x.shape[:2]
    h = c = np.zeros((batch, H))
    saved = []
    for t in range(steps):
        z = x[:, t] @ W.T + h @ R.T + layer.b.astype(np.float64).reshape(-1)
        i, f, o = (activate("sigmoid", z[:, k * H : (k + 1) * H]) for k in (0, 1, 3))
        g = np.tanh(z[:, 2 * H : 3 * H])
        previous = c
        c = f * c + i * g
        free = (np.abs(c) <= layer.cell_clip) if layer.cell_clip else np.ones_like(c, dtype=bool)
        c = np.where(free, c, np.sign(c) * layer.cell_clip)
        squashed = np.tanh(c)
        h = o * squashed
        saved.append((i, f, g, o, previous, squashed, free))
    at_step = np.zeros((batch, steps, H))
    if layer.return_sequences:
        at_step += grad
    else:
        at_step[:, -1] = grad
    out = np.empty_like(x, dtype=np.float64)
    dh, dc = np.zeros((batch, H)), np.zeros((batch, H))
    for t in range(steps - 1, -1, -1):
        i, f, g, o, previous, squashed, free = saved[t]
        dh = dh + at_step[:, t]
        dc = (dc + dh * o * (1 - squashed**2)) * free
        dz = np.concatenate(
            [dc * g * i * (1 - i), dc * previous * f * (1 - f), dc * i * (1 - g * g), dh * squashed * o * (1 - o)],
            axis=1,
        )
        out[:, t] = dz @ W
        dh = dz @ R
        dc = dc * f
    return out
