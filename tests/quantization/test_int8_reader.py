"""Reading int8 .tflite files: what they hold, what is refused, and what damaged files do."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import tflite

from codesign.errors import InputError
from codesign.quantization import (
    IntActivation,
    IntDense,
    IntegerNetwork,
    IntLastStep,
    IntLstm,
    IntReshape,
    read_integer_network,
)

TESTS = Path(__file__).parent.parent
FIXTURES = TESTS / "fixtures"
NAMES = ("tiny", "logits", "stacked", "sequence", "timedist", "acts", "flatten", "reshaped")


def _flatmodels():
    """The model builder lives beside the semantics tests."""
    if "flatmodels" not in sys.modules:
        spec = importlib.util.spec_from_file_location("flatmodels", TESTS / "semantics" / "flatmodels.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["flatmodels"] = module
        spec.loader.exec_module(module)
    return sys.modules["flatmodels"]


flat = _flatmodels()


def read(tmp_path: Path, content: bytes) -> IntegerNetwork:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    return read_integer_network(path)


def lstm_arguments(units=4, features=3, **changes):
    rng = np.random.default_rng(0)
    arguments = {
        "W": flat.random_int8(rng, (4, units, features)),
        "R": flat.random_int8(rng, (4, units, units)),
        "bias": rng.integers(-500, 500, (4, units)),
        "W_scale": [0.01] * 4,
        "R_scale": [0.01] * 4,
        "scale": 0.004,
        "zero": -3,
    }
    return arguments | changes


def chain_with_lstm(**changes):
    return flat.Chain((4, 3), 0.01, 5).lstm(**lstm_arguments(**changes))


@pytest.mark.parametrize(
    ("name", "kinds", "input_shape", "output_shape"),
    [
        ("tiny", [IntLstm, IntLastStep, IntDense, IntActivation], (4, 3), (3,)),
        ("logits", [IntLstm, IntLastStep, IntDense], (8, 8), (10,)),
        ("stacked", [IntLstm, IntLstm, IntLastStep, IntDense, IntDense, IntActivation], (8, 4), (3,)),
        ("sequence", [IntLstm], (6, 4), (6, 7)),
        ("timedist", [IntLstm, IntDense, IntActivation, IntReshape], (5, 3), (5, 4)),
        ("acts", [IntLstm, IntLastStep, IntDense, IntActivation, IntDense, IntActivation], (5, 3), (4,)),
    ],
)
def test_fixtures(name, kinds, input_shape, output_shape):
    path = FIXTURES / f"{name}.tflite"
    network = read_integer_network(path)
    assert [type(op) for op in network.ops] == kinds
    assert network.name == name
    assert network.content == path.read_bytes()
    assert network.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert network.profile == "tflm-double"
    assert (network.input.shape, network.output.shape) == (input_shape, output_shape)
    assert network.ops[0].input == network.input
    assert network.ops[-1].output == network.output
    for before, after in zip(network.ops, network.ops[1:], strict=False):
        assert before.output == after.input


def test_values_are_the_files(tmp_path):
    arguments = lstm_arguments(units=5, clip=0.75, cell_scale=2.0**-13)
    chain = flat.Chain((4, 3), 0.01, 5).lstm(**arguments).last_step()
    W, bias = np.arange(-10, 0).reshape(2, 5).astype("i1"), np.array([100, -200])
    network = read(tmp_path, chain.dense(W, bias, [0.02, 0.03], 0.05, 7, fused=1).write())
    lstm, last, dense = network.ops
    assert isinstance(lstm, IntLstm)
    assert isinstance(last, IntLastStep)
    assert isinstance(dense, IntDense)
    assert np.array_equal(lstm.W, arguments["W"])
    assert np.array_equal(lstm.R, arguments["R"])
    assert np.array_equal(lstm.b, arguments["bias"])
    assert lstm.b.dtype == np.int32
    assert lstm.W_scale == (float(np.float32(0.01)),) * 4
    assert (lstm.cell_shift, lstm.cell_clip_q) == (-13, int(0.75 * 2**13))
    assert (lstm.forget_multiplier.m, lstm.forget_multiplier.e) == (1 << 30, -14)
    assert lstm.input_gate_multiplier.real == 2.0**-30 / 2.0**-13
    scale = float(np.float32(0.004))
    assert lstm.output.scale == scale
    assert math.isclose(lstm.hidden_multiplier.real, 2.0**-30 / scale, rel_tol=1e-9)
    product = float(np.float32(0.01)) ** 2
    assert math.isclose(lstm.input_multipliers[2].real, product * 2**12, rel_tol=1e-9)
    assert np.array_equal(dense.W, W)
    assert dense.b.tolist() == bias.tolist()
    assert len(dense.multipliers) == 2
    assert math.isclose(dense.multipliers[1].real, scale * 0.03 / 0.05, rel_tol=1e-6)
    assert (dense.act_min, dense.act_max) == (7, 127)


def test_profile_changes_gate_and_per_tensor_multipliers_only():
    path = FIXTURES / "logits.tflite"
    double, single = read_integer_network(path), read_integer_network(path, "tflm-float")
    a, b = double.ops[0], single.ops[0]
    assert isinstance(a, IntLstm)
    assert isinstance(b, IntLstm)
    assert a.input_multipliers != b.input_multipliers
    assert a.hidden_multiplier == b.hidden_multiplier
    product = np.float32(a.input.scale) * np.float32(a.W_scale[0])
    assert b.input_multipliers[0].real == pytest.approx(float(product) * 4096, rel=2**-31)
    assert double.ops[2].multipliers == single.ops[2].multipliers  # per channel
    with pytest.raises(InputError, match="Unknown semantics profile 'x'"):
        read_integer_network(path, "x")  # type: ignore[arg-type]


def test_dense_without_bias_and_with_implicit_flatten(tmp_path):
    chain = flat.Chain((4, 3), 0.01, 5)
    W = np.ones((2, 12), "i1")
    network = read(tmp_path, chain.dense(W, None, 0.02, 0.05, 7).write())
    reshape, dense = network.ops
    assert isinstance(reshape, IntReshape)
    assert isinstance(dense, IntDense)
    assert dense.b.tolist() == [0, 0]
    assert network.output.shape == (2,)


REFUSED = {
    "clip is not a number": (lambda: chain_with_lstm(clip=math.nan), "cell clip"),
    "negative clip": (lambda: chain_with_lstm(clip=-1.0), "cell clip"),
    "tiny clip": (lambda: chain_with_lstm(clip=1e-9), "under one step"),
    "time major": (lambda: chain_with_lstm(time_major=True), "time_major True"),
    "other activation": (lambda: chain_with_lstm(fused=1), "other|another cell activation"),
    "peephole": (lambda: chain_with_lstm(peephole=np.ones(4, "i2")), "peephole"),
    "projection": (lambda: chain_with_lstm(projection=np.ones((4, 4), "i1")), "projection"),
    "layer norm": (lambda: chain_with_lstm(norm=np.ones(4, "i2")), "layer normalisation"),
    "cell scale": (lambda: chain_with_lstm(cell_scale=0.0003), "power of two"),
    "cell scale range": (lambda: chain_with_lstm(cell_scale=2.0**-30), "power of two"),
    "weight scale zero": (lambda: chain_with_lstm(W_scale=[0.0] * 4), "finite positive"),
    "weight scale nan": (lambda: chain_with_lstm(R_scale=[0.01, math.nan, 0.01, 0.01]), "finite positive"),
    "weight scale inf": (lambda: chain_with_lstm(R_scale=[math.inf] * 4), "finite positive"),
    "negative scale": (lambda: chain_with_lstm(scale=-0.1), "finite positive"),
    "no zero points": (lambda: flat.Chain((4, 3), 0.01, []).relu(0.1, 0), "0 zero points for 1 scales"),
    "zero point": (lambda: chain_with_lstm(zero=200), "outside int8"),
    "huge scales": (lambda: chain_with_lstm(W_scale=[1e6] * 4), "overflow|too large"),
    "tiny hidden scale": (lambda: chain_with_lstm(scale=1e-10), "too small"),
    "recurrent shape": (lambda: chain_with_lstm(R=np.ones((4, 4, 3), "i1")), "has shape"),
    "weight shape": (lambda: chain_with_lstm(W=np.ones((4, 4, 2), "i1")), "has shape"),
    "bias overflow": (lambda: chain_with_lstm(bias=np.full((4, 4), 2**31 - 1)), "overflow"),
    "per-channel weight count": (
        lambda: flat.Chain((4, 3)).dense(np.ones((2, 3), "i1"), None, [0.1, 0.1, 0.1], 0.1, 0),
        "weight scales",
    ),
    "asymmetric weights": (
        lambda: flat.Chain((4, 3)).dense(np.ones((2, 3), "i1"), None, 0.1, 0.1, 0, W_zero=1),
        "zero point other",
    ),
    "bias scale": (
        lambda: flat.Chain((4, 3)).dense(np.ones((2, 3), "i1"), np.ones(2), 0.1, 0.1, 0, bias_scale=0.1),
        "bias",
    ),
    "dense width": (lambda: flat.Chain((4, 3)).dense(np.ones((2, 6), "i1"), None, 0.1, 0.1, 0), "inputs a row"),
    "fused relu6": (
        lambda: flat.Chain((4, 3)).dense(np.ones((2, 3), "i1"), None, 0.1, 0.1, 0, fused=3),
        "fused activation",
    ),
    "softmax output": (lambda: flat.Chain((4, 3)).unary(tflite.BuiltinOperator.SOFTMAX, 0.1, 0), "beta 0.0"),
    "softmax beta": (lambda: flat.Chain((4, 3)).softmax(4.0), "beta 4.0, which is not supported; 1.0 is"),
    "tanh output": (lambda: flat.Chain((4, 3)).unary(tflite.BuiltinOperator.TANH, 0.1, 0), "quantized otherwise"),
    "tanh input scale": (lambda: flat.Chain((4, 3), 100.0).tanh(), "out of range"),
    "logistic input scale": (lambda: flat.Chain((4, 3), 1e-12).logistic(), "out of range"),
    "first step": (lambda: chain_with_lstm().last_step(begin=(0, 0, 0)), "last time step"),
    "middle step": (lambda: chain_with_lstm().last_step(begin=(0, -2, 0)), "last time step"),
    "half the features": (lambda: chain_with_lstm().last_step(end=(1, 0, 2), end_mask=3), "last time step"),
    "backwards": (lambda: chain_with_lstm().last_step(strides=(1, -1, 1)), "last time step"),
    "reshape size": (lambda: flat.Chain((4, 3)).reshape(1, 11), "sizes differ"),
    "operator": (lambda: flat.Chain((4, 3)).unary(tflite.BuiltinOperator.ABS, 0.1, 0), r"operator 0 \(ABS\)"),
    "requantise": (lambda: flat.Chain((4, 3)).unary(tflite.BuiltinOperator.QUANTIZE, 0.1, 0), r"\(QUANTIZE\)"),
    "rank": (lambda: flat.Chain((4, 3, 2)).relu(0.1, 0), "steps, features"),
    "zero dimension": (lambda: flat.Chain((4, 0)).relu(0.1, 0), "fixed shape"),
    "unknown dimension": (lambda: flat.Chain((-1, 3)).relu(0.1, 0), "fixed shape"),
    "no operators": (lambda: flat.Chain((4, 3)), "no operators"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unsupported_models_are_refused_in_one_sentence(tmp_path, case):
    make, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, make().write())
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_operators_off_the_chain_are_refused(tmp_path):
    chain = chain_with_lstm()
    sequence = chain.current
    chain.relu(0.1, 0)
    chain.current = sequence  # a second consumer of the LSTM's output
    with pytest.raises(InputError, match="one chain"):
        read(tmp_path, chain.relu(0.1, 0).write())
    chain = chain_with_lstm()
    sequence = chain.current
    chain.relu(0.1, 0)
    with pytest.raises(InputError, match="output is not the last"):
        read(tmp_path, chain.b.write(chain.source, sequence))


def test_shared_state_is_refused(tmp_path):
    chain = chain_with_lstm().lstm(**lstm_arguments(features=4))
    inputs = chain.b.ops[1][1]
    inputs[18], inputs[19] = chain.b.ops[0][1][18], chain.b.ops[0][1][19]
    with pytest.raises(InputError, match="used twice"):
        read(tmp_path, chain.write())


def test_cifg_and_missing_operands_are_refused(tmp_path):
    for position, message in ((1, "CIFG"), (2, "lacks its weights"), (13, "lacks its bias"), (18, "hidden state")):
        chain = chain_with_lstm()
        chain.b.ops[0][1][position] = -1
        with pytest.raises(InputError, match=message):
            read(tmp_path, chain.write())
    chain = chain_with_lstm()
    chain.b.ops[0][1][5] = 999
    with pytest.raises(InputError, match="tensor 999 does not exist"):
        read(tmp_path, chain.write())


@pytest.mark.parametrize(("index", "message"), [(9999, "does not exist"), (-2, "does not exist"), (0, "not empty")])
def test_wild_intermediate_tensors_are_refused(tmp_path, index, message):
    """The native interpreter follows these indices unchecked."""
    data = bytearray((FIXTURES / "tiny.tflite").read_bytes())
    op = tflite.Model.GetRootAsModel(data, 0).Subgraphs(0).Operators(0)
    op.IntermediatesAsNumpy()[3] = index
    with pytest.raises(InputError, match=message):
        read(tmp_path, bytes(data))


def test_files_that_are_no_int8_models(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_integer_network(tmp_path / "absent.tflite")
    with pytest.raises(InputError, match="cannot be read"):
        read_integer_network(tmp_path)
    for content in (b"", b"hello", bytes(1000), (FIXTURES / "tiny.h5").read_bytes()):
        with pytest.raises(InputError, match=r"not a \.tflite file"):
            read(tmp_path, content)
    with pytest.raises(InputError, match="int8 input"):
        read_integer_network(FIXTURES / "tiny.float.tflite")


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_raise_input_error_or_give_a_consistent_network(tmp_path, name):
    """Byte flips, stretches of noise, truncations, and wild 32-bit words where offsets and lengths are."""
    content = (FIXTURES / f"{name}.tflite").read_bytes()
    rng = np.random.default_rng(7)
    accepted, refusals = 0, []
    for k in range(400):
        data = bytearray(content)
        if k % 4 == 0:
            for at in rng.integers(0, len(data), rng.integers(1, 8)):
                data[at] = int(rng.integers(0, 256))
        elif k % 4 == 1:
            data = data[: rng.integers(0, len(data))]
        elif k % 4 == 2:
            at = int(rng.integers(0, len(data) // 4)) * 4
            data[at : at + 4] = struct.pack("<I", int(rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**28])))
        else:
            at, n = int(rng.integers(0, len(data))), int(rng.integers(1, 64))
            data[at : at + n] = rng.integers(0, 256, n, dtype=np.uint8).tobytes()
        try:
            network = read(tmp_path, bytes(data))
        except InputError as error:
            refusals.append(str(error))
            continue
        accepted += 1
        assert network.ops
        for op in network.ops:
            assert math.isfinite(op.output.scale)
            assert op.output.scale > 0
            assert -128 <= op.output.zero_point <= 127
            assert all(d > 0 for d in op.output.shape)
    assert all(message.isprintable() and len(message) < 500 for message in refusals)
    assert accepted > 0, "flips in weights alone leave a readable model"
