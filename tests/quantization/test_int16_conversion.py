"""int16 activations: what the conversion writes, what the reader refuses, what damaged files do."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tflite

from codesign.errors import CodesignError, InputError
from codesign.network import FloatNetwork, Lstm, evaluate, load_network
from codesign.quantization import (
    IntDense,
    IntegerNetwork,
    IntLstm,
    convert,
    load_calibration,
    parse_integer_network,
    read_integer_network,
    to_int16,
)
from codesign.quantization.int16 import _avoid_powers
from codesign.quantization.multipliers import table_multiplier
from codesign.semantics import dequantize, quantize_input, simulate

TESTS = Path(__file__).parent.parent
FIXTURES = TESTS / "fixtures"
NAMES = ("tiny", "logits", "stacked", "sequence", "timedist", "acts", "flatten", "reshaped")

_spec = importlib.util.spec_from_file_location("flatmodels", TESTS / "semantics" / "flatmodels.py")
assert _spec is not None
assert _spec.loader is not None
flat = sys.modules.get("flatmodels") or importlib.util.module_from_spec(_spec)
if "flatmodels" not in sys.modules:
    sys.modules["flatmodels"] = flat
    _spec.loader.exec_module(flat)


def pair(name: str) -> tuple[FloatNetwork, IntegerNetwork, IntegerNetwork]:
    return (
        load_network(FIXTURES / f"{name}.h5"),
        read_integer_network(FIXTURES / f"{name}.tflite"),
        read_integer_network(FIXTURES / f"{name}.int16.tflite"),
    )


def read(tmp_path: Path, content: bytes) -> IntegerNetwork:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    return read_integer_network(path)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_the_int8_models_and_biases_the_float_ones(name):
    network, small, wide = pair(name)
    assert [type(op) for op in small.ops] == [type(op) for op in wide.ops]
    assert wide.activations == "int16"
    assert small.activations == "int8"
    layers = [layer for layer in network.layers if hasattr(layer, "W")]
    before = [op for op in small.ops if isinstance(op, (IntLstm, IntDense))]
    after = [op for op in wide.ops if isinstance(op, (IntLstm, IntDense))]
    for layer, a, b in zip(layers, before, after, strict=True):
        assert np.array_equal(a.W, b.W)
        assert a.W_scale == b.W_scale
        assert b.b.dtype == np.int64
        scales = b.input.scale * np.array(b.W_scale)
        scales = scales[:, None] if isinstance(b, IntLstm) else scales
        assert np.abs(b.b * scales - layer.b).max() <= 0.5001 * scales.max()
        if isinstance(a, IntLstm) and isinstance(b, IntLstm):
            assert np.array_equal(a.R, b.R)
            assert (a.R_scale, a.cell_shift, a.cell_clip_q) == (b.R_scale, b.cell_shift, b.cell_clip_q)
            assert b.output.scale == 2.0**-15
    for op in wide.ops:
        assert op.output.dtype == "int16"
        assert op.output.zero_point == 0


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_closer_to_the_float_models_than_int8_ones(name):
    network, small, wide = pair(name)
    x = load_calibration(FIXTURES / f"{name}.calib.npz", network.input_shape).x
    exact = evaluate(network, x)
    errors = [np.abs(dequantize(n.output, simulate(n, quantize_input(n, x))) - exact).mean() for n in (small, wide)]
    assert errors[1] < 0.9 * errors[0]  # what the rounded weights cost is in both


@pytest.mark.parametrize("name", NAMES)
def test_fixtures_are_what_the_tool_makes(name):
    network, small, wide = pair(name)
    assert to_int16(small, network) == wide.content


def test_constants_are_aligned():
    content = (FIXTURES / "stacked.int16.tflite").read_bytes()
    model = tflite.Model.GetRootAsModel(content, 0)
    starts = []
    for k in range(model.BuffersLength()):
        buffer = model.Buffers(k)
        if buffer.DataLength():
            starts.append(buffer._tab.Vector(buffer._tab.Offset(4)))
    assert len(starts) > 10
    assert all(start % 16 == 0 for start in starts)


def test_convert_writes_an_int16_model_and_nothing_on_bad_arguments(tmp_path):
    model = shutil.copy(FIXTURES / "acts.h5", tmp_path / "acts.h5")
    shutil.copy(FIXTURES / "acts.calib.npz", tmp_path / "acts.calib.npz")
    network = read_integer_network(convert(model, tmp_path / "a.tflite", activations="int16"))
    assert network.activations == "int16"
    x = load_calibration(tmp_path / "acts.calib.npz", (5, 3)).x
    y = dequantize(network.output, simulate(network, quantize_input(network, x)))
    assert np.abs(y - evaluate(load_network(model), x)).max() < 0.005
    with pytest.raises(InputError, match="unknown type of activations 'int4'"):
        convert(model, tmp_path / "c.tflite", activations="int4")  # type: ignore[arg-type]
    assert not (tmp_path / "c.tflite").exists()


def test_networks_that_do_not_belong_together_are_refused():
    network, small, wide = pair("tiny")
    with pytest.raises(InputError, match="int16 activations already"):
        to_int16(wide, network)
    with pytest.raises(CodesignError, match="another number of layers"):
        to_int16(small, load_network(FIXTURES / "stacked.h5"))
    lstm = network.layers[0]
    assert isinstance(lstm, Lstm)
    changed = Lstm(lstm.name, lstm.W, lstm.R * np.float32(1.1), lstm.b, lstm.return_sequences)
    other = FloatNetwork(network.name, network.input_shape, (changed, *network.layers[1:]), "", "")
    with pytest.raises(CodesignError, match="other weights"):
        to_int16(small, other)
    swapped = FloatNetwork(network.name, network.input_shape, network.layers[::-1], "", "")
    with pytest.raises(CodesignError, match="another order"):
        to_int16(small, swapped)


def test_a_negative_preactivation_survives_where_int8_has_the_zero_point_minus_128():
    """int8 files cannot tell a ReLU from outputs that were never negative; the float model can."""
    _, small, wide = pair("stacked")
    dense = [op for op in wide.ops if isinstance(op, IntDense)]
    assert [op.act_min for op in dense] == [0, -32768]
    assert small.ops[3].output.zero_point == -128


def test_scales_near_powers_of_two_are_moved_for_logistic_and_tanh():
    for power in (-12, -11):
        for factor in (1, 1.0005, 0.9995, 2**0.001, 2**-0.001):
            moved = _avoid_powers(2.0**power * factor, (-12, -11))
            assert 1 <= moved / (2.0**power * factor) < 1.003
            assert table_multiplier(moved, "tanh")[1] > 0
    assert _avoid_powers(1e-4, (-12, -11)) == 1e-4


def lstm_chain(**changes):
    rng = np.random.default_rng(0)
    arguments = {
        "W": flat.random_int8(rng, (4, 4, 3)),
        "R": flat.random_int8(rng, (4, 4, 4)),
        "bias": rng.integers(-(10**6), 10**6, (4, 4)),
        "W_scale": [0.01] * 4,
        "R_scale": [0.01] * 4,
        "scale": 2.0**-15,
        "zero": 0,
    }
    return flat.Chain((4, 3), 1e-4, dtype="i2").lstm(**(arguments | changes))


def test_accumulators_and_multipliers_that_do_not_fit_are_refused(tmp_path):
    read(tmp_path, lstm_chain().write())
    with pytest.raises(InputError, match="overflow its accumulators"):
        read(tmp_path, lstm_chain(bias=np.full((4, 4), 1 << 47)).write())
    with pytest.raises(InputError, match="overflow its accumulators"):
        read(tmp_path, lstm_chain(bias=np.full((4, 4), -(1 << 63))).write())
    with pytest.raises(InputError, match="overflow its accumulators"):
        read(tmp_path, lstm_chain(W_scale=[400.0] * 4).write())
    W = np.full((2, 16), 127, "i1")
    chain = flat.Chain((1, 16), 1.0, dtype="i2")
    with pytest.raises(InputError, match="overflow its accumulators"):
        read(tmp_path, chain.dense(W, None, 1.0, 2.0**-6, 0).write())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: c.unary(flat.BUILTIN.TANH, 2.0**-16, 0), "quantized otherwise"),
        (lambda c: c.unary(flat.BUILTIN.LOGISTIC, 1 / 256, 0), "quantized otherwise"),
        (lambda c: c.relu(1e-13, 0), "output scale too small"),
        (lambda c: c.softmax(0.0), "beta 0.0"),
        (lambda c: flat.Chain((4, 6), 1e6, dtype="i2").softmax(), "out of range|too large"),
        (lambda c: c.reshape(1, 25), "sizes differ"),
    ],
)
def test_operators_that_tflm_would_refuse_or_overflow_are_refused(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, make(flat.Chain((4, 6), 1e-4, dtype="i2")).write())


@pytest.mark.parametrize("scale", [2.0**-12 * 2**0.001, 2.0**-12 * 2**-0.001, 3.0, 1e-14])
def test_input_scales_of_logistic_that_are_doubtful_or_out_of_range_are_refused(tmp_path, scale):
    with pytest.raises(InputError, match="input scale that cannot be used"):
        read(tmp_path, flat.Chain((4, 6), float(np.float32(scale)), dtype="i2").logistic().write())


def test_mixed_types_zero_points_and_int32_biases_are_refused(tmp_path):
    chain = flat.Chain((4, 3), 1e-4, dtype="i2")
    chain.dtype = "i1"
    with pytest.raises(InputError, match="activations before it are int16"):
        read(tmp_path, chain.relu(1e-4, 0).write())
    chain = flat.Chain((4, 3), 1e-4, dtype="i2")
    chain.b.tensors[0]["zero"] = [1]
    with pytest.raises(InputError, match="int16 ones need 0"):
        read(tmp_path, chain.relu(1e-4, 0).write())
    chain = flat.Chain((4, 3), 1e-4, dtype="i2")
    chain.bias_dtype = "i4"
    with pytest.raises(InputError, match="is INT32 where INT64 is needed"):
        read(tmp_path, chain.dense(np.ones((2, 3), "i1"), np.zeros(2), 0.01, 1e-4, 0).write())


def test_an_operator_code_with_two_meanings_is_read_as_tflm_reads_it():
    data = bytearray((FIXTURES / "acts.int16.tflite").read_bytes())
    model = tflite.Model.GetRootAsModel(data, 0)
    codes = [model.OperatorCodes(k) for k in range(model.OperatorCodesLength())]
    code = next(c for c in codes if c.DeprecatedBuiltinCode() == tflite.BuiltinOperator.FULLY_CONNECTED)
    data[code._tab.Pos + code._tab.Offset(10)] = tflite.BuiltinOperator.NEG
    with pytest.raises(InputError, match=r"\(NEG\) is not supported"):
        parse_integer_network(bytes(data), "acts")


@pytest.mark.parametrize("name", ["stacked", "acts"])
def test_damaged_files_raise_input_error_or_give_a_consistent_network(name):
    content = (FIXTURES / f"{name}.int16.tflite").read_bytes()
    rng = np.random.default_rng(11)
    accepted = refused = 0
    for _ in range(400):
        data = bytearray(content)
        kind = rng.integers(0, 3)
        at = int(rng.integers(0, len(data) - 8))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            data[at : at + 8] = rng.bytes(8)
        else:
            del data[at:]
        try:
            network = parse_integer_network(bytes(data), name)
        except InputError:
            refused += 1
            continue
        accepted += 1
        q = np.zeros((1, *network.input.shape), network.activations)
        assert simulate(network, q).shape == (1, *network.output.shape)
    assert accepted > 20
    assert refused > 20
