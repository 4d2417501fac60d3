"""Parabolas and patches for the closed-form prover: lemma 14 in ball arithmetic, on intervals as narrow as needed.

At a fixed z the residual of a parabola is a number, and that of a patch a difference function under a line, whose
extreme over d is in closed form (lemma 6, first edge). Between two values of z it stays within the chord's error of the
larger end, so that an interval is halved until that decides it. In the last variable, the coefficient, it is linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from codesign.proof.closed_form import kappa
from codesign.proof.functions import sigmoid, violates, working_precision
from codesign.proof.obligation import Obligation

if TYPE_CHECKING:
    from flint import arb

Point = tuple[float, ...]
CURVED = ("sigmoid_square", "tanh_square", "sigmoid_patch", "tanh_patch")
_MAX_INTERVALS = 20_000


def decide(obligation: Obligation) -> tuple[Literal["proved", "refuted", "unknown"], Point | None, str]:
    """(status, a counterexample, why it is unknown) of an obligation of one of the kinds in `CURVED`."""
    unknown = ""
    with working_precision():
        for sign in (1, -1):
            for coefficient in set(obligation.box[-1]):
                try:
                    unknown = _undecided(_Side.of(obligation, sign, coefficient)) or unknown
                except _RefutedError as refuted:
                    return "refuted", refuted.point, "a value at a point"
    return ("unknown" if unknown else "proved"), None, unknown


class _RefutedError(Exception):
    def __init__(self, point: Point) -> None:
        super().__init__()
        self.point = point


def _undecided(side: _Side) -> str:
    """Why the side is not proved; '' if it is. _RefutedError with a counterexample."""
    import flint

    low, high = side.box[0]
    pending = [(low, high, side.largest(low), side.largest(high))]
    for _ in range(_MAX_INTERVALS):
        if not pending:
            return ""
        a, b, first, last = pending.pop()
        top = first.max(last)
        if not top <= side.limit:
            return "the range touches its bound to within the working precision"
        if a == b or top + (flint.arb(b) - a) ** 2 * side.bend(a, b) / 8 <= side.limit:
            continue
        middle = 0.5 * (a + b)
        if not a < middle < b:
            return "an interval cannot be halved further in binary64"
        found = side.largest(middle)
        pending += [(a, middle, first, found), (middle, b, found, last)]
    return f"more than {_MAX_INTERVALS} intervals"


@dataclass(frozen=True)
class _Side:
    """sign (f(y) - a y - c y^2) or sign (D(y, e) - a y - b e - c y e) <= limit over a box; f and D are sigmoid's.

    tanh's are on doubled arguments: twice these, with a quarter of a and b and an eighth of c (lemmas 4 and 14).
    """

    obligation: Obligation
    sign: int
    coefficient: float
    steep: int
    box: tuple[tuple[float, float], ...]
    a: arb
    b: arb
    c: arb
    limit: arb

    @staticmethod
    def of(obligation: Obligation, sign: int, coefficient: float) -> _Side:
        import flint

        steep, square = 2 if obligation.kind.startswith("tanh") else 1, obligation.kind.endswith("square")
        exact = [flint.arb(slope) for slope in obligation.slopes]
        limit = flint.arb(obligation.hi if sign > 0 else obligation.lo) + exact[-1] * coefficient
        if steep == 2:
            limit = (limit + 1) / 2 if square else limit / 2
        box = tuple((steep * low, steep * high) for low, high in obligation.box[:-1])
        slopes = [slope / steep**2 for slope in exact[:-1]]
        c = flint.arb(coefficient) / (8 if steep == 2 else 1)
        return _Side(obligation, sign, coefficient, steep, box, slopes[0], slopes[-1], c, sign * limit)

    def largest(self, y: float) -> arb:
        """Above all values at y. _RefutedError where one is certainly above the limit."""
        import flint

        best = flint.arb("-inf")
        for value, e in self.values(y):
            if value > self.limit:
                moved = [y] if e is None else [y, min(max(float(e), self.box[1][0]), self.box[1][1])]
                point = (*(x / self.steep for x in moved), self.coefficient)
                if violates(self.obligation, point):
                    raise _RefutedError(point)
            best = best.max(value.upper())
        return best

    def values(self, y: float) -> list[tuple[arb, arb | None]]:
        """Values at y, the largest of which is the largest there, each with its e."""
        import flint

        exact = flint.arb(y)
        if len(self.box) == 1:
            return [(self.sign * (sigmoid(exact) - self.a * exact - self.c * exact**2), None)]
        low, high = (flint.arb(end) for end in self.box[1])
        slope = flint.arb(self.b.fmpq() + self.c.fmpq() * exact.fmpq())  # exact, so that it does not straddle 0
        candidates, top = [low, high], kappa(slope)
        if top is not None:
            inner = self.sign * top - exact
            if not (inner < low or inner > high):
                candidates.append(inner)
        at_y, line = sigmoid(exact), self.a * exact
        return [(self.sign * (sigmoid(exact + e) - at_y - line - slope * e), e) for e in candidates]

    def bend(self, low: float, high: float) -> arb:
        """Above minus the second derivative in y on [low, high], for every e; not below 0."""
        import flint

        first, last = flint.arb(low), flint.arb(high)
        if len(self.box) == 1:
            second = self.sign * (_second(first, last) - 2 * self.c)
            return (-second).upper().max(flint.arb(0))
        least, most = self.box[1]
        second = self.sign * (_second(first + least, last + most) - _second(first, last))
        p = 0.25 - _half(first + min(least, 0.0), last + max(most, 0.0)) ** 2
        reach = flint.arb(max(abs(least), abs(most)))
        return (-second).upper().max(flint.arb(0)).min(reach * (p * (1 - 6 * p)).abs_upper())


def _half(low: arb, high: arb) -> arb:
    """sigmoid - 1/2 over an interval."""
    return sigmoid(low.lower()).union(sigmoid(high.upper())) - 0.5


def _second(low: arb, high: arb) -> arb:
    """sigmoid'' = -2 (sigmoid - 1/2) sigmoid', sigmoid' = 1/4 - (sigmoid - 1/2)^2."""
    half = _half(low, high)
    return -2 * half * (0.25 - half**2)
