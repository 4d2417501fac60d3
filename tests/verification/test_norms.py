"""Norms of the difference: never below what is attained, and attained where they are said to be tight."""

from itertools import product

import numpy as np
import pytest

from codesign.quantization.integer import IntActivation, QuantizedTensor
from codesign.verification.affine import Box, Form
from codesign.verification.head import probabilities
from codesign.verification.norms import Norms, probability_margin, probability_sum, sum_of_magnitudes


@pytest.mark.parametrize("outputs", [1, 2, 4, 6, 9])
def test_sum_of_magnitudes_is_attained(outputs):
    rng = np.random.default_rng(outputs)
    for scale in (1.0, 1e-200, 1e100):
        center, generators = rng.normal(size=(3, outputs)) * scale, rng.normal(size=(3, outputs, 8)) * scale
        form = Form(center, generators, np.zeros((3, outputs)))
        told = sum_of_magnitudes(form, form.box)
        corners = np.array(list(product((-1.0, 1.0), repeat=8)))
        values = center[:, :, None] + generators @ corners.T
        attained = np.abs(values).sum(1).max(1)
        assert (told >= attained).all()
        boxes = form.box.mag.sum(1)
        assert (told <= boxes * (1 + 1e-9)).all()
        if outputs <= 6:
            assert (told <= attained * (1 + 1e-9)).all()
    shifted = Form(form.center, form.generators, np.full((3, outputs), 0.5 * scale))
    assert (sum_of_magnitudes(shifted, shifted.box) >= attained + 0.5 * scale * outputs * (1 - 1e-9)).all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_probabilities_lose_what_others_gain(sign):
    """One class changes by 0.1, two others by up to 0.1 each the other way: 0.2 is attained, 0.3 cannot be."""
    source = QuantizedTensor("l", (3,), "int8", 0.05, 0)
    op = IntActivation("softmax", "softmax", source, QuantizedTensor("p", (3,), "int8", 1 / 256, -128))
    ends = sign * np.array([[[0.0, 0.1], [-0.1, 0.0], [-0.1, 0.0]]])
    difference = Box(ends.min(2), ends.max(2))
    flat = Box(np.full((1, 3, 3), -1.0), np.full((1, 3, 3), 1.0))
    (told,) = probability_sum(difference, op, probabilities(flat, "p"))
    assert 0.2 <= told <= 0.2 + 3 * 0.5 / 256 + 1e-3


def test_norms_from_bounds():
    bound = np.array([3.0, 4.0, 0.0, 12.0])
    loose = Norms.of(bound, np.array([np.inf]))
    assert (loose.linf, loose.l2, loose.l1) == (12.0, pytest.approx(13.0), pytest.approx(19.0))
    assert loose.l2 >= 13.0
    tight = Norms.of(bound, np.array([12.5]))
    assert tight.l1 == pytest.approx(12.5)
    assert tight.l2 == pytest.approx(np.sqrt(12 * 12.5))
    rows = Norms.of(bound, np.array([7.0, 12.0]))
    assert rows.l1 == pytest.approx(19.0)
    assert rows.l2 == pytest.approx(13.0)
    for small in (5e-290, 0.0):
        norms = Norms.of(np.full(3, small), np.array([np.inf]))
        assert norms.linf <= norms.l2 <= norms.l1
        assert norms.l2 >= small * np.sqrt(3)


def every_margin(box):
    """(M, M) of all pairs of classes."""
    classes = box.lo.shape[1]
    found = np.zeros((classes, classes))
    for i in range(classes):
        found[i, np.arange(classes) != i] = probability_margin(box, i)[0]
    return found


def test_probability_margins_are_below_what_is_attained():
    rng = np.random.default_rng(1)
    for _ in range(50):
        center, width = rng.normal(size=4) * 2, rng.uniform(0, 1)
        z = center + rng.uniform(-width, width, (400, 4))
        gaps = z[:, :, None] - z[:, None, :]
        box = Box(gaps.min(0)[None], gaps.max(0)[None])
        lower = every_margin(box)
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        assert (lower <= (p[:, :, None] - p[:, None, :]).min(0) + 1e-12).all()
    exact = every_margin(Box(gaps[:1], gaps[:1]))
    np.testing.assert_allclose(exact, p[0][:, None] - p[0][None, :], atol=1e-9)
