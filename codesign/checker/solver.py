"""The solver interface: takes the recorded choices, gives the nonlinear facts that a replay rests on.

A plane's slopes come from the proof file and may be any numbers; its residual interval is computed by
`codesign.proof.bounds` and `.curved_bounds`, in binary64 with proven margins. Residuals and ranges are
stated with some room, as the searcher's obligations are: a branch-and-bound solver cannot decide a bound that is
attained. Every fact can be kept as an obligation, and proved by a solver as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from codesign.checker.forms import UNIT, Array, Box, Flags, Form, affine, gamma, up
from codesign.checker.result import CannotCheck, Invalid
from codesign.proof import Planes, bounds, curved_bounds, exponentials, prove_planes
from codesign.proof.arithmetic import softmax_range
from codesign.proof.float32 import softmax_rounding
from codesign.proof.obligation import VARIABLES, Kind, Obligation
from codesign.proof.proof_file import ProofFile
from codesign.proof.slopes import Polygon
from codesign.quantization.integer import IntActivation

Function = Literal["sigmoid", "tanh"]
_SECOND = ", second order"
RANGE_ROOM = 1e-11  # a solver cannot decide a bound that is attained


class Choices:
    """Hands out the recorded choices of some regions in order, and makes sure that none is missing or left over."""

    def __init__(self, proof: ProofFile, rows: slice) -> None:
        self._steps: list[Any] = proof.header["steps"]
        self._slopes, self._resets, self._states = proof.slopes[rows], proof.resets[rows], proof.states[rows]
        self._step = self._slope = self._reset = self._state = 0
        self.told: Callable[[int, int], None] | None = None  # gets the states handed out, and all

    def slopes(self, kind: str, place: str, units: int) -> list[Array]:
        """One array (B, units) a variable of the plane."""
        found = self._steps[self._step] if self._step < len(self._steps) else None
        if found != [kind, place, units]:
            raise Invalid(f"the proof's step {self._step} is {found} where {[kind, place, units]} is needed")
        self._step += 1
        start, self._slope = self._slope, self._slope + units * len(VARIABLES[kind])
        if self._slope > self._slopes.shape[1]:
            raise Invalid(f"the proof's slopes end before step {self._step - 1}, {place}")
        return [self._slopes[:, k : k + units] for k in range(start, self._slope, units)]

    def fold(self, place: str) -> int:
        """The first step whose symbols are kept after the step `place`; 0 where none are folded there."""
        found = self._steps[self._step] if self._step < len(self._steps) else None
        if not isinstance(found, list) or found[:2] != ["fold", place]:
            return 0
        if len(found) != 3 or type(found[2]) is not int or found[2] < 0:
            raise Invalid(f"the proof's step {self._step} is {found}, which names no step to keep symbols from")
        self._step += 1
        return int(found[2])

    def resets(self, units: int) -> Flags:
        """(B, units)."""
        self._reset += units
        if self._reset > self._resets.shape[1]:
            raise Invalid("the proof's resets end too early")
        return self._resets[:, self._reset - units : self._reset]

    def state(self, units: int) -> Array:
        """(6, units): what a step over a whole domain ends in, ends outward (`codesign.proof.proof_file`)."""
        self._state += 6 * units
        if len(self._states) != 1 or self._state > self._states.shape[1]:
            raise Invalid("the proof's states end too early")
        if self.told is not None:
            self.told(self._state, self._states.shape[1])
        return self._states[0, self._state - 6 * units : self._state].reshape(6, units)

    def finish(self) -> None:
        if (self._step, self._slope) != (len(self._steps), self._slopes.shape[1]):
            raise Invalid("the proof has more steps or slopes than the networks need")
        if self._reset != self._resets.shape[1]:
            raise Invalid("the proof has more resets than the networks have units")
        if self._state != self._states.shape[1]:
            raise Invalid("the proof has more states than the networks have steps")


_RESIDUALS: dict[Kind, Any] = {
    "sigmoid": bounds.sigmoid_plane_residual,
    "tanh": bounds.tanh_plane_residual,
    "sigmoid_diff": bounds.sigmoid_diff_plane_residual,
    "tanh_diff": bounds.tanh_diff_plane_residual,
    "sigmoid_square": curved_bounds.sigmoid_square_residual,
    "tanh_square": curved_bounds.tanh_square_residual,
    "sigmoid_patch": curved_bounds.sigmoid_patch_residual,
    "tanh_patch": curved_bounds.tanh_patch_residual,
}
_KINDS: dict[tuple[Function, str], Kind] = {
    ("sigmoid", "plane"): "sigmoid",
    ("tanh", "plane"): "tanh",
    ("sigmoid", "change"): "sigmoid_diff",
    ("tanh", "change"): "tanh_diff",
    ("sigmoid", "curve"): "sigmoid_square",
    ("tanh", "curve"): "tanh_square",
    ("sigmoid", "patch"): "sigmoid_patch",
    ("tanh", "patch"): "tanh_patch",
}


class Margins(NamedTuple):
    """Ranges (B, M, M) of class i minus class j: float logits, logit differences, integer logits."""

    value: Box
    difference: Box
    integer: Box


class Facts:
    """Takes slopes from the proof file's choices, gives residuals; `keep` collects the facts as obligations.

    `ranges`: places and arguments of sigmoid and tanh, in the order of the replay.
    """

    def __init__(self, choices: Choices, keep: bool = False) -> None:
        self.choices, self.keep, self.count = choices, keep, 0
        self.ranges: list[tuple[str, Box]] = []
        self._kept: list[tuple[Kind, str, list[Array], list[Array], list[Array], Box]] = []

    def image(self, function: Function, place: str, z: Box) -> Box:
        """f(z) over the box."""
        self.ranges.append((place, Box(z.lo, z.hi)))
        return self._range(function, place, z).clip(0.0 if function == "sigmoid" else -1.0, 1.0)

    def value(self, function: Function, place: str, z: Box, curved: bool = False) -> tuple[list[Array], Box, Box]:
        """(coefficients of z and, if `curved`, of z^2; residual; image) of f(z) over the box."""
        coefficients, residual = self._relaxed(function, "curve" if curved else "plane", place, z)
        return coefficients, residual, self.image(function, place + _SECOND * curved, z)

    def change(
        self, function: Function, place: str, z: Box, d: Box, curved: bool = False
    ) -> tuple[list[Array], Box, Box]:
        """(coefficients of z, d and, if `curved`, of z d; residual; image) of f(z + d) - f(z) over the box."""
        coefficients, residual = self._relaxed(function, "patch" if curved else "change", place, z, d)
        return coefficients, residual, self._range(_KINDS[function, "change"], place + _SECOND * curved, z, d)

    def polygon(self, place: str, polygon: Polygon) -> Array:
        """Its corners (V, H, 2); `codesign.proof.slopes`. The boxes are of one region."""
        box = list(map(Box, *polygon.fact()))
        self._note(polygon.kind, place, box, [np.zeros_like(polygon.support)] * 4, Box(polygon.lower, polygon.support))
        return polygon.vertices[:, 0]

    def bilinear(self, place: str, x: Form, y: Form) -> Box:
        """(x - x0)(y - y0) for the boxes' centers x0, y0.

        With |u|, |v| <= 1, u = a (x - x0), v = b (y - y0): u v = (p^2 - q^2) / 4, p = u + v, q = u - v, and the ranges
        of p and q are read off the forms, whose common symbols partly cancel.
        """
        rx, ry = np.maximum(x.rad, 1e-30), np.maximum(y.rad, 1e-30)
        a, b = 1.0 / rx, 1.0 / ry
        sides: list[Box] = []
        for sign in (1.0, -1.0):
            shift = Box.around(-a * x.mid) + Box.around(-sign * b * y.mid)
            sides.append(affine([(a, x), (sign * b, y), shift]).clip(-2.0 - 8 * UNIT, 2.0 + 8 * UNIT))
        p, q = sides
        lo, hi = _least_square(p) - np.square(q.mag), np.square(p.mag) - _least_square(q)
        zero = np.zeros_like(rx)
        product = self._roomy("square_difference", place, sides, [zero, zero], Box(lo / 4 - 1e-14, hi / 4 + 1e-14))
        size = up(rx * ry) * (1 + 8 * UNIT)  # u v is a b times the residual, and a b size >= 1
        return product.clip(-1.0 - 16 * UNIT, 1.0 + 16 * UNIT) * Box(size, size)

    def probability(self, place: str, margin: Box) -> Box:
        """Softmax (B, M) from ranges (B, M, M) of l_i - l_j: p = sigmoid(log-odds)."""
        return self.image("sigmoid", place, self._log_odds(place, margin))

    def softmax(self, op: IntActivation, m: Margins) -> tuple[Box, Box, Array]:
        """(float probabilities, integer - float, above the sum of its magnitudes (B,)).

        Log-odds move by at most the extremes of d_i - d_j. Both real softmaxes sum to 1: all gains are all losses, but
        for the roundings.
        """
        odds, off = self._log_odds(op.name, m.value), ~np.eye(m.value.lo.shape[1], dtype=bool)
        lo, hi = (np.where(off, m.difference.lo, np.inf).min(2), np.where(off, m.difference.hi, -np.inf).max(2))
        move = Box(lo, hi) if len(off) > 1 else Box(np.zeros_like(lo), np.zeros_like(hi))
        rounding = Box(*softmax_range(op, self.probability(op.name, m.integer).hi))
        change = self._range("sigmoid_diff", f"{op.name}, difference", odds, move) + rounding
        gains, losses = np.maximum(change.hi, 0.0).sum(1), np.maximum(-change.lo, 0.0).sum(1)
        lowest, highest = np.maximum(-rounding.lo, 0.0).sum(1), np.maximum(rounding.hi, 0.0).sum(1)
        total = np.minimum(change.mag.sum(1), np.minimum(2 * gains + lowest, 2 * losses + highest))
        return self.image("sigmoid", op.name, odds), change, up(total * (1 + 4 * gamma(len(off))))

    def output_margins(self, op: IntActivation | None, m: Margins) -> Array:
        """Lower bounds (B, M, M) of the integer output's i minus j: p_i (1 - exp(l_j - l_i)) less both roundings."""
        if op is None:
            return m.integer.lo
        p = self.probability(op.name, m.integer)
        gap = self._complement(op.name, np.maximum(m.integer.lo, 0.0)).lo
        lo, hi = softmax_range(op, p.hi)
        lower = p.lo[:, :, None] * gap * (1 - 1e-12) + lo[:, :, None] - hi[:, None, :]
        return np.asarray(np.where(m.integer.lo > 0, lower, -1.0))

    def probability_margins(self, m: Box) -> Array:
        """Lower bounds (B, M, M) of a real softmax's p_i - p_j: p_i (1 - exp(l_j - l_i)), -p_j (1 - exp(l_i - l_j))."""
        p, gap = self.probability("real softmax", m), self._complement("real softmax", np.abs(m.lo))
        above, below = p.lo[:, :, None] * gap.lo * (1 - 1e-13), p.hi[:, None, :] * gap.hi * (1 + 1e-13)
        return np.asarray(np.where(m.lo > 0, above, -np.minimum(below, 1.0)) - 1e-15)

    def confident(self, i: int, probability: float, m: Box) -> Array | None:
        """Below l_i - l_j (M,) where class i is the top-1 class with more than that probability; None: it never is."""
        probability = max(probability - softmax_rounding(m.hi.shape[1]), 0.0)  # of the float32 logits' own softmax
        note = self._noting(f"top-1 class {i}")
        bound, never = exponentials.confident_margins(m.hi[:, i], i, probability, note)
        bound[0, i] = -np.inf
        return None if never[0] else bound[0]

    def _complement(self, place: str, x: Array) -> Box:
        """1 - exp(-x), x >= 0."""
        return Box(*exponentials.complement_range(x, x, self._noting(place)))

    def _log_odds(self, place: str, margin: Box) -> Box:
        return Box(*exponentials.log_odds(margin.lo, margin.hi, self._noting(place)))

    def _noting(self, place: str) -> exponentials.Note:
        def note(function: Kind, lower: Array, upper: Array, lo: Array, hi: Array) -> None:
            self._note(function, place, [Box(lower, upper)], [np.zeros_like(lower)], Box(lo, hi))

        return note

    def _relaxed(self, function: Function, form: str, place: str, *box: Box) -> tuple[list[Array], Box]:
        """Recorded coefficients; what is left. The last one of a curved relaxation is a variable of its obligation."""
        kind, curved = _KINDS[function, form], form in ("curve", "patch")
        place += _SECOND * curved
        coefficients = self.choices.slopes(kind, place, box[0].lo.shape[1])
        ends = [end for side in box for end in (side.lo, side.hi)]
        residual, slopes = Box(*_RESIDUALS[kind](*ends, *coefficients)), coefficients
        if curved:
            last = coefficients[-1]
            box, slopes = (*box, Box(last, last)), [*coefficients[:-1], np.zeros_like(last)]
        return coefficients, self._roomy(kind, place, box, slopes, residual)

    def _range(self, kind: Kind, place: str, *box: Box) -> Box:
        """Of the function itself."""
        zeros = [np.zeros_like(side.lo) for side in box]
        lo, hi = _RESIDUALS[kind](*(end for side in box for end in (side.lo, side.hi)), *zeros)
        return self._note(kind, f"{place}, range", box, zeros, Box(lo - RANGE_ROOM, hi + RANGE_ROOM))

    def _roomy(self, kind: Kind, place: str, box: Sequence[Box], slopes: list[Array], residual: Box) -> Box:
        room = 1e-4 * (residual.hi - residual.lo) + RANGE_ROOM
        return self._note(kind, place, box, slopes, Box(residual.lo - room, residual.hi + room))

    def _note(self, kind: Kind, place: str, box: Sequence[Box], slopes: list[Array], fact: Box) -> Box:
        self.count += fact.lo.size
        if self.keep:
            self._kept.append((kind, place, [b.lo for b in box], [b.hi for b in box], slopes, fact))
        return fact

    def planes(self) -> list[Planes]:
        """The collected facts in order, in arrays; needs `keep`."""
        return [Planes.of(k, place, lo, hi, slopes, f.lo, f.hi) for k, place, lo, hi, slopes, f in self._kept]

    def obligations(self) -> Iterator[Obligation]:
        """The collected facts, one an element; needs `keep`."""
        for group in self.planes():
            yield from group.obligations()

    def prove(self, prover: str | None) -> Counter[str]:
        """Have every kept fact proved, if a prover is given; how many by which. Only 'unsat' of the negation counts."""
        proved = Counter[str]()
        if prover is None:
            return proved
        found = prove_planes(self.planes(), prover)
        for stated, outcome in found.open:
            tag = stated if isinstance(stated, str) else stated.tag
            if outcome.status == "refuted":
                raise Invalid(f"the fact '{tag}' is refuted by {outcome.prover}: {outcome.detail}")
            raise CannotCheck(f"the fact '{tag}' by {outcome.prover}: {outcome.detail}")
        for name, count in found.provers:
            proved[name] += count
        return proved


def _least_square(box: Box) -> Array:
    return np.where((box.lo <= 0) & (box.hi >= 0), 0.0, np.minimum(np.square(box.lo), np.square(box.hi)))
