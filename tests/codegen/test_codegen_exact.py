"""Generated C against codesign.semantics, bit for bit, under sanitizers."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from codegen_support import FIXTURE_NAMES, HostBuild, compile_host, handmade, inputs

from codesign.codegen import make_plan
from codesign.quantization.integer import IntegerNetwork, IntLstm
from codesign.semantics import dequantize, quantize_input, sigmoid_table, simulate, simulate_trace, tanh_table
from codesign.semantics.primitives import mbqm

HANDMADE = tuple(handmade())
EVERY = (*FIXTURE_NAMES, "logits@tflm-float", "stacked@tflm-float", *HANDMADE)
Build = Callable[[str], HostBuild]
Find = Callable[[str], IntegerNetwork]


@pytest.mark.parametrize("name", EVERY)
def test_outputs_equal_the_simulation(name: str, host_build: Build) -> None:
    build = host_build(name)
    q = inputs(build.net, 2200)
    expected = simulate(build.net, q)
    assert len(np.unique(expected.reshape(len(q), -1), axis=0)) > 50, "the inputs do not exercise this network"
    np.testing.assert_array_equal(build.infer(q), expected)


@pytest.mark.parametrize(
    ("variant", "weights"),
    [("narrow", "int16"), ("plain", "int8"), ("plain", "int16"), ("dsp", "int8"), ("dsp", "int16")],
)
@pytest.mark.parametrize("name", ["stacked", "odd", "long_rows", "unpairable"])
def test_every_variant_and_packing_agrees(
    name: str, variant: str, weights: str, tmp_path: Path, find_network: Find
) -> None:
    """Portable and DSP paths, the latter with its instructions in C, against the simulation, under sanitizers."""
    net = find_network(name)
    build = compile_host(net, tmp_path, variant=variant, weights=weights)  # type: ignore[arg-type]
    q = inputs(net, 400, seed=5)
    np.testing.assert_array_equal(build.infer(q), simulate(net, q))


STREAMED = ("tiny", "stacked", "sequence", "timedist", "acts", "odd", "last", "late_last", "wide", "copy")


@pytest.mark.parametrize("mode", ["stream", "resume"])
@pytest.mark.parametrize("name", STREAMED)
def test_steps_give_what_the_whole_sequence_gives(name: str, mode: str, host_build: Build) -> None:
    build = host_build(name)
    q = inputs(build.net, 100, seed=3)
    np.testing.assert_array_equal(build.infer(q, mode), simulate(build.net, q))


def test_a_step_from_any_state(host_build: Build) -> None:
    """Arbitrary hidden and cell values, one step, against the simulation's primitives."""
    build = host_build("sequence")
    op = next(o for o in build.net.ops if isinstance(o, IntLstm))
    rng = np.random.default_rng(4)
    count, H, D = 3000, op.units, op.features
    h = rng.integers(-128, 128, (count, H)).astype(np.int8)
    c = rng.integers(-32768, 32768, (count, H)).astype(np.int16)
    c[: count // 3] = rng.choice([-32768, -32767, -1, 0, 1, 32767], (count // 3, H))
    x = rng.integers(-128, 128, (count, D)).astype(np.int8)
    data = b"".join(h[n].tobytes() + c[n].astype("<i2").tobytes() + x[n].tobytes() for n in range(count))
    got = np.frombuffer(build.run("states", data), np.uint8).reshape(count, -1)
    pre = []
    for gate in range(4):
        w = (x.astype(np.int64) - op.input.zero_point) @ op.W[gate].T.astype(np.int64) + op.b[gate]
        r = (h.astype(np.int64) - op.output.zero_point) @ op.R[gate].T.astype(np.int64)
        parts = (mbqm(w, op.input_multipliers[gate]), mbqm(r, op.recurrent_multipliers[gate]))
        a, b = (np.clip(part, -32768, 32767) for part in parts)
        pre.append(np.clip(a + b, -32768, 32767) + 32768)
    i, f, o = (sigmoid_table()[pre[gate]].astype(np.int64) for gate in (0, 1, 3))
    g = tanh_table()[pre[2]].astype(np.int64)
    kept = np.clip(mbqm(f * c, op.forget_multiplier), -32768, 32767)
    cell = np.clip(kept + np.clip(mbqm(i * g, op.input_gate_multiplier), -32768, 32767), -32768, 32767)
    if op.cell_clip_q:
        cell = np.clip(cell, -op.cell_clip_q, op.cell_clip_q)
    y = mbqm(tanh_table(op.cell_shift)[cell + 32768].astype(np.int64) * o, op.hidden_multiplier) + op.output.zero_point
    hidden = np.clip(y, -128, 127).astype(np.int8)
    np.testing.assert_array_equal(got[:, :H].view(np.int8), hidden)
    np.testing.assert_array_equal(got[:, H : 2 * H].view(np.int8), hidden)
    np.testing.assert_array_equal(np.ascontiguousarray(got[:, 2 * H :]).view("<i2"), cell)


@pytest.mark.parametrize("name", ["stacked", "odd"])
def test_fuzzed_states_do_no_harm(name: str, host_build: Build) -> None:
    build = host_build(name)
    plan = make_plan(build.net)
    count = 3000
    data = np.random.default_rng(6).bytes(count * (plan.state_bytes + build.net.input.shape[1]))
    assert len(build.run("states", data)) == count * (plan.step_outputs + plan.state_bytes)


def test_what_needs_the_whole_sequence_does_not_stream(find_network: Find) -> None:
    for name in ("flat", "long_rows", "flatten", "reshaped"):
        plan = make_plan(find_network(name))
        assert plan.stream is None
        assert plan.stream_obstacle


@pytest.mark.parametrize("name", ["tiny", "stacked", "sequence", "timedist", "odd", "last", "late_last"])
def test_trace_equals_the_simulated_hidden_states(name: str, host_build: Build) -> None:
    build = host_build(name)
    q = inputs(build.net, 60, seed=1)
    trace = simulate_trace(build.net, q)
    hidden = [h for op, h in zip(build.net.ops, trace.outputs, strict=True) if isinstance(op, IntLstm)]
    frames = []
    for n in range(len(q)):
        for layer, states in enumerate(hidden):
            for step in range(states.shape[1]):
                frames.append(struct.pack("=HHH", layer, step, states.shape[2]) + states[n, step].tobytes())
        frames.append(trace.outputs[-1][n].tobytes())
    assert build.run("trace", q.tobytes()) == b"".join(frames)


def test_saturating_states_are_reached() -> None:
    """The hand-made network really drives gates, cell and hidden state into saturation and clipping."""
    net = handmade()["odd"]
    q = inputs(net, 300)
    op = net.ops[0]
    assert isinstance(op, IntLstm)
    acc = (q.astype(np.int64) - op.input.zero_point) @ op.W[0].T.astype(np.int64) + op.b[0]
    assert np.abs(mbqm(acc, op.input_multipliers[0])).max() > 32767
    trace = simulate_trace(net, q)
    assert np.abs(trace.cells[0].astype(int)).max() == op.cell_clip_q
    assert {-128, 127} <= set(np.unique(trace.outputs[0]))


@pytest.mark.parametrize("name", ["stacked", "timedist", "odd"])
def test_an_inference_leaves_no_state_behind(name: str, host_build: Build) -> None:
    build = host_build(name)
    q = inputs(build.net, 100, seed=2)
    once = build.infer(q)
    np.testing.assert_array_equal(build.infer(q, "twice"), once)
    np.testing.assert_array_equal(build.infer(q[::-1])[::-1], once)


@pytest.mark.parametrize("name", EVERY)
def test_hash_is_that_of_the_content(name: str, host_build: Build) -> None:
    build = host_build(name)
    assert build.run("hash").hex() == build.net.sha256


def boundary_values(scale: float, zero_point: int, size: int) -> np.ndarray:
    """Float32 values around every rounding boundary of the quantizer, and the exceptional ones."""
    s = np.float32(scale)
    half = (np.arange(-300, 301) + 0.5).astype(np.float32) * s
    whole = np.arange(-300, 301).astype(np.float32) * s
    near = [
        v for base in (half, whole) for v in (base, np.nextafter(base, np.float32(np.inf)), np.nextafter(base, -base))
    ]
    exceptional = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1e-38, 3.4e38, -3.4e38]
    large = [2147483648.0, -2147483904.0, 0.49999997 * scale, -0.49999997 * scale]
    odd = np.array(exceptional + large, np.float32)
    signalling = np.array([0x7F800001, 0xFF800001], np.uint32).view(np.float32)
    random = np.random.default_rng(zero_point + 500).normal(0, 100 * scale, 20000).astype(np.float32)
    values = np.concatenate([*near, odd, signalling, random])
    return np.resize(values, (-(-len(values) // size), size))


@pytest.mark.parametrize("name", ["tiny", "logits", "odd", "flat", "last"])
def test_quantize_rule(name: str, host_build: Build) -> None:
    build = host_build(name)
    net = build.net
    x = boundary_values(net.input.scale, net.input.zero_point, int(np.prod(net.input.shape)))
    expected = quantize_input(net, x.reshape(-1, *net.input.shape))
    got = np.frombuffer(build.run("quantize", x.tobytes()), np.int8)
    np.testing.assert_array_equal(got, expected.reshape(-1))
    flat = x.reshape(-1)
    assert np.all(got[np.isnan(flat)] == net.input.zero_point)
    assert np.all(got[flat == np.inf] == 127)
    assert np.all(got[flat == -np.inf] == -128)


def test_quantize_rounds_ties_away_from_zero(host_build: Build) -> None:
    """Independent of codesign.semantics: with scale 2^-4 the ties are exact in single precision."""
    build = host_build("power")
    ties = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997, -0.49999997], np.float32) / 16
    expected = [1, 2, 3, -1, -2, -3, 0, 0]
    got = np.frombuffer(build.run("quantize", ties.tobytes()), np.int8)
    assert [int(v) - build.net.input.zero_point for v in got] == expected


@pytest.mark.parametrize("name", ["tiny", "acts", "odd"])
def test_dequantize(name: str, host_build: Build) -> None:
    build = host_build(name)
    size = int(np.prod(build.net.output.shape))
    q = np.resize(np.arange(-128, 128).astype(np.int8), (256, size))
    got = np.frombuffer(build.run("dequantize", q.tobytes()), np.float32).reshape(q.shape)
    np.testing.assert_array_equal(got, dequantize(build.net.output, q).astype(np.float32))
