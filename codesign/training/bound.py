"""The all-inputs bound on |integer - float| as a differentiable function of a network's weights.

The elementwise comparison system of `codesign.verification.comparison`, in TensorFlow and without its margins: sets of
coefficients are sampled where the certificate encloses them, saturation is left out (`codesign.training.ranges` gives
the exported model ranges that cover the domain). So it estimates the certificate closely, and proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.errors import InputError
from codesign.quantization import Activations

SIGMOID_TABLE_ERROR = 1.02 * 2.0**-15
TANH_TABLE_ERROR = 2.44 * 2.0**-15
GATE_STEP = 2.0**-12
GATE_LIMIT = 7.9  # each half of a gate's argument saturates at 8
CAP = 10.0  # differences beyond use
SETTLED = 24  # steps until ranges have settled, where the bound is for any number of steps


@dataclass(frozen=True)
class LstmVariables:
    """Kernel (D, 4H), recurrent kernel (H, 4H), bias (4H), in Keras' layout."""

    kernel: Any
    recurrent: Any
    bias: Any


@dataclass(frozen=True)
class DenseVariables:
    """Kernel (N, M), bias (M), and an activation of codesign.network; a final softmax is left out."""

    kernel: Any
    bias: Any
    activation: str


Layer = LstmVariables | DenseVariables


@dataclass(frozen=True)
class BoundModel:
    """What the bound depends on besides weights. `low`, `high`: the domain, a float or one per feature.

    `steps`: the number of time steps, or None for any number. `caution`: a factor on the differences after every step;
    above 1 it stands for what the certificate's enclosures are wider than the samples taken here.
    """

    low: Any
    high: Any
    activations: Activations
    steps: int | None
    caution: float = 1.0


@dataclass
class _Range:
    lo: Any
    hi: Any

    @property
    def mid(self) -> Any:
        return 0.5 * (self.lo + self.hi)

    @property
    def rad(self) -> Any:
        return 0.5 * (self.hi - self.lo)

    @property
    def mag(self) -> Any:
        import tensorflow as tf

        return tf.maximum(tf.abs(self.lo), tf.abs(self.hi))

    def widen(self, r: Any) -> _Range:
        return _Range(self.lo - r, self.hi + r)


def _affine(x: _Range, kernel: Any, bias: Any) -> _Range:
    import tensorflow as tf

    mid = tf.linalg.matvec(kernel, x.mid, transpose_a=True) + bias
    rad = tf.linalg.matvec(tf.abs(kernel), x.rad, transpose_a=True)
    return _Range(mid - rad, mid + rad)


def _product(a: _Range, b: _Range) -> _Range:
    import tensorflow as tf

    corners = tf.stack([a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi])
    return _Range(tf.reduce_min(corners, 0), tf.reduce_max(corners, 0))


def _map(function: Any, x: _Range) -> _Range:
    return _Range(function(x.lo), function(x.hi))


def _gate_points(s: _Range, t: _Range) -> tuple[Any, Any]:
    """Samples (7, H) of s (1 - s) t and of s (1 - t^2): s largest with all of t, s nearest 1/2 with t's ends."""
    import tensorflow as tf

    zero, half = (tf.minimum(tf.maximum(v, r.lo), r.hi) for v, r in ((tf.zeros_like(t.lo), t), (_halves(s), s)))
    ts = tf.stack([t.lo, 0.5 * (t.lo + zero), zero, 0.5 * (t.hi + zero), t.hi, t.lo, t.hi])
    ss = tf.stack([s.hi] * 5 + [half] * 2)
    return ss * (1 - ss) * ts, ss * (1 - ts * ts)


def _halves(s: _Range) -> Any:
    import tensorflow as tf

    return tf.fill(tf.shape(s.lo), 0.5)


def _capped(x: Any) -> Any:
    """x, growing with its logarithm only beyond CAP: it cannot overflow, and its gradient is never lost."""
    import tensorflow as tf

    return tf.where(x < CAP, x, CAP * (1 + tf.math.log(tf.maximum(x, CAP) / CAP)))


def _power_of_two(x: Any) -> Any:
    import tensorflow as tf

    return tf.stop_gradient(2.0 ** tf.math.ceil(tf.math.log(tf.maximum(x, 2.0**-5)) / np.log(2.0)))


class _LstmBound:
    def __init__(self, layer: LstmVariables, model: BoundModel) -> None:
        import tensorflow as tf

        self.int16 = model.activations == "int16"
        self.caution = model.caution
        self.layer = layer
        self.units = int(layer.recurrent.shape[0])
        self.gates = tf.split(tf.concat([layer.recurrent, layer.kernel], 0), 4, axis=1)  # (H + D, H) each

    def ranges(self, x: _Range, h: _Range, c: _Range) -> tuple[_Range, _Range, list[_Range]]:
        import tensorflow as tf

        z = _affine(x, self.layer.kernel, self.layer.bias)
        r = _affine(h, self.layer.recurrent, tf.zeros_like(self.layer.bias))
        lo, hi = tf.split(z.lo + r.lo, 4), tf.split(z.hi + r.hi, 4)
        gates = [_Range(a, b) for a, b in zip(lo, hi, strict=True)]
        i, f, g, o = (_map(tf.tanh if k == 2 else tf.sigmoid, v) for k, v in enumerate(gates))
        fc, ig = _product(f, c), _product(i, g)
        new = _Range(fc.lo + ig.lo, fc.hi + ig.hi)
        return _product(o, _map(tf.tanh, new)), new, gates

    def noise(self, x: _Range, h: _Range, dh: Any) -> Any:
        """Largest rounding of a gate's argument, (4H)."""
        import tensorflow as tf

        reach = _Range(tf.maximum(h.lo - dh, -1.0), tf.minimum(h.hi + dh, 1.0))
        parts = (_affine(x, self.layer.kernel, self.layer.bias), _affine(reach, self.layer.recurrent, 0.0))
        excess = tf.add_n([tf.nn.relu(part.mag - GATE_LIMIT) for part in parts])
        if not self.int16:
            return 1.1 * GATE_STEP + excess
        size = tf.linalg.matvec(tf.abs(self.layer.kernel), x.mag, transpose_a=True) + tf.linalg.matvec(
            tf.abs(self.layer.recurrent), h.mag, transpose_a=True
        )
        return GATE_STEP + 2.0**-16 * size + excess

    def step(self, x: _Range, dx: Any, state: _State, s_h: Any, s_c: Any) -> _State:
        """One step of the comparison system."""
        import tensorflow as tf

        H = self.units
        h, c, gates = self.ranges(x, state.h, state.c)
        noise = tf.reshape(self.noise(x, state.h, state.dh), (4, H))
        sources = tf.concat([state.dh, dx], 0)
        dz = [tf.linalg.matvec(tf.abs(w), sources, transpose_a=True) + noise[k] for k, w in enumerate(self.gates)]
        wide = [v.widen(d) for v, d in zip(gates, dz, strict=True)]
        i, f, g, o = (_map(tf.tanh if k == 2 else tf.sigmoid, v) for k, v in enumerate(wide))
        c_wide = state.c.widen(state.dc)
        a_i, a_g = _gate_points(i, g)  # (7, H)
        steepest = tf.minimum(tf.maximum(_halves(f), f.lo), f.hi)
        a_f = steepest * (1 - steepest) * tf.stack([c_wide.lo, c_wide.hi])
        cell_error = SIGMOID_TABLE_ERROR * (c_wide.mag + g.mag) + i.hi * TANH_TABLE_ERROR + s_c * 1.0001
        # (7, H + D, H) and (2, H + D, H): inputs that gates share keep the signs of their weights
        write = a_i[:, None, :] * self.gates[0][None] + a_g[:, None, :] * self.gates[2][None]
        forget = a_f[:, None, :] * self.gates[1][None]
        shared = tf.einsum("abjh,j->abh", tf.abs(write[:, None] + forget[None]), sources)
        own = (tf.abs(a_i) * noise[0] + tf.abs(a_g) * noise[2])[:, None] + (tf.abs(a_f) * noise[1])[None]
        dc = tf.reduce_max(shared + own, axis=(0, 1)) + f.hi * state.dc + cell_error
        t = _map(tf.tanh, c.widen(dc))
        b_o, b_c = _gate_points(o, t)
        hidden_error = SIGMOID_TABLE_ERROR * t.mag + o.hi * TANH_TABLE_ERROR + 0.5001 * s_h
        dh = tf.reduce_max(tf.abs(b_o) * dz[3] + b_c * dc, axis=0) + hidden_error
        return _State(h, c, _capped(self.caution * dh), _capped(self.caution * dc))

    def run(self, x_lo: Any, x_hi: Any, dx: Any) -> tuple[Any, Any, Any]:
        """(lo, hi, difference) of the hidden state after every step, (T, H), from those of the input, (T, D)."""
        import tensorflow as tf

        steps = int(x_lo.shape[0])
        zero = tf.zeros([self.units])

        def float_body(t: Any, h_lo: Any, h_hi: Any, c_lo: Any, c_hi: Any, low: Any, high: Any, cell: Any) -> Any:
            h, c, _ = self.ranges(_Range(x_lo[t], x_hi[t]), _Range(h_lo, h_hi), _Range(c_lo, c_hi))
            low, high = tf.minimum(low, tf.reduce_min(h.lo)), tf.maximum(high, tf.reduce_max(h.hi))
            return t + 1, h.lo, h.hi, c.lo, c.hi, low, high, tf.maximum(cell, tf.reduce_max(c.mag))

        nought = tf.zeros([])
        *_, low, high, cell = tf.while_loop(
            lambda t, *_: t < steps, float_body, (0, zero, zero, zero, zero, nought, nought, nought),
            maximum_iterations=steps,
        )  # fmt: skip
        s_h = tf.constant(2.0**-15) if self.int16 else (high - low) / 255.0
        s_c = _power_of_two(cell) * 2.0**-15

        def body(t: Any, h_lo: Any, h_hi: Any, c_lo: Any, c_hi: Any, dh: Any, dc: Any, a: Any, b: Any, d: Any) -> Any:
            before = _State(_Range(h_lo, h_hi), _Range(c_lo, c_hi), dh, dc)
            v = self.step(_Range(x_lo[t], x_hi[t]), dx[t], before, s_h, s_c)
            return (
                t + 1, v.h.lo, v.h.hi, v.c.lo, v.c.hi, v.dh, v.dc,
                a.write(t, v.h.lo), b.write(t, v.h.hi), d.write(t, v.dh),
            )  # fmt: skip

        arrays = [tf.TensorArray(tf.float32, size=steps, element_shape=[self.units]) for _ in range(3)]
        *_, a, b, d = tf.while_loop(
            lambda t, *_: t < steps, body, (0, zero, zero, zero, zero, zero, zero, *arrays), maximum_iterations=steps
        )
        return a.stack(), b.stack(), d.stack()


@dataclass
class _State:
    h: _Range
    c: _Range
    dh: Any
    dc: Any


def output_bound(layers: Sequence[Layer], model: BoundModel) -> tuple[Any, Any]:
    """Bounds (M,) of the logits' differences and (M, M) of the differences of every two, at the last step.

    InputError without an LSTM.
    """
    import tensorflow as tf

    features = int(layers[0].kernel.shape[0])
    low, high = (tf.broadcast_to(tf.constant(np.asarray(v, np.float32)), [features]) for v in (model.low, model.high))
    top, bottom = tf.maximum(tf.reduce_max(high), 0.0), tf.minimum(tf.reduce_min(low), 0.0)
    step = (top - bottom) / 255.0 if model.activations == "int8" else tf.maximum(top, -bottom) / 32767.0
    steps = model.steps or SETTLED
    x_lo, x_hi, dx = (tf.tile(v[None], [steps, 1]) for v in (low, high, tf.fill([features], 0.5 * step)))
    lstms = [layer for layer in layers if isinstance(layer, LstmVariables)]
    if not lstms or lstms != list(layers[: len(lstms)]):
        raise InputError("the all-inputs bound in training takes LSTM layers followed by Dense layers")
    for layer in lstms:
        x_lo, x_hi, dx = _LstmBound(layer, model).run(x_lo, x_hi, dx)
    difference = dx[-1]
    if model.steps is None:
        difference = _limit(dx[-3], dx[-2], dx[-1])
    return _head(layers[len(lstms) :], _Range(x_lo[-1], x_hi[-1]), difference, model)


def _limit(a: Any, b: Any, c: Any) -> Any:
    """Where the growing sequence a, b, c, ... goes if its increments keep shrinking geometrically (Aitken)."""
    import tensorflow as tf

    first, second = tf.reduce_sum(b - a), tf.reduce_sum(c - b)
    ratio = tf.clip_by_value(second / tf.maximum(first, 1e-12), 0.0, 0.99)
    return c + (c - b) * ratio / (1 - ratio)


def _head(layers: Sequence[Layer], value: _Range, d: Any, model: BoundModel) -> tuple[Any, Any]:
    import tensorflow as tf

    pairs = d[:, None] + d[None, :]
    for layer in layers:
        assert isinstance(layer, DenseVariables)
        out = _affine(value, layer.kernel, layer.bias)
        spread = tf.maximum(tf.reduce_max(out.hi), 0.0) - tf.minimum(tf.reduce_min(out.lo), 0.0)
        s_out = 1.06 * spread / 255.0 if model.activations == "int8" else 2 * tf.reduce_max(out.mag) / 32767.0
        gap = tf.abs(layer.kernel[:, :, None] - layer.kernel[:, None, :])
        pairs = tf.einsum("n,nij->ij", d, gap) + 1.1 * s_out
        d = tf.linalg.matvec(tf.abs(layer.kernel), d, transpose_a=True) + 0.55 * s_out
        if layer.activation == "relu":
            out = _Range(tf.nn.relu(out.lo), tf.nn.relu(out.hi))
        elif layer.activation in ("tanh", "sigmoid"):
            d = d * (1.0 if layer.activation == "tanh" else 0.25) + 2.0**-7
            out = _map(getattr(tf, layer.activation), out)
            pairs = d[:, None] + d[None, :]
        value = out
    return d, pairs
