"""Sign-off of models with one output: thresholds, labels 0 and 1, real values; never a class."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from signoff_support import VALID, Evidence, make_evidence

from codesign.quantization import Calibration
from codesign.signoff import compare, decide, signoff_document
from codesign.signoff.record import validate_signoff
from codesign.signoff.report import render
from codesign.verification import Criteria


@pytest.fixture(scope="module")
def binary() -> Evidence:
    return make_evidence("binary", criteria=Criteria(epsilon=0.02, thresholds=(0.5, "0:0.05")))


@pytest.fixture(scope="module")
def regression() -> Evidence:
    return make_evidence("regression", criteria=Criteria(epsilon=0.05))


def judged(e: Evidence, criteria: Criteria | None = None):
    return decide(e.certificate, e.hil, e.build, e.artifacts(), criteria)


def document(e: Evidence) -> dict:
    comparison = compare(e.certificate, e.hil, e.float_network, e.network, e.data)
    made = signoff_document(judged(e), e.certificate, e.hil, e.build, e.artifacts(), comparison, VALID)
    return validate_signoff(json.loads(json.dumps(made)))


def page(e: Evidence) -> str:
    comparison = compare(e.certificate, e.hil, e.float_network, e.network, e.data)
    return render(document(e), e.certificate, e.hil, e.build, comparison)


def test_thresholds_are_criteria_of_their_own(binary: Evidence) -> None:
    found = {c.wanted["value"]: c for c in judged(binary).criteria if isinstance(c.wanted, dict)}
    statuses = [[r["thresholds"][k]["status"] for r in binary.certificate["regions"]] for k in range(2)]
    for k, value in enumerate((0.5, 0.05)):
        worst = next((s for s in ("refuted", "unknown") if s in statuses[k]), "proved")
        assert found[value].status == worst
        bands = [r["thresholds"][k]["hysteresis"] for r in binary.certificate["regions"]]
        assert found[value].hysteresis == max(bands)
    assert found[0.05].status == "proved"
    told = document(binary)["criteria"]
    assert [entry["wanted"] for entry in told["thresholds"]] == [
        {"value": 0.5, "output": None}, {"value": 0.05, "output": 0},
    ]  # fmt: skip
    sentences = " ".join(judged(binary).proved)
    assert "output 0 on the same side of 0.05" in sentences


def test_a_status_belongs_to_its_own_threshold(binary: Evidence) -> None:
    """Another threshold than the certificate's is unknown, whatever is proved of those."""
    wanted = Criteria(thresholds=(0.06,))
    (found,) = judged(binary, wanted).criteria
    assert (found.status, found.hysteresis) == ("unknown", None)


@pytest.mark.parametrize("name", ["binary", "regression"])
def test_the_class_of_one_output_is_not_spoken_of(name: str, request: pytest.FixtureRequest) -> None:
    e = request.getfixturevalue(name)
    made, shown = document(e), page(e)
    assert (made["certificate"]["top1_proved_share"], made["certificate"]["top1_counted"]) == (None, 0)
    assert "top1_agreement" not in made["metrics"]
    for text in (*made["notes"], *made["proved"], *made["failures"]):
        assert "class" not in text, text
    assert "Same class proved" not in shown
    assert "Same class as the float model" not in shown


@pytest.mark.parametrize("status", ["proved", "unknown"])
def test_a_certificate_that_speaks_of_it_fails(binary: Evidence, status: str) -> None:
    e = binary.copy()
    e.certificate["regions"][0]["top1"] = status
    made = judged(e)
    assert made.verdict != "PASS"
    assert any("class of one output" in failure for failure in made.failures)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda entry: entry.update(status="unknown"),
        lambda entry: entry.pop("status"),
        lambda entry: entry.update(value=0.06),
        lambda entry: entry.clear(),
    ],
)
def test_a_threshold_that_is_not_proved_in_every_region_fails(binary: Evidence, spoil) -> None:
    e = binary.copy()
    spoil(e.certificate["regions"][3]["thresholds"][1])
    found = next(c for c in judged(e).criteria if isinstance(c.wanted, dict) and c.wanted["value"] == 0.05)
    assert found.status != "proved"
    assert judged(e).verdict != "PASS"


def test_binary_labels_give_accuracy_at_one_half(binary: Evidence) -> None:
    e = binary.copy()
    for k, sample in enumerate(e.hil["samples"]):  # two wrong
        sample["label"] = int(sample["float"][0] >= 0.5) ^ (k >= 6)
    found = compare(e.certificate, e.hil, e.float_network, e.network, e.data)
    by_name = {m.name: m for m in found.models}
    assert by_name["float"].accuracy == 0.75
    matrix = by_name["float"].confusion
    assert matrix is not None
    assert matrix.shape == (2, 2)
    assert matrix.trace() == 6


def test_real_values_give_errors_and_no_accuracy(regression: Evidence) -> None:
    made = document(regression)
    assert made["metrics"]["accuracy"] == {}
    values = regression.data.values
    assert values is not None
    for name in ("float", "integer", "device"):
        told = made["metrics"]["against_values"][name]
        real = "float" if name == "float" else "device"
        predicted = np.array([s[real] for s in regression.hil["samples"]])
        error = predicted - values
        assert told["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
        assert told["largest"] == pytest.approx(np.abs(error).max())
        spread = np.sum((values - values.mean()) ** 2)
        assert told["nash_sutcliffe"] == pytest.approx(1 - np.sum(error**2) / spread)
    shown = page(regression)
    assert "R²" in shown
    assert not re.search(r"accuracy [0-9]", shown)


def test_inputs_that_aim_at_nothing_do_not_count(regression: Evidence) -> None:
    values = np.where(np.arange(len(regression.data.x))[:, None] < 5, regression.data.values, np.nan)
    data = Calibration(regression.data.x, None, values)
    found = compare(regression.certificate, regression.hil, regression.float_network, regression.network, data)
    assert found.against_values["device"].values == 5
    nothing = Calibration(regression.data.x, None, np.full_like(values, np.nan))
    assert not compare(
        regression.certificate, regression.hil, regression.float_network, regression.network, nothing
    ).against_values


def test_values_of_what_is_sent(regression: Evidence) -> None:
    from codesign import api

    data = regression.data
    x, labels = api.hil_inputs(regression.float_network, data, None, 3)
    values = api.hil_values(data, x, 3)
    assert labels is None
    assert values is not None
    assert data.values is not None
    np.testing.assert_array_equal(values, data.values[:3])
    longer = api.hil_values(data, np.concatenate([x, x]), 3)
    assert longer is not None
    assert np.isnan(longer[3:]).all()
    assert api.hil_values(Calibration(data.x, None), x) is None


def test_a_folder_is_signed_off_with_thresholds(binary: Evidence, tmp_path: Path) -> None:
    assert document(binary)["schema"]
    text = page(binary)
    assert "on the same side of" in text
    assert "more than" in text
