"""Certificates over all inputs through the public API and the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import codesign.api as api
from codesign.cli import main
from codesign.errors import InputError
from codesign.network import evaluate
from codesign.quantization import Calibration
from codesign.quantization.align import align
from codesign.quantization.rescaling import effective_network
from codesign.semantics import dequantize, quantize_input, simulate
from codesign.text import upward
from codesign.verification import Criteria, Options
from codesign.verification.domain import covered, enclose_domain
from codesign.verification.regions import domain_region
from codesign.verification.same_class import same_class_margin

OPTIONS = Options(evaluations=200)


def test_the_statement_and_the_region_agree(pair):
    network, integer, data = pair("tiny")
    document = api.certify(network, integer, data, region="domain", domain=(-0.1, 0.1), options=OPTIONS)
    (region,), stated = document["regions"], document["all_inputs"]
    assert max(region["logit_bound"]) <= max(stated["logit_bound"])
    assert stated["samples"] == len(data.x)
    assert max(stated["total_logit_bound"]) > max(stated["logit_bound"])
    assert upward(max(stated["total_logit_bound"])) in stated["statement"]
    assert upward(stated["same_class_margin"]) in stated["statement"]
    assert 2 * max(stated["total_logit_bound"]) < stated["same_class_margin"]
    assert region["observed_max"] <= region["bound_max"]
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.1, 0.1, (2000, *network.input_shape)).astype(np.float32)
    gap = dequantize(integer.output, simulate(integer, quantize_input(integer, x))) - evaluate(network, x)
    assert (np.abs(gap).reshape(2000, -1) <= np.array(region["bound"])).all()


def test_epsilon_is_judged_by_the_tighter_bound(pair):
    network, integer, data = pair("tiny")
    document = api.certify(network, integer, data, region="domain", domain=(-0.05, 0.05), options=OPTIONS)
    bound = document["regions"][0]["bound_max"]
    for epsilon, verdict in ((bound * 1.01, "proved"), (bound * 0.99, "unknown")):
        options = Options(Criteria(epsilon), evaluations=200)
        again = api.certify(network, integer, data, region="domain", domain=(-0.05, 0.05), options=options)
        assert again["criteria"]["epsilon_verdict"] == verdict


@pytest.mark.parametrize(("name", "width"), [("tiny", 0.01), ("logits", 0.02), ("stacked", 0.01)])
def test_above_the_stated_margin_the_class_is_the_same(pair, name, width, monkeypatch):
    """Logits are moved apart by their order alone: every sample whose margin is above the stated one is covered.

    The ranges of the logits are left out: they hold for logits of inputs, and these are of none.
    """
    monkeypatch.setattr("codesign.verification.domain.within_ranges", lambda enclosure, *_: enclosure)
    _integer, found = _whole(pair, name, width)
    margin = same_class_margin(found, found.logit_bound)
    classes = found.enclosure.margins[0].value.lo.shape[1]
    rng = np.random.default_rng(0)
    for above, wanted in ((1.001, True), (0.3, False)):
        logits = np.sort(rng.uniform(-5, 0, (200, classes)))[:, ::-1].copy()
        logits[:, 0] = logits[:, 1] + above * margin
        assert covered(found, logits).all() == wanted


@pytest.mark.parametrize(("name", "width"), [("logits", 0.02), ("stacked", 0.01)])
def test_a_margin_from_the_ranges_alone_is_reached_by_no_input(pair, name, width):
    """Where the bound is no better than the ranges, no class is told to be kept: neither by the margin nor by share."""
    integer, found = _whole(pair, name, width)
    network = pair(name)[0]
    margin = same_class_margin(found, found.logit_bound)
    x = np.random.default_rng(2).uniform(-width, width, (500, *network.input_shape)).astype(np.float32)
    logits = evaluate(network, x, logits=True)
    ordered = np.sort(logits, axis=1)
    assert margin > found.enclosure.margins[0].value.hi.max() > (ordered[:, -1] - ordered[:, -2]).max()
    assert not covered(found, logits).any()
    gap = dequantize(integer.output, simulate(integer, quantize_input(integer, x))) - evaluate(network, x)
    assert (
        np.abs(gap).max(0) <= np.maximum(-found.enclosure.output_difference.lo, found.enclosure.output_difference.hi)
    ).all()


def _whole(pair, name, width):
    """The integer network of a fixture, and what is enclosed over all inputs from -width to width."""
    network, integer, _data = pair(name)
    features = network.input_shape[1]
    region = domain_region((np.full(features, -width), np.full(features, width)), network.input_shape[0])
    effective = effective_network(integer)
    return integer, enclose_domain(align(network, effective), effective, region)


def test_covered_samples_have_the_same_class(pair):
    """In neighbourhoods of the covered samples, too: the statement is about the float margin alone."""
    network, integer, _data = pair("logits")
    features = network.input_shape[1]
    region = domain_region((np.full(features, -0.02), np.full(features, 0.02)), network.input_shape[0])
    effective = effective_network(integer)
    found = enclose_domain(align(network, effective), effective, region)
    x = np.random.default_rng(1).uniform(-0.02, 0.02, (3000, *network.input_shape)).astype(np.float32)
    exact = evaluate(network, x, logits=True)
    integer_class = simulate(integer, quantize_input(integer, x)).argmax(-1)
    for scale in (1.0, 0.0):
        flags = covered(found, exact * scale)
        assert (integer_class == exact.argmax(-1))[flags & (scale == 1.0)].all()
        if scale == 0:
            assert not flags.any()
    far = exact + 1e3 * np.eye(exact.shape[1])[exact.argmax(1)]
    assert covered(found, far).all()


@pytest.mark.parametrize("name", ["flatten", "reshaped"])
def test_any_length_is_refused_where_a_vector_holds_several_steps(pair, name):
    network, integer, data = pair(name)
    with pytest.raises(InputError, match=r"steps into rows of (48|8) values"):
        api.certify(network, integer, data, region="domain", any_length=True, options=OPTIONS)


def test_any_length_needs_the_domain(pair):
    network, integer, data = pair("tiny")
    with pytest.raises(InputError, match="--region domain"):
        api.certify(network, integer, data, any_length=True, options=OPTIONS)


def test_the_command_line_prints_the_statement(pair, tmp_path):
    FIXTURES = Path(__file__).parents[1] / "fixtures"

    output = tmp_path / "c.json"
    arguments = [
        "certify", str(FIXTURES / "tiny.h5"), str(FIXTURES / "tiny.tflite"), "--region", "domain", "--domain=-0.1,0.1",
        "--prove", "none", "--evaluations", "200", "-o", str(output),
    ]  # fmt: skip
    result = CliRunner().invoke(main, arguments)
    assert "for every float32 input of the domain" in result.output
    document = json.loads(output.read_text())
    assert document["all_inputs"]["any_length"] is False
    assert 0 <= document["all_inputs"]["covered_share"] <= 1


def test_models_that_grow_are_refused_on_the_command_line():
    FIXTURES = Path(__file__).parents[1] / "fixtures"

    arguments = ["certify", str(FIXTURES / "tiny.h5"), str(FIXTURES / "tiny.tflite"), "--region", "domain"]
    result = CliRunner().invoke(main, [*arguments, "--any-length", "--prove", "none", "--evaluations", "200"])
    assert result.exit_code != 0
    assert "no bound for any number of steps" in str(result.output) + str(result.exception)


def test_without_labels_and_with_one_sample(pair):
    network, integer, data = pair("tiny")
    one = Calibration(data.x[:1], None)
    document = api.certify(network, integer, one, region="domain", domain=(-0.1, 0.1), options=OPTIONS)
    assert document["all_inputs"]["samples"] == 1


def test_inputs_drawn_from_the_domain_stay_in_it_and_reach_its_corners(pair):
    network, integer, data = pair("tiny")
    document = api.certify(network, integer, data, region="domain", domain=(-0.1, 0.1), options=OPTIONS)
    drawn = api.domain_samples(document, network, 200, 3)
    assert drawn.x.shape == (200, *network.input_shape)
    assert drawn.x.dtype == np.float32
    assert drawn.x.astype(np.float64).min() >= -0.1
    assert drawn.x.astype(np.float64).max() <= 0.1
    extreme = np.isclose(np.abs(drawn.x), 0.1, atol=1e-6).all((1, 2))
    assert extreme.sum() >= 50
    gap = dequantize(integer.output, simulate(integer, quantize_input(integer, drawn.x))) - evaluate(network, drawn.x)
    assert (np.abs(gap).reshape(200, -1) <= np.array(document["regions"][0]["bound"])).all()
    with pytest.raises(InputError, match="at least 1"):
        api.domain_samples(document, network, 0)
