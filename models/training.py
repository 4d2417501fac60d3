"""Training of small LSTM classifiers whose int8 version can be certified.

The loss is the cross entropy of worst-case logits. Around every training sample an interval recursion (the elementwise
comparison system) bounds how far the hidden state of float AND int8 network can move from the float trajectory of the
sample itself when the input moves by `radius_steps` input quantisation steps and every rounding of the int8 network is
at its worst. Weights are snapped to the converter's int8 grid in the forward pass (straight-through gradient), so that
quantisation leaves them unchanged. The margin a sample needs and the margin it has thus meet in the loss itself.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

TABLE_ERROR = 1.5 * 2.0**-15  # sigmoid table; the tanh table's is 2.44 * 2^-15
TANH_TABLE_ERROR = 2.5 * 2.0**-15
GATE_ERROR = 2.0 * 2.0**-12  # two fixed-point products rounded to Q3.12
CELL_ERROR = 2.0**-11  # two products rounded to the cell scale, 2^-11 or finer in the sample models


@dataclass(frozen=True)
class Settings:
    """What a training run depends on.

    `units`: LSTM units, first layer first. `low`, `high`: the input domain; inputs are in it. `worst_weight`: share of
    the worst-case cross entropy in the loss (the rest is the plain one). `radius_steps`: input perturbation in input
    quantisation steps, besides the half step of input rounding. `error_scale`: factor on every error of the recursion.
    """

    units: tuple[int, ...]
    low: float
    high: float
    seed: int
    epochs: int = 150
    batch: int = 64
    learning_rate: float = 0.01
    weight_decay: float = 1e-4
    input_noise: float = 0.02
    worst_weight: float = 0.7
    radius_steps: float = 1.0
    error_scale: float = 1.0
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Trained:
    """Weights in Keras order: kernel (D, 4H), recurrent kernel (H, 4H), bias (4H) a LSTM; kernel (H, M), bias (M)."""

    weights: list[FloatArray]
    units: tuple[int, ...]


def configure(seed: int) -> None:
    """One thread, deterministic operators, every seed set: call before anything else of TensorFlow."""
    with suppress(RuntimeError):  # TensorFlow runs already, as in a test process: its threads stay as they are
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def snap(w: Any, axis: int | None = None) -> Any:
    """`w` rounded to the symmetric int8 grid max|w| / 127 (per tensor, or per slice along `axis`); gradient passes."""
    scale = tf.reduce_max(tf.abs(w), axis=axis, keepdims=axis is not None) / 127.0 + 1e-12
    return w + tf.stop_gradient(tf.round(w / scale) * scale - w)


def snap_gates(w: Any) -> Any:
    """A Keras kernel (N, 4H) with each of its four gates snapped: the converter gives each gate its own scale."""
    return tf.concat([snap(g) for g in tf.split(w, 4, axis=1)], axis=1)


def _range_step(values: Any) -> Any:
    """The int8 step of a tensor with these values: (max - min) / 255 of a range that includes 0."""
    return (tf.maximum(tf.reduce_max(values), 0.0) - tf.minimum(tf.reduce_min(values), 0.0)) / 255.0


def _deviation(function: Any, z: Any, dz: Any) -> Any:
    """Largest |function(z + d) - function(z)| over |d| <= dz, for an increasing function."""
    y = function(z)
    return tf.maximum(function(z + dz) - y, y - function(z - dz))


def _lstm(x: list[Any], e: list[Any], kernel: Any, recurrent: Any, bias: Any, scale: Any) -> tuple[Any, Any]:
    """Hidden sequence and its worst-case deviation, both lists of (B, H), from those of the input, lists of (B, D)."""
    units = recurrent.shape[0]
    h = tf.zeros((tf.shape(x[0])[0], units))
    c, dh, dc = h, h, h
    hidden: list[Any] = []
    products: list[Any] = []
    # Two passes: the hidden step depends on the range of the whole sequence, and enters the recursion at every step.
    for x_t in x:
        z = tf.matmul(x_t, kernel) + tf.matmul(h, recurrent) + bias
        zi, zf, zg, zo = tf.split(z, 4, axis=1)
        products.append((z, c))
        c = tf.sigmoid(zf) * c + tf.sigmoid(zi) * tf.tanh(zg)
        h = tf.sigmoid(zo) * tf.tanh(c)
        hidden.append(h)
    step = _range_step(tf.stack(hidden))
    deviations: list[Any] = []
    abs_kernel, abs_recurrent = tf.abs(kernel), tf.abs(recurrent)
    for t, e_t in enumerate(e):
        z, c_old = products[t]
        dz = tf.matmul(e_t, abs_kernel) + tf.matmul(dh, abs_recurrent) + scale * GATE_ERROR
        zi, zf, zg, zo = tf.split(z, 4, axis=1)
        dzi, dzf, dzg, dzo = tf.split(dz, 4, axis=1)
        i, f, g, o = tf.sigmoid(zi), tf.sigmoid(zf), tf.tanh(zg), tf.sigmoid(zo)
        di = _deviation(tf.sigmoid, zi, dzi) + scale * TABLE_ERROR
        df = _deviation(tf.sigmoid, zf, dzf) + scale * TABLE_ERROR
        dg = _deviation(tf.tanh, zg, dzg) + scale * TANH_TABLE_ERROR
        do = _deviation(tf.sigmoid, zo, dzo) + scale * TABLE_ERROR
        dc = (f + df) * dc + df * tf.abs(c_old) + (i + di) * dg + di * tf.abs(g) + scale * CELL_ERROR
        c = f * c_old + i * g
        dt = _deviation(tf.tanh, c, dc) + scale * TANH_TABLE_ERROR
        dh = (o + do) * dt + do * tf.abs(tf.tanh(c)) + scale * 0.5 * step
        deviations.append(dh)
    return hidden, deviations


def forward(variables: Sequence[Any], x: Any, settings: Settings, scale: Any) -> tuple[Any, Any, Any]:
    """Logits (B, M); worst-case deviation of every pair difference logit_k - logit_m (B, M, M); the snapped weights.

    `scale` multiplies every error; 0 gives the plain network.
    """
    input_step = (settings.high - settings.low) / 255.0
    move = scale * input_step * settings.radius_steps
    # The ball is clipped to the domain, so a coordinate on its edge has only one side to move to; as an interval around
    # the sample that is still `move` wide on one side, which is what counts here.
    e = tf.ones_like(x) * (move + scale * 0.5 * input_step)
    sequence, deviation = tf.unstack(x, axis=1), tf.unstack(e, axis=1)
    snapped: list[Any] = []
    for layer in range(len(settings.units)):
        kernel, recurrent, bias = variables[3 * layer : 3 * layer + 3]
        kernel, recurrent = snap_gates(kernel), snap_gates(recurrent)
        snapped += [kernel, recurrent, bias]
        sequence, deviation = _lstm(sequence, deviation, kernel, recurrent, bias, scale)
    kernel, bias = snap(variables[-2], axis=0), variables[-1]
    snapped += [kernel, bias]
    logits = tf.matmul(sequence[-1], kernel) + bias
    pairs = tf.abs(kernel[:, :, None] - kernel[:, None, :])
    worst = tf.einsum("bh,hkm->bkm", deviation[-1], pairs) + scale * _range_step(logits)
    return logits, worst, snapped


def train(x: FloatArray, y: IntArray, classes: int, settings: Settings, augment: Any = None) -> Trained:
    """Weights trained on x (N, T, D), labels y (N,). `augment(rng)`, if given, remakes (x, y) before every epoch."""
    rng = np.random.default_rng(settings.seed)
    variables: list[Any] = []
    features = x.shape[2]
    for units in settings.units:
        bias = np.zeros(4 * units, np.float32)
        bias[units : 2 * units] = -0.5  # forget gate: starts contractive
        for shape, gain in (((features, 4 * units), 1.0), ((units, 4 * units), 0.2)):
            variables.append(tf.Variable(rng.normal(0, gain / np.sqrt(shape[0]), shape).astype(np.float32)))
        variables.append(tf.Variable(bias))
        features = units
    variables.append(tf.Variable(rng.normal(0, 1 / np.sqrt(features), (features, classes)).astype(np.float32)))
    variables.append(tf.Variable(np.zeros(classes, np.float32)))

    first = [tf.Variable(tf.zeros_like(v)) for v in variables]
    second = [tf.Variable(tf.zeros_like(v)) for v in variables]

    @tf.function(jit_compile=True)  # type: ignore[untyped-decorator]
    def update(xb: Any, yb: Any, scale: Any, rate: Any, count: Any) -> Any:
        with tf.GradientTape() as tape:
            logits, worst, _ = forward(variables, xb, settings, scale)
            target = tf.one_hot(yb, classes)
            smooth = target * (1 - settings.label_smoothing) + settings.label_smoothing / classes
            plain = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(smooth, logits))
            # Row of the true class: how much each rival can gain on it.
            gain = tf.einsum("bkm,bm->bk", worst, target) * (1.0 - target)
            robust = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(smooth, logits + gain))
            decay = tf.add_n([tf.reduce_sum(v * v) for v in variables if len(v.shape) == 2])
            loss = (1 - settings.worst_weight) * plain + settings.worst_weight * robust + settings.weight_decay * decay
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, variables), 1.0)
        for v, g, m, s in zip(variables, gradients, first, second, strict=True):  # Adam
            m.assign(0.9 * m + 0.1 * g)
            s.assign(0.99 * s + 0.01 * g * g)
            v.assign_sub(rate * (m / (1 - 0.9**count)) / (tf.sqrt(s / (1 - 0.99**count)) + 1e-8))
        return loss

    count = 0
    for epoch in range(settings.epochs):
        if augment is not None:
            x, y = augment(rng)
        order = rng.permutation(len(x))
        progress = epoch / settings.epochs
        scale = settings.error_scale * min(1.0, 0.05 + 1.9 * progress)
        rate = settings.learning_rate * 0.5 * (1 + np.cos(np.pi * progress))
        for start in range(0, len(x) - settings.batch + 1, settings.batch):
            index = order[start : start + settings.batch]
            noise = rng.normal(0, settings.input_noise, x[index].shape)
            xb = np.clip(x[index] + noise, settings.low, settings.high).astype(np.float32)
            count += 1
            update(xb, y[index].astype(np.int32), np.float32(scale), np.float32(rate), np.float32(count))
    _, _, snapped = forward(variables, tf.constant(x[:1]), settings, 0.0)
    return Trained([np.asarray(w, np.float32) for w in snapped], settings.units)


@dataclass(frozen=True)
class Estimate:
    """Accuracy of the float model, and the share of the correct samples that the comparison system can vouch for.

    `margin` and `bound` are medians over the samples: gap of the two largest logits, and the worst change of any gap.
    """

    accuracy: float
    vouched: float
    margin: float
    bound: float


def estimate(trained: Trained, x: FloatArray, y: IntArray, settings: Settings) -> Estimate:
    """Estimate on samples x (N, T, D) with labels y (N,)."""
    logits, worst, _ = forward(
        [tf.constant(w) for w in trained.weights], tf.constant(x), settings, tf.constant(settings.error_scale)
    )
    z, w = np.asarray(logits), np.asarray(worst)
    rows = np.arange(len(z))
    top = z.argmax(1)
    gap = z[rows, top][:, None] - z - w[rows, :, top]
    gap[rows, top] = np.inf
    correct = top == y
    second = np.sort(z, axis=1)
    return Estimate(
        float(correct.mean()),
        float((gap.min(1) > 0)[correct].mean()),
        float(np.median(second[:, -1] - second[:, -2])),
        float(np.median(np.sort(w[rows, :, top], axis=1)[:, -1])),
    )
