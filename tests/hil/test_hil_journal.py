"""Runs that are interrupted: nothing but the answer in flight is lost, and what goes on gives the same report."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_device import FakeDevice
from hil_support import Model
from journalled_run import BUILD_ID, SAMPLES

from codesign.errors import InputError
from codesign.hil import Device, Journal, Recovery, Target, cross_check

SCRIPT = Path(__file__).parent / "journalled_run.py"


def start(folder: Path, name: str, *options: str) -> subprocess.Popen[str]:
    arguments = [str(folder / f"{name}.jsonl"), str(folder / f"{name}.json"), str(folder / f"{name}.log"), *options]
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments], stdout=subprocess.PIPE, text=True,
        env=dict(os.environ, OPENBLAS_NUM_THREADS="1"),
    )  # fmt: skip


def report(path: Path) -> dict[str, Any]:
    """Without what belongs to the session: time, port, and what happened on the line."""
    result: dict[str, Any] = json.loads(path.read_text())
    for name in ("seconds", "link", "bad_frames"):
        del result[name]
    del result["target"]["port"]
    return result


def test_killed_at_any_moment_a_run_resumes_to_the_same_report(tmp_path: Path) -> None:
    whole = start(tmp_path, "whole")
    whole.communicate(timeout=60)
    assert whole.returncode == 0
    rng = random.Random(7)
    kills = 0
    finished = False
    while not finished:
        child = start(tmp_path, "parts", "--resume")
        assert child.stdout
        assert child.stdout.readline() == "running\n"
        if kills < 8:
            time.sleep(rng.uniform(0.01, 0.14))
            child.kill()
            kills += 1
        child.communicate(timeout=60)
        finished = child.returncode == 0
        journal = tmp_path / "parts.jsonl"
        if journal.exists():
            lines = journal.read_bytes().splitlines(keepends=True)
            whole_lines = [json.loads(line) for line in lines if line.endswith(b"\n")]
            stored = sum(line.get("kind") == "infer" for line in whole_lines)
            answered = (tmp_path / "parts.log").stat().st_size if (tmp_path / "parts.log").exists() else 0
            assert answered - stored <= kills + 1 + finished  # one in flight a kill; sample 0 is repeated at the end
    assert kills >= 3
    assert report(tmp_path / "parts.json") == report(tmp_path / "whole.json")
    assert json.loads((tmp_path / "parts.json").read_text())["summary"]["samples"] == SAMPLES


def run(model: Model, journal: Path, resume: bool = True, x: np.ndarray | None = None, **behaviour: Any) -> Any:
    fake = FakeDevice(model.integer, **{"build_id": BUILD_ID, **behaviour})
    with fake, Device(fake.port, timeout=0.3, retries=0) as device:
        target = Target(device, device.identify(), fake.port, False, "a fake", "instructions", 1.0)
        samples = model.x[:5] if x is None else x
        result = cross_check(
            target, model.integer, model.real, samples, journal=journal, resume=resume, recovery=Recovery(0.5, 1)
        )
    return result, fake.requests


def test_a_failed_run_goes_on_where_it_stopped(tiny: Model, tmp_path: Path) -> None:
    journal = tmp_path / "hil.jsonl"
    dead, _ = run(tiny, journal, fault=lambda number, reply: reply if number < 8 else b"")
    done = len(dead["samples"])
    assert dead["verdict"] == "FAIL"
    assert 0 < done < 5
    result, requests = run(tiny, journal)
    assert result["verdict"] == "PASS"
    assert requests.count(2) == 5 - done + 1  # and sample 0 at the end
    assert requests.count(3) == requests.count(5) == 1  # not for their answers: for the stack they take


def test_wrong_answers_stay_wrong(tiny: Model, tmp_path: Path) -> None:
    """What a device answered cannot be mended by asking another one."""
    journal = tmp_path / "hil.jsonl"
    bad, _ = run(tiny, journal, corrupt=lambda layer, values: values ^ 1 if layer == -1 else values)
    again, requests = run(tiny, journal)
    assert bad["verdict"] == again["verdict"] == "FAIL"
    assert requests.count(2) == 1
    assert again["samples"] == bad["samples"]
    assert again["divergence"] == bad["divergence"]


def test_every_line_is_whole_or_dropped(tiny: Model, tmp_path: Path) -> None:
    journal = tmp_path / "hil.jsonl"
    clean, _ = run(tiny, journal)
    content = journal.read_bytes()
    for cut in range(0, len(content), 97):
        journal.write_bytes(content[:cut])
        result, _ = run(tiny, journal)
        assert result["samples"] == clean["samples"]
        assert result["traces"] == clean["traces"]
        assert sorted(journal.read_bytes().splitlines()) == sorted(content.splitlines())


def test_journal_of_another_run_is_refused(tiny: Model, tmp_path: Path) -> None:
    journal = tmp_path / "hil.jsonl"
    run(tiny, journal)
    with pytest.raises(InputError, match=r"another run \(build id differs\)"):
        run(tiny, journal, build_id=bytes(16))
    with pytest.raises(InputError, match=r"another run \(samples sha256 differs\)"):
        run(tiny, journal, x=tiny.x[1:6])
    kept = journal.read_bytes()
    result, _ = run(tiny, journal, resume=False, build_id=bytes(16))
    assert result["verdict"] == "PASS"
    assert journal.read_bytes() != kept


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [lines[0], b"{]\n", *lines[1:]], "line 2 .* is damaged"),
        (lambda lines: [b"[1]\n", *lines[1:]], "line 1 .* is damaged"),
        (lambda lines: [lines[0], b'{"kind": 3}\n'], "line 2 .* is no result"),
        (lambda lines: [lines[0], b'{"kind": "infer", "sample": true}\n'], "line 2 .* is no result"),
        (lambda lines: [lines[0], b'{"kind": "infer", "sample": 0, "output": [300]}\n'], "damaged result"),
        (lambda lines: [lines[0], b'{"kind": "quantize", "sample": 0, "values": null}\n'], "damaged result"),
        (lambda lines: [lines[0], b'{"kind": "trace", "sample": 0}\n'], "damaged result"),
        (lambda lines: [lines[0], b'{"kind": "infer", "sample": 0, "output": [1], "count": "x"}\n'], "damaged result"),
        (lambda lines: [b'{"format": "shopping"}\n'], "not a journal"),
        (lambda lines: [b"[" * 100_000 + b"\n"], "damaged"),
    ],
)
def test_damaged_journals_are_refused(tiny: Model, tmp_path: Path, damage: Any, message: str) -> None:
    journal = tmp_path / "hil.jsonl"
    run(tiny, journal)
    journal.write_bytes(b"".join(damage(journal.read_bytes().splitlines(keepends=True))))
    with pytest.raises(InputError, match=message):
        run(tiny, journal)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    journal = tmp_path / "hil.jsonl"
    with Journal(journal, {"a": 1}), pytest.raises(InputError, match="being written by another run"):
        Journal(journal, {"a": 1}, resume=True)
    with pytest.raises(InputError, match="cannot be written"):
        Journal(tmp_path / "missing" / "hil.jsonl", {})
    (tmp_path / "link.jsonl").symlink_to(journal)
    with pytest.raises(InputError, match="cannot be written"):
        Journal(tmp_path / "link.jsonl", {})
