"""Thresholds in certificates: the checker derives statuses and bands again, and finds what was tampered with."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from codesign.proof.statement import conclusions

FIXTURES = Path(__file__).parent.parent / "fixtures"


def certified(folder, name, thresholds, radius="1lsb", samples=3, **more):
    from codesign import api
    from codesign.verification import Criteria, Options

    paths = FIXTURES / f"{name}.h5", FIXTURES / f"{name}.tflite"
    options = Options(Criteria(thresholds=thresholds), evaluations=200, proof="none")
    api.certify(
        api.load(paths[0]), api.read(paths[1]), api.calibration(paths[0]), radius, samples, options=options,
        output=folder / "certificate.json", **more,
    )  # fmt: skip
    return folder, *paths


@pytest.fixture(scope="module")
def made_with(tmp_path_factory):
    done = {}

    def make(name, *args, **more):
        key = name, str(args), str(more)
        if key not in done:
            done[key] = certified(tmp_path_factory.mktemp("thresholds"), name, *args, **more)
        return done[key]

    return make


@pytest.fixture
def binary(made_with, take_apart):
    """Statuses of all kinds: far from every output, at a float output, and in between."""
    from codesign import api

    data = api.calibration(FIXTURES / "binary.h5")
    network, integer = api.load(FIXTURES / "binary.h5"), api.read(FIXTURES / "binary.tflite")
    from codesign.network import evaluate
    from codesign.semantics import dequantize, quantize_input, simulate

    real = evaluate(network, data.x[:3])[:, 0]
    device = dequantize(integer.output, simulate(integer, quantize_input(integer, data.x[:3])))[:, 0]
    k = int(np.abs(real - device).argmax())
    between = float((real[k] + device[k]) / 2)
    return take_apart(*made_with("binary", (0.01, between, float(real.max()) + 0.004, "0:0.99")))


def concluded(forged):
    """What a forger who knows the rules writes: verdicts that follow from his statuses."""
    for part, found in conclusions(forged.document).items():
        (forged.document[part] if part else forged.document).update(found)


def test_all_statuses_are_met_and_valid(binary):
    told = {entry["status"] for region in binary.document["regions"] for entry in region["thresholds"]}
    assert told == {"proved", "refuted", "unknown"}
    assert (binary.check().verdict, binary.document["verdict"]) == ("valid", "refuted")


@pytest.mark.parametrize(
    ("name", "thresholds", "more"),
    [
        ("regression", (0.0, -0.1), {}),
        ("regression", (), {}),
        ("timedist", (0.25, "2:0.3"), {"radius": 0.02}),
        ("acts", (0.5,), {"radius": "3lsb"}),
        ("binary", (0.4, 0.9), {"region": "domain", "domain": (-0.2, 0.2)}),
    ],
)
def test_other_models_are_valid(made_with, take_apart, name, thresholds, more):
    forged = take_apart(*made_with(name, thresholds, **more))
    data = FIXTURES / f"{name}.calib.npz"
    result = forged.check(data=data)
    assert (result.verdict, result.item, result.not_derived) == ("valid", "", ())
    one = name in ("binary", "regression")
    assert all((region["top1"] is None) == one for region in forged.document["regions"])
    assert (forged.document["summary"]["top1"] is None) == one


def first(forged, status):
    return next((r, e) for r in forged.document["regions"] for e in r["thresholds"] if e["status"] == status)


@pytest.mark.parametrize("status", ["refuted", "unknown"])
def test_a_status_flipped_to_proved_is_found_out(binary, status):
    region, entry = first(binary, status)
    entry["status"] = "proved"
    place = region["thresholds"].index(entry)
    kept = [e for e in region["counterexamples"] if e["criterion"] != f"thresholds/{place}"]
    region["counterexamples"], region["counterexample"] = kept, next(iter(kept), None)
    concluded(binary)
    result = binary.check()
    assert result.verdict == "invalid"
    assert f"thresholds/{place}: 'proved' is stated" in result.item


def test_a_proof_that_is_refuted_without_an_input_is_found_out(binary):
    _, entry = first(binary, "proved")
    entry["status"] = "refuted"
    concluded(binary)
    assert "counterexamples" in binary.check().item


def test_an_input_that_shows_nothing_is_found_out(binary):
    region, _ = first(binary, "refuted")
    for entry in region["counterexamples"]:
        entry["input"] = binary.document["regions"][0]["box"] or (np.asarray(region["center"]) + 0.1).tolist()
    assert binary.check().verdict == "invalid"


@pytest.mark.parametrize(
    "forge",
    [
        lambda d, r, e: e.update(hysteresis=0.9 * e["hysteresis"]),
        lambda d, r, e: e.update(hysteresis=0.0),
        lambda d, r, e: e.update(value=e["value"] + 0.2),
        lambda d, r, e: e.update(output=0 if e["output"] is None else None),
        lambda d, r, e: r.update(thresholds=None),
        lambda d, r, e: r["thresholds"].pop(),
        lambda d, r, e: d["criteria"]["thresholds"].pop(),
        lambda d, r, e: d["criteria"].update(thresholds=None),
        lambda d, r, e: d["criteria"]["thresholds"][0].update(output=1),
        lambda d, r, e: d["criteria"].update(thresholds_verdict="proved"),
        lambda d, r, e: r.update(float_lo=[r["float_hi"][0]]),
        lambda d, r, e: r.update(difference_lo=[0.0], bound=[r["difference_hi"][0]], bound_max=r["difference_hi"][0]),
    ],
)
def test_other_forgeries_are_found_out(binary, forge):
    forge(binary.document, *first(binary, "unknown"))
    if binary.document["criteria"]["thresholds_verdict"] != "proved":
        with contextlib.suppress(KeyError, TypeError, ValueError):
            concluded(binary)
    assert binary.check().verdict == "invalid"


@pytest.mark.parametrize("status", ["proved", "unknown"])
def test_one_output_that_is_said_to_be_a_class_is_found_out(binary, status):
    for region in binary.document["regions"]:
        region["top1"], region["top1_class"] = status, 0 if status == "proved" else None
    concluded(binary)
    result = binary.check()
    assert result.verdict == "invalid"
    assert "one output is no class" in result.item


@pytest.mark.parametrize(
    "forge",
    [
        lambda a: a["thresholds"][0].update(covered_samples=a["samples"]),
        lambda a: a["thresholds"][0].update(hysteresis=0.0),
        lambda a: a["thresholds"][0].update(covered_samples=None),
        lambda a: a.update(thresholds=None),
        lambda a: a.update(covered_samples=a["samples"], covered_share=1.0),
        lambda a: a.update(same_class_margin=100.0),
    ],
)
def test_what_is_said_of_samples_is_derived(made_with, take_apart, forge):
    from codesign.proof.statement import all_inputs_statement

    forged = take_apart(*made_with("binary", (0.45, 0.9), region="domain", domain=(-0.2, 0.2)))
    whole = forged.document["all_inputs"]
    forge(whole)
    whole["statement"] = all_inputs_statement(whole)
    assert forged.check(data=FIXTURES / "binary.calib.npz").verdict == "invalid"


def test_without_the_data_shares_are_told_as_not_derived(made_with, take_apart):
    forged = take_apart(*made_with("regression", (-5.0,), region="domain", domain=(-0.2, 0.2)))
    told = json.loads((forged.folder / "certificate.json").read_text())["all_inputs"]["thresholds"][0]
    result = forged.check()
    assert result.verdict == "valid"
    assert ("all_inputs/thresholds/covered_samples" in result.not_derived) == bool(told["covered_samples"])
