"""Curved relaxations: parabolas under sigmoid and tanh, and planes with a bilinear term under their differences.

    f(z)              = slope z + curve z^2 + residual
    f(z + d) - f(z)   = slope_z z + slope_d d + cross z d + residual

over boxes. As with planes (`codesign.verification.relaxation`), the coefficients are heuristic and need no trust; the
residual comes from `codesign.proof.curved_bounds` and is what provers check.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from codesign.proof import curved_bounds
from codesign.proof.obligation import Kind
from codesign.verification.affine import Array, Box
from codesign.verification.relaxation import Function, Recorder, RelaxationBatch, derivative, provable, value

_NODES = -np.cos(np.pi * (np.arange(9) + 0.5) / 9)
_FIT = np.linalg.pinv(np.vander(_NODES, 3, increasing=True))
_GRID = np.linspace(-1.0, 1.0, 9)
_THIN = 1e-9


@dataclass(frozen=True, eq=False)
class Curve:
    """f(z) = slope z + curve z^2 + residual; arrays (B, n)."""

    slope: Array
    curve: Array
    residual: Box


@dataclass(frozen=True, eq=False)
class Patch:
    """D(z, d) = slope_z z + slope_d d + cross z d + residual; arrays (B, n)."""

    slope_z: Array
    slope_d: Array
    cross: Array
    residual: Box


def curve(function: Function, z: Box, place: str, recorder: Recorder | None) -> Curve:
    """Least squares on Chebyshev nodes; a tangent where the box is thin."""
    middle, radius = z.mid, np.maximum(z.rad, _THIN)
    nodes = value(function, middle + radius * _NODES.reshape(-1, *[1] * middle.ndim))
    _, c1, c2 = np.tensordot(_FIT, nodes, 1)
    wide = z.rad > 1e-4
    bend = np.where(wide, c2 / radius**2, 0.0)
    slope = np.where(wide, c1 / radius, derivative(function, middle)) - 2 * bend * middle
    bounds = curved_bounds.sigmoid_square_residual if function == "sigmoid" else curved_bounds.tanh_square_residual
    lo, hi = provable(*bounds(z.lo, z.hi, slope, bend))
    if recorder is not None:
        kind: Kind = "sigmoid_square" if function == "sigmoid" else "tanh_square"
        recorder.add(RelaxationBatch(kind, place, (z.lo, bend), (z.hi, bend), (slope, np.zeros_like(bend)), lo, hi))
    return Curve(slope, bend, Box(lo, hi))


def patch(function: Function, z: Box, d: Box, place: str, recorder: Recorder | None) -> Patch:
    """Least squares on a 9 x 9 grid, on which 1, z, d and z d are orthogonal once centered."""
    zm, zr, dm, dr = z.mid, z.rad, d.mid, d.rad
    u, v = _GRID[:, None, None, None], _GRID[None, :, None, None]
    at = zm + u * zr
    difference = value(function, at + dm + v * dr) - value(function, at)
    norm = float(np.square(_GRID).sum())
    by_z = (u * difference).sum((0, 1)) / (norm * len(_GRID))
    by_d = (v * difference).sum((0, 1)) / (norm * len(_GRID))
    both = (u * v * difference).sum((0, 1)) / norm**2
    wide_z, wide_d = zr > _THIN, dr > _THIN
    safe_z, safe_d = np.where(wide_z, zr, 1.0), np.where(wide_d, dr, 1.0)
    cross = np.where(wide_z & wide_d, both / (safe_z * safe_d), 0.0)
    # (z - zm)(d - dm) = z d - zm d - dm z + zm dm
    slope_z = np.where(wide_z, by_z / safe_z, 0.0) - cross * dm
    slope_d = np.where(wide_d, by_d / safe_d, derivative(function, zm + 0.5 * dm)) - cross * zm
    bounds = curved_bounds.sigmoid_patch_residual if function == "sigmoid" else curved_bounds.tanh_patch_residual
    lo, hi = provable(*bounds(z.lo, z.hi, d.lo, d.hi, slope_z, slope_d, cross))
    if recorder is not None:
        kind: Kind = "sigmoid_patch" if function == "sigmoid" else "tanh_patch"
        slopes = (slope_z, slope_d, np.zeros_like(cross))
        recorder.add(RelaxationBatch(kind, place, (z.lo, d.lo, cross), (z.hi, d.hi, cross), slopes, lo, hi))
    return Patch(slope_z, slope_d, cross, Box(lo, hi))
