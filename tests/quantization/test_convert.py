"""Conversion end to end: fused, int8, close to the float model and reproducible; and the ways it is refused."""

import os
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from codesign.errors import CodesignError, InputError, MissingToolError
from codesign.network import Activation, Dense, FloatNetwork, Lstm, Reshape, evaluate, load_network
from codesign.quantization import IntLstm, convert, load_calibration, read_integer_network
from codesign.semantics import dequantize, quantize_input, simulate

convert_module = sys.modules["codesign.quantization.convert"]
FIXTURES = Path(__file__).parents[1] / "fixtures"
needs_tensorflow = pytest.mark.skipif(
    find_spec("tensorflow") is None or find_spec("tf_keras") is None, reason="TensorFlow is not installed"
)


def _integer_outputs(path, x):
    network = read_integer_network(path)
    return network, dequantize(network.output, simulate(network, quantize_input(network, x)))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """`logits` from its .h5, from its float .tflite, and again; with the time-sensitive bits of TensorFlow in play."""
    folder = tmp_path_factory.mktemp("converted")
    before = set(sys.modules)  # another test of this process may have loaded TensorFlow
    paths = [convert(FIXTURES / "logits.h5", folder / f"{index}.tflite") for index in range(2)]
    assert not {"tensorflow", "tf_keras", "keras"} & (set(sys.modules) - before)
    return [*paths, convert(FIXTURES / "logits.float.tflite", folder / "lite.tflite", FIXTURES / "logits.calib.npz")]


@needs_tensorflow
def test_result_is_fused_int8_and_close_to_the_float_model(converted):
    calibration = load_calibration(FIXTURES / "logits.calib.npz", (8, 8))
    network, outputs = _integer_outputs(converted[0], calibration.x)
    float_outputs = evaluate(load_network(FIXTURES / "logits.h5"), calibration.x)
    assert isinstance(network.ops[0], IntLstm)
    assert network.input.dtype == network.output.dtype == "int8"
    error = np.abs(outputs - float_outputs)
    assert error.mean() < 2 * network.output.scale
    assert np.corrcoef(outputs.ravel(), float_outputs.ravel())[0, 1] > 0.99


@needs_tensorflow
def test_same_input_gives_same_bytes(converted):
    assert converted[0].read_bytes() == converted[1].read_bytes()


@needs_tensorflow
def test_float_tflite_gives_the_same_integers(converted):
    x = load_calibration(FIXTURES / "logits.calib.npz", (8, 8)).x
    np.testing.assert_array_equal(_integer_outputs(converted[0], x)[1], _integer_outputs(converted[2], x)[1])


@needs_tensorflow
def test_converting_leaves_this_process_alone(converted):
    one = np.float64(1.0)
    assert one + np.float64(2.0**-54) == one  # rounding is still to nearest
    assert -one - np.float64(2.0**-54) == -one
    assert stat.S_IMODE(os.stat(converted[0]).st_mode) == 0o644
    assert sorted(p.name for p in converted[0].parent.iterdir()) == ["0.tflite", "1.tflite", "lite.tflite"]


def _network(seed=0):
    """Every kind of layer, zero biases, and names that TensorFlow does not take."""
    rng = np.random.default_rng(seed)

    def array(*shape):
        return rng.normal(0, 0.6, shape).astype("f")

    layers = (
        Lstm("a b/é", array(4, 6, 3), array(4, 6, 6), np.zeros((4, 6), "f"), True),
        Dense("same", array(4, 6), np.zeros(4, "f"), "relu"),
        Lstm("same", array(4, 5, 4), array(4, 5, 5), array(4, 5), False),
        Reshape("r", (5, 1)),
        Activation("act", "tanh"),
        Reshape("flat", (5,)),
        Dense("d", array(3, 5), np.zeros(3, "f"), "softmax"),
    )
    return FloatNetwork("every", (12, 3), layers, "0" * 64, "test")


@needs_tensorflow
def test_every_layer_zero_bias_and_odd_names(tmp_path, monkeypatch):
    network = _network()
    x = np.random.default_rng(1).normal(0, 1, (40, 12, 3)).astype("f")
    np.savez(tmp_path / "m.calib.npz", x=x)
    monkeypatch.setattr(convert_module, "load_network", lambda path: network)
    path = convert(tmp_path / "m.h5", tmp_path / "m.tflite")
    integer, outputs = _integer_outputs(path, x)
    assert sum(isinstance(op, IntLstm) for op in integer.ops) == 2
    assert np.abs(outputs - evaluate(network, x)).mean() < 0.02
    assert not integer.ops[0].b.any()


@needs_tensorflow
def test_calibration_samples_start_from_the_zero_state(tmp_path):
    """One sample and many copies of it are the same ranges; TFLite's own calibrator would carry the state over."""
    x = load_calibration(FIXTURES / "tiny.calib.npz", (4, 3)).x[:1]
    contents = []
    for count in (1, 20):
        np.savez(tmp_path / "c.npz", x=np.repeat(x, count, axis=0))
        contents.append(convert(FIXTURES / "tiny.h5", tmp_path / f"{count}.tflite", tmp_path / "c.npz").read_bytes())
    assert contents[0] == contents[1]


def test_no_calibration_file_says_how_to_make_one(tmp_path):
    (tmp_path / "m.h5").write_bytes((FIXTURES / "tiny.h5").read_bytes())
    with pytest.raises(InputError, match=r"np\.savez\('m\.calib\.npz'.*\(N, 4, 3\)"):
        convert(tmp_path / "m.h5", tmp_path / "m.tflite")
    assert not (tmp_path / "m.tflite").exists()


def test_calibration_of_zeros_is_refused(tmp_path):
    np.savez(tmp_path / "c.npz", x=np.zeros((5, 4, 3), "f"))
    with pytest.raises(InputError, match="zero everywhere"):
        convert(FIXTURES / "tiny.h5", tmp_path / "m.tflite", tmp_path / "c.npz")


def test_bad_outputs(tmp_path):
    model = tmp_path / "m.tflite"
    model.write_bytes((FIXTURES / "tiny.float.tflite").read_bytes())
    for output, message in (
        (tmp_path / "m.bin", "has to be a .tflite"),
        (tmp_path / "none" / "m.tflite", "folder that exists"),
        (model, "the model itself"),
    ):
        with pytest.raises(InputError, match=message):
            convert(model, output, FIXTURES / "tiny.calib.npz")
    assert model.read_bytes() == (FIXTURES / "tiny.float.tflite").read_bytes()


def test_int8_model_and_other_clip_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="float model"):
        convert(FIXTURES / "tiny.tflite", tmp_path / "m.tflite")
    layer = load_network(FIXTURES / "tiny.h5").layers[0]
    clipped = FloatNetwork("c", (4, 3), (Lstm("l", layer.W, layer.R, layer.b, False, 2.0),), "", "")
    monkeypatch.setattr(convert_module, "load_network", lambda path: clipped)
    with pytest.raises(InputError, match=r"clips its cell at 2\.0"):
        convert(FIXTURES / "tiny.h5", tmp_path / "m.tflite")


def test_missing_tensorflow_is_said_with_the_command(tmp_path, monkeypatch):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('no such thing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MissingToolError, match=r"no such thing.*pip install 'codesign\[convert\]'"):
        convert(FIXTURES / "tiny.h5", tmp_path / "m.tflite")
    assert not (tmp_path / "m.tflite").exists()


def test_failing_converter_leaves_the_old_output(tmp_path, monkeypatch):
    (tmp_path / "tensorflow.py").write_text("raise RuntimeError('broken inside')")
    (tmp_path / "m.tflite").write_bytes(b"old")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(CodesignError, match=r"converter failed.*broken inside"):
        convert(FIXTURES / "tiny.h5", tmp_path / "m.tflite")
    assert (tmp_path / "m.tflite").read_bytes() == b"old"


def test_result_with_float_or_unfused_operators_is_refused():
    network = load_network(FIXTURES / "tiny.h5")
    with pytest.raises(CodesignError, match="float operators"):
        convert_module._check_result((FIXTURES / "tiny.float.tflite").read_bytes(), network)
    with pytest.raises(CodesignError, match="1 fused LSTM operators for the 2 LSTMs"):
        convert_module._check_result((FIXTURES / "tiny.tflite").read_bytes(), load_network(FIXTURES / "stacked.h5"))


def test_worker_needs_only_the_standard_library_to_be_imported():
    code = "import sys, codesign.quantization._tf_worker; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=FIXTURES.parents[1])
