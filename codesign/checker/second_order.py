"""Replays LSTMs by quadratic zonotopes: curved relaxations, and products of the input's symbols kept as symbols."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codesign.checker.lstm import LstmReplay, Product
from codesign.checker.solver import Function
from codesign.proof.forms import UNIT, Array, Box, Form, Pair, SecondOrder, Symbols, Term, affine, gamma, up

_VALUES = 8  # symbols a unit and step of the float network alone
_Parts = tuple[list[Term], Box, list[SecondOrder]]


class SecondOrderReplay(LstmReplay):
    """One layer, of one region."""

    def run(self, inputs: Sequence[Pair]) -> list[Pair]:
        self.symbols.reserve(_VALUES * self.units * len(inputs))
        return super().run(inputs)

    def _squashed(self, function: Function, place: str, x: Pair, noise: Box, table: tuple[float, float]) -> Pair:
        z, d = x.value, x.difference
        slope, bend, residual, image = self.facts.curve(function, f"{place}, second order", x.value_box)
        alpha, beta, gamma, d_residual, d_image = self.facts.patch(
            function, f"{place}, second order", x.value_box, x.difference_box
        )
        terms, constant, parts = _times(bend, z, z, 1)
        value = affine([(slope, z), *terms], residual + constant, self.symbols, parts)
        error, lost = Box.full(*table, slope.shape), (Box(beta, beta) + Box(gamma, gamma) * x.value_box) * noise
        terms, constant, parts = _times(gamma, z, d, None)
        moved = d_residual + lost + error + constant
        difference = affine([(alpha, z), (beta, d), *terms], moved, self.symbols, parts, paired=True)
        return Pair(value, difference, value.box.meet(image), difference.box.meet(d_image + error))

    def _product(self, x: Pair, y: Pair, place: str) -> Product:
        one, dx, dy = np.ones_like(x.value.center), x.difference, y.difference
        terms, constant, parts = _times(one, x.value, y.value, 1)
        # (x + dx)(y + dy) - x y = x dy + y dx + dx dy
        moves = [_times(one, x.value, dy, None), _times(one, y.value, dx, None), _times(one, dx, dy, 0)]
        d_terms, d_parts = [t for move in moves for t in move[0]], [p for move in moves for p in move[2]]
        d_constant = moves[0][1] + moves[1][1] + moves[2][1]
        boxes = x.value_box * y.value_box, x.integer_box * y.integer_box
        return Product(*boxes, terms, constant, d_terms, d_constant, parts, d_parts)


def _times(factor: Array, u: Form, v: Form, spans: int | None) -> _Parts:
    """factor u v: centers times forms, less the centers' product, and the product of both deviations."""
    a, b = factor * u.center, factor * v.center
    lost = 4 * UNIT * (np.abs(a) * v.mag + np.abs(b) * u.mag)
    return [(a, v), (b, u)], Box.around(-a * v.center, lost), [SecondOrder(factor, u, v, spans)]


def tight_box(form: Form, symbols: Symbols) -> Box:
    """The form's box; with second-order symbols the better of that and one that lets the input's cancel.

    At an input x the other symbols reach sum_k |l_k + m_k x|, m_k the products with x; and |y| <= t/2 + y^2 / (2 t) for
    any t > 0: a quadratic form in x, whose coefficients add up with signs.
    """
    radius = form.radius.copy()
    if symbols.second_order and symbols.inputs:
        for b, k in np.ndindex(*radius.shape):
            radius[b, k] = min(radius[b, k], _squared(form.generators[b, k], float(form.error[b, k]), symbols))
    radius = radius + up(2 * UNIT * form.mag)
    return Box(form.center - radius, form.center + radius)


def pairwise(form: Form, symbols: Symbols) -> Box:
    """Ranges (B, M, M) of value i less value j."""
    batch, count = form.center.shape
    lo, hi = np.zeros((2, batch, count, count))
    for j in range(count - 1):
        rest = form.part(slice(j + 1, None))
        own = Form(*(np.repeat(a[:, j : j + 1], count - j - 1, 1) for a in (form.center, form.generators, form.error)))
        box = tight_box(affine([(1.0, rest), (-1.0, own)], Box.full(0.0, 0.0, rest.center.shape)), symbols)
        lo[:, j + 1 :, j], hi[:, j + 1 :, j] = box.lo, box.hi
        lo[:, j, j + 1 :], hi[:, j, j + 1 :] = -box.hi, -box.lo
    return Box(lo, hi)


def _squared(g: Array, error: float, symbols: Symbols) -> float:
    X = symbols.inputs
    square, rest, size = np.zeros((X, X)), np.abs(g), np.abs(g).sum() + error
    rest[:X] = 0.0
    linear, products = [np.zeros(0)], [np.zeros((0, X))]
    for first, last, block in symbols.spans:
        end = block + (last - first) * X
        if len(g) < end:
            continue
        if first == 0:
            square = g[block:end].reshape(X, X)
        else:
            linear.append(g[first:last])
            products.append(g[block:end].reshape(-1, X))
            rest[first:last] = 0.0
        rest[block:end] = 0.0
    own, m = np.concatenate(linear), np.concatenate(products)
    t = np.sqrt(own**2 + np.square(m).sum(1)) + 1e-290
    slope, bend = (own / t) @ m, 0.5 * m.T @ (m / t[:, None])
    reach = max(np.abs(slope + s * g[:X]).sum() + np.abs(bend + s * square).sum() for s in (1.0, -1.0))
    columns = np.abs(m).sum(1)
    size += (t + columns + columns**2 / t).sum()
    return float(up(0.5 * (t + own * (own / t)).sum() + reach + rest.sum() + error + gamma(3 * len(g) + X * X) * size))
