"""Outward-rounded interval arithmetic on arrays of binary64, with an exponential whose error is proved, not assumed.

An `Interval` holds the exact result of what was computed from intervals that hold their operands; so does every
function here. Only additions, subtractions, products, quotients and comparisons of binary64 numbers are used, which
IEEE 754 rounds to nearest; no function of the C library. docs/soundness.md, lemmas 17 and 18, proves the two facts
that it rests on: `_down` and `_up` pass the exact result, and `exponential` errs by less than 2^-50 relatively.

An operation that overflows ends in infinity or NaN, which satisfies no comparison that a proof needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

LARGEST = 700.0
"""Of an exponential's argument. Below -700 the lower end is 0."""

_RELATIVE, _ABSOLUTE = 2.0**-51, 2.0**-1000
_EXP_ROOM = 2.0**-49
_LOG2_E = 1.4426950408889634
_LN2_HIGH = float.fromhex("0x1.62e42feep-1")  # multiple of 2^-33
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")  # ln 2 - _LN2_HIGH within 2^-86
_DEGREE = 13
_THIRD_TOP = 0.041666666666666671  # above 1/24, the largest p (1 - 6 p), at p = 1/12


def _factorials() -> list[float]:
    values, factorial = [1.0], 1
    for n in range(1, _DEGREE + 1):
        factorial *= n
        values.append(1.0 / factorial)
    return values


_INVERSE_FACTORIALS = _factorials()


def _down(x: Array) -> Array:
    """Not above any number that rounds to x."""
    return np.asarray(x - (np.abs(x) * _RELATIVE + _ABSOLUTE))


def _up(x: Array) -> Array:
    """Not below any number that rounds to x."""
    return np.asarray(x + (np.abs(x) * _RELATIVE + _ABSOLUTE))


@dataclass(frozen=True, eq=False)
class Interval:
    """[lo, hi], elementwise; arrays of one shape. An operand that is an array counts as exact numbers."""

    lo: Array
    hi: Array

    @staticmethod
    def of(x: Interval | Array | float) -> Interval:
        if isinstance(x, Interval):
            return x
        array = np.asarray(x, np.float64)
        return Interval(array, array)

    def __neg__(self) -> Interval:
        return Interval(-self.hi, -self.lo)

    def __add__(self, other: Interval | Array | float) -> Interval:
        right = Interval.of(other)
        return Interval(_down(self.lo + right.lo), _up(self.hi + right.hi))

    def __sub__(self, other: Interval | Array | float) -> Interval:
        right = Interval.of(other)
        return Interval(_down(self.lo - right.hi), _up(self.hi - right.lo))

    def __mul__(self, other: Interval | Array | float) -> Interval:
        right = Interval.of(other)
        if right.lo is right.hi:
            a, b = self.lo * right.lo, self.hi * right.lo
            return Interval(_down(np.minimum(a, b)), _up(np.maximum(a, b)))
        products = [x * y for x in (self.lo, self.hi) for y in (right.lo, right.hi)]
        return Interval(_down(np.minimum.reduce(products)), _up(np.maximum.reduce(products)))

    def part(self, index: npt.NDArray[np.int64] | Flags) -> Interval:
        """Some of the elements."""
        return Interval(self.lo[index], self.hi[index])


def product(x: Array, y: Array | np.float64) -> Interval:
    """x y of exact numbers."""
    rounded = x * y
    return Interval(_down(rounded), _up(rounded))


def square(x: Array) -> Interval:
    """x^2 of exact numbers."""
    return product(x, x)


def between(lower: Array, upper: Array) -> Interval:
    """upper - lower, of exact numbers."""
    difference = upper - lower
    return Interval(_down(difference), _up(difference))


def exponential(x: Array) -> Interval:
    """exp of exact numbers. NaN above `LARGEST`; (0, ...) below -`LARGEST`."""
    clipped = np.maximum(x, -LARGEST)
    k = np.rint(clipped * _LOG2_E)
    r = (clipped - k * _LN2_HIGH) - k * _LN2_LOW
    tail = np.full_like(r, _INVERSE_FACTORIALS[_DEGREE])
    for n in range(_DEGREE - 1, 1, -1):
        tail = tail * r + _INVERSE_FACTORIALS[n]
    mantissa = 1.0 + (r + (r * r) * tail)
    good = x <= LARGEST
    exponent = np.where(good, k, 0.0).astype(np.int64) + 1023
    value = mantissa * (exponent << 52).view(np.float64)
    value = np.where(good, value, np.nan)
    return Interval(np.where(x < -LARGEST, 0.0, value * (1.0 - _EXP_ROOM)), value * (1.0 + _EXP_ROOM))


def _decay(t: Array) -> Interval:
    """exp(-|t|), which is at most 1."""
    e = exponential(-np.abs(t))
    return Interval(e.lo, np.minimum(e.hi, 1.0))


def sigmoid(t: Array) -> Interval:
    """1 / (1 + exp(-t)) of exact numbers: 1 / (1 + e) or e / (1 + e) with e = exp(-|t|)."""
    e, right = _decay(t), t >= 0
    numerator_lo, numerator_hi = np.where(right, 1.0, e.lo), np.where(right, 1.0, e.hi)
    most, least = np.where(right, e.hi, e.lo), np.where(right, e.lo, e.hi)
    # 1 / (1 + e) falls with e, and e / (1 + e) grows with it
    low = _down(numerator_lo / _up(1.0 + most))
    high = _up(numerator_hi / _down(1.0 + least))
    return Interval(np.maximum(low, 0.0), np.minimum(high, 1.0))


def sigmoid_slope(t: Array) -> Interval:
    """sigmoid'(t) = e / (1 + e)^2 of exact numbers, e = exp(-|t|) <= 1; it grows with e, and is at most 1/4."""
    e = _decay(t)
    below, above = _up(1.0 + e.lo), _down(1.0 + e.hi)
    low, high = _down(e.lo / _up(below * below)), _up(e.hi / _down(above * above))
    return Interval(np.maximum(low, 0.0), np.minimum(high, 0.25))


def slope_range(lower: Array, upper: Array) -> Interval:
    """sigmoid' over [lower, upper]: it falls with the distance from 0."""
    nearest = np.maximum(np.maximum(lower, -upper), 0.0)
    farthest = np.maximum(np.abs(lower), np.abs(upper))
    return Interval(sigmoid_slope(farthest).lo, sigmoid_slope(nearest).hi)


def second_range(lower: Array, upper: Array) -> Interval:
    """sigmoid'' = sigmoid' (1 - 2 sigmoid) over [lower, upper]."""
    s = Interval(sigmoid(lower).lo, sigmoid(upper).hi)
    return slope_range(lower, upper) * (Interval.of(1.0) - s * 2.0)


def third_range(lower: Array, upper: Array) -> Interval:
    """sigmoid''' = p (1 - 6 p), p = sigmoid', over [lower, upper]: it grows with p up to 1/12, and falls after it."""
    p = slope_range(lower, upper)
    low, high = ((Interval.of(1.0) - product(end, np.float64(6.0))) * end for end in (p.lo, p.hi))
    top = np.where((p.lo <= 0.0834) & (p.hi >= 0.0833), _THIRD_TOP, -np.inf)
    return Interval(np.minimum(low.lo, high.lo), np.maximum(np.maximum(low.hi, high.hi), top))
