"""Affine forms contain the exact rational value of what they stand for, floating-point errors included."""

from fractions import Fraction

import numpy as np
import pytest

from codesign.verification.affine import (
    Box,
    Form,
    Matrix,
    Pool,
    combine,
    linear,
    product_box,
    require_round_to_nearest,
)


def exact(form: Form, eps: np.ndarray, unit: int) -> tuple[Fraction, Fraction]:
    """Center + generators . eps of one unit, exactly, and its error term."""
    value = Fraction(float(form.center[0, unit]))
    for g, e in zip(form.generators[0, unit], eps, strict=False):
        value += Fraction(float(g)) * Fraction(float(e))
    return value, Fraction(float(form.error[0, unit]))


def fresh(rng, pool, n, size=1.0):
    center, radius = rng.normal(0, size, (1, n)), np.abs(rng.normal(0, size, (1, n)))
    return Form.from_box(Box(center - radius, center + radius), pool, "test")


@pytest.mark.parametrize("seed", range(20))
def test_linear_maps_and_combinations_cover_the_exact_value(seed):
    rng = np.random.default_rng(seed)
    pool = Pool()
    size = 10.0 ** rng.integers(-6, 7)
    x, y = fresh(rng, pool, 5, size), fresh(rng, pool, 3, size)
    A, B = rng.normal(0, 1, (4, 5)), rng.normal(0, 1e3, (4, 3))
    b = rng.normal(0, 1, 4)
    z = linear([(Matrix.exact(A), x), (Matrix.exact(B), y)], b)
    a = rng.normal(0, 1, (1, 4))
    noise = np.abs(rng.normal(0, 1, (1, 4)))
    w = combine([(a, z), (0.3, z)], 0.7, noise, pool, "noise")
    for _ in range(20):
        eps = rng.uniform(-1, 1, pool.size)
        eps[rng.random(pool.size) < 0.5] = rng.choice([-1.0, 1.0])
        xs = [exact(x, eps, k)[0] for k in range(5)]
        ys = [exact(y, eps, k)[0] for k in range(3)]
        for k in range(4):
            true = Fraction(float(b[k]))
            true += sum(Fraction(float(A[k, j])) * xs[j] for j in range(5))
            true += sum(Fraction(float(B[k, j])) * ys[j] for j in range(3))
            value, error = exact(z, eps, k)
            assert abs(true - value) <= error
            assert Fraction(float(z.box.lo[0, k])) <= true <= Fraction(float(z.box.hi[0, k]))
            combined = (Fraction(float(a[0, k])) + Fraction(0.3)) * true + Fraction(0.7)
            combined += Fraction(float(noise[0, k])) * Fraction(float(eps[pool.size - 4 + k]))
            value, error = exact(w, eps, k)
            assert abs(combined - value) <= error
            assert error < abs(combined) * Fraction(1, 10**9) + Fraction(size) * Fraction(1, 10**6)


def test_matrix_slack_is_inside_the_error():
    pool = Pool()
    x = Form.from_box(Box(np.array([[1.0]]), np.array([[3.0]])), pool, "x")
    z = linear([(Matrix(np.array([[2.0]]), np.array([[0.5]])), x)], np.zeros(1))
    assert z.box.lo[0, 0] <= 1.5 * 1.0
    assert z.box.hi[0, 0] >= 2.5 * 3.0


def test_differences_of_shared_symbols_cancel():
    pool = Pool()
    x = Form.from_box(Box(np.array([[-5.0]]), np.array([[5.0]])), pool, "x")
    difference = combine([(1.0, x), (-1.0, x)])
    assert difference.radius[0, 0] < 1e-12


def test_disjoint_enclosures_are_an_error():
    with pytest.raises(ArithmeticError):
        Box(np.zeros((1, 1)), np.ones((1, 1))).meet(2.0, 3.0)


def test_product_box_covers_corner_products():
    rng = np.random.default_rng(0)
    lo, hi = rng.normal(size=(2, 1, 1000)), None
    hi = lo + np.abs(rng.normal(size=lo.shape))
    box = product_box(Box(lo[0], hi[0]), Box(lo[1], hi[1]))
    for u in (0.0, 0.3, 1.0):
        for v in (0.0, 0.7, 1.0):
            p = (lo[0] + u * (hi[0] - lo[0])) * (lo[1] + v * (hi[1] - lo[1]))
            assert (p >= box.lo).all()
            assert (p <= box.hi).all()


def test_rounding_mode_is_checked():
    import ctypes
    import ctypes.util

    require_round_to_nearest()
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    toward_zero = {"x86_64": 0xC00, "aarch64": 0xC00000}
    import platform

    mode = toward_zero.get(platform.machine())
    if mode is None:
        pytest.skip(f"the rounding mode's number is not known on {platform.machine()}")
    try:
        assert libm.fesetround(mode) == 0
        with pytest.raises(RuntimeError):
            require_round_to_nearest()
    finally:
        libm.fesetround(0)
