"""Integer networks built by hand, and host builds of generated code, for the tests of this folder."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from codesign.codegen import Weights, generate
from codesign.quantization.integer import (
    Activations,
    IntActivation,
    IntDense,
    IntegerNetwork,
    IntLastStep,
    IntLstm,
    IntOp,
    IntReshape,
    QuantizedTensor,
)
from codesign.quantization.multipliers import dense_multiplier, gate_multiplier, product_multiplier

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
FIXTURE_NAMES = ("tiny", "logits", "stacked", "sequence", "timedist", "acts", "flatten", "reshaped")
WARNINGS = [
    "-std=c99",
    "-pedantic",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wsign-conversion",
    "-Wdouble-promotion",
    "-Werror",
]
# How the kernels can be compiled: as on any little-endian machine, in plain C, with the DSP instructions.
VARIANTS = {"narrow": [], "plain": ["-DCS_PLAIN_C"], "dsp": ["-DCS_DSP_EMULATION"]}
BIAS = {"int8": np.int32, "int16": np.int64}
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def tensor(
    shape: tuple[int, ...], scale: float, zero_point: int, name: str = "t", dtype: Activations = "int8"
) -> QuantizedTensor:
    return QuantizedTensor(name, shape, dtype, float(np.float32(scale)), zero_point)


def lstm(
    rng: np.random.Generator,
    source: QuantizedTensor,
    units: int,
    *,
    weight_scale: float = 0.01,
    cell_shift: int = -12,
    cell_clip_q: int = 0,
    zero_point: int = 3,
    scale: float = 1 / 120,
    bias: int = 4000,
    name: str = "lstm",
) -> IntLstm:
    """Of the source's type; `bias` is the largest."""
    steps, features = source.shape
    output = tensor((steps, units), scale, zero_point, dtype=source.dtype)
    scales = tuple(float(np.float32(weight_scale * (1 + 0.1 * g))) for g in range(4))
    return IntLstm(
        name,
        source,
        output,
        rng.integers(-127, 128, (4, units, features)).astype(np.int8),
        rng.integers(-127, 128, (4, units, units)).astype(np.int8),
        rng.integers(-bias, bias, (4, units)).astype(BIAS[source.dtype]),
        scales,
        scales,
        cell_shift,
        cell_clip_q,
        tuple(gate_multiplier(source.scale, s, "tflm-double") for s in scales),
        tuple(gate_multiplier(output.scale, s, "tflm-double") for s in scales),
        product_multiplier(1.0, 1.0),
        product_multiplier(2.0**cell_shift),
        product_multiplier(output.scale),
    )


def dense(
    rng: np.random.Generator,
    source: QuantizedTensor,
    outputs: int,
    *,
    per_channel: bool,
    relu: bool = False,
    scale: float = 0.05,
    zero_point: int = -20,
    weight_scale: float = 0.2,
    bias: int = 3000,
    name: str = "dense",
) -> IntDense:
    """Of the source's type; `weight_scale` and `bias` are the largest."""
    inputs = source.shape[-1]
    output = tensor((*source.shape[:-1], outputs), scale, zero_point, dtype=source.dtype)
    scales = tuple(float(np.float32(s)) for s in rng.uniform(0.002, weight_scale, outputs if per_channel else 1))
    return IntDense(
        name,
        source,
        output,
        rng.integers(-128, 128, (outputs, inputs)).astype(np.int8),
        rng.integers(-bias, bias, outputs).astype(BIAS[source.dtype]),
        scales,
        tuple(dense_multiplier(source.scale, s, output.scale, per_channel, "tflm-double") for s in scales),
        output.zero_point if relu else output.q_min,
        output.q_max,
    )


def activation(source: QuantizedTensor, kind: str, name: str = "activation", beta: float = 1.0) -> IntActivation:
    output = {
        "softmax": tensor(source.shape, 1 / 256, -128),
        "sigmoid": tensor(source.shape, 1 / 256, -128),
        "tanh": tensor(source.shape, 1 / 128, 0),
        "relu": tensor(source.shape, 0.03, -100),
    }[kind]
    return IntActivation(name, kind, source, output, beta)  # type: ignore[arg-type]


def last_step(source: QuantizedTensor) -> IntLastStep:
    return IntLastStep("last", source, replace(source, name="t", shape=source.shape[1:]))


def reshape(source: QuantizedTensor, shape: tuple[int, ...]) -> IntReshape:
    return IntReshape("reshape", source, replace(source, name="t", shape=shape))


def network(ops: list[IntOp], name: str = "net") -> IntegerNetwork:
    content = f"{name} {len(ops)}".encode()
    digest = hashlib.sha256(content).hexdigest()
    return IntegerNetwork(name, ops[0].input, ops[-1].output, tuple(ops), digest, "tflm-double", content)


def handmade() -> dict[str, IntegerNetwork]:
    """Networks that reach what the converted fixtures do not."""
    rng = np.random.default_rng(7)
    nets: dict[str, IntegerNetwork] = {}

    # Saturating gates (accumulators scaled up), clipped cell, odd names, per-channel dense, RELU, softmax with beta.
    a = lstm(
        rng,
        tensor((6, 5), 0.3, -128, 'x"*/ #error'),
        9,
        weight_scale=0.2,
        cell_clip_q=9000,
        scale=1 / 140,
        name="*/ #error \\",
    )
    b = lstm(rng, a.output, 4, weight_scale=0.05, cell_shift=-9, zero_point=127, name="??/\nint é;")
    c = last_step(b.output)
    d = dense(rng, c.output, 7, per_channel=True, relu=True, name="/* // */")
    e = activation(d.output, "relu")
    f = activation(e.output, "softmax", beta=2.5)
    nets["odd"] = network([a, b, c, d, e, f], name='*/\n#error "é" ??/ \\')

    # Cell shift upwards (tanh argument shifted left), LSTM's last step as the output, one unit.
    a = lstm(rng, tensor((3, 1), 0.02, 17), 1, cell_shift=-7)
    nets["last"] = network([a, last_step(a.output)])

    # Last step of something that is no LSTM, in-place activations, time-distributed dense, even number of steps.
    a = lstm(rng, tensor((4, 3), 0.02, -5), 5, weight_scale=0.03)
    b = dense(rng, a.output, 6, per_channel=False)
    c = activation(b.output, "tanh")
    d = activation(c.output, "sigmoid")
    e = last_step(d.output)
    nets["late_last"] = network([a, b, c, d, e])

    # No LSTM: reshape first, dense over everything, reshape last.
    x = tensor((4, 8), 0.05, 127)
    a2 = reshape(x, (32,))
    b = dense(rng, a2.output, 12, per_channel=True)
    c2 = activation(b.output, "sigmoid")
    d2 = reshape(c2.output, (3, 4))
    nets["flat"] = network([a2, b, c2, d2])

    # Only data movement.
    x = tensor((3, 2), 0.05, 0)
    nets["copy"] = network([last_step(x)])

    # Ties of the quantizer are exact.
    x = tensor((2, 4), 1 / 16, 5)
    a2 = reshape(x, (8,))
    b = dense(rng, a2.output, 3, per_channel=False)
    nets["power"] = network([a2, b])

    # Cell so fine that i * g alone saturates it, and no clipping.
    a = lstm(rng, tensor((7, 2), 0.2, 4), 6, weight_scale=0.1, cell_shift=-17)
    nets["fine_cell"] = network([a])

    # Rows longer than a chunk of the paired kernels, of odd length, weights at the extremes; -128 cannot be paired.
    x = tensor((2, 601), 0.02, -128)
    a = lstm(rng, x, 3, weight_scale=0.001)
    wild = a.W.copy()
    wild[:, 0] = np.where(np.arange(601) % 2, 127, -127)
    wild[1, 1, :] = -127
    a = replace(a, W=wild)
    b = dense(rng, reshape(a.output, (6,)).output, 5, per_channel=True)
    nets["long_rows"] = network([a, reshape(a.output, (6,)), b])
    b = dense(rng, reshape(x, (1202,)).output, 7, per_channel=False)
    full = np.clip(b.W, -127, 127)
    full[0], full[1], full[2] = -127, -127, 127
    nets["long_dense"] = network([reshape(x, (1202,)), replace(b, W=full)])
    a = lstm(rng, tensor((4, 3), 0.02, -5), 5)
    lowest = a.W.copy()
    lowest[:2] = -128
    nets["unpairable"] = network([replace(a, W=lowest)])

    # One step; as many classes as softmax takes.
    a = lstm(rng, tensor((1, 4), 0.02, 0), 3)
    b = dense(rng, last_step(a.output).output, 511, per_channel=False)
    nets["wide"] = network([a, last_step(a.output), b, activation(b.output, "softmax", beta=0.4)])
    return nets


def inputs(net: IntegerNetwork, count: int, seed: int = 0) -> np.ndarray:
    """[count, T, D]: constant extremes, the zero point, square waves, then random at several amplitudes."""
    rng = np.random.default_rng(seed)
    T, D = net.input.shape
    low, high = net.input.q_min, net.input.q_max
    q = np.empty((count, T, D), net.activations)
    amplitude = rng.choice([2.0, 20.0, 60.0, 128.0], (count, 1, 1)) * ((high + 1) / 128)
    q[:] = np.clip(np.rint(net.input.zero_point + rng.uniform(-1, 1, q.shape) * amplitude), low, high)
    full = rng.random(count) < 0.3
    q[full] = rng.integers(low, high + 1, (int(full.sum()), T, D))
    binary = rng.random(count) < 0.2
    q[binary] = rng.choice([low, high], (int(binary.sum()), T, D))
    q[0], q[1], q[2] = low, high, net.input.zero_point
    q[3], q[4] = np.where(np.arange(T)[:, None] % 2, low, high), np.where(np.arange(D)[None] % 2, low, high)
    return q


@dataclass(frozen=True)
class HostBuild:
    """A generated model and its host program; `run` gives the program's output for some input bytes."""

    net: IntegerNetwork
    folder: Path
    paths: list[Path]
    program: Path

    def run(self, mode: str, data: bytes = b"") -> bytes:
        done = subprocess.run([str(self.program), mode], input=data, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout

    def infer(self, q: np.ndarray, mode: str = "infer") -> np.ndarray:
        out = np.frombuffer(self.run(mode, q.tobytes()), self.net.activations)
        return out.reshape(len(q), *self.net.output.shape)


def compile_host(
    net: IntegerNetwork,
    folder: Path,
    extra: list[str] | None = None,
    variant: str = "narrow",
    weights: Weights = "int8",
) -> HostBuild:
    paths = generate(net, folder / "src", weights)
    program = folder / "run"
    sources = [str(p) for p in paths if p.suffix == ".c"] + [str(Path(__file__).with_name("driver.c"))]
    flags = [*WARNINGS, *VARIANTS[variant], "-O1", "-g", *(SANITIZERS if extra is None else extra)]
    flags += ["-I", str(Path(__file__).parent)]
    done = subprocess.run(
        ["gcc", *flags, "-I", str(folder / "src"), *sources, "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return HostBuild(net, folder / "src", paths, program)
