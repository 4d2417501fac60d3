"""Time limits and journals: what was reached is the same, what was not is unknown, a killed run goes on."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from codesign.certificate import certificate_document, validate_certificate
from codesign.errors import InputError
from codesign.verification import Criteria, Options, ball, certify, grid_ball, input_domain
from codesign.verification.journal import Journal, batch_key

FIXTURES = Path(__file__).parent.parent / "fixtures"
ASKED = Criteria(epsilon=0.006, top1_share=0.5, top1_above=0.3, topk=2, ranking=(0, 1))
QUICK = Options(criteria=ASKED, evaluations=150, audit_sample=3)


def regions(integer, data, count):
    domain = input_domain(data.x)
    made = [ball(str(k), data.x[k], 2 * integer.input.scale, domain) for k in range(count)]
    made[1] = grid_ball("grid", data.x[1], 1, integer.input)
    made[2] = ball("suffix", data.x[2], integer.input.scale, domain, 2)
    return made


def document(result, data):
    """The certificate apart from times."""
    told = validate_certificate(certificate_document(result, [None] * len(result.regions), input_domain(data.x)))
    told = json.loads(json.dumps(told, allow_nan=False))
    for key in ("seconds", "created"):
        told.pop(key)
    told["proof"].pop("seconds")
    told["parameters"].pop("time_limit")
    for region in told["regions"]:
        region.pop("seconds")
    return told


def test_a_resumed_run_gives_the_same_certificate(pair, tmp_path):
    network, integer, data = pair("tiny")
    chosen = regions(integer, data, 10)
    whole = certify(network, integer, chosen, QUICK)
    path = tmp_path / "journal"
    journalled = dataclasses.replace(QUICK, resume=path)
    first = certify(network, integer, chosen, journalled)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    for kept in (b"", lines[0], lines[1] + lines[0], lines[0] + lines[2][:-40]):
        path.write_bytes(kept)
        again = certify(network, integer, chosen, journalled)
        assert document(again, data) == document(first, data) == document(whole, data)
        assert sorted(json.loads(line)["key"] for line in path.read_bytes().splitlines()) == sorted(
            json.loads(line)["key"] for line in lines
        )
        for a, b in zip(again.regions, whole.regions, strict=True):
            for name in ("slopes", "resets"):
                np.testing.assert_array_equal(getattr(a.trace, name), getattr(b.trace, name))
            assert a.trace.steps == b.trace.steps
            np.testing.assert_array_equal(a.found.worst, b.found.worst)
    before = path.read_bytes()
    parallel = certify(network, integer, chosen, dataclasses.replace(journalled, jobs=2))
    assert document(parallel, data) == document(whole, data)
    assert path.read_bytes() == before  # nothing was computed again


def test_finished_batches_are_not_computed_again(pair, tmp_path, monkeypatch):
    network, integer, data = pair("tiny")
    chosen = regions(integer, data, 5)
    journalled = dataclasses.replace(QUICK, resume=tmp_path / "journal")
    certify(network, integer, chosen, journalled)
    calls = []
    monkeypatch.setattr(sys.modules[certify.__module__], "_certify_batch", calls.append)
    certify(network, integer, chosen, journalled)
    assert calls == []


def test_other_inputs_are_never_taken(pair, tmp_path):
    """The key changes with models, options, regions and their order, not with jobs or the limit."""
    _, integer, data = pair("tiny")
    chosen = regions(integer, data, 4)
    models = ("a", "b")
    key = batch_key(models, [integer], QUICK, chosen, 0)
    replace = dataclasses.replace
    same = [replace(QUICK, jobs=7), replace(QUICK, time_limit=3.0), replace(QUICK, resume=tmp_path)]
    assert all(batch_key(models, [integer], options, chosen, 0) == key for options in same)
    nudged = [*chosen[:3], replace(chosen[3], hi=np.nextafter(chosen[3].hi, np.inf))]
    others = [
        batch_key(("a", "c"), [integer], QUICK, chosen, 0),
        batch_key(models, [replace(integer, profile="tflm-float")], QUICK, chosen, 0),
        batch_key(models, [integer], replace(QUICK, seed=1), chosen, 0),
        batch_key(models, [integer], replace(QUICK, criteria=Criteria()), chosen, 0),
        batch_key(models, [integer], QUICK, chosen[::-1], 0),
        batch_key(models, [integer], QUICK, nudged, 0),
        batch_key(models, [integer], QUICK, chosen, 1),
    ]
    assert len({key, *others}) == len(others) + 1


def test_a_time_limit_leaves_regions_unknown(pair):
    network, integer, data = pair("tiny")
    chosen = regions(integer, data, 6)
    none = certify(network, integer, chosen, dataclasses.replace(QUICK, time_limit=0.0))
    assert {r.reason for r in none.regions} == {"time limit"}
    assert {r.top1 for r in none.regions} == {"unknown"}
    assert {s for r in none.regions for s in r.orders.values()} == {"unknown"}
    assert none.verdict == "unknown"
    told = document(none, data)
    assert told["summary"]["not_reached"] == 6
    whole = certify(network, integer, chosen, QUICK)
    for a, b in zip(none.regions, whole.regions, strict=True):
        assert (a.bound >= b.bound).all()  # sound: what output ranges allow


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_limited_run_reached_is_the_same(pair, monkeypatch, jobs):
    """The clock jumps past the limit after the first batches were started."""
    network, integer, data = pair("tiny")
    chosen = regions(integer, data, 20)
    whole = certify(network, integer, chosen, QUICK)
    ticks = iter([0.0, 0.0, 0.0])
    clock = SimpleNamespace(monotonic=lambda: next(ticks, 100.0), process_time=time.process_time)
    monkeypatch.setattr(sys.modules[certify.__module__], "time", clock)
    limited = certify(network, integer, chosen, dataclasses.replace(QUICK, time_limit=50.0, jobs=jobs))
    reached = [r.reason != "time limit" for r in limited.regions]
    assert reached == [True] * 8 + [False] * 12
    both = (json.loads(json.dumps([{**r.to_json(), "seconds": 0} for r in c.regions[:8]])) for c in (limited, whole))
    assert next(both) == next(both)


def test_damaged_journals_are_refused(pair, tmp_path):
    network, integer, data = pair("tiny")
    chosen = regions(integer, data, 4)
    path = tmp_path / "journal"
    options = dataclasses.replace(QUICK, resume=path)
    certify(network, integer, chosen, options)
    good = path.read_bytes()
    at = good.index(b"per_output")
    for bad in (
        b"hello\n",
        b"not a journal",
        b"[1, 2]\n",
        b'{"key": 1, "body": {}, "digest": ""}\n',
        good[:at] + b"X" + good[at + 1 :],
        good.replace(b'"key": "', b'"key": "0', 1),
        b"\x00\n" + good,
        b"[" * 100000 + b"\n",
    ):
        path.write_bytes(bad)
        with pytest.raises(InputError, match="journal") as error:
            certify(network, integer, chosen, options)
        assert "\n" not in str(error.value)
        assert path.read_bytes() == bad
    with pytest.raises(InputError):
        Journal(tmp_path)
    with pytest.raises(InputError, match="written"):
        Journal(tmp_path / "no" / "journal")


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_bad_limits_are_refused(bad):
    with pytest.raises(InputError, match="time limit"):
        Options(time_limit=bad)


def test_a_killed_run_goes_on(tmp_path):
    """SIGKILL as soon as the journal has a line; the same command then gives the certificate of an unbroken run."""
    journal, output = tmp_path / "journal", tmp_path / "c.json"
    command = [
        sys.executable, "-m", "codesign", "certify", FIXTURES / "tiny.h5", FIXTURES / "tiny.tflite", "--samples", "12",
        "--evaluations", "2000", "--jobs", "2", "--topk", "1", "-o", output,
    ]  # fmt: skip
    resumed = [*map(str, command), "--resume", str(journal)]
    process = subprocess.Popen(resumed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert journal.stat().st_size
    lines = journal.read_bytes().count(b"\n")
    assert not output.exists() or lines == 3
    subprocess.run(resumed, check=True, capture_output=True)
    resumed_document = json.loads(output.read_text())
    keys = [json.loads(line)["key"] for line in journal.read_bytes().splitlines()]
    assert len(set(keys)) == len(keys) == 3  # each batch once: the killed run's were taken
    output.unlink()
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    for told in (resumed_document, whole := json.loads(output.read_text())):
        for key in ("seconds", "created", "digest"):
            told.pop(key, None)
        told["proof"].pop("seconds")
        for region in told["regions"]:
            region.pop("seconds")
    assert resumed_document == whole
