"""Second-order relaxations: a parabola under sigmoid and tanh, a quadratic patch under their products, and eigenvalues.

A patch is f(u, v) = k + a du + b dv + q_uu du^2 + q_uv du dv + q_vv dv^2 +- rad over a box, du = u - u0, dv = v - v0.
As with planes, the coefficients are chosen freely and only the residual has to be right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.verification.affine import UNIT, Array, Box, gamma, product_box, up
from codesign.verification.curved import curve
from codesign.verification.relaxation import Function, Recorder, image


@dataclass(frozen=True, eq=False)
class Parabola:
    """f(z) = s0 + s1 d + s2 d^2 + [lo, hi] with d = z - center, over a box."""

    s0: Array
    s1: Array
    s2: Array
    residual: Box


def parabola(
    function: Function, box: Box, center: Array, place: str = "", recorder: Recorder | None = None
) -> Parabola:
    """`curved.curve` expanded around `center`; what its coefficients lose by rounding there is in the residual."""
    fit = curve(function, box, place, recorder)
    middle = fit.residual.mid
    s1 = fit.slope + 2 * fit.curve * center
    s0 = fit.slope * center + fit.curve * center**2 + middle
    size = np.abs(fit.slope * center) + np.abs(fit.curve) * center**2 + np.abs(middle)
    lost = up(16 * UNIT * (size + (np.abs(fit.slope) + 2 * np.abs(fit.curve * center)) * _reach(box, center)))
    return Parabola(s0, s1, fit.curve, (fit.residual + Box(-middle, -middle)).widen(lost))


@dataclass(frozen=True, eq=False)
class Patch:
    """k + a du + b dv + q_uu du^2 + q_uv du dv + q_vv dv^2 +- rad; `size` bounds the sum of absolute terms."""

    k: Array
    a: Array
    b: Array
    q: tuple[Array, Array, Array]
    rad: Array
    size: Array


def product_patch(s: Parabola, s_image: Box, ur: Array, y: Parabola, y_image: Box, vr: Array) -> Patch:
    """The product of two parabolas over |du| <= ur, |dv| <= vr; images are ranges of the functions themselves.

    Terms of third order du^2 dv = (ur^2 / 2) dv +- ur^2 vr / 2, so half of each goes into the linear part.
    """
    a = y.s0 * s.s1 + 0.5 * vr**2 * s.s1 * y.s2
    b = s.s0 * y.s1 + 0.5 * ur**2 * s.s2 * y.s1
    q = (y.s0 * s.s2, s.s1 * y.s1, s.s0 * y.s2)
    cubic = 0.5 * np.abs(s.s1 * y.s2) * ur * vr**2 + 0.5 * np.abs(s.s2 * y.s1) * ur**2 * vr
    quartic = np.abs(s.s2 * y.s2) * (ur * vr) ** 2
    # S Y - S_q Y_q = r_S Y + S_q r_Y with S_q = S - r_S.
    fitted = s_image + Box(-s.residual.hi, -s.residual.lo)
    rest = product_box(s.residual, y_image) + product_box(fitted, y.residual)
    constant = s.s0 * y.s0
    whole_s = np.abs(s.s0) + np.abs(s.s1) * ur + np.abs(s.s2) * ur**2 + s.residual.mag
    whole_y = np.abs(y.s0) + np.abs(y.s1) * vr + np.abs(y.s2) * vr**2 + y.residual.mag
    size = whole_s * whole_y
    rad = up(rest.rad + cubic + quartic + 64 * UNIT * size)
    return Patch(constant + rest.mid, a, b, q, rad, size)


def sigmoid_times(u: Box, u0: Array, v: Box, v0: Array, place: str, recorder: Recorder | None) -> Patch:
    """sigmoid(u) v over a box, expanded around (u0, v0)."""
    s = parabola("sigmoid", u, u0, f"{place} sigmoid", recorder)
    zero, one = np.zeros_like(v0), np.ones_like(v0)
    line = Parabola(v0, one, zero, Box(zero, zero))
    return product_patch(s, image("sigmoid", u, place, recorder), _reach(u, u0), line, v, _reach(v, v0))


def sigmoid_tanh(u: Box, u0: Array, v: Box, v0: Array, place: str, recorder: Recorder | None) -> Patch:
    """sigmoid(u) tanh(v) over a box, expanded around (u0, v0)."""
    s = parabola("sigmoid", u, u0, f"{place} sigmoid", recorder)
    y = parabola("tanh", v, v0, f"{place} tanh", recorder)
    images = image("sigmoid", u, place, recorder), image("tanh", v, place, recorder)
    return product_patch(s, images[0], _reach(u, u0), y, images[1], _reach(v, v0))


def _reach(box: Box, center: Array) -> Array:
    return up(np.maximum(np.maximum(box.hi - center, center - box.lo), 0.0) + 2 * UNIT * (box.mag + np.abs(center)))


def _lanczos(matrix: npt.NDArray[Any], steps: int) -> tuple[float, float]:
    """Estimates of the extreme eigenvalues of a symmetric matrix; not rigorous."""
    n = matrix.shape[0]
    q = matrix[int(np.argmax(np.abs(matrix).sum(1)))] + 1e-3 * np.abs(matrix).max()
    basis = np.zeros((min(steps, n), n), dtype=matrix.dtype)
    alpha, beta = [], []
    q = q / np.linalg.norm(q)
    for k in range(len(basis)):
        basis[k] = q
        w = matrix @ q
        alpha.append(float(q @ w))
        w = w - basis[: k + 1].T @ (basis[: k + 1] @ w)
        w = w - basis[: k + 1].T @ (basis[: k + 1] @ w)
        norm = float(np.linalg.norm(w))
        if norm < 1e-6 * (abs(alpha[0]) + 1e-300) or k + 1 == len(basis):
            break
        beta.append(norm)
        q = w / norm
    size = len(alpha)
    tridiagonal = np.diag(alpha) + np.diag(beta[: size - 1], 1) + np.diag(beta[: size - 1], -1)
    ends = np.linalg.eigvalsh(tridiagonal)
    return float(ends[0]), float(ends[-1])


def largest_eigenvalue(matrix: npt.NDArray[Any], steps: int = 12) -> float:
    """A rigorous upper bound, >= 0, of the largest eigenvalue of a symmetric matrix."""
    return _eigenvalues(matrix, steps, False)[0]


def eigenvalue_bounds(matrix: npt.NDArray[Any], steps: int = 18) -> tuple[float, float]:
    """Rigorous upper bounds, >= 0, of the largest eigenvalue of a symmetric matrix and of its negative.

    c I - A is positive semidefinite up to the backward error of a Cholesky factorisation that succeeds (Rump,
    'Verification of positive definiteness', BIT 46, 2006): gamma_(n+1) times the trace, taken twice here. float32
    matrices are factorised in float32.
    """
    return _eigenvalues(matrix, steps, True)


def _eigenvalues(matrix: npt.NDArray[Any], steps: int, both: bool) -> tuple[float, float]:
    unit = 2.0**-24 if matrix.dtype == np.float32 else UNIT
    rows = np.einsum("ij,ij->i", matrix, matrix) * (1 + 4 * (len(matrix) + 8) * unit)
    lost = 1e-30 if matrix.dtype == np.float32 else 1e-290  # squares that underflow
    norm = float(np.sqrt(rows.astype(np.float64).sum() * (1 + gamma(len(matrix))) + lost))
    if not matrix.any():
        return 0.0, 0.0
    if not np.isfinite(norm):
        return norm, norm
    low, high = _lanczos(matrix, steps)
    negative = _verified(matrix, -1.0, -low, norm, unit) if both else norm
    return _verified(matrix, 1.0, high, norm, unit), negative


def _verified(matrix: npt.NDArray[Any], sign: float, guess: float, norm: float, unit: float) -> float:
    """The guess with a little room if a Cholesky factorisation confirms it, else a larger one; at most `norm`."""
    from scipy.linalg.lapack import get_lapack_funcs

    n = matrix.shape[0]
    factorise = get_lapack_funcs("potrf", (matrix,))
    shift = max(guess, 0.0) * 1.01 + 1e-3 * norm
    shifted = -sign * matrix
    diagonal = np.diagonal(shifted).astype(np.float64)
    for _ in range(4):
        if shift >= norm:
            break
        entries = (diagonal + shift).astype(matrix.dtype)
        np.fill_diagonal(shifted, entries)
        if factorise(shifted.T, lower=1, clean=0)[1] != 0:  # not positive definite
            shift *= 1.15
            continue
        # The entries themselves were rounded: by at most `unit` of the largest.
        trace = float(entries.astype(np.float64).sum())
        return shift + 2 * (n + 8) * unit * trace + 2 * unit * float(np.abs(entries).max()) + 1e-290
    return norm


def absolute_rows(form: npt.NDArray[np.float64]) -> Array:
    """Sum of absolute values along the last axis, rounded up."""
    return up(np.abs(form).sum(-1) * (1 + gamma(form.shape[-1])))
