"""The abstract model's own worst case, from below: how tight a bound could be at best.

The abstract model is what the verifier bounds: the integer network over the reals, with every rounding and table error
free in its interval. Gradient ascent over the input and all of these symbols finds large values of |integer - float|;
the largest is a lower bound of the abstract model's supremum. The gap between it and a certified bound belongs to the
method; the gap between it and what the exact simulation shows belongs to worst-case rounding. It is reported, never
relied on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

import numpy as np

from codesign.network.evaluation import activate
from codesign.quantization.align import ActivationStage, DenseStage, LstmStage, ReshapeStage, Stage
from codesign.quantization.integer import IntegerNetwork
from codesign.verification import head, rounding
from codesign.verification.affine import Array, Box
from codesign.verification.lstm_noise import LstmNoise
from codesign.verification.regions import Region, reachable_inputs


@dataclass
class _Noise:
    """A noise variable: value in [lo, hi] at every place of its shape (P, ...), and its gradient."""

    lo: Array
    hi: Array
    value: Array
    grad: Array

    @staticmethod
    def of(lo: Array, hi: Array, particles: int, rng: np.random.Generator) -> _Noise:
        shape = (particles, *np.broadcast_shapes(lo.shape, hi.shape))
        low, high = np.broadcast_to(lo, shape), np.broadcast_to(hi, shape)
        value = low + (high - low) * rng.integers(0, 2, shape)
        return _Noise(low, high, value, np.zeros(shape))

    def step(self, rate: float) -> None:
        """Sign ascent inside the interval."""
        self.value = np.clip(self.value + rate * (self.hi - self.lo) * np.sign(self.grad), self.lo, self.hi)
        self.grad = np.zeros_like(self.grad)


class _Lstm:
    """Float and abstract integer LSTM side by side, forward and backward."""

    def __init__(self, stage: LstmStage, steps: int, particles: int, rng: np.random.Generator) -> None:
        op, self.last_only = stage.int_op, stage.last_only
        model = LstmNoise(stage.float_layer, op)
        self.w, H = model.weights, model.units
        self.units = H
        cell = 2.0**op.cell_shift
        e_c = cell * sum(rounding.requantization_error(m) for m in (op.forget_multiplier, op.input_gate_multiplier))
        e_h = op.output.scale * rounding.requantization_error(op.hidden_multiplier)
        sigma, tau = rounding.table_error("sigmoid"), rounding.table_error("tanh")
        tau_c = rounding.table_error("tanh", op.cell_shift)
        gate = np.concatenate([np.tile(t, (n * H, 1)) for t, n in ((sigma, 2), (tau, 1), (sigma, 1))])

        def noise(lo: Array, hi: Array) -> _Noise:
            return _Noise.of(np.tile(lo, (steps, 1)), np.tile(hi, (steps, 1)), particles, rng)

        self.e_z = noise(-self.w.rounding, self.w.rounding)
        self.e_s = noise(gate[:, 0], gate[:, 1])
        self.e_c = noise(np.full(H, -e_c), np.full(H, e_c))
        self.e_t = noise(np.full(H, tau_c[0]), np.full(H, tau_c[1]))
        self.e_h = noise(np.full(H, -e_h), np.full(H, e_h))
        self.noises = [self.e_z, self.e_s, self.e_c, self.e_t, self.e_h]
        self.hidden_range, self.cell_range = model.hidden_limit, model.cell_limit
        clip = stage.float_layer.cell_clip or np.inf
        self.float_range = (-clip, clip)

    def forward(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Float input x and integer input y, (P, T, D) each -> hidden sequences (P, T, H), or (P, 1, H) of the last."""
        w = self.w
        self.x_trace = self._run(x, w.W.value, w.R.value, w.b, False)
        self.y_trace = self._run(y, w.W_int.value, w.R_int.value, w.b_int, True)
        kept = slice(-1, None) if self.last_only else slice(None)
        return self.x_trace[0][:, kept], self.y_trace[0][:, kept]

    def _run(self, x: Array, W: Array, R: Array, b: Array, noisy: bool) -> tuple[Array, list[tuple[Array, ...]]]:
        H = self.units
        h = c = np.zeros((x.shape[0], H))
        hidden = np.empty((*x.shape[:2], H))
        saved: list[tuple[Array, ...]] = []
        for t in range(x.shape[1]):
            z = x[:, t] @ W.T + h @ R.T + b
            if noisy:
                z = np.clip(z + self.e_z.value[:, t], -8.0, 8.0)
            s = activate("sigmoid", z)
            s[:, 2 * H : 3 * H] = np.tanh(z[:, 2 * H : 3 * H])
            clean = s
            if noisy:
                s = s + self.e_s.value[:, t]
            i, f, g, o = (s[:, k * H : (k + 1) * H] for k in range(4))
            previous, c = c, f * c + i * g
            if noisy:
                c = c + self.e_c.value[:, t]
            limits = self.cell_range if noisy else self.float_range
            free = ((c >= limits[0]) & (c <= limits[1])).astype(np.float64)
            c = np.clip(c, *limits)
            squashed = np.tanh(c)
            used = squashed + self.e_t.value[:, t] if noisy else squashed
            h = o * used
            if noisy:
                h = np.clip(h + self.e_h.value[:, t], *self.hidden_range)
            hidden[:, t] = h
            saved.append((clean, i, f, g, o, previous, squashed, used, free))
        return hidden, saved

    def backward(self, grad_x: Array, grad_y: Array) -> tuple[Array, Array]:
        """Gradients at both outputs of `forward` -> at both inputs; fills the noises' gradients."""
        w = self.w
        if self.last_only:
            steps = self.x_trace[0].shape[1] - 1
            grad_x, grad_y = (np.pad(grad, ((0, 0), (steps, 0), (0, 0))) for grad in (grad_x, grad_y))
        return (
            self._back(self.x_trace[1], grad_x, w.W.value, w.R.value, False),
            self._back(self.y_trace[1], grad_y, w.W_int.value, w.R_int.value, True),
        )

    def _back(self, saved: list[tuple[Array, ...]], grad: Array, W: Array, R: Array, noisy: bool) -> Array:
        H = self.units
        dh, dc = np.zeros_like(grad[:, 0]), np.zeros_like(grad[:, 0])
        out = np.empty((*grad.shape[:2], W.shape[1]))
        for t in range(grad.shape[1] - 1, -1, -1):
            s, i, f, g, o, previous, squashed, used, free = saved[t]
            dh = dh + grad[:, t]
            dt = dh * o
            dc = (dc + dt * (1 - squashed**2)) * free
            ds = np.concatenate([dc * g, dc * previous, dc * i, dh * used], axis=1)
            slope = s * (1 - s)
            slope[:, 2 * H : 3 * H] = 1 - s[:, 2 * H : 3 * H] ** 2
            dz = ds * slope
            if noisy:
                for noise, value in ((self.e_h, dh), (self.e_t, dt), (self.e_c, dc), (self.e_s, ds), (self.e_z, dz)):
                    noise.grad[:, t] = value
            out[:, t] = dz @ W
            dh, dc = dz @ R, dc * f
        return out


class _Dense:
    def __init__(self, stage: DenseStage, rows: int, particles: int, rng: np.random.Generator) -> None:
        layer = stage.float_layer
        self.relu = stage.relu
        self.W, self.b = layer.W.astype(np.float64), layer.b.astype(np.float64)
        matrix, self.b_int, _, noise = head.effective_dense(stage.int_op)
        self.W_int = matrix.value
        self.noise = _Noise.of(np.tile(-noise, (rows, 1)), np.tile(noise, (rows, 1)), particles, rng)
        self.noises = [self.noise]

    def forward(self, x: Array, y: Array) -> tuple[Array, Array]:
        self.u, self.v = x @ self.W.T + self.b, y @ self.W_int.T + self.b_int + self.noise.value
        return (np.maximum(self.u, 0), np.maximum(self.v, 0)) if self.relu else (self.u, self.v)

    def backward(self, grad_x: Array, grad_y: Array) -> tuple[Array, Array]:
        if self.relu:
            grad_x, grad_y = grad_x * (self.u > 0), grad_y * (self.v > 0)
        self.noise.grad = grad_y
        return grad_x @ self.W, grad_y @ self.W_int


class _Reshape:
    """Row-major, to `rows` rows; the values of the last axis make one."""

    def __init__(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        self.before, self.after = before, after
        self.noises: list[_Noise] = []

    def forward(self, x: Array, y: Array) -> tuple[Array, Array]:
        return x.reshape(len(x), *self.after), y.reshape(len(y), *self.after)

    def backward(self, grad_x: Array, grad_y: Array) -> tuple[Array, Array]:
        return grad_x.reshape(len(grad_x), *self.before), grad_y.reshape(len(grad_y), *self.before)


_Layer = Union[_Lstm, _Dense, _Reshape]


def _shapes(stages: Sequence[Stage], before: tuple[int, int]) -> list[tuple[int, int]]:
    """(rows, values of a row) in front of each stage, and at the end; `before` is that of the input."""
    shapes = [before]
    for stage in stages:
        rows, width = shapes[-1]
        if isinstance(stage, LstmStage):
            rows, width = 1 if stage.last_only else rows, stage.float_layer.units
        elif isinstance(stage, DenseStage):
            width = stage.float_layer.W.shape[0]
        elif isinstance(stage, ReshapeStage):
            rows, width = rows * width // stage.shape[-1], stage.shape[-1]
        shapes.append((rows, width))
    return shapes


def _layers(
    stages: Sequence[Stage], shapes: Sequence[tuple[int, int]], particles: int, rng: np.random.Generator
) -> list[_Layer]:
    layers: list[_Layer] = []
    for stage, before, after in zip(stages, shapes, shapes[1:], strict=False):
        if isinstance(stage, LstmStage):
            layers.append(_Lstm(stage, before[0], particles, rng))
        elif isinstance(stage, DenseStage):
            layers.append(_Dense(stage, before[0], particles, rng))
        elif isinstance(stage, ReshapeStage):
            layers.append(_Reshape(before, after))
    return layers


def abstract_lower(
    stages: Sequence[Stage],
    network: IntegerNetwork,
    region: Region,
    rng: np.random.Generator,
    restarts: int = 2,
    iterations: int = 12,
) -> Array | None:
    """Lower bound of sup |integer - float| in the abstract model, per value at the last layer before a final softmax.

    None for chains with an elementwise activation of their own, which is not modelled here.
    """
    if any(isinstance(stage, ActivationStage) and stage.kind != "softmax" for stage in stages):
        return None
    steps, features = region.lo.shape
    shapes = _shapes(stages, (steps, features))
    rows, outputs = shapes[-1]
    total = rows * outputs
    particles = total * restarts * 2
    layers = _layers(stages, shapes, particles, rng)
    x = _Noise.of(region.lo, region.hi, particles, rng)
    half = np.full(region.lo.shape, 0.0 if region.kind == "grid" else 0.5 * network.input.scale)
    dx = _Noise.of(-half, half, particles, rng)
    grid = reachable_inputs(network.input, Box(region.lo, region.hi))
    weights = np.tile(np.concatenate([np.eye(total), -np.eye(total)]), (restarts, 1)).reshape(particles, rows, outputs)
    best = np.zeros(total)
    for iteration in range(iterations):
        u, v = x.value, np.clip(x.value + dx.value, grid.lo, grid.hi)
        for layer in layers:
            u, v = layer.forward(u, v)
        reached = (weights * (v - u)).sum((1, 2)).reshape(restarts, 2, total)
        best = np.maximum(best, reached.max((0, 1)))
        grad_x, grad_y = -weights, weights
        for layer in reversed(layers):
            grad_x, grad_y = layer.backward(grad_x, grad_y)
        x.grad, dx.grad = grad_x + grad_y, grad_y
        rate = 1.0 if iteration < iterations // 3 else 0.5 if iteration < 2 * iterations // 3 else 0.25
        for noise in (x, dx, *(n for layer in layers for n in layer.noises)):
            noise.step(rate)
    return best
