"""Polygons around the coefficients that one step of an LSTM multiplies differences by, each side a proof obligation.

With s a sigmoid and t a tanh over their ranges, the derivatives of the products of an LSTM range over the planar sets
{(s (1 - s) t, s (1 - t^2))} and {(f, f (1 - f) c)}. A polygon around such a set is given by its support in fixed
directions (p, q). Any directions are sound, more of them make it tight; every support is a fact

    p s (1 - s) t + q s (1 - t^2) <= hi        ('gate_slopes')
    p f + q f (1 - f) c <= hi                  ('forget_slopes')

on a box, whose supremum is in closed form (docs/soundness.md, lemma 12). Arrays may have any shape; sides come first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from codesign.proof.obligation import Kind

Array = npt.NDArray[np.float64]

_ARC = 13  # directions over the upper half of a gate polygon
_SIDES = 9  # directions of a forget polygon
# Room that lets branch and bound decide a support that is attained, and room for the rounding of corners, relative to
# the set's size; rounding alone is below 1e-14, and a support's own (lemma 12) below 1e-12.
_ROOM, _ROUNDING = 1e-6, 1e-12


class Interval(Protocol):
    """Boxes of any package: ends of equal shape."""

    @property
    def lo(self) -> Array: ...
    @property
    def hi(self) -> Array: ...


@dataclass(frozen=True, eq=False)
class Polygon:
    """Sides {v: directions . v <= support} (K, ..., 2), (K, ...), and the corners of adjacent ones (V, ..., 2).

    `box`: ranges of both variables. `lower` is below every value that `support` bounds.
    """

    kind: Kind
    box: tuple[Interval, Interval]
    directions: Array
    support: Array
    lower: Array
    vertices: Array

    def fact(self) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """(lower, upper) ends of the obligations' four variables, each of the supports' shape; slopes are 0."""
        shape = self.support.shape
        p, q = self.directions[..., 0], self.directions[..., 1]
        ends = tuple(tuple(np.broadcast_to(getattr(b, end), shape) for b in self.box) for end in ("lo", "hi"))
        return (*ends[0], p, q), (*ends[1], p, q)


def _corners(support: Array, directions: Array) -> Array:
    """Where adjacent sides meet."""
    a, b = directions[:-1], directions[1:]
    s, t = support[:-1], support[1:]
    det = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return np.stack([(s * b[..., 1] - t * a[..., 1]) / det, (t * a[..., 0] - s * b[..., 0]) / det], axis=-1)


def _scaled(cosine: Array, sine: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Directions (K, ..., 2) as these look where the first coordinate is of size x and the second y; their sizes."""
    c, s = (v.reshape(-1, *[1] * x.ndim) for v in (cosine, sine))
    directions = np.stack(np.broadcast_arrays(c / x, s / y), axis=-1)
    return directions, np.abs(c) + np.abs(s) + 0.0 * x


def _inside(v: Array, lo: Array, hi: Array) -> Array:
    return np.minimum(np.maximum(np.nan_to_num(v, nan=0.0, posinf=2.0, neginf=-2.0), lo), hi)


def gate_support(p: Array, q: Array, s: Interval, t: Interval) -> Array:
    """Largest p s (1 - s) t + q s (1 - t^2) over the box, s in [0, 1] and t in [-1, 1], within 1e-12 (|p| + |q|).

    It is at a corner, or where the derivative along an edge, or both derivatives, vanish. On t fixed: s = 1/2 + q (1 -
    t^2) / (2 p t). On s fixed: t = p (1 - s) / (2 q). Inside: both, so that 3 s^2 - 4 s + 1 + 4 (q / p)^2 = 0. Values
    at points of the box never exceed the maximum.
    """
    points = [(a, b) for a in (s.lo, s.hi) for b in (t.lo, t.hi)]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        points += [(_inside(0.5 + q * (1 - b * b) / (2 * p * b), s.lo, s.hi), b) for b in (t.lo, t.hi)]
        points += [(a, _inside(p * (1 - a) / (2 * q), t.lo, t.hi)) for a in (s.lo, s.hi)]
        root = np.sqrt(np.maximum(np.nan_to_num(1 - 12 * (q / p) ** 2, neginf=0.0), 0.0))
        for a in ((2 - root) / 3, (2 + root) / 3):
            inner = _inside(a, s.lo, s.hi)
            points.append((inner, _inside(p * (1 - inner) / (2 * q), t.lo, t.hi)))
    values = [p * a * (1 - a) * b + q * a * (1 - b * b) for a, b in points]
    return np.asarray(np.maximum.reduce(np.broadcast_arrays(*values)))


def forget_support(p: Array, q: Array, f: Interval, c: Interval) -> Array:
    """Largest p f + q f (1 - f) c over the box, f in [0, 1], within 1e-12 (|p| + |q c|).

    It is linear in c, and largest in f at an end or at f = 1/2 + p / (2 q c).
    """
    values = []
    for end in (c.lo, c.hi):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            top = _inside(0.5 + p / (2 * q * end), f.lo, f.hi)
        values += [p * v + q * v * (1 - v) * end for v in (f.lo, f.hi, top)]
    return np.asarray(np.maximum.reduce(np.broadcast_arrays(*values)))


def gate_polygon(s: Interval, t: Interval) -> Polygon:
    """Around {(s (1 - s) t, s (1 - t^2))}: s a sigmoid in [0, 1], t a tanh in [-1, 1], over their ranges."""
    angles = np.append(np.linspace(0.0, np.pi, _ARC), 1.5 * np.pi)
    steepest = np.clip(0.5, s.lo, s.hi)
    x = steepest * (1 - steepest) * np.maximum(np.abs(t.lo), np.abs(t.hi)) + 1e-6
    directions, size = _scaled(np.cos(angles), np.sin(angles), x, s.hi + 1e-6)
    p, q = directions[..., 0], directions[..., 1]
    margin = _ROUNDING * (np.abs(p) + np.abs(q))
    support = gate_support(p, q, s, t) + margin + _ROOM * size
    close = [np.concatenate([v, v[:1]]) for v in (support + _ROUNDING * size, directions)]
    return Polygon("gate_slopes", (s, t), directions, support, -(np.abs(p) + np.abs(q)), _corners(*close))


def forget_polygon(f: Interval, c: Interval) -> Polygon:
    """Around {(f, f (1 - f) c)}, f in [0, 1], closed downwards in f only: for a bound that grows with f's part."""
    angles = np.linspace(-0.5 * np.pi, 0.5 * np.pi, _SIDES)
    cosine = np.cos(angles)
    cosine[0] = cosine[-1] = 0.0
    reach = np.maximum(np.abs(c.lo), np.abs(c.hi))
    directions, size = _scaled(cosine, np.sin(angles), f.hi + 1e-6, 0.25 * reach + 1e-6)
    p, q = directions[..., 0], directions[..., 1]
    largest = np.abs(p) + np.abs(q) * (1 + reach)
    support = forget_support(p, q, f, c) + _ROUNDING * largest + _ROOM * size
    return Polygon(
        "forget_slopes", (f, c), directions, support, -largest, _corners(support + _ROUNDING * size, directions)
    )
