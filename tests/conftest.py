"""With --expected-skips FILE a skip for a reason that the file does not list fails the run (tools/test uses it)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Expected:
    """An entry of the list that counts on this machine."""

    reason: str
    tests: str

    def covers(self, test: str, reason: str) -> bool:
        return fnmatchcase(reason, self.reason) and fnmatchcase(test, self.tests)


def expected_skips(path: Path) -> list[Expected]:
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["skip"]
    for entry in entries:
        if not {"reason", "tests", "why"} <= set(entry) <= {"reason", "tests", "why", "when"}:
            raise pytest.UsageError(f"{path}: an entry has 'reason', 'tests', 'why', and maybe 'when': {entry}")
    return [Expected(e["reason"], e["tests"]) for e in entries if "when" not in e or Marker(e["when"]).evaluate()]


class Skips:
    """Collects skips, of tests and of whole modules, also from the processes of pytest-xdist."""

    def __init__(self, expected: list[Expected]) -> None:
        self.expected = expected
        self.unexpected: list[str] = []

    def note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        told = report.longrepr
        reason = str(told[2] if isinstance(told, tuple) else told).removeprefix("Skipped: ")
        if not any(entry.covers(report.nodeid, reason) for entry in self.expected):
            self.unexpected.append(f"{report.nodeid}: {reason}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.note(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unexpected and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.unexpected:
            terminalreporter.section("skips that tests/expected_skips.toml does not list", red=True)
            for line in sorted(set(self.unexpected)):
                terminalreporter.line(line)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--expected-skips", type=Path, metavar="FILE", help="fail where a skip is not on this list")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--expected-skips")
    if path is not None and not hasattr(config, "workerinput"):  # xdist's processes report to the one that has them
        config.pluginmanager.register(Skips(expected_skips(path)), "expected-skips")


@pytest.fixture(autouse=True)
def _commands_do_not_say_what_they_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests count lines on standard error, and a busy machine would add one."""
    monkeypatch.setattr("codesign.cli.waiting.SECONDS", 600.0)
