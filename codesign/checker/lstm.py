"""Replays one LSTM layer: the float network's state and the integer network's difference from it, step by step.

Functions and products rest on facts: planes, or curved relaxations where products of symbols are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from codesign.checker.forms import UNIT, Array, Box, Form, Symbols, Term, affine, times, up
from codesign.checker.integer import GATE_HI, GATE_LO, GATE_STEP, effective, rescaling_error, tensor_range
from codesign.checker.result import demand
from codesign.checker.solver import Facts, Function
from codesign.network.model import Lstm
from codesign.proof.arithmetic import lstm_table_range
from codesign.quantization.integer import IntLstm


@dataclass(frozen=True, eq=False)
class Pair:
    """A vector of the float network, and the integer network's difference from it."""

    value: Form
    difference: Form

    @property
    def integer(self) -> Box:
        return self.value + self.difference

    def part(self, columns: slice) -> Pair:
        return Pair(self.value.part(columns), self.difference.part(columns))


def relaxed(
    function: Function, place: str, x: Pair, noise: Box, table: tuple[float, float], facts: Facts, symbols: Symbols
) -> Pair:
    """f(x), and the integer table's value at x + dx less f(x); `table` is the range of table - f.

    The form of dx is without `noise`, its box is with it.
    """
    z, d = x.value, x.difference
    (slope, *curve), residual, image = facts.value(function, place, z, symbols.second_order)
    (alpha, beta, *cross), d_residual, d_image = facts.change(function, place, z, d, symbols.second_order)
    error, at_noise = Box.full(*table, z.lo.shape), Box(beta, beta)
    value: list[Term] = [(slope, z), residual]
    difference: list[Term] = [(alpha, z), (beta, d), d_residual + error]
    for p in curve:
        value += times(p, z, z, symbols, 1)
    for p in cross:
        difference += times(p, z, d, symbols)
        at_noise += Box(p, p) * z
    difference.append(at_noise * noise)
    return Pair(affine(value, symbols).meet(image), affine(difference, symbols, paired=True).meet(d_image + error))


class Product(NamedTuple):
    """x y and its difference (x + dx)(y + dy) - x y as terms; boxes of x y and (x + dx)(y + dy)."""

    value: list[Term]
    difference: list[Term]
    box: Box
    integer: Box


def product(x: Pair, y: Pair, place: str, facts: Facts, symbols: Symbols) -> Product:
    """The difference is x dy + y dx + dx dy, or, without products of symbols, (x + dx/2) dy + dx (y + dy/2)."""
    dx, dy, one = x.difference, y.difference, np.ones(x.value.lo.shape)
    if symbols.second_order:
        value, last = times(one, x.value, y.value, symbols, 1), times(one, dx, dy, symbols, 0)
        difference = times(one, x.value, dy, symbols) + times(one, y.value, dx, symbols) + last
    else:
        half, zero = Box(0.5 * one, 0.5 * one), Box(0.0 * one, 0.0 * one)
        x_mid, y_mid = (
            affine([(1.0, p.value), (0.5, p.difference), zero]).within(p.value + half * p.difference) for p in (x, y)
        )
        value, where = _linearised(x.value, y.value, place, facts), f"{place} difference"
        difference = _linearised(x_mid, dy, where, facts) + _linearised(dx, y_mid, where, facts)
    return Product(value, difference, x.value * y.value, x.integer * y.integer)


def _linearised(x: Form, y: Form, place: str, facts: Facts) -> list[Term]:
    """x y = x0 y + y0 x - x0 y0 + (x - x0)(y - y0)."""
    x0, y0 = x.mid, y.mid
    return [(x0, y), (y0, x), facts.bilinear(place, x, y) + Box.around(-x0 * y0)]


class LstmReplay:
    """One layer. `ops` is the operator under every profile."""

    def __init__(self, layer: Lstm, ops: Sequence[IntLstm], facts: Facts, symbols: Symbols) -> None:
        op, H = ops[0], layer.units
        self.layer, self.facts, self.symbols, self.units, cell_step = layer, facts, symbols, H, 2.0**op.cell_shift
        self.W, self.R = (Box(*[m.reshape(4 * H, -1).astype(np.float64)] * 2) for m in (layer.W, layer.R))
        self.b = layer.b.reshape(-1).astype(np.float64)
        w = [[m for m in o.input_multipliers for _ in range(H)] for o in ops]
        r = [[m for m in o.recurrent_multipliers for _ in range(H)] for o in ops]
        self.W_int, scale, slack, first = effective(op.W.reshape(4 * H, -1), op.input.scale, w, GATE_STEP)
        self.R_int, _, _, second = effective(op.R.reshape(4 * H, -1), op.output.scale, r, GATE_STEP)
        self.b_int, self.rounding = op.b.reshape(-1) * scale, first + second
        self.b_slack = up(np.abs(self.b_int) * slack)
        self.W_gap, self.R_gap = self.W_int - self.W, self.R_int - self.R
        cell = (op.forget_multiplier, 2.0**-15), (op.input_gate_multiplier, 2.0**-30 / cell_step)
        for m, real in cell:
            demand(m.real == real, f"operator '{op.name}': a cell product is rescaled by {m.real}, not by {real}")
        self.cell_rounding = cell_step * sum(rescaling_error(multiplier) for multiplier, _ in cell)
        clip = float(op.cell_clip_q or 32768) * cell_step
        self.cell_range = max(-clip, -32768 * cell_step), min(clip, 32767 * cell_step)
        gain = max(abs(o.hidden_multiplier.real * 2.0**30 * op.output.scale - 1.0) for o in ops) + 8 * UNIT
        worst = max(rescaling_error(o.hidden_multiplier) for o in ops)
        self.hidden_rounding = float(up(op.output.scale * worst + gain))  # |o tanh(c)| <= 1
        self.hidden_range = tensor_range(op.output)
        self.tables = {f: lstm_table_range(f, -12) for f in ("sigmoid", "tanh")}
        self.cell_shift, self.cell_table = op.cell_shift, lstm_table_range("tanh", op.cell_shift)

    def run(self, inputs: Sequence[Pair]) -> list[Pair]:
        """The hidden state after every step, from the reset state."""
        still = Box.full(0.0, 0.0, (len(inputs[0].value.lo), self.units))
        hidden = cell = Pair(affine([still]), affine([still]))
        outputs, facts, symbols = [], self.facts, self.symbols
        for symbols.step, x in enumerate(inputs):
            place = f"{self.layer.name}[{symbols.step}]"
            both, g, o = self._gates(x, hidden, place)
            i, f = both.part(slice(0, self.units)), both.part(slice(self.units, None))
            cell = self._cell(i, f, g, cell, place)
            squashed = relaxed("tanh", f"{place} cell tanh", cell, still, self.cell_table, facts, symbols)
            hidden = self._hidden(o, squashed, place)
            first = facts.choices.fold(place)
            h, dh, c, dc = (symbols.fold(x, first) for p in (hidden, cell) for x in (p.value, p.difference))
            hidden, cell = Pair(h, dh), Pair(c, dc)
            outputs.append(hidden)
        return outputs

    def _gates(self, x: Pair, h: Pair, place: str) -> list[Pair]:
        """Input and forget gate together, cell gate, output gate."""
        shape = (len(x.value.lo), 4 * self.units)
        z = affine([(self.W, x.value), (self.R, h.value), Box.full(self.b, self.b, shape)])
        gap = Box.around(np.broadcast_to(self.b_int - self.b, shape), self.b_slack)
        from_x, from_h = (self.W_gap, x.value), (self.R_gap, h.value)
        dz = affine([from_x, (self.W_int, x.difference), from_h, (self.R_int, h.difference), gap])
        noise = self._gate_noise(x.integer.mag, h.integer.mag, z + dz)
        # What the tables see lies in [GATE_LO, GATE_HI].
        room = 4 * UNIT * (16 + z.mag)
        limits = Box(GATE_LO - z.hi - room, GATE_HI - z.lo + room)
        whole = Pair(z, dz.within((dz + noise).meet(limits)))

        def gate(name: str, function: Function, first: int, last: int) -> Pair:
            part = slice(first * self.units, last * self.units)
            given = whole.part(part), noise.part(part), self.tables[function]
            return relaxed(function, f"{place} {name}", *given, self.facts, self.symbols)

        both = gate("input and forget gate", "sigmoid", 0, 2)
        return [both, gate("cell gate", "tanh", 2, 3), gate("output gate", "sigmoid", 3, 4)]

    def _gate_noise(self, x: Array, h: Array, total: Box) -> Box:
        """Both rescalings, and saturation of either part and of their sum; each holds 0 where kernels leave it out."""
        noise = Box.full(-self.rounding, self.rounding, total.lo.shape)
        from_input = x @ self.W_int.mag.T + np.abs(self.b_int) + self.b_slack + self.rounding
        for size in (from_input * (1 + 1e-9), (h @ self.R_int.mag.T + self.rounding) * (1 + 1e-9)):
            noise = noise + Box(-size, size).saturation(GATE_LO, GATE_HI)
        return noise + (total + noise).saturation(GATE_LO, GATE_HI)

    def _cell(self, i: Pair, f: Pair, g: Pair, c: Pair, place: str) -> Pair:
        forget = product(f, c, f"{place} forget * cell", self.facts, self.symbols)
        write = product(i, g, f"{place} input * gate", self.facts, self.symbols)
        clipped, integer = Box.full(0.0, 0.0, c.value.lo.shape), forget.integer + write.integer
        for part in (forget, write):
            clipped = clipped + part.integer.widen(self.cell_rounding).saturation(*self.cell_range)
        total, limit = integer.widen(self.cell_rounding), self.layer.cell_clip
        clipped = clipped + (total + clipped).saturation(*self.cell_range)
        new, reach = affine(forget.value + write.value, self.symbols).meet(forget.box + write.box), total + clipped
        if limit and (new.mag > limit).any():  # a float model's own clip
            cut = new.saturation(-limit, limit)
            new = affine([(1.0, new), cut], self.symbols).meet((new + cut).clip(-limit, limit))
            clipped = clipped - cut
        difference = [*forget.difference, *write.difference, clipped.widen(self.cell_rounding)]
        return self._bounded(new, difference, reach.clip(*self.cell_range))

    def _hidden(self, o: Pair, t: Pair, place: str) -> Pair:
        both = product(o, t, f"{place} output * tanh", self.facts, self.symbols)
        value, reach = affine(both.value, self.symbols).meet(both.box), both.integer.widen(self.hidden_rounding)
        noise = reach.saturation(*self.hidden_range).widen(self.hidden_rounding)
        return self._bounded(value, [*both.difference, noise], reach.clip(*self.hidden_range))

    def _bounded(self, value: Form, difference: list[Term], integer: Box) -> Pair:
        """The difference within what the integer value allows; units reset as recorded."""
        change, choices = affine(difference, self.symbols, paired=True).meet(integer - value), self.facts.choices
        value = self.symbols.reset(value, choices.resets(self.units), paired=False)
        return Pair(value, self.symbols.reset(change, choices.resets(self.units), paired=True))
