"""How far a float32 evaluation of the float network can be from the function over the reals, over a region.

A running error analysis (Higham, Accuracy and Stability of Numerical Algorithms, ch. 3) under the model of
`codesign.proof.float32`. With hats for what is computed, an LSTM step is, exactly,

    z^ - z   = W (x^ - x) + R (h^ - h) + e_z              |e_z| <= gamma (|W||x^| + |R||h^| + |b|)
    c'^ - c' = f^ (c^ - c) + c (f^ - f) + i^ (g^ - g) + g (i^ - i) + e_c
    h'^ - h' = o^ (t^ - t) + t (o^ - o) + e_h             t = tanh(c')

and f^ - f = sigmoid'(xi) (z^ - z) + e by the mean value theorem: linear in the errors before, with coefficients in
intervals that follow from the certified ranges of z and c'. Errors are kept as a zonotope over what each step adds, so
that the signs of the weights count; the intervals' radii and all roundings, ours too, go to a fresh symbol of each
value. The oldest symbols are folded. Between layers only magnitudes are handed on. docs/soundness.md, lemma 20.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from codesign.errors import InputError
from codesign.network import without_final_softmax
from codesign.network.evaluation import layer_shapes
from codesign.network.model import ActivationKind, Dense, FloatNetwork, Lstm, Reshape
from codesign.proof.float32 import EXP, FLUSHED, LARGEST, SIGMOID, TANH, UNIT, softmax_rounding
from codesign.verification import relaxation
from codesign.verification.affine import Array, Box, Matrix, product_box
from codesign.verification.comparison import FloatLayer, affine_box
from codesign.verification.relaxation import Function, RelaxationBatch

TRIVIAL = 2.001  # two hidden values, each of magnitude 1 and a few units at most
DIVERGED = 0.2  # a hidden error from which nothing but TRIVIAL is known
_CELL_DIVERGED = 1e6
_SYMBOLS = 1024  # of a layer's state, beyond which the oldest are folded
_OWN = 1e-12  # covers our own binary64 roundings: sums of less than 2^12 signed products, relative to their magnitudes
_ROOM = 1 + 1e-5  # a checker's ranges and roundings are others
_ABSOLUTE_ROOM = 1e-12
_ITERATIONS = 3000


class Values(NamedTuple):
    """A vector in every region: largest magnitude over the reals, and error in float32, (B, n) each."""

    size: Array
    error: Array


class StepRange(NamedTuple):
    """Ranges over the reals in one LSTM step: the gates' arguments (B, 4H), the cell before it and after it (B, H)."""

    z: Box
    before: Box
    c: Box


@dataclass(frozen=True, eq=False)
class Budget:
    """Bounds (B, outputs) on |float32 evaluation - real function|, before a final softmax and at the output.

    Those of logits are for comparing two of them too: what a float32 softmax may confuse besides is included.
    `states`: for any length, errors (2H,) of (h, c) of each LSTM that no step leaves; None where there are none.
    """

    logits: Array
    output: Array
    states: tuple[Array | None, ...] = ()


def gamma(terms: int) -> float:
    """Of a float32 sum of that many products, in any order, fused or not; one rounding of room."""
    total = (terms + 1) * UNIT
    return total / (1 - total) * (1 + 1e-6)


def budget(
    network: FloatNetwork,
    size: Array,
    ranges: Sequence[Sequence[StepRange]] | None,
    kind: Callable[[Lstm], LayerErrors] | None = None,
    any_length: bool = False,
) -> Budget:
    """Of inputs (B, T, D) of at most these magnitudes; for any length T is 1, and `ranges` hold at every step.

    `ranges`: of each LSTM at every step; None where nothing is known of them. `kind` makes what propagates an LSTM's
    errors (default: `LayerErrors`). InputError where float32 may overflow.
    """
    kept = without_final_softmax(network)
    softmax = [*map(id, kept)] != [*map(id, network.layers)]
    found = None if ranges is None else iter(ranges)
    vectors = [Values(size[:, t], np.zeros_like(size[:, t])) for t in range(size.shape[1])]
    states: list[Array | None] = []
    for layer in kept:
        if isinstance(layer, Lstm):
            known = None if found is None else next(found)
            if any_length and known is not None:
                vector, state = _for_ever((kind or LayerErrors)(layer), vectors[0], known[0])
                vectors = [vector]
                states.append(state)
            else:
                vectors = _lstm((kind or LayerErrors)(layer), vectors, known)
            if not layer.return_sequences:
                vectors = vectors[-1:]
        elif isinstance(layer, Dense):
            vectors = [_activated(layer.activation, _affine(layer, v)) for v in vectors]
        elif isinstance(layer, Reshape):
            vectors = _reshaped(vectors, layer.shape, any_length)
        else:
            vectors = [_activated(layer.kind, v) for v in vectors]
    if any_length:
        vectors = vectors * _rows(network)
    outputs: list[Array] = [_softmax(v) for v in vectors] if softmax else [v.error for v in vectors]
    extra: list[Array] = [_confused(v) if softmax else np.zeros_like(v.error) for v in vectors]
    logits: Array = np.concatenate([v.error + e for v, e in zip(vectors, extra, strict=True)], axis=1)
    return Budget(_stated(logits), _stated(np.concatenate(outputs, axis=1)), tuple(states))


def _stated(error: Array) -> Array:
    return np.asarray(error * _ROOM + _ABSOLUTE_ROOM)


def _rows(network: FloatNetwork) -> int:
    return int(np.prod(layer_shapes(network)[-1][:-1], dtype=np.int64))


def recorded(network: FloatNetwork, batches: Iterable[RelaxationBatch]) -> list[list[StepRange]]:
    """The ranges that a propagation (`codesign.verification.propagate`) noted, of each LSTM at every step."""
    boxes = ((b.place, Box(b.lower[0], b.upper[0])) for b in batches if b.kind in ("sigmoid", "tanh") and not b.chosen)
    found = []
    shapes = (network.input_shape, *layer_shapes(network))
    for layer, shape in zip(network.layers, shapes, strict=False):
        if not isinstance(layer, Lstm):
            continue
        steps, H = [], layer.units
        c: Box | None = None
        for t in range(shape[0]):  # behind a reshape these are not the network's steps
            sides = []
            for name in ("gates", "cell gate", "cell tanh"):
                wanted = f"{layer.name}[{t}] {name}, range"
                sides.append(next(box for place, box in boxes if place == wanted))
            ifo, g, new = sides
            z = Box.joined([ifo.rows(slice(0, 2 * H)), g, ifo.rows(slice(2 * H, None))])
            before = Box(np.zeros_like(new.lo), np.zeros_like(new.hi)) if c is None else c
            steps.append(StepRange(z, before, new))
            c = new
        found.append(steps)
    return found


def interval_ranges(network: FloatNetwork, lo: Array, hi: Array, any_length: bool) -> list[list[StepRange]]:
    """The same by interval arithmetic over one box of inputs (T, D); for any length one range that holds for ever.

    ArithmeticError where a state has no bounded range.
    """
    boxes = [Box(a, b) for a, b in zip(lo, hi, strict=True)][: 1 if any_length else None]
    found = []
    for layer in without_final_softmax(network):
        if isinstance(layer, Lstm):
            floats, zero = FloatLayer.of(layer), np.zeros(layer.units)
            h = c = Box(zero, zero)
            steps, outputs = [], []
            for x in boxes:
                h, before = floats.invariant(x) if any_length else (h, c)
                z = floats.gates(x, h)
                new, c = floats.step(z, before)
                c = before if any_length else c
                steps.append(StepRange(*(Box(v.lo[None], v.hi[None]) for v in (z, before, c))))
                h = h if any_length else new
                outputs.append(h)
            found.append(steps)
            boxes = outputs if layer.return_sequences or any_length else outputs[-1:]
        elif isinstance(layer, Dense):
            W, b = Matrix.exact(layer.W), layer.b.astype(np.float64)
            boxes = [_interval_activation(layer.activation, affine_box([(W, x)], b)) for x in boxes]
        elif isinstance(layer, Reshape):
            width, mag = layer.shape[-1], np.concatenate([x.mag for x in boxes])
            if not (any_length or width == len(boxes[0].lo)):
                boxes = [Box(-m, m) for m in mag.reshape(-1, width)]
        else:
            boxes = [_interval_activation(layer.kind, x) for x in boxes]
    return found


def _interval_activation(kind: ActivationKind, x: Box) -> Box:
    if kind == "relu":
        return Box(np.maximum(x.lo, 0.0), np.maximum(x.hi, 0.0))
    return relaxation.image(kind, x) if kind == "sigmoid" or kind == "tanh" else x


def _affine(layer: Dense, x: Values) -> Values:
    W, b = np.abs(layer.W.astype(np.float64)), np.abs(layer.b.astype(np.float64))
    size = (x.size @ W.T + b) * (1 + _OWN)
    return Values(size, x.error @ W.T + _rounded(x.size + x.error, W, b))


def _rounded(x: Array, W: Array, b: Array) -> Array:
    """What a float32 W x + b, of these magnitudes, can lose."""
    total = x @ W.T + b
    _finite(total)
    return np.asarray((gamma(W.shape[1] + 1) * total + _lost(W.shape[1], W, x)) * (1 + _OWN))


def _lost(terms: int, W: Array, x: Array) -> float:
    """By flushing subnormal numbers: factors and results."""
    return float(4 * (terms + 1) * FLUSHED * (1 + W.max() + x.max()))


def _finite(total: Array) -> None:
    if not (total < LARGEST).all():
        raise InputError(
            "the float model's sums can overflow in float32 over such inputs: what Keras computes has no bound; scale "
            "its inputs or weights"
        )


def _activated(kind: ActivationKind, x: Values) -> Values:
    """Elementwise: relu, sigmoid and tanh are Lipschitz with 1, 1/4 and 1."""
    one = np.ones_like(x.size)
    if kind == "sigmoid":
        return Values(one, np.minimum(0.25 * x.error + SIGMOID * UNIT, TRIVIAL))
    if kind == "tanh":
        return Values(one, np.minimum(x.error + TANH * UNIT, TRIVIAL))
    return Values(one, _softmax(x)) if kind == "softmax" else x


def _reshaped(vectors: list[Values], shape: tuple[int, ...], any_length: bool) -> list[Values]:
    """Row-major; a certificate of any length has one row, whatever the number of steps."""
    if any_length:
        return vectors
    parts = (np.concatenate(part, axis=1).reshape(len(part[0]), -1, shape[-1]) for part in zip(*vectors, strict=True))
    size, error = parts
    return [Values(size[:, k], error[:, k]) for k in range(size.shape[1])]


def _softmax(logits: Values) -> Array:
    """p_i moves by at most p_i (1 - p_i) of what its log-odds move by; then the rounding of the softmax itself."""
    error, count = logits.error, logits.error.shape[1]
    others = np.where(np.eye(count, dtype=bool), -np.inf, error[:, None, :]).max(2) if count > 1 else -error
    moved = 0.25 * (error + others)
    return np.asarray(np.minimum(moved + softmax_rounding(count), 1.001))


def _confused(logits: Values) -> Array:
    """How much further apart float32 logits have to be, each of two, for the larger to have the larger probability.

    exp(v_i) and exp(v_j) are off by EXP + 2 |v| units relatively, the quotients by another two.
    """
    spread = 2 * (logits.size + logits.error).max(1, keepdims=True)
    return np.asarray(np.zeros_like(logits.error) + 1.01 * UNIT * (EXP + 2 * spread + 4))


def _unknown(like: Array, units: int) -> Values:
    one = np.ones((len(like), units))
    return Values(one, TRIVIAL * one)


def _lstm(layer: LayerErrors, inputs: Sequence[Values], ranges: Sequence[StepRange] | None) -> list[Values]:
    """The hidden state after every step."""
    unknown = _unknown(inputs[0].size, layer.units)
    if ranges is None:
        return [unknown] * len(inputs)
    one = unknown.size
    state, outputs = Errors(np.zeros((len(one), 2 * layer.units, 0))), []
    blocks = max(_SYMBOLS // (2 * layer.units), 4)
    h_size = np.zeros_like(one)
    for x, known in zip(inputs, ranges, strict=True):
        state = layer.step(x, state, known, h_size).folded(blocks)
        h_size = layer.hidden_size(known)
        error = state.magnitude
        outputs.append(Values(h_size, error[:, : layer.units]))
        if diverged(error):
            return outputs[:-1] + [unknown] * (len(inputs) - len(outputs) + 1)
    return outputs


def diverged(error: Array) -> bool:
    """(B, 2H): whether errors of (h, c) have grown to where only trivial bounds make sense."""
    H = error.shape[1] // 2
    return not bool((error[:, :H] < DIVERGED).all() and (error[:, H:] < _CELL_DIVERGED).all())


def _for_ever(layer: LayerErrors, x: Values, known: StepRange) -> tuple[Values, Array | None]:
    """The hidden state's errors, and those of the state that no step leaves, by iteration from none; None if they grow.

    Every eighth step guesses where the increments, shrinking geometrically, lead: any candidate will do.
    """
    size, error = layer.hidden_size(known), np.zeros((1, 2 * layer.units))
    before, last_step = error, error
    for iteration in range(_ITERATIONS):
        ahead, guess = error * 1.001 + 1e-9, iteration % 8 == 7
        if guess:
            step = error - before
            ratio = min(float((step / np.maximum(last_step, 1e-300)).max()), 0.999)
            ahead = (error + step * (ratio / (1 - ratio))) * 1.002 + 1e-9
        image = layer.step(x, Errors.of(ahead), known, size).magnitude
        if (image * _ROOM <= ahead).all() and not diverged(ahead):
            layer.settled(x, Errors.of(ahead), known, size)
            return Values(size, ahead[:, : layer.units]), ahead[0]
        if guess:
            continue
        if diverged(image):
            break
        last_step = error - before
        before, error = error, np.maximum(error, image)
    return _unknown(size, layer.units), None


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors of (h, c) as a zonotope around 0, (B, 2H, symbols)."""

    symbols: Array

    @staticmethod
    def of(magnitude: Array) -> Errors:
        return Errors(magnitude[:, :, None] * np.eye(magnitude.shape[1]))

    @property
    def magnitude(self) -> Array:
        return np.asarray(np.abs(self.symbols).sum(2) * (1 + _OWN))

    def folded(self, blocks: int) -> Errors:
        """With at most that many blocks of 2H symbols: the older half made one."""
        width = self.symbols.shape[1]
        if self.symbols.shape[2] <= blocks * width:
            return self
        old = width * (blocks // 2)
        first = Errors.of(Errors(self.symbols[:, :, :old]).magnitude)
        return Errors(np.concatenate([first.symbols, self.symbols[:, :, old:]], axis=2))


class LayerErrors:
    """How the errors of one LSTM layer go through a step."""

    def __init__(self, layer: Lstm) -> None:
        H = layer.units
        self.layer, self.units = layer, H
        self.W, self.R = (v.reshape(4 * H, -1).astype(np.float64) for v in (layer.W, layer.R))
        self.b = np.abs(layer.b.reshape(-1).astype(np.float64))
        self.both = np.abs(np.concatenate([self.W, self.R], axis=1))

    def settled(self, x: Values, before: Errors, known: StepRange, h_size: Array) -> None:
        """The step from errors that no step leaves, once they are found."""

    def hidden_size(self, known: StepRange) -> Array:
        o = relaxation.image("sigmoid", part(known.z, 3, self.units))
        return product_box(o, relaxation.image("tanh", known.c)).mag

    def gate_rounding(self, x: Values, h_size: Array, h: Array) -> Array:
        """What the float32 sum of the gates' arguments loses, (B, 4H); `h` the hidden state's error."""
        return _rounded(np.concatenate([x.size + x.error, h_size + h], axis=1), self.both, self.b)

    def step(self, x: Values, before: Errors, known: StepRange, h_size: Array) -> Errors:
        """Errors of the new (h, c); `known` are the step's ranges, `h_size` (B, H) the size of h before it."""
        H, symbols, error = self.units, before.symbols, before.magnitude
        h, c = error[:, :H], error[:, H:]
        moved = np.matmul(self.R, symbols[:, :H])  # (B, 4H, n)
        lost = self.gate_rounding(x, h_size, h) + x.error @ np.abs(self.W).T + _OWN * (h @ np.abs(self.R).T)
        dz = np.abs(moved).sum(2) * (1 + _OWN) + lost
        wide = known.z.widen(dz)
        units = [SIGMOID * UNIT, SIGMOID * UNIT, TANH * UNIT, SIGMOID * UNIT]
        names: list[Function] = ["sigmoid", "sigmoid", "tanh", "sigmoid"]
        slopes = [_slopes(f, part(wide, k, H)) for k, f in enumerate(names)]
        real = [relaxation.image(f, part(known.z, k, H)) for k, f in enumerate(names)]
        d = [s.mag * dz[:, k * H : (k + 1) * H] + e for k, (s, e) in enumerate(zip(slopes, units, strict=True))]
        i, f, g, o = (box.widen(e) for box, e in zip(real, d, strict=True))
        c_before = known.before
        on_f, on_i, on_g = product_box(c_before, slopes[1]), product_box(real[2], slopes[0]), product_box(i, slopes[2])
        parts: list[tuple[Box, Array, Array, Array | float]] = [(f, symbols[:, H:], c, 0.0)]
        for box, k in ((on_i, 0), (on_f, 1), (on_g, 2)):
            gate = slice(k * H, (k + 1) * H)
            parts.append((box, moved[:, gate], dz[:, gate], lost[:, gate]))
        size = f.mag * (c_before.mag + c) + i.mag * g.mag
        local = c_before.mag * units[1] + real[2].mag * units[0] + i.mag * units[2]
        new_c = _combined(parts, local + gamma(2) * size + 8 * FLUSHED)
        clip = self.layer.cell_clip
        if clip:
            new_c = _clipped(new_c, known.c, clip)
        dc = np.abs(new_c).sum(2) * (1 + _OWN)
        curve, t = _slopes("tanh", known.c.widen(dc)), relaxation.image("tanh", known.c)
        on_c, on_o, gate = product_box(o, curve), product_box(t, slopes[3]), slice(3 * H, None)
        local = o.mag * TANH * UNIT + t.mag * units[3]
        rounding = gamma(1) * o.mag * (t.mag + curve.mag * dc + TANH * UNIT) + 4 * FLUSHED
        padded = np.concatenate([moved[:, gate], np.zeros((*dc.shape, H))], axis=2)
        new_h = _combined(
            [(on_c, new_c, dc, 0.0), (on_o, padded, dz[:, gate], lost[:, gate])],
            local + rounding,
        )
        new_c = np.concatenate([new_c, np.zeros((*dc.shape, H))], axis=2)
        return Errors(np.concatenate([new_h, new_c], axis=1))


def _combined(parts: Sequence[tuple[Box, Array, Array, Array | float]], local: Array) -> Array:
    """sum of coefficients times errors: symbols (B, H, n + H), a fresh one a value for all that is not linear.

    A part is (coefficient's range, symbols, magnitude of the error, magnitude of what of it has no symbol).
    """
    total, fresh = np.zeros_like(parts[0][1]), local
    for box, symbols, error, lost in parts:
        total = total + box.mid[:, :, None] * symbols
        fresh = fresh + box.rad * error + np.abs(box.mid) * lost + _OWN * box.mag * error
    diagonal = (fresh * (1 + 1e-9))[:, :, None] * np.eye(fresh.shape[1])
    return np.concatenate([total, diagonal], axis=2)


def _clipped(symbols: Array, new: Box, clip: float) -> Array:
    """Errors behind a clip, which is Lipschitz with 1: where it may act, by any factor from 0 to 1."""
    error = np.abs(symbols).sum(2) * (1 + _OWN)
    half = np.where(new.mag + error >= clip, 0.5, 1.0)
    H = error.shape[1]
    kept: Array = symbols * half[:, :, None]
    kept[:, range(H), kept.shape[2] - H + np.arange(H)] += (1 - half) * error * (1 + _OWN)
    return kept


def _slopes(function: Function, z: Box) -> Box:
    """The range of the derivative, which falls with |z|."""
    near = np.where((z.lo <= 0) & (z.hi >= 0), 0.0, np.minimum(np.abs(z.lo), np.abs(z.hi)))
    least, most = relaxation.derivative(function, z.mag), relaxation.derivative(function, near)
    return Box(np.maximum(least * (1 - 1e-9) - 1e-12, 0.0), np.minimum(most * (1 + 1e-9) + 1e-12, 1.0))


def part(box: Box, gate: int, units: int) -> Box:
    return box.rows(slice(gate * units, (gate + 1) * units))
