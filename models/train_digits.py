"""Remakes digits.h5 and digits.keras (Keras 3) and digits.calib.npz: scikit-learn's 8 x 8 digits, a row a time step.

1,400 of the 1,797 images train, 397 test; the calibration file has the first 15 test images of every class. Pixels are
divided by 16, so the domain is [0, 1]. The outputs are logits.
"""

from __future__ import annotations

import numpy as np
from datasets import FloatArray, IntArray
from saving import balanced, output_folder, report, save_calibration, save_model
from sklearn.datasets import load_digits
from training import Settings, configure, train

SETTINGS = Settings(units=(24,), low=0.0, high=1.0, seed=1, epochs=150, input_noise=0.04)


def load() -> tuple[tuple[FloatArray, IntArray], tuple[FloatArray, IntArray]]:
    """Training part and test part, each (x, y)."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = (data.images[order] / 16.0).astype(np.float32), data.target[order].astype(np.int64)
    return (x[:1400], y[:1400]), (x[1400:], y[1400:])


def calibration(y_test: IntArray) -> IntArray:
    """Indices of the test images that the calibration file keeps."""
    return balanced(y_test, 15)


def main() -> None:
    folder = output_folder(__doc__)
    configure(SETTINGS.seed)
    (x, y), (x_test, y_test) = load()
    trained = train(x, y, 10, SETTINGS)
    chosen = calibration(y_test)
    x_chosen, y_chosen = x_test[chosen], y_test[chosen]
    report(trained, SETTINGS, train=(x, y), test=(x_test, y_test), calibration=(x_chosen, y_chosen))
    for suffix in ("h5", "keras"):
        save_model(trained, x.shape[1:], "linear", folder / f"digits.{suffix}", keras_version=3)
    save_calibration(x_chosen, y_chosen, folder / "digits.calib.npz")


if __name__ == "__main__":
    main()
