"""The batch prover: proves what certificates rest on, never a false obligation, and planted errors show."""

import dataclasses
import inspect
import math
import sys
import types
from collections import Counter

import flint
import numpy as np
import pytest

from codesign.proof import Obligation, Planes, batch, corpus, intervals, prove, prove_planes
from codesign.proof.closed_form import SLOPES, extremes, has_closed_form
from codesign.proof.functions import residual_value, violates, working_precision
from codesign.proof.obligation import VARIABLES

ROOM = 1e-11  # that ranges and residuals of certificates have at least, beside a ten-thousandth


def decided(obligations, proved=batch.proved):
    """What the batch prover says of each."""
    result = np.zeros(len(obligations), bool)
    for kind in {o.kind for o in obligations}:
        index = [k for k, o in enumerate(obligations) if o.kind == kind]
        some = [obligations[k] for k in index]
        box = np.array([o.box for o in some])
        slopes = np.array([o.slopes for o in some]).T
        ends = (np.array([getattr(o, end) for o in some]) for end in ("lo", "hi"))
        result[index] = proved(kind, list(box[:, :, 0].T), list(box[:, :, 1].T), list(slopes), *ends)
    return result


@pytest.fixture(scope="module")
def statements():
    return corpus.make_corpus(1300, np.random.default_rng(23))


def barely_false(obligation):
    """With one end of [lo, hi] moved to the next number inside of a value that is attained, both ends in turn."""
    with working_precision():
        if has_closed_form(obligation):
            points = [extreme.point for extreme in extremes(obligation)]
        else:
            points = [corpus._climb(obligation, sign) for sign in (-1.0, 1.0)]
        low, high = (residual_value(obligation, point) for point in points)
        lo, hi = float(low.upper()), float(high.lower())
        while not flint.arb(lo) > low:
            lo = math.nextafter(lo, math.inf)
        while not flint.arb(hi) < high:
            hi = math.nextafter(hi, -math.inf)
    far = 1.0 + abs(lo) + abs(hi)
    for moved, point in (
        (dataclasses.replace(obligation, lo=lo, hi=lo + far), points[0]),
        (dataclasses.replace(obligation, lo=hi - far, hi=hi), points[1]),
    ):
        assert violates(moved, point)
        yield moved


@pytest.fixture(scope="module")
def false(statements):
    """False ones of every kind, most of them by less than 1e-15; coefficients of a step under slopes among them."""
    true = [o for o, truth in statements if truth]
    result = [o for o, truth in statements if not truth] + [moved for o in true for moved in barely_false(o)]
    for o in true:
        if o.kind in SLOPES:
            for k in range(4):
                moved = dataclasses.replace(o, slopes=tuple(1e3 * (j == k) for j in range(4)))
                if violates(moved, [side[1] for side in o.box]):
                    result.append(moved)
    return result


def test_no_false_obligation_is_proved(false):
    assert set(Counter(o.kind for o in false)) == set(VARIABLES)
    assert len(false) > 1500
    assert not decided(false).any()


def test_every_true_obligation_with_the_room_of_certificates_is_proved(statements):
    true = [o for o, truth in statements if truth]
    roomy = []
    for o in true:
        room = 1e-4 * (o.hi - o.lo) + ROOM * max(1.0, abs(o.lo), abs(o.hi))
        roomy.append(dataclasses.replace(o, lo=o.lo - room, hi=o.hi + room))
    # coefficients of a step under slopes, which no certificate has, are left to branch and bound
    good = decided(roomy)
    assert all(found or not has_closed_form(o) for o, found in zip(roomy, good, strict=True) if "_slopes" in o.kind)
    assert good.mean() > 0.995
    # and most of those that touch their bound
    assert decided(true).mean() > 0.8


def test_what_is_no_obligation_is_never_proved():
    one, zero = np.ones(1), np.zeros(1)
    for bad in (np.nan, np.inf, -np.inf, 2e9):
        arrays = [-one, one, zero, -10 * one, 10 * one]
        assert batch.proved("sigmoid", *([a] for a in arrays[:3]), *arrays[3:]).all()
        for k in range(5):
            given = [np.full(1, bad) if j == k else a for j, a in enumerate(arrays)]
            assert not batch.proved("sigmoid", *([a] for a in given[:3]), *given[3:]).any(), (bad, k)
    assert not batch.proved("sigmoid", [one], [-one], [zero], -10 * one, 10 * one).any()
    assert not batch.proved("exp", [zero], [701 * one], [zero], -one, np.full(1, 1e305)).any()
    with pytest.raises(ValueError, match="has 2 variables"):
        batch.proved("product", [one], [one], [zero], zero, one)


def test_extreme_boxes_end_in_an_answer():
    rng = np.random.default_rng(6)
    for kind, names in VARIABLES.items():
        count = 400
        ends = [np.sort(rng.normal(size=(2, count)) * 10.0 ** rng.uniform(-12, 8.5, count), axis=0) for _ in names]
        ends = [np.clip(e, -1e9, 1e9) if kind != "exp" else np.clip(e, -700, 700) for e in ends]
        slopes = [rng.normal(size=count) * 10.0 ** rng.uniform(-12, 8, count) for _ in names]
        wide = np.full(count, 1e9)
        found = batch.proved(kind, [e[0] for e in ends], [e[1] for e in ends], slopes, -wide, wide)
        assert found.dtype == bool
        tight = batch.proved(kind, [e[0] for e in ends], [e[1] for e in ends], slopes, wide, -wide)
        assert not tight.any()


def mutated(monkeypatch, module, *changes):
    """`batch.proved` with every second of `changes` for the one before, which stands once in the source of a module."""
    for name in (intervals, batch):
        source = inspect.getsource(name)
        for old, new in zip(changes[::2], changes[1::2], strict=True) if name is module else ():
            assert source.count(old) == 1, f"{old!r} has changed: plant another error"
            source = source.replace(old, new)
        made = types.ModuleType(name.__name__)
        monkeypatch.setitem(sys.modules, name.__name__, made)
        exec(compile(source, name.__file__, "exec"), vars(made))
    return made.proved


BADLY_CHOSEN = "return np.asarray(np.where(b > 0, np.maximum(t, 0.0), LARGEST))", "return 0.1 * t"
"""Touching points that are none."""

PLANTED = {
    "sums are not rounded up": (
        intervals,
        "    return np.asarray(x + (np.abs(x) * _RELATIVE + _ABSOLUTE))",
        "    return x",
    ),
    "sums are not rounded down": (
        intervals,
        "    return np.asarray(x - (np.abs(x) * _RELATIVE + _ABSOLUTE))",
        "    return x",
    ),
    "the exponential counts as exact": (intervals, "_EXP_ROOM = 2.0**-49", "_EXP_ROOM = 0.0"),
    "ln 2 in one piece": (intervals, '_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")', "_LN2_LOW = 0.0"),
    "a product by two corners": (intervals, "for y in (right.lo, right.hi)]", "for y in (right.lo,)]"),
    "a difference of intervals end by end": (
        intervals,
        "Interval(_down(self.lo - right.hi)",
        "Interval(_down(self.lo - right.lo)",
    ),
    "the slope at the wrong end": (intervals, "sigmoid_slope(nearest).hi)", "sigmoid_slope(farthest).hi)"),
    "the middle of sigmoid'''": (
        intervals,
        "np.maximum(np.maximum(low.hi, high.hi), top))",
        "np.maximum(low.hi, high.hi))",
    ),
    "no upper side": (batch, "above = _line_supremum(z, slope, 1.0) <= hi.lo", "above = hi.lo == hi.lo"),
    "no lower side": (batch, "above & (_line_supremum(reflected, slope, -1.0) <= -lo.hi)", "above"),
    "no tangent on the concave piece": (
        batch,
        *BADLY_CHOSEN,
        "return _most(value(low).hi, (value(touch) + rise).hi)\n\n\ndef _rise",
        "return _most(value(low).hi, value(touch).hi)\n\n\ndef _rise",
    ),
    "the convex piece's end is left out": (
        batch,
        "    return _most(value(low).hi, (value(touch) + rise).hi)\n\n\ndef _rise",
        "    return (value(touch) + rise).hi\n\n\ndef _rise",
    ),
    "the tangent goes one way": (
        batch,
        *BADLY_CHOSEN,
        "np.maximum(_most(forward.hi, back.hi), 0.0)",
        "np.maximum(back.hi, 0.0)",
    ),
    "tanh's limits": (
        batch,
        "lo, hi = ((Interval.of(end.lo) + 1.0) * 0.5 for end in (lo, hi))",
        "lo, hi = (Interval.of(end.lo) * 0.5 + 1.0 for end in (lo, hi))",
    ),
    "exp at one end": (batch, "(ends[0].hi <= hi.lo) & (ends[1].hi <= hi.lo)", "(ends[0].hi <= hi.lo)"),
    "exp without its tangent": (
        batch,
        "np.log(np.maximum(slope, 1e-300))",
        "0.0 * slope",
        "_rise(-(at - slope), low, touch, high)",
        "0.0",
    ),
    "exp's smallest value": (
        batch,
        "np.where(flat, exponential(low).lo, bottom.lo)",
        "np.where(flat, exponential(high).lo, bottom.lo)",
    ),
    "products at one corner": (batch, "        for y in box[1]:", "        for y in box[1][:1]:"),
    "the vertex of a parabola": (
        batch,
        "points = (low, high, np.clip(2.0 * slope, low, high))",
        "points = (low, high)",
    ),
    "squares' slope": (batch, "(slopes[0], -slopes[1])", "(slopes[0], slopes[1])"),
    "a step's directions at one end": (batch, "        for q in box[3]:", "        for q in box[3][:1]:"),
    "a step's slopes are ignored": (
        batch,
        "np.logical_and.reduce([slope == 0 for slope in slopes])",
        "np.ones(lo.lo.shape, bool)",
    ),
    "a step's top inside": (batch, "np.where(bent.hi > 0, top, -np.inf)", "np.full_like(top, -np.inf)"),
    "a step's bend in t": (
        batch,
        "return (Interval(s_low[rows], s_high[rows]) * product(q[rows], np.float64(2.0))).hi",
        "return np.zeros(len(rows))",
    ),
    "no bulge between points": (batch, "bulge = np.where(a < b, bulge, 0.0)", "bulge = np.zeros_like(top)"),
    "a sixteenth for an eighth": (batch, "width * width * 0.125", "width * width * 0.0625"),
    "a parabola's coefficient at one end": (batch, "    for c in box[1]:", "    for c in box[1][:1]:"),
    "a parabola's bend": (
        batch,
        "return -(second_range(a, b) - curve.part(rows) * 2.0).lo",
        "return -second_range(a, b).lo",
    ),
    "a parabola's last slope": (
        batch,
        "        shift = product(slopes[1], c)\n",
        "        shift = product(0 * slopes[1], c)\n",
    ),
    "tanh's parabola": (batch, "0.25 * slope, curve * 0.125", "0.25 * slope, curve * 0.25"),
    "a patch's coefficient at one end": (
        batch,
        "for last in box[2] if patch else (zero,):",
        "for last in box[2][:1] if patch else (zero,):",
    ),
    "a patch's last slope": (batch, "product(slopes[2], last) if patch", "product(0 * slopes[2], last) if patch"),
    "a patch's cross term changes its sign": (batch, "cross.part(index) * sign,", "cross.part(index),"),
    "tanh's slopes": (batch, "(slope / steep**2 for slope", "(slope / steep for slope"),
    "a range at the corners": (batch, "np.where(du >= 0, at[0], _most(at[1], at[2]))", "_most(at[1], at[2])"),
    "a range at the lower d": (batch, "(zl, zu), (_, du) = box", "(zl, zu), (du, _) = box"),
    "a difference's bend": (
        batch,
        "return -(third_range(*ends) * Interval(low, high)).lo",
        "return np.zeros(len(rows))",
    ),
    "a difference's bend by its upper d": (
        batch,
        "(third_range(*ends) * Interval(low, high)).lo",
        "(third_range(*ends) * high).lo",
    ),
    "a difference's first slope": (batch, "line = product(alpha[rows], z)", "line = product(0 * alpha[rows], z)"),
    "a difference's concave piece": (
        batch,
        "return _most(value(low).hi, (value(touch) + rise).hi)\n\n    def bend",
        "return value(low).hi\n\n    def bend",
    ),
    "a difference's convex piece": (
        batch,
        "return _most(value(low).hi, (value(touch) + rise).hi)\n\n    def bend",
        "return (value(touch) + rise).hi\n\n    def bend",
    ),
    "the mirrored side": (batch, "sides = zd if sign > 0 else _mirrored(zd)", "sides = zd"),
}


@pytest.mark.parametrize("error", PLANTED)
def test_a_planted_error_proves_a_false_obligation(false, monkeypatch, error):
    assert decided(false, mutated(monkeypatch, *PLANTED[error])).any()


def test_points_that_are_badly_chosen_prove_nothing_false(false, monkeypatch):
    """They are heuristic: a bad choice makes a bound wide, never wrong."""
    assert not decided(false, mutated(monkeypatch, batch, *BADLY_CHOSEN)).any()
    for old, new in (
        ("np.log(np.maximum(slope, 1e-300))", "0.0 * slope"),
        ("np.nan_to_num(0.5 * linear.lo / bent.lo, nan=0.0)", "0.3 * low"),
        ("middle = 0.5 * (a + b)", "middle = 0.9 * a + 0.1 * b"),
        ("_ROUNDS = 40", "_ROUNDS = 3"),
    ):
        assert not decided(false, mutated(monkeypatch, batch, old, new)).any()


def test_mutation_changes_nothing_else(false, statements, monkeypatch):
    true = [o for o, truth in statements if truth]
    same = mutated(monkeypatch, batch, '"""Above D over a box', '"""Above the difference over a box')
    assert (decided(true, same) == decided(true)).all()


def test_planes_are_proved_in_batches_and_the_rest_one_by_one(statements):
    """The same answers as by objects; what touches its bound goes to the closed form, and false ones stay open."""
    groups = []
    chosen = [o for o, _ in statements[:300]]
    for kind in sorted({o.kind for o in chosen}):
        some = [o for o in chosen if o.kind == kind]
        box, slopes = np.array([o.box for o in some]), np.array([o.slopes for o in some])
        ends = (np.array([getattr(o, end) for o in some]) for end in ("lo", "hi"))
        groups.append(Planes.of(kind, f"the {kind}", box[:, :, 0].T, box[:, :, 1].T, slopes.T, *ends))
    stated = [o for group in groups for o in group.obligations()]
    assert len(stated) == 300
    found, single = prove_planes(groups), prove(stated)
    assert found.proved == sum(r.status == "proved" for r in single)
    assert [name for name, count in found.provers for _ in range(count)] == [r.prover for r in single]
    assert {name for name, _ in found.provers} >= {"interval", "closed-form"}
    open_ = [o for o, r in zip(stated, single, strict=True) if r.status != "proved"]
    assert [o for o, _ in found.open] == open_
    assert all(o.tag.startswith(f"the {o.kind} #") for o in open_)


def test_planes_that_are_no_obligations_are_unknown_and_named():
    one = np.ones(3)
    planes = Planes.of("tanh", "lstm, step 0", [-one], [np.array([1.0, np.inf, 1.0])], [0 * one], -2 * one, 2 * one)
    found = prove_planes([planes])
    assert found.proved == 2
    ((tag, result),) = found.open
    assert (tag, result.status) == ("lstm, step 0 #1", "unknown")
    assert "not finite" in result.detail


def test_only_one_solver_is_used_where_it_is_named(statements):
    true = [o for o, truth in statements if truth and has_closed_form(o)][:20]
    assert {r.prover for r in prove(true, "closed-form")} == {"closed-form"}
    alone = prove([Obligation("product", ((0.0, 1.0), (0.0, 1.0)), (0.0, 0.0), 0.0, 1.0)], "interval")[0]
    assert (alone.status, alone.prover) == ("unknown", "interval")  # it touches both ends
