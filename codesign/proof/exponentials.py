"""Exponentials, logarithms and log-odds of a softmax on arrays, with the facts that they rest on (lemma 16).

Every enclosure that is returned follows from facts about exp and tanh, which go to `note` as they are used: a fact says
lo <= f(z) <= hi for all z in [lower, upper], elementwise, and becomes an obligation with slope 0. An undischarged fact
rests on numpy as in `codesign.proof.bounds`, whose docstring has the assumption (4 units in the last place). `ROOM` is
well above that, so that branch and bound in ball arithmetic and solvers in binary64 intervals decide every fact. What
is computed with these enclosures besides (sums, differences, quotients) is rounded outward.

docs/soundness.md, lemma 16, has the proofs. B regions, M classes; arrays may have any shape where none is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.proof.bounds import tanh_plane_residual

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Note = Callable[[Literal["exp", "tanh"], Array, Array, Array, Array], object]
"""Takes a fact: (function, lower, upper, lo, hi), arrays of one shape."""

ROOM = 2.0**-40  # relative, of every exponential
LARGEST = 700.0  # of an exponential's argument
LARGEST_MARGIN = 1e8  # of logits
SINGLE = 800.0  # log-odds of the only class, for infinity: sigmoid is 1 there to within any room
_UNIT = 2.0**-53
_LOG_ENDS = 1e-300, 1e300


def exp_range(lo: npt.ArrayLike, hi: npt.ArrayLike, note: Note | None = None) -> tuple[Array, Array]:
    """(lower, upper) around exp over [lo, hi]; arguments broadcast, -inf is allowed.

    Below -700 the lower end is 0 and the upper one that of -700. InputError for an argument above 700, a reversed
    interval or NaN: clip first, to a side on which the bound stays right.
    """
    lo, hi = np.broadcast_arrays(np.asarray(lo, np.float64), np.asarray(hi, np.float64))
    if not ((lo <= hi) & (hi <= LARGEST)).all():
        raise InputError(f"exponentials are enclosed over intervals that end at {LARGEST:g} at most")
    first, last = np.maximum(lo, -LARGEST), np.maximum(hi, -LARGEST)
    lower = np.where(lo < -LARGEST, 0.0, np.exp(first) * (1 - ROOM))
    upper = np.exp(last) * (1 + ROOM)
    if note is not None:
        note("exp", first, last, lower, upper)
    return lower, upper


def log_range(lo: npt.ArrayLike, hi: npt.ArrayLike, note: Note | None = None) -> tuple[Array, Array]:
    """(y_lo, y_hi) with exp(y_lo) <= lo and hi <= exp(y_hi), so around log over [lo, hi]; arguments broadcast.

    Two facts an element, about exp at the single points y_lo and y_hi. InputError outside [1e-300, 1e300].
    """
    lo, hi = np.broadcast_arrays(np.asarray(lo, np.float64), np.asarray(hi, np.float64))
    least, largest = _LOG_ENDS
    if not ((lo >= least) & (lo <= largest) & (hi >= least) & (hi <= largest)).all():
        raise InputError(f"logarithms are enclosed between {least:g} and {largest:g}")
    low, high = np.log(lo), np.log(hi)
    # a logarithm is off by 4 ulp and the rounding of this subtraction: below 2^-49 of it
    low, high = low - (ROOM + 2.0**-48 * np.abs(low)), high + (ROOM + 2.0**-48 * np.abs(high))
    if note is not None:
        note("exp", low, low, np.zeros_like(lo), lo)
        note("exp", high, high, hi, 2.0 * hi)
    return low, high


def complement_range(lo: npt.ArrayLike, hi: npt.ArrayLike, note: Note | None = None) -> tuple[Array, Array]:
    """(lower, upper) around 1 - exp(-x) for x in [lo, hi], lo >= 0; by 2 t / (1 + t), t = tanh(x / 2), without loss.

    Arguments broadcast; InputError for negative or reversed intervals.
    """
    lo, hi = np.broadcast_arrays(np.asarray(lo, np.float64), np.asarray(hi, np.float64))
    if not ((lo >= 0) & (lo <= hi)).all():
        raise InputError("1 - exp(-x) is enclosed over intervals of numbers that are not negative")
    first, last = 0.5 * np.minimum(lo, LARGEST), np.maximum(0.5 * np.minimum(hi, LARGEST), 1e-300)  # halves underflow
    least, most = tanh_plane_residual(first, last, np.zeros_like(first))
    if note is not None:
        note("tanh", first, last, least, most)
    least, most = np.maximum(least, 0.0), np.minimum(most, 1.0)
    lower = 2.0 * least / (1.0 + least) * (1 - 8 * _UNIT)
    upper = np.minimum(2.0 * most / (1.0 + most) * (1 + 8 * _UNIT), 1.0)
    return lower, np.where(hi > LARGEST, 1.0, upper)


def log_odds(lo: Array, hi: Array, note: Note | None = None) -> tuple[Array, Array]:
    """(lower, upper), (B, M), around log p_i / (1 - p_i) = -log sum_{j != i} exp(l_j - l_i) for a softmax p.

    `lo`, `hi` (B, M, M): ranges of l_i - l_j; the diagonal does not count. As `odds_of` for the rest.
    """
    batch, classes = lo.shape[:2]
    off = ~np.eye(classes, dtype=bool)
    least, most = (end[:, off].reshape(batch, classes, classes - 1) for end in (lo, hi))
    return odds_of(least, most, note)


def odds_of(lo: Array, hi: Array, note: Note | None = None) -> tuple[Array, Array]:
    """The same for single classes i, (...), from ranges (..., K) of l_i - l_j over all other classes j.

    An empty range (lo > hi) counts as [hi, lo]. Where i is the only class (K = 0), both are `SINGLE`. InputError for
    ranges that are not within +-`LARGEST_MARGIN`.
    """
    if not lo.shape[-1]:
        return np.full(lo.shape[:-1], SINGLE), np.full(lo.shape[:-1], SINGLE)
    least, most = np.minimum(lo, hi), np.maximum(lo, hi)
    if not ((least >= -LARGEST_MARGIN) & (most <= LARGEST_MARGIN)).all():
        raise InputError(f"differences of logits are not within {LARGEST_MARGIN:g}; no softmax is bounded for these")
    (top_lo, _, sums_hi), (top_hi, sums_lo, _) = _shifted_sum(-least, note), _shifted_sum(-most, note)
    log_lo, log_hi = log_range(sums_lo, sums_hi, note)
    lower, upper = -(top_lo + log_hi), -(top_hi + log_lo)
    return lower - 4 * _UNIT * np.abs(lower), upper + 4 * _UNIT * np.abs(upper)


def _shifted_sum(terms: Array, note: Note | None) -> tuple[Array, Array, Array]:
    """(m, lower, upper), (...), with sum_j exp(terms_j) in exp(m) [lower, upper]; m is the largest term."""
    top = terms.max(-1)
    shifted = terms - top[..., None]
    slack = 4 * _UNIT * np.abs(shifted)  # of that subtraction
    lower, upper = exp_range(shifted - slack, shifted + slack, note)
    room = 2 * (terms.shape[-1] + 8) * _UNIT  # of a sum, in any order
    return top, lower.sum(-1) * (1 - room), upper.sum(-1) * (1 + room)


def confident_margins(hi: Array, i: int, probability: float, note: Note | None = None) -> tuple[Array, Flags]:
    """(bounds (B, M) below l_i - l_j, whether there is nothing to bound (B,)) where class i is a softmax's top-1 class
    with p_i > `probability`.

    `hi` (B, M): largest l_i - l_j; entry i does not count, and its bound is 0.
    """
    others = ~np.eye(hi.shape[1], dtype=bool)
    limit = np.inf if probability == 0 else (1.0 - probability) / probability * (1 + 8 * _UNIT)
    least = np.minimum(-hi, LARGEST)
    terms = exp_range(least, least, note)[0] * others[i]
    rest = (terms[:, None, :] * others).sum(2) * (1 - 2 * (hi.shape[1] + 8) * _UNIT)
    left = (limit - rest) * (1 + 4 * _UNIT)
    used = np.where(others[i] & (left > 0), np.clip(left, _LOG_ENDS[0], 1.0), 1.0)
    bound = np.where(others[i], np.maximum(-log_range(used, used, note)[1], 0.0), 0.0)
    return bound, (others[i] & ((left <= 0) | (bound > hi))).any(1)
