"""Deployments whose certificate is for every input, of any length."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from codesign.cli import main
from codesign.deploy import DeployOptions, deploy
from codesign.errors import InputError, MissingToolError
from codesign.toolchain.pio import require_compiler
from codesign.verification import Neighbourhood

MODELS = Path(__file__).parents[2] / "models"
FIXTURES = Path(__file__).parents[1] / "fixtures"


def test_every_input_of_any_length_is_signed_off_and_checked_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="conversion needs TensorFlow")
    try:
        require_compiler()
    except MissingToolError as error:
        pytest.skip(str(error))
    output, model = tmp_path / "stream.deploy", MODELS / "stream_allinputs.h5"
    result = CliRunner().invoke(
        main,
        [
            "deploy", "--board", "nucleo_f746", "--emulate", "--cover", "--any-length", "--activations", "int16",
            "--domain=0,1", "--hil-samples", "8", "--drawn", "12", "--stream-steps", "300", "--evaluations", "50",
            "-o", str(output), str(model),
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "For every sequence of any number of float32 inputs of the domain [0, 1]" in result.output
    assert "1 stream of 300 steps" in result.output
    hil = json.loads((output / "hil.json").read_text())
    assert hil["summary"]["samples"] == hil["summary"]["bit_exact"] == hil["summary"]["within_bound"] == 20
    labels = [sample["label"] for sample in hil["samples"]]
    assert None not in labels[:8]
    assert labels[8:] == [None] * 12
    assert hil["summary"]["top1_proved"] > 4  # the margin rule, sample by sample
    (stream,) = hil["streams"]
    assert stream["steps"] == stream["bit_exact"] == stream["within_bound"] == 300
    assert stream["class_certified"] == stream["class_equal"] > 0
    report = (output / "report.html").read_text()
    assert "sequence of any number of float32 inputs" in report
    assert "wherever the float model" in report
    assert json.loads((output / "signoff.json").read_text())["metrics"]["accuracy"]["device"] > 0.5

    again = CliRunner().invoke(
        main,
        [
            "hil", str(output), "--model", str(model), "--emulate", "--drawn", "5", "--stream-steps", "100", "-o",
            str(tmp_path / "again.json"),
        ],
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    assert "stream of 100 steps without a reset: 100 bit-exact, 100 within the certified bound" in again.output
    assert "6 of 6 samples" in again.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DeployOptions(cover=True, int8=FIXTURES / "tiny.tflite"), "leave out --int8"),
        (DeployOptions(any_length=True), "whole domain; add --cover"),
        (DeployOptions(cover=True, around=Neighbourhood(regions=Path("regions.toml"))), "leave out --regions"),
    ],
)
def test_wishes_that_contradict_each_other(options: DeployOptions, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        deploy(FIXTURES / "tiny.h5", "nucleo_f746", tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_numbers_that_make_no_sense_are_refused() -> None:
    for option in (["--drawn", "-1"], ["--stream-steps", "0"]):
        result = CliRunner().invoke(main, ["deploy", "--board", "nucleo_f746", *option, str(FIXTURES / "tiny.h5")])
        assert result.exit_code == 2
