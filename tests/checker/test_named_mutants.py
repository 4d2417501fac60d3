"""Errors that once were planted in the checkers by hand and that no test saw: each is one now."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from codesign import api
from codesign.checker import claims
from codesign.checker.forms import Box, Symbols
from codesign.checker.replay import input_pairs
from codesign.checker.solver import Margins
from codesign.domain_checker import lstm
from codesign.semantics import dequantize, quantize

FIXTURES = Path(__file__).parent.parent / "fixtures"


def one(value: float) -> Box:
    return Box(np.full((1, 2, 2), value), np.full((1, 2, 2), value))


def test_a_class_is_above_another_in_both_networks_or_not_at_all() -> None:
    """Not by the float network's margins alone, nor by the integer one's."""
    facts = SimpleNamespace(output_margins=lambda _softmax, m: m.integer.lo)
    for real, integer, above in ((1.0, 1.0, True), (1.0, -1.0, False), (-1.0, 1.0, False), (1.0, 0.0, False)):
        flags = claims.above(Margins(one(real), one(integer - real), one(integer)), None, facts)  # type: ignore[arg-type]
        assert flags.all() == flags.any() == above


def test_what_saturation_leaves_out_is_above_the_functions_tail() -> None:
    """Of the sigmoid and of tanh, and of their slopes, beyond the largest gate."""
    for reach in (8 - 2.0**-12, 8.0):
        sigmoid, tanh = 1 / (1 + math.exp(-reach)), math.tanh(reach)
        assert max(1 - sigmoid, 1 - tanh, sigmoid * (1 - sigmoid), 1 - tanh**2) < lstm.SATURATED
    assert 2 / (1 + math.exp(8)) > lstm.SATURATED  # and no looser than it has to be


def test_the_quantised_input_lies_in_its_range_where_float32_division_rounds_up_to_a_tie() -> None:
    """Inputs just below a decision threshold that the single-precision quotient moves across it."""
    network = api.read(FIXTURES / "tiny.tflite")
    tensor = network.input
    steps = np.arange(-100, 100) + 0.5
    near = (steps * tensor.scale).astype(np.float32)
    x = np.concatenate([near, *(np.nextafter(near, np.float32(side), dtype=np.float32) for side in (-np.inf, np.inf))])
    q = quantize(tensor, x)
    exact = x.astype(np.float64) / tensor.scale
    moved = np.rint(exact) != q.astype(int) - tensor.zero_point
    moved &= np.abs(exact - np.trunc(exact)) != 0.5
    assert moved.any()
    x, q = x[moved][:, None], q[moved][:, None]  # regions of one step and one feature that hold one input each
    wide = np.broadcast_to(x[:, None].astype(np.float64), (len(x), *network.input.shape)).copy()
    pairs = input_pairs(network, wide, wide, np.zeros(len(x), bool), Symbols())
    difference = dequantize(tensor, q) - x.astype(np.float64)
    box = pairs[0].difference
    assert (box.lo <= difference).all()
    assert (difference <= box.hi).all()
