"""Regions, order criteria, time limit and resume on the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from codesign.api import on_grid
from codesign.certificate import hil_regions, load_certificate
from codesign.cli import main
from codesign.hil.deployment import certified_regions
from codesign.quantization import load_calibration, read_integer_network

FIXTURES = Path(__file__).parent.parent / "fixtures"


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def model(tmp_path):
    for name in ("tiny.h5", "tiny.tflite", "tiny.calib.npz"):
        shutil.copy(FIXTURES / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def certify(model):
    def call(*arguments, json_output=True):
        extra = ("--json",) if json_output else ()
        return run(
            "certify", model / "tiny.h5", model / "tiny.tflite", "--samples", 2, "--evaluations", 200,
            "--prove", "none", "--jobs", 1, *arguments, *extra,
        )  # fmt: skip

    return call


def refused(result, *words):
    assert result.exit_code == 2, result.output
    assert result.stderr.strip().count("\n") == 0 or result.stderr.startswith("Usage"), result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_noise_grid_and_prefix(certify, model):
    (model / "n.csv").write_text("0.01,0.02,0.03\n")
    noise = json.loads(certify("--noise", model / "n.csv", "--free-from", 1).stdout)["regions"][0]
    assert (noise["kind"], noise["free_from"]) == ("noise", 1)
    assert noise["radius"] == pytest.approx(0.03, rel=1e-12)
    lo, hi = np.asarray(noise["box"]["lo"]), np.asarray(noise["box"]["hi"])
    np.testing.assert_array_equal(lo[0], hi[0])
    assert (hi[1:] > lo[1:]).any()
    output = model / "c.json"
    document = json.loads(certify("--grid", 1, "-o", output).stdout)
    assert document["regions"][0]["kind"] == "grid"
    assert "every integer input" in document["claim"]
    integer = read_integer_network(model / "tiny.tflite")
    (first, _) = certified_regions(load_certificate(output), integer)
    x = first.at(np.random.default_rng(0).random(first.lo.shape)).astype(np.float64) / integer.input.scale
    np.testing.assert_allclose(x, np.rint(x), atol=1e-4)
    plain = json.loads(certify().stdout)
    assert "every integer input" not in plain["claim"]
    assert plain["regions"][0]["box"] is None


def test_a_regions_file_and_what_the_board_is_told(certify, model):
    path = model / "r.toml"
    path.write_text(
        '[[region]]\nname = "one"\nsample = 3\nradius = "1lsb"\n'
        '[[region]]\nname = "none"\ncenter = [[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0.1]]\ngrid = 1\n'
    )
    document = json.loads(certify("--regions", path).stdout)
    assert [(r["id"], r["sample"]) for r in document["regions"]] == [("one", 3), ("none", None)]
    data = load_calibration(model / "tiny.calib.npz", (4, 3))
    assert [r["sample"] for r in hil_regions(document, data.x)] == [3]


def test_a_grid_bound_is_about_samples_on_the_grid(certify, model):
    document = json.loads(certify("--grid", 1).stdout)
    data = load_calibration(model / "tiny.calib.npz", (4, 3))
    assert hil_regions(document, data.x) == []
    snapped = on_grid(read_integer_network(model / "tiny.tflite"), data)
    assert [r["sample"] for r in hil_regions(document, snapped.x)] == [0, 1]
    moved = snapped.x + np.float32(5 * document["input_quantization"]["scale"])
    assert hil_regions(document, moved) == []


def test_criteria_and_exit_codes(certify):
    result = certify("--topk", 1, "--top1-above", 0.2, "--ranking", "0,1", "--prove", "all")
    document = json.loads(result.stdout)
    told = document["criteria"]
    assert (told["topk"], told["top1_above"], told["ranking"]) == (1, 0.2, [0, 1])
    verdicts = {told[f"{name}_verdict"] for name in ("topk", "top1_above", "ranking")}
    assert verdicts <= {"proved", "refuted", "unknown"}
    assert result.exit_code == (0 if verdicts == {"proved"} else 1)
    for region in document["regions"]:
        assert region["topk"] in ("proved", "refuted", "unknown")
        assert region["norms"]["linf"] <= region["norms"]["l2"] <= region["norms"]["l1"]
        assert len(region["step_bound"][0]) == 4
        assert region["margins"][0]["float_logit"] > region["margins"][0]["integer_logit"] - 1
    text = certify("--topk", 1, json_output=False).stdout
    assert "worst region" in text
    assert "abstract model" in text
    assert "observed" in text
    assert "criterion equal sets of the 1 largest outputs" in text


def test_time_limit_and_resume(certify, model):
    result = certify("--time-limit", 0, "--epsilon", 0.5)
    assert result.exit_code == 1
    assert {r["reason"] for r in json.loads(result.stdout)["regions"]} == {"time limit"}
    assert "TIME LIMIT" in certify("--time-limit", 0, json_output=False).stdout
    journal = model / "journal"
    first, second = (json.loads(certify("--resume", journal).stdout) for _ in range(2))
    for told in (first, second):
        for key in ("seconds", "created", "digest"):
            told.pop(key, None)
    assert first == second  # the times of the regions as well: they were taken from the journal


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--noise", "none.csv"], "none.csv"),
        (["--grid", -1], "grid"),
        (["--grid", 1, "--region", "domain"], "domain"),
        (["--free-from", 4], "free"),
        (["--regions", "none.toml"], "none.toml"),
        (["--top1-above", 1], "probability"),
        (["--topk", 3], "largest"),
        (["--topk", 0], "largest"),
        (["--ranking", "0,0"], "pair"),
        (["--ranking", "0,9"], "output"),
        (["--ranking", "first"], "pair"),
        (["--time-limit", -1], "time limit"),
        (["--time-limit", "nan"], "time limit"),
        (["--resume", "no/such/folder/j"], "written"),
        (["--resume", "."], "journal"),
    ],
)
def test_bad_options_are_refused(certify, arguments, word):
    refused(certify(*arguments), word)
