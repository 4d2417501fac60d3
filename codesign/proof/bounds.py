"""Rigorous residuals of planes under sigmoid, tanh and their difference functions, on arrays, in float64.

A relaxation of F over a box is a plane with slopes (alpha, beta) and an interval [lo, hi] that holds F(v) -
alpha v_0 - beta v_1 for every v of the box. The slopes may be anything; the functions here give [lo, hi] such
that the statement is true over the reals (the float64 arguments are taken as exact numbers).

Method (docs/soundness.md, lemmas 1 to 5; source: elementary calculus, shared with the arb closed form of
`codesign.proof.closed_form`). Only the supremum is computed; the infimum follows from oddness. A supremum
over an interval splits at the inflection points: on a convex piece it lies at an end, on a concave piece
every tangent line bounds it, so the point where the tangent touches need not be accurate for the bound to be
true, only for it to be tight. Interior critical points of the difference function are separable and in closed
form.

Floating-point error. Write e = 2^-52, the worst relative error of one IEEE double operation in ANY rounding
mode, and assume that numpy's exp, expm1, tanh err by at most `ASSUMED_ULP` = 4 ulp (relative 4e; measured in
tests/proof/test_bounds.py against arb: under 2). Then, with E = exp(-|t|),

    sigmoid(t)  = 1 / (1 + E) or E / (1 + E)       relative error <= 4e + 2e + |t| e of t's own rounding
    sigmoid'(t) = E / (1 + E)^2                    relative error <= 12e + 4e
    D(z, d)     = +-(1 - exp(-|d|)) sigmoid(max) sigmoid(-min)   (max, min of z and z + d)
                                                   error <= (4 + 6 + 6 + 2) e |D| + 0.25 e

(the last term is the rounding of z + d: |t sigmoid'(t)| < 0.2240). The sum D - alpha z - beta d adds at most
2e (|D| + |alpha z| + |beta d|) + e (|alpha z| + |beta d|). So values err by less than 20e (|D| + |alpha z| +
|beta d|) + 0.25e and derivatives by less than 20e (1/2 + |alpha|) + e (tanh: 20e (1 + |alpha|)); the margins
used are `VALUE_MARGIN` = 64e with an absolute 8e, and `SLOPE_MARGIN` = 64e in place of 20e: about three times
the proven need. Underflow (to subnormals or to zero) moves a result by less than 2^-1000, far inside the
absolute margin.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError

Array = npt.NDArray[np.float64]
Bounds = tuple[Array, Array]

ASSUMED_ULP = 4
VALUE_MARGIN = 2.0**-46
ABSOLUTE_MARGIN = 2.0**-49
SLOPE_MARGIN = 2.0**-46
KAPPA_ERROR = 1e-7  # of _kappa, absolute; see there
MEMBERSHIP_SLACK = 1e-6  # an interior critical point this near the box is counted as in it
INFLECTION_SLACK = 2.0**-45
SECOND_DERIVATIVE = 0.0963  # max |sigmoid''| = 1 / (6 sqrt 3) = 0.09622...
_MAGNITUDE = 1e9
_SMALLEST = 5e-324
_ROOT_STEPS = 60


def sigmoid_plane_residual(zl: npt.ArrayLike, zu: npt.ArrayLike, alpha: npt.ArrayLike) -> Bounds:
    """(lo, hi) with lo <= sigmoid(z) - alpha z <= hi for all z in [zl, zu]; arguments broadcast.

    Tight to about 1e-14 (1 + |alpha z|). InputError for non-finite or reversed boxes and magnitudes over 1e9.
    """
    zl, zu, alpha = _arrays(zl, zu, alpha)
    _check_box(zl, zu)
    lo, hi = tanh_plane_residual(0.5 * zl, 0.5 * zu, 4.0 * alpha)
    return (
        0.5 + 0.5 * lo - ABSOLUTE_MARGIN * (1.0 + np.abs(lo)),
        0.5 + 0.5 * hi + ABSOLUTE_MARGIN * (1.0 + np.abs(hi)),
    )


def tanh_plane_residual(zl: npt.ArrayLike, zu: npt.ArrayLike, alpha: npt.ArrayLike) -> Bounds:
    """(lo, hi) with lo <= tanh(z) - alpha z <= hi for all z in [zl, zu]; see `sigmoid_plane_residual`."""
    zl, zu, alpha = _arrays(zl, zu, alpha)
    _check_box(zl, zu)
    return -_tanh_sup(-zu, -zl, alpha), _tanh_sup(zl, zu, alpha)


def sigmoid_diff_plane_residual(
    zl: npt.ArrayLike,
    zu: npt.ArrayLike,
    dl: npt.ArrayLike,
    du: npt.ArrayLike,
    alpha: npt.ArrayLike,
    beta: npt.ArrayLike,
) -> Bounds:
    """(lo, hi) with lo <= sigmoid(z + d) - sigmoid(z) - alpha z - beta d <= hi on [zl, zu] x [dl, du].

    Arguments broadcast. Tight to about 1e-13 (1 + |alpha z| + |beta d|). InputError as in
    `sigmoid_plane_residual`.
    """
    zl, zu, dl, du, alpha, beta = _arrays(zl, zu, dl, du, alpha, beta)
    _check_box(zl, zu)
    _check_box(dl, du)
    shape = zl.shape
    zl, zu, dl, du, alpha, beta = (np.ravel(a) for a in (zl, zu, dl, du, alpha, beta))
    sup = _diff_sup(
        np.concatenate([zl, -zu]),
        np.concatenate([zu, -zl]),
        np.concatenate([dl, -du]),
        np.concatenate([du, -dl]),
        np.concatenate([alpha, alpha]),
        np.concatenate([beta, beta]),
    )
    return -sup[zl.size :].reshape(shape), sup[: zl.size].reshape(shape)


def tanh_diff_plane_residual(
    zl: npt.ArrayLike,
    zu: npt.ArrayLike,
    dl: npt.ArrayLike,
    du: npt.ArrayLike,
    alpha: npt.ArrayLike,
    beta: npt.ArrayLike,
) -> Bounds:
    """(lo, hi) with lo <= tanh(z + d) - tanh(z) - alpha z - beta d <= hi on [zl, zu] x [dl, du].

    By tanh(z + d) - tanh(z) = 2 (sigmoid(2z + 2d) - sigmoid(2z)): doubling and quartering are exact.
    """
    zl, zu, dl, du, alpha, beta = _arrays(zl, zu, dl, du, alpha, beta)
    lo, hi = sigmoid_diff_plane_residual(2.0 * zl, 2.0 * zu, 2.0 * dl, 2.0 * du, 0.25 * alpha, 0.25 * beta)
    return 2.0 * lo, 2.0 * hi


def _arrays(*values: npt.ArrayLike) -> tuple[Array, ...]:
    arrays = [np.asarray(value, dtype=np.float64) for value in values]
    for array in arrays:
        if array.size and not np.max(np.abs(array)) <= _MAGNITUDE:
            raise InputError(f"boxes and slopes must be finite and at most {_MAGNITUDE:g} in magnitude")
    return tuple(np.broadcast_arrays(*arrays))


def _check_box(lower: Array, upper: Array) -> None:
    if np.any(lower > upper):
        raise InputError("a box has its lower end above its upper end; swap them")


def _sigmoid(t: Array) -> Array:
    e = np.exp(-np.abs(t))
    result: Array = np.where(t >= 0, 1.0, e) / (1.0 + e)
    return result


def _sigmoid_slope(t: Array) -> Array:
    e = np.exp(-np.abs(t))
    result: Array = e / np.square(1.0 + e)
    return result


def _kappa(b: Array) -> Array:
    """The t >= 0 with sigmoid'(t) = b: 2 artanh(s) = 2 log((1 + s) / (2 sqrt b)), s = sqrt(1 - 4b).

    inf for b <= 0 (the derivative is always above), 0 for b >= 1/4 (always below); at most 746 else. Error:
    with b itself off by a relative e = 2^-52, 1 - 4b is off by 2e, s by sqrt(2e) < 2.2e-8 at worst, and for b
    >= 1/8 the derivative of 2 artanh is at most 4: under 1e-7. For b < 1/8 every step is well conditioned:
    under 50e (1 + result).
    """
    inside = np.clip(b, _SMALLEST, 0.25)
    s = np.sqrt(np.maximum(1.0 - 4.0 * inside, 0.0))
    near = 2.0 * np.arctanh(np.minimum(s, 0.75))
    far = 2.0 * np.log((1.0 + s) / (2.0 * np.sqrt(inside)))
    result: Array = np.where(b > 0, np.where(b >= 0.125, near, far), np.inf)
    return result


def _tanh_sup(yl: Array, yu: Array, a: Array) -> Array:
    """An upper bound of tanh(y) - a y on [yl, yu]: convex for y <= 0, concave for y >= 0."""

    def value(y: Array) -> Array:
        t, line = np.tanh(y), a * y
        result: Array = t - line + (VALUE_MARGIN * (np.abs(t) + np.abs(line)) + ABSOLUTE_MARGIN)
        return result

    left = np.clip(0.0, yl, yu)
    touch = np.clip(0.5 * _kappa(0.25 * a), left, yu)
    slope = 4.0 * _sigmoid_slope(2.0 * touch) - a
    sup: Array = np.maximum(value(yl), value(touch) + _tangent_rise(slope, 1.0 + np.abs(a), left, touch, yu))
    return sup


def _tangent_rise(slope: Array, scale: Array, left: Array, touch: Array, right: Array) -> Array:
    """How far the tangent line that touches at `touch` rises above its touching point on [left, right]."""
    margin = SLOPE_MARGIN * scale * (right - left)
    rise: Array = np.maximum(slope * (right - touch), slope * (left - touch))
    return rise + margin


def _difference(z: Array, d: Array) -> Array:
    u = z + d
    size = -np.expm1(-np.abs(d)) * _sigmoid(np.maximum(z, u)) * _sigmoid(-np.minimum(z, u))
    result: Array = np.copysign(size, d)
    return result


def _diff_value(z: Array, d: Array, alpha: Array, beta: Array) -> Array:
    """An upper bound of sigmoid(z + d) - sigmoid(z) - alpha z - beta d at points."""
    difference, za, db = _difference(z, d), alpha * z, beta * d
    margin = VALUE_MARGIN * (np.abs(difference) + np.abs(za) + np.abs(db)) + ABSOLUTE_MARGIN
    result: Array = difference - za - db + margin
    return result


def _diff_sup(zl: Array, zu: Array, dl: Array, du: Array, alpha: Array, beta: Array) -> Array:
    """An upper bound of sigmoid(z + d) - sigmoid(z) - alpha z - beta d over boxes; all arrays 1-D."""
    sup = np.maximum(
        _z_edge_sup(zl, dl, du, alpha, beta),
        _z_edge_sup(zu, dl, du, alpha, beta),
    )
    for edge in (dl, du):
        np.maximum(sup, _d_edge_sup(zl, zu, edge, alpha, beta), out=sup)
    _raise_to_interior_maximum(sup, zl, zu, dl, du, alpha, beta)
    return sup


def _z_edge_sup(z: Array, dl: Array, du: Array, alpha: Array, beta: Array) -> Array:
    """Supremum over d at fixed z: convex for z + d <= 0, then concave, critical at z + d = kappa(beta)."""
    left = np.clip(-z, dl, du)
    touch = np.clip(_kappa(beta) - z, left, du)
    slope = _sigmoid_slope(z + touch) - beta
    rise = _tangent_rise(slope, 0.5 + np.abs(beta), left, touch, du)
    result: Array = np.maximum(_diff_value(z, dl, alpha, beta), _diff_value(z, touch, alpha, beta) + rise)
    return result


def _d_edge_sup(zl: Array, zu: Array, d: Array, alpha: Array, beta: Array) -> Array:
    """Supremum over z at fixed d, given that the corners are counted elsewhere.

    D(z, d) = S / (cosh v + C), v = z + d/2, S = sinh(d/2), C = cosh(d/2), has its inflections at cosh v = w,
    w^2 - C w - 2 = 0. For d >= 0 it is concave between them, for d < 0 outside. The pieces are widened by a
    slack that covers the rounding of the inflection; where the touching point falls into the widening of at
    most 2 slack, the second derivative there is at most 2 slack max|D_zzz| <= slack / 2, so the tangent is
    short by less than slack^2 times the width.
    """
    size = np.abs(d)
    e = np.exp(-size)
    sech2 = 4.0 * e / np.square(1.0 + e)
    ratio = 0.5 + 0.5 * np.sqrt(1.0 + 8.0 * sech2)
    inflection = 0.5 * size + np.log1p(e) - np.log(2.0) + np.log(ratio + np.sqrt(ratio * ratio - sech2))
    slack = INFLECTION_SLACK * (1.0 + inflection + size)
    middle = -0.5 * d
    bell = d >= 0
    sup = _concave_piece_sup(
        np.clip(np.where(bell, middle - inflection - slack, zl), zl, zu),
        np.clip(np.where(bell, middle + inflection, middle - inflection) + slack, zl, zu),
        slack,
        d,
        alpha,
        beta,
    )
    dent = np.flatnonzero(~bell & (middle + inflection - slack < zu))
    if dent.size:
        zl, zu, d, alpha, beta, slack = (a[dent] for a in (zl, zu, d, alpha, beta, slack))
        left = np.clip(middle[dent] + inflection[dent] - slack, zl, zu)
        sup[dent] = np.maximum(sup[dent], _concave_piece_sup(left, zu, slack, d, alpha, beta))
    return sup


def _concave_piece_sup(left: Array, right: Array, slack: Array, d: Array, alpha: Array, beta: Array) -> Array:
    touch = _stationary(left, right, d, alpha)
    slope = _sigmoid_slope(touch + d) - _sigmoid_slope(touch) - alpha
    rise = _tangent_rise(slope, 0.5 + np.abs(alpha), left, touch, right)
    result: Array = _diff_value(touch, d, alpha, beta) + rise + slack * slack * (right - left)
    return result


def _stationary(left: Array, right: Array, d: Array, alpha: Array) -> Array:
    """Where D_z(z, d) - alpha, decreasing on [left, right], changes sign; an end where it does not.

    Newton's method kept inside a shrinking bracket, with a bisection every third step. Its accuracy is a
    matter of tightness only.
    """
    slope_left = _sigmoid_slope(left + d) - _sigmoid_slope(left) - alpha
    slope_right = _sigmoid_slope(right + d) - _sigmoid_slope(right) - alpha
    result: Array = np.where(slope_left <= 0, left, right)
    todo = np.flatnonzero((slope_left > 0) & (slope_right < 0))
    if not todo.size:
        return result
    p, q, d, alpha = left[todo], right[todo], d[todo], alpha[todo]
    width = q - p
    x = p + (q - p) * (slope_left[todo] / (slope_left[todo] - slope_right[todo]))
    for step in range(1, _ROOT_STEPS + 1):
        first_u, second_u = _two_derivatives(x + d)
        first_z, second_z = _two_derivatives(x)
        slope = first_u - first_z - alpha
        rising = slope > 0
        p, q = np.where(rising, x, p), np.where(rising, q, x)
        curvature = np.minimum(second_u - second_z, -1e-300)
        newton = x - np.clip(slope / curvature, -1e300, 1e300)
        done = (np.abs(slope) * width <= 1e-16) | (np.abs(slope) <= 3e-17) | (q - p <= 1e-15 * np.abs(x))
        inside = (newton > p) & (newton < q) & (step % 3 != 0)
        following = np.where(inside, newton, 0.5 * (p + q))
        if np.any(done):
            result[todo[done]] = x[done]
            keep = ~done
            todo, p, q, width, d, alpha, following = (a[keep] for a in (todo, p, q, width, d, alpha, following))
            if not todo.size:
                return result
        x = following
    result[todo] = x
    return result


def _two_derivatives(t: Array) -> tuple[Array, Array]:
    e = np.exp(-np.abs(t))
    scale = 1.0 / (1.0 + e)
    first = e * scale * scale
    return first, np.copysign(first * (1.0 - e) * scale, -t)


def _raise_to_interior_maximum(
    sup: Array, zl: Array, zu: Array, dl: Array, du: Array, alpha: Array, beta: Array
) -> None:
    """Count the one critical point that can be a maximum: z = -kappa(beta - alpha), z + d = kappa(beta).

    In (z, u = z + d) the function is a sum of two functions of one variable; a maximum needs sigmoid''(u) <=
    0 and sigmoid''(z) >= 0. The point's rounding moves the value by at most SECOND_DERIVATIVE times its error
    squared.
    """
    gamma = beta - alpha
    candidates = np.flatnonzero((beta > 0) & (beta <= 0.25) & (gamma > 0) & (gamma <= 0.25))
    if not candidates.size:
        return
    z, u = -_kappa(gamma[candidates]), _kappa(beta[candidates])
    d = u - z
    slack = MEMBERSHIP_SLACK * (1.0 + np.abs(z) * 1e-6 + np.abs(d) * 1e-6)
    near = (z >= zl[candidates] - slack) & (z <= zu[candidates] + slack)
    near &= (d >= dl[candidates] - slack) & (d <= du[candidates] + slack)
    chosen = candidates[near]
    value = _diff_value(z[near], d[near], alpha[chosen], beta[chosen])
    value += SECOND_DERIVATIVE * 2.0 * KAPPA_ERROR**2
    sup[chosen] = np.maximum(sup[chosen], value)


def require_round_to_nearest() -> None:
    """RuntimeError unless this thread rounds to nearest."""
    one, half = np.float64(1.0), np.float64(2.0**-53)
    if not (one + half == one and -one - half == -one and one + half * np.float64(1.5) > one):
        raise RuntimeError("the floating-point rounding mode of this process is not round-to-nearest")
