"""The float64 plane residuals: sound against rigorous point values, tight; and what they assume."""

from __future__ import annotations

from collections.abc import Callable

import flint
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codesign.errors import InputError
from codesign.proof import bounds
from codesign.proof.bounds import (
    sigmoid_diff_plane_residual,
    sigmoid_plane_residual,
    tanh_diff_plane_residual,
    tanh_plane_residual,
)

arb = flint.arb


@pytest.fixture(autouse=True)
def _precision():
    old = flint.ctx.prec
    flint.ctx.prec = 240
    yield
    flint.ctx.prec = old


def exact(value: float) -> arb:
    return arb(float(value))


def sigmoid(t: arb) -> arb:
    return 1 / (1 + (-t).exp())


def tanh_exactly(t: arb) -> arb:
    return 2 * sigmoid(2 * t) - 1


BASE: dict[str, Callable[[arb], arb]] = {"sigmoid": sigmoid, "tanh": tanh_exactly}
ONE = {"sigmoid": sigmoid_plane_residual, "tanh": tanh_plane_residual}
TWO = {"sigmoid": sigmoid_diff_plane_residual, "tanh": tanh_diff_plane_residual}


def residual_one(kind: str, z: float, alpha: float) -> arb:
    return BASE[kind](exact(z)) - exact(alpha) * exact(z)


def residual_two(kind: str, z: float, d: float, alpha: float, beta: float) -> arb:
    a, b = exact(z), exact(d)
    return BASE[kind](a + b) - BASE[kind](a) - exact(alpha) * a - exact(beta) * b


@pytest.mark.parametrize(
    ("function", "reference"),
    [
        (np.exp, lambda t: t.exp()),
        (np.expm1, lambda t: t.exp() - 1),
        (np.tanh, tanh_exactly),
    ],
)
def test_numpy_is_at_least_twice_as_accurate_as_assumed(function, reference):
    rng = np.random.default_rng(5)
    points = np.concatenate(
        [
            -np.exp(rng.uniform(-30, np.log(700), 6000)),
            -rng.uniform(0, 45, 6000),
            -np.exp2(rng.integers(-40, 9, 200).astype(float)),
            np.nextafter(-np.arange(1, 200) * np.log(2), 0),
        ]
    )
    computed = function(points)
    worst = 0.0
    for x, y in zip(points.tolist(), computed.tolist(), strict=True):
        error = abs(float(reference(exact(x)) - exact(y)))
        worst = max(worst, error / float(np.spacing(abs(y))))
    assert worst <= bounds.ASSUMED_ULP / 2, worst


def boxes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    """Boxes of every size, degenerate, far, crossing zero, with useful and useless slopes."""
    z = rng.normal(size=count) * np.exp(rng.uniform(-3, 2, count))
    z[::11] *= 100
    d = rng.normal(size=count) * np.exp(rng.uniform(-10, 2, count))
    d[::13] *= 100
    rz, rd = (np.exp(rng.uniform(-18, 2, count)) for _ in range(2))
    rz[::7] = 0
    rd[::5] = 0
    rd[1::17] = np.abs(d[1::17])
    alpha = rng.normal(size=count) * 0.05 * np.minimum(1, np.abs(d) + rd)
    alpha[::4] = 0
    beta = rng.uniform(-0.05, 0.3, count)
    inside = rng.uniform(size=count) < 0.4
    beta[inside] = (np.exp(-np.abs(z + d)) / (1 + np.exp(-np.abs(z + d))) ** 2)[inside]
    return z - rz, z + rz, d - rd, d + rd, alpha, beta


def grid(lower: float, upper: float, count: int) -> list[float]:
    return np.clip(np.linspace(lower, upper, count), lower, upper).tolist()


@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
def test_one_dimensional_residual_holds_and_is_attained(kind):
    rng = np.random.default_rng(1)
    zl, zu, _, _, _, alpha = boxes(rng, 400)
    alpha[::3] *= 4
    lo, hi = ONE[kind](zl, zu, alpha)
    for i in range(zl.size):
        values = [residual_one(kind, z, alpha[i]) for z in grid(zl[i], zu[i], 41)]
        assert all(exact(lo[i]) <= v <= exact(hi[i]) for v in values)
        floats = [float(v) for v in values]
        allowed = 1e-13 * (1 + abs(alpha[i]) * max(abs(zl[i]), abs(zu[i]))) + 0.05 * ((zu[i] - zl[i]) / 40) ** 2
        assert max(floats) >= hi[i] - allowed * 4
        assert min(floats) <= lo[i] + allowed * 4


@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
def test_difference_residual_holds_and_is_attained(kind):
    rng = np.random.default_rng(2)
    zl, zu, dl, du, alpha, beta = boxes(rng, 250)
    lo, hi = TWO[kind](zl, zu, dl, du, alpha, beta)
    for i in range(zl.size):
        values = [
            residual_two(kind, z, d, alpha[i], beta[i]) for z in grid(zl[i], zu[i], 15) for d in grid(dl[i], du[i], 15)
        ]
        assert all(exact(lo[i]) <= v <= exact(hi[i]) for v in values)
        floats = [float(v) for v in values]
        reach = 1 + abs(alpha[i]) * max(abs(zl[i]), abs(zu[i])) + abs(beta[i]) * max(abs(dl[i]), abs(du[i]))
        step = ((zu[i] - zl[i]) + (du[i] - dl[i])) / 14
        assert max(floats) >= hi[i] - 1e-12 * reach - 0.5 * step * step
        assert min(floats) <= lo[i] + 1e-12 * reach + 0.5 * step * step


coordinate = st.one_of(
    st.floats(-8, 8), st.floats(-1e3, 1e3), st.sampled_from([0.0, -0.0, 1e-300, -1e-300, 1e3, -1e3, 0.5])
)
width = st.one_of(st.just(0.0), st.floats(0, 10), st.floats(0, 1e-7), st.floats(0, 1e3))
slope = st.one_of(
    st.floats(-0.3, 0.3), st.sampled_from([0.0, 0.25, 0.2499999999999999, 1e-17, 1e-320]), st.floats(-5, 5)
)
share = st.floats(0, 1)


@settings(max_examples=400, deadline=None)
@given(coordinate, width, coordinate, width, slope, slope, share, share)
@example(-1e3, 2e3, -1e3, 2e3, 0.0, 0.25, 0.5, 0.5)
@example(-1.0, 2.0, -2.0, 4.0, 0.0, 0.2, 0.0, 1.0)
@example(0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0)
def test_difference_residual_holds_at_any_point(z, wz, d, wd, alpha, beta, s, t):
    for kind in ("sigmoid", "tanh"):
        lo, hi = TWO[kind](z, z + wz, d, d + wd, alpha, beta)
        assert np.isfinite(lo)
        assert np.isfinite(hi)
        flint.ctx.prec = 3200
        for point in {(z, d), (z + wz, d + wd)} | {
            (min(z + s * wz, z + wz), min(d + t * wd, d + wd)),
        }:
            value = residual_two(kind, *point, alpha, beta)
            assert exact(lo) <= value <= exact(hi)
        one_lo, one_hi = ONE[kind](z, z + wz, alpha)
        value = residual_one(kind, min(z + s * wz, z + wz), alpha)
        assert exact(one_lo) <= value <= exact(one_hi)


def test_interior_extremes_are_found():
    """Slopes beta = sigmoid'(1), beta - alpha = sigmoid'(-2): a maximum inside at z = -2, z + d = 1."""
    rng = np.random.default_rng(3)
    z, u = -rng.uniform(0.1, 5, 300), rng.uniform(0.1, 5, 300)
    s = 1 / (1 + np.exp(-z))
    t = 1 / (1 + np.exp(-u))
    beta = t * (1 - t)
    alpha = beta - s * (1 - s)
    wide = rng.uniform(1e-6, 0.05, 300)
    _, hi = sigmoid_diff_plane_residual(z - wide, z + wide, u - z - wide, u - z + wide, alpha, beta)
    for i in range(z.size):
        value = float(residual_two("sigmoid", z[i], u[i] - z[i], alpha[i], beta[i]))
        assert value <= hi[i] <= value + 1e-12
    lo, _ = sigmoid_diff_plane_residual(-z - wide, -z + wide, z - u - wide, z - u + wide, alpha, beta)
    np.testing.assert_array_equal(lo, -hi)


def test_broadcasting_and_shapes():
    lo, hi = sigmoid_diff_plane_residual(np.zeros((3, 1)), np.ones((3, 1)), np.zeros(4), np.ones(4), 0.0, 0.2)
    assert lo.shape == hi.shape == (3, 4)
    lo, hi = tanh_plane_residual(0.0, 1.0, 0.5)
    assert lo.shape == ()
    lo, hi = sigmoid_diff_plane_residual(*[np.zeros(0)] * 6)
    assert lo.size == 0


@pytest.mark.parametrize(
    "arguments",
    [(1.0, 0.0, 0.0), (np.nan, 1.0, 0.0), (0.0, np.inf, 0.0), (0.0, 1.0, np.nan), (0.0, 1.0, 1e300)],
)
def test_bad_boxes_are_refused(arguments):
    for function in ONE.values():
        with pytest.raises(InputError):
            function(*arguments)
    with pytest.raises(InputError):
        sigmoid_diff_plane_residual(0.0, 0.0, *arguments, 0.0)
