"""A drawn sample is proved by dReal besides, where it can be run; certificate and command line say what came of it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from test_dreal import executable
from test_dreal_answers import RECORDED

from codesign.cli.main import main
from codesign.errors import SoundnessAlarm
from codesign.proof import Planes, ProofResult, dreal_solver
from codesign.proof.functions import violates
from codesign.text import everything_proved, proved_sentence, second_sentence
from codesign.verification import audit
from codesign.verification.affine import Box
from codesign.verification.audit import ProofSummary, Second, discharge
from codesign.verification.relaxation import Recorder, image, relax

FIXTURES = Path(__file__).parent.parent / "fixtures"
NO_MODULE = "the Python package dreal is not installed"


@pytest.fixture
def batches():
    recorder = Recorder()
    rng = np.random.default_rng(3)
    z = Box(*np.sort(rng.normal(size=(2, 4, 30)), axis=0))
    image("sigmoid", z, "here", recorder)
    relax("tanh", z, "there", recorder)
    return recorder.batches


@pytest.fixture
def no_module(monkeypatch):
    monkeypatch.setattr(dreal_solver, "_import_problem", lambda *_: NO_MODULE)


def summary(batches, seed=1, second=7, **other):
    arguments = {"mode": "all", "sample": 5, "prover": "auto", **other}
    return discharge(batches, rng=np.random.default_rng(seed), second_sample=second, **arguments)


def test_a_sample_is_proved_besides(tmp_path, monkeypatch, no_module, batches):
    executable(tmp_path, monkeypatch, "echo unsat")
    found = summary(batches)
    assert (found.emitted, found.checked, found.proved) == (240, 240, 240)
    assert dataclasses.replace(found.second, seconds=0.0) == Second("4.21.06.2", 7, 7)
    told = found.to_json()
    assert proved_sentence(told) == "all 240 proof obligations were proved, 240 by 'interval'"
    assert second_sentence(told) == (
        "a second solver on its own, dReal 4.21.06.2, proved 7 of 7 drawn at random besides"
    )
    assert ProofSummary.restored(json.loads(json.dumps(found.state()))) == found
    found.merge(summary(batches, 2))
    assert (found.second.drawn, found.second.proved, found.emitted) == (14, 14, 480)


def test_what_dreal_does_not_decide_is_told(tmp_path, monkeypatch, no_module, batches):
    executable(tmp_path, monkeypatch, "echo 'delta-sat with delta = 0.001'")
    found = summary(batches)
    assert (found.second.drawn, found.second.proved, found.second.undecided) == (7, 0, 7)
    assert found.ok  # it proves nothing either way
    assert "proved 0 of 7 drawn at random besides (of the others it said nothing: 7)" in second_sentence(
        found.to_json()
    )


def test_where_it_cannot_be_run_that_is_told_once(tmp_path, monkeypatch, no_module, batches):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = summary(batches)
    found.merge(summary(batches))
    assert found.second.drawn == 0
    said = second_sentence(found.to_json())
    assert said.count(NO_MODULE) == 1
    assert "no second solver proved any besides: dReal cannot be run here" in said
    assert found.ok


def test_a_refutation_is_an_alarm(tmp_path, monkeypatch, no_module, batches):
    executable(tmp_path, monkeypatch, "echo unsat")
    refuted = ProofResult("refuted", "dreal", 0.1, "a point", (0.5,))
    monkeypatch.setattr(audit, "prove", lambda stated, prover: [refuted] * len(stated))
    with pytest.raises(SoundnessAlarm, match=r"dReal refutes the obligation 'h?t?here"):
        summary(batches)


def test_a_recorded_refutation_by_dreal_is_an_alarm(tmp_path, monkeypatch):
    """A false statement that another prover would have to have passed, and what dReal 4.21.06.2 says of it."""
    false, answer = RECORDED[0]
    (tmp_path / "answer").write_text(answer)
    executable(tmp_path, monkeypatch, f"cat {tmp_path}/answer")
    lower, upper = (np.array(ends)[:, None] for ends in zip(*false.box, strict=True))
    ends = (np.array([end]) for end in (false.lo, false.hi))
    group = Planes.of(false.kind, "a place", lower, upper, np.array(false.slopes)[:, None], *ends)
    with pytest.raises(SoundnessAlarm, match="dReal refutes the obligation 'a place #0'") as alarm:
        audit._second([group])
    assert violates(false, alarm.value.evidence["point"])
    assert alarm.value.evidence["obligation"]["hi"] == false.hi


def test_it_is_not_asked_where_another_solver_is_named_or_none(tmp_path, monkeypatch, no_module, batches):
    executable(tmp_path, monkeypatch, "echo unsat")
    assert summary(batches, prover="icp").second is None
    assert summary(batches, mode="none").second is None
    assert summary(batches, second=0).second is None
    assert second_sentence(summary(batches, mode="none").to_json()) == ""
    drawn = summary(batches, mode="audit")
    assert (drawn.checked, drawn.second.drawn) == (5, 5)


def test_the_random_numbers_that_follow_do_not_depend_on_it(tmp_path, monkeypatch, no_module, batches):
    executable(tmp_path, monkeypatch, "echo unsat")
    states = []
    for path in (str(tmp_path), ""):
        monkeypatch.setenv("PATH", path)
        rng = np.random.default_rng(1)
        discharge(batches, "all", 5, "auto", rng, 7)
        states.append(rng.random(4).tolist())
    assert states[0] == states[1]


def test_sentences_say_what_is_missing(batches):
    for mode, said in (
        ("none", "none of the 240 proof obligations was proved; --prove all proves them"),
        ("audit", "only 5 of 240 proof obligations were drawn and proved; --prove all proves all of them"),
    ):
        found = summary(batches, mode=mode, second=0)
        assert proved_sentence(found.to_json()) == said
        assert not found.ok
        assert not everything_proved(found.to_json())
    wrong = dataclasses.replace(batches[0], hi=batches[0].hi - 1e-3)
    found = summary([wrong], second=3)
    assert proved_sentence(found.to_json()) == "120 of 120 proof obligations could not be proved"
    assert found.second is None
    assert {f["status"] for f in found.failures} == {"refuted"}


@pytest.mark.parametrize("body", ["echo unsat", None])
def test_certify_tells_it(tmp_path, monkeypatch, no_module, body):
    executable(tmp_path, monkeypatch, body or "exit 1")
    if body is None:
        (tmp_path / "dreal").unlink()
    models = [str(FIXTURES / f"tiny.{end}") for end in ("h5", "tflite")]
    options = ["--radius", "0.01lsb", "--samples", "2", "--evaluations", "20", "--jobs", "1"]
    certificate = tmp_path / "c.json"
    result = CliRunner().invoke(main, ["certify", *models, *options, "-o", str(certificate)])
    proof = json.loads(certificate.read_text())["proof"]
    assert proof["mode"] == "all"
    assert proof["proved"] == proof["checked"] == proof["obligations"] > 0
    assert proved_sentence(proof) in result.stdout
    assert second_sentence(proof) in result.stdout
    assert proof["second"]["drawn"] == proof["second"]["proved"] == (10 if body else 0)
    assert bool(proof["second"]["reason"]) is (body is None)


def test_only_a_share_proved_is_no_verdict(tmp_path, monkeypatch, no_module):
    monkeypatch.setenv("PATH", str(tmp_path))
    models = [str(FIXTURES / f"tiny.{end}") for end in ("h5", "tflite")]
    options = ["--radius", "0.01lsb", "--samples", "2", "--evaluations", "20", "--jobs", "1", "--epsilon", "1"]
    assert CliRunner().invoke(main, ["certify", *models, *options]).exit_code == 0
    for mode in ("audit", "none"):
        result = CliRunner().invoke(main, ["certify", *models, *options, "--prove", mode, "--json"])
        document = json.loads(result.stdout)
        assert (result.exit_code, document["verdict"]) == (1, "unknown")
