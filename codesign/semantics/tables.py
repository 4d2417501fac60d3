"""The LSTM's sigmoid and tanh: functions of one int16, as whole tables.

Formulas: TFLite's int16 Logistic and Tanh (integer_ops/logistic.h, tanh.h) as the LSTM kernel calls them. Simulation
uses these arrays, and a verifier can enumerate them: nothing else is needed to bound their error.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from codesign.semantics.knots import SIGMOID_KNOTS_Q16

Int16Array = npt.NDArray[np.int16]
Int64Array = npt.NDArray[np.int64]

_L = np.array(SIGMOID_KNOTS_Q16 + SIGMOID_KNOTS_Q16[-1:], np.int64)
_X = np.arange(-(1 << 15), 1 << 15, dtype=np.int64)


def _freeze(values: npt.NDArray[np.int64]) -> Int16Array:
    table = values.astype(np.int16)
    table.setflags(write=False)
    return table


@cache
def sigmoid_table() -> Int16Array:
    """sigma: int16 Q3.12 -> Q0.15, as an array of 65536 indexed by x + 32768. Read-only."""
    return _freeze(sigmoid_of(3 * _X))


def sigmoid_of(d: Int64Array) -> Int64Array:
    """The sigmoid in Q0.15 of inputs in steps of 1 / (3 * 2^12): interpolation between 256 knots, 1/24 apart."""
    a = np.abs(d)
    n = np.minimum(a >> 9, 255)
    r = np.where(n >= 255, 0x7FFF << 10, (_L[n] << 9) + (a & 511) * (_L[n + 1] - _L[n]))
    result: Int64Array = np.where(d >= 0, r + 512, (1 << 25) - r + 511) >> 10
    return result


def tanh_of(d: Int64Array) -> Int64Array:
    """The tanh in Q0.15 of inputs in steps of 1 / (3 * 2^12), from the same knots: tanh(x) = 2 sigmoid(2 x) - 1."""
    a = np.abs(d)
    n = np.minimum(a >> 8, 255)
    r = np.where(n >= 255, 0xFFFF << 8, (_L[n] << 8) + (a & 255) * (_L[n + 1] - _L[n]))
    result: Int64Array = np.where(d >= 0, r - (1 << 23) + 128, -r + (1 << 23) + 127) >> 8
    return result


@cache
def tanh_table(cell_shift_q: int = -12) -> Int16Array:
    """tau: int16 at scale 2^cell_shift_q -> Q0.15, as an array of 65536 indexed by x + 32768. Read-only.

    -12 is the cell gate's own Q3.12; `IntLstm.cell_shift` gives the table of the cell state. -40 <= cell_shift_q <= 2:
    beyond it the kernel's 32-bit input would overflow or vanish (ValueError).
    """
    if not -40 <= cell_shift_q <= 2:
        raise ValueError(f"cell shift {cell_shift_q} is outside -40..2")
    s = 12 + cell_shift_q
    d = _X * (3 << s) if s >= 0 else (3 * _X + (1 << (-s - 1))) >> -s
    return _freeze(tanh_of(d))
