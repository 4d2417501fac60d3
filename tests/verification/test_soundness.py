"""No input of a region may leave its certified bound: adversarial search on the exact simulation."""

import numpy as np
import pytest
from random_pairs import random_pair

from codesign.network import evaluate, load_network
from codesign.quantization import convert, load_calibration, read_integer_network
from codesign.quantization.align import align
from codesign.semantics import TflmInterpreter, dequantize, quantize_input, simulate
from codesign.verification import ball, domain_region, input_domain, search
from codesign.verification.propagate import propagate, top1_proved

NAMES = ["tiny", "logits", "stacked", "sequence", "timedist", "acts", "flatten", "reshaped"]


def check(network, integer, regions, rng, evaluations):
    """Propagate, attack, and compare; returns the number of exact evaluations."""
    enclosure = propagate(align(network, integer), integer, regions)
    proved, _ = top1_proved(enclosure)
    spent = 0
    for k, region in enumerate(regions):
        found = search(network, integer, region, rng, evaluations)
        spent += found.evaluations
        bound = np.maximum(-enclosure.output_difference.lo[k], enclosure.output_difference.hi[k])
        assert (found.per_output <= bound).all(), f"region {region.name}: {found.per_output} exceeds {bound}"
        x = np.concatenate([found.worst[None], region.center[None].astype(np.float32)])
        exact = evaluate(network, x).reshape(2, -1)
        difference = dequantize(integer.output, simulate(integer, quantize_input(integer, x))).reshape(2, -1) - exact
        assert (difference >= enclosure.output_difference.lo[k]).all()
        assert (difference <= enclosure.output_difference.hi[k]).all()
        assert (exact >= enclosure.output.lo[k]).all()
        assert (exact <= enclosure.output.hi[k]).all()
        if proved[k]:
            assert found.disagreement is None
    return spent


@pytest.mark.parametrize("gain", [0.3, 1.0, 6.0, 60.0])
def test_random_networks_stay_within_their_bounds(gain):
    rng = np.random.default_rng(7)
    for seed in range(25):
        network, integer = random_pair(seed, gain)
        steps, features = integer.input.shape
        scale, zero = integer.input.scale, integer.input.zero_point
        lo, hi = scale * (-128 - zero), scale * (127 - zero)
        domain = (np.full(features, lo - 0.3 * (hi - lo)), np.full(features, hi + 0.3 * (hi - lo)))
        centers = rng.uniform(domain[0], domain[1], (3, steps, features)).astype(np.float32)
        regions = [ball(f"{seed}", c, float(r), domain) for c, r in zip(centers, [0.0, scale, 30 * scale], strict=True)]
        check(network, integer, regions, rng, 300)
        check(network, integer, [domain_region(domain, steps)], rng, 300)


@pytest.mark.parametrize("name", [*NAMES, *(f"{name}.int16" for name in NAMES)])
def test_fixtures_survive_adversarial_search(name, pair):
    network, integer, data = pair(name)
    domain = input_domain(data.x)
    rng = np.random.default_rng(1)
    spent = 0
    for radius in (0.25, 1.0, 4.0):
        regions = [ball(str(k), data.x[k], radius * integer.input.scale, domain) for k in range(4)]
        spent += check(network, integer, regions, rng, 9500)
    assert spent >= 110_000


def same_as_tflm(integer, samples):
    """The simulation against the host TFLM interpreter: samples, extremes and random inputs, over 2,000 in all."""
    pytest.importorskip("tflite_micro", reason="the host TFLM interpreter has wheels for Python 3.11 only")
    rng = np.random.default_rng(4)
    shape = integer.input.shape
    extreme = [np.full(shape, v, np.int8) for v in (-128, 127, integer.input.zero_point)]
    corners = rng.choice(np.array([-128, 127], np.int8), (500, *shape))
    uniform = rng.integers(-128, 128, (1500, *shape)).astype(np.int8)
    q = np.concatenate([np.stack(extreme), corners, uniform, quantize_input(integer, samples)])
    np.testing.assert_array_equal(simulate(integer, q), TflmInterpreter(integer.content).run(q))


@pytest.mark.parametrize("name", ["motion", "digits", "vowels"])
def test_sample_models_survive_adversarial_search(name, tmp_path):
    pytest.importorskip("tensorflow", reason="converting a sample model needs TensorFlow")
    models = __import__("pathlib").Path(__file__).parents[2] / "models"
    network = load_network(models / f"{name}.h5")
    integer = read_integer_network(convert(models / f"{name}.h5", tmp_path / "model.tflite"))
    data = load_calibration(models / f"{name}.calib.npz", network.input_shape)
    same_as_tflm(integer, data.x)
    domain = input_domain(data.x)
    rng = np.random.default_rng(2)
    spent = 0
    for radius in (0.5, 1.0, 3.0):
        regions = [ball(str(k), data.x[k], radius * integer.input.scale, domain) for k in range(4)]
        spent += check(network, integer, regions, rng, 9500)
    assert spent >= 110_000


def test_bounds_are_not_vacuous(pair):
    """Soundness alone is cheap: the bound at one quantisation step stays within a small factor of what is observed.

    Of two LSTMs in a row with outputs of half a step, one region's rounding can be small by chance: these together.
    """
    for name in NAMES:
        network, integer, data = pair(name)
        regions = [ball(str(k), data.x[k], integer.input.scale, input_domain(data.x)) for k in range(4)]
        enclosure = propagate(align(network, integer), integer, regions)
        rng = np.random.default_rng(3)
        seen = np.array([search(network, integer, region, rng, 2000).error for region in regions])
        difference = enclosure.output_difference
        bound = np.maximum(-difference.lo, difference.hi).reshape(len(regions), -1).max(1)
        if name == "reshaped":
            assert bound.max() < 12 * seen.max()
        else:
            assert (bound < 12 * seen).all()
            assert bound.max() < 6 * seen.max()
