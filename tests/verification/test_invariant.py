"""Bounds for any number of steps: the fixed point is checked, long streams stay inside, other models are refused."""

from dataclasses import replace

import numpy as np
import pytest
from random_pairs import random_pair

from codesign.errors import CodesignError, InputError
from codesign.network.model import FloatNetwork, Lstm
from codesign.quantization.align import align
from codesign.quantization.integer import IntegerNetwork, IntLastStep, IntLstm, QuantizedTensor
from codesign.quantization.multipliers import gate_multiplier, product_multiplier
from codesign.semantics import dequantize
from codesign.semantics.streams import float_stream, integer_stream
from codesign.verification import domain_region, invariant
from codesign.verification.affine import Box
from codesign.verification.all_inputs import quantized_stream, stream_inputs
from codesign.verification.comparison import FloatLayer, LayerComparison, inside
from codesign.verification.domain import _input_rows, enclose_domain


def contractive(seed):
    """A random pair whose gates have been turned towards forgetting, int weights and float ones alike."""
    network, integer = random_pair(seed, 0.25)
    layers, ops = list(network.layers), list(integer.ops)
    for index, op in enumerate(ops):
        if isinstance(op, IntLstm):
            shift = np.zeros_like(op.b)
            shift[1] = np.rint(-2.0 / (op.input.scale * op.W_scale[1]))
            where = next(k for k, v in enumerate(layers) if isinstance(v, Lstm) and v.name == op.name)
            b = layers[where].b.copy()
            b[1] += (shift[1] * op.input.scale * op.W_scale[1]).astype(np.float32)
            layers[where] = replace(layers[where], b=b)
            ops[index] = replace(op, b=op.b + shift)
    return replace(network, layers=tuple(layers)), replace(integer, ops=tuple(ops))


def domain_of(integer):
    scale, zero = integer.input.scale, integer.input.zero_point
    features = integer.input.shape[1]
    ends = (np.full(features, scale * (-128 - zero)), np.full(features, scale * (127 - zero)))
    return domain_region(ends, integer.input.shape[0])


def certified(seeds):
    for seed in seeds:
        network, integer = contractive(seed)
        region = domain_of(integer)
        try:
            yield network, integer, region, enclose_domain(align(network, integer), integer, region, (), True)
        except CodesignError:
            continue


def test_long_streams_stay_within_their_bounds():
    rng = np.random.default_rng(3)
    done = 0
    for network, integer, region, found in certified(range(10)):
        x = stream_inputs(Box(region.lo[0], region.hi[0]), 8, 1500, rng)
        integer_out = dequantize(integer.output, integer_stream(integer, quantized_stream(integer, x)))
        gap = (integer_out - float_stream(network, x)).reshape(8 * 1500, -1)
        e = found.enclosure
        assert (gap >= e.output_difference.lo[0]).all()
        assert (gap <= e.output_difference.hi[0]).all()
        done += 1
    assert done >= 5


def test_streams_agree_with_whole_sequences():
    from codesign.network import evaluate
    from codesign.semantics import quantize_input, simulate

    for seed in range(6):
        network, integer = random_pair(seed)
        steps, features = integer.input.shape
        x = np.random.default_rng(seed).normal(0, 0.5, (5, steps, features)).astype(np.float32)
        q = quantize_input(integer, x)
        assert (integer_stream(integer, q)[:, -1] == simulate(integer, q)).all()
        assert np.allclose(float_stream(network, x)[:, -1], evaluate(network, x), atol=1e-14)


def test_the_fixed_point_holds_and_contracts():
    network, integer, region, found = next(certified(range(30)))
    contraction = found.contractions[0]
    layer = LayerComparison(*((s := align(network, integer)[0]).float_layer, s.int_op))
    row = _input_rows(integer, region)[0]
    h, c = FloatLayer.of(s.float_layer).invariant(row.value)
    state = invariant.State(h, c, contraction.hidden, contraction.cell)
    assert invariant.residual(layer, row.value, row.difference, state) <= 1
    assert contraction.rate < 1
    assert (contraction.weights > 0).all()
    smaller = invariant.State(h, c, 0.5 * contraction.hidden, 0.5 * contraction.cell)
    assert invariant.residual(layer, row.value, row.difference, smaller) > 1


def test_float_boxes_are_not_left():
    network, _ = contractive(2)
    layer = FloatLayer.of(network.layers[0])
    x = Box(np.full(layer.layer.features, -1.0), np.full(layer.layer.features, 1.0))
    h, c = layer.invariant(x)
    new_h, new_c = layer.step(layer.gates(x, h), c)
    assert inside(new_h, h)
    assert inside(new_c, c)


def test_models_that_grow_are_refused_with_units_and_gates():
    network, integer = random_pair(4, 1.0)
    with pytest.raises(
        CodesignError, match=r"no bound for any number of steps.*units \d+ \((input|forget|cell|output)"
    ):
        enclose_domain(align(network, integer), integer, domain_of(integer), (), True)


def test_domains_that_change_with_time_are_refused():
    network, integer = contractive(0)
    region = domain_of(integer)
    lo = np.repeat(region.lo, 2, axis=0)[: max(2, len(region.lo))].copy()
    hi = np.repeat(region.hi, 2, axis=0)[: len(lo)]
    lo[0] += 0.01
    with pytest.raises(InputError, match="same at every step"):
        enclose_domain(align(network, integer), integer, replace(region, lo=lo, hi=hi), (), True)


def remembering(seed):
    """One LSTM alone, forget gates near 0.9, a coarse cell: roundings add up over many steps."""
    network, integer = random_pair(seed, 0.05)
    layer, op = network.layers[0], integer.ops[0]
    b, b_int = layer.b.copy(), op.b.copy()
    step = op.input.scale * op.W_scale[1]
    b_int[1] += int(np.rint(2.5 / step))
    b[1] += np.float32(np.rint(2.5 / step) * step)
    op = replace(op, b=b_int, cell_shift=-7, input_gate_multiplier=product_multiplier(2.0**-7))
    last = IntLastStep("last", op.output, replace(op.output, shape=op.output.shape[1:]))
    layer = replace(layer, b=b, return_sequences=False)
    return replace(network, layers=(layer,)), replace(integer, ops=(op, last), output=last.output)


def worst_stream_excess():
    """Largest excess of a hidden value's difference over its bound for ever, on streams."""
    rng, worst = np.random.default_rng(3), -np.inf
    for seed in range(4):
        network, integer = remembering(seed)
        region = domain_of(integer)
        d = enclose_domain(align(network, integer), integer, region, (), True).enclosure.output_difference
        x = stream_inputs(Box(region.lo[0], region.hi[0]), 16, 600, rng)
        gap = dequantize(integer.output, integer_stream(integer, quantized_stream(integer, x))) - float_stream(
            network, x
        )
        worst = max(worst, float((gap - d.hi[0]).max()), float((d.lo[0] - gap).max()))
    return worst


def test_roundings_that_add_up_stay_within_their_bounds():
    assert worst_stream_excess() <= 0


def test_a_cell_difference_that_is_not_carried_on_is_caught(monkeypatch):
    original = LayerComparison.terms

    def forgetful(self, *arguments):
        terms, h, c = original(self, *arguments)
        terms.cell_vertices[..., 0] = 0
        return terms, h, c

    monkeypatch.setattr(LayerComparison, "terms", forgetful)
    assert worst_stream_excess() > 0


def test_a_float_clip_beyond_the_models_own_steps_is_part_of_the_bound():
    """One step never reaches the clip at 1; a stream does, and then the integer network, which has none, is far off."""
    source = QuantizedTensor("x", (1, 1), "int16", 2.0**-14, 0)
    hidden = QuantizedTensor("h", (1, 1), "int16", 2.0**-15, 0)
    scales, q = (0.04,) * 4, np.array([75, 0, 75, 75], np.int8)  # gates that x = 1 opens
    multipliers = tuple(gate_multiplier(source.scale, s, "tflm-double") for s in scales)
    R, b = np.zeros((4, 1, 1), np.int8), np.rint(np.array([0.0, 0.3, 0.0, 0.0]) / (2.0**-14 * 0.04)).astype(np.int64)
    op = IntLstm(
        "l", source, hidden, q.reshape(4, 1, 1), R, b.reshape(4, 1), scales, scales, -12, 0, multipliers, multipliers,
        product_multiplier(2.0**-15), product_multiplier(2.0**-12), product_multiplier(hidden.scale),
    )  # fmt: skip
    real = Lstm(
        "l", (q * 0.04).astype("f4").reshape(4, 1, 1), R.astype("f4"), (b * 2.0**-14 * 0.04).astype("f4")[:, None], True
    )
    region = domain_region((np.array([-1.0]), np.array([1.0])), 1)
    bounds = {}
    for clip in (0.0, 1.0):
        network = FloatNetwork("n", (1, 1), (replace(real, cell_clip=clip),), "0" * 64, "float-tflite")
        integer = IntegerNetwork("n", source, hidden, (op,), "0" * 64, "tflm-double", b"")
        found = enclose_domain(align(network, integer), integer, region, (), True)
        bounds[clip] = float(found.logit_bound.max())
        x = np.where(np.arange(40) < 20, 1.0, 0.3).astype(np.float32).reshape(1, 40, 1)
        gap = dequantize(hidden, integer_stream(integer, quantized_stream(integer, x))) - float_stream(network, x)
        assert np.abs(gap).max() <= bounds[clip]
        worst = np.abs(gap).max()
    assert worst > bounds[0.0], "the clip makes more of a difference than the bound without it allows"
