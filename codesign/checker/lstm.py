"""Replays one LSTM layer: the float network's state and the integer network's difference from it, step by step."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from codesign.checker.integer import GATE_HI, GATE_LO, GATE_STEP, acting, effective, rescaling_error, tensor_range
from codesign.checker.result import demand
from codesign.checker.solver import Facts, Function
from codesign.network.model import Lstm
from codesign.proof.arithmetic import lstm_table_range
from codesign.proof.forms import UNIT, Ages, Box, Form, Matrix, Pair, SecondOrder, Symbols, Term, affine, up
from codesign.quantization.integer import IntegerNetwork, IntLstm

_PIECES: tuple[tuple[Function, int, int, str], ...] = (
    ("sigmoid", 0, 2, "input and forget gate"),
    ("tanh", 2, 3, "cell gate"),
    ("sigmoid", 3, 4, "output gate"),
)


class LstmReplay:
    """One layer. `ops` is the operator under every profile, with the network it is of.

    `contraction`: what is stated of any number of steps; None for a fixed number.
    """

    contraction: dict[str, Any] | None = None

    def __init__(
        self, layer: Lstm, ops: Sequence[tuple[IntLstm, IntegerNetwork]], facts: Facts, symbols: Symbols
    ) -> None:
        op = ops[0][0]
        demand(
            (layer.W.shape, layer.R.shape) == (op.W.shape, op.R.shape),
            f"layer '{layer.name}' has weights of other shapes in the int8 model",
        )
        self.layer, self.facts, self.symbols, self.units = layer, facts, symbols, layer.units
        H, cell_step = layer.units, 2.0**op.cell_shift
        self.W, self.R = (Matrix(m.reshape(4 * H, -1).astype(np.float64)) for m in (layer.W, layer.R))
        self.b = layer.b.reshape(-1).astype(np.float64)
        w = [[acting(m, net) for m in o.input_multipliers for _ in range(H)] for o, net in ops]
        r = [[acting(m, net) for m in o.recurrent_multipliers for _ in range(H)] for o, net in ops]
        self.W_int, scale, slack, first = effective(op.W.reshape(4 * H, -1), op.input.scale, w, GATE_STEP)
        self.R_int, _, _, second = effective(op.R.reshape(4 * H, -1), op.output.scale, r, GATE_STEP)
        self.b_int = op.b.reshape(-1) * scale
        self.b_slack, self.rounding = up(np.abs(self.b_int) * slack), first + second
        self.W_gap, self.R_gap = self.W_int - self.W, self.R_int - self.R
        for multiplier, real in ((op.forget_multiplier, 2.0**-15), (op.input_gate_multiplier, 2.0**-30 / cell_step)):
            demand(
                multiplier.real == real,
                f"operator '{op.name}': a cell product is rescaled by {multiplier.real}, not by {real}",
            )
        self.cell_rounding = cell_step * sum(map(rescaling_error, (op.forget_multiplier, op.input_gate_multiplier)))
        clip = float(op.cell_clip_q or 32768) * cell_step
        self.cell_range = max(-clip, -32768 * cell_step), min(clip, 32767 * cell_step)
        gain = max(abs(o.hidden_multiplier.real * 2.0**30 * op.output.scale - 1.0) for o, _ in ops) + 8 * UNIT
        worst = max(rescaling_error(o.hidden_multiplier) for o, _ in ops)
        self.hidden_rounding = float(up(op.output.scale * worst + gain))  # |o tanh(c)| <= 1
        self.hidden_range = tensor_range(op.output)
        self.tables = {f: lstm_table_range(f, -12) for f in ("sigmoid", "tanh")}
        self.cell_shift, self.cell_table = op.cell_shift, lstm_table_range("tanh", op.cell_shift)

    def run(self, inputs: Sequence[Pair]) -> list[Pair]:
        """The hidden state after every step, from the reset state."""
        shape = (inputs[0].value.center.shape[0], self.units)
        zero = Form(np.zeros(shape), np.zeros((*shape, 0)), np.zeros(shape))
        hidden = cell = Pair.of(zero, zero)
        ages, outputs = Ages(self.symbols), []
        for step, x in enumerate(inputs):
            place, H = f"{self.layer.name}[{step}]", self.units
            both, g, o = self._gates(x, hidden, place)
            i, f = both.part(slice(0, H)), both.part(slice(H, None))
            cell = self._cell(i, f, g, cell, place)
            still = Box.full(0.0, 0.0, shape)
            squashed = self._squashed("tanh", f"{place} cell tanh", cell, still, self.cell_table)
            hidden = self._hidden(o, squashed, place)
            hidden, cell = self._folded(ages, hidden, cell, step, place)
            outputs.append(hidden)
        return outputs

    def _folded(self, ages: Ages, hidden: Pair, cell: Pair, step: int, place: str) -> tuple[Pair, Pair]:
        """The state with its oldest symbols folded, where that is recorded; boxes stay."""
        forms = [hidden.value, hidden.difference, cell.value, cell.difference]
        ages.note(forms, step)
        kept_from = self.facts.choices.fold(place)
        if kept_from is None:
            return hidden, cell
        demand(not self.symbols.second_order, "symbols are folded where products are kept")
        h, dh, c, dc = ages.fold(forms, kept_from, step)
        return Pair(h, dh, hidden.value_box, hidden.difference_box), Pair(c, dc, cell.value_box, cell.difference_box)

    def _gates(self, x: Pair, h: Pair, place: str) -> list[Pair]:
        """Input and forget gate together, cell gate, output gate."""
        shape = (x.value.center.shape[0], 4 * self.units)
        z = affine([(self.W, x.value), (self.R, h.value)], Box.full(self.b, self.b, shape))
        gap = Box.around(np.broadcast_to(self.b_int - self.b, shape), self.b_slack)
        moved: list[Term] = [(self.W_gap, x.value), (self.W_int, x.difference)]
        dz = affine([*moved, (self.R_gap, h.value), (self.R_int, h.difference)], gap)
        noise = self._gate_noise(x, h, z.box + dz.box)
        # What the tables see lies in [GATE_LO, GATE_HI].
        room = 4 * UNIT * (16 + z.box.mag)
        limits = Box(GATE_LO - z.box.hi - room, GATE_HI - z.box.lo + room)
        d_box = (dz.box + noise).meet(limits)
        whole, parts = Pair(z, dz, z.box, d_box), []
        for function, first, last, name in _PIECES:
            part = slice(first * self.units, last * self.units)
            place_of = f"{place} {name}"
            parts.append(self._squashed(function, place_of, whole.part(part), noise.part(part), self.tables[function]))
        return parts

    def _squashed(self, function: Function, place: str, x: Pair, noise: Box, table: tuple[float, float]) -> Pair:
        """f(x), and f(x + dx) less it; the form of dx is without `noise`, its box is not."""
        return relaxed(function, place, x, table, self.facts, self.symbols, noise)

    def _gate_noise(self, x: Pair, h: Pair, total: Box) -> Box:
        """Both rescalings, and saturation of either part and of their sum; each holds 0 where kernels leave it out."""
        noise = Box.full(-self.rounding, self.rounding, total.lo.shape)
        from_input = x.integer_box.mag @ self.W_int.mag.T + np.abs(self.b_int) + self.b_slack + self.rounding
        from_hidden = h.integer_box.mag @ self.R_int.mag.T + self.rounding
        for size in (from_input * (1 + 1e-9), from_hidden * (1 + 1e-9)):
            noise = noise + Box(-size, size).saturation(GATE_LO, GATE_HI)
        return noise + (total + noise).saturation(GATE_LO, GATE_HI)

    def _cell(self, i: Pair, f: Pair, g: Pair, c: Pair, place: str) -> Pair:
        forget = self._product(f, c, f"{place} forget * cell")
        write = self._product(i, g, f"{place} input * gate")
        new = forget.value(self.symbols, write)
        clipped = Box.full(0.0, 0.0, new.center.shape)
        for part in (forget, write):
            clipped = clipped + part.integer_box.widen(self.cell_rounding).saturation(*self.cell_range)
        total = (forget.integer_box + write.integer_box).widen(self.cell_rounding)
        clipped = clipped + (total + clipped).saturation(*self.cell_range)
        box, limit, reach = new.box.meet(forget.box + write.box), self.layer.cell_clip, total + clipped
        if limit and (box.mag > limit).any():  # a float model's own clip
            cut = box.saturation(-limit, limit)
            new, box = affine([(1.0, new)], cut, self.symbols), (box + cut).clip(-limit, limit)
            clipped = clipped - cut
        difference = forget.difference(self.symbols, clipped.widen(self.cell_rounding), write)
        return self._bounded(new, box, difference, reach.clip(*self.cell_range))

    def _hidden(self, o: Pair, t: Pair, place: str) -> Pair:
        product = self._product(o, t, f"{place} output * tanh")
        value = product.value(self.symbols)
        reach = product.integer_box.widen(self.hidden_rounding)
        noise = reach.saturation(*self.hidden_range).widen(self.hidden_rounding)
        difference = product.difference(self.symbols, noise)
        return self._bounded(value, product.box, difference, reach.clip(*self.hidden_range))

    def _product(self, x: Pair, y: Pair, place: str) -> Product:
        return Product.linear(x, y, place, self.facts)

    def _bounded(self, value: Form, box: Box, difference: Form, integer: Box) -> Pair:
        """Both forms with their boxes, given intervals of the float and the integer values; units reset as recorded."""
        box = value.box.meet(box)
        value = self.symbols.replace(value, box, self.facts.choices.resets(self.units), paired=False)
        d_box = difference.box.meet(integer - box)
        difference = self.symbols.replace(difference, d_box, self.facts.choices.resets(self.units), paired=True)
        return Pair(value, difference, box, d_box)


def relaxed(
    function: Function,
    place: str,
    x: Pair,
    table: tuple[float, float],
    facts: Facts,
    symbols: Symbols,
    noise: Box | None = None,
) -> Pair:
    """f(x), and the integer table's value at x + dx less f(x); `table` is the range of table - f.

    With `noise`, the form of dx is without it, the box is not.
    """
    slope, residual, image = facts.plane(function, place, x.value_box)
    alpha, beta, d_residual, d_image = facts.difference(function, place, x.value_box, x.difference_box)
    error = Box.full(*table, slope.shape)
    lost = error if noise is None else error + Box(beta, beta) * noise
    value = affine([(slope, x.value)], residual, symbols)
    difference = affine([(alpha, x.value), (beta, x.difference)], d_residual + lost, symbols)
    return Pair(value, difference, value.box.meet(image), difference.box.meet(d_image + error))


@dataclass(frozen=True, eq=False)
class Product:
    """x y and its difference (x + dx)(y + dy) - x y, each a sum of terms, constants and, if any, second-order parts."""

    box: Box
    integer_box: Box
    terms: list[Term]
    constant: Box
    d_terms: list[Term]
    d_constant: Box
    parts: list[SecondOrder] = field(default_factory=list)
    d_parts: list[SecondOrder] = field(default_factory=list)

    @staticmethod
    def linear(x: Pair, y: Pair, place: str, facts: Facts) -> Product:
        """The difference is (x + dx/2) dy + dx (y + dy/2)."""
        xb, yb, dx, dy = x.value_box, y.value_box, x.difference_box, y.difference_box
        terms, constant = _linearised(x.value, xb, y.value, yb, place, facts)
        half, zero = (Box.full(v, v, dx.lo.shape) for v in (0.5, 0.0))
        x_mid, y_mid = (affine([(1.0, p.value), (0.5, p.difference)], zero) for p in (x, y))
        where = f"{place} difference"
        first, a = _linearised(x_mid, xb + half * dx, y.difference, dy, where, facts)
        second, b = _linearised(x.difference, dx, y_mid, yb + half * dy, where, facts)
        return Product(xb * yb, x.integer_box * y.integer_box, terms, constant, first + second, a + b)

    def value(self, symbols: Symbols, *others: Product) -> Form:
        """The sum of these products."""
        every = (self, *others)
        constant = functools.reduce(operator.add, [p.constant for p in every])
        return affine([t for p in every for t in p.terms], constant, symbols, [b for p in every for b in p.parts])

    def difference(self, symbols: Symbols, noise: Box, *others: Product) -> Form:
        """The sum of their differences, and noise."""
        every = (self, *others)
        constant = functools.reduce(operator.add, [p.d_constant for p in every]) + noise
        parts = [b for p in every for b in p.d_parts]
        return affine([t for p in every for t in p.d_terms], constant, symbols, parts, paired=True)


def _linearised(x: Form, xb: Box, y: Form, yb: Box, place: str, facts: Facts) -> tuple[list[Term], Box]:
    """x y = x0 y + y0 x - x0 y0 + (x - x0)(y - y0)."""
    x0, y0 = xb.mid, yb.mid
    return [(x0, y), (y0, x)], facts.bilinear(place, x, xb, y, yb) + Box.around(-x0 * y0)
