"""Bounds that say no more than the outputs' ranges are stated as vacuous, and nothing else is believed."""

import numpy as np
import pytest

from codesign.proof.ranges import Ranges, says_nothing
from codesign.proof.statement import conclusions

WIDE = {"radius": "2000lsb", "samples": 2, "domain": (-1e3, 1e3)}


def test_wide_regions_of_logits_are_vacuous_and_bounded_by_the_ranges(forge):
    f = forge("logits", **WIDE)
    ranges = f.document["ranges"]["outputs"]
    assert [r["vacuous"] for r in f.document["regions"]] == [True, True]
    assert f.document["summary"]["vacuous"] == 2
    reach = [
        max(q_hi - lo, hi - q_lo)
        for lo, hi, q_lo, q_hi in zip(
            *(ranges[key] for key in ("float_lo", "float_hi", "integer_lo", "integer_hi")), strict=True
        )
    ]
    for region in f.document["regions"]:
        assert all(bound <= limit * (1 + 1e-8) + 1e-11 for bound, limit in zip(region["bound"], reach, strict=True))
    result = f.check()
    assert (result.verdict, result.item) == ("valid", "")


def test_narrow_regions_are_not(forge):
    f = forge("logits", samples=2)
    assert [r["vacuous"] for r in f.document["regions"]] == [False, False]
    assert f.document["verdict"] == "proved"


@pytest.mark.parametrize("region", ["ball", "domain"])
@pytest.mark.parametrize("criteria", [{}, {"epsilon": 1e3}])
def test_a_verdict_on_vacuous_bounds_alone_is_vacuous(forge, region, criteria):
    f = forge("logits", **(WIDE if region == "ball" else {"region": "domain"}), **criteria)
    for entry in f.document["regions"]:  # a known difference of classes would make it 'refuted'
        entry.update(top1="unknown", counterexample=None, counterexamples=[])
    expected = conclusions(f.document)
    assert expected[""]["verdict"] == "vacuous"
    for part in ("criteria", "summary"):
        f.document[part].update(expected[part])
    f.document["verdict"] = "vacuous"
    assert f.check().verdict == "valid"
    f.document["verdict"] = "proved"
    result = f.check()
    assert (result.verdict, result.item.split(":")[0]) == ("invalid", "verdict")


def flag(f):
    f.region["vacuous"] = False
    f.document["summary"]["vacuous"] -= 1


def flag_as_a_number(f):
    f.region["vacuous"] = 1


def no_flag(f):
    del f.region["vacuous"]


def counted(f):
    f.document["summary"]["vacuous"] = 0


def wider(f):
    f.document["ranges"]["outputs"]["vacuous_from"] = [1e3] * len(f.region["bound"])


def wider_float(f):
    f.document["ranges"]["outputs"]["float_hi"][0] += 1e-6


def no_ranges(f):
    del f.document["ranges"]


def more_ranges(f):
    f.document["ranges"]["hidden"] = f.document["ranges"]["logits"]


def smaller_than_the_ranges(f):
    """Below what any replay derives."""
    value = f.document["ranges"]["outputs"]["vacuous_from"][0] / 2
    count = len(f.region["bound"])
    f.region.update(
        difference_lo=[-value] * count, difference_hi=[value] * count, bound=[value] * count, bound_max=value,
        vacuous=False,
    )  # fmt: skip
    f.document["summary"].update(conclusions(f.document)["summary"])


@pytest.mark.parametrize(
    "tamper",
    [flag, flag_as_a_number, no_flag, counted, wider, wider_float, no_ranges, more_ranges, smaller_than_the_ranges],
    ids=lambda t: t.__name__,
)
def test_no_vacuous_bound_passes_for_another(forge, tamper):
    f = forge("logits", **WIDE)
    tamper(f)
    result = f.check()
    assert result.verdict == "invalid"
    assert any(word in result.item for word in ("vacuous", "ranges", "schema", "difference")), result.item


def test_a_domains_own_flag_is_derived(forge):
    f = forge("logits", region="domain")
    assert f.document["all_inputs"]["vacuous"] is True
    assert f.document["verdict"] == "vacuous"
    f.document["all_inputs"]["vacuous"] = False
    result = f.check()
    assert (result.verdict, result.item.split(":")[0]) == ("invalid", "all_inputs/vacuous")


def test_a_margin_that_no_logits_reach_says_nothing():
    ranges = Ranges((np.zeros(3), np.ones(3)), (np.zeros(3), np.ones(3)))
    stated = {"total_logit_bound": [0.5, 0.5, 0.5], "same_class_margin": 1.0}
    assert says_nothing(stated, ranges, 3)
    assert not says_nothing(stated, ranges, 1)
    assert not says_nothing({**stated, "same_class_margin": 0.99}, ranges, 3)
    assert not says_nothing({**stated, "same_class_margin": None}, ranges, 3)
    assert says_nothing({"total_logit_bound": [0.1, 0.1, 1.0], "same_class_margin": 0.5}, ranges, 3)
