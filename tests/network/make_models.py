"""Run as a script with a folder: saves Keras 2 and Keras 3 models, their float32 predictions, and models to refuse.

One child process does it all for the test session, since TensorFlow takes seconds to import.
"""

import os
import sys
import warnings
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
warnings.filterwarnings("ignore")

import keras as keras3  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tf_keras as keras2  # noqa: E402

SHAPE = (5, 3)
# Where the formats of the two versions differ.
KERAS2_REFUSED = ("bidirectional", "stateful", "open_steps", "float16", "shared", "two_inputs", "residual")


def sequential_mixed(keras):
    L = keras.layers
    return keras.Sequential(
        [
            L.Input(SHAPE),
            L.LSTM(4, return_sequences=True, unit_forget_bias=False, unroll=True),
            L.Dropout(0.3),
            L.TimeDistributed(L.Dense(4, activation="relu")),
            L.Flatten(),
            L.GaussianNoise(0.1),
            L.Dense(7, activation="sigmoid"),
            L.Dense(2),
            L.Activation("softmax"),
        ]
    )


def functional(keras):
    L = keras.layers
    inputs = keras.Input(SHAPE)
    x = L.LSTM(5, use_bias=False, dropout=0.2)(inputs)
    x = L.Dense(6, use_bias=False)(x)
    x = L.ReLU()(x)
    x = L.Reshape((-1, 3))(x)
    x = L.Dense(4, activation="tanh")(x)
    x = L.Softmax()(x)
    model = keras.Model(inputs, x)
    return model


def stacked(keras):
    L = keras.layers
    return keras.Sequential(
        [
            L.Input(SHAPE),
            L.LSTM(4, return_sequences=True),
            L.LSTM(6, return_sequences=True),
            L.Dense(3, activation="tanh"),
            L.LSTM(2),
        ]
    )


def long_sequence(keras):
    L = keras.layers
    return keras.Sequential([L.Input((30, 2)), L.LSTM(3), L.Dense(2, use_bias=False, activation="softmax")])


def randomize(model, seed, scale):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, scale, w.shape).astype("f") for w in model.get_weights()])


def accumulate_then_forget(model):
    """Weights and inputs that drive the cell past the converter's clip of 10, then halve it so that it shows.

    Positive inputs: i = f = 1, g = 1. Negative inputs: i = 0, f = 1/2. Gate order i, f, c, o.
    """
    kernel, recurrent, bias, dense = model.get_weights()
    kernel = np.tile(np.repeat([20.0, 5.0, 20.0, 0.0], 3) / 2, (2, 1))
    bias = np.repeat([0.0, 5.0, 0.0, 20.0], 3)
    model.set_weights([kernel, 0 * recurrent, bias, dense])
    sign = np.array([[1.0] * split + [-1.0] * (30 - split) for split in range(10, 30)], "f")
    return np.repeat(sign[..., None], 2, axis=-1)


def refused(keras, folder, suffix, names=()):
    """One file for each kind of model (or those named) that has to be refused."""
    L = keras.layers

    class Doubling(L.Layer):
        def call(self, x):
            return 2 * x

    class Subclassed(L.LSTM):
        pass

    def chain(*layers):
        return keras.Sequential([L.Input(SHAPE), *layers])

    def graph(build):
        inputs = keras.Input(SHAPE)
        return keras.Model(*build(inputs))

    def shared(inputs):
        layer = L.LSTM(3, return_sequences=True)
        return inputs, layer(layer(inputs))

    def two_inputs(inputs):
        other = keras.Input(SHAPE)
        return [inputs, other], L.Concatenate()([L.LSTM(2)(inputs), L.LSTM(2)(other)])

    def two_outputs(inputs):
        x = L.LSTM(2)(inputs)
        return inputs, [L.Dense(1)(x), L.Dense(1)(x)]

    def residual(inputs):
        x = L.LSTM(3, return_sequences=True)(inputs)
        return inputs, L.LSTM(2)(L.Add()([x, inputs]))

    def initial_state(inputs):
        x, h, c = L.LSTM(3, return_state=True, return_sequences=True)(inputs)
        return inputs, L.LSTM(3)(x, initial_state=[h, c])

    models = {
        "bidirectional": lambda: chain(L.Bidirectional(L.LSTM(3))),
        "gru": lambda: chain(L.GRU(3)),
        "rnn_cell": lambda: chain(L.RNN(L.LSTMCell(3))),
        "conv": lambda: chain(L.Conv1D(3, 2), L.LSTM(3)),
        "masking": lambda: chain(L.Masking(), L.LSTM(3)),
        "hard_sigmoid": lambda: chain(L.LSTM(3, recurrent_activation="hard_sigmoid")),
        "relu_lstm": lambda: chain(L.LSTM(3, activation="relu")),
        "backwards": lambda: chain(L.LSTM(3, go_backwards=True)),
        "lambda": lambda: chain(L.LSTM(3), L.Lambda(lambda x: x * 2)),
        "custom": lambda: chain(L.LSTM(3), Doubling()),
        "subclass": lambda: chain(Subclassed(3)),
        "relu6": lambda: chain(L.LSTM(3), L.ReLU(max_value=6)),
        "elu": lambda: chain(L.LSTM(3), L.Dense(2, activation="elu")),
        "softmax_axis": lambda: chain(L.LSTM(3, return_sequences=True), L.Softmax(axis=1)),
        "nested": lambda: chain(keras.Sequential([L.LSTM(3)])),
        "no_lstm": lambda: chain(L.Flatten(), L.Dense(2)),
        "float16": lambda: chain(L.LSTM(3, dtype="mixed_float16")),
        "open_steps": lambda: keras.Sequential([L.Input((None, 3)), L.LSTM(3)]),
        "flat_input": lambda: keras.Sequential([L.Input((6,)), L.Reshape((2, 3)), L.LSTM(3)]),
        "embedding": lambda: keras.Sequential([L.Input((6,)), L.Embedding(9, 4), L.LSTM(3)]),
        "stateful": lambda: keras.Sequential([L.Input(batch_size=1, shape=SHAPE), L.LSTM(3, stateful=True)]),
        "shared": lambda: graph(shared),
        "two_inputs": lambda: graph(two_inputs),
        "two_outputs": lambda: graph(two_outputs),
        "residual": lambda: graph(residual),
        "initial_state": lambda: graph(initial_state),
    }
    for name in names or models:
        models[name]().save(folder / f"{name}.{suffix}")


def float_tflite(model, path, x, fused):
    shape = (1, *x.shape[1:])
    signature = tf.function(lambda v: model(v)).get_concrete_function(tf.TensorSpec(shape, tf.float32))
    saved = str(path.with_suffix(""))
    tf.saved_model.save(model, saved, signatures=signature)
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(saved).convert())
    if not fused:
        return
    interpreter = tf.lite.Interpreter(str(path))
    interpreter.allocate_tensors()
    outputs = []
    for sample in x:
        interpreter.reset_all_variables()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    np.savez(path.with_suffix(".npz"), x=x, y=np.array(outputs))


def main(folder):
    builders = (sequential_mixed, functional, stacked, long_sequence)
    for prefix, keras in (("keras2", keras2), ("keras3", keras3)):
        for seed, build in enumerate(builders):
            model = build(keras)
            randomize(model, seed, 0.8)
            x = np.random.default_rng(seed).normal(0, 1.5, (20, *model.input_shape[1:])).astype("f")
            if build is sequential_mixed:  # so that the file has optimizer weights too
                model.compile("adam", "mse")
                model.train_on_batch(x, np.zeros((len(x), 2)))
                randomize(model, seed, 0.8)
            for suffix in ("h5", "keras"):
                model.save(folder / f"{prefix}-{build.__name__}.{suffix}")
            np.savez(folder / f"{prefix}-{build.__name__}.npz", x=x, y=np.array(model(x)))
            if keras is keras2 and build is not sequential_mixed:
                if build is long_sequence:
                    x = accumulate_then_forget(model)
                float_tflite(model, folder / f"tflite-{build.__name__}.float.tflite", x, fused=build is not functional)
        (folder / f"refused-{prefix}").mkdir()
    refused(keras2, folder / "refused-keras2", "h5", KERAS2_REFUSED)
    refused(keras3, folder / "refused-keras3", "keras")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
