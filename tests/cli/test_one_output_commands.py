"""One-output models on the command line: criteria on classes are refused, thresholds and real values are taken."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from codesign.cli.main import main

FIXTURES = Path(__file__).parents[1] / "fixtures"


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def refused(result, *words):
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def models(name):
    return FIXTURES / f"{name}.h5", FIXTURES / f"{name}.tflite"


@pytest.mark.parametrize(
    "option", [("--require-top1", 0.5), ("--top1-above", 0.9), ("--topk", 1), ("--ranking", "0,1")]
)
@pytest.mark.parametrize("name", ["binary", "regression"])
def test_criteria_on_classes_are_refused(name, option):
    refused(run("certify", *models(name), "--samples", 1, *option), option[0], "one output", "--threshold T")


@pytest.mark.parametrize("wrong", ["x", "1:0.5", "0:", "nan", "0:1:2", "-1:0.5"])
def test_thresholds_that_cannot_be_are_refused(wrong):
    refused(run("certify", *models("binary"), "--samples", 1, f"--threshold={wrong}"))


def test_deploy_refuses_them_before_it_builds(tmp_path):
    for name in ("binary.h5", "binary.calib.npz", "binary.tflite"):
        shutil.copy(FIXTURES / name, tmp_path)
    result = run(
        "deploy", tmp_path / "binary.h5", "--int8", tmp_path / "binary.tflite", "--board", "nucleo_f746", "--emulate",
        "--require-top1", 0.5, "-o", tmp_path / "out",
    )  # fmt: skip
    refused_last = result.stderr.strip().splitlines()
    assert result.exit_code == 2
    assert any("one output" in line for line in refused_last)
    assert not (tmp_path / "out").exists()


def test_thresholds_are_told_and_no_class_is(tmp_path):
    output = tmp_path / "certificate.json"
    arguments = "certify", *models("binary"), "--samples", 2, "--evaluations", 100
    result = run(*arguments, "--threshold", 0.05, "--threshold", "0:0.95", "-o", output)
    assert result.exit_code == 0, result.output
    assert "on the same side of 0.05: proved on 2" in result.stdout
    assert "on the same side of 0.95: proved on 2" in result.stdout
    assert "top-1" not in result.stdout
    document = json.loads(output.read_text())
    assert document["criteria"]["thresholds"] == [{"value": 0.05, "output": None}, {"value": 0.95, "output": 0}]
    assert document["summary"]["top1"] is None
    checked = run("check", output, "--float", models("binary")[0], "--int8", models("binary")[1])
    assert checked.exit_code == 0
    assert "on the same side of 0.95" in checked.stdout
    assert "not spoken of" in checked.stdout


def test_a_threshold_that_is_not_proved_ends_in_1():
    real = models("binary")
    result = run(
        "certify", *real, "--samples", 3, "--evaluations", 100, "--radius", "20lsb", "--threshold", 0.5, "--json"
    )
    assert result.exit_code == 1
    statuses = {r["thresholds"][0]["status"] for r in json.loads(result.stdout)["regions"]}
    assert statuses - {"proved"}


def test_robust_refuses_outputs_that_are_no_classes(tmp_path):
    for path in models("regression"):
        refused(run("robust", path, "--radius", "0.01", "--samples", 1), "one output", "--threshold")
    x = np.load(FIXTURES / "tiny.calib.npz")["x"]
    np.savez(tmp_path / "y.npz", x=x, y=np.random.default_rng(0).normal(size=(len(x), 3)))
    refused(run("robust", models("tiny")[0], "--radius", "0.01", "--calibration", tmp_path / "y.npz"), "real values")


def test_labels_beyond_the_outputs_are_refused(tmp_path):
    data = np.load(FIXTURES / "tiny.calib.npz")
    path = tmp_path / "wrong.npz"
    np.savez(path, x=data["x"], y=np.full(len(data["x"]), 3))
    for command in (("certify", *models("tiny")), ("robust", models("tiny")[1], "--radius", "1lsb")):
        refused(run(*command, "--samples", 1, "--calibration", path), "the label 3, but the model has 3 outputs")
    np.savez(path, x=np.load(FIXTURES / "binary.calib.npz")["x"], y=np.full(200, 2))
    refused(run("certify", *models("binary"), "--samples", 1, "--calibration", path), "tells 0 from 1")


def test_real_values_and_one_hot_labels_are_taken(tmp_path):
    data, path = np.load(FIXTURES / "tiny.calib.npz"), tmp_path / "y.npz"
    arguments = "certify", *models("tiny"), "--samples", 4, "--evaluations", 100, "--json", "--calibration", path

    def document(y, *more):
        np.savez(path, x=data["x"], y=y)
        return run(*arguments, *more)

    plain, one_hot = document(data["y"]), document(np.eye(3, dtype="f4")[data["y"]])
    first, second = (json.loads(result.stdout) for result in (plain, one_hot))
    assert [r["counted"] for r in first["regions"]] == [r["counted"] for r in second["regions"]]
    assert first["summary"]["top1"] == second["summary"]["top1"]
    values = np.random.default_rng(0).normal(size=(len(data["x"]), 3))
    told = json.loads(document(values).stdout)
    assert told["summary"]["top1"] is None
    assert all(region["top1"] is None for region in told["regions"])
    refused(document(values, "--require-top1", 0.5), "real values")
