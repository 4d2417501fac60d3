"""Errors of a float32 evaluation, layer by layer: magnitudes between layers, a zonotope inside an LSTM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from codesign.checker.forms import Array, Box
from codesign.checker.result import CannotCheck
from codesign.network import without_final_softmax
from codesign.network.model import Dense, FloatNetwork, Lstm, Reshape
from codesign.proof.float32 import EXP, FLUSHED, LARGEST, SIGMOID, TANH, UNIT

HIDDEN = 2.0005  # above the error of a hidden value, whatever happened
LOST = 0.25  # an error of a hidden value, or 1e7 of a cell, from which on no more than that is derived
COLUMNS = 1024
OWN = 1e-13  # above our own rounding of sums of up to 400 terms; times their number beyond


class Vector(NamedTuple):
    """In B regions: magnitudes over the reals and errors in float32, (B, n)."""

    size: Array
    error: Array


class Step(NamedTuple):
    """Ranges over the reals in a step of an LSTM: arguments of gates i, f, g, o; the cell before and after."""

    gates: tuple[Box, Box, Box, Box]
    before: Box
    after: Box


def single(terms: int) -> float:
    """Above the relative error of a float32 sum of that many products."""
    return (terms + 1) * UNIT / (1 - (terms + 1) * UNIT)


def own(terms: int) -> float:
    return OWN * max(terms / 400, 1.0)


def image(function: str, z: Box) -> Box:
    """Of an increasing function; numpy is within a few units of 2^-53."""
    lo, hi = (_value(function, end) for end in (z.lo, z.hi))
    return Box(lo - 1e-14, hi + 1e-14).clip(0.0 if function == "sigmoid" else -1.0, 1.0)


def _value(function: str, z: Array) -> Array:
    return np.tanh(z) if function == "tanh" else 0.5 + 0.5 * np.tanh(0.5 * z)


def slope(function: str, z: Box) -> Box:
    """Of its derivative: s (1 - s) or 1 - t^2, largest where |z| is least."""
    nearest = np.clip(0.0, z.lo, z.hi)
    ends = []
    for point in (z.mag, nearest):
        power = np.exp(-np.abs(point) * (1 if function == "sigmoid" else 2))
        ends.append((1 if function == "sigmoid" else 4) * power / np.square(1 + power))
    return Box(ends[0] * (1 - 1e-12), ends[1] * (1 + 1e-12))


def rounding(size: Array, weights: Array, bias: Array) -> Array:
    """What a float32 sum of weights (m, n) times values of that size (B, n), and a bias, loses; any order."""
    total = size @ np.abs(weights).T + np.abs(bias)
    if not (total < LARGEST).all():
        raise CannotCheck("float32: sums that may overflow")
    flushed = 3 * (size.shape[1] + 1) * FLUSHED * (1 + np.abs(weights).max() + size.max())
    return np.asarray((single(size.shape[1] + 1) * total + flushed) * (1 + own(size.shape[1])))


class LstmErrors:
    """One layer's errors step by step. Columns of `h`, `c` (B, H, K) are independent errors in [-1, 1]."""

    def __init__(self, layer: Lstm) -> None:
        self.layer, self.units = layer, layer.units
        self.W, self.R = (m.reshape(4 * layer.units, -1).astype(np.float64) for m in (layer.W, layer.R))
        self.b = layer.b.reshape(-1).astype(np.float64)

    def run(self, inputs: Sequence[Vector], steps: Sequence[Step]) -> list[Vector]:
        """The hidden state's errors after every step; where they grow out of bounds, what holds anyway."""
        shape = (len(inputs[0].size), self.units)
        h = c = np.zeros((*shape, 0))
        size, outputs = np.zeros(shape), []
        for x, step in zip(inputs, steps, strict=True):
            h, c = self.fold(*self.step(x, step, size, h, c))
            size, error = hidden_size(step), _sum(h)
            if not bool((error < LOST).all() and (_sum(c) < 1e7).all()):
                break
            outputs.append(Vector(size, error))
        nothing = Vector(np.ones(shape), np.full(shape, HIDDEN))
        return outputs + [nothing] * (len(inputs) - len(outputs))

    def fold(self, h: Array, c: Array) -> tuple[Array, Array]:
        """The older half of too many columns replaced by one a value."""
        width = 2 * self.units
        most = max(COLUMNS // width, 4)
        if h.shape[2] <= most * width:
            return h, c
        old, H = most // 2 * width, self.units
        fresh = [np.zeros((*h.shape[:2], width)) for _ in range(2)]
        for k, (columns, value) in enumerate(zip(fresh, (h, c), strict=True)):
            columns[:, range(H), k * H + np.arange(H)] = _sum(value[:, :, :old])
        new_h, new_c = (np.concatenate([f, v[:, :, old:]], axis=2) for f, v in zip(fresh, (h, c), strict=True))
        return new_h, new_c

    def loss(self, x: Vector, size: Array, h_error: Array) -> Array:
        """What the gates' sums round, (B, 4H)."""
        values = np.concatenate([x.size + x.error, size + h_error], axis=1)
        return rounding(values, np.concatenate([self.W, self.R], axis=1), self.b)

    def step(self, x: Vector, step: Step, size: Array, h: Array, c: Array) -> tuple[Array, Array]:
        H, names, s, t = self.units, ("sigmoid", "sigmoid", "tanh", "sigmoid"), SIGMOID * UNIT, TANH * UNIT
        h_error, c_error = _sum(h), _sum(c)
        lost = self.loss(x, size, h_error) + x.error @ np.abs(self.W).T + own(H) * (h_error @ np.abs(self.R).T)
        lost = lost * (1 + own(x.size.shape[1]))
        moved = np.einsum("mh,bhk->bmk", self.R, h, optimize=True)
        rows = [slice(k * H, (k + 1) * H) for k in range(4)]
        gate_moved, gate_lost = [moved[:, r] for r in rows], [lost[:, r] for r in rows]
        dz = [_sum(m) + rest for m, rest in zip(gate_moved, gate_lost, strict=True)]
        slopes = [slope(n, z.widen(d)) for n, z, d in zip(names, step.gates, dz, strict=True)]
        real = [image(n, z) for n, z in zip(names, step.gates, strict=True)]
        off = [k.mag * d + (t if n == "tanh" else s) for n, k, d in zip(names, slopes, dz, strict=True)]
        i, f, g, o = (r.widen(e) for r, e in zip(real, off, strict=True))
        old = step.before
        local = s * old.mag + s * real[2].mag + t * i.mag
        local = local + single(2) * (f.mag * (old.mag + c_error) + i.mag * g.mag) + 6 * FLUSHED
        factors = (real[2] * slopes[0], old * slopes[1], i * slopes[2])
        new_c = _mixed([(f, c, 0.0), *zip(factors, gate_moved[:3], gate_lost[:3], strict=True)], local)
        if self.layer.cell_clip:
            new_c = _clipped(new_c, step.after, self.layer.cell_clip)
        c_new = _sum(new_c)
        curve, tanh = slope("tanh", step.after.widen(c_new)), image("tanh", step.after)
        local = o.mag * t + tanh.mag * s + single(1) * o.mag * (tanh.mag + curve.mag * c_new + t) + 3 * FLUSHED
        last = np.pad(gate_moved[3], ((0, 0), (0, 0), (0, H)))
        new_h = _mixed(((o * curve, new_c, 0.0), (tanh * slopes[3], last, gate_lost[3])), local)
        return new_h, np.pad(new_c, ((0, 0), (0, 0), (0, H)))


def hidden_size(step: Step) -> Array:
    return (image("sigmoid", step.gates[3]) * image("tanh", step.after)).mag


def _sum(columns: Array) -> Array:
    return np.asarray(np.abs(columns).sum(2) * (1 + own(columns.shape[2])))


def _mixed(parts: Sequence[tuple[Box, Array, Array | float]], local: Array) -> Array:
    """sum of factor times (columns + something of magnitude `lost`), factors in boxes; a new column a value."""
    total: Any = 0.0
    for box, columns, lost in parts:
        middle, reach = box.mid, _sum(columns)
        total = total + middle[:, :, None] * columns
        local = local + np.abs(middle) * lost + box.rad * (reach + lost) + OWN * box.mag * reach
    return np.concatenate([total, (local * (1 + 1e-12))[:, :, None] * np.eye(local.shape[1])], axis=2)


def _clipped(columns: Array, real: Box, clip: float) -> Array:
    """Behind a clip: any share from 0 to 1 of the error where it may act, half of it and as much again unknown."""
    error, H = _sum(columns), columns.shape[1]
    acts = real.mag + error >= clip
    half = np.where(acts, 0.5, 1.0)[:, :, None] * columns
    half[:, range(H), half.shape[2] - H + np.arange(H)] += np.where(acts, 0.5 * error, 0.0)
    return np.asarray(half)


def forward(
    network: FloatNetwork, inputs: list[Vector], lstm: Any, any_length: bool, rows: int, follow: Any = None
) -> tuple[Array, Array]:
    """Errors (B, outputs) of logits, with what a softmax may confuse of two of them, and of outputs.

    `lstm(layer, inputs)` gives the hidden states' errors, `follow(layer)` is told of every other layer. For any length
    there is one input and one row of outputs, which is repeated.
    """
    vectors, layers = inputs, without_final_softmax(network)
    for layer in layers:
        if follow is not None and not isinstance(layer, Lstm):
            follow(layer)
        if isinstance(layer, Lstm):
            vectors = lstm(layer, vectors)
            vectors = vectors if layer.return_sequences else vectors[-1:]
        elif isinstance(layer, Reshape):
            vectors = vectors if any_length else _reshaped(vectors, layer.shape[-1])
        elif isinstance(layer, Dense):
            vectors = [_activated(layer.activation, _dense(layer, v)) for v in vectors]
        else:
            vectors = [_activated(layer.kind, v) for v in vectors]
    vectors = vectors * (rows if any_length else 1)
    logits = np.concatenate([v.error for v in vectors], axis=1)
    if [*map(id, layers)] == [*map(id, network.layers)]:
        return logits, logits
    confused = np.concatenate([0.0 * v.error + _confused(v) for v in vectors], axis=1)
    return logits + confused, np.concatenate([_softmax(v) for v in vectors], axis=1)


def _dense(layer: Dense, x: Vector) -> Vector:
    W = np.abs(layer.W.astype(np.float64))
    room = 1 + own(W.shape[1])
    error = x.error @ W.T + rounding(x.size + x.error, W, layer.b.astype(np.float64))
    return Vector((x.size @ W.T + np.abs(layer.b)) * room, error * room)


def _activated(kind: str, x: Vector) -> Vector:
    one = np.ones_like(x.size)
    if kind == "sigmoid" or kind == "tanh":
        share, units = (0.25, SIGMOID) if kind == "sigmoid" else (1.0, TANH)
        return Vector(one, np.minimum(share * x.error + units * UNIT, HIDDEN))
    return Vector(one, _softmax(x)) if kind == "softmax" else x


def _reshaped(vectors: list[Vector], width: int) -> list[Vector]:
    size, error = (np.concatenate(side, axis=1) for side in zip(*vectors, strict=True))
    return [Vector(size[:, k : k + width], error[:, k : k + width]) for k in range(0, size.shape[1], width)]


def _softmax(x: Vector) -> Array:
    """A quarter of what the log-odds move by; the exponentials', the sum's and the quotient's roundings; 1 at most."""
    count = x.error.shape[1]
    apart = np.where(np.eye(count, dtype=bool), 0.0, x.error[:, :, None] + x.error[:, None, :])
    moved = 0.25 * apart.max(2)
    units = 2 * EXP + count + 2 * np.log(count) + 8
    return np.asarray(np.minimum(moved + 1.0099 * units * UNIT + count * FLUSHED, 1.0005))


def _confused(x: Vector) -> Array:
    reach = 2 * (x.size + x.error).max(1, keepdims=True)
    return np.asarray(1.0099 * UNIT * (EXP + 2 * reach + 4))


def replayed(layer: Lstm, count: int, noted: Iterator[tuple[str, Box]]) -> list[Step]:
    """Ranges of a layer's steps, as a replay of the zonotope noted them in its order."""

    def find(place: str) -> Box:
        return next(box for name, box in noted if name == place)

    steps: list[Step] = []
    for t in range(count):
        names = ("input and forget gate", "cell gate", "output gate", "cell tanh")
        both, g, o, after = (find(f"{layer.name}[{t}] {name}") for name in names)
        still = Box.full(0.0, 0.0, after.lo.shape)
        i, f = both.part(slice(0, layer.units)), both.part(slice(layer.units, None))
        steps.append(Step((i, f, g, o), steps[-1].after if steps else still, after))
    return steps
