"""Order criteria: each proved, refuted and unknown on constructed cases; proofs hold, counterexamples are real."""

import dataclasses
from itertools import combinations

import numpy as np
import pytest
from random_pairs import random_pair

from codesign.errors import InputError
from codesign.network import evaluate, evaluate_layers
from codesign.proof.float32 import softmax_rounding
from codesign.quantization.align import align
from codesign.quantization.integer import IntDense
from codesign.semantics import dequantize, quantize_input, simulate
from codesign.verification import Criteria, Options, Region, ball, certify, domain_region, grid_ball, input_domain
from codesign.verification.affine import Box
from codesign.verification.criteria import proofs, ranking, top1_above, topk
from codesign.verification.head import Margins
from codesign.verification.propagate import propagate
from codesign.verification.search import Search
from codesign.verification.violations import hunt, watches

QUICK = Options(evaluations=300)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def holds(name, wanted, exact, integer, probabilities):
    """The criterion's statement itself, for single inputs (N, M): written out from docs/regions.md."""
    if name == "top1_above":
        p = exact if probabilities else softmax(exact)
        return (p.max(-1) <= wanted) | (integer.argmax(-1) == exact.argmax(-1))
    if name == "topk":
        sets = [np.sort(np.argsort(-v, axis=-1, kind="stable")[..., :wanted], -1) for v in (exact, integer)]
        return (sets[0] == sets[1]).all(-1)
    above, below = wanted
    return (exact[..., above] <= exact[..., below]) | (integer[..., above] > integer[..., below])


def outputs(network, integer, x):
    real = dequantize(integer.output, simulate(integer, quantize_input(integer, x)))
    return evaluate(network, x), real


def with_dense(integer, change):
    return dataclasses.replace(integer, ops=tuple(change(op) if isinstance(op, IntDense) else op for op in integer.ops))


def swapped(integer, i, j):
    """The model with outputs i and j exchanged in its dense layer."""

    def change(op):
        order = np.arange(len(op.W))
        order[[i, j]] = j, i
        scales = tuple(op.W_scale[k] for k in order) if len(op.W_scale) > 1 else op.W_scale
        multipliers = tuple(op.multipliers[k] for k in order) if len(op.multipliers) > 1 else op.multipliers
        return dataclasses.replace(op, W=op.W[order], b=op.b[order], W_scale=scales, multipliers=multipliers)

    return with_dense(integer, change)


def ordered(network, x):
    return np.argsort(-evaluate(network, x[None])[0]).tolist()


@pytest.mark.parametrize("name", ["tiny", "logits"])
def test_a_faithful_conversion_keeps_its_order(name, pair):
    """Around a sample whose outputs are well apart; refuted where two outputs are exchanged."""
    network, integer, data = pair(name)
    values = np.sort(evaluate(network, data.x, logits=True), -1)
    k = int((values[:, -1] - values[:, -2]).argmax())
    first, second, *_ = ordered(network, data.x[k])
    region = ball("r", data.x[k], 0.5 * integer.input.scale, input_domain(data.x))
    criteria = Criteria(top1_above=0.2, topk=1, ranking=(first, second))
    good = certify(network, integer, [region], dataclasses.replace(QUICK, criteria=criteria))
    assert good.regions[0].orders == {"top1_above": "proved", "topk": "proved", "ranking": "proved"}
    assert good.verdict == "proved"
    wrong = swapped(integer, first, second)
    bad = certify(network, wrong, [region], dataclasses.replace(QUICK, criteria=criteria))
    assert bad.regions[0].orders == {"top1_above": "refuted", "topk": "refuted", "ranking": "refuted"}
    assert [bad.criterion_verdict(n) for n in ("top1_above", "topk", "ranking")] == ["refuted"] * 3
    assert bad.verdict == "refuted"
    for found in bad.regions[0].to_json()["counterexamples"]:
        if found["criterion"] in ("top1", "epsilon"):
            continue
        x = np.asarray(found["input"], np.float32)[None]
        assert ((x >= region.lo) & (x <= region.hi)).all()
        wanted = criteria.orders()[found["criterion"]]
        assert not holds(found["criterion"], wanted, *outputs(network, wrong, x), name == "tiny")[0]


def test_confidence_decides_what_has_to_be_shown(pair):
    """Two outputs that the integer network confuses: equality is refuted, but not where the float network is sure."""
    network, integer, data = pair("logits")
    logits = np.sort(evaluate(network, data.x), -1)
    k = int((logits[:, -1] - logits[:, -2]).argmin())  # nearly a tie
    region = ball("r", data.x[k], 2 * integer.input.scale, input_domain(data.x))
    base = certify(network, integer, [region], QUICK).regions[0]
    assert base.top1 != "proved"
    top = softmax(evaluate(network, data.x[k : k + 1]))[0].max()

    def status(delta):
        asked = dataclasses.replace(QUICK, criteria=Criteria(top1_above=delta))
        return certify(network, integer, [region], asked).regions[0].orders["top1_above"]

    assert status(0.9999) == "proved"  # never reached: nothing is to be shown
    steps = np.linspace(top, 0.9999, 12)
    seen = [status(float(d)) for d in steps]
    assert "proved" in seen[:-1]
    first = seen.index("proved")
    assert all(s == "proved" for s in seen[first:])  # monotone
    if base.top1 == "refuted":
        assert status(0.0) != "proved"


def test_the_whole_domain_is_unknown_or_refuted(pair):
    network, integer, data = pair("logits")
    region = domain_region(input_domain(data.x), 8)
    criteria = Criteria(top1_above=0.1, topk=2, ranking=(0, 1))
    result = certify(network, integer, [region], dataclasses.replace(QUICK, criteria=criteria)).regions[0]
    assert all(status in ("unknown", "refuted") for status in result.orders.values())
    assert result.reason or "unknown" not in result.orders.values()


def test_unknown_lies_between(pair):
    """A region over which the bound is wider than the margin, though no violation is found."""
    network, integer, data = pair("logits")
    values = np.sort(evaluate(network, data.x), -1)
    k = int((values[:, -1] - values[:, -2]).argmax())
    first, second, *_ = ordered(network, data.x[k])
    criteria = dataclasses.replace(QUICK, criteria=Criteria(ranking=(first, second)))
    seen = [
        certify(
            network, integer, [ball("r", data.x[k], r * integer.input.scale, input_domain(data.x))], criteria
        ).regions[0]
        for r in (0.1, 2.0, 4.0, 6.0, 8.0)
    ]  # fmt: skip
    assert seen[0].orders["ranking"] == "proved"
    unknown = [region for region in seen if region.orders["ranking"] == "unknown"]
    assert unknown
    assert all(region.reason for region in unknown)


def pairwise(lo, hi):
    """Boxes (1, M, M) of l_i - l_j from ranges of the pairs (i < j)."""
    size = int((1 + np.sqrt(1 + 8 * len(lo))) / 2)
    box = Box(np.zeros((1, size, size)), np.zeros((1, size, size)))
    for (i, j), a, b in zip(combinations(range(size), 2), lo, hi, strict=True):
        box.lo[0, i, j], box.hi[0, i, j], box.lo[0, j, i], box.hi[0, j, i] = a, b, -b, -a
    return box


def margins(value, difference):
    value, difference = pairwise(*value), pairwise(*difference)
    return Margins(value, difference, value + difference)


def test_confidence_rule_at_its_threshold():
    """Two classes: p > D means a logit gap above log(D / (1 - D)), here against differences of at most 0.5."""
    m = margins(([-3.0], [3.0]), ([-0.5], [0.5]))
    room = softmax_rounding(2)  # of the float32 softmax
    threshold = 1 / (1 + np.exp(-0.5))
    assert top1_above(m, None, threshold + room + 1e-9)[0]
    assert not top1_above(m, None, threshold + room - 1e-9)[0]
    assert top1_above(m, None, 1 / (1 + np.exp(-3.0)) + room + 1e-9)[0]  # out of reach, whatever the difference
    wide = margins(([-3.0], [3.0]), ([-10.0], [10.0]))
    assert top1_above(wide, None, 1 / (1 + np.exp(-3.0)) + room + 1e-9)[0]
    assert not top1_above(wide, None, 1 / (1 + np.exp(-3.0)) + room - 1e-9)[0]


def test_a_third_class_takes_its_share():
    """Class 0 is top; class 2 has at least exp(-0.2) of its probability, which leaves less for class 1 than 1 - D."""
    m = margins(([0.01, 0.1, -2.9], [3.0, 0.2, 0.19]), ([-0.6, 0.0, -0.6], [0.6, 0.0, 0.6]))
    room = softmax_rounding(3)
    needed = 1 / (1 + np.exp(-0.6) + np.exp(-0.2))
    assert needed < 1 / (1 + np.exp(-0.6))
    assert top1_above(m, None, needed + room + 1e-9)[0]
    assert not top1_above(m, None, needed + room - 1e-9)[0]


def test_rankings_without_and_with_a_margin():
    never = margins(([-2.0], [0.0]), ([-5.0], [5.0]))
    assert ranking(never, None, 0, 1)[0]
    assert not ranking(never, None, 1, 0)[0]
    gaining = margins(([-2.0], [2.0]), ([0.0], [0.5]))
    assert ranking(gaining, None, 0, 1)[0]
    assert not ranking(gaining, None, 1, 0)[0]
    losing = margins(([-2.0], [2.0]), ([-1e-9], [0.5]))
    assert not ranking(losing, None, 0, 1)[0]
    apart = margins(([0.6], [2.0]), ([-0.5], [0.5]))
    assert ranking(apart, None, 0, 1)[0]


def test_sets_of_the_largest():
    m = margins(([-1.0, 2.0, 2.0], [1.0, 4.0, 4.0]), ([-0.5] * 3, [0.5] * 3))
    assert not topk(m, None, 1)[0]
    assert topk(m, None, 2)[0]
    close = margins(([-1.0, 0.4, 0.4], [1.0, 4.0, 4.0]), ([-0.5] * 3, [0.5] * 3))
    assert not topk(close, None, 2)[0]


def balanced(network, integer, x, rng):
    """The pair with output biases changed on both sides so that the logits at `x` are nearly equal."""
    layer = network.layers[-1]
    z = layer.W.astype(np.float64) @ evaluate_layers(network, x[None])[-2][0, -1] + layer.b
    target = 0.5 + rng.normal(0, 0.03, len(z))
    float_layer = dataclasses.replace(layer, b=(layer.b + target - z).astype(np.float32))

    def change(op):
        steps = (target - z) / (op.input.scale * np.asarray(op.W_scale))
        return dataclasses.replace(op, b=(op.b + np.rint(steps)).astype(op.b.dtype))

    return dataclasses.replace(network, layers=(*network.layers[:-1], float_layer)), with_dense(integer, change)


@pytest.mark.parametrize("softmax_head", [True, False])
def test_proofs_survive_attack(softmax_head):
    """Random pairs, many of them far off: nothing proved is ever violated, and the search does find violations."""
    rng = np.random.default_rng(5)
    proved, refuted = (
        dict.fromkeys(("top1_above", "topk", "ranking"), 0),
        dict.fromkeys(("top1_above", "topk", "ranking"), 0),
    )
    for seed in range(24):
        network, integer = random_pair(seed, 0.3, softmax_head)
        classes = integer.output.shape[-1]
        steps, features = integer.input.shape
        scale, zero = integer.input.scale, integer.input.zero_point
        domain = (np.full(features, scale * (-128 - zero)), np.full(features, scale * (127 - zero)))
        x = rng.uniform(domain[0], domain[1], (steps, features)).astype(np.float32)
        if seed % 2:
            network, integer = balanced(network, integer, x, rng)
        regions = [
            ball("a", x, 0.5 * scale, domain),
            ball("b", x, 8 * scale, domain),
            grid_ball("c", x, 1, integer.input),
        ]
        enclosure = propagate(align(network, integer), integer, regions)
        probabilities = enclosure.softmax is not None
        pairs = [(i, j) for i in range(classes) for j in range(classes) if i != j]
        asked = [Criteria(top1_above=d) for d in (0.0, 0.3, 0.5, 0.9)]
        asked += [Criteria(topk=k) for k in range(1, classes)] + [Criteria(ranking=p) for p in pairs[:6]]
        searches = [Search(network, integer, region, rng) for region in regions]
        points = [np.concatenate([s.region.corners(60), s.region.uniform(60), s.region.ties(60)]) for s in searches]
        results = [outputs(network, integer, p) for p in points]
        for criteria in asked:
            ((name, wanted),) = ((n, w) for n, w in criteria.orders().items() if w is not None)
            flags = proofs(criteria, enclosure.margins, enclosure.softmax)[name]
            for k, (exact, real) in enumerate(results):
                (watch,) = watches(criteria, network)
                clear = np.abs(exact[:, :, None] - exact[:, None, :])[:, ~np.eye(classes, dtype=bool)].min(1) > 1e-9
                violated = ~holds(name, wanted, exact, real, probabilities) & clear
                watch.observe(points[k], exact, real)
                if violated.any() and name != "top1_above":
                    assert watch.violation is not None
                if flags[k]:
                    proved[name] += 1
                    assert not violated.any(), (seed, criteria, regions[k].name)
                    assert watch.violation is None
                if watch.violation is not None:
                    refuted[name] += 1
                    e, r = outputs(network, integer, watch.violation[None])
                    assert not holds(name, wanted, e, r, probabilities)[0]
    assert all(count > 10 for count in proved.values()), proved
    assert all(count > 3 for count in refuted.values()), refuted


def test_hunting_finds_what_random_points_do_not():
    """A boundary that crosses the region far from its middle: descent along the gradient reaches it."""
    rng = np.random.default_rng(8)
    found = dict.fromkeys(("random", "hunt"), 0)
    for seed in range(12):
        network, integer = random_pair(seed, 0.3, False)
        steps, features = integer.input.shape
        scale, zero = integer.input.scale, integer.input.zero_point
        domain = (np.full(features, scale * (-128 - zero)), np.full(features, scale * (127 - zero)))
        x = rng.uniform(domain[0], domain[1], (steps, features)).astype(np.float32)
        network, integer = balanced(network, integer, x, rng)
        region = ball("r", x, 20 * scale, domain)
        for kind in found:
            (watch,) = watches(Criteria(topk=1), network)
            run = Search(network, integer, region, np.random.default_rng(seed))
            run.watches = [watch]
            if kind == "hunt":
                hunt(run, watch, 300)
            else:
                run.evaluate(run.region.uniform(max(run.evaluations, 300)))
            found[kind] += watch.violation is not None
    assert found["hunt"] >= found["random"]
    assert found["hunt"] > 0


@pytest.mark.parametrize(
    "bad",
    [
        {"top1_above": 1.0}, {"top1_above": -0.1}, {"top1_above": float("nan")}, {"topk": 0}, {"topk": -1},
        {"ranking": (1, 1)}, {"ranking": (-1, 0)},
    ],
)  # fmt: skip
def test_bad_criteria_are_refused(bad):
    with pytest.raises(InputError):
        Criteria(**bad)


@pytest.mark.parametrize("bad", [{"topk": 3}, {"ranking": (0, 3)}])
def test_criteria_that_a_model_cannot_have_are_refused(bad, pair):
    network, integer, data = pair("tiny")
    region = ball("r", data.x[0], 0.01, input_domain(data.x))
    assert isinstance(region, Region)
    with pytest.raises(InputError, match="output"):
        certify(network, integer, [region], dataclasses.replace(QUICK, criteria=Criteria(**bad)))
