"""The solver interface: takes the recorded choices, gives the nonlinear facts that a replay rests on.

A plane's slopes come from the proof file and may be any numbers; its residual interval is computed by
`codesign.proof.bounds`, in binary64 with proven margins. Residuals are stated with a ten-thousandth of room, as the
searcher's obligations are: a branch-and-bound solver cannot decide a bound that is attained. Every fact can be kept as
an obligation, and proved by a solver as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from codesign.checker.result import CannotCheck, Invalid
from codesign.proof.bounds import (
    sigmoid_diff_plane_residual,
    sigmoid_plane_residual,
    tanh_diff_plane_residual,
    tanh_plane_residual,
)
from codesign.proof.curved_bounds import (
    sigmoid_patch_residual,
    sigmoid_square_residual,
    tanh_patch_residual,
    tanh_square_residual,
)
from codesign.proof.forms import UNIT, Array, Box, Flags, Form, affine, up
from codesign.proof.obligation import VARIABLES, Kind, Obligation, from_planes
from codesign.proof.proof_file import ProofFile
from codesign.proof.slopes import Polygon

Function = Literal["sigmoid", "tanh"]


class Choices:
    """Hands out the recorded choices of some regions in order, and makes sure that none is missing or left over."""

    def __init__(self, proof: ProofFile, rows: slice) -> None:
        self._steps: list[Any] = proof.header["steps"]
        self._slopes, self._resets, self._states = proof.slopes[rows], proof.resets[rows], proof.states[rows]
        self._step = self._slope = self._reset = self._state = 0

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

    def fold(self, place: str) -> int | None:
        """The first step whose symbols are kept after the step `place`; None where none are folded there."""
        found = self._steps[self._step] if self._step < len(self._steps) else None
        if not isinstance(found, list) or found[:2] != ["fold", place]:
            return None
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
        return self._states[0, self._state - 6 * units : self._state].reshape(6, units)

    def finish(self) -> None:
        if (self._step, self._slope) != (len(self._steps), self._slopes.shape[1]):
            raise Invalid("the proof has more steps or slopes than the networks need")
        if self._reset != self._resets.shape[1]:
            raise Invalid("the proof has more resets than the networks have units")
        if self._state != self._states.shape[1]:
            raise Invalid("the proof has more states than the networks have steps")


class Facts:
    """Takes slopes from the proof file's choices, gives residuals; `keep` collects the facts as obligations."""

    def __init__(self, choices: Choices, keep: bool = False) -> None:
        self.choices, self.keep, self.count = choices, keep, 0
        self._kept: list[tuple[Kind, str, list[Array], list[Array], list[Array], Box]] = []

    def image(self, function: Function, place: str, z: Box) -> Box:
        """f(z) over the box."""
        zero = np.zeros_like(z.lo)
        lo, hi = (sigmoid_plane_residual if function == "sigmoid" else tanh_plane_residual)(z.lo, z.hi, zero)
        found = self._note(function, f"{place}, range", [z], [zero], Box(lo, hi))
        return found.clip(0.0 if function == "sigmoid" else -1.0, 1.0)

    def plane(self, function: Function, place: str, z: Box) -> tuple[Array, Box, Box]:
        """(slope, residual, image): f(z) = slope z + residual, and f(z) in image, over the box."""
        (slope,) = self.choices.slopes(function, place, z.lo.shape[1])
        bounds = sigmoid_plane_residual if function == "sigmoid" else tanh_plane_residual
        residual = self._roomy(function, place, [z], [slope], Box(*bounds(z.lo, z.hi, slope)))
        return slope, residual, self.image(function, place, z)

    def polygon(self, place: str, polygon: Polygon) -> Array:
        """Its corners (V, H, 2); `codesign.proof.slopes`. The boxes are of one region."""
        box = list(map(Box, *polygon.fact()))
        self._note(polygon.kind, place, box, [np.zeros_like(polygon.support)] * 4, Box(polygon.lower, polygon.support))
        return polygon.vertices[:, 0]

    def difference(self, function: Function, place: str, z: Box, d: Box) -> tuple[Array, Array, Box, Box]:
        """(alpha, beta, residual, image): f(z + d) - f(z) = alpha z + beta d + residual, and in image."""
        kind: Kind = "sigmoid_diff" if function == "sigmoid" else "tanh_diff"
        alpha, beta = self.choices.slopes(kind, place, z.lo.shape[1])
        bounds = sigmoid_diff_plane_residual if function == "sigmoid" else tanh_diff_plane_residual
        residual = Box(*bounds(z.lo, z.hi, d.lo, d.hi, alpha, beta))
        return alpha, beta, self._roomy(kind, place, [z, d], [alpha, beta], residual), self.moved(function, place, z, d)

    def moved(self, function: Function, place: str, z: Box, d: Box) -> Box:
        """f(z + d) - f(z) over the box."""
        kind: Kind = "sigmoid_diff" if function == "sigmoid" else "tanh_diff"
        bounds, zero = (
            (sigmoid_diff_plane_residual if function == "sigmoid" else tanh_diff_plane_residual),
            np.zeros_like(z.lo),
        )
        return self._note(
            kind, f"{place}, range", [z, d], [zero, zero], Box(*bounds(z.lo, z.hi, d.lo, d.hi, zero, zero))
        )

    def curve(self, function: Function, place: str, z: Box) -> tuple[Array, Array, Box, Box]:
        """(slope, curve, residual, image): f(z) = slope z + curve z^2 + residual, and in image."""
        kind: Kind = "sigmoid_square" if function == "sigmoid" else "tanh_square"
        slope, bend = self.choices.slopes(kind, place, z.lo.shape[1])
        bounds = sigmoid_square_residual if function == "sigmoid" else tanh_square_residual
        fact = Box(*bounds(z.lo, z.hi, slope, bend))
        residual = self._roomy(kind, place, [z, Box(bend, bend)], [slope, np.zeros_like(slope)], fact)
        return slope, bend, residual, self.image(function, place, z)

    def patch(self, function: Function, place: str, z: Box, d: Box) -> tuple[Array, Array, Array, Box, Box]:
        """(alpha, beta, gamma, residual, image): f(z + d) - f(z) = alpha z + beta d + gamma z d + residual."""
        kind: Kind = "sigmoid_patch" if function == "sigmoid" else "tanh_patch"
        alpha, beta, gamma = self.choices.slopes(kind, place, z.lo.shape[1])
        bounds = sigmoid_patch_residual if function == "sigmoid" else tanh_patch_residual
        fact = Box(*bounds(z.lo, z.hi, d.lo, d.hi, alpha, beta, gamma))
        slopes = [alpha, beta, np.zeros_like(alpha)]
        residual = self._roomy(kind, place, [z, d, Box(gamma, gamma)], slopes, fact)
        return alpha, beta, gamma, residual, self.moved(function, place, z, d)

    def bilinear(self, place: str, x: Form, x_box: Box, y: Form, y_box: Box) -> Box:
        """(x - x0)(y - y0) for the boxes' centers x0, y0.

        With |u|, |v| <= 1, u = a (x - x0), v = b (y - y0): u v = (p^2 - q^2) / 4, p = u + v, q = u - v, and the ranges
        of p and q are read off the forms, whose common symbols partly cancel.
        """
        rx, ry = np.maximum(x_box.rad, 1e-30), np.maximum(y_box.rad, 1e-30)
        a, b = 1.0 / rx, 1.0 / ry
        sides = []
        for sign in (1.0, -1.0):
            shift = Box.around(-a * x_box.mid) + Box.around(-sign * b * y_box.mid)
            sides.append(affine([(a, x), (sign * b, y)], shift).box.clip(-2.0 - 8 * UNIT, 2.0 + 8 * UNIT))
        p, q = sides
        lo, hi = _least_square(p) - np.square(q.mag), np.square(p.mag) - _least_square(q)
        zero = np.zeros_like(rx)
        product = self._roomy("square_difference", place, sides, [zero, zero], Box(lo / 4 - 1e-14, hi / 4 + 1e-14))
        size = up(rx * ry) * (1 + 8 * UNIT)  # u v is a b times the residual, and a b size >= 1
        return product.clip(-1.0 - 16 * UNIT, 1.0 + 16 * UNIT) * Box(size, size)

    def probability(self, place: str, margin: Box) -> Box:
        """Softmax (B, M) from ranges (B, M, M) of l_i - l_j: p = sigmoid(odds)."""
        return self.image("sigmoid", place, _log_odds(margin))

    def probability_difference(self, place: str, margin: Box, difference: Box) -> Box:
        """How far softmax moves with the logits: log-odds move by at most the extremes of d_i - d_j."""
        odds, off = _log_odds(margin), others(margin)
        lo, hi = (np.where(off, end, 0.0 if len(off[0]) == 1 else out) for end, out in _ends(difference))
        move = Box(lo.min(2), hi.max(2))
        zero = np.zeros_like(odds.lo)
        residual = sigmoid_diff_plane_residual(odds.lo, odds.hi, move.lo, move.hi, zero, zero)
        return self._note("sigmoid_diff", f"{place}, difference", [odds, move], [zero, zero], Box(*residual))

    def _roomy(self, kind: Kind, place: str, box: list[Box], slopes: list[Array], residual: Box) -> Box:
        room = 1e-4 * (residual.hi - residual.lo) + 1e-11
        return self._note(kind, place, box, slopes, Box(residual.lo - room, residual.hi + room))

    def _note(self, kind: Kind, place: str, box: list[Box], slopes: list[Array], fact: Box) -> Box:
        self.count += fact.lo.size
        if self.keep:
            self._kept.append((kind, place, [b.lo for b in box], [b.hi for b in box], slopes, fact))
        return fact

    def obligations(self) -> Iterator[Obligation]:
        """The collected facts, one an element; needs `keep`."""
        for kind, place, lower, upper, slopes, fact in self._kept:
            lo, hi, slope = (np.stack([a.ravel() for a in group], axis=1) for group in (lower, upper, slopes))
            tags = [f"{place} #{k}" for k in range(len(lo))]
            yield from from_planes(kind, lo, hi, slope, fact.lo.ravel(), fact.hi.ravel(), tags)

    def prove(self, prover: str) -> Counter[str]:
        """Have every kept fact proved; how many by which solver. Only 'unsat' of the negation counts."""
        from codesign.proof import prove

        obligations, proved = list(self.obligations()), Counter[str]()
        for obligation, outcome in zip(obligations, prove(obligations, prover), strict=True):
            if outcome.status == "refuted":
                raise Invalid(f"the fact '{obligation.tag}' is refuted by {outcome.prover}: {outcome.detail}")
            if outcome.status != "proved":
                raise CannotCheck(f"the fact '{obligation.tag}' by {outcome.prover}: {outcome.detail}")
            proved[outcome.prover] += 1
        return proved


def others(margin: Box) -> Flags:
    """(1, M, M): where i is not j."""
    return ~np.eye(margin.lo.shape[1], dtype=bool)[None]


def _ends(box: Box) -> tuple[tuple[Array, float], tuple[Array, float]]:
    """Both ends, with what does not count among them."""
    return (box.lo, np.inf), (box.hi, -np.inf)


def _log_odds(margin: Box) -> Box:
    """log p_i / (1 - p_i) = -log sum_{j != i} exp(l_j - l_i), (B, M); 800 for a single class."""

    def odds(end: Array) -> Array:
        terms = np.where(others(margin), -np.clip(end, -1e6, 1e6), -np.inf)
        top = np.maximum(terms.max(2), -800.0)
        return np.asarray(-(top + np.log(np.maximum(np.exp(terms - top[:, :, None]).sum(2), 1e-300))))

    lo, hi = odds(margin.lo), odds(margin.hi)
    return Box(lo - 1e-12 * (1 + np.abs(lo)), hi + 1e-12 * (1 + np.abs(hi)))


def _least_square(box: Box) -> Array:
    return np.where((box.lo <= 0) & (box.hi >= 0), 0.0, np.minimum(np.square(box.lo), np.square(box.hi)))
