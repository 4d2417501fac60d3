"""Forms inside a step stand for what the symbols say; folded symbols keep bounds sound, and a checker follows."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from random_pairs import random_pair
from test_soundness import check

from codesign.quantization.align import align
from codesign.verification import ball, lstm
from codesign.verification.affine import Box, Form, Pool
from codesign.verification.propagate import propagate
from codesign.verification.unit_forms import NEW_CELL, NEW_TANH, ROWS, WIDTH, UnitForm, UnitRows, combined

B, H, K = 2, 3, 7
FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.fixture
def rows():
    """Rows of a state over K symbols of the float network and four of the difference, all random."""
    rng = np.random.default_rng(5)
    rows = UnitRows(B, H, Pool())
    rows._widen(K, 4)
    rows.values[..., :K], rows.differences[..., :4] = rng.normal(size=(B, ROWS, H, K)), rng.normal(size=(B, 5, H, 4))
    return rows


def random_form(rng, count=2):
    center, weights = rng.normal(size=(B, count, H)), rng.normal(size=(B, count, H, WIDTH))
    return UnitForm(center, weights, np.full(center.shape, 1e-3), np.full(center.shape, 1e3))


def test_sums_are_those_of_the_combined_rows(rows):
    form = random_form(np.random.default_rng(1))
    got = rows.sums(form.weights)
    own = rows.sums(form.weights, difference=False)
    for b in range(B):
        for m in range(2):
            for k in range(H):
                w = form.weights[b, m, k]
                value = np.abs(w[:ROWS] @ rows.values[b, :, k, :K]).sum()
                d_rows = rows.differences[b, :, k, :4]
                difference = np.abs(w[[4, 5, 6, 7, 9]] @ d_rows).sum()
                assert own[b, m, k] == pytest.approx(value)
                assert got[b, m, k] == pytest.approx(value + difference)


def test_large_sums_are_taken_in_parts(rows, monkeypatch):
    form = random_form(np.random.default_rng(1), 4)
    whole = rows.sums(form.weights)
    monkeypatch.setattr("codesign.verification.unit_forms._CHUNK", 9)
    np.testing.assert_allclose(rows.sums(form.weights), whole, rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_combinations_cover_the_exact_value(seed):
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.integers(-5, 6)
    x, y = random_form(rng), random_form(rng)
    values = [[Fraction(float(v)) for v in rng.normal(0, size, WIDTH)] for _ in range(2)]
    a, c = rng.normal(size=(B, 2, H)), rng.normal(size=(B, 2, H))
    # the size that a form has to have: all magnitudes, before any cancel
    x, y = (
        UnitForm(f.center, f.weights, f.error, 10 * size * np.abs(f.weights).sum(-1) + np.abs(f.center)) for f in (x, y)
    )
    out = combined([(a, x), (0.3, y)], c)
    for eps in values:
        for at in np.ndindex(B, 2, H):
            exact = Fraction(float(c[at]))
            for factor, form in ((a[at], x), (0.3, y)):
                form_value = Fraction(float(form.center[at]))
                form_value += sum(Fraction(float(w)) * e for w, e in zip(form.weights[at], eps, strict=True))
                exact += Fraction(float(factor)) * form_value
            found = Fraction(float(out.center[at]))
            found += sum(Fraction(float(w)) * e for w, e in zip(out.weights[at], eps, strict=True))
            # without the errors that x and y come with, what is left is the rounding of the combination
            inherited = Fraction(float(abs(a[at]))) * Fraction(1e-3) + Fraction(0.3) * Fraction(1e-3)
            assert abs(exact - found) <= Fraction(float(out.error[at])) - inherited
            assert out.size[at] >= abs(a[at]) * x.size[at] + 0.3 * y.size[at] + abs(c[at])


def test_one_symbol_for_several_is_as_wide():
    form = random_form(np.random.default_rng(2))[0]
    merged = form.merged([NEW_CELL, NEW_TANH], NEW_TANH)
    assert (merged.weights[..., NEW_CELL] == 0).all()
    both = np.abs(form.weights[..., NEW_CELL]) + np.abs(form.weights[..., NEW_TANH])
    assert (merged.weights[..., NEW_TANH] >= both).all()
    np.testing.assert_allclose(merged.weights[..., NEW_TANH], both)
    wider = form.with_symbol(NEW_CELL, np.full((B, H), 2.0))
    assert (wider.weights[..., NEW_CELL] >= np.abs(form.weights[..., NEW_CELL]) + 2.0).all()


def test_a_form_is_given_up_where_it_is_chosen():
    form = random_form(np.random.default_rng(3))[0]
    chosen = np.zeros((B, H), bool)
    chosen[0, 1] = True
    box = Box(np.full((B, H), 1.0), np.full((B, H), 3.0))
    out = form.replaced(chosen, box, NEW_CELL)
    assert out.center[0, 1] == 2.0
    assert np.flatnonzero(out.weights[0, 1]).tolist() == [NEW_CELL]
    assert out.weights[0, 1, NEW_CELL] >= 1.0
    np.testing.assert_array_equal(out.weights[1], form.weights[1])


def test_a_state_keeps_its_ranges_when_symbols_are_folded():
    rows, rng = UnitRows(B, H, Pool()), np.random.default_rng(4)
    for step in range(4):
        state = random_form(rng, 4)
        state.weights[:, ::2, :, [4, 5, 6, 7, 9]] = 0.0
        state.weights[:, ::2, :, 17:] = 0.0
        rows.finish(state, np.ones((B, H, 10)))
        before = np.abs(rows.state_v[..., : rows.kv]).sum(-1), np.abs(rows.state_d[..., : rows.kd]).sum(-1)
        count = rows.kv + rows.kd
        kept = rows.fold(step, 80)
        after = np.abs(rows.state_v[..., : rows.kv]).sum(-1), np.abs(rows.state_d[..., : rows.kd]).sum(-1)
        assert (kept is None) == (count <= 80)
        if kept is not None:
            assert rows.kv + rows.kd <= 60
            np.testing.assert_allclose(after[0][:, ::2], before[0][:, ::2])
            np.testing.assert_allclose(after[0][:, 1::2] + after[1], before[0][:, 1::2] + before[1])
        rows._widen(rows.kv, rows.kd)
        rows.values[..., : rows.kv] = rng.normal(size=(B, ROWS, H, rows.kv))
        rows.differences[..., : rows.kd] = rng.normal(size=(B, 5, H, rows.kd))
    assert isinstance(rows.form(np.zeros((B, H)), np.zeros((B, H)), True), Form)


@pytest.fixture
def folding(monkeypatch):
    """Rows of 30 symbols a unit at most: every network here has to fold."""

    def limited(self, *arguments, original=lstm.LstmPropagation.__init__, **keywords):
        original(self, *arguments, **keywords)
        self.limit = 30 * self.units

    monkeypatch.setattr(lstm.LstmPropagation, "__init__", limited)


def test_bounds_are_sound_with_folded_symbols(folding):
    rng = np.random.default_rng(6)
    folded = 0
    for seed in range(25):
        network, integer = random_pair(seed)
        steps, features = integer.input.shape
        scale, zero = integer.input.scale, integer.input.zero_point
        lo, hi = scale * (-128 - zero), scale * (127 - zero)
        domain = (np.full(features, lo), np.full(features, hi))
        center = rng.uniform(lo, hi, (steps, features)).astype(np.float32)
        regions = [ball(str(seed), center, r * scale, domain) for r in (1.0, 20.0)]
        enclosure = propagate(align(network, integer), integer, regions)
        folded += "symbol reduction" in enclosure.sources[0]
        check(network, integer, regions, rng, 300)
    assert folded > 3


def test_a_checker_follows_folded_symbols(folding, pair, tmp_path):
    from codesign import api
    from codesign.recheck import check as recheck
    from codesign.verification import Options

    path, int8_path = (FIXTURES / f"stacked.{ending}" for ending in ("h5", "tflite"))
    network, integer, data = pair("stacked")
    options = Options(evaluations=30)
    certificate = tmp_path / "certificate.json"
    api.certify(network, integer, data, "1lsb", 2, options=options, output=certificate)
    with np.load(tmp_path / "certificate.proof.npz") as archive:
        header = json.loads(archive["header"].tobytes())
    folds = [step for step in header["steps"] if step[0] == "fold"]
    assert len({place.split("[")[0] for _, place, _ in folds}) == 2
    assert recheck(certificate, path, int8_path).verdict == "valid"


@pytest.mark.parametrize("kept", [-1, "3", None, 1.5, True])
def test_a_checker_refuses_a_fold_that_names_no_step(kept):
    from codesign.checker.result import Invalid
    from codesign.checker.solver import Choices
    from codesign.proof.proof_file import ProofFile

    none = np.zeros((1, 0))
    box = np.zeros((1, 1, 1))
    steps = [["fold", "lstm[1]", kept]]
    choices = Choices(ProofFile({"steps": steps}, box, box, none, none > 0, none), slice(0, 1))
    assert choices.fold("lstm[0]") == 0
    with pytest.raises(Invalid):
        choices.fold("lstm[1]")


def test_a_symbol_of_a_difference_that_the_float_network_takes_up_keeps_its_share():
    """Pool place 1 is of the difference alone first and of the float network later: its shares in both add up."""
    rows = UnitRows(1, 1, Pool())
    rows.pool.allocate(2, "input region")
    rows.value_columns, rows.difference_columns = [np.array([0, 1])], [np.array([1])]
    rows._widen(2, 1)
    rows.state_v[0, 1, 0, :2], rows.state_d[0, 0, 0, :1] = (3.0, 5.0), (7.0,)
    rows.state_v[0, 0, 0, :2] = (1.0, 2.0)
    zero = np.zeros((1, 1))
    assert rows.form(zero, zero, True).generators[0, 0].tolist() == [3.0, 12.0]
    assert rows.form(zero, zero, False).generators[0, 0].tolist() == [1.0, 2.0]
