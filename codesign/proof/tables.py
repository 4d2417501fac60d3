"""How far an integer table is from the function it stands for, over every argument, in rigorous arithmetic.

A table is a function of one integer, so its error is a finite set; the real function is enclosed by Arb. The results
are stored in certificates, and enumerated again by whoever checks one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Function = Literal["sigmoid", "tanh", "exp"]
Array = npt.NDArray[np.float64]
Table = npt.NDArray[np.signedinteger[Any]]

_PRECISION = 96
# Enclosures have radius below 2^-80; the conversion to binary64 is within 2^-53 of a value of at most 1.
_CONVERSION = 2.0**-52


@lru_cache(maxsize=32)
def function_values(function: Function, scale: float, lowest: int, highest: int) -> Array:
    """function(scale k) for k = lowest..highest, each within 2^-52 of the real value; |function| <= 1.

    `scale` is taken exactly. ArithmeticError where an enclosure is wider than it should be (it never is).
    """
    import flint

    old = flint.ctx.prec
    flint.ctx.prec = _PRECISION
    try:
        step, one, tiny = flint.arb(scale), flint.arb(1), flint.arb(2) ** -80
        values = np.empty(highest - lowest + 1)
        odd = {k for k in range(lowest, highest + 1) if k > 0 and -k >= lowest} if function != "exp" else set()
        for k in range(lowest, highest + 1):
            if k in odd:
                continue
            z = step * k
            ball = z.exp() if function == "exp" else z.tanh() if function == "tanh" else one / (one + (-z).exp())
            if not ball.rad() < tiny:
                raise ArithmeticError("an enclosure of a table's function is too wide")
            values[k - lowest] = float(ball.mid())
            if -k in odd:  # sigmoid(-z) = 1 - sigmoid(z), tanh is odd
                mirrored = one - ball if function == "sigmoid" else -ball
                values[-k - lowest] = float(mirrored.mid())
    finally:
        flint.ctx.prec = old
    values.setflags(write=False)
    return values


def table_errors(
    table: Table, unit: float, function: Function, scale: float, lowest: int, zero_point: int = 0
) -> tuple[Array, Array]:
    """(lo, hi), an entry each: lo <= unit (table[k] - zero_point) - function(scale (lowest + k)) <= hi.

    Entry k of `table` belongs to the argument scale (lowest + k). `unit` is exact; the ends are rounded outward.
    """
    exact = function_values(function, scale, lowest, lowest + len(table) - 1)
    stored = unit * (table.astype(np.float64) - zero_point)
    error = stored - exact
    slack = _CONVERSION + 2.0**-52 * np.abs(stored) + 2.0**-52 * np.abs(error) + 2.0**-60
    return error - slack, error + slack


def table_range(
    table: Table, unit: float, function: Function, scale: float, lowest: int, zero_point: int = 0
) -> tuple[float, float]:
    """The extremes of `table_errors` over all entries."""
    lo, hi = table_errors(table, unit, function, scale, lowest, zero_point)
    return float(lo.min()), float(hi.max())
