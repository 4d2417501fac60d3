"""int16 activations x int8 weights: the simulation against the host TFLM interpreter, bit for bit."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from flatmodels import Chain, patch_fixture, random_dense, random_int8, random_lstm
from hypothesis import given
from hypothesis import strategies as st
from semantics_support import FIXTURES, mixed_inputs

from codesign.errors import InputError
from codesign.quantization import IntegerNetwork, IntLstm, Multiplier, read_integer_network
from codesign.quantization.integer import IntActivation, QuantizedTensor
from codesign.quantization.multipliers import quantize_multiplier, table_multiplier
from codesign.semantics import (
    TfliteInterpreter,
    TflmInterpreter,
    activation_table,
    activations16,
    compare_interpreters,
    dequantize,
    exp_lut,
    quantize,
    quantize_input,
    reciprocal_lut,
    reciprocal_table,
    run_operator,
    simulate,
    simulate_trace,
    softmax16_parameters,
)
from codesign.semantics.primitives import mbqm64

EVERY = np.arange(-32768, 32768).astype(np.int16)


def load(tmp_path: Path, content: bytes) -> IntegerNetwork:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    return read_integer_network(path)


def mismatches(network: IntegerNetwork, q: np.ndarray, content: bytes | None = None) -> int:
    simulated = simulate(network, q)
    assert simulated.dtype == np.int16
    reference = TflmInterpreter(content or network.content, arena_bytes=1 << 22).run(q)
    assert reference.dtype == np.int16
    return int((simulated != reference.reshape(simulated.shape)).sum())


def random_scale(rng, low: float, high: float) -> float:
    return float(np.float32(10 ** rng.uniform(low, high)))


def test_fixtures_are_bit_exact(int16_path):
    network = read_integer_network(int16_path)
    assert network.activations == "int16"
    q = mixed_inputs(network.input.shape, 2500, 1, "int16")
    assert len(q) >= 2000
    assert len(np.unique(simulate(network, q))) > 1000
    assert mismatches(network, q) == 0


def test_fixture_with_patched_weights_and_scales_is_bit_exact(int16_path, tmp_path):
    saturated = 0
    for seed in range(6):
        network = load(tmp_path, patch_fixture(int16_path.read_bytes(), np.random.default_rng(seed)))
        q = mixed_inputs(network.input.shape, 300, seed, "int16")
        assert mismatches(network, q) == 0
        saturated += int((np.abs(simulate_trace(network, q).cells[0].astype(int)) >= 32767).sum())
    assert saturated > 100, "the patched models have to reach the cell state's int16 limits"


@pytest.mark.parametrize("gain", [0.3, 1.0, 25.0])
@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_random_lstms_are_bit_exact_on_the_whole_hidden_sequence(tmp_path, gain, clip):
    saturated = 0
    for seed in range(10):
        rng = np.random.default_rng(1000 * seed + int(10 * gain) + int(100 * clip))
        chain = random_lstm(Chain((6, 3), random_scale(rng, -5.5, -3.5), dtype="i2"), rng, 5, clip=clip, gain=gain)
        network = load(tmp_path, chain.write())
        q = mixed_inputs(network.input.shape, 250, seed, "int16")
        assert mismatches(network, q) == 0
        saturated += int((np.abs(simulate(network, q).astype(int)) >= 32767).sum())
    assert clip or saturated > 0, "hidden states have to reach their limits"


def test_stacked_random_chains_are_bit_exact(tmp_path):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        chain = random_lstm(Chain((5, 4), 2e-4, dtype="i2"), rng, 6, gain=2.0)
        if seed % 2:
            chain = random_lstm(chain.relu(chain.scale * 0.7, 0), rng, 4)
        chain = chain.last_step() if seed % 3 else chain.reshape(1, chain.dims[1] * chain.dims[2])
        chain = random_dense(chain, rng, 7, per_channel=bool(seed % 2), fused=seed // 2 % 2)
        chain = [chain.softmax, chain.tanh, chain.logistic][seed % 3]()
        network = load(tmp_path, chain.write())
        assert mismatches(network, mixed_inputs(network.input.shape, 300, seed, "int16")) == 0


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("fused", [0, 1])
def test_dense_is_bit_exact(tmp_path, per_channel, bias, fused):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        chain = Chain((3, 16), random_scale(rng, -6, -2), dtype="i2")
        network = load(tmp_path, random_dense(chain, rng, 9, per_channel, bias, fused, keep=seed % 2 == 0).write())
        assert mismatches(network, mixed_inputs(network.input.shape, 400, seed, "int16")) == 0
        assert network.ops[-1].act_min == (0 if fused else -32768)


@pytest.mark.parametrize("m", [0x7FFE8000, 0x7FFEFFFF, 0x7FFF0000, 0x7FFF8000, 0x7FFFFF80])
def test_dense_with_a_multiplier_at_the_edge_of_the_16_bit_reduction(tmp_path, m):
    output = float(np.float32(2.0**-8 / (m / 2.0**31)))
    chain = Chain((1, 8), 2.0**-12, dtype="i2")
    W = random_int8(np.random.default_rng(m), (8, 8))
    network = load(tmp_path, chain.dense(W, None, 2.0**-6, output * 0.5, 0).write())
    assert abs(network.ops[0].multipliers[0].m - m) < 256
    assert mismatches(network, mixed_inputs(network.input.shape, 500, 0, "int16")) == 0


@pytest.mark.parametrize("kind", ["tanh", "logistic", "relu"])
def test_elementwise_tables_are_bit_exact_on_every_value(tmp_path, kind):
    q = EVERY.reshape(1, 256, 256)
    near = [2.0**p * f for p in (-13, -12, -11, -10) for f in (1, 1.0005, 0.9995, 1.001, 0.999)]
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scale = float(np.float32(near[seed] if seed < len(near) else 10 ** rng.uniform(-7, 0.4)))
        chain = Chain((256, 256), scale, dtype="i2")
        if kind == "relu":
            chain = chain.relu(float(np.float32(scale * 2 ** rng.uniform(-4, 4))), 0)
        else:
            chain = getattr(chain, kind)()
        network = load(tmp_path, chain.write())
        assert mismatches(network, q) == 0
        assert np.array_equal(activation_table(network.ops[0]), simulate(network, q).ravel())


def test_softmax_of_two_is_bit_exact_for_every_difference(tmp_path):
    """With beta * scale * 65535 = 10 the differences step through every value of the table of exponentials."""
    for scale in (10 / 65535, 1.3e-5, 4e-3, 3.0):
        network = load(tmp_path, Chain((65536, 2), float(np.float32(scale)), dtype="i2").softmax().write())
        q = np.stack([np.full(65536, 32767), EVERY], -1)[None].astype(np.int16)
        assert mismatches(network, q) == 0
        assert mismatches(network, q[:, :, ::-1].copy()) == 0


def test_softmax_is_bit_exact_over_the_table_of_reciprocals(tmp_path):
    reached = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        classes = int(rng.integers(1, 40))
        scale = random_scale(rng, -5, -2.5)
        chain = Chain((60, classes), scale, dtype="i2").softmax()
        network = load(tmp_path, chain.write())
        q = rng.integers(-32768, 32768, (30, 60, classes)).astype(np.int16)
        assert mismatches(network, q) == 0
        d = q.max(-1, keepdims=True).astype(int) - q
        total = softmax16_parameters(network.ops[0]).exp_q15.astype(int)[d].sum(-1)
        reached.update((total * 2.0 ** (9 - np.frexp(total)[1])).astype(int).ravel().tolist())
    assert len(reached) > 250, "the sums have to spread over the reciprocal table's 512 intervals"


def test_the_table_of_exponentials_is_the_same_for_every_expf_within_one_unit_in_the_last_place(monkeypatch):
    rng, exp = np.random.default_rng(0), activations16._exp

    def off(x):
        return exp(x) + (np.spacing(exp(x)) * rng.integers(-1, 2, x.shape)).astype(np.float32)

    for _ in range(200):
        assert np.array_equal(activations16._lut(-10.0, 10.0, off), exp_lut())


def test_luts_are_close_to_the_real_functions():
    x = -10 + np.arange(513) * 10 / 512
    assert np.abs(exp_lut() - np.minimum(32768 * np.exp(x), 32767)).max() <= 2
    one = 32768 / (1 + np.arange(513) / 512)
    assert np.abs(reciprocal_lut() - np.minimum(one, 32767)).max() <= 2
    v = np.arange(65536) / 65535
    assert np.abs(reciprocal_table() - 32768 / (1 + v)).max() <= 1.6
    assert (np.diff(reciprocal_table().astype(int)) <= 0).all()
    tensor = QuantizedTensor("x", (4,), "int16", float(np.float32(10 / 65535)), 0)
    table = softmax16_parameters(IntActivation("s", "softmax", tensor, tensor, 1.0)).exp_q15
    # Differences are recentred by 32767, not 32768: the argument is -10 + 10 (65535 - d) / 65536.
    assert np.abs(table - 32768 * np.exp(-10 + 10 * (65535 - np.arange(65536)) / 65536)).max() <= 2.6
    assert np.abs(table - 32768 * np.exp(-tensor.scale * np.arange(65536))).max() <= 6.5
    assert table[65535] == 2


@given(st.integers(-(2**47) + 1, 2**47 - 1), st.floats(2.0**-31, 64.0))
def test_mbqm64_rounds_once_with_a_16_bit_multiplier(v, real):
    multiplier = quantize_multiplier(real)
    assert 2**14 <= multiplier.reduced <= 2**15 - 1 or multiplier.reduced == 2**15 - 1
    assert abs(Fraction(multiplier.reduced_real) / Fraction(multiplier.real) - 1) <= Fraction(1, 2**15)
    exact = Fraction(v) * Fraction(multiplier.reduced_real)
    assert int(mbqm64(v, multiplier)) == math.floor(exact + Fraction(1, 2))


def test_reduced_multiplier_saturates():
    assert Multiplier(0x7FFEFFFF, 0).reduced == 0x7FFF
    assert Multiplier(0x7FFF0000, 0).reduced == 0x7FFF
    assert Multiplier(0x7FFFFFFF, 0).reduced == 0x7FFF
    assert Multiplier(0x40007FFF, 0).reduced == 0x4000
    assert Multiplier(0x40008000, 0).reduced == 0x4001


def test_table_multiplier_takes_near_powers_of_two_as_such_and_refuses_doubtful_ones():
    assert table_multiplier(2.0**-12, "sigmoid") == (3, 0)
    assert table_multiplier(2.0**-11, "tanh") == (6, 0)
    assert table_multiplier(2.0**-12 * 1.0005, "tanh") == (3, 0)
    assert table_multiplier(2.0**-11, "sigmoid") == (24576, 12)
    m, n = table_multiplier(1.7e-4, "sigmoid")
    assert 0 <= 1.7e-4 * 12288 * 2**n - m < 1
    for bad in (2.0 ** (-12 + 0.001), 2.0 ** (-12 - 0.001), 3.0, 1e-15):
        with pytest.raises(ValueError, match="scale"):
            table_multiplier(bad, "sigmoid")


def test_scalar_model_of_one_lstm_by_hand():
    """An independent, loop-by-loop LSTM in plain Python integers gives the fixture's hidden states and cells."""
    from codesign.semantics import sigmoid_table, tanh_table

    network = read_integer_network(FIXTURES / "sequence.int16.tflite")
    op = network.ops[0]
    assert isinstance(op, IntLstm)
    q = mixed_inputs(network.input.shape, 60, 4, "int16")[-3:]
    trace = simulate_trace(network, q)

    def gate(v: int, m: int, e: int) -> int:
        r = (m + (1 << 15)) >> 16 if m < 0x7FFF0000 else 0x7FFF
        return (v * r + (1 << (14 - e))) >> (15 - e)

    def scaled(v: int, m: int, e: int) -> int:
        high, n = (v * m + (1 << 30)) // (1 << 31), -e
        return high + (1 << (n - 1)) >> n if high >= 0 else -((-high + (1 << (n - 1))) >> n)

    def sat(v: int) -> int:
        return max(-32768, min(32767, v))

    sigma, tau, tau_c = sigmoid_table().tolist(), tanh_table(-12).tolist(), tanh_table(op.cell_shift).tolist()
    mf, mi, mo = op.forget_multiplier, op.input_gate_multiplier, op.hidden_multiplier
    for b, sample in enumerate(q.tolist()):
        h, c = [0] * op.units, [0] * op.units
        for t, x in enumerate(sample):
            new_h = []
            for k in range(op.units):
                a = []
                for g in range(4):
                    z = int(op.b[g, k]) + sum(int(w) * v for w, v in zip(op.W[g, k], x, strict=True))
                    r = sum(int(w) * v for w, v in zip(op.R[g, k], h, strict=True))
                    mw, mr = op.input_multipliers[g], op.recurrent_multipliers[g]
                    a.append(sat(sat(gate(z, mw.m, mw.e)) + sat(gate(r, mr.m, mr.e))) + 32768)
                i, f, g_, o = sigma[a[0]], sigma[a[1]], tau[a[2]], sigma[a[3]]
                c[k] = sat(sat(scaled(f * c[k], mf.m, mf.e)) + sat(scaled(i * g_, mi.m, mi.e)))
                if op.cell_clip_q:
                    c[k] = max(-op.cell_clip_q, min(op.cell_clip_q, c[k]))
                new_h.append(sat(scaled(tau_c[c[k] + 32768] * o, mo.m, mo.e)))
            h = new_h
            assert trace.outputs[0][b, t].tolist() == h
            assert trace.cells[0][b, t].tolist() == c


def test_trace_agrees_with_simulation_and_operators(int16_path):
    network = read_integer_network(int16_path)
    q = mixed_inputs(network.input.shape, 700, 3, "int16")
    trace = simulate_trace(network, q)
    assert np.array_equal(trace.outputs[-1], simulate(network, q))
    x = q
    for op, output in zip(network.ops, trace.outputs, strict=True):
        x = run_operator(op, x, network)
        assert x.dtype == output.dtype == np.int16
        assert np.array_equal(x, output)


def test_one_changed_weight_is_noticed(tmp_path):
    content = (FIXTURES / "logits.int16.tflite").read_bytes()
    network = load(tmp_path, content)
    op = network.ops[0]
    assert isinstance(op, IntLstm)
    at = content.index(op.R[1].tobytes())
    other = load(tmp_path, content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    assert mismatches(other, mixed_inputs(network.input.shape, 300, 0, "int16"), content) > 0


def test_quantisation_rule(int16_path):
    network = read_integer_network(int16_path)
    q = np.random.default_rng(0).integers(-32768, 32768, (50, *network.input.shape)).astype(np.int16)
    x = dequantize(network.input, q)
    assert quantize_input(network, x).dtype == np.int16
    assert np.array_equal(quantize_input(network, x), q)
    tensor = QuantizedTensor("x", (1,), "int16", 0.5, 0)
    x = [0.25, -0.25, 0.2499, 1e30, -1e30, math.nan, math.inf, -math.inf, 16383.5, 20000, -16384.25]
    assert quantize(tensor, x).tolist() == [1, -1, 0, 32767, -32768, 0, 32767, -32768, 32767, 32767, -32768]


def test_wrong_inputs_are_refused():
    network = read_integer_network(FIXTURES / "tiny.int16.tflite")
    for q in (np.zeros((2, 4, 3), np.int8), np.zeros((4, 3), np.int16), np.zeros((1, 3, 4), np.int16)):
        with pytest.raises(InputError, match=r"int16 of shape \[batch, 4, 3\]"):
            simulate(network, q)
        with pytest.raises(InputError, match="int16 of shape"):
            TflmInterpreter(network.content).run(q)
    assert simulate(network, np.zeros((0, 4, 3), np.int16)).shape == (0, 3)


def test_tensorflow_lite_is_refused_in_one_sentence():
    network = read_integer_network(FIXTURES / "tiny.int16.tflite")
    with pytest.raises(InputError, match="TensorFlow Lite cannot run models with int16 activations"):
        compare_interpreters(network, np.zeros((1, 4, 3), np.int16))
    with pytest.raises(InputError, match="TensorFlow Lite"):
        TfliteInterpreter(network.content)
