"""Largest errors of an LSTM's integer tables over ranges of their argument."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from codesign.verification import rounding
from codesign.verification.affine import Array, Box


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
