"""How commands end that cannot go on: one sentence, an exit code of its own, a report file of what must not happen."""

from __future__ import annotations

import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from codesign.cli import main
from codesign.errors import CodesignError, InputError, MissingToolError, SoundnessAlarm
from codesign.processes import WorkerPool, in_order, worker_pool

FIXTURES = Path(__file__).parent.parent / "fixtures"
PAIR = (FIXTURES / "tiny.h5", FIXTURES / "tiny.tflite")


def every_command(group: click.Group = main, *names: str) -> list[tuple[str, ...]]:
    found = []
    for name, command in sorted(group.commands.items()):
        found += every_command(command, *names, name) if isinstance(command, click.Group) else [(*names, name)]
    return found


def command_of(names: tuple[str, ...]) -> click.Command:
    command: click.Command = main
    for name in names:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return command


def ended(monkeypatch, names, error):
    """The command with a body that raises this."""

    def body() -> None:
        raise error

    command = command_of(names)
    monkeypatch.setattr(command, "params", [])
    monkeypatch.setattr(command, "callback", body)
    return CliRunner().invoke(main, list(names))


def reports(folder: Path) -> list[Path]:
    return sorted(folder.glob("codesign-*.json"))


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


ENDINGS = [
    (CodesignError("no"), 1, "codesign: no"),
    (InputError("that is no file"), 2, "codesign: that is no file"),
    (MissingToolError("no compiler"), 3, "codesign: no compiler"),
    (OSError(28, "No space left on device", "x.json"), 3, "No space left on device (x.json)"),
    (MemoryError(), 3, "memory"),
    (KeyboardInterrupt(), 130, "codesign: interrupted"),
    (KeyboardInterrupt("go on with this"), 130, "codesign: interrupted; go on with this"),
]
BUGS = [KeyError("x"), RuntimeError("two\nlines"), RecursionError(), EOFError(), AssertionError(), ArithmeticError("?")]


@pytest.mark.parametrize("names", every_command(), ids=" ".join)
def test_every_command_ends_in_one_sentence_and_the_documented_code(names, monkeypatch, tmp_path):
    for error, code, words in ENDINGS:
        result = ended(monkeypatch, names, error)
        assert result.exit_code == code
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
    assert reports(tmp_path) == []


@pytest.mark.parametrize("names", every_command(), ids=" ".join)
def test_in_every_command_a_bug_is_told_as_one_and_never_as_not_proved(names, monkeypatch, tmp_path):
    for error in BUGS:
        result = ended(monkeypatch, names, error)
        assert result.exit_code == 5
        assert result.stderr.count("\n") == 1
        assert "bug in codesign" in result.stderr
        assert "Traceback" not in result.stderr
        (report,) = reports(tmp_path)
        assert report.name in result.stderr
        told = json.loads(report.read_text())
        assert told["kind"] == "internal error"
        assert told["error"] == type(error).__name__
        assert told["command"] == ["codesign", *names]
        assert any("test_endings.py" in line for line in told["traceback"])
        assert told["versions"]["numpy"]
        report.unlink()


def test_an_option_that_fails_is_no_verdict_either(monkeypatch):
    def broken(*_):
        raise KeyError("x")

    for parameter in command_of(("certify",)).params:
        if parameter.name == "domain":
            monkeypatch.setattr(parameter, "callback", broken)
    result = CliRunner().invoke(main, ["certify", *map(str, PAIR), "--domain", "0,1"])
    assert result.exit_code == 5


def test_an_alarm_has_a_code_and_a_report_with_its_evidence(monkeypatch, tmp_path):
    alarm = SoundnessAlarm("region 3: observed 0.5 exceeds the bound 0.1", {"input": [[1.5]], "observed": [0.5]})
    result = ended(monkeypatch, ("certify",), alarm)
    assert result.exit_code == 4
    assert result.stderr.count("\n") == 1
    assert "SOUNDNESS ALARM: region 3" in result.stderr
    (report,) = reports(tmp_path)
    assert report.name in result.stderr
    told = json.loads(report.read_text())
    assert told["kind"] == "soundness alarm"
    assert told["evidence"] == {"input": [[1.5]], "observed": [0.5]}


def test_a_report_names_the_models_by_their_digests(monkeypatch, tmp_path):
    import codesign.api

    monkeypatch.setattr(codesign.api, "certify", lambda *_: {}["x"])
    result = CliRunner().invoke(main, ["certify", *map(str, PAIR), f"--calibration={FIXTURES / 'tiny.calib.npz'}"])
    assert result.exit_code == 5, result.output
    (report,) = reports(tmp_path)
    files = json.loads(report.read_text())["files"]
    assert len(files) == 3
    assert all(len(entry["sha256"]) == 64 and entry["bytes"] > 0 for entry in files.values())


def test_a_report_goes_to_the_temporary_folder_where_this_one_is_read_only(monkeypatch, tmp_path):
    """Told by a folder that is gone, as root may write everywhere."""
    gone, other = tmp_path / "gone", tmp_path / "other"
    gone.mkdir()
    other.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(other))
    result = ended(monkeypatch, ("boards",), KeyError("x"))
    assert result.exit_code == 5
    (report,) = reports(other)
    assert str(report) in result.stderr


def test_a_bug_while_the_report_is_written_changes_no_exit_code(monkeypatch, capfd):
    monkeypatch.setattr("codesign.incident._versions", lambda: {}["y"])
    result = ended(monkeypatch, ("boards",), KeyError("x"))
    assert result.exit_code == 5
    assert "KeyError" in result.stderr


def fails(item: int) -> int:
    if item == 1:
        raise {0: KeyError("in a worker"), 1: SoundnessAlarm("in a worker", {"input": [item]})}[item]
    time.sleep(0.05)
    return item


def test_an_alarm_of_a_worker_process_arrives_whole():
    with pytest.raises(SoundnessAlarm, match="in a worker") as caught:
        list(in_order(fails, range(3), 2))
    assert caught.value.evidence == {"input": [1]}


def breaks(item: int) -> int:
    return {}[f"item {item}"]


def test_a_bug_in_a_worker_process_is_reported_with_the_workers_own_traceback(monkeypatch, tmp_path):
    command = command_of(("boards",))
    monkeypatch.setattr(command, "params", [])
    monkeypatch.setattr(command, "callback", lambda: list(in_order(breaks, range(4), 2)))
    result = CliRunner().invoke(main, ["boards"])
    assert result.exit_code == 5
    (report,) = reports(tmp_path)
    assert any("in breaks" in line for line in json.loads(report.read_text())["traceback"])


def killed(item: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL if item == 0 else signal.SIGSEGV)
    return item


def test_a_worker_that_the_system_kills_is_no_bug_and_one_that_crashes_is(monkeypatch):
    command = command_of(("boards",))
    monkeypatch.setattr(command, "params", [])
    for item, code in ((0, 3), (1, 5)):
        monkeypatch.setattr(command, "callback", lambda item=item: list(in_order(killed, [item] * 2, 2)))
        result = CliRunner().invoke(main, ["boards"])
        assert result.exit_code == code, result.stderr
        assert ("memory" in result.stderr) == (code == 3)


def waits(item: int) -> int:
    time.sleep(600)
    return item


def stopped(pool: WorkerPool) -> None:
    with pool:
        for k in range(4):
            pool.submit(waits, k)
        time.sleep(1)
        raise KeyboardInterrupt


def test_a_pool_left_by_an_exception_ends_its_processes_at_once():
    with pytest.raises(KeyboardInterrupt):
        stopped(worker_pool(2))
    assert multiprocessing.active_children() == []


def start(*arguments, folder: Path) -> subprocess.Popen[str]:
    """The command in a group of processes of its own, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "codesign", *map(str, arguments)],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def alive(group: int) -> list[str]:
    """Processes of the group that have not ended (the name of one may hold a space)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] not in "ZX":
                found.append(entry.name)
    return found


def interrupt(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ctrl-C: every process of the group gets it."""
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    deadline = time.monotonic() + 30
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(process.pid) == []
    return out, err


def last_line(text: str) -> str:
    return text.splitlines()[-1]


def test_ctrl_c_ends_a_certification_with_130_and_names_its_journal(tmp_path):
    arguments = ("certify", *PAIR, "--samples", 100, "--jobs", 2, "--resume", "kept.jsonl", "-o", "c.json", "--json")
    slow = (*arguments, "--evaluations", 4000)
    process = start(*slow, folder=tmp_path)
    journal = tmp_path / "kept.jsonl"
    while not (journal.exists() and journal.stat().st_size) and process.poll() is None:
        time.sleep(0.05)
    out, err = interrupt(process)
    assert process.returncode == 130
    assert out == ""
    assert last_line(err).startswith("codesign: interrupted")
    assert "kept.jsonl" in last_line(err)
    assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["kept.jsonl"]
    before = journal.read_bytes()
    assert before.endswith(b"\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("convert", PAIR[0], "-o", "out.tflite"),
        ("robust", PAIR[0], "--radius", 0.01, "--samples", 200, "--jobs", 2, "--mode", "tight"),
        ("bench", PAIR[0], "--core", "m4"),
    ],
    ids=lambda a: a[0],
)
@pytest.mark.parametrize("seconds", [0.7, 2.5])
def test_ctrl_c_ends_a_command_with_130_and_leaves_nothing(arguments, seconds, tmp_path):
    process = start(*arguments, folder=tmp_path)
    time.sleep(seconds)
    if process.poll() is not None:
        pytest.fail("the command was done before it could be interrupted")
    _, err = interrupt(process)
    assert process.returncode == 130
    assert last_line(err) == "codesign: interrupted"
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_is_gone_ends_the_command_silently(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    assert select.select([], [writing], [], 10)[1]
    done = subprocess.run(
        [sys.executable, "-m", "codesign", "boards", "--json"], stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path
    )
    os.close(writing)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == b""


def test_the_exit_codes_are_documented():
    told = CliRunner().invoke(main, ["--help"]).stdout
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for code, words in (("0", "proved"), ("1", "not proved"), ("2", "bad"), ("3", "missing"), ("4", "SOUNDNESS ALARM"),
                        ("5", "bug"), ("130", "Ctrl-C")):  # fmt: skip
        (line,) = [line for line in told.splitlines() if line.split()[:1] == [code]]
        assert words in line
        (row,) = [line for line in readme.splitlines() if line.startswith(f"| {code} |")]
        assert words.lower() in row.lower()
