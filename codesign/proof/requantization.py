"""How far TFLM's fixed-point rescaling is from the exact product, by residue classes.

MBQM(v, (m, e)) = RDBP(SRDHM(a, m), n) with a = v 2^max(e, 0), n = max(-e, 0); the exact product is v m 2^(e - 31).

SRDHM(a, m) = floor((a m + 2^30) / 2^31) = a m / 2^31 - r / 2^31, r = ((a m + 2^30) mod 2^31) - 2^30. For all integers v
the products a m run through the multiples of g = gcd(m 2^max(e, 0), 2^31) modulo 2^31, so r runs through the multiples
of g in [-2^30, 2^30): its extremes are in closed form. RDBP(s, n) - s / 2^n depends on s mod 2^n and the sign of s: the
largest is 1/2, at the tie, for n > 0. Both errors add up; the first is divided by 2^n.
"""

from __future__ import annotations

from fractions import Fraction
from math import gcd


def srdhm_range(m: int, left_shift: int) -> tuple[Fraction, Fraction]:
    """Range of SRDHM(v 2^left_shift, m) - v 2^left_shift m / 2^31 over all integers v, in units of the result."""
    step = gcd(m << left_shift, 1 << 31)
    # -r over the multiples r of `step` in [-2^30, 2^30)
    lowest = -(((1 << 30) - 1) // step * step)
    highest = (1 << 30) // step * step
    return Fraction(lowest, 1 << 31), Fraction(highest, 1 << 31)


def rdbp_range(n: int) -> tuple[Fraction, Fraction]:
    """Range of RDBP(s, n) - s / 2^n over all integers s: ties go away from zero, so both ends are reached."""
    half = Fraction(1, 2) if n > 0 else Fraction(0)
    return -half, half


def requantization_range(m: int, e: int) -> tuple[Fraction, Fraction]:
    """(lo, hi) with lo <= MBQM(v, (m, e)) - v m 2^(e - 31) <= hi for every integer v that does not overflow."""
    n = max(-e, 0)
    first, second = srdhm_range(m, max(e, 0)), rdbp_range(n)
    return first[0] / (1 << n) + second[0], first[1] / (1 << n) + second[1]


def requantization_bound(m: int, e: int) -> float:
    """The larger magnitude of `requantization_range`, rounded up to binary64."""
    lo, hi = requantization_range(m, e)
    worst = max(-lo, hi)
    value = float(worst)
    return value if Fraction(value) >= worst else value * (1 + 2.0**-52)
