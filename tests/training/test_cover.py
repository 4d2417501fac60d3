"""Ranges that cover the domain: the patched file is what TFLM runs, and nothing of the domain saturates it."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest

from codesign.errors import CodesignError
from codesign.network import load_network
from codesign.quantization import IntDense, IntLstm, parse_integer_network
from codesign.semantics import TflmInterpreter, quantize_input, simulate, simulate_trace
from codesign.training.cover import cover_domain
from codesign.training.ranges import cell_shift, float_ranges

FIXTURES = Path(__file__).parent.parent / "fixtures"
NAMES = ("tiny", "logits", "stacked", "sequence", "timedist")
DOMAIN = (-3.0, 3.0)


def covered(name):
    network = load_network(FIXTURES / f"{name}.h5")
    content = (FIXTURES / f"{name}.tflite").read_bytes()
    features = network.input_shape[1]
    domain = np.full(features, DOMAIN[0]), np.full(features, DOMAIN[1])
    new = cover_domain(content, network, domain, network.input_shape[0])
    return network, domain, content, parse_integer_network(content, name), parse_integer_network(new, name)


@pytest.mark.parametrize("name", NAMES)
def test_ranges_cover_what_the_float_network_reaches(name):
    network, domain, content, old, new = covered(name)
    assert len(new.content) == len(content)
    ranges = float_ranges(network, domain, network.input_shape[0])
    reach = iter((layer, r) for layer, r in zip(network.layers, ranges, strict=True) if hasattr(layer, "W"))
    for a, b in zip(old.ops, new.ops, strict=True):
        if isinstance(b, (IntLstm, IntDense)):
            assert isinstance(a, type(b))
            assert (a.W == b.W).all()
            (layer, r), t = next(reach), b.output
            lo, hi = t.scale * (-128 - t.zero_point), t.scale * (127 - t.zero_point)
            room = 0.51 * t.scale
            if getattr(layer, "activation", "") != "relu":
                assert lo - room <= r.lo
            assert r.hi <= hi + room
            if isinstance(b, IntLstm):
                assert b.cell_shift >= max(a.cell_shift, r.cell_shift)
    t = new.input
    assert t.scale * (-128 - t.zero_point) <= DOMAIN[0] + 0.51 * t.scale
    assert t.scale * (127 - t.zero_point) >= DOMAIN[1] - 0.51 * t.scale


@pytest.mark.skipif(importlib.util.find_spec("tflite_micro") is None, reason="the TFLM interpreter is not installed")
@pytest.mark.parametrize("name", NAMES)
def test_the_patched_file_runs_in_tflm_as_it_is_simulated(name):
    _, _, _, _, new = covered(name)
    x = np.random.default_rng(0).uniform(*DOMAIN, (40, *new.input.shape)).astype(np.float32)
    q = quantize_input(new, x)
    assert (TflmInterpreter(new.content).run(q) == simulate(new, q)).all()


def test_cells_do_not_saturate_where_they_did():
    _, _, _, _, new = covered("tiny")
    rng = np.random.default_rng(1)
    x = np.where(rng.random((500, *new.input.shape)) < 0.5, *DOMAIN).astype(np.float32)
    assert max(np.abs(c.astype(int)).max() for c in simulate_trace(new, quantize_input(new, x)).cells) < 32767


@pytest.mark.parametrize(("clip", "kept"), [(0.5, False), (1e4, True)])
def test_a_cell_clip_inside_the_range_goes(clip, kept):
    """The converter's clip of 10 would bind where cells reach farther: it is none of the Keras model's."""
    network, domain, content, _, new = covered("tiny")
    at = content.index(struct.pack("<f", 10.0))  # the only 10.0 in the file
    assert content.count(struct.pack("<f", 10.0)) == 1
    given = content[:at] + struct.pack("<f", clip) + content[at + 4 :]
    found = parse_integer_network(cover_domain(given, network, domain, network.input_shape[0]), "tiny")
    assert found.ops[0].cell_shift == new.ops[0].cell_shift
    assert found.ops[0].cell_clip_q == (32767 if kept else 0)


def test_files_of_other_networks_are_refused():
    network = load_network(FIXTURES / "logits.h5")
    content = (FIXTURES / "stacked.tflite").read_bytes()
    features = network.input_shape[1]
    with pytest.raises(CodesignError, match="not a conversion"):
        cover_domain(content, network, (np.zeros(features), np.ones(features)), network.input_shape[0])


@pytest.mark.parametrize(
    ("largest", "shift"), [(0.9, -15), (1.0, -14), (1.5, -14), (2.5, -13), (100.0, -8), (0.0, -20)]
)
def test_cell_scales_hold_the_largest_cell(largest, shift):
    assert cell_shift(largest) == shift
    assert largest <= 32767 * 2.0**shift
