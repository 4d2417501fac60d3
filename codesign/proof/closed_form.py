"""The closed-form prover: extremes of a residual from its few critical-point candidates, in ball arithmetic.

The candidates are those of docs/soundness.md, lemmas 1 to 7 and 12. Everything is computed with Arb at
`functions.PRECISION` bits from the exact binary64 numbers of the obligation; rounding is Arb's business. Parabolas and
patches are left to `codesign.proof.curved_form`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from codesign.proof.functions import residual_value, sigmoid, working_precision
from codesign.proof.obligation import Obligation

if TYPE_CHECKING:
    from flint import arb

Point = tuple[float, ...]
Box = Sequence[tuple[float, float]]

WITHOUT_CLOSED_FORM = ("sigmoid_square", "tanh_square", "sigmoid_patch", "tanh_patch")
SLOPES = ("gate_slopes", "forget_slopes")


@dataclass(frozen=True)
class Extreme:
    """A rigorous bound (an exact ball) of a supremum or infimum, and a point of the box that comes close to it."""

    bound: arb
    point: Point


@dataclass(frozen=True)
class Verdict:
    """`status` is 'proved', 'refuted' (then `point` rigorously violates the statement) or 'unknown'."""

    status: Literal["proved", "refuted", "unknown"]
    point: Point | None
    detail: str


def has_closed_form(obligation: Obligation) -> bool:
    """Coefficients of an LSTM's step have one without slopes."""
    if obligation.kind in SLOPES:
        return not any(obligation.slopes)
    return obligation.kind not in WITHOUT_CLOSED_FORM


def decide(obligation: Obligation) -> Verdict:
    """Prove or refute one obligation; coefficients of a step under slopes are 'unknown'."""
    if obligation.kind in WITHOUT_CLOSED_FORM:
        from codesign.proof import curved_form

        return Verdict(*curved_form.decide(obligation))
    if not has_closed_form(obligation):
        return Verdict("unknown", None, f"no closed form for {obligation.kind} with these slopes")
    with working_precision():
        infimum, supremum = extremes(obligation)
        if supremum.bound <= obligation.hi and infimum.bound >= obligation.lo:
            return Verdict("proved", None, "")
        for extreme, outside in ((supremum, "above hi"), (infimum, "below lo")):
            value = residual_value(obligation, extreme.point)
            if value > obligation.hi or value < obligation.lo:
                return Verdict("refuted", extreme.point, f"residual {float(value):.17g} is {outside}")
    return Verdict("unknown", None, "the range touches its bound to within the working precision")


def gap(obligation: Obligation) -> float:
    """Distance from [lo, hi] to the range of the residual (negative: the obligation is false), as a float.

    Kinds without a closed form: a thousandth of the width, as a guess.
    """
    if not has_closed_form(obligation):
        return 1e-3 * (obligation.hi - obligation.lo)
    with working_precision():
        infimum, supremum = extremes(obligation)
        return min(float(obligation.hi - supremum.bound), float(infimum.bound - obligation.lo))


def extremes(obligation: Obligation) -> tuple[Extreme, Extreme]:
    """(infimum, supremum) of the residual over the box; call in `working_precision`."""
    import flint

    slopes = [flint.arb(slope) for slope in obligation.slopes]
    if obligation.kind in ("product", "exp"):
        points = list(_corners(obligation.box))
        if obligation.kind == "exp" and slopes[0] > 0:
            points += [(slopes[0].log(),)]
        return _over_candidates(obligation, points)
    if obligation.kind in SLOPES:
        return _over_candidates(obligation, list(_slope_candidates(obligation)))
    if obligation.kind == "square_difference":
        return _over_candidates(obligation, _separable_candidates(obligation.box, slopes))
    if obligation.kind == "sigmoid":
        return _sigmoid_extremes(obligation.box, slopes)
    if obligation.kind == "sigmoid_diff":
        low, high = _diff_sup(_reflected(obligation.box), slopes), _diff_sup(obligation.box, slopes)
        return Extreme(-low.bound, _negated(low.point)), high
    # tanh(z) = 2 sigmoid(2z) - 1: doubling a binary64 number is exact, and so is quartering a ball.
    box = [(2.0 * lower, 2.0 * upper) for lower, upper in obligation.box]
    slopes = [slope / 4 for slope in slopes]
    if obligation.kind == "tanh":
        low, high = _sigmoid_extremes(box, slopes)
        return (
            Extreme(2 * low.bound - 1, tuple(0.5 * x for x in low.point)),
            Extreme(2 * high.bound - 1, tuple(0.5 * x for x in high.point)),
        )
    low, high = _diff_sup(_reflected(box), slopes), _diff_sup(box, slopes)
    return (
        Extreme(-2 * low.bound, tuple(-0.5 * x for x in low.point)),
        Extreme(2 * high.bound, tuple(0.5 * x for x in high.point)),
    )


def kappa(b: arb) -> arb | None:
    """The t >= 0 with sigmoid'(t) = b; None where b is certainly outside (0, 1/4]. `b` must not straddle 0."""
    import flint

    if not b > 0 or 4 * b > 1:
        return None
    square = 1 - 4 * b
    s = square.sqrt() if square > 0 else flint.arb(0).union(abs(square).upper().sqrt())
    return 2 * ((1 + s) / (2 * b.sqrt())).log()


def _reflected(box: Box) -> list[tuple[float, float]]:
    return [(-upper, -lower) for lower, upper in box]


def _negated(point: Point) -> Point:
    return tuple(-x for x in point)


def _corners(box: Box) -> list[tuple[arb, ...]]:
    import flint

    corners: list[tuple[arb, ...]] = [()]
    for lower, upper in box:
        ends = (lower,) if lower == upper else (lower, upper)
        corners = [(*corner, flint.arb(end)) for corner in corners for end in ends]
    return corners


def _separable_candidates(box: Box, slopes: Sequence[arb]) -> list[tuple[arb, ...]]:
    """Ends and critical points p = 2 alpha, q = -2 beta of (p^2 - q^2) / 4 - alpha p - beta q."""
    import flint

    sides = []
    for (lower, upper), critical in zip(box, (2 * slopes[0], -2 * slopes[1]), strict=True):
        sides.append([flint.arb(lower), flint.arb(upper), critical])
    return [(p, q) for p in sides[0] for q in sides[1]]


def _slope_candidates(obligation: Obligation) -> Iterator[tuple[arb, ...]]:
    """Lemma 12: corners (all functions are linear in p and q), and where derivatives in s and t vanish."""
    s_ends, t_ends, *_ = (set(side) for side in obligation.box)
    yield from _corners(obligation.box)
    for p, q in _corners(obligation.box[2:]):
        for end in t_ends:
            factor = p * end if obligation.kind == "gate_slopes" else q * end
            if factor != 0:
                rest = q * (1 - _exact(end) ** 2) if obligation.kind == "gate_slopes" else p
                yield 0.5 + rest / (2 * factor), _exact(end), p, q
        if obligation.kind == "forget_slopes" or q == 0:
            continue  # linear in t
        for end in s_ends:
            yield _exact(end), p * (1 - _exact(end)) / (2 * q), p, q
        square = 1 - 12 * (q / p) ** 2 if p != 0 else _exact(-1.0)
        if not square < 0:
            root = square.sqrt() if square > 0 else _exact(0.0).union(abs(square).upper().sqrt())
            for s in ((2 - root) / 3, (2 + root) / 3):
                yield s, p * (1 - s) / (2 * q), p, q


def _exact(x: float) -> arb:
    import flint

    return flint.arb(x)


def _possible(point: Sequence[arb], box: Box) -> bool:
    """Whether a ball is not certainly outside the box."""
    return not any(x < lower or x > upper for x, (lower, upper) in zip(point, box, strict=True))


def _nearest(point: Sequence[arb], box: Box) -> Point:
    return tuple(min(max(float(x), lower), upper) for x, (lower, upper) in zip(point, box, strict=True))


def _over_candidates(obligation: Obligation, points: list[tuple[arb, ...]]) -> tuple[Extreme, Extreme]:
    from codesign.proof.functions import function_value

    best: list[Extreme] = []
    for point in points:
        if not _possible(point, obligation.box):
            continue
        value = function_value(obligation.kind, point)
        for slope, x in zip(obligation.slopes, point, strict=True):
            value -= x * slope
        where = _nearest(point, obligation.box)
        low, high = Extreme(value.lower(), where), Extreme(value.upper(), where)
        best = [
            low if not best or low.bound < best[0].bound else best[0],
            high if not best or high.bound > best[1].bound else best[1],
        ]
    return best[0], best[1]


def _sigmoid_extremes(box: Box, slopes: Sequence[arb]) -> tuple[Extreme, Extreme]:
    """At an end, or at -kappa and kappa; both from values of sigmoid itself, which stay accurate where it is tiny."""
    corners = list(_corners(box))
    critical = kappa(slopes[0])
    low, high = (
        [(p, sigmoid(p[0]) - slopes[0] * p[0]) for p in (*corners, *inside) if _possible(p, box)]
        for inside in (((), ()) if critical is None else (((-critical,),), ((critical,),)))
    )
    infimum = _largest(box, [(p, -value) for p, value in low])
    return Extreme(-infimum.bound, infimum.point), _largest(box, high)


def _largest(box: Box, found: Sequence[tuple[tuple[arb, ...], arb]]) -> Extreme:
    point, value = found[0]
    bound = value.upper()
    for other, its_value in found[1:]:
        upper = its_value.upper()
        if upper > bound:
            point, bound = other, upper
    return Extreme(bound, _nearest(point, box))


def _diff_sup(box: Box, slopes: Sequence[arb]) -> Extreme:
    """Supremum of sigmoid(z + d) - sigmoid(z) - alpha z - beta d: corners, edges, and one interior candidate."""
    import flint

    alpha, beta = slopes
    (zl, zu), (dl, du) = box
    points = list(_corners(box))
    at_beta = kappa(beta)
    if at_beta is not None:
        points += [(z, at_beta - z) for z in {flint.arb(zl), flint.arb(zu)}]
        at_gamma = kappa(_exact_difference(beta, alpha))
        if at_gamma is not None:
            points.append((-at_gamma, at_beta + at_gamma))
    found = []
    for z, d in points:
        if _possible((z, d), box):
            found.append(((z, d), sigmoid(z + d) - sigmoid(z) - alpha * z - beta * d))
    for d in {dl, du}:
        found += _d_edge(zl, zu, d, alpha, beta)
    return _largest(box, found)


def _exact_difference(b: arb, a: arb) -> arb:
    """b - a for exact a and b, with full relative accuracy, so that it does not straddle 0."""
    import flint

    return flint.arb(b.fmpq() - a.fmpq())


def _d_edge(zl: float, zu: float, d: float, alpha: arb, beta: arb) -> list[tuple[tuple[arb, arb], arb]]:
    """Upper bounds over z in [zl, zu] at fixed d on the pieces where D(., d) is concave (lemma 5): tangents.

    Inflections are enclosed in balls of radius r; a piece is widened to hold the whole ball, which makes the
    tangent too low by less than (2 r)^2 (zu - zl) (the third derivative is at most 1/4), so that is added.
    """
    import flint

    exact_d = flint.arb(d)
    half_cosh = (exact_d / 2).cosh()
    inflection = ((half_cosh + (half_cosh * half_cosh + 8).sqrt()) / 2).acosh()
    left, right = -exact_d / 2 - inflection, -exact_d / 2 + inflection
    slack = (2 * inflection.rad() + 2 * left.rad()) ** 2 * (flint.arb(zu) - zl)
    lowest, highest = flint.arb(zl), flint.arb(zu)
    pieces = [(left.lower(), right.upper())] if d >= 0 else [(lowest, left.upper()), (right.lower(), highest)]
    found = []
    for start, end in pieces:
        a = start if start > lowest else lowest
        b = end if end < highest else highest
        if not a < b:
            continue
        touch = _touching_point(a, b, exact_d, alpha)
        su, sz = sigmoid(touch + exact_d), sigmoid(touch)
        slope = su * (1 - su) - sz * (1 - sz) - alpha
        rise = (slope * (b - touch)).max(slope * (a - touch))
        value = su - sz - alpha * touch - beta * exact_d
        found.append(((touch, exact_d), value + rise.upper() + slack.upper()))
    return found


def _touching_point(a: arb, b: arb, d: arb, alpha: arb) -> arb:
    """An exact point of [a, b] near where D_z(z, d) - alpha, decreasing there, changes sign, or the nearer end."""

    def slopes(t: float) -> tuple[float, float]:
        e = math.exp(-abs(t))
        first = e / (1 + e) ** 2
        return first, math.copysign(first * (1 - e) / (1 + e), -t)

    from scipy.optimize import brentq

    p, q, df, af = float(a), float(b), float(d), float(alpha)

    def derivative(z: float) -> float:
        return slopes(z + df)[0] - slopes(z)[0] - af

    if derivative(p) <= 0 or not p < q:
        return a
    if derivative(q) >= 0:
        return b
    root = float(brentq(derivative, p, q, xtol=1e-14, rtol=1e-14, maxiter=200, disp=False))
    import flint

    point = flint.arb(root)
    su, sz = sigmoid(point + d), sigmoid(point)
    curvature = su * (1 - su) * (1 - 2 * su) - sz * (1 - sz) * (1 - 2 * sz)
    step = ((su * (1 - su) - sz * (1 - sz) - alpha) / curvature).mid() if curvature < 0 else flint.arb(0)
    refined = (point - step).mid() if abs(step) < 1e-6 else point
    return refined if a <= refined and refined <= b else (a if refined < a else b)
