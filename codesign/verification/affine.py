"""Affine forms (zonotopes) over a shared pool of noise symbols, sound in floating point.

A `Form` stands for a batch of vectors of reals: `center + generators @ eps + err`, with every noise symbol eps_k in
[-1, 1] and |err| <= `error` elementwise. `error` carries only the rounding of our own float64 arithmetic, so that forms
stay tight and every bound that is read off them is outward-rounded. The rounding analysis is the standard one (Higham,
Accuracy and Stability of Numerical Algorithms, ch. 3): a computed sum of n products is off by at most gamma_n times the
sum of absolute products, in whatever order BLAS adds, with or without fused multiply-add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

UNIT = 2.0**-53
# Above anything that underflow (or flush-to-zero) can lose in the operations below.
TINY = 1e-290
RESET = 1.3  # a form wider than its box by this factor is replaced by the box


def require_round_to_nearest() -> None:
    """Raise RuntimeError unless this thread rounds to nearest, as all error terms here assume."""
    one, half = np.float64(1.0), np.float64(UNIT)
    nearest = one + half == one and -one - half == -one and one + half * np.float64(1.5) > one
    if not nearest:
        raise RuntimeError("the floating-point rounding mode of this process is not round-to-nearest")


def gamma(terms: int) -> float:
    """An upper bound on the relative error of a sum of `terms` products, with room for the bound's own rounding."""
    return 2.0 * (terms + 8) * UNIT


def up(x: Array) -> Array:
    """An upper bound on a non-negative quantity that was computed with a few roundings."""
    return x * (1.0 + 16 * UNIT) + TINY


@dataclass
class Pool:
    """Allocates noise symbols and remembers the source of each, so that a bound can be decomposed by source.

    `resets` remembers the units whose form was given up for its box, (B, n) a call: a replay has to do the same.
    `step`: the time step that a layer is at; `born`: each symbol's.
    """

    blocks: list[tuple[tuple[str, ...], int, int, Array | None]] = field(default_factory=list)
    resets: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    born: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    size: int = 0
    step: int = 0

    def allocate(self, count: int, source: str | Sequence[str], shares: Array | None = None) -> int:
        """The first of `count` new symbols; `shares` (B, count, sources): the parts of several sources in each."""
        start = self.size
        self.blocks.append(((source,) if isinstance(source, str) else tuple(source), start, count, shares))
        self.size += count
        self.born = np.append(self.born, np.full(count, self.step))
        return start

    def contributions(self, weights: Array, region: int) -> dict[str, Array]:
        """Sum |generators| (..., K) of a region by source."""
        totals: dict[str, Array] = {}
        magnitude = np.abs(weights)
        for sources, start, count, shares in self.blocks:
            part = magnitude[..., start : start + count]
            if part.shape[-1] < count:
                break  # the form is older than these symbols
            if shares is None:
                sums = part.sum(-1)[..., None]
            else:
                whole = shares[region].sum(-1, keepdims=True)
                sums = part @ (shares[region] / np.where(whole > 0, whole, 1.0))
            for k, source in enumerate(sources):
                totals[source] = totals[source] + sums[..., k] if source in totals else sums[..., k]
        return totals


@dataclass(frozen=True, eq=False)
class Box:
    """Interval vectors [lo, hi], elementwise, shape (B, n)."""

    lo: Array
    hi: Array

    @property
    def mid(self) -> Array:
        return np.asarray(0.5 * (self.lo + self.hi))

    @property
    def rad(self) -> Array:
        """A radius around `mid` that covers the box, rounded up."""
        mid = self.mid
        return up(np.maximum(self.hi - mid, mid - self.lo))

    @property
    def mag(self) -> Array:
        return np.maximum(np.abs(self.lo), np.abs(self.hi))

    def meet(self, lo: Array | float, hi: Array | float) -> Box:
        """Intersection with [lo, hi]. Both contain the true value: an empty result means an unsound bound."""
        low, high = np.maximum(self.lo, lo), np.minimum(self.hi, hi)
        if not (low <= high).all():
            raise ArithmeticError("two enclosures of the same value are disjoint: one of them is unsound")
        return Box(low, high)

    def rows(self, part: slice | int) -> Box:
        return Box(self.lo[:, part], self.hi[:, part])

    @staticmethod
    def joined(boxes: Sequence[Box]) -> Box:
        """The boxes' coordinates one after the other."""
        return Box(np.concatenate([b.lo for b in boxes], axis=1), np.concatenate([b.hi for b in boxes], axis=1))

    def __add__(self, other: Box) -> Box:
        lo, hi = self.lo + other.lo, self.hi + other.hi
        return Box(lo - up(2 * UNIT * np.abs(lo)), hi + up(2 * UNIT * np.abs(hi)))

    def widen(self, radius: Array | float) -> Box:
        return self + Box(np.broadcast_to(-np.asarray(radius), self.lo.shape), np.broadcast_to(radius, self.hi.shape))


@dataclass(frozen=True, eq=False)
class Form:
    """A batch of affine forms: center (B, n), generators (B, n, K), error (B, n) >= 0."""

    center: Array
    generators: Array
    error: Array

    @cached_property
    def radius(self) -> Array:
        """Upper bound of the deviation from the center, (B, n)."""
        total = np.abs(self.generators).sum(-1)
        return up((total + self.error) * (1.0 + gamma(self.generators.shape[-1])))

    @cached_property
    def magnitude(self) -> Array:
        """Upper bound of |center| + sum |generators| + error, (B, n)."""
        return up(np.abs(self.center) + self.radius)

    @cached_property
    def box(self) -> Box:
        slack = up(2 * UNIT * self.magnitude)
        return Box(self.center - self.radius - slack, self.center + self.radius + slack)

    def rows(self, part: slice) -> Form:
        return Form(self.center[:, part], self.generators[:, part], self.error[:, part])

    @staticmethod
    def constant(value: Array) -> Form:
        return Form(value, np.zeros((*value.shape, 0)), np.zeros_like(value))

    @staticmethod
    def from_box(box: Box, pool: Pool, source: str) -> Form:
        """One fresh symbol for every coordinate."""
        start = pool.allocate(box.lo.shape[1], source)
        batch, n = box.lo.shape
        generators, index = np.zeros((batch, n, start + n)), np.arange(n)
        generators[:, index, start + index] = box.rad
        return Form(box.mid, generators, np.full_like(box.lo, TINY))


def _columns(batch: int, n: int, forms: Sequence[Form], pool: Pool | None) -> Array:
    width = max(form.generators.shape[-1] for form in forms)
    if pool is not None:
        width = pool.size
    return np.zeros((batch, n, width))


def combine(
    terms: Sequence[tuple[Array | float, Form]],
    constant: Array | float = 0.0,
    noise: Array | None = None,
    pool: Pool | None = None,
    source: str = "",
) -> Form:
    """sum_i a_i * X_i + constant, elementwise with a_i (B, n) exact; plus fresh symbols of radius `noise` (B, n)."""
    batch, n = terms[0][1].center.shape
    start = 0
    if noise is not None:
        assert pool is not None
        start = pool.allocate(n, source)
    generators = _columns(batch, n, [form for _, form in terms], pool if noise is not None else None)
    center = np.broadcast_to(np.asarray(constant, dtype=np.float64), (batch, n)).copy()
    error = np.zeros((batch, n))
    size = np.abs(center)
    for coefficient, form in terms:
        a = np.broadcast_to(np.asarray(coefficient, dtype=np.float64), (batch, n))
        width = form.generators.shape[-1]
        generators[:, :, :width] += a[:, :, None] * form.generators
        center += a * form.center
        error += np.abs(a) * form.error
        size += np.abs(a) * form.magnitude
    error = up(error * (1 + gamma(len(terms))) + gamma(len(terms)) * size)
    if noise is not None:
        index = np.arange(n)
        generators[:, index, start + index] = noise
    return Form(center, generators, error)


@dataclass(frozen=True, eq=False)
class Matrix:
    """A real matrix known as `value` up to `slack` entrywise (m, n)."""

    value: Array
    slack: Array

    @staticmethod
    def exact(value: npt.ArrayLike) -> Matrix:
        array = np.asarray(value, dtype=np.float64)
        return Matrix(array, np.zeros_like(array))

    def minus(self, other: Matrix) -> Matrix:
        value = self.value - other.value
        return Matrix(value, up(self.slack + other.slack + 2 * UNIT * np.abs(value)))

    @cached_property
    def magnitude(self) -> Array:
        return up(np.abs(self.value) + self.slack)


def linear(
    terms: Sequence[tuple[Matrix, Form]],
    constant: Array,
    constant_slack: Array | float = 0.0,
) -> Form:
    """sum_i A_i X_i + constant with A_i (m, n_i); `constant` (m,) known up to `constant_slack`."""
    batch = terms[0][1].center.shape[0]
    m = terms[0][0].value.shape[0]
    generators = _columns(batch, m, [form for _, form in terms], None)
    center = np.broadcast_to(constant, (batch, m)).copy()
    error = np.broadcast_to(np.asarray(constant_slack, dtype=np.float64), (batch, m)).copy()
    size = np.abs(center)
    count = 1
    for matrix, form in terms:
        width = form.generators.shape[-1]
        if width:
            generators[:, :, :width] += np.matmul(matrix.value, form.generators)
        center += form.center @ matrix.value.T
        error += form.error @ matrix.magnitude.T + form.magnitude @ matrix.slack.T
        size += form.magnitude @ matrix.magnitude.T
        count += matrix.value.shape[1]
    error = up(error * (1 + gamma(count)) + gamma(count) * size)
    return Form(center, generators, error)


def product_box(a: Box, b: Box) -> Box:
    """Interval product, outward-rounded."""
    corners = np.stack([a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi])
    slack = up(2 * UNIT * np.abs(corners).max(0))
    return Box(corners.min(0) - slack, corners.max(0) + slack)


def sum_and_difference(x: Form, x0: Array, rx: Array, y: Form, y0: Array, ry: Array) -> tuple[Box, Box]:
    """Ranges of u + v and u - v for u = (x - x0) / rx and v = (y - y0) / ry, each known to lie in [-1, 1]."""
    width = min(x.generators.shape[-1], y.generators.shape[-1])
    wide, scale = (x, rx) if x.generators.shape[-1] > width else (y, ry)
    gx, gy = x.generators[:, :, :width] / rx[:, :, None], y.generators[:, :, :width] / ry[:, :, None]
    rest = np.abs(wide.generators[:, :, width:]).sum(-1) / scale + x.error / rx + y.error / ry
    size = (x.magnitude + np.abs(x0)) / rx + (y.magnitude + np.abs(y0)) / ry
    lost = gamma(wide.generators.shape[-1]) * size
    boxes = []
    for sign in (1.0, -1.0):
        middle = (x.center - x0) / rx + sign * (y.center - y0) / ry
        radius = up(np.abs(gx + sign * gy).sum(-1) + rest + lost)
        lo, hi = np.maximum(middle - radius, -2.0), np.minimum(middle + radius, 2.0)
        boxes.append(Box(np.minimum(lo, 2.0), np.maximum(hi, -2.0)))
    return boxes[0], boxes[1]
