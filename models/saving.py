"""Writes a trained network and its calibration data; every file is written whole or not at all."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import FloatArray, IntArray
from training import Settings, Trained, estimate


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Has `write` make a file of the same suffix beside `path`, then moves it there."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        write(temporary)
        os.replace(temporary, path)
    print(f"{path.name}: {path.stat().st_size} bytes")


def save_model(trained: Trained, input_shape: tuple[int, ...], activation: str, path: Path, keras_version: int) -> None:
    """LSTM layers and a Dense with `activation`, saved by Keras 2 (tf_keras) or Keras 3 in the format of the suffix."""
    if keras_version == 2:
        import tf_keras as keras
    else:
        import keras

    layers = keras.layers
    last = len(trained.units) - 1
    model = keras.Sequential(
        [
            layers.Input(input_shape),
            *(layers.LSTM(n, return_sequences=i < last, name=f"lstm_{i}") for i, n in enumerate(trained.units)),
            layers.Dense(len(trained.weights[-1]), activation=activation, name="dense"),
        ],
        name=path.stem,
    )
    model.set_weights(trained.weights)
    _replace(path, lambda p: model.save(str(p)))


def save_calibration(x: FloatArray, y: IntArray, path: Path) -> None:
    """x (N, T, D) float32 and y (N,) int64 as an .npz file."""
    _replace(path, lambda p: np.savez_compressed(p, x=x.astype(np.float32), y=y.astype(np.int64)))


def balanced(y: IntArray, per_class: int) -> IntArray:
    """Indices of the first `per_class` samples of every class, in order."""
    picked = [np.flatnonzero(y == label)[:per_class] for label in np.unique(y)]
    return np.sort(np.concatenate(picked)).astype(np.int64)


def output_folder(description: str | None) -> Path:
    """The folder of the command line's --output; by default the one of the scripts."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent)
    folder: Path = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def report(trained: Trained, settings: Settings, **parts: tuple[FloatArray, IntArray]) -> None:
    """One line a part of the data: accuracy, and the share that the training's own interval recursion vouches for."""
    for part, (x, y) in parts.items():
        e = estimate(trained, x, y, settings)
        print(
            f"{part}: {len(x)} samples, float accuracy {e.accuracy:.4f}, interval recursion vouches for "
            f"{e.vouched:.4f} of the correct ones at {settings.radius_steps:g} input step(s); "
            f"median margin {e.margin:.2f}, median worst change {e.bound:.2f} logits"
        )
