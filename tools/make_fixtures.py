"""Remakes tests/fixtures: small random Keras 2 models, their calibration data, int8 and int16 .tflite files.

Run it from the repository's root: python tools/make_fixtures.py [--only-int16] [NAME ...]
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
import tf_keras as keras

L = keras.layers
MODELS = {
    "tiny": ((4, 3), lambda: [L.LSTM(5), L.Dense(3, activation="softmax")]),
    "logits": ((8, 8), lambda: [L.LSTM(16), L.Dense(10)]),
    "stacked": (
        (8, 4),
        lambda: [
            L.LSTM(8, return_sequences=True),
            L.LSTM(6),
            L.Dense(4, activation="relu"),
            L.Dense(3, activation="softmax"),
        ],
    ),
    "sequence": ((6, 4), lambda: [L.LSTM(7, return_sequences=True)]),
    "timedist": (
        (5, 3),
        lambda: [L.LSTM(6, return_sequences=True), L.TimeDistributed(L.Dense(4, activation="softmax"))],
    ),
    "acts": ((5, 3), lambda: [L.LSTM(6), L.Dense(5, activation="tanh"), L.Dense(4, activation="sigmoid")]),
    # TFLM's own mnist_lstm example, smaller: longer than the converter's cell clip of 10.
    "flatten": (
        (12, 3),
        lambda: [L.LSTM(4, return_sequences=True), L.Flatten(), L.Dense(3, activation="softmax")],
    ),
    "reshaped": (
        (6, 3),
        lambda: [
            L.LSTM(4, return_sequences=True),
            L.Reshape((3, 8)),
            L.LSTM(5, return_sequences=True),
            L.TimeDistributed(L.Dense(4, activation="relu")),
            L.Reshape((2, 6)),
            L.Dense(3),
            L.Flatten(),
            L.Dense(3),
        ],
    ),
    "binary": ((5, 3), lambda: [L.LSTM(6), L.Dense(1, activation="sigmoid")]),
    "regression": ((5, 3), lambda: [L.LSTM(6), L.Dense(1)]),
}


def make_int16(names: list[str]) -> None:
    """NAME.int16.tflite from NAME.h5 and NAME.tflite."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from codesign.network import load_network
    from codesign.quantization import read_integer_network, to_int16

    for name in names:
        path = Path("tests/fixtures", name)
        content = to_int16(read_integer_network(path.with_suffix(".tflite")), load_network(path.with_suffix(".h5")))
        path.with_suffix(".int16.tflite").write_bytes(content)


def main(names: list[str]) -> None:
    out = "tests/fixtures"
    for index, (name, (shape, layers)) in enumerate(MODELS.items()):
        if name not in names:
            continue
        rng = np.random.default_rng(index)
        model = keras.Sequential([L.Input(shape), *layers()])
        model.set_weights(
            [
                (w + rng.normal(0, 0.3, w.shape)).astype("f") if w.ndim > 1 else rng.normal(0, 0.3, w.shape).astype("f")
                for w in model.get_weights()
            ]
        )
        x = rng.uniform(-1, 1, (200, *shape)).astype("f")
        if name == "binary":  # as many samples above 0.5 as below
            *others, bias = model.get_weights()
            middle = np.median(model.predict(x, verbose=0))
            model.set_weights([*others, bias - np.log(middle / (1 - middle)).astype("f")])
        outputs = model.predict(x, verbose=0)
        y = np.argmax(outputs, axis=-1)
        if outputs.shape[-1] == 1:
            y = (outputs >= 0.5).astype(int) if name == "binary" else outputs + rng.normal(0, 0.05, outputs.shape)
        model.save(f"{out}/{name}.h5")
        np.savez_compressed(f"{out}/{name}.calib.npz", x=x, y=y.reshape(len(x), -1)[:, -1])
        signature = tf.function(lambda v, m=model: m(v)).get_concrete_function(tf.TensorSpec((1, *shape), tf.float32))
        with tempfile.TemporaryDirectory() as folder:
            tf.saved_model.save(model, folder, signatures=signature)
            Path(f"{out}/{name}.float.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda x=x: ([s[None]] for s in x)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
            Path(f"{out}/{name}.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    chosen = [argument for argument in sys.argv[1:] if argument != "--only-int16"] or list(MODELS)
    if "--only-int16" not in sys.argv:
        main(chosen)
    make_int16(chosen)
