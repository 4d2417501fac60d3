"""The training code: its worst-case recursion really is a worst case, its grid a grid, its runs repeatable."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import tensorflow as tf
from training import GATE_ERROR, Settings, configure, estimate, forward, snap, snap_gates, train

SETTINGS = Settings(units=(5, 4), low=-1.0, high=1.0, seed=3, epochs=4, batch=16)


@pytest.fixture(scope="module", autouse=True)
def _deterministic():
    configure(SETTINGS.seed)


def weights(rng, features=3, classes=4, gain=1.0):
    out, n = [], features
    for units in SETTINGS.units:
        for shape in ((n, 4 * units), (units, 4 * units), (4 * units,)):
            out.append(rng.normal(0, gain, shape).astype(np.float32))
        n = units
    return [*out, rng.normal(0, 1, (n, classes)).astype(np.float32), rng.normal(0, 1, classes).astype(np.float32)]


def lstm(x, kernel, recurrent, bias, gate_noise, hidden_noise):
    """Plain numpy LSTM with noise added to every pre-activation and every hidden value."""
    units = len(recurrent)
    h = c = np.zeros((len(x), units))
    sequence = []
    for t in range(x.shape[1]):
        z = x[:, t] @ kernel + h @ recurrent + bias + gate_noise[:, t]
        i, f, g, o = np.split(z, 4, axis=1)
        sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c) + hidden_noise[:, t]
        sequence.append(h)
    return np.stack(sequence, axis=1)


@pytest.mark.parametrize("gain", [0.1, 0.3])
def test_worst_case_covers_perturbed_networks(gain):
    """Extreme input moves and rounding noise never move a logit difference by more than the recursion allows."""
    rng = np.random.default_rng(7)
    w = weights(rng, gain=gain)
    n, steps = 200, 6
    x = np.repeat(rng.uniform(-1, 1, (1, steps, 3)), n, axis=0).astype(np.float32)
    logits, worst, snapped = forward([tf.constant(v) for v in w], tf.constant(x), SETTINGS, tf.constant(1.0))
    logits, worst, snapped = np.asarray(logits), np.asarray(worst), [np.asarray(v, np.float64) for v in snapped]
    move = 1.5 * 2 / 255  # radius of one step, and half a step of input rounding
    z = x + move * rng.choice([-1, 1], x.shape)
    clean = x.astype(np.float64)
    for layer, units in enumerate(SETTINGS.units):
        kernel, recurrent, bias = snapped[3 * layer : 3 * layer + 3]
        zero = np.zeros((n, steps, 4 * units)), np.zeros((n, steps, units))
        clean = lstm(clean, kernel, recurrent, bias, *zero)
        half = 0.5 * (max(clean.max(), 0) - min(clean.min(), 0)) / 255
        gate = GATE_ERROR * rng.choice([-1, 1], zero[0].shape)
        z = lstm(z, kernel, recurrent, bias, gate, half * rng.choice([-1, 1], zero[1].shape))
    np.testing.assert_allclose(clean[:, -1] @ snapped[-2] + snapped[-1], logits, atol=1e-5)
    moved = z[:, -1] @ snapped[-2] + snapped[-1]
    change = np.abs((moved[:, :, None] - moved[:, None, :]) - (logits[:, :, None] - logits[:, None, :]))
    assert (change <= worst + 1e-6).all()
    assert change.max() > 0.05 * worst.max()  # and it is not vacuous


def test_no_error_gives_no_deviation():
    w = [tf.constant(v) for v in weights(np.random.default_rng(1))]
    _, worst, _ = forward(w, tf.zeros((2, 6, 3)), SETTINGS, tf.constant(0.0))
    assert float(tf.reduce_max(worst)) == 0.0


def test_snapping_is_a_projection_on_the_int8_grid():
    w = tf.constant(np.random.default_rng(2).normal(size=(7, 20)).astype(np.float32))
    once = snap_gates(w)
    np.testing.assert_allclose(snap_gates(once), once, atol=1e-7)
    for gate in np.split(np.asarray(once), 4, axis=1):
        steps = gate / np.abs(gate).max() * 127
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    columns = np.asarray(snap(w, axis=0))
    steps = columns / np.abs(columns).max(axis=0) * 127
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    with tf.GradientTape() as tape:
        tape.watch(w)
        total = tf.reduce_sum(snap(w))
    np.testing.assert_array_equal(tape.gradient(total, w), np.ones((7, 20)))


def test_training_is_repeatable_and_learns():
    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, 256)
    x = np.clip(rng.normal(0, 0.2, (256, 2, 3)) + np.where(y, 0.5, -0.5)[:, None, None], -1, 1).astype(np.float32)
    settings = replace(SETTINGS, units=(3,))
    first, second = (train(x, y, 2, settings) for _ in range(2))
    for a, b in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert estimate(first, x, y, settings).accuracy > 0.9
