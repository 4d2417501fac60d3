"""Intervals on arrays hold the exact results: against rational arithmetic, and against Arb with 200 bits."""

from fractions import Fraction

import flint
import numpy as np
import pytest

from codesign.proof import intervals
from codesign.proof.intervals import Interval

TOO_LARGE = 700.0000001


def numbers(rng, count):
    """Of all sizes, subnormal ones and those of a few bits among them."""
    sizes = np.concatenate([rng.uniform(-30, 30, count // 2), rng.uniform(-1070, 400, count - count // 2)])
    values = np.ldexp(rng.uniform(0.5, 1.0, count), sizes.astype(int)) * rng.choice([-1.0, 1.0], count)
    return np.where(rng.uniform(size=count) < 0.2, np.round(values * 8) / 8, values)


def holds(found, exact):
    return all(Fraction(float(a)) <= e <= Fraction(float(b)) for a, b, e in zip(found.lo, found.hi, exact, strict=True))


def width(found, exact):
    return max(abs(b - a) / max(abs(e), 1e-290) for a, b, e in zip(found.lo, found.hi, map(float, exact), strict=True))


def test_sums_products_and_squares_hold_the_exact_results():
    rng = np.random.default_rng(1)
    x, y = numbers(rng, 4000), numbers(rng, 4000)
    with np.errstate(all="ignore"):
        keep = np.isfinite(x * y) & np.isfinite(x * x)
    x, y = x[keep], y[keep]
    exact = [(Fraction(a), Fraction(b)) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    one, two = Interval.of(x), Interval.of(y)
    for found, wanted in (
        (one + two, [a + b for a, b in exact]),
        (one - two, [a - b for a, b in exact]),
        (one * two, [a * b for a, b in exact]),
        (intervals.product(x, y), [a * b for a, b in exact]),
        (intervals.square(x), [a * a for a, _ in exact]),
        (intervals.between(x, y), [b - a for a, b in exact]),
    ):
        assert holds(found, wanted)
        assert width(found, wanted) < 1e-9  # of sums; cancellation takes the rest


def test_operations_on_intervals_hold_what_their_elements_give():
    rng = np.random.default_rng(2)
    ends = [np.sort(rng.normal(size=(2, 1000)) * scale, axis=0) for scale in (1.0, 1e-5)]
    a, b = (Interval(lo, hi) for lo, hi in ends)
    for _ in range(20):
        x, y = (rng.uniform(lo, hi) for lo, hi in ends)
        exact = [(Fraction(p), Fraction(q)) for p, q in zip(x.tolist(), y.tolist(), strict=True)]
        assert holds(a + b, [p + q for p, q in exact])
        assert holds(a - b, [p - q for p, q in exact])
        assert holds(a * b, [p * q for p, q in exact])
        assert holds(-a, [-p for p, _ in exact])


def arguments(rng, count):
    """Of exp: everywhere, next to where the argument's multiple of ln 2 changes, tiny, and at the ends."""
    steps = rng.integers(-1009, 1009, count) + rng.choice([0.5, 0.0], count)
    near = np.array([float(flint.arb(float(k)) * flint.arb(2).log()) for k in steps])
    near = near * (1 + rng.choice([0.0, 1e-16, -1e-16, 1e-12, -1e-12], count))
    tiny = np.ldexp(rng.uniform(-1, 1, count), rng.integers(-1070, 0, count))
    every = np.concatenate([rng.uniform(-700, 700, count), rng.uniform(-1, 1, count), near, tiny])
    return np.concatenate([every[np.abs(every) <= 700], [-700.0, 700.0, 0.0, -0.0]])


def balls(x):
    flint.ctx.prec = 200
    return [flint.arb(float(v)) for v in x]


@pytest.fixture(autouse=True)
def precision():
    old = flint.ctx.prec
    yield
    flint.ctx.prec = old


def test_the_exponential_is_within_its_proved_error():
    x = arguments(np.random.default_rng(3), 5000)
    found = intervals.exponential(x)
    for at, low, high in zip(balls(x), found.lo, found.hi, strict=True):
        exact = at.exp()
        assert flint.arb(float(low)) <= exact <= flint.arb(float(high))
        # the value between both ends is within 2^-50, as lemma 18 says
        middle = (flint.arb(float(low)) + flint.arb(float(high))) / 2
        assert abs(middle / exact - 1) < flint.arb(2) ** -50


def test_the_exponential_outside_its_range():
    with np.errstate(all="ignore"):
        found = intervals.exponential(np.array([-700.0001, -1e9, -np.inf, TOO_LARGE, np.inf, np.nan]))
    assert (found.lo[:3] == 0).all()
    assert (found.hi[:3] == intervals.exponential(np.array([-700.0])).hi).all()
    assert np.isnan(found.lo[3:]).all()
    assert np.isnan(found.hi[3:]).all()


def sigmoid(t):
    return 1 / (1 + (-t).exp())


def slope(t):
    return sigmoid(t) * (1 - sigmoid(t))


def test_sigmoid_and_its_slope_hold_the_exact_values_tightly():
    x = np.concatenate([arguments(np.random.default_rng(4), 1500), [1e9, -1e9, 745.2, -745.2]])
    for function, exact in ((intervals.sigmoid, sigmoid), (intervals.sigmoid_slope, slope)):
        found = function(x)
        for at, low, high in zip(balls(x), found.lo, found.hi, strict=True):
            # 200 bits do not tell sigmoid(300) from 1
            assert not flint.arb(float(low)) > exact(at)
            assert not flint.arb(float(high)) < exact(at)
        moderate = np.abs(x) < 600
        assert (found.hi - found.lo <= 2.0**-46 * found.hi)[moderate].all()


def test_ranges_of_derivatives_hold_every_value():
    rng = np.random.default_rng(5)
    ends = np.sort(rng.normal(size=(2, 300)) * rng.choice([0.1, 1.0, 8.0], 300), axis=0)
    ends[:, :20] = [[-1.5], [1.5]]  # holds both ends of sigmoid''' and sigmoid''
    for function, exact in (
        (intervals.slope_range, slope),
        (intervals.second_range, lambda t: slope(t) * (1 - 2 * sigmoid(t))),
        (intervals.third_range, lambda t: slope(t) * (1 - 6 * slope(t))),
    ):
        found = function(ends[0], ends[1])
        for share in (0.0, 0.2, 0.5, 0.7, 1.0, 0.061, 0.939):
            x = ends[0] + (ends[1] - ends[0]) * share if share < 1 else ends[1]
            x = np.clip(x, ends[0], ends[1])
            for at, low, high in zip(balls(x), found.lo, found.hi, strict=True):
                assert flint.arb(float(low)) <= exact(at) <= flint.arb(float(high))
    top = intervals.third_range(np.array([-5.0]), np.array([5.0]))
    assert top.hi[0] >= Fraction(1, 24)
    assert top.lo[0] <= -0.125
