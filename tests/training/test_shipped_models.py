"""The shipped bound-trained models: bound, accuracy and coverage as models/README.md says, and attacks that fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codesign.network import evaluate, load_network
from codesign.quantization import load_calibration
from codesign.quantization.align import align
from codesign.quantization.rescaling import effective_network
from codesign.semantics import dequantize
from codesign.semantics.streams import float_stream, integer_stream
from codesign.training.bound import BoundModel
from codesign.training.emulate import emulate
from codesign.training.measure import measure
from codesign.verification.affine import Box
from codesign.verification.all_inputs import quantized_stream, stream_inputs
from codesign.verification.domain import enclose_domain
from codesign.verification.regions import domain_region
from codesign.verification.search import search

MODELS = Path(__file__).resolve().parents[2] / "models"
# name, activations, any length: lower end of the domain, largest bound, least accuracy and covered share of the samples
EXPECTED = {
    ("motion", "int8", False): (0.0, 0.32, 0.98, 0.98),
    ("digits", "int8", False): (0.0, 0.80, 0.95, 0.85),
    ("digits", "int16", False): (0.0, 0.12, 0.95, 0.97),
    ("digits28", "int16", False): (0.0, 0.46, 0.93, 0.94),
    ("vowels", "int8", False): (-1.0, 6.1, 0.95, 0.80),
    ("vowels", "int16", False): (-1.0, 0.23, 0.95, 0.97),
    ("stream", "int16", True): (0.0, 0.40, 0.94, 0.90),
}


@pytest.mark.parametrize(("name", "activations", "any_length"), EXPECTED)
def test_bounds_are_as_documented_and_hold(name, activations, any_length):
    low, bound, accuracy, covered = EXPECTED[name, activations, any_length]
    path = MODELS / f"{name}_allinputs.h5"
    assert path.stat().st_size < 300_000
    network = load_network(path)
    data = load_calibration(MODELS / f"{name}_allinputs.calib.npz", network.input_shape)
    steps = None if any_length else network.input_shape[0]
    found = measure(network, BoundModel(low, 1.0, activations, steps), data.x, data.y)
    assert found.bound <= bound
    assert found.accuracy >= accuracy
    assert found.covered >= covered

    features = network.input_shape[1]
    domain = np.full(features, low), np.full(features, 1.0)
    integer = emulate(network, domain, activations, steps)
    region = domain_region(domain, network.input_shape[0])
    effective = effective_network(integer)
    e = enclose_domain(align(network, effective), effective, region, any_length=any_length).enclosure
    lo, hi = e.output_difference.lo[0], e.output_difference.hi[0]
    rng = np.random.default_rng(0)
    worst = search(network, integer, region, rng, 4000)
    assert (worst.per_output <= np.maximum(-lo, hi)).all()
    if any_length:
        x = stream_inputs(Box(region.lo[0], region.hi[0]), 4, 2000, rng)
        gap = dequantize(integer.output, integer_stream(integer, quantized_stream(integer, x))) - float_stream(
            network, x
        )
        assert (gap >= lo).all()
        assert (gap <= hi).all()
    assert np.isfinite(evaluate(network, worst.worst[None])).all()
