"""Linear relaxations of sigmoid, tanh and their difference functions, with the obligations they rest on.

A relaxation is a plane with freely chosen slopes and an interval that holds function - plane over a box. Choosing the
slopes is heuristic and needs no trust; the interval comes from `codesign.proof.bounds` and is what provers check.
D(z, d) = f(z + d) - f(z) is the difference function of DiffRNN (Mohammadinejad et al., 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from codesign.proof.bounds import (
    sigmoid_diff_plane_residual,
    sigmoid_plane_residual,
    tanh_diff_plane_residual,
    tanh_plane_residual,
)
from codesign.proof.exponentials import Note
from codesign.proof.obligation import Kind
from codesign.verification.affine import UNIT, Array, Box, Form, sum_and_difference, up

Function = Literal["sigmoid", "tanh"]
_GRID = np.linspace(-1.0, 1.0, 5)
# numpy's exp and tanh are assumed within 4 ulp (tests/proof measures them); this is well above.
_VALUE_SLACK = 2.0**-46
RANGE_ROOM = 1e-11  # of ranges and residuals: a solver with intervals in binary64 cannot decide what is attained


@dataclass(frozen=True, eq=False)
class RelaxationBatch:
    """Planes emitted at one place of the network: arrays of shape (B, n) except for the description.

    Of kind 'fold' there are no planes: n is the first step whose symbols are kept after the step of that place. Ranges
    of functions have slopes 0 that nobody chose: `chosen` is False, they are no step of a proof file, and their arrays
    may have any shape.
    """

    kind: Kind | Literal["fold"]
    place: str
    lower: tuple[Array, ...]  # box, one array a variable
    upper: tuple[Array, ...]
    slopes: tuple[Array, ...]
    lo: Array
    hi: Array
    chosen: bool = True

    def part(self, place: str, index: slice | tuple[slice | int, ...]) -> RelaxationBatch:
        """Some of the planes, as another batch."""
        groups = (self.lower, self.upper, self.slopes)
        lower, upper, slopes = (tuple(array[index] for array in group) for group in groups)
        lo, hi = self.lo[index], self.hi[index]
        return replace(self, place=place, lower=lower, upper=upper, slopes=slopes, lo=lo, hi=hi)


@dataclass
class Recorder:
    """Collects the relaxations of a run, so that they can be discharged as proof obligations."""

    batches: list[RelaxationBatch] = field(default_factory=list)

    def add(self, batch: RelaxationBatch) -> None:
        self.batches.append(batch)

    def fold(self, place: str, kept_from: int, regions: int) -> None:
        """Symbols were folded after a step (`codesign.verification.unit_forms`): a replay has to do the same."""
        nothing = np.zeros((regions, kept_from))
        self.batches.append(RelaxationBatch("fold", place, (), (), (), nothing, nothing))

    def range(self, kind: Kind, place: str, box: Sequence[Box], found: Box) -> None:
        """A function's range over a box, one of a variable."""
        lower, upper = tuple(side.lo for side in box), tuple(side.hi for side in box)
        zero = (np.zeros_like(found.lo),) * len(box)
        self.batches.append(RelaxationBatch(kind, place, lower, upper, zero, found.lo, found.hi, chosen=False))

    def __iter__(self) -> Iterator[RelaxationBatch]:
        return iter(self.batches)


def noting(recorder: Recorder | None, place: str) -> Note | None:
    """What takes the facts of `codesign.proof.exponentials` at that place of the network."""
    if recorder is None:
        return None
    return lambda kind, lower, upper, lo, hi: recorder.range(kind, place, [Box(lower, upper)], Box(lo, hi))


@dataclass(frozen=True, eq=False)
class Plane:
    """f(z) = slope z + mid +- rad."""

    slope: Array
    mid: Array
    rad: Array


@dataclass(frozen=True, eq=False)
class DifferencePlane:
    """D(z, d) = slope_z z + slope_d d + mid +- rad."""

    slope_z: Array
    slope_d: Array
    mid: Array
    rad: Array


def value(function: Function, z: Array) -> Array:
    """The function in float64, numerically stable."""
    if function == "tanh":
        return np.tanh(z)
    e = np.exp(-np.abs(z))
    return np.asarray(np.where(z >= 0, 1.0, e) / (1.0 + e))


def derivative(function: Function, z: Array) -> Array:
    scale = 1.0 if function == "sigmoid" else 2.0
    e = np.exp(-np.abs(scale * z))
    return np.asarray(scale**2 * e / np.square(1.0 + e))


def image(function: Function, z: Box, place: str = "", recorder: Recorder | None = None) -> Box:
    """The function's range over a box (it is increasing)."""
    lo, hi = value(function, z.lo), value(function, z.hi)
    found = Box(lo - _VALUE_SLACK * np.abs(lo) - RANGE_ROOM, hi + _VALUE_SLACK * np.abs(hi) + RANGE_ROOM)
    if recorder is not None:
        recorder.range(function, f"{place}, range", [z], found)
    return Box(np.maximum(found.lo, 0.0 if function == "sigmoid" else -1.0), np.minimum(found.hi, 1.0))


def difference_image(function: Function, z: Box, d: Box, place: str = "", recorder: Recorder | None = None) -> Box:
    """Range of D over a box: increasing in d, and |D(., d)| is unimodal in z with its peak at z = -d/2."""

    def extreme(edge: Array, upper: bool) -> Array:
        peak = np.clip(-0.5 * edge, z.lo, z.hi)
        at = [value(function, p + edge) - value(function, p) for p in (peak, z.lo, z.hi)]
        grows = edge >= 0 if upper else edge <= 0
        corner = np.maximum(at[1], at[2]) if upper else np.minimum(at[1], at[2])
        return np.where(grows, at[0], corner)

    # |f(p + d) - f(p)| is computed from values at most 1 with relative error 2^-46 each; the clipped peak is exact.
    slack = 4 * _VALUE_SLACK + RANGE_ROOM
    found = Box(extreme(d.lo, False) - slack, extreme(d.hi, True) + slack)
    if recorder is not None:
        recorder.range("sigmoid_diff" if function == "sigmoid" else "tanh_diff", f"{place}, range", [z, d], found)
    return found


def relax(function: Function, z: Box, place: str, recorder: Recorder | None) -> Plane:
    """Relax f over a box: the better of the chord's slope and the smaller end slope."""
    width = z.hi - z.lo
    safe = np.where(width > 1e-9, width, 1.0)
    chord = (value(function, z.hi) - value(function, z.lo)) / safe
    ends = np.minimum(derivative(function, z.lo), derivative(function, z.hi))
    chord = np.where(width > 1e-9, chord, ends)
    residual = sigmoid_plane_residual if function == "sigmoid" else tanh_plane_residual
    candidates = np.stack([chord, ends])
    lo, hi = residual(z.lo, z.hi, candidates)
    first = hi[0] - lo[0] <= hi[1] - lo[1]
    slope, low, high = (np.where(first, a[0], a[1]) for a in (candidates, lo, hi))
    low, high = provable(low, high)
    if recorder is not None:
        recorder.add(RelaxationBatch(function, place, (z.lo,), (z.hi,), (slope,), low, high))
    box = Box(low, high)
    return Plane(slope, box.mid, box.rad)


def relax_difference(function: Function, z: Box, d: Box, place: str, recorder: Recorder | None) -> DifferencePlane:
    """Relax D over a box: least-squares slopes on a 5 x 5 grid, or the same without a slope in z, whichever leaves the
    smaller residual."""
    zm, zr, dm, dr = z.mid, z.rad, d.mid, d.rad
    along_z: Array = zm + _GRID[:, None, None] * zr
    along_d: Array = dm + _GRID[:, None, None] * dr
    change = value(function, along_z[:, None] + along_d) - value(function, along_z)[:, None]
    total_z, total_d = np.tensordot(_GRID, change.sum(1), 1), np.tensordot(_GRID, change.sum(0), 1)
    norm = len(_GRID) * float(np.square(_GRID).sum())
    flat = derivative(function, zm + 0.5 * dm)
    wide_z, wide_d = zr > 1e-9, dr > 1e-9
    slope_z = np.where(wide_z, total_z / (norm * np.where(wide_z, zr, 1.0)), 0.0)
    slope_d = np.where(wide_d, total_d / (norm * np.where(wide_d, dr, 1.0)), flat)
    residual = sigmoid_diff_plane_residual if function == "sigmoid" else tanh_diff_plane_residual
    alphas = np.stack([slope_z, np.zeros_like(slope_z)])
    lo, hi = residual(z.lo, z.hi, d.lo, d.hi, alphas, slope_d)
    first = hi[0] - lo[0] <= hi[1] - lo[1]
    slope_z, low, high = (np.where(first, a[0], a[1]) for a in (alphas, lo, hi))
    low, high = provable(low, high)
    if recorder is not None:
        kind: Kind = "sigmoid_diff" if function == "sigmoid" else "tanh_diff"
        recorder.add(RelaxationBatch(kind, place, (z.lo, d.lo), (z.hi, d.hi), (slope_z, slope_d), low, high))
    box = Box(low, high)
    return DifferencePlane(slope_z, slope_d, box.mid, box.rad)


def provable(lo: Array, hi: Array) -> tuple[Array, Array]:
    """Widen a residual by a ten-thousandth: a bound that is exactly attained cannot be decided by branch and bound."""
    room = 1e-4 * (hi - lo) + RANGE_ROOM
    return lo - room, hi + room


def product_residual(x: Form, x_box: Box, y: Form, y_box: Box, place: str, recorder: Recorder | None) -> Box:
    """Interval of (x - x0)(y - y0), x0 and y0 the boxes' centers: the residual of the bilinear relaxation.

    With u = (x - x0) / rx and v = (y - y0) / ry, u v = ((u + v)^2 - (u - v)^2) / 4, and the ranges of p = u + v and
    q = u - v are read off the affine forms. Where the symbols of x and y are shared but do not agree in sign, both
    are about sqrt 2, not 2: half of what the boxes alone give.
    """
    rx, ry = scales(x_box), scales(y_box)
    return square_residual(*sum_and_difference(x, x_box.mid, rx, y, y_box.mid, ry), rx, ry, place, recorder)


def scales(box: Box) -> Array:
    """What a factor of a product is divided by: the box's radius, but not zero."""
    return np.maximum(box.rad, 1e-30)


def square_residual(p: Box, q: Box, rx: Array, ry: Array, place: str, recorder: Recorder | None) -> Box:
    """Interval of rx ry u v, for u and v in [-1, 1] with p = u + v and q = u - v in these boxes."""
    lo, hi = provable(0.25 * (_least_square(p) - np.square(q.mag)), 0.25 * (np.square(p.mag) - _least_square(q)))
    if recorder is not None:
        zero = np.zeros_like(lo)
        recorder.add(RelaxationBatch("square_difference", place, (p.lo, q.lo), (p.hi, q.hi), (zero, zero), lo, hi))
    size = up(rx * ry)
    low, high = np.maximum(lo, -1.0) * size, np.minimum(hi, 1.0) * size
    room = up(4 * UNIT * size) + 1e-300
    return Box(low - room, high + room)


def _least_square(box: Box) -> Array:
    return np.where((box.lo <= 0) & (box.hi >= 0), 0.0, np.minimum(np.square(box.lo), np.square(box.hi)))
