"""deploy --weights, and what deploy says about --runtime before it works on anything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from codesign.cli.main import main
from codesign.codegen import generate
from codesign.quantization import read_integer_network

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def deploy(folder: Path, *more: str) -> tuple[int, str, str]:
    arguments = [
        "deploy", "--board", "nucleo_f746", "--emulate", "--int8", str(FIXTURES / "tiny.tflite"), "--samples", "2",
        "--evaluations", "50", "--jobs", "1", "-o", str(folder / "out"), "--json", *more, str(FIXTURES / "tiny.h5"),
    ]  # fmt: skip
    done = CliRunner().invoke(main, arguments)
    return done.exit_code, done.stdout, done.stderr


def test_wide_weights_are_built_run_and_reported(tmp_path: Path) -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    for module in ("platformio", "unicorn", "flint", "matplotlib"):
        pytest.importorskip(module)
    code, out, err = deploy(tmp_path, "--weights", "int16")
    assert code == 0, err
    result = json.loads(out)
    assert result["verdict"] == "PASS"
    assert result["runtime"] == {"name": "codesign", "profile": "tflm-double", "weights": "int16", "arena_bytes": None}
    certificate = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert set(certificate["int8"]["profiles"]) == {"tflm-double", "tflm-float", "cmsis-nn-double", "cmsis-nn-float"}
    report = (tmp_path / "out" / "report.html").read_text()
    assert "int16 weights in flash" in report
    made = tmp_path / "out" / "firmware" / "src" / "model" / "codesign_model.c"
    network = read_integer_network(tmp_path / "out" / "model.tflite")
    for weights in ("int8", "int16"):
        generate(network, tmp_path / weights, weights)  # type: ignore[arg-type]
        same = (tmp_path / weights / made.name).read_bytes() == made.read_bytes()
        assert same == (weights == "int16")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--runtime", "tflm"], "needs TFLM's sources: name a tree with --tflm-tree"),
        (["--runtime", "tflm-cmsis", "--tflm-tree", "/nowhere"], "there is no folder /nowhere"),
        (["--runtime", "tflm", "--tflm-tree", str(FIXTURES)], "is no TFLM source tree: it lacks"),
        (["--tflm-tree", "."], "belong to TFLM: add --runtime tflm"),
        (["--arena", "4096"], "belong to TFLM: add --runtime tflm"),
    ],
)
def test_runtime_options_are_checked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], said: str
) -> None:
    monkeypatch.delenv("CODESIGN_TFLM_TREE", raising=False)
    code, _, err = deploy(tmp_path, *more)
    assert code == 2
    assert said in err
    assert not list(tmp_path.iterdir())
