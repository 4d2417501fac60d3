"""Polygons around coefficient sets: they hold every sampled point, are tight, and the provers agree on their sides."""

from types import SimpleNamespace

import numpy as np
import pytest

from codesign.proof import Obligation, from_planes, prove
from codesign.proof.slopes import forget_polygon, forget_support, gate_polygon, gate_support


def boxes(rng, count, low, high):
    a, b = np.sort(rng.uniform(low, high, (2, count)), axis=0)
    a[: count // 8] = low
    b[: count // 16] = high
    b[-count // 8 :] = a[-count // 8 :]
    return SimpleNamespace(lo=a, hi=b)


def samples(box, rng, count):
    u = np.concatenate([np.linspace(0, 1, count), rng.random(count)])[:, None]
    return box.lo + (box.hi - box.lo) * u


def cases(kind, rng, count=64):
    s, t = boxes(rng, count, 0.0, 1.0), boxes(rng, count, -1.0, 1.0)
    if kind == "forget":
        t = boxes(rng, count, -7.0, 7.0)
    return s, t


def points(kind, s, t):
    return (s * (1 - s) * t, s * (1 - t * t)) if kind == "gate" else (s, s * (1 - s) * t)


@pytest.mark.parametrize("kind", ["gate", "forget"])
def test_supports_are_above_all_samples_and_attained(kind):
    rng = np.random.default_rng(0)
    s, t = cases(kind, rng)
    support = gate_support if kind == "gate" else forget_support
    S, T = (samples(b, rng, 60) for b in (s, t))
    x, y = points(kind, S[:, None], T[None])
    for angle in np.append(rng.uniform(0, 2 * np.pi, 40), np.arange(5) * np.pi / 2):
        p, q = np.full(64, np.cos(angle)), np.full(64, np.sin(angle))
        found = support(p, q, s, t)
        seen = (p * x + q * y).max((0, 1))
        assert (found >= seen - 1e-12).all()
        assert (found <= seen + 2e-2).all()
        assert np.median(found - seen) < 1e-3


@pytest.mark.parametrize("kind", ["gate", "forget"])
def test_convex_functions_of_the_coefficients_are_largest_at_corners(kind):
    """What the comparison system does with a polygon; its forget part only grows with f."""
    rng = np.random.default_rng(1)
    s, t = cases(kind, rng)
    S, T = (samples(b, rng, 60) for b in (s, t))
    x, y = points(kind, S[:, None], T[None])
    polygon = gate_polygon(s, t) if kind == "gate" else forget_polygon(s, t)
    v = polygon.vertices
    for _ in range(30):
        a, b, c = rng.normal(size=(3, 4))
        a = a if kind == "gate" else np.abs(a)

        def bound(x, y, a=a, b=b, c=c):
            grows = x if kind == "gate" else np.maximum(x, 0.0)
            return sum(np.abs(k * y + m * x * (kind == "gate")) for k, m in zip(b, c, strict=True)) + a[0] * grows

        assert (bound(x, y).max((0, 1)) <= bound(v[..., 0], v[..., 1]).max(0)).all()


def obligations(polygon, pick):
    lower, upper = polygon.fact()
    lo, hi = (np.stack([np.ravel(a) for a in ends], axis=1)[pick] for ends in (lower, upper))
    return from_planes(
        polygon.kind, lo, hi, np.zeros_like(lo), polygon.lower.ravel()[pick], polygon.support.ravel()[pick],
        [""] * len(pick),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["gate", "forget"])
@pytest.mark.parametrize("prover", ["closed-form", "icp"])
def test_sides_are_proved_and_sides_moved_in_are_refuted(kind, prover):
    rng = np.random.default_rng(2)
    s, t = cases(kind, rng)
    polygon = gate_polygon(s, t) if kind == "gate" else forget_polygon(s, t)
    pick = rng.permutation(polygon.support.size)[:60]
    true = obligations(polygon, pick)
    results = prove(true, prover)
    assert {r.status for r in results} == {"proved"}, [r.detail for r in results if r.status != "proved"]
    assert {r.prover for r in results} == {prover}
    false = [
        Obligation(o.kind, o.box, o.slopes, o.lo, o.hi - 4e-6 * (abs(o.box[2][0]) + abs(o.box[3][0])), o.tag)
        for o in true
    ]
    moved = prove(false, prover)
    assert {r.status for r in moved} == {"refuted"}


def test_both_provers_agree_on_wide_directions_and_slopes():
    """p and q over ranges, too: the functions are linear in them; slopes leave it to branch and bound."""
    rng = np.random.default_rng(3)
    for kind in ("gate_slopes", "forget_slopes"):
        for _ in range(20):
            box = [tuple(np.sort(rng.uniform(a, 1, 2))) for a in (0, -1, -1, -1)]
            axes = np.meshgrid(*[np.linspace(lo, hi, 9) for lo, hi in box], indexing="ij")
            s, t, p, q = axes
            value = p * s * (1 - s) * t + q * s * (1 - t * t) if kind == "gate_slopes" else p * s + q * s * (1 - s) * t
            for room, status in ((0.05, "proved"), (-1e-3, "refuted")):
                one = Obligation(kind, tuple(box), (0.0,) * 4, -5.0, float(value.max()) + room)
                assert [prove([one], name)[0].status for name in ("closed-form", "icp")] == [status] * 2
    box = ((0.1, 0.4), (0.0, 0.5), (1.0, 1.0), (0.5, 0.5))
    sloped = Obligation("gate_slopes", box, (0.2, 0.0, 0.0, 0.0), -1.0, 1.0)
    found = [prove([sloped], name)[0].status for name in ("closed-form", "icp", "auto")]
    assert found == ["unknown", "proved", "proved"]
