"""A branch-and-bound prover on second-order forms in ball arithmetic (python-flint's Arb).

It knows nothing of the closed forms' lemmas: a target gives enclosures of its value, gradient and Hessian
over a box of balls, and every step is a general fact of interval analysis. For 'f <= limit on the box', a box
is

- closed, if the interval value or the second-order Taylor bound about the centre is at most the limit;
- shrunk to a face, in every direction where the gradient has one sign;
- replaced by two opposite faces, in a direction where f is convex;
- closed, where the Hessian is negative semidefinite, by the tangent plane at a point near the maximum;
- else bisected.

A value rigorously above the limit at an exact point refutes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from codesign.proof.functions import sigmoid, working_precision
from codesign.proof.obligation import Obligation

if TYPE_CHECKING:
    from flint import arb

Point = tuple[float, ...]
Box = tuple[tuple[float, float], ...]
Balls = Sequence["arb"]
Enclosure = tuple["arb", list["arb"], dict[tuple[int, int], "arb"]]
Target = Callable[[Balls], Enclosure]
"""From a box of balls to enclosures of the value, the gradient, and the Hessian's entries (i, j), i <= j, over it."""

Status = Literal["proved", "refuted", "unknown"]


@dataclass(frozen=True)
class Outcome:
    """`point` is a counterexample if refuted; `boxes` counts the boxes examined; `detail` says why unknown."""

    status: Status
    point: Point | None
    boxes: int
    detail: str


def decide(obligation: Obligation, timeout_s: float = 10.0, max_boxes: int = 100_000) -> Outcome:
    """Prove or refute both inequalities of an obligation; 'unknown' when time or boxes run out."""
    import flint

    deadline = time.perf_counter() + timeout_s
    boxes = 0
    unknown: Outcome | None = None
    with working_precision():
        for sign, limit in ((1, flint.arb(obligation.hi)), (-1, flint.arb(-obligation.lo))):
            outcome = bound_above(_residual(obligation, sign), obligation.box, limit, deadline, max_boxes)
            boxes += outcome.boxes
            if outcome.status == "refuted":
                return Outcome("refuted", outcome.point, boxes, outcome.detail)
            if outcome.status == "unknown":
                unknown = outcome
    if unknown is not None:
        return Outcome("unknown", None, boxes, unknown.detail)
    return Outcome("proved", None, boxes, "")


def bound_above(target: Target, box: Box, limit: arb, deadline: float, max_boxes: int) -> Outcome:
    """Decide 'target <= limit everywhere on box' (`deadline` on time.perf_counter); in `working_precision`."""
    pending = [box]
    count = 0
    while pending:
        current = pending.pop()
        count += 1
        if count > max_boxes:
            return Outcome("unknown", None, count, f"more than {max_boxes} boxes")
        if time.perf_counter() > deadline:
            return Outcome("unknown", None, count, "out of time")
        step = _examine(target, current, limit)
        if isinstance(step, str):
            return Outcome("unknown", None, count, step)
        if isinstance(step, list):
            pending += step
        elif step is not None:
            return Outcome("refuted", step, count, "")
    return Outcome("proved", None, count, "")


def _examine(target: Target, box: Box, limit: arb) -> list[Box] | Point | str | None:
    """None: closed. A list: boxes to examine instead. A point: a counterexample. A string: stuck, and why."""
    import flint

    free = [i for i, (lower, upper) in enumerate(box) if lower < upper]
    centre = tuple(0.5 * (lower + upper) if lower < upper else lower for lower, upper in box)
    exact = [flint.arb(x) for x in centre]
    value, slope, _ = target(exact)
    if value > limit:
        return centre
    if not free:
        return None if value <= limit else "the value meets the limit to within the working precision"
    radius = [max(upper - x, x - lower) for x, (lower, upper) in zip(centre, box, strict=True)]
    balls = [
        flint.arb(x, math.nextafter(r, math.inf)) if r else y for x, y, r in zip(centre, exact, radius, strict=True)
    ]
    natural, gradient, hessian = target(balls)
    if natural <= limit or value + _rise(slope, hessian, radius, free) <= limit:
        return None
    faces = list(box)
    for i in free:
        if gradient[i] >= 0:
            faces[i] = (box[i][1], box[i][1])
        elif gradient[i] <= 0:
            faces[i] = (box[i][0], box[i][0])
    if tuple(faces) != box:
        return [tuple(faces)]
    for i in free:
        if hessian[i, i] >= 0:
            return [_with_side(box, i, (end, end)) for end in box[i]]
    if _concave(hessian, free):
        point = _climb(target, box, centre, free)
        peak, slope, _ = target([flint.arb(x) for x in point])
        if peak > limit:
            return point
        for i in free:
            lower, upper = box[i]
            reach = (slope[i] * (flint.arb(upper) - point[i])).max(slope[i] * (flint.arb(lower) - point[i]))
            peak += reach
        if peak <= limit:
            return None
    widest = max(free, key=lambda i: radius[i] * _uncertainty(gradient[i], hessian, i, radius))
    lower, upper = box[widest]
    middle = centre[widest]
    if not lower < middle < upper:
        return "a box cannot be split further in binary64"
    return [_with_side(box, widest, (lower, middle)), _with_side(box, widest, (middle, upper))]


def _with_side(box: Box, i: int, side: tuple[float, float]) -> Box:
    return (*box[:i], side, *box[i + 1 :])


def _uncertainty(gradient: arb, hessian: dict[tuple[int, int], arb], i: int, radius: Sequence[float]) -> float:
    return float(gradient.rad()) + radius[i] * float(abs(hessian[i, i]).upper()) + 1e-300


def _rise(slope: list[arb], hessian: dict[tuple[int, int], arb], radius: Sequence[float], free: list[int]) -> arb:
    """Upper bound of slope . t + t' H t / 2 over |t_i| <= radius_i, mixed terms by their magnitude."""
    import flint

    total = flint.arb(0)
    for position, i in enumerate(free):
        r = flint.arb(radius[i])
        g, h = slope[i].abs_upper(), hessian[i, i].upper()
        if -h * r > g:
            total += g * g / (-2 * h)
        else:
            total += g * r + h * r * r / 2
        for j in free[position + 1 :]:
            total += hessian[i, j].abs_upper() * r * radius[j]
    return total


def _concave(hessian: dict[tuple[int, int], arb], free: list[int]) -> bool:
    if not all(hessian[i, i] <= 0 for i in free):
        return False
    if len(free) == 1:
        return True
    if len(free) > 2:
        return False
    i, j = free
    return bool(hessian[i, i] * hessian[j, j] >= hessian[i, j] ** 2)


def _climb(target: Target, box: Box, start: Point, free: list[int]) -> Point:
    """A point of the box near the maximum of a function concave there: projected Newton steps in floating point."""
    import flint

    point = list(start)
    for _ in range(12):
        _, gradient, hessian = target([flint.arb(x) for x in point])
        g = {i: float(gradient[i]) for i in free}
        moving = [
            i for i in free if not (point[i] >= box[i][1] and g[i] >= 0) and not (point[i] <= box[i][0] and g[i] <= 0)
        ]
        step = _newton_step(g, {key: float(h) for key, h in hessian.items()}, moving)
        moved = 0.0
        for i, change in step.items():
            following = min(max(point[i] + change, box[i][0]), box[i][1])
            moved = max(moved, abs(following - point[i]) - 4e-16 * abs(following))
            point[i] = following
        if moved <= 1e-17:
            break
    return tuple(point)


def _newton_step(g: dict[int, float], h: dict[tuple[int, int], float], moving: list[int]) -> dict[int, float]:
    if len(moving) == 2:
        i, j = moving
        determinant = h[i, i] * h[j, j] - h[i, j] ** 2
        if determinant > 0:
            return {
                i: -(h[j, j] * g[i] - h[i, j] * g[j]) / determinant,
                j: -(h[i, i] * g[j] - h[i, j] * g[i]) / determinant,
            }
    return {i: -g[i] / h[i, i] if h[i, i] < 0 else math.copysign(1e9, g[i]) for i in moving}


def _residual(obligation: Obligation, sign: int) -> Target:
    """sign * (F - slopes . v) as a target."""
    import flint

    function = _FUNCTIONS[obligation.kind]
    slopes = [flint.arb(slope) for slope in obligation.slopes]

    def target(balls: Balls) -> Enclosure:
        value, gradient, hessian = function(balls)
        for slope, ball in zip(slopes, balls, strict=True):
            value = value - slope * ball
        gradient = [g - slope for g, slope in zip(gradient, slopes, strict=True)]
        if sign > 0:
            return value, gradient, hessian
        return -value, [-g for g in gradient], {key: -h for key, h in hessian.items()}

    return target


def _increasing(function: Callable[[arb], arb], t: arb) -> arb:
    """The image of a ball under an increasing function; from its ends where the ball is wide.

    A ball's radius has 30 bits, so exp of a wide ball reaches below zero and its reciprocal is unbounded.
    """
    if t.rad() < 4:
        return function(t)
    return function(t.lower()).union(function(t.upper()))


def _tanh(t: arb) -> arb:
    return t.tanh()


def _sigmoid_jet(t: arb) -> tuple[arb, arb, arb]:
    """sigmoid and two derivatives, by m = sigmoid - 1/2: sigmoid' = 1/4 - m^2, sigmoid'' = -2 m sigmoid'."""
    value = _increasing(sigmoid, t)  # not m + 1/2, which loses what is small
    m = value - 0.5
    first = 0.25 - m**2
    return value, first, -2 * m * first


def _tanh_jet(t: arb) -> tuple[arb, arb, arb]:
    value = _increasing(_tanh, t)
    first = 1 - value**2
    return value, first, -2 * value * first


def _one_variable(jet: Callable[[arb], tuple[arb, arb, arb]]) -> Target:
    def target(balls: Balls) -> Enclosure:
        value, first, second = jet(balls[0])
        return value, [first], {(0, 0): second}

    return target


def _difference(jet: Callable[[arb], tuple[arb, arb, arb]], curvature: int) -> Target:
    """f(z + d) - f(z) where the third derivative of f is f' (curvature - 6 f').

    On boxes with small d the z derivatives cancel; the mean value theorem (d times the next derivative over
    the hull of z and z + d) encloses them better there, and both enclosures hold, so their intersection does.
    """

    def target(balls: Balls) -> Enclosure:
        z, d = balls
        value_u, first_u, second_u = jet(z + d)
        value_z, first_z, second_z = jet(z)
        along, curved = first_u - first_z, second_u - second_z
        if not z.is_exact() and abs(d) < 2:
            _, first, second = jet(z.union(z + d))
            along = along.intersection(d * second)
            curved = curved.intersection(d * first * (curvature - 6 * first))
        return (
            value_u - value_z,
            [along, first_u],
            {(0, 0): curved, (0, 1): second_u, (1, 1): second_u},
        )

    return target


def _exp_jet(t: arb) -> tuple[arb, arb, arb]:
    e = t.exp()
    return e, e, e


def _product(balls: Balls) -> Enclosure:
    import flint

    x, y = balls
    zero = flint.arb(0)
    return x * y, [y, x], {(0, 0): zero, (0, 1): flint.arb(1), (1, 1): zero}


def _square_difference(balls: Balls) -> Enclosure:
    import flint

    p, q = balls
    half = flint.arb(0.5)
    return (p**2 - q**2) / 4, [p / 2, -q / 2], {(0, 0): half, (0, 1): flint.arb(0), (1, 1): -half}


def _less_square(jet: Callable[[arb], tuple[arb, arb, arb]]) -> Target:
    """f(z) - p z^2."""

    def target(balls: Balls) -> Enclosure:
        import flint

        z, p = balls
        value, first, second = jet(z)
        square = z**2
        return (
            value - p * square,
            [first - 2 * p * z, -square],
            {(0, 0): second - 2 * p, (0, 1): -2 * z, (1, 1): flint.arb(0)},
        )

    return target


def _gate_slopes(balls: Balls) -> Enclosure:
    """p s (1 - s) t + q s (1 - t^2)."""
    import flint

    s, t, p, q = balls
    bell, fall, zero = s * (1 - s), 1 - t**2, flint.arb(0)
    hessian = {
        (0, 0): -2 * p * t, (0, 1): p * (1 - 2 * s) - 2 * q * t, (0, 2): (1 - 2 * s) * t, (0, 3): fall,
        (1, 1): -2 * q * s, (1, 2): bell, (1, 3): -2 * s * t, (2, 2): zero, (2, 3): zero, (3, 3): zero,
    }  # fmt: skip
    gradient = [p * (1 - 2 * s) * t + q * fall, p * bell - 2 * q * s * t, bell * t, s * fall]
    return p * bell * t + q * s * fall, gradient, hessian


def _forget_slopes(balls: Balls) -> Enclosure:
    """p s + q s (1 - s) t."""
    import flint

    s, t, p, q = balls
    bell, zero, one = s * (1 - s), flint.arb(0), flint.arb(1)
    hessian = {
        (0, 0): -2 * q * t, (0, 1): q * (1 - 2 * s), (0, 2): one, (0, 3): (1 - 2 * s) * t, (1, 1): zero,
        (1, 2): zero, (1, 3): bell, (2, 2): zero, (2, 3): zero, (3, 3): zero,
    }  # fmt: skip
    return p * s + q * bell * t, [p + q * (1 - 2 * s) * t, q * bell, s, bell * t], hessian


def _less_product(difference: Target) -> Target:
    """D(z, d) - g z d."""

    def target(balls: Balls) -> Enclosure:
        import flint

        z, d, g = balls
        value, (by_z, by_d), hessian = difference((z, d))
        return (
            value - g * z * d,
            [by_z - g * d, by_d - g * z, -z * d],
            {
                (0, 0): hessian[0, 0],
                (0, 1): hessian[0, 1] - g,
                (0, 2): -d,
                (1, 1): hessian[1, 1],
                (1, 2): -z,
                (2, 2): flint.arb(0),
            },
        )

    return target


_FUNCTIONS: dict[str, Target] = {
    "sigmoid": _one_variable(_sigmoid_jet),
    "tanh": _one_variable(_tanh_jet),
    "exp": _one_variable(_exp_jet),
    "sigmoid_diff": _difference(_sigmoid_jet, 1),
    "tanh_diff": _difference(_tanh_jet, 4),
    "product": _product,
    "square_difference": _square_difference,
    "sigmoid_square": _less_square(_sigmoid_jet),
    "tanh_square": _less_square(_tanh_jet),
    "sigmoid_patch": _less_product(_difference(_sigmoid_jet, 1)),
    "tanh_patch": _less_product(_difference(_tanh_jet, 4)),
    "gate_slopes": _gate_slopes,
    "forget_slopes": _forget_slopes,
}
