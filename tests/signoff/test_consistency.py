"""Verdict, headline, cards, rows, schema, text and exit code never contradict each other, whatever the evidence."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from signoff_support import VALID, Evidence

from codesign.cli.text import print_signoff
from codesign.outcome import outcome, same_class
from codesign.signoff import compare, decide, signoff_document, validate_signoff
from codesign.signoff.report import render
from codesign.verification import Criteria

STATUSES = st.sampled_from(["proved", "unknown", "refuted"])


def judged(e: Evidence, criteria: Criteria | None = None, alone: bool = False) -> tuple[dict[str, Any], str, str]:
    """signoff.json's content, the page, and the command's text."""
    certificate, artifacts = (None if alone else e.certificate), e.artifacts()
    if alone:
        del artifacts["certificate.json"]
    signoff = decide(certificate, e.hil, e.build, artifacts, criteria, alone)
    comparison = compare(certificate, e.hil, e.float_network, e.network, e.data)
    document = signoff_document(signoff, certificate, e.hil, e.build, artifacts, comparison, None if alone else VALID)
    validate_signoff(document)
    return document, render(document, certificate, e.hil, e.build, comparison), printed(document)


def printed(document: dict[str, Any]) -> str:
    import click

    @click.command()
    def show() -> None:
        from pathlib import Path

        print_signoff(document, Path("out"))

    return CliRunner().invoke(show).output


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)))


def consistent(document: dict[str, Any], page: str, text: str) -> None:
    verdict = document["verdict"]
    told = outcome(verdict)
    words = text_of(page)
    assert document["exit_code"] == told.exit_code == (0 if verdict in ("PASS", "BIT-EXACT-ONLY") else 1)
    assert bool(document["failures"]) == (verdict == "FAIL")
    assert bool(document["unproved"]) or verdict != "UNPROVED"
    assert f'class="banner {told.tone}"' in page
    assert told.sentence in words
    assert text.rstrip().endswith(f"verdict: {verdict} ({told.sentence})")
    assert text.startswith("\n".join(document["headline"]))
    for line in document["headline"]:
        assert line in words
    red = re.search(r'class="[^"]*\b(bad|wrong)\b[^"]*"', page.split("</header>")[1])
    if told.exit_code == 0:
        assert not red, red
        assert "refuted" not in words
        assert not document["unproved"]
        assert all(c is None or c["status"] == "proved" for c in document["criteria"].values())
    if verdict == "PASS":
        assert document["certificate"]["regions"] > 0
        assert document["proved"]
        asked = [c for c in document["criteria"].values() if c]
        assert asked or document["certificate"]["top1_proved_share"] != 0
        assert asked or "VACUOUS" not in words
        assert document["certificate"]["vacuous"] < document["certificate"]["regions"] or asked
    if verdict == "BIT-EXACT-ONLY":
        assert "no certificate" in words
        assert "Nothing is proved" in words
        assert "differs from the float model" not in words
    for criterion in document["criteria"].values():
        if criterion and criterion["status"] != "proved":
            assert verdict == ("FAIL" if criterion["status"] == "refuted" else verdict)
            assert verdict not in ("PASS", "BIT-EXACT-ONLY")


@settings(
    max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(st.data())
def test_nothing_contradicts_the_verdict(original: Evidence, data: st.DataObject) -> None:
    e = original.copy()
    limits = e.certificate["ranges"]["outputs"]["vacuous_from"]
    for region in e.certificate["regions"]:
        region["top1"] = data.draw(STATUSES)
        region["counted"] = data.draw(st.booleans())
        if region["top1"] != "proved":
            region["top1_class"] = None
        if data.draw(st.booleans()) and data.draw(st.booleans()):
            wide = [2 * v for v in limits]
            region.update(
                bound=wide,
                bound_max=max(wide),
                total_bound=wide,
                total_bound_max=max(wide),
                difference_lo=[-v for v in wide],
                difference_hi=wide,
                vacuous=True,
            )
    for sample, region in zip(e.hil["samples"], e.certificate["regions"], strict=True):
        sample["bound"] = region["bound"]
        sample["top1"]["certified"] = region["top1"]
    if data.draw(st.integers(0, 5)) == 0:
        e.hil["samples"][0]["bit_exact"] = False
    criteria = data.draw(
        st.sampled_from([None, Criteria(epsilon=1e-9), Criteria(epsilon=0.5), Criteria(epsilon=9.0),
                         Criteria(top1_share=0.0), Criteria(top1_share=0.5), Criteria(0.5, 1.0)])
    )  # fmt: skip
    consistent(*judged(e, criteria))


def whole(e: Evidence, covered: int, vacuous: bool = False) -> Evidence:
    region = e.certificate["regions"][0]
    region.update(id="domain", kind="domain", sample=None, radius=None, top1="refuted", top1_class=None, counted=True)
    e.certificate["regions"] = [region]
    bound = 99.0 if vacuous else 0.25
    e.certificate["all_inputs"] = {
        "any_length": False, "total_logit_bound": [bound] * 3, "vacuous": vacuous, "same_class_margin": 2 * bound,
        "covered_samples": covered, "samples": 8, "covered_share": covered / 8,
    }  # fmt: skip
    e.hil["summary"]["quantize_checked"] = e.hil["summary"]["quantize_equal"] = 3
    for sample in e.hil["samples"]:
        error = [abs(a - b) for a, b in zip(sample["device"], sample["float"], strict=True)]
        region["bound"] = [max(v, w) for v, w in zip(region["bound"], error, strict=True)]
        sample["top1"]["certified"] = "refuted"
    region.update(
        bound_max=max(region["bound"]),
        total_bound=region["bound"],
        total_bound_max=max(region["bound"]),
        difference_lo=[-v for v in region["bound"]],
        difference_hi=region["bound"],
    )
    for sample in e.hil["samples"]:
        sample["bound"] = region["bound"]
    return e


def test_over_a_whole_domain_the_margin_and_the_covered_share_are_said(good: Evidence) -> None:
    document, page, text = judged(whole(good, 6))
    consistent(document, page, text)
    assert document["verdict"] == "PASS", (document["failures"], document["unproved"])
    words = text_of(page)
    assert "covers 6 of 8 samples, 75.0 %" in words
    assert "Same class proved" not in words  # of regions, of which there is one
    assert "An input of the domain is known on which it differs" in words
    assert document["headline"][1].endswith("proved for 6 of 8 samples (75.0 %).")


def test_a_domain_that_covers_no_sample_is_unproved(good: Evidence) -> None:
    document, page, text = judged(whole(good, 0))
    consistent(document, page, text)
    assert document["verdict"] == "UNPROVED"
    assert any("proves the same class for none of the 8 samples" in reason for reason in document["unproved"])


def test_a_domain_with_a_vacuous_bound_is_unproved_and_says_so_first(good: Evidence) -> None:
    document, page, text = judged(whole(good, 0, vacuous=True))
    consistent(document, page, text)
    assert document["verdict"] == "UNPROVED"
    assert document["headline"][0].startswith("VACUOUS: the bound on the logits for every input of the domain, 99,")
    assert not any("logits are within" in sentence for sentence in document["proved"])


def test_the_cross_check_alone_claims_nothing_else(good: Evidence) -> None:
    for sample in good.hil["samples"]:
        sample.update(bound=None, within_bound=None)
        sample["top1"]["certified"] = None
    good.hil["summary"].update(with_bound=0, within_bound=0)
    document, page, text = judged(good, alone=True)
    consistent(document, page, text)
    assert document["verdict"] == "BIT-EXACT-ONLY", document["failures"]
    assert document["certificate"]["regions"] == 0
    good.hil["samples"][3]["bit_exact"] = False
    document, page, text = judged(good, alone=True)
    consistent(document, page, text)
    assert document["verdict"] == "FAIL"


def test_a_certificate_beside_a_cross_check_alone_fails(good: Evidence) -> None:
    result = decide(good.certificate, good.hil, good.build, good.artifacts(), bit_exact_only=True)
    assert result.verdict == "FAIL"
    assert any("but there is a certificate" in failure for failure in result.failures)


def test_another_model_in_a_cross_check_alone_fails(good: Evidence) -> None:
    artifacts = good.artifacts()
    del artifacts["certificate.json"]
    artifacts["model.tflite"] = "0" * 64
    result = decide(None, good.hil, good.build, artifacts, bit_exact_only=True)
    assert result.verdict == "FAIL"


def make_vacuous(e: Evidence, *numbers: int) -> None:
    limits = e.certificate["ranges"]["outputs"]["vacuous_from"]
    for k in numbers:
        e.certificate["regions"][k].update(
            bound=limits,
            bound_max=max(limits),
            total_bound=limits,
            total_bound_max=max(limits),
            difference_lo=[-v for v in limits],
            difference_hi=limits,
            vacuous=True,
        )


def test_one_vacuous_bound_that_a_sample_relies_on_is_enough(good: Evidence) -> None:
    make_vacuous(good, 2)
    document, page, text = judged(good)
    consistent(document, page, text)
    assert document["verdict"] == "UNPROVED"
    assert document["unproved"][0].startswith("VACUOUS: the bound of 1 region (2) that samples rely on, 0.9961,")
    assert "VACUOUS in 1 of them" in document["headline"][0]
    assert any("of 7 samples" in sentence for sentence in document["proved"])  # the others are useful


def test_a_class_that_is_asked_for_and_proved_makes_up_for_a_vacuous_bound(good: Evidence) -> None:
    make_vacuous(good, 2)
    document, page, text = judged(good, Criteria(top1_share=0.5))
    consistent(document, page, text)
    assert document["verdict"] == "PASS"
    assert judged(good, Criteria(epsilon=1e3))[0]["verdict"] == "UNPROVED"  # true, and says nothing


def test_a_hidden_vacuous_bound_is_a_contradiction(good: Evidence) -> None:
    make_vacuous(good, 2)
    good.certificate["regions"][2]["vacuous"] = False
    result = decide(good.certificate, good.hil, good.build, good.artifacts())
    assert result.verdict == "FAIL"
    assert any("whether its bound is vacuous" in failure for failure in result.failures)


def test_a_hidden_vacuous_bound_of_a_domain_is_a_contradiction(good: Evidence) -> None:
    e = whole(good, 8, vacuous=True)
    e.certificate["all_inputs"]["vacuous"] = False
    result = decide(e.certificate, e.hil, e.build, e.artifacts())
    assert result.verdict == "FAIL"
    assert not any("logits are within" in sentence for sentence in result.proved)


def test_a_sample_outside_the_domain_is_told(good: Evidence) -> None:
    good.certificate["regions"][1]["center"][0][0] = good.certificate["domain"]["hi"][0] + 1.0
    notes = decide(good.certificate, good.hil, good.build, good.artifacts()).notes
    assert any("The sample of 1 region (1) lies outside the domain" in note for note in notes)


def test_every_statement_carries_its_conditions(good: Evidence) -> None:
    result = decide(good.certificate, good.hil, good.build, good.artifacts())
    assert "clipped to the domain [" in result.proved[0]
    assert "float32 included" in result.proved[0]
    assert any("semantics profiles tflm-double" in s and "float32" in s for s in result.proved)


@pytest.mark.parametrize("verdict", ["PASS", "BIT-EXACT-ONLY", "UNPROVED", "FAIL"])
def test_colours_of_classes_follow_the_verdict(verdict: str) -> None:
    assert same_class("proved", verdict)[1] == "good"
    assert same_class("refuted", verdict)[1] == ("warn" if outcome(verdict).exit_code == 0 else "bad")
    assert same_class("unknown", verdict)[1] == "warn"
    assert same_class(None, verdict) == ("–", None)


def test_what_is_no_verdict_has_no_outcome() -> None:
    with pytest.raises(KeyError):
        outcome("passed")
