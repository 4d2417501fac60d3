"""Float .tflite files against the TFLite interpreter and against the Keras file of the same model."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
import tflite

from codesign.errors import InputError
from codesign.network import Lstm, evaluate, load_network

FIXTURES = ("tiny", "logits", "stacked", "sequence", "timedist", "acts", "flatten", "reshaped")


@pytest.mark.parametrize("name", FIXTURES)
def test_same_network_as_the_keras_file(fixtures, name):
    keras, lite = load_network(fixtures / f"{name}.h5"), load_network(fixtures / f"{name}.float.tflite")
    assert lite.source == "float-tflite"
    assert [type(layer) for layer in keras.layers] == [type(layer) for layer in lite.layers]
    for a, b in zip(keras.layers, lite.layers, strict=True):
        if isinstance(b, Lstm):
            assert b.cell_clip == 10.0  # the converter's
            assert b.acting_clip(lite.input_shape[0]) == (10.0 if name == "flatten" else 0.0)
        for key, value in vars(a).items():
            if key not in ("name", "cell_clip"):
                np.testing.assert_array_equal(value, vars(b)[key])


@pytest.mark.parametrize("name", ["stacked", "long_sequence"])
def test_agrees_with_the_interpreter(keras_models, name):
    network = load_network(keras_models / f"tflite-{name}.float.tflite")
    data = np.load(keras_models / f"tflite-{name}.float.npz")
    outputs = evaluate(network, data["x"])
    assert outputs.shape == data["y"].shape
    np.testing.assert_allclose(outputs, data["y"], rtol=0, atol=5e-6)


def test_lstm_that_is_not_fused_is_refused(keras_models):
    with pytest.raises(InputError, match=r"LSTM layers are fused|is not supported; supported operators"):
        load_network(keras_models / "tflite-functional.float.tflite")


def test_reachable_cell_clip_is_kept(keras_models):
    network = load_network(keras_models / "tflite-long_sequence.float.tflite")
    data = np.load(keras_models / "tflite-long_sequence.float.npz")
    assert isinstance(network.layers[0], Lstm)
    assert network.layers[0].cell_clip == 10.0
    unclipped = replace(network, layers=(replace(network.layers[0], cell_clip=0.0), *network.layers[1:]))
    assert np.abs(evaluate(unclipped, data["x"]) - data["y"]).max() > 1e-3


def test_a_clip_beyond_the_models_own_steps_is_kept(fixtures, tmp_path):
    """It acts on longer streams, which certificates for any number of steps are about."""
    network = load_network(_patched(fixtures, tmp_path, _option(0, "cellClip", 4.0)))
    layer = network.layers[0]
    assert network.input_shape[0] == 4
    assert (layer.cell_clip, layer.acting_clip(4), layer.acting_clip(5)) == (4.0, 0.0, 4.0)


def test_int8_model_is_refused(fixtures):
    with pytest.raises(InputError, match="quantized model, but the float model is needed"):
        load_network(fixtures / "tiny.tflite")


def _schema():
    """The object API of the TFLite schema, taken from TensorFlow's files without importing TensorFlow."""
    found = importlib.util.find_spec("tensorflow")
    if found is None:
        pytest.skip("tensorflow is not installed")
    path = Path(found.submodule_search_locations[0], "lite", "python", "schema_py_generated.py")
    spec = importlib.util.spec_from_file_location("schema_py_generated", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _patched(fixtures, tmp_path, change, name="tiny"):
    """The fixture with its flatbuffer changed through the object API."""
    schema = _schema()
    model = schema.ModelT.InitFromObj(
        schema.Model.GetRootAsModel(bytearray((fixtures / f"{name}.float.tflite").read_bytes()), 0)
    )
    change(model, model.subgraphs[0])
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "patched.tflite"
    path.write_bytes(builder.Output())
    return path


def _operand(index, value):
    def change(model, graph):
        graph.operators[0].inputs[index] = value

    return change


def _option(operator, key, value):
    def change(model, graph):
        setattr(graph.operators[operator].builtinOptions, key, value)

    return change


def _weights(operator, operand, value):
    def change(model, graph):
        buffer = model.buffers[graph.tensors[graph.operators[operator].inputs[operand]].buffer]
        values = np.frombuffer(bytes(buffer.data), "<f4").copy()
        values[0] = value
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)

    return change


def _last_index(value):
    def change(model, graph):
        buffer = model.buffers[graph.tensors[graph.operators[1].inputs[1]].buffer]
        buffer.data = np.frombuffer(np.array([0, value, 0], "<i4").tobytes(), np.uint8)

    return change


def _rename(code):
    def change(model, graph):
        for entry in model.operatorCodes:
            if entry.builtinCode == tflite.BuiltinOperator.SOFTMAX:
                entry.builtinCode = entry.deprecatedBuiltinCode = code

    return change


def test_unchanged_round_trip_loads(fixtures, tmp_path):
    first = load_network(fixtures / "tiny.float.tflite")
    second = load_network(_patched(fixtures, tmp_path, lambda model, graph: None))
    np.testing.assert_array_equal(first.layers[0].W, second.layers[0].W)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_operand(1, -1), "CIFG"),
        (_operand(9, 15), "peephole"),
        (_operand(16, 7), "projection"),
        (_operand(20, 15), "layer normalisation"),
        (_operand(13, -1), "lacks its bias"),
        (_operand(18, 15), "states of shape"),
        (_option(0, "timeMajor", True), "time_major True"),
        (_option(0, "fusedActivationFunction", 1), "another cell activation than tanh"),
        (_option(0, "cellClip", float("nan")), "cell clip"),
        (_option(2, "fusedActivationFunction", 3), "fused activation"),
        (_option(3, "beta", 2.0), "beta"),
        (_option(1, "shrinkAxisMask", 0), "else than taking the last time step"),
        (_last_index(0), "else than taking the last time step"),
        (_weights(0, 2, np.nan), "NaN"),
        (_weights(2, 1, np.inf), "infinite"),
        (_rename(tflite.BuiltinOperator.ABS), "(ABS)"),
        (lambda model, graph: setattr(graph.tensors[0], "shape", [2, 4, 3]), "batch 1"),
        (lambda model, graph: setattr(graph.tensors[2], "type", tflite.TensorType.INT8), "INT8"),
        (lambda model, graph: graph.operators.pop(), "chain"),
        (lambda model, graph: setattr(graph, "inputs", [0, 0]), "2 inputs"),
        (lambda model, graph: model.subgraphs.append(graph), "2 subgraphs"),
    ],
)
def test_refuses_other_graphs(fixtures, tmp_path, change, message):
    with pytest.raises(InputError) as caught:
        load_network(_patched(fixtures, tmp_path, change))
    assert message in str(caught.value)


def test_slice_of_the_last_step_by_a_positive_index(fixtures, tmp_path):
    network = load_network(_patched(fixtures, tmp_path, _last_index(3)))
    assert network.layers[0].return_sequences is False


def test_fused_relu_and_absent_bias(fixtures, tmp_path):
    def change(model, graph):
        graph.operators[2].builtinOptions.fusedActivationFunction = tflite.ActivationFunctionType.RELU
        graph.operators[2].inputs[2] = -1

    network = load_network(_patched(fixtures, tmp_path, change))
    assert network.layers[1].activation == "relu"
    assert not network.layers[1].b.any()
    assert network.layers[2].kind == "softmax"
