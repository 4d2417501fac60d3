"""Commands that take long say what they wait for, on standard error, unless --json is asked for."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from codesign.cli import main, waiting

FIXTURES = Path(__file__).parent.parent / "fixtures"
LONG = ("bench", "certify", "check", "compare", "convert", "deploy", "doctor", "export", "hil", "robust", "size")


@pytest.mark.parametrize("name", LONG)
def test_every_long_command_says_what_it_waits_for(name, monkeypatch):
    command = main.commands[name]
    what = command.callback.waits_for
    assert what
    said = []
    monkeypatch.setattr(waiting, "SECONDS", 0.0)
    monkeypatch.setattr(waiting, "_say", said.append)

    @waiting.waits_for(what)
    def slow(as_json: bool) -> None:
        time.sleep(0.3)

    slow(as_json=True)
    assert said == []
    slow(as_json=False)
    assert said == [what]


def test_the_line_comes_before_the_work_is_done(monkeypatch, tmp_path):
    monkeypatch.setattr(waiting, "SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    model = FIXTURES / "tiny.tflite"
    result = CliRunner().invoke(main, ["size", str(model)])
    assert result.stderr == "size: the model is made ready and compiled ...\n"
    assert "flash" in result.stdout
    quiet = CliRunner().invoke(main, ["size", str(model), "--json"])
    assert quiet.stderr == ""


def test_progress_that_is_shown_takes_its_place(monkeypatch):
    from codesign.cli.progress import Progress

    said = []
    monkeypatch.setattr(waiting, "SECONDS", 0.4)
    monkeypatch.setattr(waiting, "_say", said.append)

    @waiting.waits_for("something")
    def command(as_json: bool = False) -> None:
        with Progress() as progress:
            progress("stage", 1, 2)
            time.sleep(0.8)

    command()
    assert said == []


def test_nothing_is_said_of_what_is_done_at_once_or_fails(monkeypatch):
    said = []
    monkeypatch.setattr(waiting, "SECONDS", 0.3)
    monkeypatch.setattr(waiting, "_say", said.append)

    @waiting.waits_for("something")
    def command(fails: bool, as_json: bool = False) -> None:
        if fails:
            raise click.UsageError("no")

    command(False)
    with pytest.raises(click.UsageError):
        command(True)
    time.sleep(0.6)
    assert said == []


def test_a_process_says_it_before_its_result(tmp_path):
    """The line is there while the command is at work: it is read before the command ends."""
    with subprocess.Popen(
        [sys.executable, "-m", "codesign", "convert", str(FIXTURES / "tiny.h5"), "-o", "out.tflite"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        line = process.stderr.readline()
        assert process.poll() is None
        assert line == f"{main.commands['convert'].callback.waits_for} ...\n"
        process.kill()


def test_a_second_is_kept():
    assert waiting.SECONDS == 600.0  # the tests' own
    source = Path(waiting.__file__).read_text(encoding="utf-8")
    (line,) = [line for line in source.splitlines() if line.startswith("SECONDS = ")]
    assert float(line.split()[2]) <= 0.7
