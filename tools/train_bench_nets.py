"""Trains the networks that tools/bench_verifier.py measures: scikit-learn digits, T = 8 and T = 28, regularised or not.

Seeded. Run it in the repository's root: python tools/train_bench_nets.py [FOLDER]   (default: out/bench)
'plain' nets have ordinary training; the others weight decay, input noise, and (wc) the worst-case loss of the sample
models. Inputs are the pixels in [0, 1]; T = 28 are the images enlarged to 28 x 28.
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
}


def data(steps: int) -> tuple[np.ndarray, np.ndarray]:
    digits = load_digits()
    x = digits.images.astype(np.float32) / 16
    if steps == 28:
        x = np.clip(zoom(x, (1, 3.5, 3.5), order=1), 0, 1)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order].astype(np.float32), digits.target[order].astype(np.int64)


def train(name: str, folder: Path) -> None:
    steps, units, decay, noise, epochs = NETS[name]
    keras.utils.set_random_seed(1)
    x, y = data(steps)
    penalty = keras.regularizers.l2(decay)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input(x.shape[1:]),
            layers.GaussianNoise(noise) if noise else layers.Activation("linear"),
            layers.LSTM(units, kernel_regularizer=penalty, recurrent_regularizer=penalty, name="lstm"),
            layers.Dense(10, kernel_regularizer=penalty, name="dense"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.005), loss, metrics=["accuracy"])
    model.fit(x[:1400], y[:1400], epochs=epochs, batch_size=64, verbose=0)
    accuracy = model.evaluate(x[1400:], y[1400:], verbose=0)[1]
    final = keras.Sequential([layers.Input(x.shape[1:]), layers.LSTM(units), layers.Dense(10)])
    final.set_weights(model.get_weights())
    final.save(folder / f"{name}.h5")
    np.savez_compressed(folder / f"{name}.calib.npz", x=x[1400:1600], y=y[1400:1600])
    print(f"{name}: test accuracy {accuracy:.4f}", flush=True)


def main() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out/bench")
    folder.mkdir(parents=True, exist_ok=True)
    for name in NETS:
        train(name, folder)


if __name__ == "__main__":
    main()
