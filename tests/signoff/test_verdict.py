"""The verdict: PASS on good evidence, and FAIL on every way in which evidence can be bad or missing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signoff_support import Evidence, make_evidence

from codesign.signoff import SignOff, decide
from codesign.text import upward
from codesign.verification import Criteria


def judge(e: Evidence, criteria: Criteria | None = None) -> SignOff:
    return decide(e.certificate, e.hil, e.build, e.artifacts(), criteria)


def only_failure(result: SignOff, part: str) -> None:
    assert result.verdict == "FAIL"
    assert [f for f in result.failures if part in f], result.failures


def only_unproved(result: SignOff, part: str) -> None:
    assert (result.verdict, result.failures) == ("UNPROVED", ())
    assert [f for f in result.unproved if part in f], result.unproved


def test_good_evidence_passes(good: Evidence) -> None:
    result = judge(good)
    assert result.verdict == "PASS"
    assert result.failures == ()
    assert "EMULATED" in result.notes[0]
    assert any("No criterion was asked for" in note for note in result.notes)
    assert any("all 8 samples equal the exact integer reference" in s for s in result.proved)
    assert any("proof obligations were proved" in s for s in result.proved)


def test_two_different_models_are_called_so(good: Evidence) -> None:
    assert not any("Two different models" in note for note in judge(good).notes)
    good.certificate["pair"]["different_models"] = True
    assert any("Two different models" in note for note in judge(good).notes)


def test_hardware_is_not_called_emulated() -> None:
    result = judge(make_evidence("tiny", 2, 2, emulated=False))
    assert result.verdict == "PASS"
    assert not any("EMULATED" in note for note in result.notes)


def test_all_obligations_checked_is_stated_as_proved() -> None:
    result = judge(make_evidence("tiny", 2, 2, proof="all"))
    assert result.verdict == "PASS"
    assert any(s.startswith("All ") and "obligations were proved" in s for s in result.proved)


def test_a_drawn_share_of_the_obligations_is_not_enough() -> None:
    result = judge(make_evidence("tiny", 2, 2, proof="audit"))
    only_unproved(result, "proof obligations were drawn and proved; --prove all")
    assert not any("differs from the float model" in s for s in result.proved)
    assert not any("confidence" in s for s in (*result.proved, *result.notes))


SECOND = {"prover": "dreal", "version": "4.21", "drawn": 9, "proved": 8, "undecided": 1, "seconds": 1.0, "reason": ""}


def test_what_a_second_solver_proved_is_named(good: Evidence) -> None:
    good.certificate["proof"]["second"] = dict(SECOND)
    result = judge(good)
    assert result.verdict == "PASS"
    (told,) = [s for s in result.proved if "dReal" in s]
    assert told.startswith("A second solver on its own, dReal 4.21, proved 8 of 9 drawn at random besides")
    lacking = {**SECOND, "version": "", "drawn": 0, "proved": 0, "undecided": 0, "reason": "no dreal here"}
    good.certificate["proof"]["second"] = lacking
    result = judge(good)
    assert result.verdict == "PASS"
    assert not any("dReal" in s for s in result.proved)
    assert any("dReal cannot be run here (no dreal here)" in note for note in result.notes)
    good.certificate["proof"]["second"] = None
    assert not any("dReal" in s for s in (*judge(good).proved, *judge(good).notes))


@pytest.mark.parametrize(
    "changed", [{"proved": 9}, {"drawn": 10}, {"reason": "both"}, {"proved": -1}, {"version": None}, {"drawn": "9"}]
)
def test_odd_words_about_a_second_solver_fail(good: Evidence, changed: dict[str, Any]) -> None:
    good.certificate["proof"]["second"] = {**SECOND, **changed}
    assert judge(good).verdict == "FAIL"


def test_all_that_are_not_all_fail(good: Evidence) -> None:
    good.certificate["proof"].update(obligations=good.certificate["proof"]["obligations"] + 1)
    only_failure(judge(good), "--prove all")


def test_unchecked_proofs_leave_it_unproved() -> None:
    result = judge(make_evidence("tiny", 2, 2, proof="none"))
    only_unproved(result, "proof obligations was proved")
    assert not any("differs from the float model" in s for s in result.proved)


@pytest.mark.parametrize("missing", ["certificate", "hil", "build", "artifacts"])
def test_missing_evidence_fails(good: Evidence, missing: str) -> None:
    evidence: dict[str, Any] = {
        "certificate": good.certificate,
        "hil": good.hil,
        "build": good.build,
        "artifacts": good.artifacts(),
    }
    evidence[missing] = None
    assert decide(**evidence).verdict == "FAIL"
    evidence[missing] = {}
    assert decide(**evidence).verdict == "FAIL"


def test_no_evidence_at_all_fails_without_an_exception() -> None:
    assert decide(None, None, None, None).verdict == "FAIL"
    assert decide({}, {}, {}, {}, Criteria(0.1, 0.5)).verdict == "FAIL"


def test_a_device_that_is_not_bit_exact_fails() -> None:
    def spoil(number: int, output: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(output)) == 0, output ^ 1, output).astype(np.int8) if number == 3 else output

    only_failure(judge(make_evidence("tiny", 5, 5, spoil=spoil)), "not bit-exact")


CHANGES: list[tuple[str, Callable[[Evidence], None], str]] = [
    ("bit flag", lambda e: e.hil["samples"][1].update(bit_exact=False), "not bit-exact"),
    ("bit flag is a word", lambda e: e.hil["samples"][1].update(bit_exact="true"), "bit_exact"),
    ("within flag", lambda e: e.hil["samples"][0].update(within_bound=False), "outside the certified bound"),
    ("within unknown", lambda e: e.hil["samples"][0].update(within_bound=None), "outside the certified bound"),
    ("device output", lambda e: e.hil["samples"][0]["device"].__setitem__(0, 9.0), "outside the certified bound"),
    ("float output", lambda e: e.hil["samples"][0]["float"].__setitem__(0, -9.0), "outside the certified bound"),
    ("outputs missing", lambda e: e.hil["samples"][0]["device"].pop(), "outside the certified bound"),
    ("not a number", lambda e: e.hil["samples"][0]["device"].__setitem__(0, float("nan")), "device"),
    ("no samples", lambda e: e.hil.update(samples=[]), "no sample"),
    ("fewer samples", lambda e: e.hil["samples"].pop(), "only 7 of 8"),
    ("sample twice", lambda e: e.hil["samples"].__setitem__(1, e.hil["samples"][0]), "twice"),
    ("device error", lambda e: e.hil["failures"].append("the device died"), "the device died"),
    ("verdict of the check", lambda e: e.hil.update(verdict="FAIL"), "own verdict"),
    ("model on the device", lambda e: e.hil["target"].update(model_sha256="0" * 64), "reports model"),
    ("build on the device", lambda e: e.hil["target"].update(build_id="0" * 32), "reports build"),
    ("board of the device", lambda e: e.hil["target"].update(board="other"), "reports board"),
    ("emulated unknown", lambda e: e.hil["target"].update(emulated=None), "emulated"),
    ("model in the firmware", lambda e: e.build.update(model_sha256="0" * 64), "firmware holds model"),
    ("profile unknown", lambda e: e.build.update(profile="tflite"), "does not cover"),
    ("profile not certified", lambda e: e.certificate["int8"]["profiles"].remove("tflm-double"), "does not cover"),
    ("elf", lambda e: e.build.update(elf_sha256="0" * 64), "firmware.elf in the output folder"),
    ("flash", lambda e: e.build.update(flash_available=9000), "flash"),
    ("ram", lambda e: e.build.update(ram_available=8400), "RAM"),
    ("stack", lambda e: e.hil["stack"].update(high_water_bytes=8192), "stack"),
    ("no stack", lambda e: e.hil.update(stack=None), "stack"),
    ("quantisation", lambda e: e.hil["summary"].update(quantize_equal=0), "quantises"),
    ("proof", lambda e: e.certificate["proof"].update(proved=3), "could not be proved"),
    ("more proofs than facts", lambda e: e.certificate["proof"].update(obligations=1), "claims"),
    ("bound", lambda e: e.certificate["regions"][2].update(total_bound_max=0.0), "contradicts itself"),
    ("range", lambda e: e.certificate["regions"][2]["difference_hi"].__setitem__(0, 99.0), "contradicts itself"),
    ("search", lambda e: e.certificate["regions"][2]["observed"].__setitem__(0, 99.0), "above the certified bound"),
    ("no regions", lambda e: e.certificate.update(regions=[]), "no region"),
    ("bound of a sample gone", lambda e: e.certificate["regions"].pop(3), "outside the certified bound"),
    ("model certified", lambda e: e.certificate["int8"].update(sha256="0" * 64), "certificate is for"),
]


@pytest.mark.parametrize(("change", "part"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_each_change_for_the_worse_fails(good: Evidence, change: Callable[[Evidence], None], part: str) -> None:
    change(good)
    only_failure(judge(good), part)


def test_a_smaller_bound_in_the_certificate_fails(good: Evidence) -> None:
    """The verdict recomputes: what the cross-check says about bounds is not trusted."""
    sample = max(good.hil["samples"], key=lambda s: s["max_error"])
    region = good.certificate["regions"][sample["index"]]
    small = sample["max_error"] / 2
    count = len(region["bound"])
    region.update(
        bound=[small] * count, bound_max=small, total_bound=[small] * count, total_bound_max=small,
        difference_lo=[-small] * count, difference_hi=[small] * count,
        observed=[0.0] * count,
    )  # fmt: skip
    only_failure(judge(good), "outside the certified bound")


def test_the_bound_itself_is_within() -> None:
    e = make_evidence("tiny", 2, 2)
    for sample, region in zip(e.hil["samples"], e.certificate["regions"], strict=True):
        exact = [abs(a - b) for a, b in zip(sample["device"], sample["float"], strict=True)]
        region.update(
            bound=exact, bound_max=max(exact), total_bound=exact, total_bound_max=max(exact),
            difference_lo=[-b for b in exact], difference_hi=exact,
            observed=[0.0] * len(exact),
        )  # fmt: skip
    assert judge(e).verdict == "PASS"


def _paths(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key in value:
            yield (*path, key)
            yield from _paths(value[key], (*path, key))


NEEDED = {
    "certificate": [
        ("int8",), ("int8", "sha256"), ("pair",), ("pair", "different_models"),
        ("proof",), ("proof", "obligations"), ("proof", "checked"), ("proof", "proved"),
        ("regions",), ("domain",), ("domain", "lo"), ("domain", "hi"), ("ranges",), ("ranges", "outputs"),
        ("ranges", "outputs", "vacuous_from"), ("int8", "profiles"),
        ("criteria",), ("criteria", "epsilon"), ("criteria", "top1_share"), ("criteria", "top1_above"),
        ("criteria", "topk"), ("criteria", "ranking"), ("regions", 0, "kind"),
        *[("regions", 0, k) for k in (
            "id", "radius", "sample", "counted", "vacuous", "bound", "total_bound", "total_bound_max",
            "difference_lo", "difference_hi", "observed",
            "top1", "top1_class")],
    ],
    "hil": [
        ("failures",), ("verdict",), ("samples",), ("summary",), ("summary", "requested"), ("stack",),
        ("stack", "size_bytes"), ("stack", "high_water_bytes"), ("summary", "quantize_checked"),
        ("summary", "quantize_equal"), ("target",), ("target", "model_sha256"), ("target", "build_id"),
        ("target", "board"), ("target", "emulated"),
        *[("samples", 0, k) for k in ("index", "bit_exact", "device", "float", "within_bound")],
    ],
    "build": [
        ("board",), ("build_id",), ("model_sha256",), ("elf_sha256",), ("flash_bytes",), ("flash_available",),
        ("ram_bytes",), ("ram_available",), ("stack_size",), ("runtime",), ("profile",),
    ],
    "artifacts": [("model.tflite",), ("firmware.elf",), ("certificate.json",), ("hil.json",)],
}  # fmt: skip


@pytest.mark.parametrize(
    ("document", "path"), [(name, path) for name, paths in NEEDED.items() for path in paths], ids=lambda v: str(v)
)
@pytest.mark.parametrize("how", ["removed", "wrong type"])
def test_nothing_missing_defaults_to_pass(good: Evidence, document: str, path: tuple[Any, ...], how: str) -> None:
    evidence: dict[str, Any] = {
        "certificate": good.certificate,
        "hil": good.hil,
        "build": good.build,
        "artifacts": good.artifacts(),
    }
    place = evidence[document]
    for key in path[:-1]:
        place = place[key]
    if how == "removed":
        del place[path[-1]]
    else:
        place[path[-1]] = {"what": object()}
    assert decide(**evidence).verdict == "FAIL"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_arbitrary_damage_never_raises(original: Evidence, data: st.DataObject) -> None:
    e = original.copy()
    documents: dict[str, Any] = {"certificate": e.certificate, "hil": e.hil, "build": e.build}
    name = data.draw(st.sampled_from(sorted(documents)))
    path = data.draw(st.sampled_from(list(_paths(documents[name]))))
    junk = data.draw(
        st.one_of(st.none(), st.booleans(), st.integers(-(10**400), 10**400), st.floats(), st.text(max_size=3),
                  st.just([]), st.just({}), st.just([None]), st.just([{}]))
    )  # fmt: skip
    place = documents[name]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = junk
    result = decide(**documents, artifacts=e.artifacts())
    assert result.verdict == ("FAIL" if result.failures else "UNPROVED" if result.unproved else "PASS")


@pytest.mark.parametrize("huge", [10**400, -(10**5000)], ids=["large", "larger"])
def test_integers_without_measure_are_no_numbers(good: Evidence, huge: int) -> None:
    good.certificate["criteria"].update(epsilon=huge, top1_share=huge)
    good.certificate["proof"]["checked"] = huge
    result = judge(good)
    only_failure(result, "criteria/epsilon")
    only_failure(result, "proof/checked")


def test_epsilon_proved_unknown_refuted(good: Evidence) -> None:
    bound = max(max(r["total_bound"]) for r in good.certificate["regions"])
    observed = max(max(r["observed"]) for r in good.certificate["regions"])
    assert observed < bound
    proved = judge(good, Criteria(epsilon=bound))
    assert proved.verdict == "PASS"
    assert proved.criteria[0].status == "proved"
    assert not any("No criterion" in note for note in proved.notes)
    unknown = judge(good, Criteria(epsilon=(bound + observed) / 2))
    only_unproved(unknown, "is unknown")
    assert unknown.criteria[0].status == "unknown"
    refuted = judge(good, Criteria(epsilon=observed / 2))
    only_failure(refuted, "is refuted")


def test_top1_share_proved_unknown_refuted(good: Evidence) -> None:
    regions = good.certificate["regions"]
    for k, region in enumerate(regions):
        region.update(counted=k < 4, top1=("proved", "proved", "unknown", "refuted")[k % 4], top1_class=None)
    assert judge(good, Criteria(top1_share=0.5)).criteria[0].status == "proved"
    assert judge(good, Criteria(top1_share=0.5)).verdict == "PASS"
    only_unproved(judge(good, Criteria(top1_share=0.6)), "is unknown")
    only_failure(judge(good, Criteria(top1_share=0.8)), "is refuted")
    for region in regions:
        region["counted"] = False
    only_unproved(judge(good, Criteria(top1_share=0.0)), "is unknown")


ORDERS: list[tuple[str, Any]] = [("top1_above", 0.9), ("topk", 1), ("ranking", (0, 1))]


@pytest.mark.parametrize(("name", "wanted"), ORDERS)
@pytest.mark.parametrize("source", ["argument", "certificate"])
def test_order_criteria(good: Evidence, name: str, wanted: Any, source: str) -> None:
    criteria = Criteria(**{name: wanted}) if source == "argument" else None
    if source == "certificate":
        good.certificate["criteria"][name] = list(wanted) if isinstance(wanted, tuple) else wanted
    only_unproved(judge(good, criteria), "is unknown")  # the regions say nothing
    for region in good.certificate["regions"]:
        region[name] = "proved"
    result = judge(good, criteria)
    assert result.verdict == "PASS", result.failures
    assert result.criteria[0].name == name
    assert any(s.startswith("Criterion: ") for s in result.proved)
    good.certificate["regions"][-1][name] = "unknown"
    only_unproved(judge(good, criteria), "is unknown")
    good.certificate["regions"][-1][name] = "refuted"
    only_failure(judge(good, criteria), "is refuted")
    good.certificate["regions"][-1][name] = "proved"
    good.certificate["proof"]["proved"] -= 1
    assert judge(good, criteria).criteria[0].status == "unknown"


def test_a_criterion_that_is_not_known_fails(good: Evidence) -> None:
    good.certificate["criteria"]["monotone"] = None
    assert judge(good).verdict == "PASS"
    good.certificate["criteria"]["monotone"] = 3
    only_failure(judge(good), "'monotone'")


def test_a_region_around_no_sample_holds_for_none(good: Evidence) -> None:
    extra = {**good.certificate["regions"][0], "id": "else", "sample": None}
    small = [1e-9] * len(extra["bound"])
    extra.update(
        bound=small,
        bound_max=1e-9,
        total_bound=small,
        total_bound_max=1e-9,
        difference_lo=small,
        difference_hi=small,
        observed=[0.0] * len(small),
    )
    good.certificate["regions"].append(extra)
    assert judge(good).verdict == "PASS"
    extra["radius"] = None
    only_failure(judge(good), "outside the certified bound")


def test_a_grid_region_binds_only_what_was_checked_against_it(good: Evidence) -> None:
    good.certificate["regions"][0]["kind"] = "grid"
    result = judge(good)
    assert result.verdict == "PASS"
    assert any("every integer input within the stated steps of 1 quantized sample" in s for s in result.proved)
    good.hil["samples"][0].update(bound=None, within_bound=None)
    assert any("lie in no certified region" in note for note in judge(good).notes)
    good.certificate["regions"][0]["kind"] = "ball"
    only_failure(judge(good), "outside the certified bound")


def test_regions_left_out_are_noted(good: Evidence) -> None:
    good.certificate["regions"][0]["reason"] = "time limit"
    assert any("time limit left out 1 region" in note for note in judge(good).notes)


def test_a_criterion_rests_on_the_proofs(good: Evidence) -> None:
    good.certificate["proof"]["proved"] -= 1
    failed = judge(good, Criteria(epsilon=1e9))
    only_failure(failed, "could not be proved")
    assert any("is unknown" in reason for reason in failed.unproved)
    result = judge(good, Criteria(top1_share=0.0))
    assert [c.status for c in result.criteria] == ["unknown"]
    assert not any("differs from the float model" in s for s in result.proved)


def test_criteria_come_from_the_certificate(good: Evidence) -> None:
    good.certificate["criteria"]["epsilon"] = 1e-12
    assert judge(good).verdict != "PASS"
    assert judge(good).criteria[0].wanted == 1e-12
    good.certificate["criteria"]["epsilon"] = "small"
    only_failure(judge(good), "criteria/epsilon")


def test_a_certified_class_has_to_be_met(good: Evidence) -> None:
    index, region = next((k, r) for k, r in enumerate(good.certificate["regions"]) if r["top1"] == "proved")
    sample = good.hil["samples"][index]
    changed = copy.deepcopy(sample["top1"])
    changed["device"] = [changed["device"][0] + 1]
    sample["top1"] = changed
    only_failure(judge(good), "top-1 class")
    region["top1_class"] = None  # several positions: the certificate says only that both are equal
    only_failure(judge(good), "top-1 class")
    sample["top1"] = None
    only_failure(judge(good), "top-1 class")
    # Where nothing is certified, another class is no failure.
    sample["top1"] = changed
    region.update(top1="unknown", top1_class=None)
    assert judge(good).failures == ()


def test_both_agreeing_on_another_class_than_certified_fails(good: Evidence) -> None:
    index = next(k for k, r in enumerate(good.certificate["regions"]) if r["top1"] == "proved")
    wrong = [good.certificate["regions"][index]["top1_class"] + 1]
    good.hil["samples"][index]["top1"].update(device=wrong, float=wrong)
    only_failure(judge(good), "top-1 class")


def test_samples_outside_every_region_are_noted() -> None:
    result = judge(make_evidence("tiny", 6, 4))
    assert result.verdict == "PASS"
    assert any("2 of 6 samples run lie in no certified region" in note for note in result.notes)


def test_a_disturbed_link_is_noted(good: Evidence) -> None:
    assert not any("serial link" in note for note in judge(good).notes)
    good.hil["bad_frames"] = 2
    good.hil["link"] = {**good.hil.get("link", {}), "recovered": 1}
    result = judge(good)
    assert result.verdict == "PASS"
    assert any("device: 2" in note and "lost device: 1" in note for note in result.notes)


def test_a_domain_region_holds_for_every_sample(good: Evidence) -> None:
    domain = good.certificate["regions"][0]
    domain.update(id="domain", radius=None, sample=None)
    good.certificate["regions"] = [domain]
    assert judge(good).verdict == "PASS"
    small = [1e-9] * len(domain["bound"])
    domain.update(
        bound=small,
        bound_max=1e-9,
        total_bound=small,
        total_bound_max=1e-9,
        difference_lo=small,
        difference_hi=small,
        observed=[0.0] * len(small),
    )
    only_failure(judge(good), "outside the certified bound")


def test_open_regions_are_said_first(good: Evidence) -> None:
    good.certificate["regions"][0].update(top1="unknown", top1_class=None)
    good.certificate["regions"][1].update(top1="refuted", top1_class=None)
    result = judge(good)
    assert any("not known whether the class is the same everywhere in 1 region" in note for note in result.notes)
    assert any("chooses another class" in note for note in result.notes)


@given(st.floats(1e-300, 1e300))
def test_printed_bounds_are_never_below_the_bound(value: float) -> None:
    assert float(upward(value)) >= value
    assert float(upward(value)) <= value * 1.0011
