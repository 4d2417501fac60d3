"""What follows of the order of outputs from derived margins, for every input of a region (docs/regions.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from codesign.checker.head import Margins, output_margins
from codesign.checker.solver import Facts, others
from codesign.proof.forms import Array, Box, Flags
from codesign.quantization.integer import IntActivation


def above(m: Margins, softmax: IntActivation | None, facts: Facts) -> Flags:
    """(M, M): class i is above class j in both networks' outputs, for every input of the one region."""
    return np.asarray((m.value.lo[0] > 0) & (output_margins(softmax, m, facts)[0] > 0))


def winner(flags: Flags) -> int | None:
    """The class that is above all others."""
    found = np.flatnonzero((flags | np.eye(len(flags), dtype=bool)).all(1))
    return int(found[0]) if found.size == 1 else None


def follows(order: str, asked: Any, rows: Sequence[Margins], softmax: IntActivation | None, facts: Facts) -> bool:
    """Whether an order criterion does, in every row of outputs."""
    rules: dict[str, Callable[..., bool]] = {"ranking": _ranking, "topk": _topk, "top1_above": _top1_above}
    return all(rules[order](asked, m, softmax, facts) for m in rows)


def _topk(count: int, m: Margins, softmax: IntActivation | None, facts: Facts) -> bool:
    flags = above(m, softmax, facts)
    inside = np.argsort(-flags.sum(1), kind="stable")[:count]
    return bool(flags[np.ix_(inside, np.setdiff1d(np.arange(len(flags)), inside))].all())


def _ranking(pair: list[int], m: Margins, softmax: IntActivation | None, facts: Facts) -> bool:
    """Output I never is above J; or cannot fall behind; or stays above in the integer network whenever it is."""
    i, j = pair
    floor = np.full(m.value.lo.shape, -np.inf)
    floor[:, i, j] = 0.0
    kept = output_margins(softmax, _given(m, floor), facts)[0, i, j] > 0
    return bool(m.value.hi[0, i, j] <= 0 or kept or (softmax is None and m.difference.lo[0, i, j] >= 0))


def _given(m: Margins, floor: Array) -> Margins:
    """The ranges under the condition l_i - l_j >= floor (1, M, M); empty where nothing satisfies it."""
    ceiling = -np.swapaxes(floor, 1, 2)
    value = Box(np.maximum(m.value.lo, floor), np.minimum(m.value.hi, ceiling))
    total = value.lo + m.difference.lo - 1e-14 * (np.abs(value.lo) + np.abs(m.difference.lo))
    low = np.maximum(m.integer.lo, total)
    return Margins(value, m.difference, Box(low, np.minimum(m.integer.hi, -np.swapaxes(low, 1, 2))))


def _top1_above(least: float, m: Margins, softmax: IntActivation | None, facts: Facts) -> bool:
    """Every class that can be the float network's with a probability above `least` is the integer network's as well.

    p_i > least means sum_{j != i} exp(l_j - l_i) < (1 - least) / least; each other term is at least exp(-max(l_i -
    l_k)), so that l_i - l_j is above -log of what the others leave.
    """
    other, classes = others(m.value)[0], m.value.lo.shape[1]
    room = np.inf if least == 0 else (1.0 - least) / least * (1 + 1e-12)
    for i in range(classes):
        terms = np.where(other[i], np.exp(np.clip(-m.value.hi[0, i], -745.0, 700.0)) * (1 - 1e-12), 0.0)
        left = room - (terms * other).sum(1) * (1 - 1e-12)
        bound = -np.log(np.where(left > 0, left, 1.0))
        bound = np.maximum(bound - 1e-12 * (1 + np.where(np.isfinite(bound), np.abs(bound), 0.0)), 0.0)
        if (other[i] & ((left <= 0) | (bound > m.value.hi[0, i]))).any():
            continue  # never so probable
        floor = np.full(m.value.lo.shape, -np.inf)
        floor[0, i] = np.where(other[i], bound, -np.inf)
        if not (output_margins(softmax, _given(m, floor), facts)[0, i][other[i]] > 0).all():
            return False
    return True
