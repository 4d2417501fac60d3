"""Keras 2 and Keras 3 files against the predictions of the Keras that wrote them, and the models to refuse."""

import io
import json
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest

from codesign.errors import InputError
from codesign.network import Lstm, evaluate, load_network

MODELS = ("sequential_mixed", "functional", "stacked", "long_sequence")
KERAS2_REFUSED = ("bidirectional", "stateful", "open_steps", "float16", "shared", "two_inputs", "residual")
REFUSED = {
    "bidirectional": "Bidirectional",
    "gru": "GRU",
    "rnn_cell": "RNN",
    "conv": "Conv1D",
    "masking": "Masking",
    "embedding": "Embedding",
    "hard_sigmoid": "recurrent_activation='hard_sigmoid'",
    "relu_lstm": "activation='relu'",
    "backwards": "go_backwards=True",
    "lambda": "Lambda",
    "custom": "Doubling",
    "subclass": "Subclassed",
    "relu6": "max_value=6",
    "elu": "activation='elu'",
    "softmax_axis": "axis=1",
    "nested": "Sequential",
    "no_lstm": "no LSTM",
    "float16": "mixed_float16",
    "open_steps": "T, the number of steps",
    "flat_input": "(batch, T, D)",
    "stateful": "stateful=True",
    "shared": "second call",
    "two_inputs": "2 inputs",
    "two_outputs": "2 outputs",
    "residual": "2 inputs",
    "initial_state": "not supported",
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("version", ["keras2", "keras3"])
@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_agrees_with_keras(keras_models, version, name, suffix):
    network = load_network(keras_models / f"{version}-{name}.{suffix}")
    data = np.load(keras_models / f"{version}-{name}.npz")
    assert network.source == f"{version}-{'h5' if suffix == 'h5' else 'archive'}"
    assert network.input_shape == data["x"].shape[1:]
    outputs = evaluate(network, data["x"])
    assert outputs.dtype == np.float64
    assert outputs.shape == data["y"].shape
    np.testing.assert_allclose(outputs, data["y"], rtol=0, atol=1e-6)
    assert np.ptp(data["y"], axis=0).max() > 0.1  # the comparison is of outputs that vary


def test_both_formats_hold_the_same_network(keras_models):
    first, second = (load_network(keras_models / f"keras3-stacked.{suffix}") for suffix in ("h5", "keras"))
    for a, b in zip(first.layers, second.layers, strict=True):
        np.testing.assert_array_equal(a.W, b.W)
        np.testing.assert_array_equal(a.b, b.b)
    assert first.sha256 != second.sha256
    assert [layer.return_sequences for layer in first.layers if isinstance(layer, Lstm)] == [True, True, False]


@pytest.mark.parametrize(
    ("name", "file"),
    [(name, f"keras3/{name}.keras") for name in REFUSED] + [(name, f"keras2/{name}.h5") for name in KERAS2_REFUSED],
)
def test_refuses_what_is_not_supported(keras_models, name, file):
    path = keras_models / f"refused-{file}"
    with pytest.raises(InputError) as caught:
        load_network(path)
    assert REFUSED[name] in str(caught.value)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_loading_imports_no_framework_and_runs_no_code(fixtures):
    code = (
        "import sys; from codesign.network import load_network, evaluate; import numpy as np\n"
        f"n = load_network({str(fixtures / 'tiny.h5')!r}); evaluate(n, np.zeros((1, *n.input_shape)))\n"
        "bad = {'tensorflow', 'keras', 'tf_keras', 'h5py'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=fixtures.parents[1])


@pytest.fixture
def edit_h5(fixtures, tmp_path):
    def edit(change, name="tiny"):
        path = tmp_path / "edited.h5"
        path.write_bytes((fixtures / f"{name}.h5").read_bytes())
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    return edit


def _config(file, change):
    config = json.loads(file.attrs["model_config"])
    change(config)
    file.attrs["model_config"] = json.dumps(config)


def _replace(path, value):
    def change(file):
        del file[path]
        file[path] = value

    return change


def _weight(key):
    return {
        "kernel": "model_weights/lstm/lstm/lstm_cell/kernel:0",
        "bias": "model_weights/lstm/lstm/lstm_cell/bias:0",
    }[key]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[_weight("kernel")].__setitem__((0, 0), np.nan), "NaN"),
        (lambda f: f[_weight("bias")].__setitem__(0, np.inf), "NaN or infinite"),
        (lambda f: f.__delitem__(_weight("bias")), "needs ['bias', 'kernel', 'recurrent_kernel']"),
        (lambda f: f.__delitem__("model_weights"), "has the weights []"),
        (_replace(_weight("kernel"), np.zeros((3, 24), "f4")), "shape (3, 24)"),
        (_replace(_weight("kernel"), np.zeros((3, 20), "f8")), "float64"),
        (_replace(_weight("kernel"), np.zeros((3, 20), "i4")), "int32"),
        (
            _replace(_weight("kernel"), h5py.ExternalLink("/etc/hostname", "/x")),
            "has the weights ['bias', 'recurrent_k",
        ),
        (_replace("model_weights", h5py.ExternalLink("other.h5", "/model_weights")), "has the weights []"),
        (_replace("model_weights", h5py.SoftLink("/nowhere")), "has the weights []"),
        (lambda f: f.attrs.__delitem__("model_config"), "model.save()"),
        (lambda f: f.attrs.__setitem__("model_config", "{"), "not valid JSON"),
        (lambda f: f.attrs.__setitem__("model_config", "[" * 100_000), "not valid JSON"),
        (lambda f: f.attrs.__setitem__("model_config", "3"), "damaged"),
        (lambda f: _config(f, lambda c: c.update({"class_name": "MyModel"})), "MyModel"),
        (lambda f: _config(f, lambda c: c["config"].update({"layers": []})), "no layers"),
        (lambda f: _config(f, lambda c: c["config"]["layers"][1]["config"].update({"units": 10**9})), "units"),
        (lambda f: _config(f, lambda c: c["config"]["layers"][1]["config"].update({"units": 2**20})), "weights"),
        (lambda f: _config(f, lambda c: c["config"]["layers"][1]["config"].update({"units": True})), "units"),
        (lambda f: _config(f, lambda c: c["config"]["layers"][1]["config"].update({"time_major": True})), "time_major"),
        (
            lambda f: _config(f, lambda c: c["config"]["layers"][1]["config"].update({"return_state": True})),
            "return_st",
        ),
        (lambda f: _config(f, lambda c: c["config"]["layers"][1].update({"registered_name": "a>LSTM"})), "custom"),
        (lambda f: _config(f, lambda c: c["config"]["layers"][1].update({"module": "evil.layers"})), "custom"),
        (lambda f: _config(f, lambda c: c["config"]["layers"][2]["config"].update({"activation": {"a": 1}})), "activ"),
        (lambda f: _config(f, lambda c: c["config"]["layers"][2]["config"].update({"name": "lstm"})), "same name"),
        (lambda f: _config(f, lambda c: c["config"]["layers"].reverse()), "'dense'"),
    ],
)
def test_refuses_edited_h5(edit_h5, change, message):
    with pytest.raises(InputError) as caught:
        load_network(edit_h5(change))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_compressed_weights_of_an_absurd_size_are_not_unpacked(edit_h5):
    def change(file):
        del file[_weight("kernel")]
        file.create_dataset(_weight("kernel"), shape=(1 << 20, 1 << 20), dtype="f4", chunks=(1024, 1024), compression=9)

    with pytest.raises(InputError, match="shape"):
        load_network(edit_h5(change))


@pytest.fixture
def edit_archive(keras_models, tmp_path):
    def edit(**members):
        path = tmp_path / "edited.keras"
        with (
            zipfile.ZipFile(keras_models / "keras3-stacked.keras") as source,
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
        ):
            for name in source.namelist():
                change = members.get(name.split(".")[0], lambda content: content)
                content = change(source.read(name))
                if content is not None:
                    target.writestr(name, content)
        return path

    return edit


def test_archive_members(edit_archive):
    load_network(edit_archive())  # unchanged: loads
    with pytest.raises(InputError, match=r"no config\.json"):
        load_network(edit_archive(config=lambda content: None))
    with pytest.raises(InputError, match=r"no model\.weights\.h5"):
        load_network(edit_archive(model=lambda content: None))
    with pytest.raises(InputError, match="damaged or truncated"):
        load_network(edit_archive(model=lambda content: content[: len(content) // 2]))
    with pytest.raises(InputError, match="JSON"):
        load_network(edit_archive(config=lambda content: content[:-1]))
    with pytest.raises(InputError, match="damaged"):
        load_network(edit_archive(config=lambda content: b"\xff" + content))


def test_zip_bomb_is_not_unpacked(edit_archive):
    with pytest.raises(InputError, match="unpacks to more than"):
        load_network(edit_archive(config=lambda content: b" " * ((1 << 24) + 1)))


def test_missing_weights_of_an_archive(edit_archive):
    def drop(content):
        stored = io.BytesIO(content)
        with h5py.File(stored, "r+") as file:
            del file["layers/lstm_1/cell/vars/2"]
        return stored.getvalue()

    with pytest.raises(InputError, match="2 weights in the file, but its configuration needs 3"):
        load_network(edit_archive(model=drop))
