"""Trains a Keras LSTM so that the board's error is bounded for every input. The three added lines are marked.

python examples/train_bound.py            # then: codesign convert --cover, codesign certify --region domain
"""

from __future__ import annotations

import numpy as np
import tf_keras as keras

from codesign.training import all_inputs  # 1

rng = np.random.default_rng(0)
x = rng.random((1024, 10, 4)).astype(np.float32)  # sensor readings in [0, 1]
y = x[:, -4:].sum(1).argmax(1)  # which sensor read most over the last steps

model = keras.Sequential([keras.layers.Input((10, 4)), keras.layers.LSTM(16), keras.layers.Dense(4)])
bound = all_inputs(model, low=0.0, high=1.0, activations="int8", strength=0.05)  # 2
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(0.01, global_clipnorm=1.0), loss, metrics=["accuracy"])
model.fit(x, y, epochs=30, batch_size=64, verbose=2, callbacks=[bound])  # 3
model.save("sensors.h5")
np.savez("sensors.calib.npz", x=x[:200], y=y[:200])
