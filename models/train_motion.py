"""Remakes motion.h5 (Keras 2) and motion.calib.npz: activity from a smartwatch's accelerometer and gyroscope.

BasicMotions: 6 axes at 10 Hz, 100 samples a series, 40 training and 40 test series of 4 activities. A window of 40
samples is cut into 8 frames of 5; a feature is log2(1 + s) / 4 clipped to [0, 1], s the frame's standard deviation of
one axis. Training windows start every 4 samples, test windows (the calibration file) at 0, 20, 40 and 60.
"""

from __future__ import annotations

import numpy as np
from datasets import FloatArray, IntArray, read_ts
from saving import output_folder, report, save_calibration, save_model
from training import Settings, configure, train

ACTIVITIES = ("Standing", "Running", "Walking", "Badminton")
STEPS, FRAME = 8, 5
SETTINGS = Settings(units=(12,), low=0.0, high=1.0, seed=1, epochs=60)


def features(part: str, starts: range) -> tuple[FloatArray, IntArray]:
    """Windows x (N, 8, 6) of a part ('TRAIN', 'TEST') that begin at `starts`, and their labels (N,)."""
    series, labels = read_ts("BasicMotions", part)
    windows = np.stack([s[i : i + STEPS * FRAME] for s in series for i in starts])
    deviation = windows.reshape(len(windows), STEPS, FRAME, -1).std(axis=2)
    x = np.clip(np.log2(1.0 + deviation) / 4.0, 0.0, 1.0).astype(np.float32)
    return x, np.array([ACTIVITIES.index(label) for label in labels for _ in starts], np.int64)


def load() -> tuple[tuple[FloatArray, IntArray], tuple[FloatArray, IntArray]]:
    """Training part and test part, each (x, y)."""
    return features("TRAIN", range(0, 61, 4)), features("TEST", range(0, 61, 20))


def calibration(y_test: IntArray) -> IntArray:
    """Indices of the test windows that the calibration file keeps: all."""
    return np.arange(len(y_test))


def main() -> None:
    folder = output_folder(__doc__)
    configure(SETTINGS.seed)
    (x, y), (x_test, y_test) = load()
    trained = train(x, y, len(ACTIVITIES), SETTINGS)
    report(trained, SETTINGS, train=(x, y), test=(x_test, y_test))
    save_model(trained, x.shape[1:], "softmax", folder / "motion.h5", keras_version=2)
    chosen = calibration(y_test)
    save_calibration(x_test[chosen], y_test[chosen], folder / "motion.calib.npz")


if __name__ == "__main__":
    main()
