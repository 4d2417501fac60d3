"""The simulation against the TFLM interpreter, bit for bit."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from flatmodels import Chain, patch_fixture, random_dense, random_lstm
from semantics_support import FIXTURES, mixed_inputs

from codesign.errors import InputError
from codesign.quantization import IntegerNetwork, IntLstm, read_integer_network
from codesign.semantics import (
    TflmInterpreter,
    Trace,
    activation_table,
    run_operator,
    simulate,
    simulate_trace,
)

pytest.importorskip("tflite_micro")


def load(tmp_path, content: bytes, profile="tflm-double") -> IntegerNetwork:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    return read_integer_network(path, profile)


def mismatches(network: IntegerNetwork, q: np.ndarray, content: bytes | None = None) -> int:
    """Output values that differ from the TFLM interpreter's."""
    simulated = simulate(network, q)
    reference = TflmInterpreter(content or network.content).run(q)
    assert reference.size == simulated.size
    return int((simulated != reference.reshape(simulated.shape)).sum())


def test_fixtures_are_bit_exact(fixture_path):
    network = read_integer_network(fixture_path)
    q = mixed_inputs(network.input.shape, 2500, seed=1)
    assert len(q) >= 2000
    assert len(np.unique(simulate(network, q))) > 20
    assert mismatches(network, q) == 0


def test_fixture_with_patched_weights_and_scales_is_bit_exact(fixture_path, tmp_path):
    saturated = 0
    for seed in range(6):
        content = patch_fixture(fixture_path.read_bytes(), np.random.default_rng(seed))
        network = load(tmp_path, content)
        q = mixed_inputs(network.input.shape, 300, seed)
        assert mismatches(network, q) == 0
        saturated += int((np.abs(simulate_trace(network, q).cells[0].astype(int)) >= 32767).sum())
    assert saturated > 100, "the patched models have to reach the cell state's int16 limits"


@pytest.mark.parametrize("gain", [0.3, 1.0, 5.0, 25.0])
@pytest.mark.parametrize("clip", [0.0, 0.3, 1.0])
def test_random_lstms_are_bit_exact_on_the_whole_hidden_sequence(tmp_path, gain, clip):
    clipped = 0
    for seed in range(12):
        rng = np.random.default_rng(1000 * seed + int(10 * gain) + int(100 * clip))
        scale, zero = float(np.float32(rng.uniform(0.001, 0.05))), int(rng.integers(-128, 128))
        chain = random_lstm(Chain((6, 3), scale, zero), rng, 5, clip=clip, gain=gain)
        network = load(tmp_path, chain.write())
        q = mixed_inputs(network.input.shape, 250, seed)
        assert mismatches(network, q) == 0
        op, (cells,) = network.ops[0], simulate_trace(network, q).cells
        assert isinstance(op, IntLstm)
        assert (op.cell_clip_q > 0) == (clip > 0)
        if clip:
            assert np.abs(cells.astype(int)).max() <= op.cell_clip_q
            clipped += int((np.abs(cells.astype(int)) == op.cell_clip_q).sum())
    assert (clipped > 0) == (clip > 0)


def test_stacked_random_chains_are_bit_exact(tmp_path):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        chain = random_lstm(Chain((5, 4), 0.02, int(rng.integers(-128, 128))), rng, 6, gain=2.0)
        if seed % 2:
            chain = random_lstm(chain.relu(chain.scale * 0.7, -100), rng, 4)
        chain = chain.last_step() if seed % 3 else chain.reshape(1, chain.dims[1] * chain.dims[2])
        chain = random_dense(chain, rng, 7, per_channel=bool(seed % 2), fused=seed // 2 % 2)
        chain = [chain.softmax, chain.tanh, chain.logistic][seed % 3]()
        network = load(tmp_path, chain.write())
        assert mismatches(network, mixed_inputs(network.input.shape, 400, seed)) == 0


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("fused", [0, 1])
def test_dense_is_bit_exact(tmp_path, per_channel, keep, bias, fused):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        chain = Chain((3, 16), float(np.float32(rng.uniform(0.001, 0.05))), int(rng.integers(-128, 128)))
        chain = random_dense(chain, rng, 9, per_channel, bias, fused, keep)
        network = load(tmp_path, chain.write())
        q = mixed_inputs(network.input.shape, 400, seed)
        assert mismatches(network, q) == 0
        assert network.output.shape == (3, 9)


@pytest.mark.parametrize("kind", ["tanh", "logistic", "relu"])
def test_elementwise_tables_are_bit_exact_on_every_value(tmp_path, kind):
    q = np.arange(-128, 128).astype(np.int8).reshape(1, 1, 256)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scale = float(np.float32(10 ** rng.uniform(-4, 0.5)))
        chain = Chain((1, 256), scale, int(rng.integers(-128, 128)))
        if kind == "relu":
            chain = chain.relu(float(np.float32(scale * 2 ** rng.uniform(-3, 3))), int(rng.integers(-128, 128)))
        else:
            chain = getattr(chain, kind)()
        network = load(tmp_path, chain.write())
        assert mismatches(network, q) == 0
        assert np.array_equal(activation_table(network.ops[0]), simulate(network, q).ravel())


def test_softmax_is_bit_exact(tmp_path):
    for seed in range(60):
        rng = np.random.default_rng(seed)
        classes = int(rng.integers(1, 40))
        chain = Chain((2, classes), float(np.float32(10 ** rng.uniform(-4, 0.6))), int(rng.integers(-128, 128)))
        network = load(tmp_path, chain.softmax().write())
        q = mixed_inputs(network.input.shape, 250, seed)
        assert mismatches(network, q) == 0


def test_the_host_interpreter_takes_relus_ratio_in_double(tmp_path):
    """A pair of scales whose float32 and double ratios give different tables; found by search."""
    rng = np.random.default_rng(5)
    q = np.arange(-128, 128).astype(np.int8).reshape(1, 1, 256)
    apart = 0
    for _ in range(30000):
        source = np.float32(rng.uniform(0.001, 0.05))
        result = np.float32(source * rng.uniform(0.2, 3))
        ratios = float(source) / float(result), float(source / result)
        products = np.outer(ratios, np.arange(256))
        if (np.floor(products[0] + 0.5) != np.floor(products[1] + 0.5)).any():
            content = Chain((1, 256), float(source), -128).relu(float(result), -128).write()
            double, single = load(tmp_path, content), load(tmp_path, content, "tflm-float")
            apart += int((simulate(double, q) != simulate(single, q)).any())
            assert mismatches(double, q) == 0
    assert apart > 0


def test_profiles_differ_and_the_host_interpreter_is_the_double_one(tmp_path):
    apart, inputs = 0, 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        content = random_lstm(Chain((6, 16), 0.013, 7), rng, 24).write()
        double, single = load(tmp_path, content), load(tmp_path, content, "tflm-float")
        op = double.ops[0]
        assert isinstance(op, IntLstm)
        assert op.input_multipliers != single.ops[0].input_multipliers
        assert op.forget_multiplier == single.ops[0].forget_multiplier
        q = mixed_inputs(double.input.shape, 1200, seed)
        assert mismatches(double, q) == 0
        differing = (simulate(double, q) != simulate(single, q)).reshape(len(q), -1).any(1)
        apart, inputs = apart + int(differing.sum()), inputs + len(q)
    assert 0 < apart < 0.1 * inputs


def test_trace_agrees_with_simulation_and_operators(fixture_path):
    network = read_integer_network(fixture_path)
    q = mixed_inputs(network.input.shape, 700, seed=3)
    trace = simulate_trace(network, q)
    assert isinstance(trace, Trace)
    assert np.array_equal(trace.outputs[-1], simulate(network, q))
    assert len(trace.outputs) == len(network.ops)
    x = q
    lstms = [op for op in network.ops if isinstance(op, IntLstm)]
    for op, output in zip(network.ops, trace.outputs, strict=True):
        x = run_operator(op, x, network)
        assert np.array_equal(x, output)
        assert output.shape == (len(q), *op.output.shape)
    assert [c.shape for c in trace.cells] == [(len(q), *op.output.shape) for op in lstms]
    assert all(c.dtype == np.int16 for c in trace.cells)


def test_scalar_model_of_one_step_by_hand():
    """An independent, loop-by-loop LSTM in plain Python integers gives the fixture's first hidden states and cells."""
    network = read_integer_network(FIXTURES / "sequence.tflite")
    op = network.ops[0]
    assert isinstance(op, IntLstm)
    q = mixed_inputs(network.input.shape, 60, seed=4)[-3:]
    trace = simulate_trace(network, q)

    def scaled(v: int, m: int, e: int) -> int:
        high = ((v << max(e, 0)) * m + (1 << 30)) // (1 << 31)
        n = max(-e, 0)
        return high if n == 0 else (high + (1 << (n - 1)) >> n if high >= 0 else -((-high + (1 << (n - 1))) >> n))

    def sat(v: int) -> int:
        return max(-32768, min(32767, v))

    from codesign.semantics import sigmoid_table, tanh_table

    sigma, tau, tau_c = sigmoid_table().tolist(), tanh_table(-12).tolist(), tanh_table(op.cell_shift).tolist()
    for b, sample in enumerate(q.tolist()):
        h, c = [op.output.zero_point] * op.units, [0] * op.units
        for t, x in enumerate(sample):
            new_h, new_c = [], []
            for k in range(op.units):
                a = []
                for g in range(4):
                    z = int(op.b[g, k]) + sum(
                        int(w) * (v - op.input.zero_point) for w, v in zip(op.W[g, k], x, strict=True)
                    )
                    r = sum(int(w) * (v - op.output.zero_point) for w, v in zip(op.R[g, k], h, strict=True))
                    mw, mr = op.input_multipliers[g], op.recurrent_multipliers[g]
                    a.append(sat(sat(scaled(z, mw.m, mw.e)) + sat(scaled(r, mr.m, mr.e))) + 32768)
                i, f, g_, o = sigma[a[0]], sigma[a[1]], tau[a[2]], sigma[a[3]]
                mf, mi, mo = op.forget_multiplier, op.input_gate_multiplier, op.hidden_multiplier
                v = sat(sat(scaled(f * c[k], mf.m, mf.e)) + sat(scaled(i * g_, mi.m, mi.e)))
                new_c.append(v)
                out = scaled(tau_c[v + 32768] * o, mo.m, mo.e) + op.output.zero_point
                new_h.append(max(-128, min(127, out)))
            h, c = new_h, new_c
            assert trace.outputs[0][b, t].tolist() == h
            assert trace.cells[0][b, t].tolist() == c


def test_one_changed_weight_is_noticed(tmp_path):
    """The comparison can fail: the interpreter runs the fixture, the simulation the fixture with one weight changed."""
    content = (FIXTURES / "logits.tflite").read_bytes()
    network = load(tmp_path, content)
    op = network.ops[0]
    assert isinstance(op, IntLstm)
    at = content.index(op.R[1].tobytes())
    changed = content[:at] + struct.pack("b", int(op.R[1, 0, 0]) ^ 64) + content[at + 1 :]
    other = load(tmp_path, changed)
    assert mismatches(other, mixed_inputs(network.input.shape, 500, 0), content) > 0


@pytest.mark.parametrize("q", [np.zeros((2, 4, 3), np.int16), np.zeros((4, 3), np.int8), np.zeros((1, 3, 4), np.int8)])
def test_wrong_inputs_are_refused(q):
    network = read_integer_network(FIXTURES / "tiny.tflite")
    with pytest.raises(InputError, match=r"int8 of shape \[batch, 4, 3\]"):
        simulate(network, q)
    with pytest.raises(InputError, match="int8 of shape"):
        simulate_trace(network, q)
    with pytest.raises(InputError, match="int8 of shape"):
        TflmInterpreter(network.content).run(q)


def test_an_empty_batch_gives_an_empty_result(fixture_path):
    network = read_integer_network(fixture_path)
    q = np.zeros((0, *network.input.shape), np.int8)
    assert simulate(network, q).shape == (0, *network.output.shape)
    assert [o.shape[0] for o in simulate_trace(network, q).outputs] == [0] * len(network.ops)
