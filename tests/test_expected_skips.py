"""The list of skips that tools/test accepts: what is not on it fails the run, in one process and in several."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest

def test_passes():
    pass

def test_skipped():
    pytest.skip("no moon tonight")

@pytest.mark.xfail(reason="known")
def test_that_fails_as_known():
    assert False
"""
MODULE = """
import pytest

pytest.importorskip("no_such_module", reason="no_such_module is not installed")
"""


def run(folder: Path, entries: str, *more: str, module: bool = False) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (folder / "test_some.py").write_text(TESTS)
    (folder / "test_module.py").write_text(MODULE if module else "def test_one():\n    pass\n")
    (folder / "list.toml").write_text(entries or "skip = []\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--expected-skips", "list.toml", *more]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def entry(reason: str, tests: str = "*", when: str = "") -> str:
    marker = f"when = {when!r}\n" if when else ""
    return f"[[skip]]\nreason = {reason!r}\ntests = {tests!r}\nwhy = 'a test'\n{marker}"


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one", "several"])
@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ("", 1),
        (entry("no moon*"), 0),
        (entry("no sun*"), 1),
        (entry("no moon*", "test_other.py*"), 1),
        (entry("no moon*", when="python_version < '3'"), 1),
        (entry("no moon*", when="python_version >= '3'"), 0),
    ],
)
def test_a_skip_that_is_not_listed_fails(tmp_path: Path, entries: str, code: int, processes: tuple[str, ...]) -> None:
    done = run(tmp_path, entries, *processes)
    assert done.returncode == code, done.stdout
    assert ("test_some.py::test_skipped: no moon tonight" in done.stdout) == (code == 1)


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one", "several"])
def test_a_module_that_is_skipped_whole_counts_too(tmp_path: Path, processes: tuple[str, ...]) -> None:
    done = run(tmp_path, entry("no moon*"), *processes, module=True)
    assert done.returncode == 1, done.stdout
    assert "no_such_module is not installed" in done.stdout
    assert run(tmp_path, entry("no moon*") + entry("no_such_module*"), *processes, module=True).returncode == 0


def test_an_entry_says_why(tmp_path: Path) -> None:
    done = run(tmp_path, "[[skip]]\nreason = '*'\ntests = '*'\n")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR


def test_the_list_is_short_and_tools_test_uses_it() -> None:
    entries = (ROOT / "tests" / "expected_skips.toml").read_text().count("[[skip]]")
    assert 0 < entries <= 10
    assert "--expected-skips tests/expected_skips.toml" in (ROOT / "tools" / "test").read_text()
