"""Float64 evaluation against a scalar re-implementation, and its behaviour at the edges."""

import math

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.network import (
    Activation,
    Dense,
    FloatNetwork,
    Lstm,
    Reshape,
    evaluate,
    evaluate_layers,
    layer_shapes,
    load_network,
    output_size,
)


def _scalar_lstm(layer, x):
    """One sample, one scalar at a time, from the equations of the LSTM."""
    units = layer.units
    h, c, sequence = [0.0] * units, [0.0] * units, []
    for step in x:
        z = [
            [
                math.fsum(
                    [float(layer.b[g, k])]
                    + [float(w) * float(v) for w, v in zip(layer.W[g, k], step, strict=True)]
                    + [float(r) * v for r, v in zip(layer.R[g, k], h, strict=True)]
                )
                for k in range(units)
            ]
            for g in range(4)
        ]
        i, f, o = ([1 / (1 + math.exp(-v)) for v in z[g]] for g in (0, 1, 3))
        c = [f[k] * c[k] + i[k] * math.tanh(z[2][k]) for k in range(units)]
        h = [o[k] * math.tanh(c[k]) for k in range(units)]
        sequence.append(h)
    return sequence


@pytest.mark.parametrize("name", ["tiny", "sequence", "timedist"])
def test_lstm_is_float64_exact(fixtures, name):
    network = load_network(fixtures / f"{name}.h5")
    x = np.load(fixtures / f"{name}.calib.npz")["x"][:3]
    hidden = evaluate_layers(network, x)[0]
    expected = np.array([_scalar_lstm(network.layers[0], sample) for sample in x])
    np.testing.assert_allclose(hidden, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["tiny", "logits", "stacked", "sequence", "timedist", "acts", "flatten", "reshaped"])
def test_layers_agree_with_the_whole(fixtures, name):
    network = load_network(fixtures / f"{name}.h5")
    x = np.load(fixtures / f"{name}.calib.npz")["x"][:7]
    whole, layers = evaluate(network, x), evaluate_layers(network, x)
    assert len(layers) == len(network.layers)
    np.testing.assert_array_equal(layers[-1], whole)
    assert whole.shape == (7, *layer_shapes(network)[-1])
    assert output_size(network) == whole[0].size
    assert layers[0].shape == (7, network.input_shape[0], network.layers[0].units)
    np.testing.assert_allclose(np.concatenate([evaluate(network, s[None]) for s in x]), whole, rtol=0, atol=1e-15)


def test_logits_drop_only_the_final_softmax(fixtures):
    x = np.load(fixtures / "tiny.calib.npz")["x"][:5]
    network = load_network(fixtures / "tiny.h5")
    logits, probabilities = evaluate(network, x, logits=True), evaluate(network, x)
    powers = np.exp(logits)
    np.testing.assert_allclose(powers / powers.sum(-1, keepdims=True), probabilities, atol=1e-15)
    sigmoid = load_network(fixtures / "acts.h5")
    x = np.load(fixtures / "acts.calib.npz")["x"][:5]
    np.testing.assert_array_equal(evaluate(sigmoid, x, logits=True), evaluate(sigmoid, x))
    reshaped = FloatNetwork("r", (4, 3), (*network.layers, Reshape("r", (3, 1))), "", "")
    np.testing.assert_array_equal(evaluate(reshaped, x[:, :4], logits=True)[..., 0], evaluate(network, x[:, :4], True))


def test_no_overflow_at_extreme_inputs():
    rng = np.random.default_rng(0)
    lstm = Lstm("l", *(rng.normal(0, 1e18, s).astype("f") for s in ((4, 3, 2), (4, 3, 3), (4, 3))), True)
    dense = Dense("d", rng.normal(0, 1e18, (4, 3)).astype("f"), np.zeros(4, "f"), "softmax")
    network = FloatNetwork("n", (6, 2), (lstm, dense, Activation("s", "sigmoid")), "", "")
    with np.errstate(over="raise", invalid="raise"):
        outputs = evaluate(network, rng.normal(0, 1e18, (10, 6, 2)))
    assert np.isfinite(outputs).all()


@pytest.mark.parametrize("kind", ["relu", "linear", "tanh", "sigmoid", "softmax"])
def test_activations(fixtures, kind):
    base = load_network(fixtures / "sequence.h5")
    x = np.load(fixtures / "sequence.calib.npz")["x"][:2]
    z = evaluate(base, x)
    got = evaluate(FloatNetwork("n", base.input_shape, (*base.layers, Activation("a", kind)), "", ""), x)
    powers = np.exp(z)
    expected = {
        "relu": np.where(z > 0, z, 0),
        "linear": z,
        "tanh": np.tanh(z),
        "sigmoid": 1 / (1 + np.exp(-z)),
        "softmax": powers / powers.sum(-1, keepdims=True),
    }[kind]
    np.testing.assert_allclose(got, expected, atol=1e-15)


def test_wrong_shapes_and_empty_batches(fixtures):
    network = load_network(fixtures / "logits.h5")
    for shape in ((8, 8), (1, 8, 7), (1, 7, 8), (1, 1, 8, 8)):
        with pytest.raises(InputError, match=r"needs \(B, 8, 8\)"):
            evaluate(network, np.zeros(shape))
    assert evaluate(network, np.zeros((0, 8, 8))).shape == (0, 10)
