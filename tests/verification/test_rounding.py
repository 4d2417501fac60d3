"""The error models of the integer arithmetic, against the exact arithmetic itself."""

from fractions import Fraction

import numpy as np
import pytest

from codesign.quantization.integer import IntActivation, Multiplier, QuantizedTensor
from codesign.semantics import run_operator, sigmoid_table, tanh_table
from codesign.semantics.primitives import mbqm
from codesign.verification import rounding
from codesign.verification.affine import Box


@pytest.mark.parametrize("e", [-20, -14, -9, -3, -1, 0, 1, 4])
def test_requantization_error_covers_the_exact_arithmetic(e):
    rng = np.random.default_rng(e + 100)
    worst = Fraction(0)
    for m in (1 << 30, (1 << 31) - 1, *rng.integers(1 << 30, 1 << 31, 6)):
        multiplier = Multiplier(int(m), e)
        limit = 1 << (30 - max(e, 0))
        values = np.concatenate([rng.integers(-limit, limit, 3000), np.arange(-600, 600)])
        if e < 0:  # aim at the ties
            ties = ((2 * rng.integers(-200, 200, 2000) + 1) * 2.0 ** (30 - e) / int(m)).astype(np.int64)
            values = np.concatenate([values, np.clip(ties, -limit, limit), np.clip(ties + 1, -limit, limit)])
        out = mbqm(values, multiplier)
        bound = Fraction(rounding.requantization_error(multiplier))
        real = Fraction(int(m)) * Fraction(2) ** (e - 31)
        errors = [abs(Fraction(int(o)) - int(v) * real) for v, o in zip(values, out, strict=True)]
        assert max(errors) <= bound
        worst = max(worst, max(errors) / bound)
    assert worst > Fraction(9, 10)


def test_table_errors_are_the_enumerated_ones():
    flint = pytest.importorskip("flint")
    lo, hi = rounding.table_error("sigmoid")
    assert 0.9 * 2**-15 < hi <= 1.03 * 2**-15
    assert -1.03 * 2**-15 <= lo < -0.9 * 2**-15
    rng = np.random.default_rng(0)
    for a in rng.integers(-32768, 32768, 300):
        z = flint.arb(int(a)) / 4096
        error = flint.arb(int(sigmoid_table()[a + 32768])) / 32768 - 1 / (1 + (-z).exp())
        assert error > lo
        assert error < hi
    for shift in (-15, -12, -9):
        lo, hi = rounding.table_error("tanh", shift)
        for a in rng.integers(-32768, 32768, 200):
            z = flint.arb(int(a)) * flint.arb(2) ** shift
            error = flint.arb(int(tanh_table(shift)[a + 32768])) / 32768 - z.tanh()
            assert error > lo
            assert error < hi


def test_saturation_error_covers_clipping_and_holds_zero():
    box = Box(np.array([[-3.0, -1.0, 2.0]]), np.array([[-2.0, 4.0, 9.0]]))
    error = rounding.saturation_error(box, -1.5, 3.0)
    for u in np.linspace(0, 1, 21):
        v = box.lo + u * (box.hi - box.lo)
        lost = np.clip(v, -1.5, 3.0) - v
        assert (lost >= error.lo).all()
        assert (lost <= error.hi).all()
    assert (error.lo <= 0).all()
    assert (error.hi >= 0).all()
    inside = rounding.saturation_error(box, -10.0, 10.0)
    assert (inside.lo == 0).all()
    assert (inside.hi == 0).all()


@pytest.mark.parametrize(("classes", "scale"), [(2, 0.02), (4, 0.1), (10, 0.05), (37, 0.3)])
def test_softmax_error_covers_the_kernel(classes, scale):
    source = QuantizedTensor("l", (classes,), "int8", scale, 3)
    target = QuantizedTensor("p", (classes,), "int8", 1 / 256, -128)
    op = IntActivation("softmax", "softmax", source, target)
    rng = np.random.default_rng(classes)
    q = rng.integers(-128, 128, (20000, classes)).astype(np.int8)
    q[::3] = np.clip(q[::3] // 8 + rng.integers(-100, 100, (len(q[::3]), 1)), -128, 127)
    q[::7, 0] = 127
    logits = (q.astype(np.float64) - 3) * scale
    real = np.exp(logits - logits.max(1, keepdims=True))
    real /= real.sum(1, keepdims=True)
    got = (run_operator(op, q, None).astype(np.float64) + 128) / 256
    allowed = rounding.softmax_error(op, Box(real - 1e-13, real + 1e-13))
    error = got - real
    assert (error >= allowed.lo).all()
    assert (error <= allowed.hi).all()
    assert error.max() > 0.45 / 256


@pytest.mark.parametrize(("classes", "scale"), [(2, 1e-4), (4, 5e-4), (10, 3e-4), (37, 1e-3)])
def test_int16_softmax_error_covers_the_kernel(classes, scale):
    source = QuantizedTensor("l", (classes,), "int16", scale, 0)
    op = IntActivation("softmax", "softmax", source, QuantizedTensor("p", (classes,), "int16", 2.0**-15, 0))
    rng = np.random.default_rng(classes)
    q = rng.integers(-32768, 32768, (20000, classes)).astype(np.int16)
    q[::3] = np.clip(q[::3] // 64 + rng.integers(-20000, 20000, (len(q[::3]), 1)), -32768, 32767)
    logits = q.astype(np.float64) * scale
    real = np.exp(logits - logits.max(1, keepdims=True))
    real /= real.sum(1, keepdims=True)
    error = run_operator(op, q, None).astype(np.float64) / 32768 - real
    allowed = rounding.softmax_error(op, Box(real - 1e-13, real + 1e-13))
    assert (error >= allowed.lo).all()
    assert (error <= allowed.hi).all()
    assert np.abs(error).max() > 0.02 * allowed.hi.max()


def test_reciprocal_is_as_accurate_as_assumed():
    from codesign.semantics.activations import reciprocal_of_sum

    rng = np.random.default_rng(0)
    total = np.unique(
        np.concatenate([rng.integers(1 << 19, 1 << 31, 200000), (1 << np.arange(19, 31)), (1 << np.arange(20, 31)) - 1])
    )
    scale, bits = reciprocal_of_sum(total.astype(np.int64))
    relative = scale * 2.0**-31 * 2.0 ** -(bits.astype(float)) * (total * 2.0**-19) - 1
    assert np.abs(relative).max() < rounding._RECIPROCAL_ERROR / 4
