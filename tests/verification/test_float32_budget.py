"""Whatever a float32 program within the model computes lies within its budget, and a smaller budget is found out."""

from pathlib import Path

import numpy as np
import pytest
from adversarial_float32 import worst_errors
from random_pairs import random_pair

from codesign.network import evaluate
from codesign.network.model import Dense, FloatNetwork, Lstm, Reshape
from codesign.proof.float32 import UNIT, dequantization_error
from codesign.quantization.align import align
from codesign.quantization.integer import QuantizedTensor
from codesign.verification import float32_budget
from codesign.verification.float32_budget import budget, recorded
from codesign.verification.float32_domain import domain_budget
from codesign.verification.propagate import propagate
from codesign.verification.regions import Region
from codesign.verification.relaxation import Recorder

FIXTURES = Path(__file__).parent.parent / "fixtures"


def region_of(center, radius):
    wide = center.astype(np.float64)
    return Region("r", wide, wide - radius, wide + radius, radius, "ball")


def by_zonotope(network, integer, region):
    recorder = Recorder()
    propagate(align(network, integer), integer, [region], recorder)
    size = np.maximum(np.abs(region.lo), np.abs(region.hi))[None]
    return budget(network, size, recorded(network, recorder.batches))


def by_polygons(network, region, any_length=False):
    return domain_budget(network, region.lo, region.hi, any_length)


def float_network(rng, steps, features, units, gain, classes=3, softmax=True, clip=0.0):
    def draw(*shape):
        return (gain * rng.normal(size=shape)).astype(np.float32)

    lstm = Lstm("lstm", draw(4, units, features), draw(4, units, units), draw(4, units), False, clip)
    dense = Dense("dense", draw(classes, units), draw(classes), "softmax" if softmax else "linear")
    return FloatNetwork("net", (steps, features), (lstm, dense), "0" * 64, "test")


def points(rng, region, count):
    x = region.center + rng.uniform(-1, 1, (count, *region.center.shape)) * region.radius
    x[0] = region.center
    x[1:3] = region.center + rng.choice([-1.0, 1.0], (2, *region.center.shape)) * region.radius
    return np.clip(x.astype(np.float32), region.lo.astype(np.float32), region.hi.astype(np.float32))


@pytest.mark.parametrize("name", ["tiny", "stacked", "acts", "logits", "sequence", "timedist"])
def test_directed_roundings_stay_within_the_budget_of_a_region_and_come_near_it(pair, name):
    network, integer, data = pair(name)
    rng = np.random.default_rng(1)
    region = region_of(data.x[0], integer.input.scale)
    found = by_zonotope(network, integer, region).output[0]
    worst = np.max([worst_errors(network, x, rng) for x in points(rng, region, 3)], axis=0)
    assert (worst <= found).all()
    # A budget a tenth as large is refuted; a layer hands on magnitudes alone, so that two lose more.
    assert (worst > found / (30 if name == "stacked" else 10)).any()


@pytest.mark.parametrize("seed", range(16))
def test_directed_roundings_of_random_networks(seed):
    rng = np.random.default_rng(seed)
    network, integer = random_pair(seed, gain=float(rng.choice([1.0, 3.0, 30.0, 1e4])), softmax=bool(seed % 2))
    region = region_of(rng.normal(size=network.input_shape).astype(np.float32), float(rng.choice([0.0, 0.01, 0.3])))
    bounds = by_zonotope(network, integer, region).output[0], by_polygons(network, region).output[0]
    worst = np.max([worst_errors(network, x, rng) for x in points(rng, region, 3)], axis=0)
    for found in bounds:
        assert (worst <= found).all(), (worst, found)


@pytest.mark.parametrize("units", [1, 3, 8])
def test_a_cell_that_is_clipped(units):
    rng = np.random.default_rng(units)
    network = float_network(rng, 6, 2, units, 1.5, clip=0.4)
    region = region_of(rng.normal(size=(6, 2)).astype(np.float32), 0.2)
    found = by_polygons(network, region).output[0]
    worst = np.max([worst_errors(network, x, rng) for x in points(rng, region, 4)], axis=0)
    assert (worst <= found).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_point_is_attacked_to_within_a_small_factor(seed):
    """With ranges that are points nothing is lost but order of summation and what outputs share."""
    rng = np.random.default_rng(seed)
    network = float_network(rng, 5, 3, 4, 0.7, softmax=False)
    region = region_of(rng.normal(size=(5, 3)).astype(np.float32), 0.0)
    found, worst = by_polygons(network, region).output[0], worst_errors(network, region.center, rng)
    assert (worst <= found).all()
    assert (worst > found / 10).all()


def test_any_number_of_steps():
    rng = np.random.default_rng(3)
    network = float_network(rng, 40, 2, 4, 0.15, softmax=False)
    region = region_of(np.zeros((40, 2), np.float32), 1.0)
    for_ever, fixed = by_polygons(network, region, any_length=True).output[0], by_polygons(network, region).output[0]
    assert (fixed <= for_ever).all()
    assert for_ever.max() < 1e-4
    worst = np.max([worst_errors(network, x, rng, rounds=1) for x in points(rng, region, 3)], axis=0)
    assert (worst <= for_ever).all()
    assert (worst > for_ever / 40).all()


@pytest.mark.parametrize("gain", [0.45, 3.0])
def test_where_errors_grow_for_ever_only_the_trivial_is_said(gain):
    network = float_network(np.random.default_rng(0), 3, 2, 8, gain, softmax=False)
    found = by_polygons(network, region_of(np.zeros((3, 2), np.float32), 1.0), any_length=True)
    trivial = float32_budget.TRIVIAL * np.abs(network.layers[1].W.astype(np.float64)).sum(1)
    assert (found.output[0] >= trivial).all()
    assert (found.output[0] <= trivial * 1.001).all()
    unknown = budget(network, np.ones((1, 3, 2)), None)
    np.testing.assert_allclose(unknown.output, found.output, rtol=1e-4)


def test_overflow_is_refused():
    from codesign.errors import InputError

    network = float_network(np.random.default_rng(0), 2, 2, 2, 1.0)
    with pytest.raises(InputError, match="overflow"):
        by_polygons(network, region_of(np.full((2, 2), 3e37, np.float32), 0.0))


def test_numpy_in_float32_and_any_order(pair):
    """A plain float32 program with shuffled columns and its products and sums apart, at large and small weights."""
    rng = np.random.default_rng(5)
    for gain in (0.05, 0.5, 4.0, 1e3):
        network = float_network(rng, 6, 5, 16, gain, softmax=False)
        region = region_of(rng.normal(size=(6, 5)).astype(np.float32), 0.0)
        found = by_polygons(network, region).output[0]
        exact = evaluate(network, region.center[None])[0]
        for _ in range(20):
            assert (np.abs(_shuffled(network, region.center.astype(np.float32), rng) - exact) <= found).all()


def _shuffled(network, x, rng):
    lstm, dense = network.layers
    H = lstm.units
    W = np.concatenate([lstm.W.reshape(4 * H, -1), lstm.R.reshape(4 * H, -1), lstm.b.reshape(-1, 1)], axis=1)

    def total(weights, values):
        order, sums = rng.permutation(len(values)), np.zeros(len(weights), np.float32)
        for k in order:
            sums = sums + weights[:, k] * values[k]
        return sums

    def sigmoid(v):
        with np.errstate(over="ignore"):
            return np.float32(1) / (np.float32(1) + np.exp(-v))

    h = c = np.zeros(H, np.float32)
    for step in x:
        z = total(W, np.concatenate([step, h, np.ones(1, np.float32)]))
        i, f, g, o = sigmoid(z[:H]), sigmoid(z[H : 2 * H]), np.tanh(z[2 * H : 3 * H]), sigmoid(z[3 * H :])
        c = f * c + i * g
        h = o * np.tanh(c)
        assert h.dtype == np.float32
    head = np.concatenate([dense.W, dense.b[:, None]], axis=1)
    return total(head, np.append(h, np.float32(1)))


def test_rows_that_are_joined_and_split(pair):
    rng = np.random.default_rng(0)
    lstm = Lstm("l", *(rng.normal(size=s).astype(np.float32) for s in ((4, 3, 2), (4, 3, 3), (4, 3))), True)
    dense = Dense("d", rng.normal(size=(2, 12)).astype(np.float32), np.zeros(2, np.float32), "sigmoid")
    network = FloatNetwork("n", (4, 2), (lstm, Reshape("f", (12,)), dense), "0" * 64, "test")
    region = region_of(rng.normal(size=(4, 2)).astype(np.float32), 0.05)
    found = by_polygons(network, region).output[0]
    worst = np.max([worst_errors(network, x, rng) for x in points(rng, region, 3)], axis=0)
    assert (worst <= found).all()
    assert (worst > found / 10).all()


@pytest.mark.parametrize("name", ["tiny", "stacked", "acts", "logits", "sequence", "timedist"])
def test_keras_and_tensorflow_lite_lie_within(pair, name):
    tf = pytest.importorskip("tensorflow")
    keras = pytest.importorskip("tf_keras")

    network, integer, data = pair(name)
    rng = np.random.default_rng(0)
    model = keras.models.load_model(FIXTURES / f"{name}.h5", compile=False)
    interpreter = tf.lite.Interpreter(model_content=(FIXTURES / f"{name}.float.tflite").read_bytes())
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    for sample in data.x[:3]:
        region = region_of(sample, integer.input.scale)
        x = points(rng, region, 64)
        found, exact = by_zonotope(network, integer, region).output[0], evaluate(network, x).reshape(64, -1)
        outputs = [model(x).numpy().reshape(64, -1), model.predict(x, verbose=0).reshape(64, -1)]
        lite = []
        for one in x:
            interpreter.reset_all_variables()  # a float LSTM's state would go on
            interpreter.set_tensor(source, one[None])
            interpreter.invoke()
            lite.append(interpreter.get_tensor(target).ravel().copy())
        for single in (*outputs, np.array(lite)):
            assert (np.abs(single.astype(np.float64) - exact) <= found).all()


def test_dequantization_is_enumerated():
    rng = np.random.default_rng(0)
    for dtype in ("int8", "int16"):
        scale = float(np.float32(rng.uniform(1e-4, 0.1)))
        tensor = QuantizedTensor("y", (3,), dtype, scale, 7 if dtype == "int8" else 0)
        error = dequantization_error(tensor)
        q = np.arange(tensor.q_min, tensor.q_max + 1)
        single = np.float32(scale) * (q - tensor.zero_point).astype(np.float32)
        off = np.abs(single.astype(np.float64) - scale * (q - tensor.zero_point))
        assert error == off.max() > 0
        assert error <= UNIT * scale * 2**16
    assert dequantization_error(QuantizedTensor("y", (3,), "int8", 2.0**-8, -128)) == 0.0
