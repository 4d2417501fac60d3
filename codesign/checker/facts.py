"""The nonlinear facts of a replay: residuals of planes, derived here and kept so that a solver can be asked as well.

A plane's slopes come from the proof file and may be any numbers; its residual interval is computed by
`codesign.proof.bounds`, in binary64 with proven margins. Intervals are stated with a ten-thousandth of room, as the
obligations of the searcher are: a branch-and-bound solver cannot decide a bound that is attained.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from codesign.checker.forms import UNIT, Array, Box, Form, affine, points, up
from codesign.checker.proof_file import Choices
from codesign.proof.bounds import (
    sigmoid_diff_plane_residual,
    sigmoid_plane_residual,
    tanh_diff_plane_residual,
    tanh_plane_residual,
)
from codesign.proof.obligation import Kind, Obligation, from_planes

Function = Literal["sigmoid", "tanh"]
_PLANE = {"sigmoid": sigmoid_plane_residual, "tanh": tanh_plane_residual}
_DIFFERENCE = {"sigmoid": sigmoid_diff_plane_residual, "tanh": tanh_diff_plane_residual}


class Facts:
    """Takes slopes from the proof file's choices, gives residuals; `keep` collects the facts as obligations."""

    def __init__(self, choices: Choices, keep: bool = False) -> None:
        self.choices, self.keep = choices, keep
        self.count = 0
        self._kept: list[tuple[Kind, str, list[Array], list[Array], list[Array], Array, Array]] = []

    def plane(self, function: Function, place: str, z: Box) -> tuple[Array, Box, Box]:
        """(slope, residual, image): f(z) = slope z + residual, and f(z) in image, over the box."""
        (slope,) = self.choices.slopes(function, place, z.lo.shape[1])
        zero = np.zeros_like(slope)
        lo, hi = _PLANE[function](z.lo, z.hi, np.stack([slope, zero]))
        residual = self._state(function, place, [z], [slope], Box(lo[0], hi[0]))
        floor = 0.0 if function == "sigmoid" else -1.0
        self._note(function, f"{place}, range", [z], [zero], lo[1], hi[1])
        return slope, residual, Box(np.maximum(lo[1], floor), np.minimum(hi[1], 1.0))

    def difference(self, function: Function, place: str, z: Box, d: Box) -> tuple[Array, Array, Box, Box]:
        """(alpha, beta, residual, image): f(z + d) - f(z) = alpha z + beta d + residual, and in image."""
        kind: Kind = "sigmoid_diff" if function == "sigmoid" else "tanh_diff"
        alpha, beta = self.choices.slopes(kind, place, z.lo.shape[1])
        zero = np.zeros_like(alpha)
        lo, hi = _DIFFERENCE[function](z.lo, z.hi, d.lo, d.hi, np.stack([alpha, zero]), np.stack([beta, zero]))
        residual = self._state(kind, place, [z, d], [alpha, beta], Box(lo[0], hi[0]))
        self._note(kind, f"{place}, range", [z, d], [zero, zero], lo[1], hi[1])
        return alpha, beta, residual, Box(lo[1], hi[1])

    def bilinear(self, place: str, x: Form, x_box: Box, y: Form, y_box: Box) -> Box:
        """(x - x0)(y - y0) for the boxes' centers x0, y0.

        With |u|, |v| <= 1, u = a (x - x0), v = b (y - y0): u v = (p^2 - q^2) / 4, p = u + v, q = u - v, and the ranges of
        p and q are read off the forms, whose common symbols partly cancel.
        """
        a, b = 1.0 / np.maximum(x_box.rad, 1e-30), 1.0 / np.maximum(y_box.rad, 1e-30)
        x0, y0 = x_box.mid, y_box.mid
        shape = x0.shape
        sides = []
        for sign in (1.0, -1.0):
            shift = Box.around(-a * x0, 0.0) + Box.around(-sign * b * y0, 0.0)
            side = affine([(a, x), (sign * b, y)], shift).box
            sides.append(side.clip(-2.0 - 8 * UNIT, 2.0 + 8 * UNIT))
        p, q = sides
        lo = 0.25 * (_least_square(p) - np.square(q.mag))
        hi = 0.25 * (np.square(p.mag) - _least_square(q))
        zero = np.zeros(shape)
        stated = self._state("square_difference", place, [p, q], [zero, zero], Box(lo - 1e-14, hi + 1e-14))
        size = up(np.maximum(x_box.rad, 1e-30) * np.maximum(y_box.rad, 1e-30)) * (1 + 8 * UNIT)
        # u v is a b times the residual, and a b size >= 1 - 8 UNIT.
        return stated.clip(-1.0 - 16 * UNIT, 1.0 + 16 * UNIT) * points(size, shape)

    def _state(self, kind: Kind, place: str, box: list[Box], slopes: list[Array], residual: Box) -> Box:
        room = 1e-4 * (residual.hi - residual.lo) + 1e-11
        lo, hi = residual.lo - room, residual.hi + room
        self._note(kind, place, box, slopes, lo, hi)
        return Box(lo, hi)

    def _note(self, kind: Kind, place: str, box: list[Box], slopes: list[Array], lo: Array, hi: Array) -> None:
        self.count += lo.size
        if self.keep:
            self._kept.append((kind, place, [b.lo for b in box], [b.hi for b in box], slopes, lo, hi))

    def obligations(self) -> Iterator[Obligation]:
        """The collected facts, one an element; needs `keep`."""
        for kind, place, lower, upper, slopes, lo, hi in self._kept:
            columns = [np.stack([a.ravel() for a in group], axis=1) for group in (lower, upper, slopes)]
            tags = [f"{place} #{k}" for k in range(lo.size)]
            yield from from_planes(kind, columns[0], columns[1], columns[2], lo.ravel(), hi.ravel(), tags)


def _least_square(box: Box) -> Array:
    return np.where((box.lo <= 0) & (box.hi >= 0), 0.0, np.minimum(np.square(box.lo), np.square(box.hi)))
