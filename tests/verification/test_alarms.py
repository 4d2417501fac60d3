"""Methods with planted errors: whatever derived a bound, nothing is told as proved that an exact evaluation exceeds."""

from __future__ import annotations

import dataclasses
import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from codesign import api
from codesign.certificate import hil_regions
from codesign.cli import main
from codesign.errors import SoundnessAlarm
from codesign.soundness import require_never, require_within
from codesign.verification import Criteria, Options, all_inputs, ball, robust
from codesign.verification import certify as certify_regions
from codesign.verification.affine import Box

FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.fixture
def models(tmp_path, monkeypatch):
    for name in ("tiny.h5", "tiny.tflite", "tiny.calib.npz"):
        shutil.copy(FIXTURES / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def pair():
    return api.load(FIXTURES / "tiny.h5"), api.read(FIXTURES / "tiny.tflite")


@pytest.fixture(scope="module")
def data():
    return api.calibration(FIXTURES / "tiny.h5")


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def shrunk(box: Box) -> Box:
    """A thousandth of the box, about its middle."""
    middle, half = (box.lo + box.hi) / 2, (box.hi - box.lo) / 2000
    return Box(middle - half, middle + half)


def plant(monkeypatch, **fields):
    """The zonotope's enclosures with these fields changed: what an unsound method would give."""
    module = import_module("codesign.verification.certify")
    sound = module.propagate

    def unsound(*arguments, **keywords):
        found = sound(*arguments, **keywords)
        return dataclasses.replace(found, **{name: change(getattr(found, name)) for name, change in fields.items()})

    monkeypatch.setattr(module, "propagate", unsound)


def certified(*more):
    return run("certify", "tiny.h5", "tiny.tflite", "--samples", 2, "--jobs", 1, "--evaluations", 300,
               "-o", "c.json", *more)  # fmt: skip


def alarmed(result, folder: Path):
    """The alarm's evidence; nothing else was written."""
    assert result.exit_code == 4, result.output
    assert result.stderr.splitlines()[-1].startswith("codesign: SOUNDNESS ALARM")
    assert "proved" not in result.stdout
    assert "Traceback" not in result.output
    (report,) = folder.glob("codesign-soundness-alarm-*.json")
    assert report.name in result.stderr
    told = json.loads(report.read_text())
    report.unlink()
    return told["evidence"]


@pytest.mark.parametrize("field", ["output_difference", "logit_difference", "output"])
@pytest.mark.parametrize("more", [(), ("--epsilon", "0.5", "--prove", "none", "--json")], ids=" ".join)
def test_a_bound_that_the_search_beats_is_an_alarm_and_no_certificate(field, more, models, monkeypatch):
    plant(monkeypatch, **{field: shrunk})
    before = sorted(p.name for p in models.iterdir())
    evidence = alarmed(certified(*more), models)
    assert sorted(p.name for p in models.iterdir()) == before
    x = np.array(evidence["input"])
    lo, hi = (np.array(evidence["region"][end]) for end in ("lo", "hi"))
    assert x.shape == lo.shape
    assert ((lo <= x) & (x <= hi)).all()


def test_an_earlier_certificate_stays_as_it_was(models, monkeypatch):
    assert certified().exit_code == 0
    before = {p.name: p.read_bytes() for p in models.iterdir()}
    plant(monkeypatch, output_difference=shrunk)
    alarmed(certified(), models)
    assert {p.name: p.read_bytes() for p in models.iterdir()} == before


def test_the_evidence_shows_it(models, monkeypatch, pair):
    """The input of the report, evaluated again."""
    from codesign.network import evaluate
    from codesign.semantics import dequantize, quantize_input, simulate

    plant(monkeypatch, output_difference=shrunk)
    evidence = alarmed(certified(), models)
    network, integer = pair
    x = np.array(evidence["input"], np.float32)[None]
    error = np.abs(dequantize(integer.output, simulate(integer, quantize_input(integer, x))) - evaluate(network, x))
    bound = np.maximum(-np.array(evidence["derived"]["lower"]), np.array(evidence["derived"]["upper"]))
    assert (error > bound).any()


def test_a_journal_takes_no_result_that_the_search_beats(models, monkeypatch):
    plant(monkeypatch, output_difference=shrunk)
    alarmed(certified("--resume", "j.jsonl"), models)
    assert (models / "j.jsonl").read_bytes() == b""


def test_a_result_of_a_journal_passes_the_same_gate(models, monkeypatch):
    """A journal whose bounds are too small, with a digest that fits."""
    module = import_module("codesign.verification.journal")
    stored = module._to_json

    def smaller(result):
        return {
            **stored(result),
            "lower": module._pack(result.lower / 1000),
            "upper": module._pack(result.upper / 1000),
        }

    with monkeypatch.context() as forging:
        forging.setattr(module, "_to_json", smaller)
        assert certified("--resume", "j.jsonl").exit_code == 0
    before = (models / "c.json").read_bytes()
    alarmed(certified("--resume", "j.jsonl"), models)
    assert (models / "c.json").read_bytes() == before


def lying(monkeypatch, status: bool):
    module = import_module("codesign.verification.certify")
    sound = module.top1_proved

    def told(enclosure):
        proved, classes = sound(enclosure)
        return np.full_like(proved, status), classes

    monkeypatch.setattr(module, "top1_proved", told)


def test_a_class_told_as_proved_that_an_input_flips_is_an_alarm(models, monkeypatch):
    lying(monkeypatch, True)
    result = certified("--radius", 0.8, "--evaluations", 3000)
    assert alarmed(result, models)["region"]["radius"] == 0.8


@pytest.mark.parametrize(
    ("criterion", "more"),
    [("topk", ("--topk", 2)), ("ranking", ("--ranking", "0,1")), ("top1_above", ("--top1-above", 0.0))],
)
def test_an_order_told_as_proved_that_an_input_violates_is_an_alarm(criterion, more, models, monkeypatch):
    module = import_module("codesign.verification.certify")
    sound = module.proofs
    monkeypatch.setattr(
        module, "proofs", lambda *a: {name: np.ones_like(flags, dtype=bool) for name, flags in sound(*a).items()}
    )
    result = certified(*more, "--radius", 0.8, "--evaluations", 3000)
    evidence = alarmed(result, models)
    assert f"criterion {criterion} was derived to hold" in evidence["what"]


def test_a_domain_whose_bounds_are_too_small_is_an_alarm(models, monkeypatch):
    sound = all_inputs.enclose_domain

    def unsound(*arguments, **keywords):
        found = sound(*arguments, **keywords)
        difference = shrunk(found.enclosure.output_difference)
        return dataclasses.replace(found, enclosure=dataclasses.replace(found.enclosure, output_difference=difference))

    monkeypatch.setattr(all_inputs, "enclose_domain", unsound)
    result = run("certify", "tiny.h5", "tiny.tflite", "--region", "domain", "--jobs", 1, "-o", "c.json")
    alarmed(result, models)
    assert not (models / "c.json").exists()


def test_a_domain_told_to_keep_the_class_of_every_sample_is_an_alarm(models, monkeypatch):
    data = np.load(models / "tiny.calib.npz")
    network, integer = api.load("tiny.h5"), api.read("tiny.tflite")
    # Samples on which the two classes differ: found by the search in a wide region.
    found = certify_regions(
        network, integer, [ball("0", data["x"][0], 0.8, (
            data["x"].min((0, 1)).astype(float), data["x"].max((0, 1)).astype(float)))],
        Options(evaluations=3000),
    ).regions[0].found  # fmt: skip
    assert found.disagreement is not None
    x = np.concatenate([data["x"], found.disagreement[None]])
    np.savez(models / "more.npz", x=x)
    monkeypatch.setattr(all_inputs, "covered", lambda domain, logits: np.ones(len(logits), bool))
    result = run("certify", "tiny.h5", "tiny.tflite", "--region", "domain", "--jobs", 1, "--calibration", "more.npz")
    alarmed(result, models)


def test_a_ball_told_as_robust_in_which_another_class_lies_is_an_alarm(models, monkeypatch):
    sound = robust.float_bounds

    def unsound(*arguments, **keywords):
        lower, upper, margins = sound(*arguments, **keywords)
        return lower, upper, np.full_like(margins, 1.0)

    monkeypatch.setattr(robust, "float_bounds", unsound)
    result = run("robust", "tiny.h5", "--radius", 1.0, "--samples", 3)
    alarmed(result, models)


def test_a_logit_outside_its_robust_enclosure_is_an_alarm(models, monkeypatch):
    sound = robust.float_bounds

    def unsound(*arguments, **keywords):
        _, upper, margins = sound(*arguments, **keywords)
        return upper - 1e-3, upper, margins

    monkeypatch.setattr(robust, "float_bounds", unsound)
    alarmed(run("robust", "tiny.h5", "--radius", 0.05, "--samples", 1), models)


def test_check_tries_what_the_checker_finds_valid(models, monkeypatch):
    """A checker that finds everything valid, and a certificate whose bounds were divided by 1,000."""
    from codesign import recheck
    from codesign.checker import CheckResult

    assert certified("--radius", 0.05).exit_code == 0
    document = json.loads((models / "c.json").read_text())
    monkeypatch.setattr(recheck.checker, "check", lambda *_: CheckResult("valid", document=document))
    monkeypatch.setattr(recheck.checker, "read_claims", lambda *_: None)
    monkeypatch.setattr(recheck, "check_data", lambda *_: ())
    monkeypatch.setattr(recheck, "check_inputs", lambda *_: ())
    arguments = ("check", "c.json", "--float", "tiny.h5", "--int8", "tiny.tflite")
    for divisor, code in ((1, 0), (1000, 4)):
        for region in document["regions"]:
            region["bound"] = [value / divisor for value in region["bound"]]
            region["bound_max"] = max(region["bound"])
            region["total_bound"] = [value / divisor for value in region["total_bound"]]
            region["total_bound_max"] = max(region["total_bound"])
        (models / "c.json").write_text(json.dumps(document))
        assert run(*arguments).exit_code == code
    assert len(list(models.glob("codesign-soundness-alarm-*.json"))) == 1


def test_every_exception_of_the_family_leaves_an_alarm_alone():
    """Code that goes on after an error of the family does not go on after an alarm."""
    from codesign.errors import CodesignError

    assert not issubclass(SoundnessAlarm, CodesignError)


def test_what_is_within_passes_and_nan_never_is():
    def evidence():
        return {}

    require_within("x", [1.0, 2.0], [1.0, 2.0], evidence)
    require_within("x", [[0.5, 0.5]], 0.5, evidence)
    require_never("x", False, evidence)
    for observed, bound in (([1.0, np.nan], [1.0, 2.0]), ([1.0], [np.nan]), ([np.nextafter(1.0, 2)], [1.0])):
        with pytest.raises(SoundnessAlarm, match="above the derived bound"):
            require_within("x", observed, bound, evidence)
    with pytest.raises(SoundnessAlarm):
        require_never("x", True, evidence)


def test_an_honest_run_raises_none(pair, data):
    network, integer = pair
    options = Options(Criteria(epsilon=0.5, topk=2), evaluations=2000)
    document = api.certify(network, integer, data, "3lsb", 4, options=options)
    assert document["regions"]
    assert hil_regions(document, data.x[:4])
