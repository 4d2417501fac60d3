"""The outputs' ranges, against exact fractions and exact evaluations; from where on a bound is vacuous."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from codesign import api
from codesign.network import evaluate
from codesign.proof.ranges import Ranges, implied, output_ranges
from codesign.quantization.align import DenseStage, LstmStage, ReshapeStage, align
from codesign.semantics import dequantize, quantize_input, simulate

FIXTURES = Path(__file__).parent.parent / "fixtures"
NAMES = sorted(p.stem for p in FIXTURES.glob("*.tflite") if (FIXTURES / f"{p.stem}.h5").is_file())


def exact_dense(W, b, lo, hi):
    """Interval arithmetic in rational numbers."""
    low, high = [], []
    for row, bias in zip(W.tolist(), b.tolist(), strict=True):
        ends = [
            sorted((Fraction(w) * Fraction(a), Fraction(w) * Fraction(c))) for w, a, c in zip(row, lo, hi, strict=True)
        ]
        low.append(Fraction(bias) + sum(first for first, _ in ends))
        high.append(Fraction(bias) + sum(second for _, second in ends))
    return low, high


@pytest.mark.parametrize("name", NAMES)
def test_every_output_lies_in_its_ranges(name):
    network, integer = api.load(FIXTURES / f"{name}.h5"), api.read(FIXTURES / f"{name}.tflite")
    logits, outputs = output_ranges(align(network, integer), integer)
    rng = np.random.default_rng(3)
    x = (rng.choice([0.1, 1.0, 30.0], (400, 1, 1)) * rng.normal(size=(400, *network.input_shape))).astype(np.float32)
    q = dequantize(integer.output, simulate(integer, quantize_input(integer, x))).reshape(len(x), -1)
    for ranges, real in ((outputs, evaluate(network, x)), (logits, evaluate(network, x, logits=True))):
        real = real.reshape(len(x), -1)
        assert real.shape[1:] == ranges.real[0].shape == ranges.vacuous_from.shape
        assert (ranges.real[0] <= real).all()
        assert (real <= ranges.real[1]).all()
    assert (outputs.integer[0] <= q).all()
    assert (q <= outputs.integer[1]).all()
    assert not outputs.vacuous(0.99 * outputs.vacuous_from)
    assert outputs.vacuous(outputs.vacuous_from)
    one = 0.5 * outputs.vacuous_from
    one[-1] = outputs.vacuous_from[-1]
    assert outputs.vacuous(one)  # some output is enough


def test_a_dense_head_is_interval_arithmetic_rounded_outward():
    network, integer = api.load(FIXTURES / "logits.h5"), api.read(FIXTURES / "logits.tflite")
    stages = align(network, integer)
    assert isinstance(stages[-1], DenseStage)
    assert isinstance(stages[-2], LstmStage)
    layer = stages[-1].float_layer
    found = output_ranges(stages, integer)[1]
    low, high = exact_dense(layer.W, layer.b, [-1] * layer.W.shape[1], [1] * layer.W.shape[1])
    for stated, true in zip((*found.real[0], *(-found.real[1])), (*low, *(-h for h in high)), strict=True):
        assert Fraction(stated) <= true
        assert float(true - Fraction(stated)) <= 1e-13 * (1 + abs(float(true)))
    width = integer.output.scale * 255
    reach = max(float(high[0]) - found.integer[0][0], found.integer[1][0] - float(low[0]))
    assert found.vacuous_from[0] == pytest.approx(min(width, reach), rel=1e-12)


def test_what_is_flattened_or_split_keeps_its_range():
    network, integer = api.load(FIXTURES / "logits.h5"), api.read(FIXTURES / "logits.tflite")
    lstm, dense = align(network, integer)
    units, rng = lstm.float_layer.units, np.random.default_rng(5)
    wide = replace(dense.float_layer, W=np.tile(dense.float_layer.W, (1, 3)))
    flat = output_ranges([lstm, ReshapeStage((3 * units,)), replace(dense, float_layer=wide)], integer)[1]
    layer = dense.float_layer
    for _ in range(50):
        h = rng.choice([-1.0, 1.0], 3 * units)
        y = wide.W.astype(np.float64) @ h + layer.b
        assert (flat.real[0] <= y).all()
        assert (y <= flat.real[1]).all()
    assert flat.real[1][0] > output_ranges([lstm, dense], integer)[1].real[1][0]


def test_a_softmax_has_probabilities():
    network, integer = api.load(FIXTURES / "tiny.h5"), api.read(FIXTURES / "tiny.tflite")
    logits, outputs = output_ranges(align(network, integer), integer)
    assert (outputs.real[0] == 0).all()
    assert (outputs.real[1] == 1).all()
    assert outputs.vacuous_from.max() == 255 / 256  # as wide as the output can represent
    assert logits.vacuous_from.min() > 0
    assert not np.array_equal(logits.integer[1], outputs.integer[1])


def test_ends_of_the_difference_follow_the_float_value():
    one = np.ones(1)
    ranges = Ranges((-one, one), (0 * one, 2 * one))
    value = type("Box", (), {"lo": np.array([[0.5]]), "hi": np.array([[3.0]])})
    real, change = ranges.ends(value)
    assert (real[0].item(), real[1].item()) == (-1.0, 1.0)
    assert change[0].item() == pytest.approx(-1.0)
    assert change[0].item() < -1.0
    assert change[1].item() == pytest.approx(1.5)
    assert change[1].item() > 1.5


def test_what_a_region_implies():
    ranges = Ranges((np.zeros(2), np.ones(2)), (np.zeros(2), np.ones(2)))
    float32 = {"evaluation": [0.0, 0.125], "dequantization": [0.0, 0.0]}
    region = {
        "difference_lo": [-0.25, -0.875], "difference_hi": [0.5, 0.0], "output_step_bound": [0.0], "float32": float32,
    }  # fmt: skip
    found = implied(region, ranges, 2)
    total = np.array(found.pop("total_bound"))
    assert found.pop("total_bound_max") == total.max()
    assert (total >= [0.5, 1.0]).all()
    assert total == pytest.approx([0.5, 1.0], rel=1e-12)
    assert found == {"bound": [0.5, 0.875], "bound_max": 0.875, "vacuous": True, "output_step_bound": [0.5, 0.875]}
    assert not implied({**region, "difference_lo": [0.0, -0.86]}, ranges, 2)["vacuous"]
