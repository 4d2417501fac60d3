"""The verdict at its limits: what just passes, and that nothing is said which the evidence does not call for."""

from __future__ import annotations

from typing import Any

import pytest
from signoff_support import Evidence, make_evidence

from codesign.signoff import SignOff, decide
from codesign.verification import Criteria

NO_CRITERION, NOT_PROVED = "No criterion was asked for", "The certified bounds are not proved"


def judge(e: Evidence, criteria: Criteria | None = None) -> SignOff:
    return decide(e.certificate, e.hil, e.build, e.artifacts(), criteria)


def bits(e: Evidence, **changed: Any) -> SignOff:
    files = {k: v for k, v in e.artifacts().items() if k != "certificate.json"}
    given = {"hil": e.hil, "build": e.build, "artifacts": files, "certificate": None, **changed}
    return decide(**given, bit_exact_only=True)


def noted(result: SignOff, part: str) -> bool:
    return any(part in note for note in result.notes)


def test_good_evidence_is_noted_for_no_more_than_there_is(good: Evidence) -> None:
    result = judge(good)
    assert not noted(result, NOT_PROVED)
    assert not noted(result, "BIT-EXACT ONLY")
    assert not noted(result, "No hardware took part.")
    assert not noted(result, "lie in no certified region")
    assert not noted(result, "input quantisation was not checked")
    assert noted(result, "Run time and stack use")
    assert any("differs from the float model" in s for s in result.proved)


def test_bounds_without_proofs_are_noted_and_not_stated(good: Evidence) -> None:
    good.certificate["proof"]["proved"] -= 1
    assert noted(judge(good), NOT_PROVED)


def test_bounds_of_a_certificate_that_contradicts_itself_are_noted_and_not_stated(good: Evidence) -> None:
    good.certificate["regions"][2].update(total_bound_max=0.0)
    result = judge(good)
    assert noted(result, NOT_PROVED)
    assert not any("differs from the float model" in s for s in result.proved)


def test_without_regions_nothing_is_said_of_bounds(good: Evidence) -> None:
    good.certificate["regions"] = []
    result = judge(good)
    assert not noted(result, NOT_PROVED)
    assert not noted(result, NO_CRITERION)


def test_the_cross_check_alone_says_that_nothing_was_proved(good: Evidence) -> None:
    for sample in good.hil["samples"]:
        sample.update(bound=None, within_bound=None)
    result = bits(good)
    assert (result.verdict, result.failures, result.unproved) == ("BIT-EXACT-ONLY", (), ())
    assert noted(result, "BIT-EXACT ONLY")
    assert not noted(result, NO_CRITERION)
    assert not noted(result, "Two different models")
    assert not noted(result, "lie in no certified region")
    assert not result.criteria


def test_the_cross_check_alone_is_about_the_model_of_the_folder(good: Evidence) -> None:
    good.hil["target"]["model_sha256"] = "2" * 64
    assert any("reports model" in f for f in bits(good).failures)
    good.build["model_sha256"] = "2" * 64
    told = bits(good).failures
    assert any("firmware holds model" in f and "the folder holds" in f for f in told)
    assert any("model.tflite in the output folder" in f for f in told)


@pytest.mark.parametrize("where", ["certificate", "artifacts"])
def test_the_cross_check_alone_has_no_certificate(good: Evidence, where: str) -> None:
    result = bits(good, **{where: good.certificate if where == "certificate" else good.artifacts()})
    assert result.verdict == "FAIL"
    assert any("but there is a certificate" in f for f in result.failures)


def test_a_firmware_that_fits_to_the_byte_passes(good: Evidence) -> None:
    good.build["flash_available"] = good.build["flash_bytes"]
    good.build["ram_available"] = good.build["ram_bytes"] + good.build["stack_size"]
    assert judge(good).verdict == "PASS"
    for key in ("flash_available", "ram_available"):
        less = good.copy()
        less.build[key] -= 1
        (failure,) = judge(less).failures
        assert "bytes" in failure


def test_a_stack_with_one_byte_left_passes(good: Evidence) -> None:
    good.hil["stack"]["high_water_bytes"] = good.hil["stack"]["size_bytes"] - 1
    assert judge(good).verdict == "PASS"


def test_the_stack_alone_full_fails(good: Evidence) -> None:
    good.hil["stack"]["high_water_bytes"] = good.hil["stack"]["size_bytes"]
    (failure,) = judge(good).failures
    assert "all of its stack" in failure


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("recovered", "recoveries of a lost device"), ("resent", "requests sent again"),
        ("bad_crc", "replies with a bad CRC"), ("reopened", "times the port was opened again"),
    ],
)  # fmt: skip
def test_each_disturbance_alone_is_noted_and_no_failure(good: Evidence, key: str, words: str) -> None:
    good.hil["bad_frames"] = 0
    good.hil["link"] = {"recovered": 0, "resent": 0, "bad_crc": 0, "reopened": 0, key: 1}
    result = judge(good)
    assert result.verdict == "PASS"
    assert [n for n in result.notes if "serial link" in n] == [f"The serial link was disturbed: {words}: 1."]


def test_a_quantisation_that_was_not_checked_is_noted(good: Evidence) -> None:
    good.hil["summary"].update(quantize_checked=0, quantize_equal=0)
    result = judge(good)
    assert result.verdict == "PASS"
    assert noted(result, "input quantisation was not checked")


def test_one_of_several_inputs_quantised_against_the_rule_fails(good: Evidence) -> None:
    good.hil["summary"].update(quantize_checked=8, quantize_equal=6)
    (failure,) = judge(good).failures
    assert "quantises 2 of 8 inputs" in failure


def test_the_verdict_of_the_check_is_not_needed_twice(good: Evidence) -> None:
    """Where the cross-check names its failures, they are the reason, and each is told once."""
    good.hil.update(verdict="FAIL", failures=["sample 1 is not bit-exact with the reference"])
    good.hil["samples"][1]["bit_exact"] = False
    assert judge(good).failures == ("sample 1 is not bit-exact with the reference",)


def test_failing_samples_are_named_and_nothing_is_claimed_of_the_device(good: Evidence) -> None:
    for number in (1, 3):
        good.hil["samples"][number]["bit_exact"] = False
    result = judge(good)
    (failure,) = result.failures
    assert failure == "2 samples (1, 3) are not bit-exact with the reference"
    assert not any("equal the exact integer reference" in s for s in result.proved)


def test_criteria_at_their_limits(good: Evidence) -> None:
    regions = good.certificate["regions"]
    observed = max(max(r["observed"]) for r in regions)
    assert judge(good, Criteria(epsilon=observed)).criteria[0].status == "unknown"  # reached, not exceeded
    for k, region in enumerate(regions):
        region.update(counted=k < 4, top1=("proved", "proved", "unknown", "refuted")[k % 4], top1_class=None)
    (at,) = judge(good, Criteria(top1_share=0.75)).criteria  # 3 of 4 may still be
    assert (at.status, at.reached) == ("unknown", 0.5)


def test_the_share_of_an_order_is_told(good: Evidence) -> None:
    for k, region in enumerate(good.certificate["regions"]):
        region["topk"] = "proved" if k < 6 else "unknown"
    (result,) = judge(good, Criteria(topk=1)).criteria
    assert (result.reached, result.status) == (0.75, "unknown")
    assert "0.75" in result.sentence
    assert "the same set of the 1 largest outputs is unknown" in result.sentence


def test_hardware_is_not_said_to_be_missing() -> None:
    result = judge(make_evidence("tiny", 2, 2, emulated=False))
    assert not noted(result, "No hardware took part")


def test_a_certificate_without_a_valid_domain_fails(good: Evidence) -> None:
    changes: tuple[dict[str, list[float]], ...] = ({"lo": []}, {"hi": []}, {"lo": [0.0] * 99})
    for change in changes:
        bad = good.copy()
        bad.certificate["domain"].update(change)
        assert any("no valid 'domain'" in f for f in judge(bad).failures)


@pytest.mark.parametrize("field", ["index", "bit_exact", "device", "float"])
def test_a_sample_that_cannot_be_read_counts_as_not_exact(good: Evidence, field: str) -> None:
    del good.hil["samples"][2][field]
    result = judge(good)
    assert any("sample 2" in f and field in f for f in result.failures)
    assert any("sample" in f and "2" in f and "not bit-exact" in f for f in result.failures)
