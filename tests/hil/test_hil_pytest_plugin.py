"""The pytest plugin as a user has it: in a process of its own, on the sample suite of docs/hil.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
from fake_device import FakeDevice
from hil_support import FIXTURES, Model, need_emulator

if TYPE_CHECKING:
    from codesign.toolchain import Build

ROOT = Path(__file__).parents[2]
BOARD = "mps2_an385"
EXTRA = """
import pytest

@pytest.mark.hardware
def test_on_hardware(device):
    assert not device.emulated

@pytest.mark.boards("nucleo_l476")
def test_on_l476(device):
    pass

def test_without_a_device():
    pass

def test_flashed_once(device, request):
    # the same object as in the other module: one connection a run
    known = request.config.stash.setdefault(KEY, device)
    assert known is device

KEY = pytest.StashKey()
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """The sample suite, word for word as the documentation has it, and some more tests."""
    text = (ROOT / "docs" / "hil.md").read_text()
    sample = re.search(r"```python\n(\"\"\"Hardware-in-the-loop tests.*?)```", text, re.DOTALL)
    assert sample
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_sample.py").write_text(sample[1])
    (folder / "test_extra.py").write_text(EXTRA)
    return folder


@pytest.fixture
def deployment(built: Callable[[str, str], Build], tmp_path: Path) -> Path:
    folder = tmp_path / "tiny.deploy"
    folder.mkdir()
    shutil.copyfile(FIXTURES / "tiny.tflite", folder / "model.tflite")
    shutil.copyfile(built("tiny", BOARD).elf, folder / "firmware.elf")
    return folder


def run(suite: Path, *options: object) -> tuple[dict[str, str], str, ElementTree.Element | None]:
    """Outcome of each test by name, the output, and the JUnit report."""
    report = suite / "junit.xml"
    report.unlink(missing_ok=True)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-p", "no:xdist", f"--junitxml={report}",
         *map(str, options), str(suite)],
        cwd=suite, capture_output=True, text=True, timeout=300, check=False,
        env=dict(os.environ, OPENBLAS_NUM_THREADS="1", PYTEST_ADDOPTS=""),
    )  # fmt: skip
    if not report.exists():
        return {}, result.stdout + result.stderr, None
    tree = ElementTree.parse(report).getroot()
    outcomes = {}
    for case in tree.iter("testcase"):
        children = {child.tag for child in case}
        outcomes[str(case.get("name"))] = next(iter(children & {"skipped", "failure", "error"}), "passed")
    return outcomes, result.stdout + result.stderr, tree


def test_sample_suite_on_an_emulated_board(suite: Path, deployment: Path) -> None:
    need_emulator("qemu")
    outcomes, output, tree = run(suite, "--board", BOARD, "--deployment", deployment)
    assert {name: o for name, o in outcomes.items() if o != "passed"} == {
        "test_on_hardware": "skipped", "test_on_l476": "skipped", "test_timing_on_hardware": "skipped",
    }, output  # fmt: skip
    assert f"codesign: board {BOARD}, EMULATED" in output
    assert f"this test needs a real {BOARD}: attach one and add --port auto" in output
    assert f"this test is for nucleo_l476, not {BOARD}" in output
    assert tree is not None
    properties = {p.get("name"): p.get("value") for p in tree.iter("property")}
    assert properties["codesign.board"] == BOARD
    assert properties["codesign.emulated"] == "true"
    assert len(str(properties["codesign.build_id"])) == 32


def test_everything_is_skipped_with_the_reason_where_nothing_is_there(suite: Path, deployment: Path) -> None:
    outcomes, output, _ = run(suite)
    assert outcomes["test_without_a_device"] == "passed"
    assert {o for name, o in outcomes.items() if name != "test_without_a_device"} == {"skipped"}
    assert "no board is named: add --board NAME" in output
    outcomes, output, _ = run(suite, "--board", "nucleo_f746", "--port", "auto", "--int8", FIXTURES / "tiny.tflite")
    assert {o for name, o in outcomes.items() if name != "test_without_a_device"} == {"skipped"}
    assert "no NUCLEO-F746ZG is attached" in output
    outcomes, output, _ = run(suite, "--board", BOARD)
    assert "no firmware is named: add --deployment FOLDER or --int8" in output


def test_on_a_real_port(suite: Path, deployment: Path, built: Callable[[str, str], Build], tiny: Model) -> None:
    """A device behind a serial port, here the tests' own: as it is, without flashing."""
    build_id = bytes.fromhex(built("tiny", BOARD).build_id)
    with FakeDevice(tiny.integer, board=BOARD, build_id=build_id) as fake:
        options = ("--board", BOARD, "--deployment", deployment, "--port", fake.port, "--no-flash")
        outcomes, output, _ = run(suite, *options)
        assert outcomes["test_on_hardware"] == outcomes["test_outputs_are_exact"] == "passed", output
        assert fake.requests.count(1) == 1  # identified once: one connection for all tests


def test_a_wrong_device_fails_the_suite(suite: Path, deployment: Path, tiny: Model) -> None:
    options = ("--board", BOARD, "--deployment", deployment, "--no-flash")
    with FakeDevice(tiny.integer, board=BOARD, build_id=bytes(16)) as fake:
        outcomes, output, _ = run(suite, *options, "--port", fake.port)
    assert outcomes["test_outputs_are_exact"] == "error"
    assert "flash it" in output
    outcomes, output, _ = run(suite, "--board", "nonsense", "--int8", FIXTURES / "tiny.tflite")
    assert "unknown board 'nonsense'" in output
    assert "passed" not in {o for name, o in outcomes.items() if name != "test_without_a_device"}
