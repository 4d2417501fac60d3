"""The functions of the obligations in rigorous ball arithmetic (Arb): the definition that every prover shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from codesign.proof.obligation import Kind, Obligation

if TYPE_CHECKING:
    from flint import arb

PRECISION = 128
"""Bits of the midpoints of balls."""


@contextmanager
def working_precision() -> Iterator[None]:
    """Run with `PRECISION` bits, and put the process-wide setting back."""
    import flint

    old = flint.ctx.prec
    flint.ctx.prec = PRECISION
    try:
        yield
    finally:
        flint.ctx.prec = old


def sigmoid(t: arb) -> arb:
    """1 / (1 + exp(-t)); t occurs once, so a ball's image is enclosed without overestimation beyond rounding."""
    return 1 / (1 + (-t).exp())


def function_value(kind: Kind, point: Sequence[arb]) -> arb:
    """An enclosure of F_kind over a point or a box of balls."""
    if kind == "sigmoid":
        return sigmoid(point[0])
    if kind == "tanh":
        return point[0].tanh()
    if kind == "exp":
        return point[0].exp()
    if kind == "sigmoid_diff":
        return sigmoid(point[0] + point[1]) - sigmoid(point[0])
    if kind == "tanh_diff":
        return (point[0] + point[1]).tanh() - point[0].tanh()
    if kind == "square_difference":
        return (point[0] ** 2 - point[1] ** 2) / 4
    if kind == "sigmoid_square":
        return sigmoid(point[0]) - point[1] * point[0] ** 2
    if kind == "tanh_square":
        return point[0].tanh() - point[1] * point[0] ** 2
    if kind == "sigmoid_patch":
        return sigmoid(point[0] + point[1]) - sigmoid(point[0]) - point[2] * point[0] * point[1]
    if kind == "tanh_patch":
        return (point[0] + point[1]).tanh() - point[0].tanh() - point[2] * point[0] * point[1]
    if kind == "gate_slopes":
        s, t, p, q = point
        return p * s * (1 - s) * t + q * s * (1 - t**2)
    if kind == "forget_slopes":
        s, t, p, q = point
        return p * s + q * s * (1 - s) * t
    return point[0] * point[1]


def residual_value(obligation: Obligation, point: Sequence[float]) -> arb:
    """An enclosure of F(point) - sum slopes_i point_i at an exact binary64 point; call in `working_precision`."""
    import flint

    balls = [flint.arb(coordinate) for coordinate in point]
    value = function_value(obligation.kind, balls)
    for slope, ball in zip(obligation.slopes, balls, strict=True):
        value -= flint.arb(slope) * ball
    return value


def violates(obligation: Obligation, point: Sequence[float]) -> bool:
    """Whether `point` lies in the box and rigorously outside [lo, hi]: a counterexample. Sets its own precision."""
    if len(point) != len(obligation.box):
        return False
    if not all(low <= x <= high for x, (low, high) in zip(point, obligation.box, strict=True)):
        return False
    with working_precision():
        value = residual_value(obligation, point)
        return bool(value > obligation.hi) or bool(value < obligation.lo)
