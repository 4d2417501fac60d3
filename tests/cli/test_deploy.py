"""The whole road, end to end, on emulated boards."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from codesign.cli import main
from codesign.toolchain.pio import require_compiler

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"


@pytest.fixture(autouse=True, scope="module")
def _tools():
    from codesign.errors import MissingToolError

    try:
        require_compiler()
    except MissingToolError as error:
        pytest.skip(str(error))


def deploy(*arguments):
    return CliRunner().invoke(main, ["deploy", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["-o", "."], "does not name a folder"), (["--port", "/dev/nothing-here"], "no serial port /dev/nothing-here")],
)
def test_a_place_that_cannot_be_is_refused_before_any_work(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    tiny = FIXTURES / "tiny.h5"
    result = deploy("--board", "nucleo_f746", "--int8", FIXTURES / "tiny.tflite", "--json", *arguments, tiny)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_main_job_signs_off(tmp_path):
    """README: tools/quickstart's command, with fewer samples."""
    pytest.importorskip("tensorflow", reason="conversion needs TensorFlow")
    script = (ROOT / "tools" / "quickstart").read_text().replace("\\\n", " ")
    words = script.splitlines()[-1].replace('"$@"', "").removeprefix("exec .venv/bin/").split()
    assert words[:2] == ["codesign", "deploy"]
    assert "models/motion_allinputs.h5" in words
    output = tmp_path / "motion.deploy"
    result = subprocess.run(
        [sys.executable, "-m", "codesign", *words[1:], "--json", "--epsilon", "0.5", "--hil-samples", "40", "--drawn",
         "20", "-o", str(output)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    signoff = json.loads(result.stdout)
    assert signoff == json.loads((output / "signoff.json").read_text())
    assert signoff["verdict"] == "PASS"
    assert signoff["emulated"] is True
    assert signoff["board"] == "nucleo_f746"
    assert signoff["hil"]["samples"] == signoff["hil"]["bit_exact"] == signoff["hil"]["within_bound"] == 60
    assert signoff["hil"]["instructions"] > 10_000
    assert signoff["flash_bytes"] > 0
    assert signoff["ram_bytes"] > 0
    assert signoff["stack_bytes"] > 0
    assert signoff["failures"] == []
    for name in ("model.tflite", "certificate.json", "firmware.elf", "hil.json", "report.html"):
        assert signoff["artifacts"][name] == hashlib.sha256((output / name).read_bytes()).hexdigest()
    certificate = json.loads((output / "certificate.json").read_text())
    assert certificate["criteria"]["epsilon_verdict"] == "proved"
    assert certificate["all_inputs"]["covered_share"] > 0.95
    assert signoff["proved"][0].startswith("For every float32 input of the domain [0, 1] for every feature")
    assert certificate["proof"]["proved"] == certificate["proof"]["checked"] > 0
    assert "EMULATED" in (output / "report.html").read_text()


@pytest.mark.parametrize("board", ["mps2_an386", "mps2_an500", "netduinoplus2"])
def test_an_int8_model_made_elsewhere_on_qemu_boards(board, tmp_path):
    if shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")
    output = tmp_path / "out"
    result = deploy(
        "--board", board, FIXTURES / "tiny.h5", "--int8", FIXTURES / "tiny.tflite", "--samples", 3, "--json",
        "-o", output,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["hil"]["bit_exact"] == 3
    assert (output / "model.tflite").read_bytes() == (FIXTURES / "tiny.tflite").read_bytes()


def test_a_flattened_sequence_of_tflite_files_on_the_nucleo(tmp_path):
    """TFLM's mnist_lstm example is one: its float file has a cell clip below the number of steps."""
    output = tmp_path / "out"
    result = deploy(
        "--board", "nucleo_f746", "--emulate", FIXTURES / "flatten.float.tflite", "--int8", FIXTURES / "flatten.tflite",
        "--samples", 3, "--json", "-o", output,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    signoff = json.loads(result.stdout)
    assert signoff["verdict"] == "PASS"
    assert signoff["hil"]["samples"] == signoff["hil"]["bit_exact"] == signoff["hil"]["within_bound"] == 3
    certificate = json.loads((output / "certificate.json").read_text())
    assert max(r["bound_max"] for r in certificate["regions"]) < 0.05
    assert all(r["abstract_lower"] is not None for r in certificate["regions"])


def test_int16_activations_on_the_nucleo(tmp_path):
    output = tmp_path / "out"
    model = FIXTURES / "tiny.int16.tflite"
    result = deploy(
        "--board", "nucleo_f746", "--emulate", FIXTURES / "tiny.h5", "--int8", model, "--activations", "int16",
        "--samples", 3, "--json", "-o", output,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    signoff = json.loads(result.stdout)
    assert signoff["verdict"] == "PASS"
    assert signoff["hil"]["samples"] == signoff["hil"]["bit_exact"] == signoff["hil"]["within_bound"] == 3
    certificate = json.loads((output / "certificate.json").read_text())
    assert certificate["input_quantization"]["maximum"] == 32767
    hil = json.loads((output / "hil.json").read_text())
    assert hil["summary"]["quantize_checked"] == hil["summary"]["quantize_equal"] > 0
    # Finer than any int8 output could be.
    assert hil["summary"]["max_error"] < 1 / 512
    assert "(int16)" in (output / "report.html").read_text()


def test_an_int8_file_is_no_int16_deployment(tmp_path):
    result = deploy(
        "--board", "nucleo_f746", "--emulate", FIXTURES / "tiny.h5", "--int8", FIXTURES / "tiny.tflite",
        "--activations", "int16", "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "has int8 activations" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_criterion_that_is_not_proved_fails(tmp_path):
    output = tmp_path / "out"
    result = deploy(
        "--board", "nucleo_f746", "--emulate", FIXTURES / "tiny.h5", "--int8", FIXTURES / "tiny.tflite", "--samples", 2,
        "--epsilon", 1e-6, "--json", "-o", output,
    )  # fmt: skip
    assert result.exit_code == 1
    signoff = json.loads(result.stdout)
    assert signoff["verdict"] == "FAIL"
    assert any("1e-06" in failure and "refuted" in failure for failure in signoff["failures"]), signoff["failures"]


def test_the_cross_check_alone_says_so(tmp_path):
    output = tmp_path / "out"
    bare = ("--board", "nucleo_f746", "--emulate", FIXTURES / "tiny.h5", "--int8", FIXTURES / "tiny.tflite")
    result = deploy(*bare, "--samples", 2, "--bit-exact-only", "-o", output)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Nothing is proved of the distance from the float model")
    assert "verdict: BIT-EXACT-ONLY (" in result.stdout
    signoff = json.loads((output / "signoff.json").read_text())
    assert signoff["verdict"] == "BIT-EXACT-ONLY"
    assert (signoff["hil"]["samples"], signoff["hil"]["bit_exact"], signoff["hil"]["with_bound"]) == (2, 2, 0)
    assert not (output / "certificate.json").exists()
    for more in (["--epsilon", 0.1], ["--cover"], ["--region", "domain"], ["--grid", 1], ["--domain", "0,1"]):
        refused = deploy(*bare, *more, "--bit-exact-only", "-o", tmp_path / "no")
        assert refused.exit_code == 2
        assert "--bit-exact-only proves nothing" in refused.stderr


def test_a_deployment_with_vacuous_bounds_is_unproved(tmp_path):
    output = tmp_path / "out"
    result = deploy(
        "--board", "nucleo_f746", "--emulate", FIXTURES / "logits.h5", "--int8", FIXTURES / "logits.tflite",
        "--samples", 2, "--radius", 50, "--domain=-1000,1000", "--evaluations", 20, "-o", output,
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    signoff = json.loads((output / "signoff.json").read_text())
    assert (signoff["verdict"], signoff["failures"]) == ("UNPROVED", [])
    assert signoff["hil"]["bit_exact"] == signoff["hil"]["samples"] == 2
    assert signoff["certificate"]["vacuous"] == 2
    assert result.stdout.startswith("VACUOUS: the bound on |integer - float|")
    assert "UNPROVED: VACUOUS: the bound of 2 regions (0, 1) that samples rely on" in result.stdout


def test_samples_outside_the_domain_are_refused_before_the_build(tmp_path):
    result = deploy(
        "--board", "nucleo_f746", "--emulate", FIXTURES / "tiny.h5", "--int8", FIXTURES / "tiny.tflite",
        "--region", "domain", "--domain=-0.9,0.9", "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "counted from 0, lie outside the domain" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_bad_input_leaves_an_earlier_deployment_as_it_was(tmp_path):
    output = tmp_path / "out"
    good = (
        "--board",
        "nucleo_f746",
        "--emulate",
        FIXTURES / "tiny.h5",
        "--int8",
        FIXTURES / "tiny.tflite",
        "--samples",
        1,
    )
    assert deploy(*good, "-o", output).exit_code == 0
    before = {p.name: p.read_bytes() for p in output.iterdir() if p.is_file()}
    for arguments, code in (
        ((*good[:4], "--int8", FIXTURES / "stacked.tflite"), 2),
        (("--board", "nucleo_f999", *good[2:]), 2),
        ((*good, "--radius", "x"), 2),
        ((*good, "--hil-samples", 0), 2),
        ((*good, "--port", "ttyX"), 2),
    ):
        result = deploy(*arguments, "-o", output)
        assert result.exit_code == code, result.stderr
        assert result.stderr.strip().count("\n") <= 3
        assert "Traceback" not in result.stderr
    assert {p.name: p.read_bytes() for p in output.iterdir() if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_other_things_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    result = deploy("--board", "nucleo_f746", "--emulate", FIXTURES / "tiny.h5", "-o", tmp_path)
    assert result.exit_code == 2
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_the_example_runs(tmp_path):
    pytest.importorskip("tensorflow", reason="conversion needs TensorFlow")
    result = subprocess.run(
        [sys.executable, "examples/deploy_motion.py", str(tmp_path / "example")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "PASS, 12 of 12 samples bit-exact" in result.stdout
