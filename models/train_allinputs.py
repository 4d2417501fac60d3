"""Remakes the sample models that are trained for a certificate over all inputs: NAME_allinputs.h5,
NAME_allinputs.calib.npz.

They solve the tasks of digits, motion and vowels on the same data; 'stream' is digits for any number of steps, and
'digits28' has its rows and columns stretched to 28. Trained with codesign.training (docs/all-inputs.md).
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import train_digits
import train_motion
import train_vowels
from datasets import FloatArray, IntArray
from saving import balanced, save_calibration

Part = tuple[FloatArray, IntArray]


@dataclass(frozen=True)
class Recipe:
    """A task and how it is trained. `strength` 0: without the bound (`noise` and snapping stay)."""

    task: str
    units: tuple[int, ...]
    classes: int
    low: float
    high: float
    activations: Literal["int8", "int16"]
    any_length: bool = False
    epochs: int = 80
    noise: float = 0.05
    strength: float = 0.1
    rate: float = 0.01
    softmax: bool = False
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)


RECIPES = {
    "digits": Recipe(
        "digits", (32,), 10, 0.0, 1.0, "int8", strength=0.17, epochs=200, options={"early": 1.5, "warm_up": 0.1}
    ),
    "stream": Recipe(
        "digits", (32,), 10, 0.0, 1.0, "int16", any_length=True, strength=0.05, epochs=90, options={"early": 2.0}
    ),
    "digits28": Recipe(
        "digits28", (32,), 10, 0.0, 1.0, "int16", strength=0.07, epochs=80, options={"early": 4.0, "memory": 28.0}
    ),
    "motion": Recipe(
        "motion", (12,), 4, 0.0, 1.0, "int8", strength=0.05, epochs=60, softmax=True, options={"early": 2.0}
    ),
    "vowels": Recipe(
        "vowels",
        (16, 16),
        9,
        -1.0,
        1.0,
        "int8",
        strength=0.01,
        epochs=800,
        softmax=True,
        options={"early": 4.0, "worst_case": 1.0},
    ),
}


def load(task: str) -> tuple[Part, Part, IntArray]:
    """Training part, test part, and the indices of the test samples that the calibration file keeps."""
    module = {"digits": train_digits, "digits28": train_digits, "motion": train_motion, "vowels": train_vowels}[task]
    (x, y), (x_test, y_test) = module.load()
    if task == "digits28":
        return (stretch(x), y), (stretch(x_test), y_test), balanced(y_test, 8)
    return (x, y), (x_test, y_test), module.calibration(y_test)


def stretch(x: FloatArray) -> FloatArray:
    """Images (N, 8, 8) as (N, 28, 28), linearly between pixel centres."""
    at = np.clip((np.arange(28) + 0.5) * 8 / 28 - 0.5, 0, 7)
    left = np.minimum(at.astype(int), 6)
    weight = np.zeros((28, 8))
    weight[np.arange(28), left], weight[np.arange(28), left + 1] = 1 - (at - left), at - left
    result: FloatArray = np.clip(np.einsum("ti,nij,sj->nts", weight, x, weight), 0, 1).astype(np.float32)
    return result


def build(recipe: Recipe, shape: tuple[int, ...]) -> Any:
    """The untrained tf_keras model; its output is logits or, where the recipe says so, softmax."""
    import tf_keras as keras

    layers = keras.layers
    last = len(recipe.units) - 1
    lstms = [layers.LSTM(n, return_sequences=i < last, name=f"lstm_{i}") for i, n in enumerate(recipe.units)]
    dense = layers.Dense(recipe.classes, activation="softmax" if recipe.softmax else None, name="dense")
    return keras.Sequential([layers.Input(shape), *lstms, dense], name=f"{recipe.task}_allinputs")


def train(recipe: Recipe, x: FloatArray, y: IntArray, verbose: int = 2) -> Any:
    """The trained model, its weights on the int8 grid."""
    import tf_keras as keras

    from codesign.training import all_inputs, noisy

    keras.utils.set_random_seed(recipe.seed)
    model = build(recipe, x.shape[1:])
    callbacks = []
    if recipe.strength > 0:
        callbacks.append(
            all_inputs(
                model, recipe.low, recipe.high, activations=recipe.activations, any_length=recipe.any_length,
                strength=recipe.strength, **recipe.options,
            )
        )  # fmt: skip
    batch = 64
    steps = max(1, len(x) // batch) * recipe.epochs
    rate = keras.optimizers.schedules.CosineDecay(recipe.rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not recipe.softmax)
    model.compile(keras.optimizers.Adam(rate, beta_2=0.99, global_clipnorm=1.0), loss, metrics=["accuracy"])
    data = noisy(x, y, batch, recipe.noise, recipe.low, recipe.high, recipe.seed)
    model.fit(data, epochs=recipe.epochs, verbose=verbose, callbacks=callbacks)
    return model


def one_thread() -> None:
    """Call before anything else of TensorFlow."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent)
    arguments = parser.parse_args()
    one_thread()
    from codesign.training import BoundModel
    from codesign.training.callback import float_network, walk
    from codesign.training.measure import measure

    recipe, folder, name = RECIPES[arguments.name], arguments.output, f"{arguments.name}_allinputs"
    folder.mkdir(parents=True, exist_ok=True)
    (x, y), (x_test, y_test), chosen = load(recipe.task)
    started = time.process_time()
    model = train(recipe, x, y)
    print(f"trained in {time.process_time() - started:.0f} s CPU")
    network = float_network(model, walk(model), x.shape[1])
    for activations in ("int8", "int16"):
        for steps in (x.shape[1], None) if recipe.any_length else (x.shape[1],):
            bound = BoundModel(recipe.low, recipe.high, activations, steps)
            print(
                activations, "any length" if steps is None else f"T = {steps}", measure(network, bound, x_test, y_test)
            )
    temporary = folder / f".{name}.h5"
    model.save(str(temporary), include_optimizer=False)
    os.replace(temporary, folder / f"{name}.h5")
    save_calibration(x_test[chosen], y_test[chosen], folder / f"{name}.calib.npz")


if __name__ == "__main__":
    main()
