"""Replays both networks over some regions with the recorded choices: every bound is derived here again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from codesign.checker import head
from codesign.checker.domain import DomainReplay
from codesign.checker.integer import FLOAT32, input_difference, tensor_range
from codesign.checker.lstm import LstmReplay, relaxed
from codesign.checker.result import CannotCheck, demand, same
from codesign.checker.second_order import SecondOrderReplay, tight_box
from codesign.checker.solver import Facts
from codesign.network.model import Activation, Dense, FloatNetwork, Layer, Lstm, Reshape
from codesign.proof.arithmetic import activation_range
from codesign.proof.forms import Array, Box, Flags, Form, Pair, Symbols, affine, gamma, join, up
from codesign.quantization.integer import IntActivation, IntDense, IntegerNetwork, IntLastStep, IntLstm, IntReshape

_Op = TypeVar("_Op", IntLstm, IntDense, IntActivation, IntLastStep)


@dataclass(frozen=True, eq=False)
class Bounds:
    """Derived for B regions, boxes (B, outputs).

    `margins`: one a row of outputs. `sums`: above the sum of magnitudes of each row's difference (B, rows), in the
    logits and in the output. `hidden`: for each LSTM the largest difference of its units at each step, (B, steps).
    """

    logit_difference: Box
    output: Box
    output_difference: Box
    margins: tuple[head.Margins, ...]
    sums: tuple[Array, Array]
    hidden: tuple[Array, ...]
    softmax: IntActivation | None

    def meet(self, other: Bounds) -> Bounds:
        """Both hold."""
        return Bounds(
            self.logit_difference.meet(other.logit_difference),
            self.output.meet(other.output),
            self.output_difference.meet(other.output_difference),
            tuple(a.meet(b) for a, b in zip(self.margins, other.margins, strict=True)),
            (np.minimum(self.sums[0], other.sums[0]), np.minimum(self.sums[1], other.sums[1])),
            tuple(np.minimum(a, b) for a, b in zip(self.hidden, other.hidden, strict=True)),
            self.softmax,
        )


class _Operators:
    """The operators under every profile, in order, reshapes left out (they move no data in a row-major chain)."""

    def __init__(self, networks: Sequence[IntegerNetwork]) -> None:
        self.networks, previous = networks, networks[0].input
        for op in networks[0].ops:
            units = (op.input.scale, op.input.zero_point) == (previous.scale, previous.zero_point)
            demand(units, f"operator '{op.name}' reads its input in other units than it was written")
            previous = op.output
        rows = zip(*(net.ops for net in networks), strict=True)
        self._rows = [row for row in rows if not isinstance(row[0], IntReshape)]

    def peek(self) -> object:
        return self._rows[0][0] if self._rows else None

    def take(self, kind: type[_Op], layer: str) -> list[tuple[_Op, IntegerNetwork]]:
        row = self._rows.pop(0) if self._rows else ()
        taken = [(op, net) for op, net in zip(row, self.networks, strict=False) if isinstance(op, kind)]
        demand(
            len(taken) == len(self.networks), f"the int8 model has no operator for layer '{layer}' where one has to be"
        )
        return taken


def input_pairs(network: IntegerNetwork, lo: Array, hi: Array, on_grid: Flags, symbols: Symbols) -> list[Pair]:
    """The inputs (B, D) at every step: the float network's, and how far the quantized ones are from them."""
    batch, steps, features = lo.shape
    grid, x_box = on_grid.reshape(batch, 1), Box(lo.reshape(batch, -1), hi.reshape(batch, -1))
    single = np.where(grid, up(FLOAT32 * x_box.mag * (1 + 1e-9)), 0.0)
    x_box = Box(np.where(grid, x_box.lo - single, x_box.lo), np.where(grid, x_box.hi + single, x_box.hi))
    x = symbols.over(x_box)
    if symbols.second_order:  # fixed values need no symbol
        free = (x.generators > 1e-280).any((0, 1))
        x = Form(x.center, x.generators[..., free], up(x.error + x.generators[..., ~free].sum(-1)))
        symbols.count = int(free.sum())
    symbols.inputs = symbols.count
    symbols.pair(symbols.count)
    noise, gap, by_grid = input_difference(network.input, x_box, grid)
    dx = affine([(np.where(by_grid, -1.0, 0.0), x)], noise, symbols, paired=True)
    whole = Pair(x, dx, x_box, dx.box.meet(gap))
    return [whole.part(slice(t * features, (t + 1) * features)) for t in range(steps)]


def replay(
    network: FloatNetwork, integers: Sequence[IntegerNetwork], lo: Array, hi: Array, on_grid: Flags, facts: Facts,
    domain: dict[str, Any] | None = None, before: Bounds | None = None,
) -> Bounds:  # fmt: skip
    """Bounds over the regions [lo, hi], each (B, T, D). `integers`: the same file under every profile.

    With `domain`, what is stated of all inputs, LSTMs are replayed by the comparison system over the one region; with
    `before`, by quadratic zonotopes, and bounds before a softmax are met with those derived before.
    """
    same("the shape of the models' inputs", tuple(integers[0].input.shape), tuple(network.input_shape))
    symbols, ops = Symbols(second_order=before is not None), _Operators(integers)
    rows = input_pairs(integers[0], lo, hi, on_grid, symbols)
    any_length = domain is not None and domain["any_length"]
    if any_length:
        demand(bool((lo == lo[:, :1]).all() and (hi == hi[:, :1]).all()), "the domain is another one at other steps")
        rows = rows[:1]
    rates = iter(domain["contraction"]) if domain is not None else iter(())
    hidden: list[Array] = []
    softmax: IntActivation | None = None
    layers = list(_primitive(network.layers))
    while layers:
        layer = layers.pop(0)
        if softmax is not None:
            raise CannotCheck("a softmax that is followed by another layer")
        if isinstance(layer, Lstm):
            kind = SecondOrderReplay if before is not None else LstmReplay if domain is None else DomainReplay
            lstm = kind(layer, ops.take(IntLstm, layer.name), facts, symbols)
            lstm.contraction = next(rates, None) if any_length else None
            demand(not any_length or lstm.contraction is not None, f"all_inputs/contraction: none of '{layer.name}'")
            rows = lstm.run(rows)
            hidden.append(np.stack([row.difference_box.mag.max(1) for row in rows], axis=1))
            if not layer.return_sequences:
                ops.take(IntLastStep, layer.name)
                rows = rows[-1:]
        elif isinstance(layer, Reshape):
            rows = _reshape(rows, layer.shape)
        elif isinstance(layer, Dense):
            dense = ops.take(IntDense, layer.name)
            relu = _is_relu(layers[0] if layers else None) and not _is_relu(ops.peek())
            fused = not relu or dense[0][0].act_min == dense[0][0].output.zero_point
            demand(fused, f"the int8 model has no ReLU after layer '{layer.name}'")
            layers = layers[1:] if relu else layers
            rows = [head.dense(layer, dense, relu, row, symbols) for row in rows]
        else:
            op = ops.take(IntActivation, layer.name)[0][0]
            same(f"layer '{layer.name}' in the int8 model", op.kind, layer.kind)
            softmax = op if op.kind == "softmax" else None
            rows = rows if softmax is not None else [_elementwise(op, row, facts, symbols) for row in rows]
    demand(ops.peek() is None, "the int8 model goes on after the float model's last layer")
    demand(next(rates, None) is None, "all_inputs/contraction: more entries than layers")
    if any_length:
        rows = rows * (int(np.prod(integers[0].output.shape)) // rows[0].value_box.lo.shape[1])
    return _bounds(rows, hidden, softmax, integers[0], facts, symbols, before)


def _primitive(layers: Sequence[Layer]) -> Iterator[Layer]:
    """Dense layers are linear here, their activations layers of their own."""
    for layer in layers:
        if not isinstance(layer, Activation):
            yield layer
        if isinstance(layer, Activation | Dense):
            kind = layer.kind if isinstance(layer, Activation) else layer.activation
            yield from [Activation(layer.name, kind)] * (kind != "linear")


def _is_relu(layer: object) -> bool:
    return isinstance(layer, Activation | IntActivation) and layer.kind == "relu"


def _elementwise(op: IntActivation, x: Pair, facts: Facts, symbols: Symbols) -> Pair:
    """sigmoid, tanh or relu as an operator of its own; its table against the real function, all inputs enumerated."""
    table = activation_range(op)
    if op.kind == "sigmoid" or op.kind == "tanh":
        return relaxed(op.kind, op.name, x, table, facts, symbols)
    out = head.rectified(x, op.output, symbols)
    return Pair.of(out.value, affine([(1.0, out.difference)], Box.full(*table, out.value.center.shape), symbols))


def _reshape(rows: list[Pair], shape: tuple[int, ...]) -> list[Pair]:
    width, count = shape[-1], int(np.prod(shape)) // shape[-1]
    if rows[0].value_box.lo.shape[1] == width:
        return rows
    demand(len(rows) * rows[0].value_box.lo.shape[1] == width * count, "a reshape of another number of values")
    whole = Pair.join(rows)
    return [whole.part(slice(k * width, (k + 1) * width)) for k in range(count)]


def _bounds(
    rows: list[Pair], hidden: list[Array], softmax: IntActivation | None, net: IntegerNetwork, facts: Facts,
    symbols: Symbols, before: Bounds | None,
) -> Bounds:  # fmt: skip
    value = join([r.value_box for r in rows])
    difference = join([tight_box(r.difference, symbols).meet(r.difference_box) for r in rows])
    margins = tuple(head.margins(row, symbols) for row in rows)
    difference = _ranged(value, difference, tensor_range(net.output if softmax is None else softmax.input))
    sums = moved = np.stack([head.magnitudes(row.difference, row.difference_box) for row in rows], axis=1)
    if before is not None:
        difference = difference.meet(before.logit_difference)
        value = value if softmax is not None else value.meet(before.output)
        margins = tuple(a.meet(b) for a, b in zip(margins, before.margins, strict=True))
        each = difference.mag.reshape(*sums.shape, -1)
        sums = moved = np.minimum.reduce([sums, before.sums[0], up(each.sum(2) * (1 + gamma(each.shape[2])))])
        hidden = [np.minimum(a, b) for a, b in zip(hidden, before.hidden, strict=True)]
    result, change = value, difference
    if softmax is not None:
        parts = [head.softmax(softmax, m, facts) for m in margins]
        result, moved = join([p[0] for p in parts]), np.stack([p[2] for p in parts], axis=1)
        change = _ranged(result, join([p[1] for p in parts]), tensor_range(net.output))
    return Bounds(difference, result, change, margins, (sums, moved), tuple(hidden), softmax)


def _ranged(value: Box, difference: Box, ends: tuple[float, float]) -> Box:
    """The integer network's value lies in its tensor's range."""
    return difference.meet(Box.full(*ends, value.lo.shape) - value)
