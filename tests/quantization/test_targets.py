"""What the array y of a calibration file means for a model, and what is refused with which sentence."""

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.network.model import Activation, Dense, FloatNetwork, Lstm, Reshape
from codesign.quantization import load_calibration
from codesign.quantization.targets import read_targets

N, T, M = 6, 5, 4
RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(N, T, M))
LABELS = RNG.integers(0, M, (N, T))


def network(outputs, final="linear", steps=False, own_layer=False, flat=False):
    """An LSTM over (T, 3) with a dense layer: an output at the end, or at every step."""
    zeros = (np.zeros((4, 2, 3), "f"), np.zeros((4, 2, 2), "f"), np.zeros((4, 2), "f"))
    dense = Dense("d", np.zeros((outputs, 2), "f"), np.zeros(outputs, "f"), "linear" if own_layer else final)
    layers = [Lstm("l", *zeros, steps), dense, *([Activation("a", final)] if own_layer else [])]
    return FloatNetwork("n", (T, 3), (*layers, *([Reshape("r", (outputs,))] if flat else [])), "0" * 64, "test")


def one_hot(labels):
    return np.eye(M)[labels]


@pytest.mark.parametrize("final", ["softmax", "linear"])
@pytest.mark.parametrize("kind", ["i1", "u2", "i8", "f4"])
@pytest.mark.parametrize(
    ("y", "steps", "expected"),
    [
        (LABELS[:, 0], False, LABELS[:, 0]),
        (LABELS[:, :1], False, LABELS[:, 0]),
        (one_hot(LABELS[:, 0]), False, LABELS[:, 0]),
        (LABELS[:, 0], True, LABELS[:, 0]),  # of the last step
        (LABELS, True, LABELS),
        (LABELS[:, :, None], True, LABELS),
        (one_hot(LABELS), True, LABELS),
        (one_hot(LABELS).reshape(N, -1), True, LABELS),
    ],
)
def test_class_labels_of_several_outputs(final, kind, y, steps, expected):
    found = read_targets(y.astype(kind), N, network(M, final, steps), "f")
    assert found.values is None
    assert found.labels.dtype == np.int64
    np.testing.assert_array_equal(found.labels, expected)


@pytest.mark.parametrize("own_layer", [False, True])
@pytest.mark.parametrize("kind", ["?", "i4", "f8"])
@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, T), (N, T, 1)])
def test_binary_labels_of_one_sigmoid_output(own_layer, kind, shape):
    y = RNG.integers(0, 2, shape).astype(kind)
    steps = len(shape) > 1 and shape[1] == T
    found = read_targets(y, N, network(1, "sigmoid", steps, own_layer, flat=not steps), "f")
    assert found.values is None
    np.testing.assert_array_equal(found.labels, y.reshape((N, T) if steps else N).astype(int))


@pytest.mark.parametrize(
    ("y", "outputs", "final", "steps"),
    [
        (REAL[:, 0, 0], 1, "linear", False),
        (REAL[:, 0, :1], 1, "linear", False),
        (REAL[:, 0, :1], 1, "sigmoid", False),  # probabilities that it aims at
        (LABELS[:, 0], 1, "linear", False),  # whole numbers, but the output is no class
        (LABELS[:, 0] * 100 - 7, 1, "relu", False),
        (REAL[:, :, 0], 1, "linear", True),
        (REAL[:, 0], M, "linear", False),
        (REAL[:, 0], M, "softmax", False),
        (REAL, M, "linear", True),
        (REAL.reshape(N, -1), M, "tanh", True),
        (np.ones((N, M), int), M, "sigmoid", False),  # several labels at once
    ],
)
def test_real_values(y, outputs, final, steps):
    found = read_targets(y, N, network(outputs, final, steps), "f")
    assert found.labels is None
    assert found.values.shape == (N, (T if steps else 1) * outputs)
    np.testing.assert_array_equal(found.values.ravel(), np.asarray(y, float).ravel())


@pytest.mark.parametrize(
    ("y", "outputs", "final", "steps", "message"),
    [
        (np.full(N, M), M, "softmax", False, f"the label {M}, but the model has {M} outputs; labels are 0 to {M - 1}"),
        (np.full(N, -1), M, "linear", False, "the label -1"),
        (np.where(LABELS.max() == LABELS, M + 3, LABELS), M, "softmax", True, f"the label {M + 3}"),
        (np.full(N, 2), 1, "sigmoid", False, "tells 0 from 1"),
        (np.full(N, -1), 1, "sigmoid", False, "the label -1"),
        (REAL[:, 0, 0], M, "softmax", False, f"one real value a sample, but the model has {M} outputs"),
        (np.ones((N, M), int), M, "softmax", False, "not every row is one-hot"),
        (LABELS[:, :3], M, "softmax", False, "fits no output"),
        (LABELS[:, :3], M, "softmax", True, "fits no output"),
        (REAL[:, 0], 1, "linear", False, "fits no output"),
        (REAL[:, 0, 0], 1, "linear", True, rf"give \(N, {T}\)"),
        (REAL[:5, 0], M, "linear", False, "one entry for each"),
        (REAL[:, 0] * np.inf, M, "linear", False, "infinite"),
    ],
)
def test_what_fits_no_output_is_refused(y, outputs, final, steps, message):
    with pytest.raises(InputError, match=message):
        read_targets(y, N, network(outputs, final, steps), "f")


def test_an_integer_model_reads_the_same(pair_of):
    for name in ("binary", "regression", "tiny", "timedist", "acts"):
        real, integer, path = pair_of(name)
        first, second = (load_calibration(path, real.input_shape, net) for net in (real, integer))
        for a, b in ((first.y, second.y), (first.values, second.values)):
            assert (a is None) == (b is None)
            assert a is None or np.array_equal(a, b)
    real, _, path = pair_of("regression")
    assert load_calibration(path, real.input_shape, real).y is None


@pytest.fixture
def pair_of():
    from pathlib import Path

    from codesign.network import load_network
    from codesign.quantization import read_integer_network

    folder = Path(__file__).parent.parent / "fixtures"
    return lambda name: (
        load_network(folder / f"{name}.h5"),
        read_integer_network(folder / f"{name}.tflite"),
        folder / f"{name}.calib.npz",
    )
