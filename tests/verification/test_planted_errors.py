"""Errors planted in the verifier itself are caught by the soundness check: it can fail, for each kind of mistake."""

import numpy as np
import pytest
from random_pairs import random_pair
from test_soundness import check

from codesign.verification import affine, ball, lstm, regions, relaxation, rounding, unit_forms
from codesign.verification.affine import Box


def attack(gain=1.0, radius=1.0, seeds=40, evaluations=1000, coarse=1.0, **kind):
    """Random pairs until a bound is violated; AssertionError or ArithmeticError when one is."""
    rng = np.random.default_rng(11)
    for seed in range(seeds):
        network, integer = random_pair(seed, gain, softmax=False, coarse=coarse, **kind)
        steps, features = integer.input.shape
        scale, zero = integer.input.scale, integer.input.zero_point
        lo, hi = scale * (-128 - zero), scale * (127 - zero)
        domain = (np.full(features, lo), np.full(features, hi))
        center = (rng.uniform(lo, hi, (steps, features)) / coarse).astype(np.float32)
        check(network, integer, [ball(str(seed), center, radius * scale, domain)], rng, evaluations)


def zero_box(box, *_):
    return Box(np.zeros_like(box.lo), np.zeros_like(box.lo))


def no_rounding(monkeypatch):
    monkeypatch.setattr(rounding, "requantization_error", lambda multiplier: 0.0)


def no_input_rounding(monkeypatch):
    monkeypatch.setattr(regions, "_rounding_radius", lambda tensor, x: Box(0 * x.lo - 1e-12, 0 * x.lo + 1e-12))


def no_hidden_rounding(monkeypatch):
    original = lstm.LstmPropagation.__init__

    def patched(self, *arguments, **keywords):
        original(self, *arguments, **keywords)
        self.hidden_rounding = 0.0

    monkeypatch.setattr(lstm.LstmPropagation, "__init__", patched)


def no_weight_gap(monkeypatch):
    original = affine.Matrix.minus

    def patched(self, other):
        gap = original(self, other)
        return affine.Matrix(0 * gap.value, gap.slack)

    monkeypatch.setattr(affine.Matrix, "minus", patched)


def no_saturation(monkeypatch):
    monkeypatch.setattr(rounding, "saturation_error", zero_box)


def flipped_relaxation(monkeypatch):
    original = relaxation.relax

    def patched(*arguments):
        plane = original(*arguments)
        return relaxation.Plane(-plane.slope, plane.mid, plane.rad)

    monkeypatch.setattr(relaxation, "relax", patched)


def flipped_difference(monkeypatch):
    original = relaxation.relax_difference

    def patched(*arguments):
        plane = original(*arguments)
        return relaxation.DifferencePlane(plane.slope_z, -plane.slope_d, plane.mid, plane.rad)

    monkeypatch.setattr(relaxation, "relax_difference", patched)


def no_product_residual(monkeypatch):
    monkeypatch.setattr(relaxation, "square_residual", lambda p, q, rx, *_: zero_box(p))


def one_sided_difference(monkeypatch):
    original = relaxation.relax_difference

    def patched(*arguments):
        plane = original(*arguments)
        return relaxation.DifferencePlane(plane.slope_z, 0 * plane.slope_d, plane.mid, plane.rad)

    monkeypatch.setattr(relaxation, "relax_difference", patched)


def negated_cell_term(monkeypatch):
    original = lstm._Products.__init__

    def patched(self, *arguments):
        original(self, *arguments)
        d = self.difference
        self.difference = unit_forms.UnitForm(-d.center, -d.weights, d.error, d.size)

    monkeypatch.setattr(lstm._Products, "__init__", patched)


def lost_symbols_of_differences(monkeypatch):
    original = unit_forms.UnitForm.merged

    def patched(self, slots, into):
        form = original(self, slots, into)
        form.weights[..., into] = 0.0
        return form

    monkeypatch.setattr(unit_forms.UnitForm, "merged", patched)


def columns_mixed_up(monkeypatch):
    original = unit_forms.UnitRows.finish

    def patched(self, state, shares):
        original(self, state, shares)
        self.state_v[:, :, :, :] = self.state_v[:, :, ::-1, :].copy()

    monkeypatch.setattr(unit_forms.UnitRows, "finish", patched)


def half_of_the_columns_summed(monkeypatch):
    original = unit_forms.UnitRows.sums
    monkeypatch.setattr(
        unit_forms.UnitRows, "sums", lambda *arguments, **keywords: 0.5 * original(*arguments, **keywords)
    )


PLANTED = [
    (no_rounding, {}),
    (no_input_rounding, {"coarse": 5.0}),
    (no_hidden_rounding, {}),
    (no_weight_gap, {"weight_error": 12.0}),
    (no_saturation, {"gain": 30.0}),
    (flipped_relaxation, {"radius": 10.0}),
    (flipped_difference, {"radius": 5.0}),
    (no_product_residual, {"radius": 60.0}),
    (one_sided_difference, {}),
    (negated_cell_term, {}),
    (lost_symbols_of_differences, {}),
    (columns_mixed_up, {"radius": 10.0}),
    (half_of_the_columns_summed, {"radius": 10.0}),
]


@pytest.mark.parametrize(("plant", "how"), PLANTED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_error_is_caught(plant, how, monkeypatch):
    plant(monkeypatch)
    with pytest.raises((AssertionError, ArithmeticError)):
        attack(**how)


def test_nothing_is_caught_without_a_planted_error():
    attack(seeds=10)
    attack(seeds=10, gain=30.0)
    attack(seeds=10, radius=60.0)
    attack(seeds=10, coarse=5.0, weight_error=12.0)
