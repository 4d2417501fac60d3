"""Coefficients that one step of an LSTM multiplies differences by, enclosed in polygons; table errors by range.

With s a sigmoid and t a tanh over their ranges, the derivatives of the products of an LSTM range over planar sets
such as {(s (1 - s) t, s (1 - t^2))}. A polygon around such a set is given by its support in fixed directions, found from the
rectangles that cover the set over a subdivision of both ranges. Any such polygon is sound; subdivisions make it tight.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from codesign.verification import rounding
from codesign.verification.affine import Array, Box

_DIRECTIONS = 12  # sides of a polygon
_CELLS = 12  # subdivisions of each range when its polygon is made
_MARGIN = 1e-12  # on quantities of order 1 that were made with a few roundings


def planar_vertices(support: Array, directions: Array) -> Array:
    """Corners (K - 1, n, 2) of the polygon {v: directions_k . v <= support_k}, of adjacent sides."""
    a, b = directions[:-1, None], directions[1:, None]
    s, t = support[:-1], support[1:]
    det = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return np.stack([(s * b[..., 1] - t * a[..., 1]) / det, (t * a[..., 0] - s * b[..., 0]) / det], axis=-1)


def _circle(count: int) -> Array:
    angle = np.arange(count + 1) * (2 * np.pi / count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _edges(lo: Array, hi: Array, count: int) -> tuple[Array, Array]:
    """Subdivision of [lo, hi] into `count` intervals that cover it: lower and upper ends, (count, n)."""
    at = lo + (hi - lo) * np.linspace(0, 1, count + 1)[:, None]
    at[-1] = hi
    return at[:-1] - _MARGIN, at[1:] + _MARGIN


def _squeeze(lo: Array, hi: Array) -> tuple[Array, Array]:
    """Range of s (1 - s) for s in [lo, hi], inside [0, 1]."""
    ends = np.stack([lo * (1 - lo), hi * (1 - hi)])
    top = np.where((lo <= 0.5) & (hi >= 0.5), 0.25, ends.max(0))
    return np.maximum(ends.min(0) - _MARGIN, 0.0), top + _MARGIN


def gate_polygon(s: Box, t: Box) -> Array:
    """Vertices (K, n, 2) of polygons around {(s (1 - s) t, s (1 - t^2))}: s a sigmoid, t a tanh, over their ranges."""
    s_lo, s_hi = (np.clip(e, 0.0, 1.0)[:, None] for e in _edges(s.lo, s.hi, _CELLS))
    t_lo, t_hi = (np.clip(e, -1.0, 1.0)[None] for e in _edges(t.lo, t.hi, _CELLS))
    q_lo, q_hi = _squeeze(s_lo, s_hi)
    a_lo, a_hi = np.minimum(q_lo * t_lo, q_hi * t_lo), np.maximum(q_lo * t_hi, q_hi * t_hi)
    least = np.where((t_lo <= 0) & (t_hi >= 0), 0.0, np.minimum(np.abs(t_lo), np.abs(t_hi)))
    most = np.maximum(np.abs(t_lo), np.abs(t_hi))
    b_lo, b_hi = s_lo * (1 - most**2), s_hi * (1 - least**2)
    n = s.lo.shape[0]
    corners = [np.broadcast_to(e, (_CELLS, _CELLS, n)) for e in (a_lo, a_hi, b_lo, b_hi)]
    directions = _circle(_DIRECTIONS)
    support = np.stack(
        [
            np.maximum(p * corners[0], p * corners[1]).__add__(np.maximum(q * corners[2], q * corners[3])).max((0, 1))
            for p, q in directions[:-1]
        ]
    )
    support = np.concatenate([support, support[:1]]) + _MARGIN
    return planar_vertices(support, directions)


def forget_polygon(f: Box, c: Box) -> Array:
    """Vertices (K, n, 2) around {(f, f (1 - f) c)}, closed downwards in f: its coefficient is non-negative."""
    f_lo, f_hi = (np.clip(e, 0.0, 1.0) for e in _edges(f.lo, f.hi, 4 * _CELLS))
    q_hi = _squeeze(f_lo, f_hi)[1]
    top, bottom = q_hi * np.maximum(c.hi, 0.0), q_hi * np.minimum(c.lo, 0.0)
    angle = np.linspace(-0.5 * np.pi, 0.5 * np.pi, _DIRECTIONS // 2 + 1)
    directions = np.stack([np.abs(np.cos(angle)), np.sin(angle)], axis=1)
    support = np.stack([(p * f_hi + np.maximum(q * top, q * bottom)).max(0) for p, q in directions]) + _MARGIN
    return planar_vertices(support, directions)


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
