"""Intervals and affine forms on arrays with outward rounding: the arithmetic that the checker computes bounds with.

Numbers are binary64 rounded to nearest. A sum of n products is off by at most gamma(n) times the sum of their
magnitudes, in whatever order it is taken (Higham, Accuracy and Stability of Numerical Algorithms, ch. 3); a single
operation by 2^-53 relatively. Shapes: B regions, n values, K noise symbols, P products of two symbols.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, reduce
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from codesign.checker.result import demand

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
_B = TypeVar("_B", bound="Box")
UNIT = 2.0**-53
CACHED = 1 << 16  # numbers
TINY = 1e-290  # above all that underflow can lose


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
        return Box(*(np.broadcast_to(np.asarray(end, dtype=np.float64), shape) for end in (lo, hi)))

    @property
    def mid(self) -> Array:
        return np.asarray(0.5 * (self.lo + self.hi))

    @property
    def rad(self) -> Array:
        return up(np.maximum(self.hi - self.mid, self.mid - self.lo))

    @property
    def mag(self) -> Array:
        return np.maximum(np.abs(self.lo), np.abs(self.hi))

    def part(self: _B, columns: slice) -> _B:
        """Some of the values."""
        return type(self)(*(getattr(self, field.name)[:, columns] for field in fields(self)))

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

    def within(self: _B, box: Box) -> _B:
        """The same values, over `box` instead."""
        return replace(self, lo=box.lo, hi=box.hi)

    def meet(self: _B, other: Box) -> _B:
        """Both hold the same real values; that their meeting is empty shows that a premise of one is wrong."""
        lo, hi = np.maximum(self.lo, other.lo), np.minimum(self.hi, other.hi)
        demand(bool((lo <= hi).all()), "two enclosures of the same value do not meet")
        return self.within(Box(lo, hi))

    def clip(self, lo: float, hi: float) -> Box:
        return Box(np.clip(self.lo, lo, hi), np.clip(self.hi, lo, hi))

    def saturation(self, lo: float | Array, hi: float | Array) -> Box:
        """clip(v, lo, hi) - v for v in the box; holds 0."""
        under, over = np.maximum(lo - self.lo, 0.0), np.minimum(hi - self.hi, 0.0)
        slack = up(4 * UNIT * self.mag)  # of the difference, and of ends `lo` and `hi` that are rounded outward
        return Box(np.where(over < 0, over - slack, 0.0), np.where(under > 0, under + slack, 0.0))


@dataclass(frozen=True, eq=False)
class Form(Box):
    """Values in the box that are center + generators @ eps + products @ (pairs of eps) + e, |e| <= error.

    Noise symbols eps lie in [-1, 1]. (B, n), (B, n, K), (B, n, P); `radius` is above all but the center together.
    """

    center: Array
    generators: Array
    products: Array
    error: Array
    radius: Array

    @staticmethod
    def of(center: Array, generators: Array, products: Array, error: Array) -> Form:
        """Over the box that follows."""
        total = np.zeros(center.shape)
        for columns in (generators, products):
            for at in _blocks(columns):
                total[at] += np.abs(columns[at]).sum(-1)
        radius = up((total + error) * (1.0 + gamma(generators.shape[-1] + products.shape[-1])))
        reach = radius + up(2 * UNIT * (np.abs(center) + radius))
        return Form(center - reach, center + reach, center, generators, products, error, radius)

    @cached_property
    def size(self) -> Array:
        """Above the sum of all magnitudes."""
        return up(np.abs(self.center) + self.radius)


def _blocks(columns: Array) -> Iterator[tuple[int, slice]]:
    """Some values at a time, as many as stay in a cache."""
    batch, count, width = columns.shape
    step = 1 + CACHED // (1 + width)
    return ((b, slice(k, k + step)) for b in range(batch if width else 0) for k in range(0, count, step))


def join(parts: Sequence[_B]) -> _B:
    """Side by side, narrower forms filled up with columns of zeros."""
    joined = []
    for name in (field.name for field in fields(parts[0])):
        arrays = [getattr(part, name) for part in parts]
        if arrays[0].ndim == 3:
            width = max(array.shape[2] for array in arrays)
            arrays = [np.pad(array, ((0, 0), (0, 0), (0, width - array.shape[2]))) for array in arrays]
        joined.append(np.concatenate(arrays, axis=1))
    return type(parts[0])(*joined)


class Symbols:
    """The noise symbols of a replay; every use of a symbol is a column. The first `inputs` are the input's.

    With `second_order`, the products of the input's symbols with these and with the differences' are kept as well.
    `step`: the time step that a recurrent layer is at; `born`: each symbol's.
    """

    count = inputs = step = 0

    def __init__(self, second_order: bool = False) -> None:
        self.second_order, self.born = second_order, np.zeros(0, dtype=int)
        self.spans: list[tuple[int, int]] = []  # symbols [first, last) that have products, whose columns are in order

    def fresh(self, count: int, paired: bool = False) -> int:
        """The first of new symbols; `paired` with the input's where products are kept, those of one side by side."""
        start, self.count = self.count, self.count + count
        self.born = np.append(self.born, np.full(count, self.step))
        if self.second_order and paired and self.inputs:
            self.spans.append((start, self.count))
        return start

    def of_input(self, box: Box) -> Form:
        """The input's values, of which fixed ones need no symbol."""
        free, rad = np.flatnonzero(box.rad.max(0) > 1e-280), box.rad
        self.inputs = len(free)
        self.fresh(len(free), paired=True)
        generators = np.zeros((*rad.shape, len(free)))
        generators[:, free, np.arange(len(free))] = rad[:, free]
        rad[:, free] = 0.0
        return Form.of(box.mid, generators, np.zeros((*rad.shape, 0)), rad)

    def reset(self, form: Form, chosen: Flags, paired: bool) -> Form:
        """`form`, but where `chosen` a fresh symbol over its box."""
        if not chosen.any():
            return form
        center, error = (np.where(chosen, 0.0, a) for a in (form.center, form.error))
        generators, products = (np.where(chosen[:, :, None], 0.0, a) for a in (form.generators, form.products))
        kept = Form.of(center, generators, products, error)
        box = Box(np.where(chosen, form.lo, 0.0), np.where(chosen, form.hi, 0.0))
        return affine([(1.0, kept), box], self, paired).within(form)

    def fold(self, form: Form, first: int) -> Form:
        """One fresh symbol a value instead of all those born before step `first`, but for the input's."""
        old = self.born[: form.generators.shape[-1]] < first
        old[: self.inputs] = False
        if not old.any():
            return form
        spread = up(np.abs(form.generators[..., old]).sum(-1) * (1 + gamma(len(old))))
        kept = replace(form, generators=np.where(old, 0.0, form.generators))
        return affine([(1.0, kept), Box(-spread, spread)], self).within(form)


Term = Box | tuple[Box | Array | float, Form]


def affine(terms: Sequence[Term], symbols: Symbols | None = None, paired: bool = False) -> Form:
    """sum_k a_k X_k + constants, a_k a matrix (m, n) of intervals, or numbers (B, n) elementwise; constants are boxes.

    With `symbols`, the constants' interval is a fresh symbol (`Symbols.fresh`); without, its half-width is error.
    """
    constant = reduce(operator.add, [term for term in terms if isinstance(term, Box)])
    products_of = [term for term in terms if not isinstance(term, Box)]
    shape, center, size, count = constant.lo.shape, constant.mid, np.abs(constant.mid), len(terms) + 1
    start, error = symbols.fresh(shape[1], paired) if symbols is not None else 0, np.zeros(shape)
    width = max([x.generators.shape[-1] for _, x in products_of] + [0 if symbols is None else start + shape[1]])
    generators = np.zeros((*shape, width))
    products = np.zeros((*shape, max([x.products.shape[-1] for _, x in products_of], default=0)))
    for a, x in products_of:
        columns = (generators, x.generators), (products, x.products)
        if isinstance(a, Box):
            for target, own in columns:
                target[..., : own.shape[-1]] += a.mid @ own
            center = center + x.center @ a.mid.T
            error = error + x.error @ a.mag.T + x.size @ a.rad.T
            size, count = size + x.size @ a.mag.T, count + a.lo.shape[1]
        else:
            factor, plain = np.broadcast_to(np.asarray(a, dtype=np.float64), shape), isinstance(a, float) and a == 1.0
            for target, own in columns:
                for at in _blocks(own):
                    target[at][:, : own.shape[-1]] += own[at] if plain else factor[at][:, None] * own[at]
            center, error = center + factor * x.center, error + np.abs(factor) * x.error
            size = size + np.abs(factor) * x.size
    error = up(error * (1 + gamma(count)) + gamma(count) * size)
    if symbols is None:
        return Form.of(center, generators, products, up(error + constant.rad))
    generators[:, np.arange(shape[1]), start + np.arange(shape[1])] = up(constant.rad)
    return Form.of(center, generators, products, error)


def times(factor: Array, u: Form, v: Form, symbols: Symbols, spans: int | None = None) -> list[Term]:
    """factor u v: centers times forms, less the centers' product, and the product of both deviations.

    Of that, products of u's input symbols with v's symbols are kept, of v's with the first `spans` (None: all) that
    have any (docs/soundness.md, lemma 15).
    """
    X, g, shape, scale = symbols.inputs, v.generators, factor.shape, np.abs(factor)
    rows, kept = factor[..., None] * u.generators[..., :X], np.zeros(shape)
    used = [span for span in symbols.spans[:spans] if span[1] <= g.shape[-1] and rows.shape[-1] >= X]
    products, start = np.empty((*shape, sum(last - first for first, last in used), X)), 0
    for first, last in used:
        kept += np.abs(g[..., first:last]).sum(-1)
        block = products[..., start : start + last - first, :]
        np.multiply(g[..., first:last, None], rows[..., None, :], out=block)
        if first == 0:  # x_i x_j is x_j x_i
            block[:] = 0.5 * (block + block.swapaxes(-1, -2))
        start += last - first
    of_input = np.abs(u.generators[..., :X]).sum(-1)
    own, zero, none = up(of_input * (1 + gamma(X))), np.zeros(shape), np.zeros((*shape, 0))
    error, radius = gamma(8) * scale * own * v.radius, up((1 + 2 * gamma(8)) * scale * own * v.radius)
    second = Form(-radius, radius, zero, none, products.reshape(*shape, -1), error, radius)
    dropped, beyond = _less(v.radius, kept, g.shape[-1]), _less(u.radius, of_input, X)
    a, b = factor * u.center, factor * v.center
    rest = scale * (own * dropped + beyond * v.radius) + 4 * UNIT * (np.abs(a) * v.size + np.abs(b) * u.size)
    return [(a, v), (b, u), (1.0, second), Box.around(-a * v.center, rest)]


def _less(total: Array, part: Array, terms: int) -> Array:
    """Above what is left of a sum of magnitudes, bounded by `total`, without a part of it, computed from `terms`."""
    return up(np.maximum(total - part * (1 - 2 * gamma(terms)), 0.0))
