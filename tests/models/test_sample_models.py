"""The shipped sample models: they load, fit their calibration data, and are as accurate as models/README.md says."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from codesign.network import Dense, Lstm, evaluate, load_network
from codesign.quantization import load_calibration

MODELS = Path(__file__).resolve().parents[2] / "models"
# name: input shape, LSTM units, classes, last activation, domain, source of the .h5, least accuracy
EXPECTED = {
    "motion": ((8, 6), [12], 4, "softmax", (0.0, 1.0), "keras2-h5", 0.97),
    "digits": ((8, 8), [24], 10, "linear", (0.0, 1.0), "keras3-h5", 0.96),
    "vowels": ((8, 12), [16, 16], 9, "softmax", (-1.0, 1.0), "keras2-h5", 0.95),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_model_has_the_documented_shape_and_accuracy(name: str) -> None:
    shape, units, classes, activation, (low, high), source, accuracy = EXPECTED[name]
    network = load_network(MODELS / f"{name}.h5")
    assert network.source == source
    assert network.input_shape == shape
    lstms = [layer for layer in network.layers if isinstance(layer, Lstm)]
    assert [layer.units for layer in lstms] == units
    assert [layer.return_sequences for layer in lstms] == [True] * (len(units) - 1) + [False]
    head = network.layers[-1]
    assert isinstance(head, Dense)
    assert head.activation == activation

    data = load_calibration(MODELS / f"{name}.calib.npz", network.input_shape)
    assert data.y is not None
    assert 100 <= len(data.x) <= 200
    assert data.x.dtype == np.float32
    assert data.x.min() >= low
    assert data.x.max() <= high
    assert np.array_equal(np.unique(data.y), np.arange(classes))
    output = evaluate(network, data.x)
    assert output.shape == (len(data.x), classes)
    assert np.mean(output.argmax(axis=1) == data.y) >= accuracy


@pytest.mark.parametrize("name", EXPECTED)
def test_weights_lie_on_the_int8_grid(name: str) -> None:
    """Snapped weights survive conversion unchanged: each is a whole number of steps max|w| / 127."""
    tensors = []
    for layer in load_network(MODELS / f"{name}.h5").layers:
        if isinstance(layer, Lstm):
            tensors += [*layer.W, *layer.R]  # the converter gives each gate a scale
        elif isinstance(layer, Dense):
            tensors += list(layer.W)  # and each row of a dense layer
    for w in tensors:
        steps = w.astype(np.float64) * 127.0 / np.abs(w).max()
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)


def test_keras_file_is_the_same_network_as_the_h5() -> None:
    first, second = load_network(MODELS / "digits.h5"), load_network(MODELS / "digits.keras")
    x = np.load(MODELS / "digits.calib.npz")["x"]
    assert first.source != second.source
    np.testing.assert_array_equal(evaluate(first, x), evaluate(second, x))


def test_files_are_small() -> None:
    files = [path for path in MODELS.iterdir() if path.suffix in {".h5", ".keras", ".npz"}]
    assert sum("_allinputs" not in path.name for path in files) == 7
    assert max(path.stat().st_size for path in files) < 100_000


@pytest.mark.parametrize("name", ["motion", "vowels", "digits"])
def test_calibration_file_is_remade_from_the_package(name: str) -> None:
    if importlib.util.find_spec("sklearn" if name == "digits" else "aeon") is None:
        pytest.skip("needs the data packages: pip install scikit-learn, pip install --no-deps aeon")
    script = importlib.import_module(f"train_{name}")
    _, (x, y) = script.load()
    stored = np.load(MODELS / f"{name}.calib.npz")
    picked = script.calibration(y)
    np.testing.assert_array_equal(x[picked], stored["x"])
    np.testing.assert_array_equal(y[picked], stored["y"])


def test_missing_series_part_is_an_error() -> None:
    if importlib.util.find_spec("aeon") is None:
        pytest.skip("needs the data package: pip install --no-deps aeon")
    from datasets import read_ts

    series, labels = read_ts("JapaneseVowels", "TEST")
    assert len(series) == len(labels) == 370
    assert {s.shape[1] for s in series} == {12}
    with pytest.raises(FileNotFoundError):
        read_ts("JapaneseVowels", "NOPART")
