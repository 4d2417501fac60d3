"""Random pairs stay within quadratic zonotopes' bounds, and errors planted in the method are caught by that check.

Residuals of curved relaxations are far smaller than rounding here: test_quadratic.py checks them on grids.
"""

from dataclasses import replace

import numpy as np
import pytest
from random_pairs import random_pair

from codesign.network import evaluate
from codesign.quantization.align import align
from codesign.semantics import dequantize, quantize_input, simulate
from codesign.verification import ball, curved, quadratic_forms, quadratic_lstm, search
from codesign.verification.quadratic_network import quadratic_bounds


def attack(seeds, gain=1.0, radius=1.0, evaluations=600, **kind):
    """Random pairs until a bound is violated; AssertionError or ArithmeticError when one is."""
    rng = np.random.default_rng(11)
    for seed in range(seeds):
        network, integer = random_pair(seed, gain, softmax=False, **kind)
        steps, features = integer.input.shape
        scale, zero = integer.input.scale, integer.input.zero_point
        lo, hi = scale * (-128 - zero), scale * (127 - zero)
        domain = (np.full(features, lo), np.full(features, hi))
        center = rng.uniform(lo, hi, (steps, features)).astype(np.float32)
        region = ball(str(seed), center, radius * scale, domain)
        bounds = quadratic_bounds(align(network, integer), integer, region)
        found = search(network, integer, region, rng, evaluations)
        reach = np.maximum(-bounds.difference.lo[0], bounds.difference.hi[0])
        assert (found.per_output <= reach).all()
        x = np.concatenate([found.worst[None], region.center[None].astype(np.float32)])
        exact = evaluate(network, x).reshape(2, -1)
        moved = dequantize(integer.output, simulate(integer, quantize_input(integer, x))).reshape(2, -1) - exact
        for box, value in ((bounds.logits, exact), (bounds.difference, moved)):
            assert (box.lo[0] <= value).all()
            assert (value <= box.hi[0]).all()


@pytest.mark.parametrize(("gain", "radius"), [(0.3, 30.0), (1.0, 0.0), (1.0, 5.0), (6.0, 2.0), (60.0, 1.0)])
def test_random_networks_stay_within_their_bounds(gain, radius):
    attack(15, gain, radius, 300)


def no_remainder(monkeypatch):
    original = quadratic_forms.Product.parts

    def patched(self):
        rows, columns, remainder, size = original(self)
        return rows, columns, 0 * remainder, size

    monkeypatch.setattr(quadratic_forms.Product, "parts", patched)


def nothing_kept_of_products(monkeypatch):
    original = quadratic_forms.Product.parts

    def patched(self):
        rows, columns, remainder, size = original(self)
        return 0 * rows, columns, remainder, size

    monkeypatch.setattr(quadratic_forms.Product, "parts", patched)


def flipped_cross(monkeypatch):
    original = curved.patch
    monkeypatch.setattr(curved, "patch", lambda *a: replace(original(*a), cross=-original(*a).cross))


def flipped_curve(monkeypatch):
    original = curved.curve
    monkeypatch.setattr(curved, "curve", lambda *a: replace(original(*a), curve=-original(*a).curve))


def lost_center(monkeypatch):
    original = quadratic_lstm._Sum.multiply

    def patched(self, factor, u, v, width=None):
        before = self.constant
        original(self, factor, u, v, width)
        self.constant = before

    monkeypatch.setattr(quadratic_lstm._Sum, "multiply", patched)


def one_side_of_a_product(monkeypatch):
    def patched(value, change, x, y):
        value.multiply(1.0, x.value, y.value, x.value.inputs)
        change.multiply(1.0, x.value, y.difference)

    monkeypatch.setattr(quadratic_lstm, "_multiply", patched)


def halved_fresh_symbols(monkeypatch):
    original = quadratic_forms._with_symbols
    monkeypatch.setattr(quadratic_forms, "_with_symbols", lambda f, r, *rest: original(f, 0.5 * r, *rest))


def half_of_the_reading(monkeypatch):
    original = quadratic_forms.QuadraticForm._squared_radius
    monkeypatch.setattr(quadratic_forms.QuadraticForm, "_squared_radius", lambda self, k: 0.5 * original(self, k))


PLANTED = [
    (no_remainder, {"radius": 80.0, "gain": 4.0}),
    (nothing_kept_of_products, {"radius": 40.0, "gain": 3.0}),
    (flipped_cross, {"radius": 20.0}),
    (flipped_curve, {"radius": 20.0}),
    (lost_center, {}),
    (one_side_of_a_product, {}),
    (halved_fresh_symbols, {}),
    (half_of_the_reading, {"radius": 5.0}),
]


@pytest.mark.parametrize(("plant", "how"), PLANTED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_error_is_caught(plant, how, monkeypatch):
    plant(monkeypatch)
    with pytest.raises((AssertionError, ArithmeticError)):
        attack(60, **how)
