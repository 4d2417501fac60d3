"""Certified bounds hold for kernels that round once or leave saturations out, as CMSIS-NN (docs/soundness.md)."""

from dataclasses import replace

import numpy as np
import pytest

from codesign.checker import read_claims, replay_regions
from codesign.network import evaluate
from codesign.quantization.integer import IntLstm
from codesign.semantics import dequantize, quantize_input, run_operator, sigmoid_table, simulate, tanh_table
from codesign.semantics.primitives import mbqm, sat16


def once(v, multiplier):
    """v times the multiplier's value with a single rounding, as ARM_NN_USE_SINGLE_ROUNDING does."""
    shift = 31 - multiplier.e
    return (np.asarray(v, object) * multiplier.m + (1 << (shift - 1))) // (1 << shift)


def cmsis_lstm(op, x, rescale):
    """Steps 2 and 3 as sat16(A + MBQM(...)), step 5 without a clamp of i g (docs/semantics.md)."""
    sigma, tau, tau_cell = sigmoid_table(), tanh_table(-12), tanh_table(op.cell_shift)
    batch, steps, _ = x.shape
    h = np.full((batch, op.units), op.output.zero_point, np.int64)
    c = np.zeros((batch, op.units), np.int64)
    hidden = np.empty((batch, steps, op.units), op.output.dtype)
    for t in range(steps):
        gates = []
        for g in range(4):
            acc = (x[:, t].astype(np.int64) - op.input.zero_point) @ op.W[g].T.astype(np.int64) + op.b[g]
            part = sat16(rescale(acc, op.input_multipliers[g]).astype(np.int64))
            recurrent = (h - op.output.zero_point) @ op.R[g].T.astype(np.int64)
            a = sat16(part + rescale(recurrent, op.recurrent_multipliers[g]).astype(np.int64))
            gates.append((tau if g == 2 else sigma)[a + 32768].astype(np.int64))
        i, f, g, o = gates
        c = sat16(sat16(rescale(f * c, op.forget_multiplier)) + rescale(i * g, op.input_gate_multiplier))
        c = c.astype(np.int64)
        if op.cell_clip_q:
            c = np.clip(c, -op.cell_clip_q, op.cell_clip_q)
        h = rescale(tau_cell[c + 32768].astype(np.int64) * o, op.hidden_multiplier).astype(np.int64)
        h = np.clip(h + op.output.zero_point, op.output.q_min, op.output.q_max)
        hidden[:, t] = h
    return hidden


def run(network, q, rescale):
    for op in network.ops:
        q = cmsis_lstm(op, q, rescale) if isinstance(op, IntLstm) else run_operator(op, q, network)
    return q


@pytest.mark.parametrize("name", ["tiny", "logits", "stacked"])
def test_certified_bounds_hold_for_cmsis_nn_and_for_single_rounding(made, name):
    folder, float_path, int8_path = made(name, radius="8lsb")
    claims = read_claims(folder / "certificate.json", float_path, int8_path)
    _, bounds = replay_regions(claims, slice(0, 1))
    rng = np.random.default_rng(1)
    lo, hi = claims.proof.lo[0], claims.proof.hi[0]
    x = (lo + rng.uniform(size=(150, *lo.shape)) * (hi - lo)).astype(np.float32)
    x = np.clip(x, np.nextafter(lo.astype(np.float32), 9), np.nextafter(hi.astype(np.float32), -9))
    real = evaluate(claims.network, x)
    for network in claims.integers:
        q = quantize_input(network, x)
        assert (run(network, q, mbqm) == simulate(network, q)).all()  # nothing saturates here
        for rescale in (mbqm, once):
            gap = dequantize(network.output, run(network, q, rescale)) - real
            assert (gap >= bounds.difference.lo[0]).all()
            assert (gap <= bounds.difference.hi[0]).all()


def test_skipped_saturations_differ_and_are_within_the_bound(made, monkeypatch):
    """Recurrent weights times 16: recurrent parts pass +-8, and the variants part."""
    from codesign.checker import lstm as module
    from codesign.checker.forms import Symbols
    from codesign.checker.lstm import LstmReplay
    from codesign.checker.replay import input_pairs
    from codesign.network.model import Lstm

    folder, float_path, int8_path = made("logits", radius="8lsb")
    claims = read_claims(folder / "certificate.json", float_path, int8_path)
    net = claims.integers[0]
    op = next(op for op in net.ops if isinstance(op, IntLstm))
    big = tuple(replace(m, e=m.e + 6) for m in op.recurrent_multipliers)
    changed = replace(op, recurrent_multipliers=big)
    layer = claims.network.layers[0]
    wide = Lstm(layer.name, layer.W, layer.R * np.float32(64), layer.b, True)

    class Wide:
        """Choices of no heuristic: zero slopes, nothing reset."""

        def slopes(self, kind, place, units):
            return [np.zeros((1, units))] * (2 if kind.endswith("diff") else 1)

        def resets(self, units):
            return np.ones((1, units), bool)

        def fold(self, place):
            return 0

    symbols = Symbols()
    lo, hi = claims.proof.lo[:1], claims.proof.hi[:1]
    rows = input_pairs(net, lo, hi, np.array([False]), symbols)
    hidden = LstmReplay(wide, [changed], module.Facts(Wide()), symbols).run(rows)
    rng = np.random.default_rng(2)
    x = np.clip((lo + rng.uniform(size=(150, *lo.shape[1:])) * (hi - lo)), lo, hi).astype(np.float32)
    q = quantize_input(net, x)
    variant, reference = cmsis_lstm(changed, q, mbqm), run_operator(changed, q, net)
    assert (variant != reference).any()
    from codesign.network import evaluate_layers
    from codesign.network.model import FloatNetwork

    real = evaluate_layers(FloatNetwork("wide", claims.network.input_shape, (wide,), "", ""), x)[0]
    for outputs in (variant, reference):
        gap = dequantize(op.output, outputs) - real
        for t, pair in enumerate(hidden):
            assert (gap[:, t] >= pair.difference.lo - 1e-12).all()
            assert (gap[:, t] <= pair.difference.hi + 1e-12).all()
