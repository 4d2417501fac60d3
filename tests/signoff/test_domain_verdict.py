"""Sign-off of certificates over the whole domain: the statement, the streams, and what contradicts them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from signoff_support import VALID, Evidence

from codesign.signoff import decide, sign_off

BOUND = [0.25, 0.5]


def whole_domain(evidence: Evidence, any_length: bool = True, steps: int = 10_000) -> Evidence:
    """The evidence as a domain certificate would make it; its numbers are made up, and true of the samples."""
    certificate, hil = evidence.certificate, evidence.hil
    region = certificate["regions"][0]
    outputs = len(region["bound"])
    region.update(
        id="domain", kind="domain", sample=None, radius=None, top1="unknown", counted=False, bound=[1.0] * outputs,
        bound_max=1.0, total_bound=[1.0] * outputs, total_bound_max=1.0,
        difference_lo=[-1.0] * outputs, difference_hi=[1.0] * outputs, vacuous=False,
    )  # fmt: skip
    certificate["domain"] = {"lo": [0.0] * 3, "hi": [1.0] * 3}
    certificate["ranges"] = {"outputs": {"vacuous_from": [2.0] * outputs}, "logits": {"vacuous_from": [9.0] * 2}}
    certificate["regions"] = [region]
    certificate["all_inputs"] = {
        "statement": "...", "method": "...", "any_length": any_length, "total_logit_bound": BOUND,
        "vacuous": False, "same_class_margin": 1.0625,
        "covered_share": 0.75, "covered_samples": 6, "samples": 8,
    }  # fmt: skip
    if any_length:
        hil["streams"] = [
            {
                "number": 0, "steps": steps, "inputs_sha256": "0" * 64, "bit_exact": steps, "first_wrong": None,
                "max_error": [0.9] * outputs, "bound": [1.0] * outputs, "within_bound": steps,
                "class_certified": 7, "class_equal": 7, "count": 5,
            }
        ]  # fmt: skip
    for sample in hil["samples"]:
        sample["bound"], sample["within_bound"] = [1.0] * outputs, True
    return evidence


def judge(evidence: Evidence) -> Any:
    return decide(evidence.certificate, evidence.hil, evidence.build, evidence.artifacts())


def test_the_statement_and_the_stream_are_told(good: Evidence) -> None:
    result = judge(whole_domain(good))
    assert (result.verdict, result.failures) == ("PASS", ())
    assert result.proved[0] == (
        "For every sequence of any number of float32 inputs of the domain [0, 1] for every feature, the integer "
        "model's dequantized logits are within 0.5 of the float model's, float32 included; wherever the float "
        "model's margin there exceeds 1.063 the class is the same (proved so for 6 of the 8 samples, 75.0 %)."
    )
    assert any("1 stream of 10,000 steps in all, without a reset" in text for text in result.proved)
    assert any("Nothing is proved for inputs outside the domain [0, 1] for every feature" in n for n in result.notes)
    assert any("Where the float model's margin is 1.063 or less, the class may differ" in n for n in result.notes)


def test_what_a_time_step_costs_is_told(good: Evidence) -> None:
    evidence = whole_domain(good)
    evidence.hil["counter"]["unit"] = "instructions"
    evidence.hil["streams"][0]["count"] = 25_000_000
    assert any("A time step takes 2,500 instructions on average." in text for text in judge(evidence).proved)
    evidence.hil["streams"][0]["count"] = 0
    assert not any("A time step" in text for text in judge(evidence).proved)


def test_a_fixed_length_needs_no_stream(good: Evidence) -> None:
    result = judge(whole_domain(good, any_length=False))
    assert (result.verdict, result.failures) == ("PASS", ())
    assert result.proved[0].startswith(
        "For every float32 input of the domain [0, 1] for every feature, the integer model's"
    )


def test_a_short_stream_is_told(good: Evidence) -> None:
    result = judge(whole_domain(good, steps=500))
    assert result.verdict == "PASS"
    assert any("has 500 steps" in note for note in result.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, h: h.pop("streams"), "no stream was run"),
        (lambda c, h: h["streams"].clear(), "no stream was run"),
        (lambda c, h: h.update(streams={"steps": 1}), "no valid 'streams'"),
        (lambda c, h: h["streams"][0].update(bit_exact=9_999), "1 of 10000 steps of stream 0 are not bit-exact"),
        (lambda c, h: h["streams"][0].update(steps=0, bit_exact=0), "not bit-exact"),
        (lambda c, h: h["streams"][0]["max_error"].__setitem__(0, 1.001), "stream 0 exceeds the certified bound"),
        (lambda c, h: h["streams"][0].update(max_error=[]), "stream 0 exceeds the certified bound"),
        (lambda c, h: h["streams"][0].update(class_equal=6), "another top-1 class"),
        (lambda c, h: h["streams"][0].pop("max_error"), "lacks 'max_error'"),
        (lambda c, h: c["all_inputs"].update(same_class_margin=0.9), "margin is below twice its bound"),
        (lambda c, h: c["all_inputs"].update(same_class_margin="wide"), "margin is below twice its bound"),
        (lambda c, h: c["all_inputs"].update(total_logit_bound=[]), "does not go with one region"),
        (lambda c, h: c["all_inputs"].pop("any_length"), "lacks 'any_length'"),
        (lambda c, h: c["regions"].append({**c["regions"][0], "id": "again"}), "does not go with one region"),
    ],
)
def test_what_contradicts_it_fails(good: Evidence, change: Callable[[Any, Any], Any], message: str) -> None:
    evidence = whole_domain(good)
    change(evidence.certificate, evidence.hil)
    result = judge(evidence)
    assert result.verdict == "FAIL"
    assert any(message in failure for failure in result.failures), result.failures


def test_inputs_without_a_label_do_not_take_the_accuracy_away(good: Evidence, tmp_path: Path) -> None:
    everything = sign(good, tmp_path / "a")
    assert everything["metrics"]["accuracy"]["float"] == 0.75  # 2 of 8 labels are wrong
    good.hil["samples"][0]["label"] = None
    assert sign(good, tmp_path / "b")["metrics"]["accuracy"]["float"] == pytest.approx(5 / 7)


def sign(evidence: Evidence, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    evidence.write(folder)
    return sign_off(
        folder, evidence.certificate, evidence.hil, evidence.build, evidence.float_network, evidence.network,
        evidence.data, checked=VALID,
    )  # fmt: skip
