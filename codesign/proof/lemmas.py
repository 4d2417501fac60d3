"""The facts the relaxations rest on, as closed formulas on compact boxes, for the branch-and-bound prover.

docs/soundness.md proves each by hand for all reals; these are the same facts, machine-checked where the boxes
reach. A lemma says 'formula <= limit for all v in the box'; strict facts that degenerate on a boundary (where
both sides vanish) are divided by the vanishing factor or taken on a box that stays away from it, as
`statement` says.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

from codesign.proof.functions import working_precision
from codesign.proof.icp import Balls, Box, Enclosure, Outcome, bound_above

if TYPE_CHECKING:
    from flint import arb

Operand = Union["Jet", "arb", int, float]


@dataclass(frozen=True)
class Jet:
    """Value, gradient and Hessian of an expression in two variables over balls (forward differentiation)."""

    value: arb
    gradient: tuple[arb, arb]
    hessian: tuple[arb, arb, arb]  # (0, 0), (0, 1), (1, 1)

    def compose(self, value: arb, first: arb, second: arb) -> Jet:
        """f(self) for f with the given value and derivatives at self.value."""
        a, b = self.gradient
        h = self.hessian
        return Jet(
            value,
            (first * a, first * b),
            (
                second * a * a + first * h[0],
                second * a * b + first * h[1],
                second * b * b + first * h[2],
            ),
        )

    def __add__(self, other: Operand) -> Jet:
        if not isinstance(other, Jet):
            return Jet(self.value + other, self.gradient, self.hessian)
        g, h = other.gradient, other.hessian
        return Jet(
            self.value + other.value,
            (self.gradient[0] + g[0], self.gradient[1] + g[1]),
            (self.hessian[0] + h[0], self.hessian[1] + h[1], self.hessian[2] + h[2]),
        )

    def __mul__(self, other: Operand) -> Jet:
        if not isinstance(other, Jet):
            return self.compose(self.value * other, self.value * 0 + other, self.value * 0)
        u, v = self.value, other.value
        (a, b), (c, d) = self.gradient, other.gradient
        h, k = self.hessian, other.hessian
        return Jet(
            u * v,
            (a * v + u * c, b * v + u * d),
            (
                h[0] * v + 2 * a * c + u * k[0],
                h[1] * v + a * d + b * c + u * k[1],
                h[2] * v + 2 * b * d + u * k[2],
            ),
        )

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Jet:
        return self * -1

    def __sub__(self, other: Operand) -> Jet:
        return self + (-other)

    def __rsub__(self, other: Operand) -> Jet:
        return -self + other


def sigmoid(t: Jet) -> Jet:
    """sigmoid of an expression."""
    s = 1 / (1 + (-t.value).exp())
    first = s * (1 - s)
    return t.compose(s, first, first * (1 - 2 * s))


def sigmoid_slope(t: Jet) -> Jet:
    """sigmoid'(t) = s (1 - s), s = sigmoid(t)."""
    s = 1 / (1 + (-t.value).exp())
    first = s * (1 - s)
    second = first * (1 - 2 * s)
    return t.compose(first, second, first * (1 - 6 * first))


@dataclass(frozen=True)
class Lemma:
    """`formula(v0, v1) <= limit` on `box`; `number` is the lemma's in docs/soundness.md."""

    name: str
    number: int
    statement: str
    box: Box
    formula: Callable[[Jet, Jet], Jet]
    limit: float


def _slope_bell(v: Jet, h: Jet) -> Jet:
    """D_z at v = z + h, d = 2h."""
    return sigmoid_slope(v + h) - sigmoid_slope(v - h)


def _second_bell(v: Jet, h: Jet) -> Jet:
    """D_zz at v = z + h, d = 2h."""
    return _second(v + h) - _second(v - h)


def _second(t: Jet) -> Jet:
    return sigmoid_slope(t) * (1 - 2 * sigmoid(t))


LEMMAS: tuple[Lemma, ...] = (
    Lemma(
        "sigmoid is concave right of 0",
        1,
        "sigmoid'' <= -1e-4 on 1/16 <= z <= 8",
        ((0.0625, 8.0), (0.0, 0.0)),
        lambda z, _: _second(z),
        -1e-4,
    ),
    Lemma(
        "the second derivative is bounded",
        1,
        "|sigmoid''| <= 0.0963 on |z| <= 16 (by oddness, from above)",
        ((-16.0, 16.0), (0.0, 0.0)),
        lambda z, _: _second(z),
        0.0963,
    ),
    Lemma(
        "D increases in d",
        2,
        "dD/dd = sigmoid'(z + d) >= 1e-8 on |z|, |d| <= 8",
        ((-8.0, 8.0), (-8.0, 8.0)),
        lambda z, d: -sigmoid_slope(z + d),
        -1e-8,
    ),
    Lemma(
        "D falls right of its peak",
        2,
        "D_z < -1e-9 where 1/16 <= z + d/2 <= 8, 1/8 <= d <= 16",
        ((0.0625, 8.0), (0.0625, 8.0)),
        _slope_bell,
        -1e-9,
    ),
    Lemma(
        "D rises left of its peak",
        2,
        "D_z > 1e-9 where -8 <= z + d/2 <= -1/16, 1/8 <= d <= 16",
        ((-8.0, -0.0625), (0.0625, 8.0)),
        lambda v, h: -_slope_bell(v, h),
        -1e-9,
    ),
    Lemma(
        "D is concave about its peak",
        5,
        "D_zz < -1e-9 where |z + d/2| <= 1.3 (the inflections have cosh v >= 2), 1/8 <= d <= 16",
        ((-1.3, 1.3), (0.0625, 8.0)),
        _second_bell,
        -1e-9,
    ),
    Lemma(
        "D is convex far from its peak",
        5,
        "D_zz > 1e-9 where d/2 + 1.5 <= z + d/2 <= d/2 + 8, 1/8 <= d <= 16",
        ((1.5, 8.0), (0.0625, 8.0)),
        lambda t, h: -_second_bell(t + h, h),
        -1e-9,
    ),
)
"""Identities (oddness, tanh, the product difference, the hyperbolic forms) are exact: see `identities`."""


def check(lemma: Lemma, timeout_s: float = 60.0, max_boxes: int = 1_000_000) -> Outcome:
    """Prove one lemma on its box by branch and bound."""
    import flint

    def target(balls: Balls) -> Enclosure:
        zero, one = flint.arb(0), flint.arb(1)
        first = Jet(balls[0], (one, zero), (zero, zero, zero))
        second = Jet(balls[1], (zero, one), (zero, zero, zero))
        jet = lemma.formula(first, second)
        h = jet.hessian
        return jet.value, list(jet.gradient), {(0, 0): h[0], (0, 1): h[1], (1, 1): h[2]}

    with working_precision():
        deadline = time.perf_counter() + timeout_s
        return bound_above(target, lemma.box, flint.arb(lemma.limit), deadline, max_boxes)
