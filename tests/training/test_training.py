"""Training for the all-inputs bound: the estimate follows the certificate, training lowers it, snapping stays."""

from __future__ import annotations

import numpy as np
import pytest

tf_keras = pytest.importorskip("tf_keras", reason="training needs TensorFlow and tf_keras")

from codesign.errors import InputError  # noqa: E402
from codesign.network import load_network  # noqa: E402
from codesign.training import BoundModel, all_inputs, noisy  # noqa: E402
from codesign.training.bound import output_bound  # noqa: E402
from codesign.training.callback import bound_layers, float_network, snapped, walk, worst_outputs  # noqa: E402
from codesign.training.measure import certified_bound, measure  # noqa: E402


def small(units=(6,), steps=5, features=3, classes=3, seed=0, gain=0.5):
    tf_keras.utils.set_random_seed(seed)
    layers = tf_keras.layers
    last = len(units) - 1
    model = tf_keras.Sequential(
        [
            layers.Input((steps, features)),
            *(layers.LSTM(n, return_sequences=i < last) for i, n in enumerate(units)),
            layers.Dense(classes),
        ]
    )
    for layer in model.layers[:-1]:
        kernel, recurrent, bias = layer.get_weights()
        bias[units[0] : 2 * units[0]] = -1.0
        layer.set_weights([np.asarray(snapped(w * gain, 4)) for w in (kernel, recurrent)] + [bias])
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([np.asarray(snapped(kernel, 0)), bias])
    return model


def problem(steps=5, features=3, count=256, seed=0):
    """Which feature has the largest sum over time."""
    x = np.random.default_rng(seed).random((count, steps, features)).astype(np.float32)
    return x, x.sum(1).argmax(1).astype(np.int64)


@pytest.mark.parametrize("activations", ["int8", "int16"])
@pytest.mark.parametrize(("units", "steps"), [((6,), 5), ((4, 4), 4), ((12,), 12)])
def test_the_estimate_is_close_to_the_certificate(activations, units, steps):
    for seed in range(3):
        model = small(units, steps, seed=seed)
        bound = BoundModel(0.0, 1.0, activations, steps)
        estimate = float(np.max(output_bound(bound_layers(walk(model)), bound)[0]))
        certified = certified_bound(float_network(model, walk(model), steps), bound)
        assert 0.9 < estimate / certified < 1.15


def test_the_estimate_for_any_length_is_close_to_the_certificate():
    model = small(gain=0.4)
    bound = BoundModel(0.0, 1.0, "int16", None)
    estimate = float(np.max(output_bound(bound_layers(walk(model)), bound)[0]))
    certified = certified_bound(float_network(model, walk(model), 5), bound)
    assert 0.85 < estimate / certified < 1.2


def test_training_lowers_the_certified_bound_and_keeps_the_grid():
    x, y = problem()
    bound = BoundModel(0.0, 1.0, "int8", 5)

    def fit(with_bound):
        model = small()
        callbacks = [all_inputs(model, strength=0.05, certify_every=5)] if with_bound else []
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf_keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
        history = model.fit(noisy(x, y, 32, 0.02), epochs=10, verbose=0, callbacks=callbacks)
        return model, history.history

    plain, _ = fit(False)
    model, history = fit(True)
    network = float_network(model, walk(model), 5)
    ours = certified_bound(network, bound)
    assert ours < 0.5 * certified_bound(float_network(plain, walk(plain), 5), bound)
    assert history["certified"][-1] == pytest.approx(ours, rel=1e-6)
    assert len(history["all_inputs_bound"]) == 10
    for layer, gates in ((model.layers[0], 4), (model.layers[-1], 0)):
        for w in layer.get_weights()[: 2 if gates else 1]:
            assert np.allclose(w, snapped(w, gates), atol=1e-6 * np.abs(w).max())
    measured = measure(network, bound, x, y)
    assert measured.accuracy > 0.6
    assert 0 <= measured.covered <= 1


def test_keras_3_models_are_trained_too():
    keras = pytest.importorskip("keras", reason="Keras 3 is not installed")
    if int(keras.__version__.split(".")[0]) < 3 or keras.backend.backend() != "tensorflow":
        pytest.skip("this is not Keras 3 on TensorFlow")
    x, y = problem(count=128)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((5, 3)), keras.layers.LSTM(6), keras.layers.Dense(3)])
    bound = all_inputs(model, strength=0.05, certify_every=3, worst_case=0.5, memory=5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    history = model.fit(noisy(x, y, 32, 0.02), epochs=3, verbose=0, callbacks=[bound]).history
    network = float_network(model, walk(model), 5)
    ours = certified_bound(network, BoundModel(0.0, 1.0, "int8", 5))
    assert ours < 3
    assert history["certified"][-1] == pytest.approx(ours, rel=1e-6)
    assert len(history["all_inputs_bound"]) == 3
    for w in walk(model)[0].get_weights()[:2]:
        assert np.allclose(w, snapped(w, 4), atol=1e-6 * np.abs(w).max())


@pytest.mark.parametrize("softmax", [False, True])
def test_worst_outputs_raise_every_wrong_class_by_what_it_can_gain(softmax):
    rng = np.random.default_rng(0)
    logits, gain = rng.normal(size=(20, 4)).astype(np.float32), rng.uniform(0, 1, (4, 4)).astype(np.float32)
    y = rng.integers(0, 4, 20)
    raised = logits + gain[y]
    raised[np.arange(20), y] = logits[np.arange(20), y]

    def probabilities(z):
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    given, wanted = (probabilities(logits), probabilities(raised)) if softmax else (logits, raised)
    for labels in (y, y[:, None], np.eye(4, dtype=np.float32)[y]):
        assert np.allclose(worst_outputs(labels, given, gain, softmax), wanted, atol=1e-5)


def test_cells_begin_with_the_memory_that_is_asked_for():
    model = small()
    callback = all_inputs(model, memory=20.0)
    callback.on_train_begin()
    bias = model.layers[0].get_weights()[2]
    forget = bias[6:12]
    assert np.allclose(np.exp(forget[[0, -1]]), [1, 20])
    assert np.allclose(bias[:6], -forget)


def test_a_trained_model_is_the_network_that_its_file_gives(tmp_path):
    model = small((4, 4), 4)
    model.save(str(tmp_path / "m.h5"))
    ours, read = float_network(model, walk(model), 4), load_network(tmp_path / "m.h5")
    for a, b in zip(ours.layers, read.layers, strict=True):
        assert (a.W == b.W).all()
        assert (a.b == b.b).all()


def test_straight_through_applies_updates_to_the_weights_behind_the_grid():
    from codesign.training.callback import Grid

    model = small()
    grid = Grid(walk(model))
    variable, behind, _ = grid.items[0]
    grid.enter()
    before = np.asarray(behind)
    variable.assign_add(np.full(variable.shape, 1e-5, np.float32))
    grid.leave()
    assert np.allclose(np.asarray(behind) - before, 1e-5, atol=2e-7)
    grid.enter()
    assert np.allclose(np.asarray(variable), snapped(behind, 4))


def test_noise_stays_in_the_domain():
    x, y = problem(count=64)
    for xb, yb in noisy(x, y, 16, 0.5, 0.0, 1.0):
        assert xb.shape == (16, 5, 3)
        assert len(yb) == 16
        assert float(np.min(xb)) >= 0
        assert float(np.max(xb)) <= 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda k: [k.LSTM(4, activation="relu")], "tanh, sigmoid"),
        (lambda k: [k.LSTM(4, return_sequences=True), k.Flatten(), k.Dense(2)], "returns sequences"),
        (lambda k: [k.GRU(4), k.Dense(2)], "GRU"),
        (lambda k: [k.Flatten(), k.Dense(2)], "not covered"),
        (lambda k: [k.LSTM(4), k.Dense(2, activation="elu")], "not covered"),
        (lambda k: [k.LSTM(4), k.Dense(1, activation="sigmoid")], "one output"),
    ],
)
def test_models_that_the_bound_does_not_cover_are_refused(build, message):
    model = tf_keras.Sequential([tf_keras.layers.Input((4, 3)), *build(tf_keras.layers)])
    with pytest.raises(InputError, match=message):
        all_inputs(model)
