"""Makes the benchmark model: 28 x 28 input, LSTM of 20 units with return_sequences, Dense(10), softmax on each step.

    python tools/make_benchmark_model.py FOLDER

writes FOLDER/benchmark.h5 (Keras 2, seeded random weights), its calibration data and the int8 benchmark.tflite. It
has the size of TFLM's LSTM example; its weights are not trained, which no count of instructions depends on.
"""

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tf_keras as keras

from codesign.quantization import convert

STEPS, FEATURES, UNITS, CLASSES = 28, 28, 20, 10


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(28)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((STEPS, FEATURES)),
            layers.LSTM(UNITS, return_sequences=True),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model.set_weights([rng.normal(0, 0.3, w.shape).astype("f") for w in model.get_weights()])
    x = rng.uniform(0, 1, (100, STEPS, FEATURES)).astype("f")
    model.save(folder / "benchmark.h5")
    np.savez_compressed(folder / "benchmark.calib.npz", x=x, y=rng.integers(0, CLASSES, len(x)))
    convert(folder / "benchmark.h5", folder / "benchmark.tflite")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
