"""A seeded corpus of true and false obligations on which all provers have to agree."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from codesign.proof import bounds
from codesign.proof.closed_form import extremes
from codesign.proof.functions import violates, working_precision
from codesign.proof.obligation import VARIABLES, Kind, Obligation

_KINDS: tuple[Kind, ...] = ("sigmoid_diff", "tanh_diff", "sigmoid", "tanh", "square_difference", "product", "exp")
_SHARES = (0.30, 0.22, 0.13, 0.13, 0.10, 0.07, 0.05)


def make_corpus(count: int, rng: np.random.Generator) -> list[tuple[Obligation, bool]]:
    """`count` pairs (obligation, whether it is true), half of them false.

    Boxes range from degenerate to wide; slopes are least-squares fits, derivative values (so that critical
    points lie inside), zero, or random. True ones are the tight residuals of `bounds` (for product,
    square_difference and exp the outward-rounded closed form), some widened. A false one has lo or hi
    moved inward past the extreme by 1e-6 of the width or by 1e-9; it is false by a witness that is
    checked in rigorous arithmetic from the function's definition alone.
    """
    result: list[tuple[Obligation, bool]] = []
    while len(result) < count:
        kind = _KINDS[int(rng.choice(len(_KINDS), p=_SHARES))]
        obligation = _true_obligation(kind, f"corpus {len(result)}", rng)
        if len(result) % 2 == 0:
            result.append((obligation, True))
            continue
        falsified = _falsified(obligation, rng)
        if falsified is not None:
            result.append((falsified, False))
    return result


def _true_obligation(kind: Kind, tag: str, rng: np.random.Generator) -> Obligation:
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


def _sampled(kind: Kind, grid: bounds.Array) -> bounds.Array:
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
        low, high = extremes(obligation)
        infimum, supremum = float(low.bound), float(high.bound)
    width = supremum - infimum
    shift = 1e-9 if rng.uniform() < 0.5 else 1e-6 * width
    if shift < 1e-13 * max(1.0, abs(infimum), abs(supremum)) or shift > width:
        return None
    if rng.uniform() < 0.5:
        moved, witness = replace(obligation, hi=supremum - shift), high.point
    else:
        moved, witness = replace(obligation, lo=infimum + shift), low.point
    return moved if violates(moved, witness) else None
