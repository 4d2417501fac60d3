"""The batch prover: decides many obligations of one kind at once, in outward-rounded interval arithmetic on arrays.

It only ever says 'proved', or leaves an obligation to the provers of single ones. It shares nothing with the functions
that compute residuals (`codesign.proof.bounds`, `.curved_bounds`, `.slopes`, `.exponentials`): another arithmetic, and
for differences another method. Every obligation is two statements 'largest value of a residual over a box <= limit'
(the infimum is the supremum of the negated residual). Each is reduced to values at points, slopes of tangents on
concave pieces, and the chord's error between two points; `codesign.proof.intervals` encloses all of these. Points are
chosen in plain floating point: a bad choice makes a bound wide, never wrong. docs/soundness.md, lemma 19.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from codesign.proof.intervals import (
    LARGEST,
    Array,
    Flags,
    Interval,
    between,
    exponential,
    product,
    second_range,
    sigmoid,
    sigmoid_slope,
    square,
    third_range,
)
from codesign.proof.obligation import VARIABLES, Kind

CHUNK = 4096  # obligations at once: their arrays stay in the cache
_MAGNITUDE, _SMALLEST = 1e9, 1e-280
_ROUNDS = 40  # of halving
_CELLS = 64  # of one obligation that wait at the same time

Side = tuple[Array, Array]


def proved(
    kind: Kind, lower: Sequence[Array], upper: Sequence[Array], slopes: Sequence[Array], lo: Array, hi: Array
) -> Flags:
    """Which obligations hold for certain, (N,); of the others nothing is said.

    One array (N,) a variable in `lower`, `upper` and `slopes`; `codesign.proof.obligation` has their meaning. What is
    no obligation (numbers that are not finite or beyond its limits, reversed boxes) is never proved.
    """
    if not len(lower) == len(upper) == len(slopes) == len(VARIABLES[kind]):
        raise ValueError(f"a {kind} obligation has {len(VARIABLES[kind])} variables")
    result = np.zeros(lo.shape, bool)
    for start in range(0, len(lo), CHUNK):
        rows = slice(start, start + CHUNK)
        box = [(a[rows], b[rows]) for a, b in zip(lower, upper, strict=True)]
        with np.errstate(all="ignore"):
            result[rows] = _chunk(kind, box, [s[rows] for s in slopes], lo[rows], hi[rows])
    return result


def well_formed(kind: Kind, box: Sequence[Side], slopes: Sequence[Array], lo: Array, hi: Array) -> Flags:
    """Which are obligations: `codesign.proof.obligation.Obligation` would take them."""
    limit = np.inf if kind == "exp" else _MAGNITUDE
    good = np.ones(lo.shape, bool)
    for a in (*(end for side in box for end in side), *slopes, lo, hi):
        good &= np.isfinite(a) & (np.abs(a) <= limit)
    for low, high in box:
        good &= low <= high
        if kind == "exp":
            good &= np.maximum(np.abs(low), np.abs(high)) <= LARGEST
    return good


def _chunk(kind: Kind, box: list[Side], slopes: list[Array], lo: Array, hi: Array) -> Flags:
    good = well_formed(kind, box, slopes, lo, hi)
    for a in slopes:  # so that a quarter and an eighth of them are exact
        good &= (a == 0) | (np.abs(a) >= _SMALLEST)
    index = np.flatnonzero(good)
    if not index.size:
        return good
    box = [(a[index], b[index]) for a, b in box]
    slopes, lo, hi = [s[index] for s in slopes], lo[index], hi[index]
    good[index] = _DECIDERS[kind](kind, box, slopes, Interval.of(lo), Interval.of(hi))
    return good


Decider = Callable[[Kind, list[Side], list[Array], Interval, Interval], Flags]
"""(kind, box, slopes, lo, hi) of well-formed obligations, to which of them are proved."""


def _mirrored(sides: Sequence[Side]) -> list[Side]:
    return [(-high, -low) for low, high in sides]


def _most(*values: Array) -> Array:
    """The largest; NaN where one is NaN."""
    return np.asarray(np.maximum.reduce(values))


# --- sigmoid and tanh under a line; exp under a line


def _line(kind: Kind, box: list[Side], slopes: list[Array], lo: Interval, hi: Interval) -> Flags:
    """Lemma 4 makes tanh a sigmoid on the doubled interval, with limits (1 + limit) / 2."""
    (z,), (slope,) = box, slopes
    if kind == "tanh":
        z, slope = (2.0 * z[0], 2.0 * z[1]), 0.25 * slope
        lo, hi = ((Interval.of(end.lo) + 1.0) * 0.5 for end in (lo, hi))
    above = _line_supremum(z, slope, 1.0) <= hi.lo
    (reflected,) = _mirrored([z])
    return np.asarray(above & (_line_supremum(reflected, slope, -1.0) <= -lo.hi))


def _line_supremum(side: Side, slope: Array, sign: float) -> Array:
    """Above sign sigmoid(sign w) - slope w for all w of the side: convex for w <= 0, concave after it."""
    low, high = side
    left = np.clip(0.0, low, high)
    touch = np.clip(_kappa(slope), left, high)

    def value(w: Array) -> Interval:
        return sigmoid(sign * w) * sign - product(slope, w)

    rise = _rise(sigmoid_slope(touch) - slope, left, touch, high)
    return _most(value(low).hi, (value(touch) + rise).hi)


def _rise(slope: Interval, left: Array, touch: Array, right: Array) -> Array:
    """Above slope (x - touch) for all x in [left, right]."""
    forward, back = slope * between(touch, right), slope * between(touch, left)
    return np.maximum(_most(forward.hi, back.hi), 0.0)


def _kappa(b: Array) -> Array:
    """About the t >= 0 with sigmoid'(t) = b; 0 above 1/4."""
    s = np.sqrt(np.maximum(1.0 - 4.0 * b, 0.0))
    t = 2.0 * np.log((1.0 + s) / (2.0 * np.sqrt(np.maximum(b, 1e-300))))
    return np.asarray(np.where(b > 0, np.maximum(t, 0.0), LARGEST))


def _exponential(_: Kind, box: list[Side], slopes: list[Array], lo: Interval, hi: Interval) -> Flags:
    """exp(z) - slope z is convex: largest at an end, and above each of its tangents."""
    ((low, high),), (slope,) = box, slopes
    ends = [exponential(z) - product(slope, z) for z in (low, high)]
    above = (ends[0].hi <= hi.lo) & (ends[1].hi <= hi.lo)
    touch = np.clip(np.where(slope > 0, np.log(np.maximum(slope, 1e-300)), -LARGEST), low, high)
    at = exponential(touch)
    flat = slope == 0
    bottom = at - product(slope, touch) - _rise(-(at - slope), low, touch, high)
    # without a slope exp is smallest at its lower end, and keeps its relative accuracy there
    return np.asarray(above & (np.where(flat, exponential(low).lo, bottom.lo) >= lo.hi))


# --- polynomials


def _products(_: Kind, box: list[Side], slopes: list[Array], lo: Interval, hi: Interval) -> Flags:
    """x y - a x - b y is linear in each variable: its extremes are at corners."""
    result = np.ones(lo.lo.shape, bool)
    for x in box[0]:
        for y in box[1]:
            value = product(x, y) - product(slopes[0], x) - product(slopes[1], y)
            result &= (value.hi <= hi.lo) & (value.lo >= lo.hi)
    return result


def _squares(_: Kind, box: list[Side], slopes: list[Array], lo: Interval, hi: Interval) -> Flags:
    """(p^2 - q^2) / 4 - a p - b q = P(p) - Q(q), P = p^2 / 4 - a p, Q = q^2 / 4 + b q, both convex.

    A convex parabola is largest at an end and smallest at its vertex, or at the end next to it.
    """
    ranges = []
    for (low, high), slope in zip(box, (slopes[0], -slopes[1]), strict=True):
        points = (low, high, np.clip(2.0 * slope, low, high))
        values = [square(x) * 0.25 - product(slope, x) for x in points]
        ranges.append(Interval(np.minimum.reduce([v.lo for v in values]), _most(*[v.hi for v in values])))
    value = ranges[0] - ranges[1]
    return np.asarray((value.hi <= hi.lo) & (value.lo >= lo.hi))


def _coefficients(kind: Kind, box: list[Side], slopes: list[Array], lo: Interval, hi: Interval) -> Flags:
    """p s (1 - s) t + q s (1 - t^2), or p s + q s (1 - s) t: linear in p and q, so that their ends decide.

    At a fixed t it is a parabola in s. In t the second is linear, the first has the second derivative -2 q s.
    """
    result: Flags = np.logical_and.reduce([slope == 0 for slope in slopes])
    for p in box[2]:
        for q in box[3]:
            for sign, limit in ((1.0, hi.lo), (-1.0, -lo.hi)):
                index = np.flatnonzero(result)
                sides = [(a[index], b[index]) for a, b in box[:2]]
                result[index] = _coefficient(kind, sides, sign * p[index], sign * q[index], limit[index])
    return result


def _coefficient(kind: Kind, box: list[Side], p: Array, q: Array, limit: Array) -> Flags:
    (s_low, s_high), t_side = box

    def largest(t: Array, rows: npt.NDArray[np.int64]) -> Array:
        """Over s, of linear s - bent s^2."""
        a, b, low, high = p[rows], q[rows], s_low[rows], s_high[rows]
        if kind == "gate_slopes":
            bent = product(a, t)
            linear = bent + (Interval.of(1.0) - square(t)) * b
        else:
            bent = product(b, t)
            linear = bent + a

        def value(s: Array) -> Interval:
            return linear * s - bent * square(s)

        touch = np.clip(np.nan_to_num(0.5 * linear.lo / bent.lo, nan=0.0), low, high)
        slope = linear - bent * product(touch, np.float64(2.0))
        top = (value(touch) + _rise(slope, low, touch, high)).hi
        return _most(value(low).hi, value(high).hi, np.where(bent.hi > 0, top, -np.inf))

    if kind == "forget_slopes":
        rows = np.arange(len(p))
        return np.asarray((largest(t_side[0], rows) <= limit) & (largest(t_side[1], rows) <= limit))

    def bend(_: Array, __: Array, rows: npt.NDArray[np.int64]) -> Array:
        return (Interval(s_low[rows], s_high[rows]) * product(q[rows], np.float64(2.0))).hi

    return _below(t_side, largest, bend, limit)


# --- differences, parabolas and patches: one variable in closed form, the other one halved


def _below(
    side: Side,
    largest: Callable[[Array, npt.NDArray[np.int64]], Array],
    bend: Callable[[Array, Array, npt.NDArray[np.int64]], Array],
    limit: Array,
) -> Flags:
    """Which functions of one variable stay below their limits on their sides.

    `largest`(x, rows): above the values at x, of the functions `rows`. `bend`(a, b, rows): above minus their second
    derivatives on [a, b]; where functions are maxima of several ones, of each. Between a and b they stay below the
    larger of both values plus (b - a)^2 / 8 times that, if it is positive.
    """
    count = len(limit)
    rows = np.arange(count)
    a, b = side
    first, last = largest(a, rows), largest(b, rows)
    open_ = np.zeros(count, bool)
    for _ in range(_ROUNDS):
        top = _most(first, last)
        open_[rows[~(top <= limit[rows])]] = True
        width = between(a, b)
        bulge = (width * width * 0.125 * np.maximum(bend(a, b, rows), 0.0)).hi
        bulge = np.where(a < b, bulge, 0.0)
        closed = (Interval.of(top) + bulge).hi <= limit[rows]
        keep = ~closed & ~open_[rows]
        rows, a, b, first, last = rows[keep], a[keep], b[keep], first[keep], last[keep]
        if not rows.size:
            return ~open_
        waiting = np.bincount(rows, minlength=count) > _CELLS
        middle = 0.5 * (a + b)
        open_[rows[~((a < middle) & (middle < b))]] = True
        open_ |= waiting
        keep = ~open_[rows]
        rows, a, b, first, last, middle = (v[keep] for v in (rows, a, b, first, last, middle))
        at = largest(middle, rows)
        rows = np.concatenate([rows, rows])
        a, b = np.concatenate([a, middle]), np.concatenate([middle, b])
        first, last = np.concatenate([first, at]), np.concatenate([at, last])
    open_[rows] = True
    return ~open_


def _parabolas(kind: Kind, box: list[Side], slopes: list[Array], lo: Interval, hi: Interval) -> Flags:
    """f(z) - c z^2 - a z - b c is linear in c, so that its ends decide."""
    z, slope = box[0], slopes[0]
    result = np.ones(lo.lo.shape, bool)
    for c in box[1]:
        shift = product(slopes[1], c)
        low, high, at, curve = lo + shift, hi + shift, slope, Interval.of(c)
        if kind == "tanh_square":
            low, high = ((end + 1.0) * 0.5 for end in (low, high))
            at, curve = 0.25 * slope, curve * 0.125
        y = (2.0 * z[0], 2.0 * z[1]) if kind == "tanh_square" else z
        for sign, limit in ((1.0, high.lo), (-1.0, -low.hi)):
            index, side = np.flatnonzero(result), y if sign > 0 else _mirrored([y])[0]
            result[index] = _parabola(
                (side[0][index], side[1][index]), at[index], curve.part(index) * sign, limit[index], sign
            )
    return result


def _parabola(side: Side, slope: Array, curve: Interval, limit: Array, sign: float) -> Flags:
    """sign sigmoid(sign w) - slope w - curve w^2 <= limit."""

    def largest(w: Array, rows: npt.NDArray[np.int64]) -> Array:
        return (sigmoid(sign * w) * sign - product(slope[rows], w) - curve.part(rows) * square(w)).hi

    def bend(a: Array, b: Array, rows: npt.NDArray[np.int64]) -> Array:
        # sigmoid'' is odd: sign sigmoid(sign w) has the second derivative sigmoid''(w)
        return -(second_range(a, b) - curve.part(rows) * 2.0).lo

    return _below(side, largest, bend, limit)


def _differences(kind: Kind, box: list[Side], slopes: list[Array], lo: Interval, hi: Interval) -> Flags:
    """D(z, d) - a z - b d - c z d, linear in c, so that its ends decide; tanh by lemma 4."""
    patch, steep = kind.endswith("patch"), 2.0 if kind.startswith("tanh") else 1.0
    zd = [(steep * low, steep * high) for low, high in box[:2]]
    alpha, beta = (slope / steep**2 for slope in slopes[:2])
    result = np.ones(lo.lo.shape, bool)
    zero = np.zeros_like(lo.lo)
    for last in box[2] if patch else (zero,):
        shift = product(slopes[2], last) if patch else Interval.of(zero)
        low, high = ((end + shift) * (1.0 / steep) for end in (lo, hi))
        cross = Interval.of(last) * (1.0 / steep**3) if patch else Interval.of(zero)
        plain = (alpha == 0) & (beta == 0) & (not patch)
        for sign, limit in ((1.0, high.lo), (-1.0, -low.hi)):
            sides = zd if sign > 0 else _mirrored(zd)
            index = np.flatnonzero(result & plain)
            result[index] = _change_supremum([(a[index], b[index]) for a, b in sides]) <= limit[index]
            index = np.flatnonzero(result & ~plain)
            result[index] = _difference(
                [(a[index], b[index]) for a, b in sides], alpha[index], beta[index], cross.part(index) * sign,
                limit[index],
            )  # fmt: skip
    return result


def _change(z: Array, d: Array) -> Interval:
    """D(z, d) = sigmoid(z + d) - sigmoid(z) at exact points; rounding z + d costs a quarter of what it loses."""
    u = z + d
    lost = np.abs(u) * 2.0**-54 + 2.0**-1000
    return sigmoid(u) - sigmoid(z) + Interval(-lost, lost)


def _change_supremum(box: list[Side]) -> Array:
    """Above D over a box: it increases in d, and in z |D| is unimodal with its peak at -d / 2 (lemma 2)."""
    (zl, zu), (_, du) = box
    at = [_change(z, du).hi for z in (np.clip(-0.5 * du, zl, zu), zl, zu)]
    return np.asarray(np.where(du >= 0, at[0], _most(at[1], at[2])))


def _difference(box: list[Side], alpha: Array, beta: Array, cross: Interval, limit: Array) -> Flags:
    """D(z, d) - alpha z - beta d - cross z d <= limit: at a fixed z a sigmoid under a line in d, and z is halved."""
    z_side, (dl, du) = box

    def largest(z: Array, rows: npt.NDArray[np.int64]) -> Array:
        low, high = dl[rows], du[rows]
        slope = cross.part(rows) * z + beta[rows]
        line = product(alpha[rows], z)

        def value(d: Array) -> Interval:
            return _change(z, d) - line - slope * d

        left = np.clip(-z, low, high)  # convex in d up to z + d = 0, concave after it
        touch = np.clip(_kappa(0.5 * (slope.lo + slope.hi)) - z, left, high)
        u = z + touch
        lost = np.abs(u) * (0.0963 * 2.0**-53) * 1.001 + 2.0**-1000  # |sigmoid''| <= 0.0963
        rise = _rise(sigmoid_slope(u) + Interval(-lost, lost) - slope, left, touch, high)
        return _most(value(low).hi, (value(touch) + rise).hi)

    def bend(a: Array, b: Array, rows: npt.NDArray[np.int64]) -> Array:
        # D_zz = sigmoid''(z + d) - sigmoid''(z) = d sigmoid'''(x) for an x between z and z + d
        low, high = dl[rows], du[rows]
        ends = (Interval.of(a) + np.minimum(low, 0.0)).lo, (Interval.of(b) + np.maximum(high, 0.0)).hi
        return -(third_range(*ends) * Interval(low, high)).lo

    return _below(z_side, largest, bend, limit)


_DECIDERS: dict[Kind, Decider] = {
    "sigmoid": _line,
    "tanh": _line,
    "exp": _exponential,
    "product": _products,
    "square_difference": _squares,
    "sigmoid_diff": _differences,
    "tanh_diff": _differences,
    "sigmoid_patch": _differences,
    "tanh_patch": _differences,
    "sigmoid_square": _parabolas,
    "tanh_square": _parabolas,
    "gate_slopes": _coefficients,
    "forget_slopes": _coefficients,
}
