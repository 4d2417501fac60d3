"""Thresholds: 'proved' is never contradicted on the exact simulation, the band holds, refuted inputs are real, and one
output is never said to be a class."""

import dataclasses
import sys

import numpy as np
import pytest
from random_pairs import random_pair

from codesign.errors import InputError, SoundnessAlarm
from codesign.network import evaluate
from codesign.proof.thresholds import Threshold
from codesign.semantics import dequantize, quantize_input, simulate
from codesign.verification import Criteria, Options, ball, certify, domain_region, input_domain
from codesign.verification.affine import Box
from codesign.verification.all_inputs import all_inputs
from codesign.verification.search import Search, search
from codesign.verification.thresholds import covered, judge, sides
from codesign.verification.violations import watches

QUICK = Options(evaluations=200, proof="none")


def outputs(network, integer, x):
    real = dequantize(integer.output, simulate(integer, quantize_input(integer, x)))
    return evaluate(network, x).reshape(len(x), -1), real.reshape(len(x), -1)


def asked(*thresholds, **more):
    return dataclasses.replace(QUICK, criteria=Criteria(thresholds=thresholds), **more)


def test_a_threshold_is_read_from_numbers_and_text():
    assert Threshold.of(0.5) == Threshold.of("0.5") == Threshold(0.5)
    assert Threshold.of("2:-1e-3") == Threshold(-1e-3, 2)
    criteria = Criteria(thresholds=(0.5, "1:0.25", "0.5"))
    assert criteria.limits() == {"thresholds/0": Threshold(0.5), "thresholds/1": Threshold(0.25, 1)}
    assert criteria.asked
    for wrong in ("", "x", "1:", ":", "-1:0.5", "1.5:2", "nan", "inf", "1:2:3", float("nan")):
        with pytest.raises(InputError, match="threshold"):
            Criteria(thresholds=(wrong,))


@pytest.mark.parametrize(
    ("real", "moved", "agree"),
    [
        ((0.6, 0.7), (-0.05, 0.05), True),
        ((0.6, 0.7), (-0.11, 0.05), False),
        ((0.6, 0.7), (-0.05, 5.0), True),  # away from it is no matter
        ((0.2, 0.4), (-5.0, 0.05), True),
        ((0.2, 0.4), (-0.05, 0.11), False),
        ((0.4, 0.6), (-0.01, 0.01), False),
        ((0.4, 0.6), (0.0, 0.01), False),
        ((0.5, 0.6), (1e-6, 1e-3), True),  # at the threshold is above
        ((0.5, 0.6), (-1e-6, 1e-3), False),
        ((0.4, 0.5), (-1e-3, -1e-6), False),  # 0.5 is above in the float network alone
    ],
)
def test_sides_on_one_output(real, moved, agree):
    boxes = [Box(np.array([lo]), np.array([hi])) for lo, hi in (real, moved)]
    found = sides(0.5, *boxes)
    assert found.agree[0] == agree
    band = found.hysteresis[0]
    assert (band == 0) == agree
    # Brute force: no pair of values with the float's farther than the band is on both sides.
    y = np.linspace(*real, 2001)[:, None]
    d = np.linspace(*moved, 401)[None]
    wrong = (y >= 0.5) != (y + d >= 0.5)
    assert not (wrong & (np.abs(y - 0.5) > band)).any()
    assert agree == (not wrong.any()) or not agree
    if wrong.any():  # and the band is no wider than needed
        assert band <= np.abs(y - 0.5)[wrong.any(1)].max() + 1e-3


@pytest.mark.parametrize("sigmoid", [True, False])
@pytest.mark.parametrize("gain", [1.0, 4.0])
def test_proved_is_never_contradicted(sigmoid, gain):
    """Random models of one to three outputs; thresholds at the very outputs, where a proof is hardest."""
    counts = {"proved": 0, "refuted": 0, "unknown": 0}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        network, integer = random_pair(seed, gain, softmax=False, outputs=1 + seed % 3, sigmoid=sigmoid)
        scale = integer.input.scale
        x = (rng.normal(0, 40, (2, *network.input_shape)) * scale).astype(np.float32)
        regions = [ball(str(k), v, r * scale, input_domain(x, (-1e3, 1e3))) for k, v in enumerate(x) for r in (0.5, 6)]
        at = evaluate(network, x[0][None]).ravel()
        wanted = [*(float(v) for v in at), float(at[0] + 0.02), float(at[0] - 0.05), f"0:{at[0] + 0.004!r}"]
        result = certify(network, integer, regions, asked(*wanted))
        for region, told in zip(regions, result.regions, strict=True):
            assert (told.top1 is None) == (seed % 3 == 0)
            run = Search(network, integer, region, rng).region
            points = [run.corners(60), run.uniform(60), run.ties(60), run.center[None]]
            points += [found[None] for found in told.found.violations.values()]
            exact, device = outputs(network, integer, np.concatenate(points))
            names = result.options.criteria.limits()
            for (name, limit), entry in zip(names.items(), told.thresholds, strict=True):
                status = told.orders[name]
                counts[status] += 1
                part = slice(None) if limit.output is None else slice(limit.output, limit.output + 1)
                v, d = exact[:, part], device[:, part]
                wrong = (v >= limit.value) != (d >= limit.value)
                outside = np.abs(v - limit.value) > entry.hysteresis
                assert not (wrong & outside).any()
                assert status != "proved" or (not wrong.any() and entry.hysteresis == 0)
                if status == "refuted":
                    found = told.found.violations[name][None]
                    assert ((found >= region.lo) & (found <= region.hi)).all()
                    v, d = outputs(network, integer, found)
                    assert ((v >= limit.value) != (d >= limit.value))[:, part].any()
    assert all(counts.values()), counts


def test_the_search_finds_what_lies_at_a_float_output(pair):
    """A threshold between the two networks' outputs at the center, or beside them: refuted, by the approach as well."""
    network, integer, data = pair("binary")
    real, device = outputs(network, integer, data.x)
    k = int(np.abs(device - real).argmax())
    region = ball("r", data.x[k], integer.input.scale, input_domain(data.x))
    middle = float(real[k, 0] + device[k, 0]) / 2
    result = certify(network, integer, [region], asked(middle, middle + 10))
    assert list(result.regions[0].orders.values()) == ["refuted", "proved"]
    assert (result.verdict, result.criterion_verdict("thresholds")) == ("refuted", "refuted")
    example = result.regions[0].to_json()["counterexamples"]
    assert [entry["criterion"] for entry in example] == ["thresholds/0"]


@pytest.mark.parametrize("name", ["binary", "tiny"])
def test_the_approach_reaches_the_float_networks_boundary(name, pair):
    """It tries inputs on both sides of the threshold, in regions whose center is well to one side."""
    network, integer, data = pair(name)
    value = float(np.median(evaluate(network, data.x)[:, 0]))
    (watch,) = watches(Criteria(thresholds=(Threshold(value, 0),)), network)
    k = int(np.abs(evaluate(network, data.x)[:, 0] - value).argmax())
    region = ball("r", data.x[k], 1.0, input_domain(data.x, (-2, 2)))
    found = search(network, integer, region, np.random.default_rng(0), 2000, watches=[watch])
    assert found.violations
    exact, device = outputs(network, integer, found.violations["thresholds/0"][None])
    assert (exact[0, 0] >= value) != (device[0, 0] >= value)


def test_a_violated_proof_is_an_alarm(pair, monkeypatch):
    """Planted: a bound that is far too small. The search sees the other side, and nothing is said to be proved."""
    from codesign.verification import propagate

    network, integer, data = pair("binary")
    real, device = outputs(network, integer, data.x)
    k = int((real - device)[:, 0].argmax())
    honest = propagate.propagate

    def wrong(*args):
        e = honest(*args)
        small = Box(e.output_difference.lo * 0.0, e.output_difference.hi * 0.0)
        return dataclasses.replace(e, output_difference=small)

    monkeypatch.setattr(sys.modules["codesign.verification.certify"], "propagate", wrong)
    region = ball("r", data.x[k], 0.0, input_domain(data.x))
    threshold = float(real[k, 0] - 1e-5)
    with pytest.raises(SoundnessAlarm):
        certify(network, integer, [region], asked(threshold))


def test_one_output_is_no_class(pair):
    for name in ("binary", "regression"):
        network, integer, data = pair(name)
        region = ball("r", data.x[0], integer.input.scale, input_domain(data.x))
        result = certify(network, integer, [region], QUICK)
        assert (result.regions[0].top1, result.regions[0].top1_class, result.top1_share) == (None, None, None)
        assert result.regions[0].facts.margins == ()
        wanted = [Criteria(top1_share=0.5), Criteria(top1_above=0.5), Criteria(topk=1), Criteria(ranking=(0, 1))]
        for criteria in wanted:
            with pytest.raises(InputError, match="one output"):
                certify(network, integer, [region], dataclasses.replace(QUICK, criteria=criteria))
        with pytest.raises(InputError, match="output 1 does not exist"):
            certify(network, integer, [region], asked("1:0.5"))


def test_outputs_that_aim_at_real_values_are_no_classes(pair):
    network, integer, data = pair("logits")
    region = ball("r", data.x[0], integer.input.scale, input_domain(data.x))
    result = certify(network, integer, [region], dataclasses.replace(QUICK, classes=False, proof="all"))
    assert (result.regions[0].top1, result.top1_share, result.verdict) == (None, None, "proved")
    with pytest.raises(InputError, match="real values"):
        certify(
            network, integer, [region],
            dataclasses.replace(QUICK, classes=False, criteria=Criteria(top1_share=0.5)),
        )  # fmt: skip


def test_regions_that_are_not_reached_prove_no_side(pair):
    network, integer, data = pair("binary")
    region = ball("r", data.x[0], integer.input.scale, input_domain(data.x))
    result = certify(network, integer, [region], asked(0.5, 7.0, time_limit=0.0))
    assert result.regions[0].orders["thresholds/0"] != "proved"
    assert result.regions[0].orders["thresholds/1"] == "proved"  # no output of either network reaches it
    assert result.verdict != "proved"
    assert certify(network, integer, [region], dataclasses.replace(QUICK, time_limit=0.0)).verdict == "vacuous"


def test_over_a_domain_samples_outside_of_the_band_are_covered(pair):
    network, integer, data = pair("binary")
    x = data.x * np.float32(0.2)
    lo, hi = np.full(3, -0.25), np.full(3, 0.25)
    region = domain_region((lo, hi), network.input_shape[0])
    first = certify(network, integer, [region], asked(0.45, 0.9))
    result, stated = all_inputs(first, [], x, False)
    told = stated.to_json()
    assert (told["same_class_margin"], told["covered_samples"], told["covered_share"]) == (None, None, None)
    real, device = outputs(network, integer, x)
    for limit, entry in zip(result.regions[0].thresholds, told["thresholds"], strict=True):
        assert entry["hysteresis"] == limit.hysteresis
        assert entry["covered_samples"] >= (np.abs(real[:, 0] - limit.threshold.value) > limit.hysteresis).sum() - 1
        moved = Box(result.regions[0].lower, result.regions[0].upper)
        kept = covered(limit.threshold, real, moved, 1, result.regions[0].float32.evaluation)
        value = limit.threshold.value
        assert ((real[:, 0] >= value) == (device[:, 0] >= value))[kept].all()
        assert f"{entry['value']:g}" in told["statement"]
    assert "class" not in told["statement"]


def test_the_direction_of_a_difference_counts():
    """An integer network that is never below the float one keeps what is above, whatever the bound's size."""
    real, moved = Box(np.array([0.5]), np.array([0.9])), Box(np.array([0.001]), np.array([0.4]))
    assert judge(Threshold(0.5), real, moved, 1).proved
    assert not judge(Threshold(0.5), real, Box(-moved.hi, -moved.lo), 1).proved


def test_an_output_of_a_row_is_that_of_every_row():
    real = Box(np.array([0.1, 0.6, 0.1, 0.4]), np.array([0.1, 0.6, 0.1, 0.4]))
    moved = Box(np.full(4, -0.15), np.full(4, 0.15))
    assert judge(Threshold(0.5, 0), real, moved, 2).proved
    assert not judge(Threshold(0.5, 1), real, moved, 2).proved
    assert judge(Threshold(0.5, 1), real, Box(np.full(4, -0.05), np.full(4, 0.05)), 2).proved
    assert not judge(Threshold(0.5), real, moved, 4).proved
