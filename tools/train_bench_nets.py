"""Trains the networks that the verifier's benchmarks measure: digits with T = 8 and 28, motion with T = 100.

Seeded. Run it in the repository's root: python tools/train_bench_nets.py [FOLDER [NAME ...]]   (default: out/bench,
all of them)
'plain' nets have ordinary training; the others weight decay and input noise. Inputs are the pixels in [0, 1]; T = 28 is
the images enlarged to 28 x 28. m100h12 takes all 100 samples of the six axes of BasicMotions (package aeon), log2(1 +
|v|) / 5 clipped to [0, 1]; its calibration file is the test part.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import tensorflow as tf
import tf_keras as keras
from scipy.ndimage import zoom
from sklearn.datasets import load_digits

NETS = {  # T, units, L2, input noise, epochs
    "d8h16": (8, 16, 3e-4, 0.05, 60),
    "d8h32": (8, 32, 3e-4, 0.05, 60),
    "d28h20": (28, 20, 3e-4, 0.05, 60),
    "d8h16plain": (8, 16, 0.0, 0.0, 60),
    "m100h12": (100, 12, 3e-4, 0.03, 90),
}
ACTIVITIES = ("Standing", "Running", "Walking", "Badminton")


def motion(part: str) -> tuple[np.ndarray, np.ndarray]:
    sys.path.insert(0, str(Path(__file__).parent.parent / "models"))
    from datasets import read_ts

    series, labels = read_ts("BasicMotions", part)
    x = np.clip(np.log2(1 + np.abs(np.stack(series))) / 5, 0, 1).astype(np.float32)
    return x, np.array([ACTIVITIES.index(label) for label in labels])


def data(steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training part and test part, x and y each."""
    if steps == 100:
        x, y = motion("TRAIN")
        shifted = np.concatenate([np.roll(x, k, axis=1) for k in range(0, 100, 10)])
        return (shifted, np.tile(y, 10), *motion("TEST"))
    digits = load_digits()
    x = digits.images.astype(np.float32) / 16
    if steps == 28:
        x = np.clip(zoom(x, (1, 3.5, 3.5), order=1), 0, 1)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype(np.float32), digits.target[order].astype(np.int64)
    return x[:1400], y[:1400], x[1400:], y[1400:]


def train(name: str, folder: Path) -> None:
    steps, units, decay, noise, epochs = NETS[name]
    keras.utils.set_random_seed(1)
    x, y, x_test, y_test = data(steps)
    classes = int(y.max()) + 1
    penalty = keras.regularizers.l2(decay)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input(x.shape[1:]),
            layers.GaussianNoise(noise) if noise else layers.Activation("linear"),
            layers.LSTM(units, kernel_regularizer=penalty, recurrent_regularizer=penalty, name="lstm"),
            layers.Dense(classes, kernel_regularizer=penalty, name="dense"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01 if steps == 100 else 0.005), loss, metrics=["accuracy"])
    model.fit(x, y, epochs=epochs, batch_size=64, verbose=0)
    accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
    final = keras.Sequential([layers.Input(x.shape[1:]), layers.LSTM(units), layers.Dense(classes)])
    final.set_weights(model.get_weights())
    final.save(folder / f"{name}.h5")
    np.savez_compressed(folder / f"{name}.calib.npz", x=x_test[:200], y=y_test[:200])
    print(f"{name}: test accuracy {accuracy:.4f}", flush=True)


def main() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out/bench")
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or NETS:
        train(name, folder)


if __name__ == "__main__":
    main()
