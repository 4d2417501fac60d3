"""Quadratic zonotopes of one region, sound in floating point.

A `QuadraticForm` stands for a vector of reals

    center + linear @ (x, e) + sum_{i, k} quadratic[i, k] x_i (x, e)_k + extra @ s + err,      |err| <= error,

with symbols in [-1, 1]: x those of the input (X of them), e those of the difference's roundings and relaxations, s
those of the float network's relaxations. The products that are kept are those of an input symbol with another one of x
or e; every other product becomes a fresh symbol. What cancels between terms therefore cancels before absolute values
are taken, whatever gate it came from. (Adje, Garoche and Werey, 'Quadratic zonotopes', APLAS 2015; the split is ours.)

`error` carries the rounding of our own float64 arithmetic, as in `codesign.verification.affine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from codesign.verification.affine import RESET, TINY, UNIT, Array, Box, Matrix, Pool, gamma, up


@dataclass
class Symbols:
    """Symbols x and e, symbols s, and the units that were given up for an interval, in order."""

    noise: Pool = field(default_factory=Pool)
    slack: Pool = field(default_factory=Pool)
    resets: list[npt.NDArray[np.bool_]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class QuadraticForm:
    """center (n,), linear (n, K), quadratic (n, X, K' <= K), extra (n, S), error (n,)."""

    center: Array
    linear: Array
    quadratic: Array
    extra: Array
    error: Array

    @property
    def inputs(self) -> int:
        """X, the number of input symbols."""
        return self.quadratic.shape[1]

    @cached_property
    def _sizes(self) -> tuple[Array, Array, Array, Array]:
        """Sums of magnitudes (n,), not yet rounded up: input symbols, all other linear symbols, products, and products
        with x_i x_j and x_j x_i counted each."""
        linear = np.abs(self.linear)
        other = linear[:, self.inputs :].sum(1) + np.abs(self.extra).sum(1)
        mixed, square = self.quadratic[:, :, self.inputs :], self.quadratic[:, :, : self.inputs]
        # one coordinate at a time stays in the cache
        products = np.array([np.abs(m).sum() for m in mixed])
        each = products + np.abs(square).sum((1, 2))
        if square.shape[2] == self.inputs:
            together = products + 0.5 * np.abs(square + square.transpose(0, 2, 1)).sum((1, 2))
        else:
            together = each
        return linear[:, : self.inputs].sum(1), other, together, each

    def above(self, size: Array) -> Array:
        """`size`, a sum over this form's coefficients as computed, rounded up."""
        count = self.linear.shape[1] + self.extra.shape[1] + self.quadratic.shape[1] * self.quadratic.shape[2]
        return up(size * (1.0 + gamma(count)))

    @cached_property
    def input_radius(self) -> Array:
        """Largest magnitude of the input symbols' linear part, (n,)."""
        return self.above(self._sizes[0])

    @cached_property
    def rest_radius(self) -> Array:
        """Largest magnitude of everything but the center and the input symbols' linear part."""
        return self.above(self._sizes[1] + self._sizes[2] + self.error)

    def beyond(self, width: int) -> Array:
        """Largest magnitude of everything but the center and the first `width` symbols' linear part."""
        dropped = np.abs(self.linear[:, width:]).sum(1) + np.abs(self.extra).sum(1)
        return self.above(dropped + self._sizes[2] + self.error)

    @cached_property
    def radius(self) -> Array:
        """Largest deviation from the center."""
        return self.above(self._sizes[0] + self._sizes[1] + self._sizes[2] + self.error)

    @cached_property
    def magnitude(self) -> Array:
        """Upper bound of the sum of all terms' magnitudes, each product counted by itself."""
        inputs, other, _, each = self._sizes
        return up(np.abs(self.center) + self.above(inputs + other + each + self.error))

    @cached_property
    def box(self) -> Box:
        """Enclosing box, (1, n)."""
        return self._around(self.radius)

    def _around(self, radius: Array) -> Box:
        radius = radius + up(2 * UNIT * (np.abs(self.center) + radius))
        return Box((self.center - radius)[None], (self.center + radius)[None])

    @cached_property
    def tight_box(self) -> Box:
        """A better box than `box`, at the cost of a matrix product a coordinate.

        With e free, the form's deviation is sum_k |l_k + m_k x| + l_x x + x' S x, m_k the products' columns; and
        |y| <= t/2 + y^2 / (2 t) for any t > 0. With t_k = sqrt(l_k^2 + |m_k|^2) that is a quadratic form in x whose
        linear part, sum_k (l_k / t_k) m_k, adds up with signs.
        """
        radius = self.radius.copy()
        for k in range(len(radius)):
            found = self._squared_radius(k)
            if found < radius[k]:
                radius[k] = found
        return self._around(radius)

    def _squared_radius(self, k: int) -> float:
        X, q = self.inputs, self.quadratic[k]
        if q.shape[1] <= X:
            return np.inf
        own, others = self.linear[k, :X], self.linear[k, X:]
        m = q[:, X:]
        plain = float(np.abs(others[m.shape[1] :]).sum() + np.abs(self.extra[k]).sum() + self.error[k])
        others = others[: m.shape[1]]
        t = np.sqrt(np.square(others) + np.square(m).sum(0)) + TINY
        share = others / t
        scaled = m / t
        constant = 0.5 * float((t + others * share).sum())
        slope, bend = m @ share, 0.5 * (scaled @ m.T)
        square = 0.5 * (q[:, :X] + q[:, :X].T)
        worst = max(float(np.abs(slope + s * own).sum() + np.abs(bend + s * square).sum()) for s in (1.0, -1.0))
        columns = np.abs(m).sum(0)
        size = constant + float(np.abs(own).sum() + np.abs(q[:, :X]).sum() + columns @ (1.0 + columns / t)) + plain
        total = constant + worst + plain + gamma(m.size + X * X + self.extra.shape[1] + self.linear.shape[1]) * size
        return float(up(np.asarray(total)))

    def rows(self, part: slice) -> QuadraticForm:
        return QuadraticForm(
            self.center[part], self.linear[part], self.quadratic[part], self.extra[part], self.error[part]
        )

    @staticmethod
    def constant(value: Array, inputs: int) -> QuadraticForm:
        n = len(value)
        return QuadraticForm(value, np.zeros((n, inputs)), np.zeros((n, inputs, 0)), np.zeros((n, 0)), np.zeros(n))

    @staticmethod
    def joined(forms: Sequence[QuadraticForm]) -> QuadraticForm:
        """The forms' coordinates one after the other."""

        def column(name: str) -> Array:
            arrays = [getattr(form, name) for form in forms]
            width = max(a.shape[-1] for a in arrays)
            return np.concatenate([np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, width - a.shape[-1])]) for a in arrays])

        center, error = (np.concatenate([getattr(form, name) for form in forms]) for name in ("center", "error"))
        return QuadraticForm(center, column("linear"), column("quadratic"), column("extra"), error)


@dataclass(frozen=True, eq=False)
class Product:
    """factor (n,) times (u - u's center) times (v - v's center).

    Kept are the products of u's input symbols with v's first `width` symbols (None: all of x and e).
    """

    factor: Array | float
    u: QuadraticForm
    v: QuadraticForm
    width: int | None = None

    def parts(self) -> tuple[Array, Array, Array, Array]:
        """(rows (n, X), columns (n, W), radius of the remainder (n,), magnitude of what is kept (n,))."""
        factor: Array = np.broadcast_to(np.asarray(self.factor, dtype=np.float64), self.u.center.shape)
        size: Array = np.abs(factor)
        rows = factor[:, None] * self.u.linear[:, : self.u.inputs]
        width = self.v.linear.shape[1] if self.width is None else self.width
        left = self.v.beyond(width)
        remainder: Array = size * (self.u.input_radius * left + self.u.rest_radius * self.v.radius)
        kept: Array = size * self.u.input_radius * self.v.radius
        return rows, self.v.linear[:, :width], up(remainder), up(kept)


Term = tuple[Array | float, QuadraticForm]


def combine(
    terms: Sequence[Term], products: Sequence[Product], constant: Box, symbols: Symbols, source: str, slack: bool
) -> QuadraticForm:
    """sum_i a_i X_i + sum_j (product j) + constant, elementwise; a_i (n,) exact, `constant` an interval (1, n).

    The constant's half-width and the products' remainders go into one fresh symbol for each coordinate: one of s with
    `slack`, else one of e.
    """
    n, inputs = constant.lo.shape[1], terms[0][1].inputs
    parts = [product.parts() for product in products]
    wide = [form.quadratic.shape[2] for _, form in terms] + [columns.shape[1] for _, columns, _, _ in parts]
    quadratic = np.empty((n, inputs, max(wide)))
    linear = np.zeros((n, max(form.linear.shape[1] for _, form in terms)))
    extra = np.zeros((n, max(form.extra.shape[1] for _, form in terms)))
    center, radius = constant.mid[0].copy(), constant.rad[0].copy()
    error, size = np.zeros(n), np.abs(center)
    for coefficient, form in terms:
        a = np.broadcast_to(np.asarray(coefficient, dtype=np.float64), (n,))
        linear[:, : form.linear.shape[1]] += a[:, None] * form.linear
        extra[:, : form.extra.shape[1]] += a[:, None] * form.extra
        center += a * form.center
        error += np.abs(a) * form.error
        size += np.abs(a) * form.magnitude
    for _, _, remainder, kept in parts:
        radius += remainder
        size += kept
    for k in range(n):  # one coordinate at a time stays in the cache
        _add_products(quadratic[k], [(np.broadcast_to(a, (n,))[k], f.quadratic[k]) for a, f in terms], parts, k)
    count = 3 * (len(terms) + len(parts)) + 2
    error = up(error * (1 + gamma(count)) + gamma(count) * size)
    form = QuadraticForm(center, linear, quadratic, extra, error)
    return _with_symbols(form, up(radius * (1 + gamma(count))), symbols, source, slack)


def _add_products(
    total: Array, terms: Sequence[tuple[float, Array]], parts: Sequence[tuple[Array, Array, Array, Array]], k: int
) -> None:
    """Fill `total` (X, K') with the sum of a_i Q_i and, for coordinate `k`, of the products' outer products."""
    scratch, filled = np.empty_like(total), 0
    pieces: list[tuple[int, Callable[..., object]]] = []
    for a, matrix in terms:
        pieces.append((matrix.shape[1], partial(np.multiply, matrix, a)))
    for rows, columns, _, _ in parts:
        pieces.append((columns.shape[1], partial(np.multiply.outer, rows[k], columns[k])))
    for width, write in sorted(pieces, key=lambda piece: -piece[0]):
        if not width:
            continue
        if not filled:
            write(out=total[:, :width])
            total[:, width:], filled = 0.0, width
        else:
            write(out=scratch[:, :width])
            total[:, :width] += scratch[:, :width]
    if not filled:
        total[:] = 0.0


def _with_symbols(form: QuadraticForm, radius: Array, symbols: Symbols, source: str, slack: bool) -> QuadraticForm:
    """The form plus a fresh symbol of that radius for each coordinate."""
    pool, old, n = (symbols.slack if slack else symbols.noise), (form.extra if slack else form.linear), len(radius)
    start = pool.allocate(n, source)
    new = np.zeros((n, start + n))
    new[:, : old.shape[1]] = old
    new[np.arange(n), start + np.arange(n)] = radius
    linear, extra = (form.linear, new) if slack else (new, form.extra)
    return QuadraticForm(form.center, linear, form.quadratic, extra, form.error)


def linear_map(
    terms: Sequence[tuple[Matrix, QuadraticForm]], constant: Array, constant_slack: Array | float = 0.0
) -> QuadraticForm:
    """sum_i A_i X_i + constant with A_i (m, n_i); `constant` (m,) known up to `constant_slack`."""
    m, inputs = terms[0][0].value.shape[0], terms[0][1].inputs

    def mapped(name: str) -> Array:
        width = max(getattr(form, name).shape[1] for _, form in terms)
        total = np.zeros((m, width))
        for matrix, form in terms:
            part = getattr(form, name)
            total[:, : part.shape[1]] += matrix.value @ part
        return total

    center = constant.astype(np.float64)
    error = np.broadcast_to(np.asarray(constant_slack, dtype=np.float64), (m,)).copy()
    size, count = np.abs(center), 1
    for matrix, form in terms:
        center = center + matrix.value @ form.center
        error += matrix.magnitude @ form.error + matrix.slack @ form.magnitude
        size = size + matrix.magnitude @ form.magnitude
        count += matrix.value.shape[1] + 1
    error = up(error * (1 + gamma(count)) + gamma(count) * size)
    quadratic = np.zeros((m, inputs, 0))
    for matrix, form in sorted(terms, key=lambda term: -term[1].quadratic.shape[2]):
        used = form.quadratic.shape[2]
        if used:
            part = (matrix.value @ form.quadratic.reshape(len(form.center), -1)).reshape(m, inputs, used)
            if quadratic.shape[2]:
                quadratic[:, :, :used] += part
            else:
                quadratic = part
    return QuadraticForm(center, mapped("linear"), quadratic, mapped("extra"), error)


def with_noise(form: QuadraticForm, noise: Box, symbols: Symbols, source: str) -> QuadraticForm:
    """The form plus an interval (1, n), as a fresh symbol of e."""
    center = form.center + noise.mid[0]
    error = up(form.error + 2 * UNIT * np.abs(center))
    moved = QuadraticForm(center, form.linear, form.quadratic, form.extra, error)
    return _with_symbols(moved, noise.rad[0], symbols, source, False)


def reset_wide(form: QuadraticForm, box: Box, symbols: Symbols, slack: bool) -> QuadraticForm:
    """Replace the coordinates whose radius exceeds `RESET` times the box's (1, n) by a fresh symbol over the box."""
    wide = form.radius > RESET * box.rad[0]
    symbols.resets.append(wide[None])
    if not wide.any():
        return form
    kept = QuadraticForm(
        np.where(wide, box.mid[0], form.center),
        np.where(wide[:, None], 0.0, form.linear),
        np.where(wide[:, None, None], 0.0, form.quadratic),
        np.where(wide[:, None], 0.0, form.extra),
        np.where(wide, TINY, form.error),
    )
    return _with_symbols(kept, np.where(wide, box.rad[0], 0.0), symbols, "reset", slack)
