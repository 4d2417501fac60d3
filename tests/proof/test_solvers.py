"""All provers on one corpus, near misses, and the interface around them."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import flint
import numpy as np
import pytest

from codesign.errors import InputError
from codesign.proof import Obligation, availability, bounds, closed_form, prove
from codesign.proof.corpus import make_corpus
from codesign.proof.functions import violates
from codesign.proof.obligation import VARIABLES

COUNT = 900


@pytest.fixture(scope="module")
def corpus() -> list[tuple[Obligation, bool]]:
    return make_corpus(COUNT, np.random.default_rng(11))


def test_corpus_has_both_truths_of_every_kind(corpus):
    assert len(corpus) >= 500
    seen = Counter((o.kind, truth) for o, truth in corpus)
    assert set(seen) == {(kind, truth) for kind in VARIABLES for truth in (True, False)}
    assert min(seen.values()) >= 12


def test_corpus_has_them_as_certificates_do_and_odd_ones(corpus):
    """The last variables of parabolas, patches and coefficients of a step fixed, and over a range."""
    for kind in ("sigmoid_square", "tanh_square", "sigmoid_patch", "tanh_patch", "gate_slopes", "forget_slopes"):
        for truth in (True, False):
            fixed = [o.box[-1][0] == o.box[-1][1] for o, t in corpus if o.kind == kind and t == truth]
            assert 3 <= sum(fixed) < len(fixed)
    points = [o for o, _ in corpus if o.kind == "exp" and o.box[0][0] == o.box[0][1]]
    assert len(points) > 5


def some_of_each(corpus, count):
    """The first of each kind and truth."""
    seen = Counter()
    for obligation, truth in corpus:
        seen[obligation.kind, truth] += 1
        if seen[obligation.kind, truth] <= count:
            yield obligation, truth


@pytest.mark.parametrize("prover", [a.prover for a in availability()])
def test_provers_agree_with_the_corpus(corpus, prover):
    state = next(a for a in availability() if a.prover == prover)
    if not state.available:
        pytest.skip(f"{prover}: {state.reason}")
    sample = corpus if prover != "dreal" else list(some_of_each(corpus, 2))
    results = prove([o for o, _ in sample], prover=prover, timeout_s=10)
    for (obligation, truth), result in zip(sample, results, strict=True):
        assert result.status != ("refuted" if truth else "proved"), obligation
        if result.status == "refuted":
            assert violates(obligation, result.counterexample)
        if prover not in ("dreal", "interval"):  # which leave what touches its bound
            assert result.status == ("proved" if truth else "refuted"), (obligation, result)
        assert result.prover == prover


@pytest.mark.parametrize(
    ("what", "planted", "kinds"),
    [
        ("curved_form._Side.bend", lambda side, low, high: flint.arb(0), {"sigmoid_square", "tanh_patch"}),
        ("curved_form.kappa", lambda b: None, {"sigmoid_patch", "tanh_patch"}),
        ("closed_form.kappa", lambda b: None, {"sigmoid", "tanh", "sigmoid_diff"}),
        ("closed_form._slope_candidates", lambda o: closed_form._corners(o.box), {"gate_slopes", "forget_slopes"}),
    ],
)
def test_an_error_planted_in_a_closed_form_proves_a_false_one(corpus, monkeypatch, what, planted, kinds):
    """So that the corpus does show such errors."""
    monkeypatch.setattr(f"codesign.proof.{what}", planted)
    false = [o for o, truth in corpus if not truth]
    caught = {o.kind for o, r in zip(false, prove(false, "closed-form"), strict=True) if r.status == "proved"}
    assert kinds <= caught


def test_one_step_inside_a_known_extreme_is_refuted_or_unknown_never_proved():
    """tanh's residual on [0, 1] with slope 0 is [0, tanh 1]; sigmoid(0) is exactly 1/2."""
    top = math.tanh(1.0)
    for prover in ("closed-form", "icp"):
        for hi, expected in ((math.nextafter(top, 2), "proved"), (math.nextafter(top, 0), "refuted")):
            result = prove([Obligation("tanh", ((0.0, 1.0),), (0.0,), 0.0, hi)], prover)[0]
            assert result.status == expected
        exact = Obligation("product", ((-3.0, 2.0), (0.0, 0.5)), (0.0, 0.0), -1.5, 1.0)
        assert prove([exact], prover)[0].status == "proved"
        for moved in (
            dataclasses.replace(exact, lo=math.nextafter(-1.5, 0)),
            dataclasses.replace(exact, hi=math.nextafter(1.0, 0)),
        ):
            assert prove([moved], prover)[0].status == "refuted"
        assert prove([dataclasses.replace(exact, lo=2.0, hi=1.0)], prover)[0].status == "refuted"


def test_float64_residuals_are_proved_and_tight():
    """The array bounds, discharged one by one; and moved in by 1e-12 (relative to reach) they are false."""
    rng = np.random.default_rng(8)
    count = 150
    z, d = rng.normal(size=count) * 3, rng.normal(size=count)
    rz, rd = np.exp(rng.uniform(-9, 1, count)), np.exp(rng.uniform(-9, 0.5, count))
    alpha, beta = rng.normal(size=count) * 0.02, rng.uniform(0, 0.25, count)
    lo, hi = bounds.sigmoid_diff_plane_residual(z - rz, z + rz, d - rd, d + rd, alpha, beta)
    true, false = [], []
    for i in range(count):
        box = ((z[i] - rz[i], z[i] + rz[i]), (d[i] - rd[i], d[i] + rd[i]))
        slopes = (alpha[i], beta[i])
        true.append(Obligation("sigmoid_diff", box, slopes, lo[i], hi[i]))
        false.append(Obligation("sigmoid_diff", box, slopes, lo[i], hi[i] - 1e-12))
    for prover in ("closed-form", "icp"):
        assert {r.status for r in prove(true, prover)} == {"proved"}
        assert {r.status for r in prove(false, prover)} == {"refuted"}


@pytest.mark.parametrize("prover", ["closed-form", "icp"])
def test_extreme_boxes(prover):
    """Degenerate, huge and saturated boxes are decided too."""
    for zl, zu, dl, du in [
        (0.0, 0.0, 0.0, 0.0),
        (1e3, 1e3, -2e3, -2e3),
        (-1e3, 1e3, -1e3, 1e3),
        (500.0, 501.0, 0.0, 1e-12),
        (-5.0, 5.0, 0.0, 0.0),
        (0.0, 1e-300, -1e-300, 1e-300),
    ]:
        for alpha, beta in ((0.0, 0.0), (0.0, 0.25), (0.01, 0.1)):
            lo, hi = bounds.sigmoid_diff_plane_residual(zl, zu, dl, du, alpha, beta)
            statement = Obligation("sigmoid_diff", ((zl, zu), (dl, du)), (alpha, beta), float(lo), float(hi))
            assert prove([statement], prover)[0].status == "proved", statement
            false = dataclasses.replace(statement, hi=float(lo) - 1e-3)
            assert prove([false], prover)[0].status == "refuted"


def test_auto_progress_and_workers(corpus):
    obligations = [o for o, _ in corpus[:150]]
    seen: list[tuple[int, int]] = []
    single = prove(obligations, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 150) for i in range(150)]
    assert [r.status for r in single] == ["proved" if truth else "refuted" for _, truth in corpus[:150]]
    double = prove(obligations, workers=2)
    assert [(r.status, r.counterexample) for r in double] == [(r.status, r.counterexample) for r in single]


def test_time_out_is_unknown_and_says_so():
    lo, hi = bounds.tanh_diff_plane_residual(-9.0, 9.0, -9.0, 9.0, 0.001, 0.01)
    hard = Obligation("tanh_diff", ((-9.0, 9.0), (-9.0, 9.0)), (0.001, 0.01), float(lo), float(hi))
    result = prove([hard], "icp", timeout_s=1e-9)[0]
    assert (result.status, result.detail, result.counterexample) == ("unknown", "out of time", None)


@pytest.mark.parametrize("arguments", [{"prover": "z3"}, {"timeout_s": 0.0}, {"workers": 0}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(InputError):
        prove([], **arguments)


def test_precision_setting_is_left_alone():
    import flint

    flint.ctx.prec = 53
    prove([Obligation("tanh", ((0.0, 1.0),), (0.5,), -1.0, 1.0)], "icp")
    prove([Obligation("tanh", ((0.0, 1.0),), (0.5,), -1.0, 1.0)], "closed-form")
    assert flint.ctx.prec == 53
