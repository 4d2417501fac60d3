"""Replays both networks over some regions with the recorded choices: every bound is derived here again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from codesign.checker import head
from codesign.checker.facts import Facts
from codesign.checker.forms import Array, Box, Form, Pair, Symbols, affine
from codesign.checker.integer import input_difference
from codesign.checker.lstm import LstmReplay
from codesign.checker.result import CannotCheck, Invalid
from codesign.network.model import Activation, Dense, FloatNetwork, Lstm, Reshape
from codesign.quantization.integer import (
    IntActivation,
    IntDense,
    IntegerNetwork,
    IntLastStep,
    IntLstm,
    IntOp,
    IntReshape,
)

_Op = TypeVar("_Op", IntLstm, IntDense, IntActivation, IntLastStep)


@dataclass(frozen=True, eq=False)
class Bounds:
    """Derived for B regions: boxes (B, outputs); `margins` one entry a row of outputs, (worst margins (B, M))."""

    logit_difference: Box
    output: Box
    output_difference: Box
    margins: tuple[Array, ...]


class _Operators:
    """The operators under every profile, in order, reshapes left out (they move no data in a row-major chain)."""

    def __init__(self, networks: Sequence[IntegerNetwork]) -> None:
        self.networks = networks
        previous = networks[0].input
        for op in networks[0].ops:
            if (op.input.scale, op.input.zero_point) != (previous.scale, previous.zero_point):
                raise Invalid(f"operator '{op.name}' reads its input in other units than it was written")
            previous = op.output
        self._rows: list[tuple[IntOp, ...]] = list(zip(*(net.ops for net in networks), strict=True))
        self._rows = [row for row in self._rows if not isinstance(row[0], IntReshape)]
        self._next = 0

    def peek(self) -> IntOp | None:
        return self._rows[self._next][0] if self._next < len(self._rows) else None

    def take(self, kind: type[_Op], layer: str) -> list[tuple[_Op, IntegerNetwork]]:
        row = self._rows[self._next] if self._next < len(self._rows) else ()
        taken: list[tuple[_Op, IntegerNetwork]] = []
        for op, network in zip(row, self.networks, strict=False):
            if isinstance(op, kind):
                taken.append((op, network))
        if len(taken) != len(self.networks):
            raise Invalid(f"the int8 model has no operator for layer '{layer}' where one is needed")
        self._next += 1
        return taken


def input_pairs(
    networks: Sequence[IntegerNetwork], lo: Array, hi: Array, on_grid: Array, symbols: Symbols
) -> list[Pair]:
    """The inputs (B, D) at every step: the float network's, and how far the quantized ones are from them."""
    tensor = networks[0].input
    batch, steps, features = lo.shape
    x_box = Box(lo.reshape(batch, -1), hi.reshape(batch, -1))
    grid = np.asarray(on_grid, bool).reshape(batch, 1)
    single = np.where(grid, 2.0**-24 * x_box.mag * (1 + 1e-9) + 1e-290, 0.0)
    x_box = Box(np.where(grid, x_box.lo - single, x_box.lo), np.where(grid, x_box.hi + single, x_box.hi))
    x = symbols.over(x_box)
    noise, gap, by_grid = input_difference(tensor, x_box, grid)
    dx = affine([(np.where(by_grid, -1.0, 0.0), x)], noise, symbols)
    d_box = dx.box.meet(gap)
    parts = [slice(t * features, (t + 1) * features) for t in range(steps)]
    return [Pair(x.part(p), dx.part(p), x_box.part(p), d_box.part(p)) for p in parts]


def replay(
    network: FloatNetwork,
    integers: Sequence[IntegerNetwork],
    lo: Array,
    hi: Array,
    on_grid: npt.NDArray[np.bool_],
    facts: Facts,
) -> Bounds:
    """Bounds over the regions [lo, hi], each (B, T, D). `integers`: the same file under every profile."""
    if tuple(network.input_shape) != tuple(integers[0].input.shape):
        raise Invalid("the two models take inputs of different shapes")
    symbols, ops = Symbols(), _Operators(integers)
    rows = input_pairs(integers, lo, hi, on_grid, symbols)
    softmax: IntActivation | None = None
    layers = list(network.layers)
    for index, layer in enumerate(layers):
        if softmax is not None:
            raise CannotCheck("softmax is followed by another layer")
        if isinstance(layer, Lstm):
            lstm = ops.take(IntLstm, layer.name)
            if layer.W.shape != lstm[0][0].W.shape or layer.R.shape != lstm[0][0].R.shape:
                raise Invalid(f"layer '{layer.name}' has weights of other shapes in the int8 model")
            rows = LstmReplay(layer, lstm, facts, symbols).run(rows)
            if not layer.return_sequences:
                ops.take(IntLastStep, layer.name)
                rows = rows[-1:]
        elif isinstance(layer, Reshape):
            rows = _reshape(rows, layer.shape)
        elif isinstance(layer, Dense):
            dense = ops.take(IntDense, layer.name)
            if layer.W.shape != dense[0][0].W.shape:
                raise Invalid(f"layer '{layer.name}' has weights of another shape in the int8 model")
            relu, following = _fused_relu(layer, dense[0][0], layers[index + 1 :], ops.peek())
            rows = [head.dense(layer, dense, relu, row, symbols) for row in rows]
            if following:
                layers[index + 1] = Activation(layers[index + 1].name, "linear")
            if layer.activation != "linear" and not (relu and layer.activation == "relu"):
                rows, softmax = _activate(layer.activation, layer.name, rows, ops, facts, symbols)
        elif layer.kind != "linear":
            rows, softmax = _activate(layer.kind, layer.name, rows, ops, facts, symbols)
    if ops.peek() is not None:
        raise Invalid("the int8 model goes on after the float model's last layer")
    facts.choices.finish()
    return _bounds(rows, softmax)


def _fused_relu(layer: Dense, op: IntDense, rest: Sequence[object], after: IntOp | None) -> tuple[bool, bool]:
    """(whether the operator's own clipping is the layer's ReLU, whether that ReLU is the next layer of its own)."""
    if op.act_min != op.output.zero_point or (isinstance(after, IntActivation) and after.kind == "relu"):
        return False, False
    if layer.activation == "relu":
        return True, False
    following = rest[0] if rest else None
    separate = layer.activation == "linear" and isinstance(following, Activation) and following.kind == "relu"
    separate = separate and not isinstance(after, IntActivation)
    return separate, separate


def _activate(
    kind: str, name: str, rows: list[Pair], ops: _Operators, facts: Facts, symbols: Symbols
) -> tuple[list[Pair], IntActivation | None]:
    op = ops.take(IntActivation, name)[0][0]
    if op.kind != kind:
        raise Invalid(f"layer '{name}' is {kind} in the float model and {op.kind} in the int8 model")
    if kind == "softmax":
        return rows, op
    return [head.elementwise(op, row, facts, symbols) for row in rows], None


def _reshape(rows: list[Pair], shape: tuple[int, ...]) -> list[Pair]:
    width = shape[-1]
    count = int(np.prod(shape)) // width
    if len(rows) == count:
        return rows
    widest = max(form.generators.shape[-1] for row in rows for form in (row.value, row.difference))
    whole = Pair(
        _concatenated([row.value for row in rows], widest),
        _concatenated([row.difference for row in rows], widest),
        _joined([row.value_box for row in rows]),
        _joined([row.difference_box for row in rows]),
    )
    return [whole.part(slice(k * width, (k + 1) * width)) for k in range(count)]


def _concatenated(forms: Sequence[Form], width: int) -> Form:
    padded = [np.pad(f.generators, ((0, 0), (0, 0), (0, width - f.generators.shape[-1]))) for f in forms]
    center, error = (np.concatenate([getattr(f, name) for f in forms], axis=1) for name in ("center", "error"))
    return Form(center, np.concatenate(padded, axis=1), error)


def _joined(boxes: Sequence[Box]) -> Box:
    return Box(np.concatenate([b.lo for b in boxes], axis=1), np.concatenate([b.hi for b in boxes], axis=1))


def _bounds(rows: list[Pair], softmax: IntActivation | None) -> Bounds:
    value, difference = _joined([r.value_box for r in rows]), _joined([r.difference_box for r in rows])
    margins = [head.margins(row) for row in rows]
    integer = [m.integer.lo for m in margins]
    output, output_difference = value, difference
    if softmax is not None:
        both = [head.softmax(softmax, m) for m in margins]
        output, output_difference = _joined([b[0] for b in both]), _joined([b[1] for b in both])
        integer = [head.softmax_margins(softmax, m) for m in margins]
    worst = []
    for m, q in zip(margins, integer, strict=True):
        off = head.others(m.value.lo.shape[1])
        worst.append(np.where(off, np.minimum(m.value.lo, q), np.inf).min(2))
    return Bounds(difference, output, output_difference, tuple(worst))
