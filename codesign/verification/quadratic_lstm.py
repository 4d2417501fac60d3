"""Propagates a joint quadratic zonotope of the float state and the integer network's difference through an LSTM layer.

The method is the one of `codesign.verification.lstm`, with curved relaxations and products kept to second order:

    f(z)         = slope z + curve z^2 + residual
    D(z, d)      = slope_z z + slope_d d + cross z d + residual
    d(s c)       = s dc + c ds + ds dc

Of z d and s dc the products of an input symbol with any symbol stay symbolic (`codesign.verification.quadratic_forms`).
Roundings, table errors and saturations are those of the zonotope's layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codesign.verification import curved, relaxation
from codesign.verification.affine import UNIT, Array, Box, product_box, up
from codesign.verification.lstm_noise import GATE_LIMIT, LstmNoise
from codesign.verification.quadratic_forms import Product, QuadraticForm, Symbols, combine, linear_map, reset_wide
from codesign.verification.relaxation import Function, Recorder

_VALUES = "relaxation: second order"
_DIFFERENCES = "second-order differences: relaxation, rounding, tables"


@dataclass(frozen=True, eq=False)
class QuadraticPair:
    """A vector of the float network and its difference in the integer network; boxes (1, n)."""

    value: QuadraticForm
    difference: QuadraticForm
    value_box: Box
    difference_box: Box

    @staticmethod
    def of(value: QuadraticForm, difference: QuadraticForm) -> QuadraticPair:
        return QuadraticPair(value, difference, value.box, difference.box)

    @property
    def integer_box(self) -> Box:
        return self.value_box + self.difference_box

    @staticmethod
    def joined(pairs: Sequence[QuadraticPair]) -> QuadraticPair:
        """The pairs' coordinates one after the other."""
        return QuadraticPair(
            QuadraticForm.joined([p.value for p in pairs]),
            QuadraticForm.joined([p.difference for p in pairs]),
            Box.joined([p.value_box for p in pairs]),
            Box.joined([p.difference_box for p in pairs]),
        )

    def rows(self, part: slice) -> QuadraticPair:
        value, difference = self.value.rows(part), self.difference.rows(part)
        return QuadraticPair(value, difference, self.value_box.rows(part), self.difference_box.rows(part))


@dataclass
class _Sum:
    """Collects a sum of forms and products for `combine`; `size` bounds the magnitudes that rounding acts on."""

    terms: list[tuple[Array | float, QuadraticForm]]
    products: list[Product]
    constant: Array
    size: Array

    @staticmethod
    def zero(n: int) -> _Sum:
        return _Sum([], [], np.zeros(n), np.zeros(n))

    def add(self, coefficient: Array, form: QuadraticForm, size: Array) -> None:
        """coefficient * form; `size` bounds the coefficient's parts, where it was computed."""
        self.terms.append((coefficient, form))
        self.size = self.size + size * form.magnitude

    def multiply(self, factor: Array | float, u: QuadraticForm, v: QuadraticForm, width: int | None = None) -> None:
        """factor * u * v, to second order: centers times forms, and the product of both deviations."""
        a = np.asarray(factor)
        self.add(a * u.center, v, np.abs(a * u.center))
        self.add(a * v.center, u, np.abs(a * v.center))
        self.products.append(Product(factor, u, v, width))
        corner = a * u.center * v.center
        self.constant = self.constant - corner
        self.size = self.size + np.abs(corner)

    def close(self, noise: Box, symbols: Symbols, source: str = "") -> QuadraticForm:
        """The sum plus an interval (1, n), as a form; `source` names a difference's fresh symbols."""
        lost = up(16 * UNIT * self.size)
        constant = Box(noise.lo + (self.constant - lost), noise.hi + (self.constant + lost))
        constant = constant.widen(8 * UNIT * constant.mag)
        return combine(self.terms, self.products, constant, symbols, source or _VALUES, slack=not source)


class QuadraticLstm:
    """Runs one layer over a sequence; `run` gives the pairs of hidden states."""

    def __init__(self, base: LstmNoise, symbols: Symbols, recorder: Recorder | None) -> None:
        self.base, self.symbols, self.recorder = base, symbols, recorder

    def run(self, inputs: Sequence[QuadraticPair]) -> list[QuadraticPair]:
        zero = QuadraticForm.constant(np.zeros(self.base.units), inputs[0].value.inputs)
        hidden = cell = QuadraticPair.of(zero, zero)
        outputs = []
        for step, x in enumerate(inputs):
            hidden, cell = self._step(x, hidden, cell, f"{self.base.layer.name}[{step}]")
            outputs.append(hidden)
        return outputs

    def _step(
        self, x: QuadraticPair, h: QuadraticPair, c: QuadraticPair, place: str
    ) -> tuple[QuadraticPair, QuadraticPair]:
        H = self.base.units
        both, g, o = self._gates(x, h, place)
        i, f = both.rows(slice(0, H)), both.rows(slice(H, None))
        cell = self._cell(i, f, g, c)
        none = Box(np.zeros((1, H)), np.zeros((1, H)))
        squashed = self._squash("tanh", cell, none, self.base.cell_tanh_error, f"{place} cell tanh, second order")
        return self._hidden(o, squashed), cell

    def _gates(self, x: QuadraticPair, h: QuadraticPair, place: str) -> list[QuadraticPair]:
        """Input and forget gate together, cell gate, output gate."""
        w, H = self.base.weights, self.base.units
        z = linear_map([(w.W, x.value), (w.R, h.value)], w.b)
        dz = linear_map(
            [(w.W_gap, x.value), (w.W_int, x.difference), (w.R_gap, h.value), (w.R_int, h.difference)],
            w.b_gap,
            w.b_slack,
        )
        noise = self.base.gate_noise(x.integer_box, h.integer_box, z.box + dz.box)
        noise = Box(*np.broadcast_arrays(noise.lo, noise.hi))
        room = 4 * UNIT * (16 + z.box.mag)
        limit = (GATE_LIMIT[0] - z.box.hi - room, GATE_LIMIT[1] - z.box.lo + room)
        whole = QuadraticPair(z, dz, z.box, (dz.box + noise).meet(*limit))
        pieces: tuple[tuple[Function, slice, tuple[float, float], str], ...] = (
            ("sigmoid", slice(0, 2 * H), self.base.sigmoid_error, "input and forget gate"),
            ("tanh", slice(2 * H, 3 * H), self.base.tanh_error, "cell gate"),
            ("sigmoid", slice(3 * H, 4 * H), self.base.sigmoid_error, "output gate"),
        )
        return [
            self._squash(function, whole.rows(part), noise.rows(part), table, f"{place} {name}, second order")
            for function, part, table, name in pieces
        ]

    def _squash(
        self, function: Function, x: QuadraticPair, noise: Box, table: tuple[float, float], place: str
    ) -> QuadraticPair:
        """f(z) and f(z + d + n) - f(z) + table error; x's difference form is d, its box that of d + n, n in `noise`."""
        z, d = x.value, x.difference
        fit = curved.curve(function, x.value_box, place, self.recorder)
        total = _Sum.zero(len(z.center))
        total.add(fit.slope[0], z, np.zeros_like(z.center))
        total.multiply(fit.curve[0], z, z, z.inputs)
        value = total.close(fit.residual, self.symbols)
        fit_d = curved.patch(function, x.value_box, x.difference_box, place, self.recorder)
        change = _Sum.zero(len(z.center))
        change.add(fit_d.slope_z[0], z, np.zeros_like(z.center))
        change.add(fit_d.slope_d[0], d, np.zeros_like(z.center))
        change.multiply(fit_d.cross[0], z, d)
        # n meets slope_d + cross z
        cross = product_box(Box(fit_d.cross, fit_d.cross), x.value_box)
        lost = product_box(Box(fit_d.slope_d, fit_d.slope_d) + cross, noise)
        errors = Box(np.full_like(noise.lo, table[0]), np.full_like(noise.lo, table[1]))
        difference = change.close(fit_d.residual + lost + errors, self.symbols, _DIFFERENCES)
        image = relaxation.image(function, x.value_box, place, self.recorder)
        d_image = relaxation.difference_image(function, x.value_box, x.difference_box, place, self.recorder) + errors
        return QuadraticPair(
            value, difference, value.box.meet(image.lo, image.hi), difference.box.meet(d_image.lo, d_image.hi)
        )

    def _cell(self, i: QuadraticPair, f: QuadraticPair, g: QuadraticPair, c: QuadraticPair) -> QuadraticPair:
        base, n = self.base, self.base.units
        value, change = _Sum.zero(n), _Sum.zero(n)
        for x, y in ((f, c), (i, g)):
            _multiply(value, change, x, y)
        none = Box(np.zeros((1, n)), np.zeros((1, n)))
        new = value.close(none, self.symbols)
        exact = product_box(f.value_box, c.value_box) + product_box(i.value_box, g.value_box)
        box = new.box.meet(exact.lo, exact.hi)
        cut = base.float_clip(box)
        if cut is not None:
            new = combine([(1.0, new)], [], cut, self.symbols, _VALUES, slack=True)
            box = (box + cut).meet(-base.layer.cell_clip, base.layer.cell_clip)
        new = reset_wide(new, box, self.symbols, slack=True)
        noise, reach = base.cell_noise([product_box(x.integer_box, y.integer_box) for x, y in ((f, c), (i, g))])
        if cut is not None:
            noise = noise + Box(-cut.hi, -cut.lo)
        difference = change.close(noise, self.symbols, "second-order differences: cell")
        gap = reach + Box(-box.hi, -box.lo)
        d_box = difference.box.meet(gap.lo, gap.hi)
        return QuadraticPair(new, reset_wide(difference, d_box, self.symbols, slack=False), box, d_box)

    def _hidden(self, o: QuadraticPair, t: QuadraticPair) -> QuadraticPair:
        base, n = self.base, self.base.units
        value, change = _Sum.zero(n), _Sum.zero(n)
        _multiply(value, change, o, t)
        none = Box(np.zeros((1, n)), np.zeros((1, n)))
        hidden = value.close(none, self.symbols)
        exact = product_box(o.value_box, t.value_box)
        box = hidden.box.meet(exact.lo, exact.hi)
        hidden = reset_wide(hidden, box, self.symbols, slack=True)
        noise, reach = base.hidden_noise(product_box(o.integer_box, t.integer_box))
        difference = change.close(noise, self.symbols, "second-order differences: hidden state")
        gap = reach + Box(-box.hi, -box.lo)
        d_box = difference.box.meet(gap.lo, gap.hi)
        return QuadraticPair(hidden, reset_wide(difference, d_box, self.symbols, slack=False), box, d_box)


def _multiply(value: _Sum, change: _Sum, x: QuadraticPair, y: QuadraticPair) -> None:
    """x y, and (x + dx)(y + dy) - x y = x dy + y dx + dx dy."""
    value.multiply(1.0, x.value, y.value, x.value.inputs)
    change.multiply(1.0, x.value, y.difference)
    change.multiply(1.0, y.value, x.difference)
    change.multiply(1.0, x.difference, y.difference, 0)
