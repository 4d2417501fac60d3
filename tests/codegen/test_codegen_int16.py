"""Generated C for int16 activations against codesign.semantics, bit for bit, under sanitizers."""

from __future__ import annotations

import dataclasses
import shutil
import struct
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import codegen_support
import numpy as np
import pytest
from codegen_support import FIXTURE_NAMES, WARNINGS, HostBuild, compile_host, inputs, last_step, network, reshape

from codesign.bench import bench
from codesign.codegen import export_library, generate, make_plan, memory_estimate
from codesign.errors import InputError
from codesign.quantization.integer import (
    IntActivation,
    IntDense,
    IntegerNetwork,
    IntLstm,
    IntOp,
    Multiplier,
    QuantizedTensor,
)
from codesign.semantics import dequantize, quantize_input, simulate, simulate_trace

Build = Callable[[str], HostBuild]
Find = Callable[[str], IntegerNetwork]
FIXTURES16 = tuple(f"{name}.int16" for name in FIXTURE_NAMES)


def tensor(shape: tuple[int, ...], scale: float) -> QuantizedTensor:
    return codegen_support.tensor(shape, scale, 0, dtype="int16")


def lstm(rng: np.random.Generator, source: QuantizedTensor, units: int, **options: float) -> IntLstm:
    chosen: dict[str, Any] = {"zero_point": 0, "scale": 2.0**-15, "bias": 1_000_000, **options}
    return codegen_support.lstm(rng, source, units, **chosen)


def dense(rng: np.random.Generator, source: QuantizedTensor, outputs: int, **options: float) -> IntDense:
    chosen: dict[str, Any] = {"scale": 0.0003, "zero_point": 0, "weight_scale": 0.02, "bias": 200_000, **options}
    return codegen_support.dense(rng, source, outputs, **chosen)


def activation(source: QuantizedTensor, kind: str, beta: float = 1.0, scale: float = 2.0**-15) -> IntActivation:
    return IntActivation("activation", kind, source, tensor(source.shape, scale), beta)  # type: ignore[arg-type]


@cache
def handmade() -> dict[str, IntegerNetwork]:
    """What the converted fixtures do not reach."""
    rng = np.random.default_rng(17)
    nets: dict[str, IntegerNetwork] = {}
    # Saturating gates, clipped cell, a hidden scale that is no power of two, per-channel dense, RELU, softmax.
    a = lstm(rng, tensor((6, 5), 0.001), 9, weight_scale=0.05, cell_clip_q=9000, scale=0.9 / 32768)
    b = lstm(rng, a.output, 6, weight_scale=0.05, cell_shift=-9)
    c = last_step(b.output)
    d = dense(rng, c.output, 7, per_channel=True, relu=True, scale=0.00003)
    e = activation(d.output, "relu", scale=0.0002)
    ops: list[IntOp] = [a, b, c, d, e, activation(e.output, "softmax", beta=2.5)]
    nets["odd"] = network(ops)
    # 64-bit accumulators by the length of the rows, in every kernel; odd numbers of columns.
    a = lstm(rng, tensor((2, 1203), 0.0001), 3, weight_scale=0.001)
    a = dataclasses.replace(a, W=np.where(rng.random(a.W.shape) < 0.5, np.int8(-127), np.int8(127)))
    nets["long_rows"] = network([a])
    flat = reshape(tensor((2, 601), 0.0001), (1202,))
    d = dense(rng, flat.output, 6, per_channel=True, scale=0.01)
    nets["long_dense"] = network([flat, dataclasses.replace(d, W=np.where(d.W < 0, np.int8(-127), np.int8(127)))])
    # 64-bit accumulators by biases that do not fit 32 bits.
    a = lstm(rng, tensor((3, 60), 0.00003), 5, weight_scale=0.00003)
    nets["biases"] = network([dataclasses.replace(a, b=rng.integers(-(2**33), 2**33, a.b.shape))])
    # Multipliers above 1/2, one unit, the last step as the output.
    flat = reshape(tensor((2, 3), 0.001), (6,))
    d = dense(rng, flat.output, 5, per_channel=False)
    small = dataclasses.replace(d, W=np.clip(d.W, -1, 1), multipliers=(Multiplier(1_500_000_000, 2),))
    nets["coarse"] = network([flat, small])
    a = lstm(rng, tensor((4, 1), 0.0005), 1, cell_shift=-7)
    nets["last"] = network([a, last_step(a.output)])
    # In place, by time steps, several rows of a softmax.
    a = lstm(rng, tensor((4, 3), 0.0005), 5)
    d = dense(rng, a.output, 6, per_channel=False)
    t = activation(d.output, "tanh")
    nets["by_step"] = network([a, d, t, activation(t.output, "softmax", beta=8.0)])
    nets["copy"] = network([last_step(tensor((3, 2), 0.05))])
    # Every int16 at once, for elementwise functions.
    for kind, scale in (("sigmoid", 2.0**-12), ("tanh", 2.0**-11), ("tanh", 0.00037), ("sigmoid", 2.6), ("tanh", 1e-6),
                        ("relu", 0.0004), ("sigmoid", 0.0004)):  # fmt: skip
        nets[f"{kind}_{scale:.3g}"] = network([activation(tensor((256, 256), scale), kind)])
    return nets


EVERY = (*FIXTURES16, "stacked.int16@tflm-float", *(f"16:{name}" for name in handmade()))


@pytest.fixture(scope="module")
def build16(tmp_path_factory: pytest.TempPathFactory, find_network: Find) -> Build:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")

    @cache
    def build(name: str) -> HostBuild:
        net = handmade()[name[3:]] if name.startswith("16:") else find_network(name)
        return compile_host(net, tmp_path_factory.mktemp("host16"))

    return build


def samples(net: IntegerNetwork, count: int, seed: int = 0) -> np.ndarray:
    if net.input.shape == (256, 256):
        return np.arange(-32768, 32768).astype(np.int16).reshape(1, 256, 256)
    return inputs(net, count, seed)


@pytest.mark.parametrize("name", EVERY)
def test_outputs_equal_the_simulation(name: str, build16: Build) -> None:
    build = build16(name)
    q = samples(build.net, 2200)
    expected = simulate(build.net, q)
    assert expected.dtype == np.int16
    # A sigmoid of coarse steps has few values.
    assert len(np.unique(expected)) > (50 if len(q) > 1 else 5), "the inputs do not exercise this network"
    np.testing.assert_array_equal(build.infer(q), expected)


def test_both_widths_of_accumulators_are_reached() -> None:
    deep = {name: [step.deep for step in make_plan(net).steps] for name, net in handmade().items()}
    assert deep["long_rows"] == [(True, False)]
    assert deep["long_dense"] == [(True,)]
    assert deep["biases"] == [(True, False)]
    assert deep["odd"][:2] == [(False, False)] * 2
    steps = [step for net in handmade().values() for step in make_plan(net).steps]
    assert {scale.shift == 32 for step in steps for scale in step.scales64} == {True, False}


def test_saturation_is_reached() -> None:
    net = handmade()["odd"]
    q = inputs(net, 300)
    trace = simulate_trace(net, q)
    op = net.ops[0]
    assert isinstance(op, IntLstm)
    assert np.abs(trace.cells[0].astype(int)).max() == op.cell_clip_q
    dense_output = trace.outputs[3]
    assert {0, 32767} <= set(np.unique(dense_output).tolist())


@pytest.mark.parametrize(
    ("variant", "weights"),
    [("narrow", "int16"), ("plain", "int8"), ("plain", "int16"), ("dsp", "int8"), ("dsp", "int16")],
)
@pytest.mark.parametrize("name", ["odd", "long_rows", "long_dense"])
def test_every_variant_and_packing_agrees(name: str, variant: str, weights: str, tmp_path: Path) -> None:
    net = handmade()[name]
    build = compile_host(net, tmp_path, variant=variant, weights=weights)  # type: ignore[arg-type]
    q = inputs(net, 300, seed=5)
    np.testing.assert_array_equal(build.infer(q), simulate(net, q))


@pytest.mark.parametrize("mode", ["stream", "resume"])
@pytest.mark.parametrize("name", ["stacked.int16", "timedist.int16", "16:odd", "16:last", "16:by_step", "16:copy"])
def test_steps_give_what_the_whole_sequence_gives(name: str, mode: str, build16: Build) -> None:
    build = build16(name)
    q = inputs(build.net, 100, seed=3)
    np.testing.assert_array_equal(build.infer(q, mode), simulate(build.net, q))


@pytest.mark.parametrize("name", ["stacked.int16", "16:odd"])
def test_trace_and_repetition(name: str, build16: Build) -> None:
    build = build16(name)
    q = inputs(build.net, 40, seed=1)
    trace = simulate_trace(build.net, q)
    hidden = [h for op, h in zip(build.net.ops, trace.outputs, strict=True) if isinstance(op, IntLstm)]
    frames = []
    for n in range(len(q)):
        for layer, states in enumerate(hidden):
            for step in range(states.shape[1]):
                frames.append(struct.pack("=HHH", layer, step, states.shape[2]) + states[n, step].tobytes())
        frames.append(trace.outputs[-1][n].tobytes())
    assert build.run("trace", q.tobytes()) == b"".join(frames)
    np.testing.assert_array_equal(build.infer(q, "twice"), trace.outputs[-1])


def test_quantize_and_dequantize(build16: Build) -> None:
    build = build16("tiny.int16")
    net, size = build.net, int(np.prod(build.net.input.shape))
    scale = np.float32(net.input.scale)
    ties = ((np.arange(-33000, 33000) + 0.5).astype(np.float32)) * scale
    near = [ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))]
    odd = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3.4e38, -3.4e38], np.float32)
    values = np.concatenate([*near, odd])
    x = np.resize(values, (-(-len(values) // size), *net.input.shape))
    got = np.frombuffer(build.run("quantize", x.tobytes()), np.int16).reshape(x.shape)
    np.testing.assert_array_equal(got, quantize_input(net, x))
    flat, wanted = x.reshape(-1), got.reshape(-1)
    assert np.all(wanted[np.isnan(flat)] == 0)
    assert np.all(wanted[flat == np.inf] == 32767)
    assert np.all(wanted[flat == -np.inf] == -32768)
    outputs = int(np.prod(net.output.shape))
    q = np.resize(np.arange(-32768, 32768).astype(np.int16), (-(-65536 // outputs), outputs))
    reals = np.frombuffer(build.run("dequantize", q.tobytes()), np.float32).reshape(q.shape)
    np.testing.assert_array_equal(reals, dequantize(net.output, q).astype(np.float32))


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed")
@pytest.mark.parametrize(("core", "weights"), [("cortex-m4", "int8"), ("cortex-m7", "int16"), ("cortex-m3", "int8")])
def test_exact_on_emulated_cores(core: str, weights: str, find_network: Find) -> None:
    """The DSP instructions themselves, and the 64-bit path; sizes as estimated."""
    for net in (find_network("stacked.int16"), handmade()["odd"]):
        result = bench(net, core, weights, second_emulator=False)  # type: ignore[arg-type]
        assert result["bit_exact"]
        assert result["step"]["bit_exact"]
        estimate = memory_estimate(net, weights)  # type: ignore[arg-type]
        assert 0 <= result["ram_bytes"] - estimate["ram_bytes"] < 8  # alignment
        assert result["weights_bytes"] == sum(layer["flash_bytes"] for layer in estimate["layers"])


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed")
@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m3", "cortex-m4"])
def test_compiles_without_warnings(core: str, tmp_path: Path) -> None:
    for path in generate(handmade()["odd"], tmp_path / "src"):
        if path.suffix == ".c":
            flags = [*WARNINGS, "-O2", f"-mcpu={core}", "-mthumb"]
            done = subprocess.run(
                ["arm-none-eabi-gcc", *flags, "-c", str(path), "-o", str(tmp_path / "x.o")],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr


def test_exported_example_runs(tmp_path: Path, find_network: Find) -> None:
    folder = tmp_path / "lib"
    export_library(find_network("stacked.int16"), folder)
    sources = [*sorted((folder / "src").glob("*.c")), folder / "examples" / "basic" / "main.c"]
    command = ["gcc", *WARNINGS, "-O2", "-I", folder / "include", "-I", folder / "src", *sources, "-o", tmp_path / "x"]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([str(tmp_path / "x")], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "as expected"


def test_header_says_which_type(tmp_path: Path, find_network: Find) -> None:
    for name, kind, size in (("tiny", "int8_t", 1), ("tiny.int16", "int16_t", 2)):
        generate(find_network(name), tmp_path / name)
        header = (tmp_path / name / "codesign_model.h").read_text()
        assert f"typedef {kind} cs_model_value_t;" in header
        assert f"#define CS_MODEL_VALUE_BYTES {size}\n" in header


def test_refusals() -> None:
    net = handmade()["odd"]
    op = net.ops[0]
    assert isinstance(op, IntLstm)

    def with_first(changed: IntLstm) -> IntegerNetwork:
        return dataclasses.replace(net, ops=(changed, *net.ops[1:]))

    with pytest.raises(InputError, match="2\\^47"):
        make_plan(with_first(dataclasses.replace(op, b=np.full_like(op.b, 2**47))))
    with pytest.raises(InputError, match="overflow 32 bits"):
        make_plan(with_first(dataclasses.replace(op, input_multipliers=(Multiplier(2**30, 14),) * 4)))
    shifted = dataclasses.replace(op.output, zero_point=1)
    with pytest.raises(InputError, match="zero point 1"):
        make_plan(with_first(dataclasses.replace(op, output=shifted)))
    with pytest.raises(InputError, match="int16 throughout"):
        make_plan(with_first(dataclasses.replace(op, output=dataclasses.replace(op.output, dtype="int8"))))
    coarse = activation(tensor((2, 3), 3.0), "softmax")
    with pytest.raises(InputError, match="too large"):
        make_plan(network([coarse]))
