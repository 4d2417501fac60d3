"""Enclosures of exponentials, logarithms and log-odds hold against Arb, and every fact is decided by the provers."""

from __future__ import annotations

import dataclasses

import flint
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codesign.errors import InputError
from codesign.proof import Obligation, availability, prove
from codesign.proof.bounds import ASSUMED_ULP
from codesign.proof.exponentials import (
    LARGEST_MARGIN,
    ROOM,
    SINGLE,
    complement_range,
    confident_margins,
    exp_range,
    log_odds,
    log_range,
)

arb = flint.arb


@pytest.fixture(autouse=True)
def _precision():
    old = flint.ctx.prec
    flint.ctx.prec = 320
    yield
    flint.ctx.prec = old


class Notes(list):
    """Takes facts, gives obligations."""

    def __call__(self, kind, lower, upper, lo, hi):
        assert lower.shape == upper.shape == lo.shape == hi.shape
        self += [
            Obligation(kind, ((float(a), float(b)),), (0.0,), float(c), float(d))
            for a, b, c, d in zip(lower.ravel(), upper.ravel(), lo.ravel(), hi.ravel(), strict=True)
        ]


def holds(notes, provers=("closed-form", "icp")):
    for prover in provers:
        results = prove(notes, prover)
        assert {r.status for r in results} == {"proved"}, [
            (o, r) for o, r in zip(notes, results, strict=True) if r.status != "proved"
        ]


@pytest.mark.parametrize(("function", "exact"), [(np.exp, lambda x: x.exp()), (np.log, lambda x: x.log())])
def test_numpy_is_at_least_twice_as_accurate_as_assumed(function, exact):
    """On both sides of 0, and of 1; tests/proof/test_bounds.py has arguments below 0."""
    rng = np.random.default_rng(4)
    points = np.concatenate([rng.uniform(-700, 700, 4000), rng.normal(size=4000), 2.0 ** rng.uniform(-900, 9, 2000)])
    if function is np.log:
        points = np.concatenate([np.exp(points[np.abs(points) < 690]), 1 + rng.normal(size=500) * 1e-9])
    worst = 0.0
    for x, y in zip(points.tolist(), function(points).tolist(), strict=True):
        worst = max(worst, abs(float(exact(arb(x)) - arb(y))) / float(np.spacing(abs(y))))
    assert worst <= ASSUMED_ULP / 2, worst


argument = st.one_of(
    st.floats(-700, 700), st.floats(-3, 3), st.floats(-2000, 0), st.sampled_from([0.0, -0.0, -700.0, 700.0, 5e-324])
)


@settings(max_examples=300, deadline=None)
@given(argument, st.one_of(st.just(0.0), st.floats(0, 1e-9), st.floats(0, 700)), st.floats(0, 1))
@example(-700.0, 0.0, 0.0)
@example(-np.inf, np.inf, 0.0)
def test_exponentials_hold(lo, width, share):
    hi = min(lo + width, 700.0) if np.isfinite(lo) else -1e300
    lower, upper = exp_range(lo, hi)
    points = [lo, hi, min(max(lo + share * (hi - lo), lo), hi)] if np.isfinite(lo) else [hi, -1e6]
    for x in points:
        value = arb(x).exp() if x > -1e8 else arb(0)
        assert arb(float(lower)) <= value
        assert value <= arb(float(upper))
    if lo >= -700:
        assert upper <= float(np.exp(hi)) * (1 + 2 * ROOM)
        assert lower >= float(np.exp(lo)) * (1 - 2 * ROOM)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.floats(1e-300, 1e300), st.floats(0.5, 30)), st.one_of(st.floats(1e-300, 1e300), st.floats(0.5, 30)))
@example(1.0, 1.0)
@example(1e-300, 1e300)
def test_logarithms_hold(lo, hi):
    low, high = log_range(lo, hi)
    assert arb(float(low)).exp() < arb(lo)
    assert arb(float(high)).exp() > arb(hi)
    assert np.log(hi) + 1e-11 * (1 + abs(np.log(hi))) >= high
    assert np.log(lo) - 1e-11 * (1 + abs(np.log(lo))) <= low


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.floats(0, 1), st.floats(0, 2000), st.sampled_from([0.0, 5e-324, 1e-9, 700.0])), st.floats(0, 800))
def test_complements_hold(lo, width):
    hi = lo + width
    lower, upper = complement_range(lo, hi)
    flint.ctx.prec = 3000
    assert 0 <= lower <= upper <= 1
    for x in (lo, hi):
        value = 1 - (-arb(x)).exp() if x < 2000 else arb(1)
        assert arb(float(lower)) <= value
        assert value <= arb(float(upper))
    assert lower >= -np.expm1(-lo) - 2e-14 * (1 + min(width, 700))
    assert upper <= -np.expm1(-hi) + 2e-14 * (1 + min(width, 700))


def exact_log_odds(margins):
    """(M,) of the logits whose differences l_i - l_j are these (M, M)."""
    return [
        -sum(((-arb(float(m))).exp() for j, m in enumerate(row) if j != i), arb(0)).log()
        for i, row in enumerate(margins)
    ]


def ranges(rng, classes, batch=12):
    """Ranges of differences of logits, some of them points, some wide, some far."""
    logits = rng.normal(size=(batch, classes)) * np.exp(rng.uniform(-2, 5, (batch, 1)))
    logits[0] = 0.0
    logits[1, 0] += 2e4
    gap = logits[:, :, None] - logits[:, None, :]
    radius = np.exp(rng.uniform(-20, 1, (batch, classes, classes)))
    radius[::3] = 0.0
    radius += np.swapaxes(radius, 1, 2)
    return logits, gap - radius, gap + radius


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_log_odds_hold_are_tight_and_their_facts_are_proved(classes):
    rng = np.random.default_rng(classes)
    logits, lo, hi = ranges(rng, classes)
    notes = Notes()
    lower, upper = log_odds(lo, hi, notes)
    assert lower.shape == upper.shape == logits.shape
    for b in range(len(logits)):
        for i, value in enumerate(exact_log_odds(lo[b])):
            assert arb(float(lower[b, i])) < value
            assert float(value) - 4e-12 - 1e-15 * abs(float(value)) <= lower[b, i]
        for i, value in enumerate(exact_log_odds(hi[b])):
            assert arb(float(upper[b, i])) > value
            assert float(value) + 4e-12 + 1e-15 * abs(float(value)) >= upper[b, i]
    assert len(notes) == lo.shape[0] * (2 * classes * (classes - 1) + 2 * classes)
    assert {n.kind for n in notes} == {"exp"}
    holds(notes)


def test_log_odds_of_all_logits_of_a_range():
    """What it is for: sampled logits whose differences lie in the ranges."""
    rng = np.random.default_rng(9)
    center, spread = rng.normal(size=(6, 5)) * 3, 0.7
    gap = center[:, :, None] - center[:, None, :]
    lower, upper = log_odds(gap - 2 * spread, gap + 2 * spread)
    for _ in range(200):
        logits = center + rng.uniform(-spread, spread, center.shape)
        share = np.exp(logits - logits.max(1, keepdims=True))
        p = share / share.sum(1, keepdims=True)
        rest = np.array([share[:, np.arange(5) != i].sum(1) for i in range(5)]).T / share.sum(1, keepdims=True)
        odds = np.log(p / rest)
        assert ((lower <= odds) & (odds <= upper)).all()


def test_ranges_that_are_empty_count_as_their_hull():
    lo, hi = np.full((1, 2, 2), 1.0), np.full((1, 2, 2), 0.5)
    assert np.array_equal(log_odds(lo, hi), log_odds(hi, lo))


def test_a_single_class_is_certain():
    lower, upper = log_odds(np.zeros((3, 1, 1)), np.zeros((3, 1, 1)))
    assert (lower == SINGLE).all()
    assert (upper == SINGLE).all()


def test_confident_margins_hold_and_are_attained():
    rng = np.random.default_rng(6)
    for _ in range(40):
        classes = int(rng.integers(2, 6))
        logits = rng.normal(size=(400, classes)) * rng.uniform(0.2, 4)
        gap = logits[:, :, None] - logits[:, None, :]
        share = np.exp(logits)
        p = share / share.sum(1, keepdims=True)
        i, probability = int(rng.integers(classes)), float(rng.uniform(0.2, 0.95))
        hi = gap.max(0)[None, i] + 1e-9
        notes = Notes()
        bound, impossible = confident_margins(hi, i, probability, notes)
        assert len(notes) == 3 * classes
        holds(notes, ("closed-form",))
        sure = (p[:, i] > probability) & (p.argmax(1) == i)
        assert not (impossible[0] and sure.any())
        assert bound[0, i] == 0.0
        others = np.arange(classes) != i
        assert (gap[sure][:, i][:, others] >= bound[0, others]).all()
        if classes == 2 and probability > 0.5:
            assert bound[0, 1 - i] == pytest.approx(np.log(probability / (1 - probability)), rel=1e-9)
    bound, impossible = confident_margins(np.array([[0.0, 3.0, 4.0]]), 0, 0.0)
    assert not bound.any()
    assert not impossible.any()
    assert confident_margins(np.array([[0.0, -900.0, -800.0]]), 0, 0.5)[1].all()
    assert not confident_margins(np.array([[0.0, 900.0, 800.0]]), 0, 0.5)[1].any()


def facts():
    """Facts as a softmax makes them, and at the limits."""
    notes = Notes()
    rng = np.random.default_rng(2)
    exp_range([-1e9, -701.0, -700.0, -1e-300, 0.0, 699.0], [-1e8, -699.0, -700.0, 0.0, 0.0, 700.0], notes)
    exp_range(*np.sort(rng.normal(size=(2, 40)) * 5, axis=0), notes)
    log_range([1e-300, 1.0, 2.5, 1e300], [1e-300, 1.0, 2.5, 1e300], notes)
    complement_range([0.0, 0.0, 1e-9, 0.3, 50.0, 800.0], [0.0, 1e-200, 1e-9, 0.4, 50.1, 1e6], notes)
    log_odds(*ranges(rng, 3, 4)[1:], notes)
    return notes


@pytest.mark.parametrize("prover", [a.prover for a in availability() if a.prover != "interval"])
def test_every_fact_is_proved_and_no_wrong_one(prover):
    state = next(a for a in availability() if a.prover == prover)
    if not state.available:
        pytest.skip(f"{prover}: {state.reason}")
    notes = facts()
    if prover == "dreal":
        notes = notes[:40]
    results = prove(notes, prover)
    assert {(r.status, r.prover) for r in results} == {("proved", prover)}
    wrong = []
    for fact in notes:
        lost = (1e-13, 1e-13) if fact.kind == "tanh" else (1e-11 * fact.lo, 1e-11 * fact.hi)
        if fact.hi != 2 * fact.lo:  # which is the side of a logarithm that nothing needs to be near to
            wrong.append(dataclasses.replace(fact, hi=fact.hi - lost[1]))
        if fact.lo > 0:
            wrong.append(dataclasses.replace(fact, lo=fact.lo + lost[0]))
    assert len(wrong) > len(notes)
    found = {r.status for r in prove(wrong, prover)}
    assert "proved" not in found
    if prover != "dreal":
        assert found == {"refuted"}


@pytest.mark.parametrize(
    ("function", "factor"), [("exp", 1 - 1e-11), ("exp", 1 + 1e-11), ("log", 1 - 1e-11), ("log", 1 + 1e-11)]
)
def test_a_wrong_exponential_or_logarithm_is_refuted(monkeypatch, function, factor):
    """numpy's, planted to be off: what is trusted without a solver, and caught with one."""
    right = getattr(np, function)
    monkeypatch.setattr(f"codesign.proof.exponentials.np.{function}", lambda x: right(x) * factor)
    notes = Notes()
    exp_range(-2.0, -1.0, notes) if function == "exp" else log_range(2.5, 2.5, notes)
    monkeypatch.undo()
    for prover in ("closed-form", "icp"):
        assert "refuted" in {r.status for r in prove(notes, prover)}


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (exp_range, (0.0, 700.1)),
        (exp_range, (1.0, 0.0)),
        (exp_range, (np.nan, 1.0)),
        (log_range, (0.0, 1.0)),
        (log_range, (1.0, np.inf)),
        (log_range, (np.nan, 1.0)),
        (complement_range, (-1e-9, 1.0)),
        (complement_range, (2.0, 1.0)),
        (complement_range, (np.nan, 1.0)),
        (log_odds, (np.full((1, 2, 2), -2 * LARGEST_MARGIN), np.zeros((1, 2, 2)))),
        (log_odds, (np.full((1, 2, 2), np.nan), np.zeros((1, 2, 2)))),
    ],
)
def test_what_cannot_be_enclosed_is_refused(function, arguments):
    with pytest.raises(InputError):
        function(*arguments)
