"""A seeded corpus of true and false obligations on which all provers have to agree."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from codesign.proof import bounds, curved_bounds
from codesign.proof.closed_form import SLOPES, extremes
from codesign.proof.curved_form import CURVED
from codesign.proof.exponentials import exp_range, log_range
from codesign.proof.functions import residual_value, violates, working_precision
from codesign.proof.obligation import VARIABLES, Kind, Obligation
from codesign.proof.slopes import forget_polygon, gate_polygon

_SHARES: dict[Kind, float] = {
    "sigmoid_diff": 0.17, "tanh_diff": 0.12, "sigmoid": 0.08, "tanh": 0.08, "square_difference": 0.07, "product": 0.06,
    "exp": 0.08, "sigmoid_square": 0.06, "tanh_square": 0.06, "sigmoid_patch": 0.06, "tanh_patch": 0.06,
    "gate_slopes": 0.05, "forget_slopes": 0.05,
}  # fmt: skip


def make_corpus(count: int, rng: np.random.Generator) -> list[tuple[Obligation, bool]]:
    """`count` pairs (obligation, whether it is true), half of them false, of every kind there is.

    Boxes range from degenerate to wide; slopes are least-squares fits, derivative values (so that critical points lie
    inside), zero, or random. True ones are the tight residuals of `bounds` and `curved_bounds`, sides of the polygons
    of `slopes`, facts of `exponentials`, or else the outward-rounded closed form, some widened. Parabolas, patches and
    coefficients of a step have their last variables fixed, as certificates have them, or over a range. A false one has
    lo or hi moved inward past the extreme, or past a value near it, by 1e-6 of the width or by 1e-9; it is false by a
    witness that is checked in rigorous arithmetic from the function's definition alone.
    """
    kinds, shares = list(_SHARES), list(_SHARES.values())
    result: list[tuple[Obligation, bool]] = []
    while len(result) < count:
        kind = kinds[int(rng.choice(len(kinds), p=shares))]
        obligation = _true_obligation(kind, f"corpus {len(result)}", rng)
        if len(result) % 2 == 0:
            result.append((obligation, True))
            continue
        falsified = _falsified(obligation, rng)
        if falsified is not None:
            result.append((falsified, False))
    return result


def _true_obligation(kind: Kind, tag: str, rng: np.random.Generator) -> Obligation:
    if kind in CURVED:
        return _curved(kind, tag, rng)
    if kind in SLOPES:
        return _polygon_side(kind, tag, rng)
    if kind == "exp" and rng.uniform() < 0.5:
        return _exponential(tag, rng)
    box = tuple(_side(0.5 if name == "d" else 2.0, rng) for name in VARIABLES[kind])
    slopes = _slopes(kind, box, rng)
    ends = [end for side in box for end in side]
    if kind == "sigmoid_diff":
        lo, hi = bounds.sigmoid_diff_plane_residual(*ends, *slopes)
    elif kind == "tanh_diff":
        lo, hi = bounds.tanh_diff_plane_residual(*ends, *slopes)
    elif kind == "sigmoid":
        lo, hi = bounds.sigmoid_plane_residual(*ends, *slopes)
    elif kind == "tanh":
        lo, hi = bounds.tanh_plane_residual(*ends, *slopes)
    else:
        with working_precision():
            low, high = extremes(Obligation(kind, box, slopes, 0.0, 0.0))
            lo = np.nextafter(float(low.bound), -np.inf)
            hi = np.nextafter(float(high.bound), np.inf)
    slack = float(rng.choice([0.0, 1e-12, 1e-6, 1e-2])) * float(hi - lo)
    return Obligation(kind, box, slopes, float(lo) - slack, float(hi) + slack, tag)


def _exponential(tag: str, rng: np.random.Generator) -> Obligation:
    """A term of a softmax, or one side of a logarithm."""
    facts: list[tuple[bounds.Array, ...]] = []
    at = np.array([-(10.0 ** rng.uniform(-3, 2.8)), rng.uniform(1.0, 40.0)])
    exp_range(at[:1], at[:1] * (1 - 2.0**-50), lambda _, *ends: facts.append(ends))
    log_range(at[1:], at[1:], lambda _, *ends: facts.append(ends))
    lower, upper, lo, hi = (float(end[0]) for end in facts[int(rng.integers(len(facts)))])
    return Obligation("exp", ((lower, upper),), (0.0,), lo, hi, tag)


def _curved(kind: Kind, tag: str, rng: np.random.Generator) -> Obligation:
    """A parabola or a patch under its function; the residual is linear in the coefficient, so its ends decide."""
    box = [_side(0.5 if name == "d" else 2.0, rng) for name in VARIABLES[kind][:-1]]
    axes = [np.linspace(*side, 5) for side in box]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*axes)], axis=1)
    design = np.column_stack([np.ones(len(grid)), grid, grid[:, 0] * grid[:, -1]])  # z^2, or z d
    function = "sigmoid" if kind.startswith("sigmoid") else "tanh"
    sampled = _sampled(function if len(box) == 1 else f"{function}_diff", grid)
    slopes = [float(s) for s in np.linalg.lstsq(design, sampled, rcond=None)[0][1:]]
    if rng.uniform() < 0.25:
        slopes = [float(s) for s in rng.normal(size=len(slopes)) * 0.2]
    spread, extra = 0.0, 0.0
    if rng.uniform() < 0.3:
        spread, extra = abs(float(rng.normal())) * 0.1, float(rng.normal()) * rng.integers(2)
    last = (slopes[-1] - spread, slopes[-1] + spread)
    residual = getattr(curved_bounds, f"{kind}_residual")
    ends = [residual(*(e for side in box for e in side), *slopes[:-1], c) for c in last]
    room = 1e-15 * (1 + abs(extra)) * spread
    lo = min(float(low) - extra * c for (low, _), c in zip(ends, last, strict=True)) - room
    hi = max(float(high) - extra * c for (_, high), c in zip(ends, last, strict=True)) + room
    if rng.uniform() < 0.6:  # as the searcher widens it
        lo, hi = lo - 1e-4 * (hi - lo) - 1e-11, hi + 1e-4 * (hi - lo) + 1e-11
    return Obligation(kind, (*box, last), (*slopes[:-1], extra), lo, hi, tag)


def _polygon_side(kind: Kind, tag: str, rng: np.random.Generator) -> Obligation:
    """A side of a polygon around the coefficients of a step, or one with a direction over a range."""
    s, t = np.sort(rng.uniform(0, 1, 2)), np.sort(rng.uniform(-1, 1, 2)) * (1 if kind == "gate_slopes" else 5)
    choice = rng.uniform()
    if choice < 0.15:
        s[:] = s[0]
    elif choice < 0.3:
        t[:] = t[0]
    elif choice < 0.4:
        s, t = np.array([0.0, 1.0]), t * 0 + [-abs(t[0]), abs(t[0])]
    if choice < 0.75:
        sides = (SimpleNamespace(lo=v[:1], hi=v[1:]) for v in (s, t))
        polygon = (gate_polygon if kind == "gate_slopes" else forget_polygon)(*sides)
        k = int(rng.integers(len(polygon.support)))
        lower, upper = ([float(v[k, 0]) for v in ends] for ends in polygon.fact())
        box = tuple(zip(lower, upper, strict=True))
        return Obligation(kind, box, (0.0,) * 4, float(polygon.lower[k, 0]), float(polygon.support[k, 0]), tag)
    p, q = np.sort(rng.normal(size=(2, 2)), axis=1)
    box = tuple((float(v[0]), float(v[1])) for v in (s, t, p, q))
    with working_precision():
        low, high = (float(end.bound) for end in extremes(Obligation(kind, box, (0.0,) * 4, 0.0, 0.0)))
    room = 1e-5 * (high - low) + 1e-12
    return Obligation(kind, box, (0.0,) * 4, low - room, high + room, tag)


def _side(scale: float, rng: np.random.Generator) -> tuple[float, float]:
    centre = float(rng.normal()) * scale
    radius = math.exp(rng.uniform(math.log(1e-4), math.log(3.0 * scale)))
    choice = rng.uniform()
    if choice < 0.05:
        return centre, centre
    if choice < 0.10:
        return -radius, radius
    return centre - radius, centre + radius


def _slopes(kind: Kind, box: tuple[tuple[float, float], ...], rng: np.random.Generator) -> tuple[float, ...]:
    choice = rng.uniform()
    if choice < 0.15:
        return tuple(float(s) for s in rng.normal(size=len(box)) * 0.2)
    if choice < 0.25:
        return (0.0,) * len(box)
    if choice < 0.45 and kind.endswith("_diff"):
        # Derivatives at a point of the box: a critical point inside.
        z, d = (float(rng.uniform(lower, upper)) for lower, upper in box)
        steep = 2.0 if kind == "tanh_diff" else 1.0  # tanh'(t) = 4 sigmoid'(2t)
        at_z, at_u = (_sigmoid_slope(steep * t) * steep**2 for t in (z, z + d))
        return at_u - at_z, at_u
    axes = [np.linspace(lower, upper, 5) for lower, upper in box]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*axes)], axis=1)
    design = np.concatenate([np.ones((len(grid), 1)), grid], axis=1)
    fit = np.linalg.lstsq(design, _sampled(kind, grid), rcond=None)[0]
    return tuple(float(s) for s in fit[1:])


def _sigmoid_slope(t: float) -> float:
    e = math.exp(-abs(t))
    return e / (1 + e) ** 2


def _sampled(kind: str, grid: bounds.Array) -> bounds.Array:
    def sigmoid(t: bounds.Array) -> bounds.Array:
        result: bounds.Array = 0.5 + 0.5 * np.tanh(0.5 * t)
        return result

    first, last = grid[:, 0], grid[:, -1]
    values: dict[str, bounds.Array] = {
        "sigmoid": sigmoid(first),
        "tanh": np.tanh(first),
        "exp": np.exp(first),
        "sigmoid_diff": sigmoid(first + last) - sigmoid(first),
        "tanh_diff": np.tanh(first + last) - np.tanh(first),
        "product": first * last,
        "square_difference": (first**2 - last**2) / 4,
    }
    return values[kind]


def _falsified(obligation: Obligation, rng: np.random.Generator) -> Obligation | None:
    """lo or hi moved inward; None where the range is too narrow for that to be false beyond rounding."""
    with working_precision():
        if obligation.kind in CURVED:
            points = tuple(_climb(obligation, sign) for sign in (-1.0, 1.0))
            infimum, supremum = (float(residual_value(obligation, point)) for point in points)
        else:
            low, high = extremes(obligation)
            points, infimum, supremum = (low.point, high.point), float(low.bound), float(high.bound)
    width = supremum - infimum
    shift = 1e-9 if rng.uniform() < 0.5 else 1e-6 * width
    if shift < 1e-13 * max(1.0, abs(infimum), abs(supremum)) or shift > width:
        return None
    if rng.uniform() < 0.5:
        moved, witness = replace(obligation, hi=supremum - shift), points[1]
    else:
        moved, witness = replace(obligation, lo=infimum + shift), points[0]
    return moved if violates(moved, witness) else None


def _climb(obligation: Obligation, sign: float) -> tuple[float, ...]:
    """A point of the box near the largest sign (F - slopes . v) of a parabola or patch: finer and finer grids."""
    lower, upper = (np.array(ends) for ends in zip(*obligation.box, strict=True))
    least, most = lower.copy(), upper.copy()
    function = obligation.kind.replace("_square", "").replace("_patch", "_diff")
    for _ in range(12):
        axes = [np.linspace(a, b, 9) if a < b else np.array([a]) for a, b in zip(least, most, strict=True)]
        grid = np.stack([axis.ravel() for axis in np.meshgrid(*axes)], axis=1)
        value = _sampled(function, grid[:, :-1]) - grid[:, -1] * grid[:, 0] * grid[:, -2]
        best = grid[int(np.argmax(sign * (value - grid @ np.array(obligation.slopes))))]
        reach = 0.2 * (most - least)
        least, most = np.maximum(best - reach, lower), np.minimum(best + reach, upper)
    return tuple(float(x) for x in best)
