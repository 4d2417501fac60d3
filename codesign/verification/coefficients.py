"""Coefficients that one step of an LSTM multiplies differences by, enclosed in polygons; table errors by range.

With s a sigmoid and t a tanh over their ranges, the derivatives of the products of an LSTM range over planar sets
such as {(s (1 - s) t, s (1 - t^2))}. A polygon around such a set is given by its support in fixed directions, in closed
form. Any directions are sound; more of them make it tight.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from codesign.verification import rounding
from codesign.verification.affine import Array, Box

_MARGIN = 1e-12  # on quantities of order 1 that were made with a few roundings
_ARC = 13  # directions over the upper half of a gate polygon
_SIDES = 9  # directions of a forget polygon


def planar_vertices(support: Array, directions: Array) -> Array:
    """Corners (K - 1, n, 2) of the polygon {v: directions_k . v <= support_k} (K, n, 2), (K, n), of adjacent sides."""
    a, b = directions[:-1], directions[1:]
    s, t = support[:-1], support[1:]
    det = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return np.stack([(s * b[..., 1] - t * a[..., 1]) / det, (t * a[..., 0] - s * b[..., 0]) / det], axis=-1)


def _scaled(angles: Array, x: Array, y: Array) -> Array:
    """Directions (K, n, 2) at these angles, as they look where the first coordinate is of size x, the second y."""
    return np.stack([np.cos(angles)[:, None] / x, np.sin(angles)[:, None] / y], axis=-1)


def _inside(v: Array, lo: Array, hi: Array) -> Array:
    return np.minimum(np.maximum(np.nan_to_num(v, nan=0.0, posinf=2.0, neginf=-2.0), lo), hi)


def _gate_support(p: Array, q: Array, s: Box, t: Box) -> Array:
    """Largest p s (1 - s) t + q s (1 - t^2) over the box.

    It is at a corner, or where the derivative along an edge, or both derivatives, vanish. On t fixed: s = 1/2 + q (1 -
    t^2) / (2 p t). On s fixed: t = p (1 - s) / (2 q). Inside: both, so that 3 s^2 - 4 s + 1 + 4 (q / p)^2 = 0. Values
    at points of the box never exceed the maximum.
    """
    points = [(a, b) for a in (s.lo, s.hi) for b in (t.lo, t.hi)]
    with np.errstate(divide="ignore", invalid="ignore"):
        points += [(_inside(0.5 + q * (1 - b * b) / (2 * p * b), s.lo, s.hi), b) for b in (t.lo, t.hi)]
        points += [(a, _inside(p * (1 - a) / (2 * q), t.lo, t.hi)) for a in (s.lo, s.hi)]
        root = np.sqrt(np.maximum(1 - 12 * (q / p) ** 2, 0.0))
        for a in ((2 - root) / 3, (2 + root) / 3):
            inner = _inside(a, s.lo, s.hi)
            points.append((inner, _inside(p * (1 - inner) / (2 * q), t.lo, t.hi)))
    values = [p * a * (1 - a) * b + q * a * (1 - b * b) for a, b in points]
    return np.asarray(np.maximum.reduce(values))


def gate_polygon(s: Box, t: Box) -> Array:
    """Vertices (K, n, 2) of polygons around {(s (1 - s) t, s (1 - t^2))}: s a sigmoid, t a tanh, over their ranges."""
    s, t = Box(np.maximum(s.lo, 0.0), np.minimum(s.hi, 1.0)), Box(np.maximum(t.lo, -1.0), np.minimum(t.hi, 1.0))
    angles = np.append(np.linspace(0.0, np.pi, _ARC), 1.5 * np.pi)
    steepest = np.clip(0.5, s.lo, s.hi)
    directions = _scaled(angles, steepest * (1 - steepest) * t.mag + 1e-6, s.hi + 1e-6)
    support = np.stack([_gate_support(d[:, 0], d[:, 1], s, t) for d in directions])
    support = support + _MARGIN * np.abs(directions).sum(-1)
    close = [np.concatenate([v, v[:1]]) for v in (support, directions)]
    return planar_vertices(*close)


def forget_polygon(f: Box, c: Box) -> Array:
    """Vertices (K, n, 2) around {(f, f (1 - f) c)}, closed downwards in f: its coefficient is non-negative.

    p f + q f (1 - f) c is linear in c and largest in f at an end or at f = 1/2 + p / (2 q c).
    """
    f = Box(np.maximum(f.lo, 0.0), np.minimum(f.hi, 1.0))
    directions = _scaled(np.linspace(-0.5 * np.pi, 0.5 * np.pi, _SIDES), f.hi + 1e-6, 0.25 * c.mag + 1e-6)
    directions[..., 0] = np.maximum(directions[..., 0], 0.0)
    support = []
    for d in directions:
        p, q = d[:, 0], d[:, 1]
        values = []
        for end in (c.lo, c.hi):
            with np.errstate(divide="ignore", invalid="ignore"):
                top = _inside(0.5 + p / (2 * q * end), f.lo, f.hi)
            values += [p * v + q * v * (1 - v) * end for v in (f.lo, f.hi, top)]
        support.append(np.maximum.reduce(values))
    total = np.stack(support) + _MARGIN * (1 + c.mag) * np.abs(directions).sum(-1)
    return planar_vertices(total, directions)


@lru_cache(maxsize=16)
def _range_maxima(kind: str, cell_shift: int) -> tuple[Array, ...]:
    """Sparse table of the largest |table - function| over 2^k entries from each of the 65,536."""
    low, high = rounding._error_range(kind, cell_shift)
    levels = [np.maximum(-low, high)]
    while len(levels[-1]) > 1 << (len(levels) - 1):
        half = 1 << (len(levels) - 1)
        last = levels[-1]
        levels.append(np.maximum(last[:-half], last[half:]))
    return tuple(levels)


def table_error(kind: str, cell_shift: int, argument: Box) -> Array:
    """Largest |table(x) - function(x)| over the int16 arguments x whose real value lies in the box, per entry."""
    step = 2.0**cell_shift
    lo = np.clip(np.floor(argument.lo / step) + 32768, 0, 65535).astype(np.int64)
    hi = np.clip(np.ceil(argument.hi / step) + 32768, 0, 65535).astype(np.int64)
    levels = _range_maxima(kind, cell_shift)
    level = np.floor(np.log2(hi - lo + 1)).astype(np.int64)
    out = np.empty(lo.shape)
    for k in np.unique(level):
        pick = level == k
        out[pick] = np.maximum(levels[k][lo[pick]], levels[k][hi[pick] - (1 << int(k)) + 1])
    return out
