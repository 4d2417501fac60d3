"""Intervals and affine forms on arrays with outward rounding: the arithmetic that the checker computes bounds with.

Numbers are binary64 rounded to nearest. A sum of n products is off by at most gamma(n) times the sum of their
magnitudes, in whatever order it is taken (Higham, Accuracy and Stability of Numerical Algorithms, ch. 3); a single
operation by 2^-53 relatively. Shapes: B regions, n values, K noise symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
UNIT = 2.0**-53
TINY = 1e-290  # above all that underflow can lose


class DisjointError(ValueError):
    """Enclosures of one value have nothing in common: a premise of one of them is wrong."""


def gamma(terms: int) -> float:
    """Above the relative error of a sum of `terms` products."""
    return 2.0 * (terms + 8) * UNIT


def up(x: Array | float) -> Array:
    """Above a non-negative quantity that was computed with at most a dozen roundings."""
    return np.asarray(x * (1.0 + 16 * UNIT) + TINY)


@dataclass(frozen=True, eq=False)
class Box:
    """Intervals [lo, hi], elementwise."""

    lo: Array
    hi: Array

    @staticmethod
    def around(value: Array, slack: Array | float = 0.0) -> Box:
        """value +- slack, where `value` was computed with a few roundings of its own size."""
        slack = up(np.abs(slack) + 8 * UNIT * np.abs(value))
        return Box(value - slack, value + slack)

    @staticmethod
    def full(lo: Array | float, hi: Array | float, shape: tuple[int, ...]) -> Box:
        """The same interval everywhere."""
        return Box(np.broadcast_to(np.float64(lo), shape), np.broadcast_to(np.float64(hi), shape))

    @property
    def mid(self) -> Array:
        return np.asarray(0.5 * (self.lo + self.hi))

    @property
    def rad(self) -> Array:
        """Around `mid`, rounded up."""
        return up(np.maximum(self.hi - self.mid, self.mid - self.lo))

    @property
    def mag(self) -> Array:
        return np.maximum(np.abs(self.lo), np.abs(self.hi))

    def part(self, columns: slice) -> Box:
        return Box(self.lo[:, columns], self.hi[:, columns])

    def __add__(self, other: Box) -> Box:
        lo, hi = self.lo + other.lo, self.hi + other.hi
        return Box(lo - up(2 * UNIT * np.abs(lo)), hi + up(2 * UNIT * np.abs(hi)))

    def __sub__(self, other: Box) -> Box:
        return self + Box(-other.hi, -other.lo)

    def __mul__(self, other: Box) -> Box:
        corners = np.stack([a * b for a in (self.lo, self.hi) for b in (other.lo, other.hi)])
        slack = up(2 * UNIT * np.abs(corners).max(0))
        return Box(corners.min(0) - slack, corners.max(0) + slack)

    def widen(self, radius: Array | float) -> Box:
        return self + Box.full(-radius, radius, self.lo.shape)

    def meet(self, other: Box) -> Box:
        """Both hold the same real values; that their meeting is empty shows that a premise of one is wrong."""
        lo, hi = np.maximum(self.lo, other.lo), np.minimum(self.hi, other.hi)
        if not (lo <= hi).all():
            raise DisjointError("two enclosures of the same value do not meet")
        return Box(lo, hi)

    def clip(self, lo: float, hi: float) -> Box:
        return Box(np.clip(self.lo, lo, hi), np.clip(self.hi, lo, hi))

    def saturation(self, lo: float | Array, hi: float | Array) -> Box:
        """clip(v, lo, hi) - v for v in the box; holds 0."""
        under, over = np.maximum(lo - self.lo, 0.0), np.minimum(hi - self.hi, 0.0)
        slack = up(2 * UNIT * self.mag)
        return Box(np.where(over < 0, over - slack, 0.0), np.where(under > 0, under + slack, 0.0))


def join(boxes: Sequence[Box]) -> Box:
    """Side by side."""
    return Box(np.concatenate([b.lo for b in boxes], axis=1), np.concatenate([b.hi for b in boxes], axis=1))


@dataclass(frozen=True, eq=False)
class Matrix:
    """A real matrix (m, n) known as `value` up to `slack`, elementwise."""

    value: Array
    slack: Array | float = 0.0

    def __sub__(self, other: Matrix) -> Matrix:
        value = self.value - other.value
        return Matrix(value, up(self.slack + other.slack + 2 * UNIT * np.abs(value)))

    @cached_property
    def mag(self) -> Array:
        return up(np.abs(self.value) + self.slack)


@dataclass(frozen=True, eq=False)
class Form:
    """center + generators @ eps + e, noise symbols eps in [-1, 1]^K, |e| <= error: (B, n), (B, n, K), (B, n)."""

    center: Array
    generators: Array
    error: Array

    @staticmethod
    def loose(box: Box) -> Form:
        """Anything in the box, without a symbol."""
        return Form(box.mid, np.zeros((*box.lo.shape, 0)), box.rad)

    @staticmethod
    def join(forms: Sequence[Form]) -> Form:
        """Side by side."""
        width = max(form.generators.shape[-1] for form in forms)
        padded = [np.pad(f.generators, ((0, 0), (0, 0), (0, width - f.generators.shape[-1]))) for f in forms]
        center, error = (np.concatenate([getattr(f, name) for f in forms], axis=1) for name in ("center", "error"))
        return Form(center, np.concatenate(padded, axis=1), error)

    @cached_property
    def radius(self) -> Array:
        total = np.empty(self.center.shape)
        for k in np.ndindex(*total.shape):  # one value at a time stays in the cache
            total[k] = np.abs(self.generators[k]).sum()
        return up((total + self.error) * (1.0 + gamma(self.generators.shape[-1])))

    @cached_property
    def mag(self) -> Array:
        return up(np.abs(self.center) + self.radius)

    @cached_property
    def box(self) -> Box:
        radius = self.radius + up(2 * UNIT * self.mag)
        return Box(self.center - radius, self.center + radius)

    def part(self, columns: slice) -> Form:
        return Form(self.center[:, columns], self.generators[:, columns], self.error[:, columns])


Term = tuple[Matrix | Array | float, Form]


class Symbols:
    """Counts the noise symbols of a replay; every use of a symbol is a column. The first `inputs` are the input's.

    With `second_order`, the products of the input's symbols with these and with the differences' are symbols as well.
    """

    count = inputs = 0

    def __init__(self, second_order: bool = False) -> None:
        self.second_order = second_order
        self.spans: list[tuple[int, int, int]] = []  # symbols [first, last), and the column where their products begin
        self._spare = (0, 0)  # columns kept free for symbols without products: forms without others stay narrow

    def reserve(self, count: int) -> None:
        """Keep columns free for the next symbols without products."""
        self._spare = (self.count, self.count + count)
        self.count += count

    def fresh(self, count: int, paired: bool) -> int:
        """The first column of new symbols."""
        start, end = self._spare
        if not paired and start + count <= end:
            self._spare = (start + count, end)
            return start
        self.count += count
        return self.count - count

    def pair(self, count: int) -> None:
        """Give the last symbols their products with the input's, all those of one symbol side by side."""
        if self.second_order:
            self.spans.append((self.count - count, self.count, self.count))
            self.count += count * self.inputs

    def over(self, box: Box) -> Form:
        """A fresh symbol for every value of the box."""
        return affine([], box, self)

    def replace(self, form: Form, box: Box, chosen: Flags, paired: bool) -> Form:
        """`form`, but where `chosen` a fresh symbol over `box`, in which the values lie as well."""
        if not chosen.any():
            return form
        fresh, width = affine([], box, self, paired=paired), form.generators.shape[-1]
        generators = np.where(chosen[:, :, None], fresh.generators, 0.0)
        generators[:, :, :width] += np.where(chosen[:, :, None], 0.0, form.generators)
        center, error = (np.where(chosen, a, b) for a, b in ((fresh.center, form.center), (fresh.error, form.error)))
        return Form(center, generators, error)


class Ages:
    """When the symbols that a recurrent layer's state depends on first occurred in it, to fold the oldest ones."""

    def __init__(self, symbols: Symbols) -> None:
        self.symbols = symbols
        self.first = np.full(0, -1)  # a step for each symbol; -1: not in the state

    def note(self, forms: Sequence[Form], step: int) -> None:
        """The state after a step."""
        self.first = np.concatenate([self.first, np.full(self.symbols.count - len(self.first), -1)])
        for form in forms:
            used = form.generators.any((0, 1))
            width = len(used)
            self.first[:width][used & (self.first[:width] < 0)] = step

    def fold(self, forms: Sequence[Form], kept_from: int, step: int) -> list[Form]:
        """One fresh symbol a value instead of all that occurred before step `kept_from`, but for the input's."""
        old = (self.first >= 0) & (self.first < kept_from)
        old[: self.symbols.inputs] = False
        folded = []
        for form in forms:
            g = form.generators
            chosen = old[: g.shape[-1]]
            spread = up(np.abs(g[..., chosen]).sum(-1) * (1 + gamma(len(chosen))))
            fresh = self.symbols.over(Box(-spread, spread))
            fresh.generators[..., : g.shape[-1]] += np.where(chosen, 0.0, g)
            folded.append(Form(form.center + fresh.center, fresh.generators, up(form.error + fresh.error)))
        self.first[old] = -1
        self.note(folded, step)
        return folded


@dataclass(frozen=True, eq=False)
class SecondOrder:
    """factor (B, n) times (u - u's center)(v - v's center).

    Products of u's input symbols with v's symbols are kept, of v's with the first `spans` (None: all) that have any.
    """

    factor: Array
    u: Form
    v: Form
    spans: int | None

    def add(self, generators: Array, symbols: Symbols) -> tuple[Array, Array]:
        """Add what is kept; the radius of the rest and the size of what was added, (B, n) each."""
        X, g = symbols.inputs, self.v.generators
        size: Array = np.abs(self.factor)
        rows = self.factor[..., None] * self.u.generators[..., :X]
        kept = np.zeros_like(size)
        for first, last, block in symbols.spans[: self.spans]:
            if g.shape[-1] < last or not rows.shape[-1]:
                continue
            kept += np.abs(g[..., first:last]).sum(-1)
            products = g[..., first:last, None] * rows[..., None, :]
            if first == 0:  # x_i x_j is x_j x_i
                products = 0.5 * (products + products.swapaxes(-1, -2))
            generators[..., block : block + (last - first) * X] += products.reshape(*size.shape, -1)
        own = Form(self.u.center, self.u.generators[..., :X], np.zeros_like(size)).radius
        beyond = _less(self.u.radius, np.abs(self.u.generators[..., :X]).sum(-1), X)
        dropped = _less(self.v.radius, kept, g.shape[-1])
        return up(size * (own * dropped + beyond * self.v.radius)), up(size * own * self.v.radius)


def _less(total: Array, part: Array, terms: int) -> Array:
    """Above what is left of a sum of magnitudes, bounded by `total`, without a part of it, computed from `terms`."""
    return up(np.maximum(total - part * (1 - 2 * gamma(terms)), 0.0))


def affine(
    terms: Sequence[Term],
    constant: Box,
    symbols: Symbols | None = None,
    products: Sequence[SecondOrder] = (),
    paired: bool = False,
) -> Form:
    """sum_k a_k X_k + products + constant, a_k a matrix, or numbers (B, n) elementwise.

    With `symbols`, every constant's interval is a fresh symbol, `paired` with the input's where products are kept;
    without, its half-width counts as the form's error.
    """
    shape = batch, n = constant.lo.shape
    center, radius = constant.mid, constant.rad
    size, error = np.abs(center), np.zeros(shape)
    start = symbols.fresh(n, paired) if symbols is not None else 0
    width = max([form.generators.shape[-1] for _, form in terms] + [start + n if symbols is not None else 0])
    generators, scratch, filled = np.empty((batch, n, width)), np.empty(width), False
    count = len(terms) + 1
    for a, form in sorted(terms, key=lambda term: -term[1].generators.shape[-1]):
        used = form.generators.shape[-1]
        if isinstance(a, Matrix):
            part = a.value @ form.generators
            if filled:
                generators[:, :, :used] += part
            elif used == width:
                generators = part
            else:
                generators[:, :, :used] = part
            center = center + form.center @ a.value.T
            error += form.error @ a.mag.T + form.mag @ np.broadcast_to(a.slack, a.value.shape).T
            size += form.mag @ a.mag.T
            count += a.value.shape[1]
        else:
            factor = np.broadcast_to(np.float64(a), shape)
            for k in np.ndindex(*shape):  # one value at a time stays in the cache
                target = generators[k][:used]
                np.multiply(form.generators[k], factor[k], out=scratch[:used] if filled else target)
                if filled:
                    target += scratch[:used]
            center = center + factor * form.center
            error += np.abs(factor) * form.error
            size += np.abs(factor) * form.mag
        if not filled:
            generators[:, :, used:], filled = 0.0, True
    if not filled:
        generators[:] = 0.0
    for product in products:
        assert symbols is not None
        rest, added = product.add(generators, symbols)
        radius, size, count = radius + rest, size + added, count + 3
    error = up(error * (1 + gamma(count)) + gamma(count) * size)
    if symbols is None:
        return Form(center, generators, up(error + radius))
    generators[:, np.arange(n), start + np.arange(n)] = up(radius)
    if paired:
        symbols.pair(n)
    return Form(center, generators, error)


@dataclass(frozen=True, eq=False)
class Pair:
    """A vector of the float network and the integer network's difference from it, each as form and box (B, n)."""

    value: Form
    difference: Form
    value_box: Box
    difference_box: Box

    @staticmethod
    def of(value: Form, difference: Form) -> Pair:
        return Pair(value, difference, value.box, difference.box)

    @property
    def integer_box(self) -> Box:
        return self.value_box + self.difference_box

    @staticmethod
    def join(pairs: Sequence[Pair]) -> Pair:
        """Side by side."""
        forms, boxes = ("value", "difference"), ("value_box", "difference_box")
        value, difference = (Form.join([getattr(pair, name) for pair in pairs]) for name in forms)
        return Pair(value, difference, *(join([getattr(pair, name) for pair in pairs]) for name in boxes))

    def part(self, c: slice) -> Pair:
        value, difference = self.value.part(c), self.difference.part(c)
        return Pair(value, difference, self.value_box.part(c), self.difference_box.part(c))
