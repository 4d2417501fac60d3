"""Training of a user's own Keras model for a certificate over all inputs: the bound as a differentiable loss term."""

from __future__ import annotations

from typing import Any

from codesign.quantization import Activations
from codesign.training.bound import BoundModel
from codesign.training.callback import Settings

__all__ = ["BoundModel", "Settings", "all_inputs", "noisy"]


def all_inputs(
    model: Any,
    low: Any = 0.0,
    high: Any = 1.0,
    activations: Activations = "int8",
    any_length: bool = False,
    settings: Settings | None = None,
    **options: Any,
) -> Any:
    """A callback that trains `model` (tf_keras, or Keras 3 on TensorFlow) for a small all-inputs bound.

    Make it before `model.compile` or after, and give it to `model.fit(callbacks=[...])`: it adds
    strength * log(bound + floor) to the loss, keeps weights on the int8 grid, and puts `all_inputs_bound` (an estimate)
    and, every few epochs, `certified` into the logs. `low`, `high`: the input domain, numbers or one a feature.
    `options` are fields of `Settings`. InputError for models the bound does not cover.
    """
    from codesign.training.callback import make_callback

    if type(model).__module__.startswith("tf_keras"):
        import tf_keras as keras
    else:
        import keras
    shape = model.input_shape
    bound = BoundModel(low, high, activations, None if any_length else int(shape[1]))
    return make_callback(keras, model, bound, settings or Settings(**options))


def noisy(x: Any, y: Any, batch: int, noise: float, low: Any = 0.0, high: Any = 1.0, seed: int = 0) -> Any:
    """A tf.data set of shuffled batches with Gaussian input noise (deviation `noise`), clipped to the domain."""
    import numpy as np
    import tensorflow as tf

    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    data = tf.data.Dataset.from_tensor_slices((np.asarray(x, np.float32), y))
    data = data.shuffle(len(x), seed=seed).batch(batch, drop_remainder=len(x) >= batch)
    generator = tf.random.Generator.from_seed(seed)

    def disturb(xb: Any, yb: Any) -> Any:
        return tf.clip_by_value(xb + generator.normal(tf.shape(xb), stddev=noise), low, high), yb

    return data.map(disturb)
