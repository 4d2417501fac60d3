"""Deployments that are killed: `codesign deploy --resume` goes on with what is finished, to the same result."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from codesign.cli import main
from codesign.errors import CodesignError, InputError
from codesign.partial import fingerprint, partial, partial_folder
from codesign.toolchain.pio import require_compiler

FIXTURES = Path(__file__).parents[1] / "fixtures"
OPTIONS = (
    "--board", "nucleo_f746", "--emulate", str(FIXTURES / "tiny.h5"), "--int8", str(FIXTURES / "tiny.tflite"),
    "--samples", "5", "--evaluations", "40", "--require-top1", "0.1",
)  # fmt: skip


@pytest.fixture
def _tools():
    from codesign.errors import MissingToolError

    pytest.importorskip("unicorn", reason="unicorn is not installed")
    try:
        require_compiler()
    except MissingToolError as error:
        pytest.skip(str(error))


def start(output, *options):
    command = [sys.executable, "-m", "codesign", "deploy", *OPTIONS, "-o", str(output), "--json", *options]
    environment = dict(os.environ, OPENBLAS_NUM_THREADS="1")
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def recorded(work, stage):
    try:
        return stage in json.loads((work / "state.json").read_text())["done"]
    except (OSError, ValueError):
        return False


# Where a run is killed: when this holds of its folder, and a moment later.
MOMENTS = {
    "certify": lambda work: lines(work / "certify.jsonl") >= 1,
    "build": lambda work: recorded(work, "certify") and any(work.glob("build.*/firmware")),
    "hil": lambda work: lines(work / "hil.jsonl") >= 7,
    "sign off": lambda work: recorded(work, "hil"),
}


def without_times(folder):
    """What a deployment says, but for times, the port, and digests that depend on them."""
    found = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("signoff", "certificate", "hil")}
    signoff, certificate, hil = found["signoff"], found["certificate"], found["hil"]
    for document, names in (
        (signoff, ("created",)),
        (certificate, ("created", "seconds", "digest", "proof_file")),
        (hil, ("seconds", "link", "bad_frames")),
    ):
        for name in names:
            document.pop(name, None)
    for name in ("certificate.json", "certificate.proof.npz", "hil.json", "report.html"):
        assert len(signoff["artifacts"].pop(name)) == 64
    del certificate["proof"]["seconds"]
    for region in certificate["regions"]:
        region.pop("seconds", None)
    del hil["target"]["port"]
    return found


@pytest.mark.usefixtures("_tools")
def test_killed_at_every_stage_a_deployment_resumes_to_the_same_result(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run = start(whole)
    assert run.wait(300) == 0, run.communicate()
    work = partial_folder(parts)
    rng = random.Random(11)
    answered = 0
    for stage, reached in MOMENTS.items():
        child = start(parts, "--resume")
        deadline = time.monotonic() + 300
        while child.poll() is None and not reached(work):
            assert time.monotonic() < deadline, stage
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        child.kill()
        child.communicate()
        assert child.returncode != 0, f"not killed at {stage}"
        assert not parts.exists()
        assert lines(work / "hil.jsonl") >= answered
        answered = lines(work / "hil.jsonl")
    assert answered == 1 + 3 + 1 + 5  # header, quantisations, trace, samples
    last = start(parts, "--resume")
    output, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    assert json.loads(output) == json.loads((parts / "signoff.json").read_text())
    assert differences(without_times(parts), without_times(whole)) == []
    assert (parts / "firmware.elf").read_bytes() == (whole / "firmware.elf").read_bytes()
    assert sorted(p.name for p in parts.iterdir()) == sorted(p.name for p in whole.iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts", "whole"]


def differences(one, other, place=""):
    """Where two JSON documents differ."""
    if type(one) is type(other) and isinstance(one, (dict, list)) and len(one) == len(other):
        keys = one.keys() if isinstance(one, dict) else range(len(one))
        if isinstance(one, list) or keys == other.keys():
            return [found for key in keys for found in differences(one[key], other[key], f"{place}/{key}")]
    return [] if one == other else [f"{place}: {str(one)[:100]} or {str(other)[:100]}"]


def deploy(*arguments):
    return CliRunner().invoke(main, ["deploy", *OPTIONS, *map(str, arguments)])


@pytest.mark.usefixtures("_tools")
def test_an_error_on_the_way_keeps_what_is_finished_and_other_wishes_are_refused(tmp_path, monkeypatch):
    output = tmp_path / "out"

    def broken(*_arguments, **_options):
        raise CodesignError("the board fell off the table")

    with monkeypatch.context() as patch:
        patch.setattr("codesign.api.cross_check", broken)
        result = deploy("-o", output)
    assert result.exit_code == 1
    assert "fell off" in result.stderr
    assert "the same command with --resume goes on" in result.stderr
    work = partial_folder(output)
    assert [p.name for p in tmp_path.iterdir()] == [work.name]
    journal = (work / "certify.jsonl").read_bytes()
    for options, name in (
        (("--radius", "2lsb"), "radius"),
        (("--seed", 1), "verification"),
        (("--samples", 4), "samples"),
    ):
        result = deploy("-o", output, "--resume", *options)
        assert result.exit_code == 2
        assert f"({name} differs)" in result.stderr
    assert (work / "certify.jsonl").read_bytes() == journal

    monkeypatch.setattr("codesign.api.certify_regions", broken)
    assert deploy("-o", output).exit_code == 1  # without --resume all is begun anew, to fail before there is a result
    assert not work.exists()


def request_(**changes):
    return {"model": "a", "radius": "b", **changes}


def begun(target, *stages):
    """An interrupted deployment with these stages finished."""

    def run():
        with partial(target, request_(), False) as work:
            work.certify_journal.write_text("{}\n")
            for stage in stages:
                (work.output / stage).write_text(stage)
                work.record(stage, [stage])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    return partial_folder(target)


def test_finished_stages_are_taken_over_where_their_files_are_unchanged(tmp_path):
    target = tmp_path / "out"
    folder = begun(target, "convert", "build")
    (folder / "output" / "build").write_text("changed")
    with partial(target, request_(), True) as work:
        assert work.finished("convert")
        assert not work.finished("build")
        assert not work.finished("hil")
        assert work.certify_journal.read_text() == "{}\n"
        (work.output / "signoff.json").write_text("{}")
        work.publish(keep=False)
    assert sorted(p.name for p in target.iterdir()) == ["build", "convert", "signoff.json"]
    assert not folder.exists()


def test_a_run_that_broke_off_is_published_and_can_be_resumed(tmp_path):
    target = tmp_path / "out"
    for finished in (False, True):
        with partial(target, request_(), True) as work:
            assert work.certify_journal.exists() == finished
            work.certify_journal.write_text("{}\n")
            (work.output / "signoff.json").write_text(str(finished))
            work.publish(keep=not finished)
        assert (target / "signoff.json").read_text() == str(finished)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_earlier_deployment_survives_a_kill_in_the_middle_of_the_exchange(tmp_path):
    target = tmp_path / "out"
    folder = begun(target)
    (folder / "replaced").mkdir()
    (folder / "replaced" / "signoff.json").write_text("earlier")
    with partial(target, request_(), False):
        assert (target / "signoff.json").read_text() == "earlier"
    assert (target / "signoff.json").read_text() == "earlier"
    assert not folder.exists()


def test_nothing_is_left_of_a_run_that_had_not_begun_to_certify(tmp_path):
    def run():
        with partial(tmp_path / "out", request_(), True) as work:
            work.record("convert", [])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert list(tmp_path.iterdir()) == []


def test_one_run_at_a_time(tmp_path):
    with (
        partial(tmp_path / "out", request_(), False),
        pytest.raises(InputError, match="another run is at work"),
        partial(tmp_path / "out", request_(), True),
    ):
        pass


@pytest.mark.parametrize(
    "state",
    [
        "", "[]", "[" * 100_000, "{}", '{"format": "codesign-partial-1", "request": {"model": 3}, "done": {}}',
        '{"format": "codesign-partial-1", "request": {}, "done": {"convert": {"../../etc/passwd": "x"}}}',
        '{"format": "codesign-partial-1", "request": {}, "done": {"convert": {"/etc/passwd": "x"}}}',
        '{"format": "codesign-partial-1", "request": {}, "done": {"convert": {"\\u0000": "x"}}}',
    ],
)  # fmt: skip
def test_damaged_states_are_refused(tmp_path, state):
    folder = begun(tmp_path / "out")
    (folder / "state.json").write_text(state)
    with pytest.raises(InputError, match="is damaged; start again"), partial(tmp_path / "out", request_(), True):
        pass


def test_fingerprints_see_content(tmp_path):
    import numpy as np

    from codesign.verification import Criteria, Options

    path = tmp_path / "noise.csv"
    assert fingerprint(path) == ""
    path.write_text("1")
    one = fingerprint((path, Options(Criteria(0.1)), np.zeros(3)))
    assert one == fingerprint((path, Options(Criteria(0.1)), np.zeros(3)))
    assert one != fingerprint((path, Options(Criteria(0.2)), np.zeros(3)))
    assert one != fingerprint((path, Options(Criteria(0.1)), np.zeros((3, 1))))
    path.write_text("2")
    assert one != fingerprint((path, Options(Criteria(0.1)), np.zeros(3)))
