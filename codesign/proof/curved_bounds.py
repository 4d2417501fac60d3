"""Rigorous residuals of curved relaxations on arrays, in float64: parabolas, and planes with a bilinear term.

    f(z) - a z - p z^2                          f = sigmoid or tanh, z in [zl, zu]
    f(z + d) - f(z) - a z - b d - g z d         (z, d) in [zl, zu] x [dl, du]

Coefficients may be anything and count as exact. Method: values on a grid of z; between two neighbours at distance s a
function stays within s^2/8 max |second derivative in z| of the larger (smaller) of both values. At a fixed z the
second function is a difference function under a plane, whose supremum over d is the one of `codesign.proof.bounds`
(tangents of its concave piece), so the grid has one dimension. Floating-point margins are those of that module,
whose docstring derives them; they cover the rounding of p z^2 and g z as well, by the same count of operations.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from codesign.proof.bounds import (
    ABSOLUTE_MARGIN,
    SECOND_DERIVATIVE,
    VALUE_MARGIN,
    Array,
    Bounds,
    _arrays,
    _check_box,
    _sigmoid_slope,
    _z_edge_sup,
)

PARABOLA_CELLS = 24
PATCH_CELLS = 10
THIRD_DERIVATIVE = 0.125  # max |sigmoid'''|, at 0 (docs/soundness.md, lemma 1)
_THIRD_NEAR_TWELFTH = 1.0 / 24.0  # p (1 - 6 p) at p = 1/12, its largest positive value
_ROOM = 1 + 1e-9  # for the few roundings of a bulge


def third_derivative(zl: Array, zu: Array) -> Array:
    """An upper bound of |sigmoid'''| = |p (1 - 6 p)|, p = sigmoid', on [zl, zu]."""
    nearest = np.maximum(np.maximum(zl, -zu), 0.0)
    farthest = np.maximum(np.abs(zl), np.abs(zu))
    largest, least = _sigmoid_slope(nearest), _sigmoid_slope(farthest)
    ends = np.maximum(np.abs(largest * (1 - 6 * largest)), np.abs(least * (1 - 6 * least)))
    inside = (least <= (1 / 12) * _ROOM) & (largest >= (1 / 12) / _ROOM)
    bound = np.maximum(ends, np.where(inside, _THIRD_NEAR_TWELFTH, 0.0)) * _ROOM + 1e-15
    return np.asarray(np.minimum(bound, THIRD_DERIVATIVE))


def sigmoid_square_residual(zl: npt.ArrayLike, zu: npt.ArrayLike, slope: npt.ArrayLike, curve: npt.ArrayLike) -> Bounds:
    """(lo, hi) with lo <= sigmoid(z) - slope z - curve z^2 <= hi for all z in [zl, zu]; arguments broadcast.

    InputError for boxes that are not finite or reversed, and magnitudes over 1e9.
    """
    zl, zu, slope, curve = _arrays(zl, zu, slope, curve)
    _check_box(zl, zu)
    grid, step = _grid(zl, zu, PARABOLA_CELLS)
    e = np.exp(-np.abs(grid))
    value = np.where(grid >= 0, 1.0, e) / (1.0 + e)
    line, square = slope * grid, curve * grid * grid
    margin = VALUE_MARGIN * (value + np.abs(line) + np.abs(square)) + ABSOLUTE_MARGIN
    residual = value - line - square
    # |f'' - 2 curve| in a cell: at its middle, and by how much f'' can move from there
    middle = 0.5 * (grid[1:] + grid[:-1])
    bend = np.abs(_sigmoid_bend(middle) - 2 * curve) + 0.51 * step * THIRD_DERIVATIVE + 1e-12
    bulge = step * step * (0.125 * bend) * _ROOM
    low, high = residual - margin, residual + margin
    return (
        (np.minimum(low[1:], low[:-1]) - bulge).min(0),
        (np.maximum(high[1:], high[:-1]) + bulge).max(0),
    )


def tanh_square_residual(zl: npt.ArrayLike, zu: npt.ArrayLike, slope: npt.ArrayLike, curve: npt.ArrayLike) -> Bounds:
    """The same of tanh(z) = 2 sigmoid(2 z) - 1: with y = 2 z, 2 (sigmoid(y) - (slope/4) y - (curve/8) y^2) - 1."""
    zl, zu, slope, curve = _arrays(zl, zu, slope, curve)
    lo, hi = sigmoid_square_residual(2.0 * zl, 2.0 * zu, 0.25 * slope, 0.125 * curve)
    return (
        2.0 * lo - 1.0 - ABSOLUTE_MARGIN * (1.0 + np.abs(lo)),
        2.0 * hi - 1.0 + ABSOLUTE_MARGIN * (1.0 + np.abs(hi)),
    )


def sigmoid_patch_residual(
    zl: npt.ArrayLike, zu: npt.ArrayLike, dl: npt.ArrayLike, du: npt.ArrayLike,
    alpha: npt.ArrayLike, beta: npt.ArrayLike, gamma: npt.ArrayLike,
) -> Bounds:  # fmt: skip
    """(lo, hi) with lo <= sigmoid(z + d) - sigmoid(z) - alpha z - beta d - gamma z d <= hi on [zl, zu] x [dl, du].

    Arguments broadcast; InputError as in `sigmoid_square_residual`.
    """
    zl, zu, dl, du, alpha, beta, gamma = _arrays(zl, zu, dl, du, alpha, beta, gamma)
    _check_box(zl, zu)
    _check_box(dl, du)
    reach = np.maximum(np.abs(dl), np.abs(du))
    # |D_zz| = |sigmoid''(z + d) - sigmoid''(z)| is at most |d| max |sigmoid'''| on the way, and twice max |sigmoid''|.
    third = third_derivative(zl + np.minimum(dl, 0.0), zu + np.maximum(du, 0.0))
    bend = np.minimum(reach * third, 2 * SECOND_DERIVATIVE)
    hi = _patch_sup(zl, zu, dl, du, alpha, beta, gamma, bend, reach)
    # D(-z, -d) = -D(z, d), and the product keeps its sign: the infimum is minus the supremum on the mirrored box.
    lo = -_patch_sup(-zu, -zl, -du, -dl, alpha, beta, -gamma, bend, reach)
    return lo, hi


def tanh_patch_residual(
    zl: npt.ArrayLike, zu: npt.ArrayLike, dl: npt.ArrayLike, du: npt.ArrayLike,
    alpha: npt.ArrayLike, beta: npt.ArrayLike, gamma: npt.ArrayLike,
) -> Bounds:  # fmt: skip
    """The same of tanh, by tanh(z + d) - tanh(z) = 2 (sigmoid(2z + 2d) - sigmoid(2z)); powers of two are exact."""
    zl, zu, dl, du, alpha, beta, gamma = _arrays(zl, zu, dl, du, alpha, beta, gamma)
    lo, hi = sigmoid_patch_residual(
        2.0 * zl, 2.0 * zu, 2.0 * dl, 2.0 * du, 0.25 * alpha, 0.25 * beta, 0.125 * gamma
    )  # fmt: skip
    return 2.0 * lo, 2.0 * hi


def _grid(zl: Array, zu: Array, cells: int) -> tuple[Array, Array]:
    """(cells + 1, ...) points from zl to zu, and the largest distance of neighbours, rounded up."""
    share = np.linspace(0.0, 1.0, cells + 1).reshape(-1, *[1] * zl.ndim)
    grid = np.clip(zl + (zu - zl) * share, zl, zu)
    grid[-1] = zu
    step = np.diff(grid, axis=0).max(0) * _ROOM + 1e-15
    return grid, step


def _sigmoid_bend(t: Array) -> Array:
    """sigmoid'' within 1e-13."""
    e = np.exp(-np.abs(t))
    return np.asarray(np.copysign(e * (1.0 - e) / (1.0 + e) ** 3, -t))


def _patch_sup(
    zl: Array, zu: Array, dl: Array, du: Array, alpha: Array, beta: Array, gamma: Array, bend: Array, reach: Array
) -> Array:
    grid, step = _grid(zl, zu, PATCH_CELLS)
    along = beta + gamma * grid
    shape = grid.shape
    z, low, high, slope, across = (np.broadcast_to(a, shape).ravel() for a in (grid, dl, du, alpha, along))
    at = _z_edge_sup(z, low, high, slope, across).reshape(shape)
    # `along` was rounded twice: 2^-51 of its parts, times d
    at = at + VALUE_MARGIN * (np.abs(beta) + np.abs(gamma * grid)) * reach
    return np.asarray(at.max(0) + step * step * (0.125 * bend) * _ROOM)
