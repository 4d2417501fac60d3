"""Verdicts, criteria, determinism and refusals of a certification."""

import dataclasses

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.network import evaluate
from codesign.quantization.integer import IntDense
from codesign.semantics import dequantize, quantize_input, simulate
from codesign.verification import Criteria, Options, ball, certify, domain_region, input_domain
from codesign.verification.gradient import input_gradient

QUICK = Options(evaluations=300)


def regions(data, integer, count, radius=1.0):
    domain = input_domain(data.x)
    return [ball(str(k), data.x[k], radius * integer.input.scale, domain) for k in range(count)]


def test_a_faithful_conversion_is_proved(pair):
    network, integer, data = pair("tiny")
    result = certify(network, integer, regions(data, integer, 5), QUICK)
    assert result.verdict == "proved"
    assert result.top1_share == 1.0
    assert result.proof.ok
    assert result.proof.checked == result.proof.emitted == result.proof.proved > 1000
    for region in result.regions:
        assert region.found.error <= region.bound_max
        assert region.reason == ""


def broken(integer):
    """The same model with the dense layer's weights negated: it chooses other classes."""
    ops = []
    for op in integer.ops:
        if isinstance(op, IntDense):
            op = dataclasses.replace(op, W=(-np.maximum(op.W, -127)).astype(np.int8), b=-op.b)
        ops.append(op)
    return dataclasses.replace(integer, ops=tuple(ops))


def test_a_broken_model_is_refuted_with_an_input(pair):
    network, integer, data = pair("tiny")
    wrong = broken(integer)
    result = certify(
        network, wrong, regions(data, integer, 5), dataclasses.replace(QUICK, criteria=Criteria(0.01, 1.0))
    )
    assert result.verdict == "refuted"
    assert result.criterion_verdict("epsilon") == "refuted"
    assert result.criterion_verdict("top1") == "refuted"
    for region in result.regions:
        assert region.top1 == "refuted"
        found = region.to_json()["counterexample"]
        x = np.asarray(found["input"], np.float32)[None]
        assert (x >= region.region.lo).all()
        assert (x <= region.region.hi).all()
        assert evaluate(network, x).argmax() != simulate(wrong, quantize_input(wrong, x)).argmax()


def test_epsilon_is_proved_refuted_or_unknown(pair):
    network, integer, data = pair("logits")
    chosen = regions(data, integer, 2)
    base = certify(network, integer, chosen, QUICK)
    bound, seen = max(r.to_json()["total_bound_max"] for r in base.regions), max(r.found.error for r in base.regions)
    assert seen < max(r.bound_max for r in base.regions) < bound

    def verdict(epsilon):
        return certify(network, integer, chosen, dataclasses.replace(QUICK, criteria=Criteria(epsilon)))

    assert verdict(bound).verdict == "proved"
    assert verdict(max(r.bound_max for r in base.regions)).verdict == "unknown"  # float32 is not in it
    middle = verdict((bound + seen) / 2)
    assert middle.verdict == "unknown"
    assert any(r.reason for r in middle.regions)
    low = verdict(seen / 2)
    assert low.verdict == "refuted"
    worst = next(r for r in low.regions if r.epsilon == "refuted")
    x = np.asarray(worst.to_json()["counterexample"]["input"], np.float32)[None]
    error = np.abs(
        dequantize(integer.output, simulate(integer, quantize_input(integer, x))) - evaluate(network, x)
    ).max()
    assert error > seen / 2


def test_the_whole_domain_is_an_honest_unknown(pair):
    network, integer, data = pair("logits")
    result = certify(network, integer, [domain_region(input_domain(data.x), 8)], QUICK)
    assert result.verdict in ("unknown", "refuted")
    if result.verdict == "unknown":
        assert result.regions[0].reason


def test_results_do_not_depend_on_jobs(pair):
    network, integer, data = pair("tiny")
    chosen = regions(data, integer, 6)
    one, two = (certify(network, integer, chosen, dataclasses.replace(QUICK, jobs=j)) for j in (1, 2))
    for a, b in zip(one.regions, two.regions, strict=True):
        np.testing.assert_array_equal(a.bound, b.bound)
        assert a.found.error == b.found.error
    assert one.proof.checked == two.proof.checked


def test_counted_regions_make_the_share(pair):
    network, integer, data = pair("tiny")
    chosen = regions(data, integer, 4)
    result = certify(network, broken(integer), chosen, QUICK, counted=[True, False, False, True])
    assert result.top1_share == 0.0
    assert sum(result.counted) == 2


def test_an_undischarged_obligation_leaves_nothing_proved(pair, monkeypatch):
    from codesign.verification import relaxation

    network, integer, data = pair("tiny")
    true_residual = relaxation.sigmoid_plane_residual

    def too_tight(zl, zu, alpha):
        lo, hi = true_residual(zl, zu, alpha)
        return lo, hi - 0.2 * (hi - lo) - 1e-6

    monkeypatch.setattr(relaxation, "sigmoid_plane_residual", too_tight)
    result = certify(network, integer, regions(data, integer, 1), QUICK)
    assert not result.proof.ok
    assert result.verdict == "unknown"
    assert result.proof.failures[0]["status"] == "refuted"


def test_mismatched_models_are_refused(pair):
    tiny, stacked = pair("tiny"), pair("stacked")
    with pytest.raises(InputError, match="shape"):
        certify(tiny[0], stacked[1], regions(tiny[2], tiny[1], 1), QUICK)
    acts, timedist = pair("acts"), pair("timedist")
    with pytest.raises(InputError, match="does not belong"):
        certify(acts[0], timedist[1], regions(acts[2], acts[1], 1), QUICK)
    with pytest.raises(InputError, match="no region"):
        certify(tiny[0], tiny[1], [], QUICK)


@pytest.mark.parametrize("bad", [(-1.0, None), (float("nan"), None), (None, 1.5)])
def test_bad_criteria_are_refused(bad):
    with pytest.raises(InputError):
        Criteria(*bad)


def test_bad_regions_are_refused(pair):
    _, _, data = pair("tiny")
    with pytest.raises(InputError, match="radius"):
        ball("x", data.x[0], float("nan"), input_domain(data.x))
    with pytest.raises(InputError, match="domain"):
        input_domain(data.x, (1.0, -1.0))


@pytest.mark.parametrize("name", ["tiny", "stacked", "logits"])
def test_gradients_match_finite_differences(name, pair):
    network, _, data = pair(name)
    rng = np.random.default_rng(0)
    x = data.x[:2].astype(np.float64)
    logits = evaluate(network, x, logits=True)
    weights = rng.normal(size=logits.shape)
    grad = input_gradient(network, x, weights)
    for _ in range(20):
        direction = rng.normal(size=x.shape)
        step = 1e-6
        up, down = (evaluate(network, x + s * step * direction, logits=True) for s in (1, -1))
        slope = ((up - down) * weights).sum() / (2 * step)
        assert slope == pytest.approx((grad * direction).sum(), rel=1e-5, abs=1e-7)
