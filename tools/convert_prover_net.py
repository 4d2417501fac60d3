"""Converts one of PROVER's MNIST LSTMs (.npz) and MNIST images into a Keras model with calibration data.

    python tools/convert_prover_net.py NET.npz IMAGES.npz OUTPUT.h5

NET.npz: PyTorch's layout, lstm_weight_ih_l0 (4H, D), lstm_weight_hh_l0 (4H, H), lstm_bias_ih_l0 and lstm_bias_hh_l0
(4H,) with gates i, f, g, o; linear_weight (M, H), linear_bias (M,). IMAGES.npz: x uint8 (N, 28, 28), y (N,). An image
divided by 255 is read row by row and cut into frames of D pixels. Writes OUTPUT.h5 and OUTPUT.calib.npz beside it. The
two biases are added in double precision and rounded to float32 once.
"""

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def samples(images: Path, features: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """Frames (N, 784 / features, features) in [0, 1] and labels."""
    with np.load(images, allow_pickle=False) as data:
        pixels, y = data["x"], data["y"].astype(np.int64)
    if (pixels.size // len(pixels)) % features:
        sys.exit(f"images of {pixels.size // len(pixels)} pixels do not divide into frames of {features}")
    return (pixels.reshape(len(pixels), -1, features) / 255.0).astype(np.float32), y


def keras_weights(net: Path) -> list[Array]:
    """kernel (D, 4H), recurrent kernel (H, 4H), bias (4H,), dense kernel (H, M), dense bias (M,): Keras' gate order is
    PyTorch's."""
    with np.load(net, allow_pickle=False) as data:
        bias = data["lstm_bias_ih_l0"].astype(np.float64) + data["lstm_bias_hh_l0"].astype(np.float64)
        return [
            data["lstm_weight_ih_l0"].T.astype(np.float32),
            data["lstm_weight_hh_l0"].T.astype(np.float32),
            bias.astype(np.float32),
            data["linear_weight"].T.astype(np.float32),
            data["linear_bias"].astype(np.float32),
        ]


def convert(net: Path, images: Path, output: Path) -> None:
    import tf_keras as keras

    weights = keras_weights(net)
    features, units, classes = weights[0].shape[0], weights[1].shape[0], weights[3].shape[1]
    x, y = samples(images, features)
    layers = keras.layers
    model = keras.Sequential([layers.Input((x.shape[1], features)), layers.LSTM(units), layers.Dense(classes)])
    model.set_weights(weights)
    output.parent.mkdir(parents=True, exist_ok=True)
    model.save(output)
    np.savez_compressed(output.with_suffix(".calib.npz"), x=x, y=y)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    convert(*(Path(argument) for argument in sys.argv[1:]))
