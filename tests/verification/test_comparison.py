"""The comparison system over whole domains: no exact evaluation leaves its bounds, and planted errors are caught."""

from dataclasses import replace

import numpy as np
import pytest
from random_pairs import random_pair

from codesign.network import evaluate, evaluate_layers
from codesign.network.model import Lstm
from codesign.quantization.align import LstmStage, align
from codesign.quantization.integer import IntLstm
from codesign.semantics import dequantize, quantize_input, simulate_trace
from codesign.verification import coefficients, comparison, domain_region
from codesign.verification.affine import Box
from codesign.verification.comparison import LayerComparison, State
from codesign.verification.domain import Row, _input_rows, enclose_domain, run_layer
from codesign.verification.search import Search


def domain_of(integer, room=0.0):
    """The input tensor's own range, and `room` of its width beyond."""
    steps, features = integer.input.shape
    scale, zero = integer.input.scale, integer.input.zero_point
    lo, hi = scale * (-128 - zero), scale * (127 - zero)
    width = hi - lo
    return domain_region((np.full(features, lo - room * width), np.full(features, hi + room * width)), steps)


def inputs(network, integer, region, rng, count):
    """Corners, uniform points, quantiser thresholds, and what an evolutionary search makes of them."""
    run = Search(network, integer, region, rng)
    run.maximize_error(count)
    box = run.region
    return np.concatenate([run.worst[None], box.corners(count // 3), box.uniform(count // 3), box.ties(count // 3)])


def layer_violation(network, integer, region, x):
    """Largest excess of a hidden state's difference over its bound, over layers, steps and units."""
    trace = simulate_trace(integer, quantize_input(integer, x))
    exact = evaluate_layers(network, x)
    rows = _input_rows(integer, region)
    worst, layers = -np.inf, iter(zip(network.layers, exact, strict=True))
    for index, op in enumerate(integer.ops):
        if not isinstance(op, IntLstm):
            break
        layer, hidden = next(layers)
        rows = [Row(state.h, state.dh) for state in run_layer(LayerComparison(layer, op), rows)]
        gap = np.abs(dequantize(op.output, trace.outputs[index]) - hidden)
        worst = max(worst, float((gap - np.stack([r.difference for r in rows])).max()))
        assert all(
            (hidden[:, t] >= r.value.lo).all() and (hidden[:, t] <= r.value.hi).all() for t, r in enumerate(rows)
        )
    return worst


@pytest.mark.parametrize("gain", [0.3, 1.0, 6.0, 60.0])
def test_random_networks_stay_within_domain_bounds(gain):
    rng = np.random.default_rng(5)
    for seed in range(25):
        network, integer = random_pair(seed, gain)
        region = domain_of(integer, 0.3)
        x = inputs(network, integer, region, rng, 400)
        assert layer_violation(network, integer, region, x) <= 0, seed
        enclosure = enclose_domain(align(network, integer), integer, region).enclosure
        exact = evaluate(network, x).reshape(len(x), -1)
        outputs = simulate_trace(integer, quantize_input(integer, x)).outputs[-1]
        gap = dequantize(integer.output, outputs).reshape(len(x), -1) - exact
        assert (gap >= enclosure.output_difference.lo).all()
        assert (gap <= enclosure.output_difference.hi).all()


def test_fixtures_stay_within_domain_bounds(pair):
    rng = np.random.default_rng(6)
    for name in ("tiny", "logits", "stacked", "sequence", "timedist", "acts", "flatten", "reshaped"):
        network, integer, _ = pair(name)
        region = domain_of(integer)
        x = inputs(network, integer, region, rng, 3000)
        enclosure = enclose_domain(align(network, integer), integer, region).enclosure
        outputs = simulate_trace(integer, quantize_input(integer, x)).outputs[-1]
        gap = (dequantize(integer.output, outputs) - evaluate(network, x)).reshape(len(x), -1)
        assert (np.abs(gap) <= np.maximum(-enclosure.output_difference.lo, enclosure.output_difference.hi)).all()
        if isinstance(network.layers[0], Lstm):
            assert layer_violation(network, integer, region, x) <= 0


def single_unit(seed):
    """A one-unit layer, boxes of a state and input, and its comparison."""
    rng = np.random.default_rng(seed)
    network, integer = next(
        (n, i) for n, i in (random_pair(k, 0.7) for k in range(seed * 7, 10**6)) if n.layers[0].units == 1
    )
    stage = align(network, integer)[0]
    assert isinstance(stage, LstmStage)
    layer = LayerComparison(stage.float_layer, stage.int_op)
    features = stage.float_layer.features
    x = Box(np.full(features, -0.4), np.full(features, 0.4)) if seed % 2 else Box(np.zeros(features), np.ones(features))
    h = Box(np.array([-rng.uniform(0.2, 0.8)]), np.array([rng.uniform(0.2, 0.8)]))
    c = Box(np.array([-rng.uniform(0.3, 1.5)]), np.array([rng.uniform(0.3, 1.5)]))
    state = State(h, c, np.array([rng.uniform(0.01, 0.1)]), np.array([rng.uniform(0.01, 0.2)]))
    return layer, x, state, np.full(features, rng.uniform(0.001, 0.05)), rng


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def attained(layer, x, state, dx, rng, count=200_000):
    """Largest |dc'| and |dh'| seen when real-valued arithmetic runs one step twice, `state` and dx apart, by
    sampling."""
    w = layer.weights

    def draw(lo, hi, n):
        return np.where(
            rng.random((count, n)) < 0.5,
            rng.uniform(lo, hi, (count, n)),
            np.where(rng.random((count, n)) < 0.5, lo, hi),
        )

    def step(xs, h, c):
        z = xs @ w.W_int.value.T + h @ w.R_int.value.T + w.b
        i, f, g, o = (np.tanh(z[:, k]) if k == 2 else sigmoid(z[:, k]) for k in range(4))
        new = f * c[:, 0] + i * g
        return o * np.tanh(new), new

    xs, h, c = (draw(b.lo, b.hi, len(b.lo)) for b in (x, state.h, state.c))
    moved = (v + r * np.where(rng.random(v.shape) < 0.5, -1, 1) for v, r in ((xs, dx), (h, state.dh), (c, state.dc)))
    (h0, c0), (h1, c1) = step(xs, h, c), step(*moved)
    return np.abs(c1 - c0).max(), np.abs(h1 - h0).max()


def one_step_excess(seed):
    """How far real-valued differences exceed the step's bound without its rounding terms; and the bound over them."""
    layer, x, state, dx, rng = single_unit(seed)
    terms, _, _ = layer.terms(x, dx, state)
    bare = comparison.StepTerms(
        terms.cell_vertices, terms.hidden_vertices, 0 * terms.noise, 0 * terms.cell_error, 0 * terms.hidden_error
    )
    dc, dh = (
        layer.cell_difference(bare, dx, state.dh, state.dc)[0],
        layer.hidden_difference(bare, dx, state.dh, state.dc)[0],
    )
    seen_c, seen_h = attained(layer, x, state, dx, rng)
    return max(seen_c - dc, seen_h - dh), dc / seen_c


SEEDS = range(1, 13)


def test_one_step_is_sound_and_tight():
    results = [one_step_excess(seed) for seed in SEEDS]
    assert max(r[0] for r in results) <= 0
    assert np.median([r[1] for r in results]) < 1.2


def planted_forget(monkeypatch):
    """The forget gate's own difference, f (1 - f) c dz_f, is lost."""
    original = comparison.forget_polygon

    def broken(f, c):
        polygon = original(f, c)
        return replace(polygon, vertices=polygon.vertices * [1, 0])

    monkeypatch.setattr(comparison, "forget_polygon", broken)


def planted_cell_gate(monkeypatch):
    """1 - g^2 is taken at the largest |g|."""
    original = comparison.gate_polygon
    monkeypatch.setattr(
        comparison,
        "gate_polygon",
        lambda s, t: original(s, Box(np.where(t.mag == t.hi, t.hi, t.lo), np.where(t.mag == t.hi, t.hi, t.lo))),
    )


def planted_path(monkeypatch):
    """Slopes are taken over the float ranges instead of the widened ones; here, sigmoid at the lower end."""
    original = comparison.gate_polygon
    monkeypatch.setattr(comparison, "gate_polygon", lambda s, t: original(Box(s.lo, s.lo), t))


@pytest.mark.parametrize("plant", [planted_forget, planted_cell_gate, planted_path])
def test_planted_errors_in_the_slopes_are_caught(plant, monkeypatch):
    plant(monkeypatch)
    assert max(one_step_excess(seed)[0] for seed in SEEDS) > 0


@pytest.mark.parametrize("lost", ["hidden_rounding", "cell_rounding", "gate rounding", "saturation"])
def test_lost_error_terms_are_caught(lost, monkeypatch):
    original = LayerComparison.__init__

    def broken(self, *arguments):
        original(self, *arguments)
        if lost == "gate rounding":
            self.weights.rounding[:] = 0
        elif lost != "saturation":
            setattr(self.model, lost, 0.0)

    monkeypatch.setattr(LayerComparison, "__init__", broken)
    if lost == "saturation":
        monkeypatch.setattr(comparison, "excess", lambda box, lo, hi: np.zeros_like(box.lo))
    rng = np.random.default_rng(8)
    worst = -np.inf
    for seed in range(60):
        network, integer = tiny_pair(seed, lost)
        region = domain_of(integer, 0.3 if lost == "saturation" else 0.0)
        x = inputs(network, integer, region, rng, 300)
        worst = max(worst, layer_violation(network, integer, region, x))
        if worst > 0:
            break
    assert worst > 0


def tiny_pair(seed, lost):
    """A pair in which one kind of error dominates."""
    network, integer = random_pair(seed, {"gate rounding": 0.002, "saturation": 6.0}.get(lost, 0.05))
    if lost != "cell_rounding":
        return network, integer
    from codesign.quantization.multipliers import product_multiplier

    ops = [
        replace(op, cell_shift=-7, input_gate_multiplier=product_multiplier(2.0**-7)) if isinstance(op, IntLstm) else op
        for op in integer.ops
    ]
    return network, replace(integer, ops=tuple(ops))


def test_table_errors_by_range_are_those_of_the_table():
    from codesign.verification.rounding import _error_range

    low, high = _error_range("tanh", -13)
    largest = np.maximum(-low, high)
    rng = np.random.default_rng(9)
    a, b = np.sort(rng.integers(-32768, 32768, (2, 200)), axis=0)
    box = Box(a * 2.0**-13, b * 2.0**-13)
    got = coefficients.table_error("tanh", -13, box)
    want = [largest[i + 32768 : j + 32769].max() for i, j in zip(a, b, strict=True)]
    assert (got == want).all()
