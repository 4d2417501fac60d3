"""The TensorFlow half of `convert`, run as `python -m codesign.quantization._tf_worker FOLDER` in a child process.

A child process, because TensorFlow's converter was seen to leave the floating-point rounding mode changed, which a
verifier must never inherit. FOLDER holds network.json (the layers) and arrays.npz (their weights, and the samples
`x`); model.tflite is written to it. Exit code 3: TensorFlow or tf_keras cannot be imported.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codesign.quantization.convert import EXIT_MISSING


def main(folder: Path) -> int:
    """Convert the network in `folder`; returns the exit code."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        import tensorflow as tf
        import tf_keras
    except ImportError as error:
        print(error, file=sys.stderr)
        return EXIT_MISSING
    import numpy as np

    with np.load(folder / "arrays.npz", allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    network = json.loads((folder / "network.json").read_text())
    model = _rebuild(tf_keras, network, arrays)
    saved = str(folder / "saved_model")
    shape = (1, *network["input_shape"])
    signature = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec(shape, tf.float32, name="x"))
    tf.saved_model.save(model, saved, signatures=signature)
    _reset_state_between_samples()
    converter = tf.lite.TFLiteConverter.from_saved_model(saved)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[None]] for sample in arrays["x"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    (folder / "model.tflite").write_bytes(converter.convert())
    return 0


def _rebuild(keras: Any, network: dict[str, Any], arrays: dict[str, Any]) -> Any:
    """The network as a tf_keras model: Keras 3 does not convert to the fused LSTM operator."""
    layers = keras.layers
    model = keras.Sequential([layers.Input(tuple(network["input_shape"]), name="input")], name="network")
    for index, layer in enumerate(network["layers"]):
        name, kind = layer["name"], layer["kind"]
        if kind == "lstm":
            units = arrays[f"b{index}"].shape[1]
            model.add(layers.LSTM(units, return_sequences=layer["return_sequences"], name=name))
            W, R, b = (arrays[f"{key}{index}"] for key in "WRb")
            # Keras' columns: all units of gate i, then of f, c, o.
            weights = [w.transpose(2, 0, 1).reshape(w.shape[2], 4 * units) for w in (W, R)]
            model.layers[-1].set_weights([*weights, b.ravel()])
        elif kind == "dense":
            W, b = arrays[f"W{index}"], arrays[f"b{index}"]
            dense = layers.Dense(len(b), activation=layer["activation"], name=name)
            sequence = len(model.output_shape) == 3
            model.add(layers.TimeDistributed(dense, name=f"{name}_steps") if sequence else dense)
            model.layers[-1].set_weights([W.T, b])
        elif kind == "activation":
            model.add(layers.Activation(layer["activation"], name=name))
        else:
            model.add(layers.Reshape(tuple(layer["shape"]), name=name))
    return model


def _reset_state_between_samples() -> None:
    """Let every calibration sample start from the LSTM's zero state, as inference does.

    TFLite's calibrator keeps the state tensors from one sample to the next, which widens the recorded ranges.
    Its Prepare call allocates and resets them, and keeps the statistics.
    """
    from tensorflow.lite.python.optimize import calibrator

    def feed(self: Any, dataset: Any, resize_input: bool) -> None:
        for sample in _samples(dataset):
            self._calibrator.Prepare([list(array.shape) for array in sample])
            self._calibrator.FeedTensor(sample)

    if not hasattr(calibrator.Calibrator, "_feed_tensors"):
        raise RuntimeError("this version of TensorFlow has another calibrator; install tensorflow 2.21")
    calibrator.Calibrator._feed_tensors = feed


def _samples(dataset: Any) -> Iterator[list[Any]]:
    yield from dataset()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
