"""Replays one LSTM layer: the float network's state and the integer network's difference from it, step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codesign.checker import integer
from codesign.checker.facts import Facts, Function
from codesign.checker.forms import UNIT, Array, Box, Form, Matrix, Pair, Symbols, Term, affine, points, up
from codesign.checker.integer import GATE_HI, GATE_LO, GATE_STEP
from codesign.checker.result import CannotCheck, Invalid
from codesign.network.model import Lstm
from codesign.quantization.integer import IntegerNetwork, IntLstm

_PIECES: tuple[tuple[Function, int, int, str], ...] = (
    ("sigmoid", 0, 2, "input and forget gate"),
    ("tanh", 2, 3, "cell gate"),
    ("sigmoid", 3, 4, "output gate"),
)


class LstmReplay:
    """One layer. `ops` is the operator under every profile, with the network it is of."""

    def __init__(
        self, layer: Lstm, ops: Sequence[tuple[IntLstm, IntegerNetwork]], facts: Facts, symbols: Symbols
    ) -> None:
        op = ops[0][0]
        self.layer, self.op, self.facts, self.symbols, self.units = layer, op, facts, symbols, layer.units
        self._weights(ops)
        step = 2.0**op.cell_shift
        if any(o.forget_multiplier.real != 2.0**-15 for o, _ in ops):
            raise Invalid(f"operator '{op.name}': f c is not rescaled by 2^-15")
        if any(o.input_gate_multiplier.real != 2.0**-30 / step for o, _ in ops):
            raise Invalid(f"operator '{op.name}': i g is not rescaled by 2^-30 / cell scale")
        self.cell_lo, self.cell_hi = -32768 * step, 32767 * step
        if op.cell_clip_q:
            self.cell_lo, self.cell_hi = (
                max(-op.cell_clip_q * step, self.cell_lo),
                min(op.cell_clip_q * step, self.cell_hi),
            )
        self.cell_rounding = step * (
            integer.rescaling_error(op.forget_multiplier) + integer.rescaling_error(op.input_gate_multiplier)
        )
        gain = max(abs(o.hidden_multiplier.real * 2.0**30 * op.output.scale - 1.0) for o, _ in ops) + 8 * UNIT
        worst = max(integer.rescaling_error(o.hidden_multiplier) for o, _ in ops)
        self.hidden_rounding = float(up(op.output.scale * worst + gain))  # |o tanh(c)| <= 1
        self.hidden_range = integer.tensor_range(op.output)
        self.tables = {
            "sigmoid": integer.lstm_table("sigmoid", -12),
            "tanh": integer.lstm_table("tanh", -12),
            "cell": integer.lstm_table("tanh", op.cell_shift),
        }

    def _weights(self, ops: Sequence[tuple[IntLstm, IntegerNetwork]]) -> None:
        """Float weights, the integer gates' weights in real units, their differences, and a gate's rounding."""
        op, H = ops[0][0], self.units
        self.W, self.R = (Matrix.exact(m.reshape(4 * H, -1)) for m in (self.layer.W, self.layer.R))
        self.b = self.layer.b.reshape(-1).astype(np.float64)
        gates: list[tuple[Array, ...]] = []
        for g in range(4):
            w_scales = [integer.acting(o.input_multipliers[g], net).real * GATE_STEP for o, net in ops]
            r_scales = [integer.acting(o.recurrent_multipliers[g], net).real * GATE_STEP for o, net in ops]
            w_spread = max(abs(s / w_scales[0] - 1.0) for s in w_scales) * 1.001 + 8 * UNIT
            r_spread = max(abs(s / r_scales[0] - 1.0) for s in r_scales) * 1.001 + 8 * UNIT
            w, r = op.W[g] * (w_scales[0] / op.input.scale), op.R[g] * (r_scales[0] / op.output.scale)
            b = op.b[g] * w_scales[0]
            lost = max(
                integer.rescaling_error(integer.acting(o.input_multipliers[g], net))
                + integer.rescaling_error(integer.acting(o.recurrent_multipliers[g], net))
                for o, net in ops
            )
            gates.append(
                (
                    w,
                    np.abs(w) * w_spread,
                    r,
                    np.abs(r) * r_spread,
                    b,
                    np.abs(b) * w_spread,
                    np.full(H, lost * GATE_STEP),
                )
            )
        w, ws, r, rs, b, bs, rounding = (np.concatenate(part) for part in zip(*gates, strict=True))
        self.W_int, self.R_int, self.b_int, self.b_slack = Matrix(w, up(ws)), Matrix(r, up(rs)), b, up(bs)
        self.W_gap, self.R_gap = self.W_int - self.W, self.R_int - self.R
        self.rounding = rounding

    def run(self, inputs: Sequence[Pair]) -> list[Pair]:
        """The hidden state after every step, from the reset state."""
        shape = (inputs[0].value.center.shape[0], self.units)
        zero = Form(np.zeros(shape), np.zeros((*shape, 0)), np.zeros(shape))
        hidden = cell = Pair.of(zero, zero)
        outputs = []
        for step, x in enumerate(inputs):
            place, H = f"{self.layer.name}[{step}]", self.units
            gates = self._gates(x, hidden, place)
            i, f, g, o = (gates.part(slice(k * H, (k + 1) * H)) for k in range(4))
            cell = self._cell(i, f, g, cell, place)
            hidden = self._hidden(o, self._squash(cell, place), place)
            outputs.append(hidden)
        return outputs

    def _gates(self, x: Pair, h: Pair, place: str) -> Pair:
        shape = (x.value.center.shape[0], 4 * self.units)
        z = affine([(self.W, x.value), (self.R, h.value)], points(self.b, shape))
        gap = Box.around(np.broadcast_to(self.b_int - self.b, shape), self.b_slack)
        dz = affine(
            [(self.W_gap, x.value), (self.W_int, x.difference), (self.R_gap, h.value), (self.R_int, h.difference)], gap
        )
        noise = self._gate_noise(x, h, z.box + dz.box)
        # What the tables see lies in [GATE_LO, GATE_HI].
        limits = Box(GATE_LO - z.box.hi - 64 * UNIT, GATE_HI - z.box.lo + 64 * UNIT)
        d_box = (dz.box + noise).meet(limits)
        columns: list[tuple[Array, Box, Box, Array, Array, Box, Box]] = []
        for function, first, last, name in _PIECES:
            part = slice(first * self.units, last * self.units)
            zb, db = z.box.part(part), d_box.part(part)
            slope, residual, image = self.facts.plane(function, f"{place} {name}", zb)
            alpha, beta, d_residual, d_image = self.facts.difference(function, f"{place} {name}", zb, db)
            table = _interval(self.tables[function], zb)
            lost = points(beta, beta.shape) * noise.part(part)  # the form dz is without the noise
            columns.append((slope, residual, image, alpha, beta, d_residual + lost + table, d_image + table))
        slope, alpha, beta = (np.concatenate([c[k] for c in columns], axis=1) for k in (0, 3, 4))  # type: ignore[misc]
        residual, image, d_residual, d_image = (_join([c[k] for c in columns]) for k in (1, 2, 5, 6))  # type: ignore[misc]
        gates = affine([(slope, z)], residual, self.symbols)
        d_gates = affine([(alpha, z), (beta, dz)], d_residual, self.symbols)
        return Pair(gates, d_gates, gates.box.meet(image), d_gates.box.meet(d_image))

    def _gate_noise(self, x: Pair, h: Pair, total: Box) -> Box:
        """Both rescalings, and saturation of either part and of their sum; each holds 0 where kernels leave it out."""
        radius = np.broadcast_to(self.rounding, total.lo.shape)
        noise = Box(-radius, radius)
        from_input = x.integer_box.mag @ self.W_int.mag.T + np.abs(self.b_int) + self.b_slack + self.rounding
        from_hidden = h.integer_box.mag @ self.R_int.mag.T + self.rounding
        for size in (from_input, from_hidden):
            size = size * (1 + 1e-9)
            noise = noise + integer.saturation(Box(-size, size), GATE_LO, GATE_HI)
        return noise + integer.saturation(total + noise, GATE_LO, GATE_HI)

    def _cell(self, i: Pair, f: Pair, g: Pair, c: Pair, place: str) -> Pair:
        forget = _Product(f, c, f"{place} forget * cell", self.facts)
        write = _Product(i, g, f"{place} input * gate", self.facts)
        new = affine(forget.terms + write.terms, forget.constant + write.constant, self.symbols)
        box = new.box.meet(forget.box + write.box)
        if self.layer.cell_clip and (box.mag > self.layer.cell_clip).any():
            raise CannotCheck("the float model clips its cell state, which this checker does not model")
        new = self.symbols.replace(new, box, self.facts.choices.resets(self.units))
        clipped = points(0.0, box.lo.shape)
        for part in (forget, write):
            reach = part.integer_box.widen(self.cell_rounding)
            clipped = clipped + integer.saturation(reach, self.cell_lo, self.cell_hi)
        total = (forget.integer_box + write.integer_box).widen(self.cell_rounding)
        clipped = clipped + integer.saturation(total + clipped, self.cell_lo, self.cell_hi)
        noise = clipped.widen(self.cell_rounding)
        difference = affine(forget.d_terms + write.d_terms, forget.d_constant + write.d_constant + noise, self.symbols)
        reach = (total + clipped).clip(self.cell_lo, self.cell_hi)
        d_box = difference.box.meet(reach + -box)
        difference = self.symbols.replace(difference, d_box, self.facts.choices.resets(self.units))
        return Pair(new, difference, box, d_box)

    def _squash(self, cell: Pair, place: str) -> Pair:
        where = f"{place} cell tanh"
        slope, residual, image = self.facts.plane("tanh", where, cell.value_box)
        alpha, beta, d_residual, d_image = self.facts.difference("tanh", where, cell.value_box, cell.difference_box)
        table = _interval(self.tables["cell"], image)
        value = affine([(slope, cell.value)], residual, self.symbols)
        difference = affine([(alpha, cell.value), (beta, cell.difference)], d_residual + table, self.symbols)
        return Pair(value, difference, value.box.meet(image), difference.box.meet(d_image + table))

    def _hidden(self, o: Pair, t: Pair, place: str) -> Pair:
        product = _Product(o, t, f"{place} output * tanh", self.facts)
        value = affine(product.terms, product.constant, self.symbols)
        box = value.box.meet(product.box)
        value = self.symbols.replace(value, box, self.facts.choices.resets(self.units))
        reach = product.integer_box.widen(self.hidden_rounding)
        noise = integer.saturation(reach, *self.hidden_range).widen(self.hidden_rounding)
        difference = affine(product.d_terms, product.d_constant + noise, self.symbols)
        d_box = difference.box.meet(reach.clip(*self.hidden_range) + -box)
        difference = self.symbols.replace(difference, d_box, self.facts.choices.resets(self.units))
        return Pair(value, difference, box, d_box)


class _Product:
    """x y = terms + constant, and its difference (x + dx)(y + dy) - x y = (x + dx/2) dy + dx (y + dy/2) likewise."""

    def __init__(self, x: Pair, y: Pair, place: str, facts: Facts) -> None:
        xb, yb, dx, dy = x.value_box, y.value_box, x.difference_box, y.difference_box
        self.box = xb * yb
        self.integer_box = x.integer_box * y.integer_box
        self.terms, self.constant = _linearised(x.value, xb, y.value, yb, place, facts)
        half = points(0.5, dx.lo.shape)
        zero = points(0.0, dx.lo.shape)
        x_mid, y_mid = (affine([(1.0, p.value), (0.5, p.difference)], zero) for p in (x, y))
        where = f"{place} difference"
        first, a = _linearised(x_mid, xb + half * dx, y.difference, dy, where, facts)
        second, b = _linearised(x.difference, dx, y_mid, yb + half * dy, where, facts)
        self.d_terms, self.d_constant = first + second, a + b


def _linearised(x: Form, xb: Box, y: Form, yb: Box, place: str, facts: Facts) -> tuple[list[Term], Box]:
    """x y = x0 y + y0 x - x0 y0 + (x - x0)(y - y0)."""
    x0, y0 = xb.mid, yb.mid
    residual = facts.bilinear(place, x, xb, y, yb)
    return [(x0, y), (y0, x)], residual + Box.around(-x0 * y0, 0.0)


def _interval(ends: tuple[float, float], like: Box) -> Box:
    return Box(np.full_like(like.lo, ends[0]), np.full_like(like.lo, ends[1]))


def _join(boxes: Sequence[Box]) -> Box:
    return Box(np.concatenate([b.lo for b in boxes], axis=1), np.concatenate([b.hi for b in boxes], axis=1))
