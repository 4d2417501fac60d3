"""Quantization ranges that cover every value a float network can take over its whole input domain.

Ranges from calibration samples are narrower than what other inputs of the domain reach; there the integer network
saturates, and an all-inputs bound has to pay for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.network import Activation, Dense, FloatNetwork, Lstm, Reshape
from codesign.verification import relaxation
from codesign.verification.affine import Box, Matrix
from codesign.verification.comparison import FloatLayer, affine_box, hull

FloatArray = npt.NDArray[np.float64]


ROOM = 0.03  # of a Dense output's range, on both sides: the integer network's values go beyond the float ones


@dataclass(frozen=True)
class Ranges:
    """Of one layer's output: smallest and largest value; `cell_shift`: the cell scale's exponent (LSTM only)."""

    lo: float
    hi: float
    cell_shift: int = 0


def cell_shift(largest: float) -> int:
    """The exponent p of the smallest power-of-two scale 2^p at which int16 holds magnitudes up to `largest`."""
    shift = math.ceil(math.log2(max(largest, 2.0**-5))) - 15
    return shift if largest <= 32767 * 2.0**shift else shift + 1


def float_ranges(network: FloatNetwork, domain: tuple[FloatArray, FloatArray], steps: int | None) -> list[Ranges]:
    """Ranges of every layer's output over `steps` steps (None: any number) with inputs from the domain (lo, hi).

    InputError for a network whose cells have no bounded range, or with a layer that mixes time steps.
    """
    box = Box(np.asarray(domain[0], np.float64), np.asarray(domain[1], np.float64))
    result: list[Ranges] = []
    for layer in network.layers:
        shift = 0
        if isinstance(layer, Lstm):
            box, cell = _lstm(layer, box, steps)
            shift = cell_shift(float(cell.mag.max()) * 1.001)
        elif isinstance(layer, Dense):
            box = affine_box([(Matrix.exact(layer.W), box)], layer.b.astype(np.float64))
            lo, hi = float(box.lo.min()), float(box.hi.max())
            room = ROOM * (max(hi, 0.0) - min(lo, 0.0))
            result.append(Ranges(lo - room, hi + room))
            box = activated(layer.activation, box)
            continue
        elif isinstance(layer, Activation):
            box = activated(layer.kind, box)
        elif isinstance(layer, Reshape) and layer.shape[-1] != len(box.lo):
            lo, hi = box.lo.min(), box.hi.max()  # every value, wherever it goes
            box = Box(np.full(layer.shape[-1], lo), np.full(layer.shape[-1], hi))
        result.append(Ranges(float(box.lo.min()), float(box.hi.max()), shift))
    return result


def _lstm(layer: Lstm, x: Box, steps: int | None) -> tuple[Box, Box]:
    model = FloatLayer.of(layer)
    if steps is None:
        try:
            return model.invariant(x)
        except ArithmeticError as error:
            raise InputError(f"{error}; train the model for its bound (docs/all-inputs.md)") from None
    zero = np.zeros(layer.units)
    h = c = seen_h = seen_c = Box(zero, zero)
    for _ in range(steps):
        h, c = model.step(model.gates(x, h), c)
        seen_h, seen_c = hull(seen_h, h), hull(seen_c, c)
    return seen_h, seen_c


def activated(kind: str, box: Box) -> Box:
    """The range of an activation over a box; softmax's is [0, 1]."""
    if kind == "relu":
        return Box(np.maximum(box.lo, 0.0), np.maximum(box.hi, 0.0))
    if kind in ("sigmoid", "tanh"):
        return relaxation.image("sigmoid" if kind == "sigmoid" else "tanh", box)
    if kind == "softmax":
        return Box(np.zeros_like(box.lo), np.ones_like(box.hi))
    return box
