"""libFuzzer on the device's protocol code; tools/fuzz_device.py runs it for longer."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toolchain_support import ROOT

SCRIPT = ROOT / "tools" / "fuzz_device.py"
SOURCE = ROOT / "firmware" / "hil" / "cs_frame.c"


def need(there: bool, what: str) -> None:
    if not there:
        pytest.skip(f"{what} is not installed")


def fuzz(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    need(shutil.which("clang") is not None, "clang")
    command = [sys.executable, str(SCRIPT), *options]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    need("libclang_rt.fuzzer" not in result.stderr, "clang's run-time library")
    return result


def test_no_bytes_break_the_device(tmp_path: Path) -> None:
    result = fuzz(tmp_path, "--runs", "40000", "--seed", "3")
    assert result.returncode == 0, result.stdout + result.stderr
    inputs, received, edges = (
        int(n) for n in re.findall(r"^(\d+) inputs, (\d+) bytes.* (\d+) edges", result.stdout)[0]
    )
    assert inputs >= 40000
    assert received > 500_000
    assert edges > 80


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "if (length > parser->max_payload) {",
            "if (length > parser->max_payload + 16u) {",
        ),  # writes behind the buffer
        ("    parser->state = STATE_MAGIC0;\n    parser->on_error", "    parser->on_error"),  # never gives up
    ],
)
def test_the_fuzzer_finds_a_planted_defect(old: str, new: str, tmp_path: Path) -> None:
    text = SOURCE.read_text()
    assert text.count(old) == 1
    mutant = tmp_path / "cs_frame.c"
    mutant.write_text(text.replace(old, new))
    result = fuzz(tmp_path, "--runs", "300000", "--frame-source", str(mutant))
    assert result.returncode == 1, result.stdout + result.stderr
