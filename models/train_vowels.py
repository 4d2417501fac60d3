"""Remakes vowels.h5 (Keras 2) and vowels.calib.npz: which of 9 speakers said the vowel, with two stacked LSTMs.

JapaneseVowels: 12 LPC cepstrum coefficients a frame, 7 to 29 frames an utterance, 270 training and 370 test utterances.
Each utterance is resampled linearly to 8 frames; a coefficient's 0.5 and 99.5 % quantiles over the training part map to
-1 and 1, with clipping. The calibration file has the first 20 test utterances of every speaker.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from datasets import FloatArray, IntArray, Series, read_ts
from saving import balanced, output_folder, report, save_calibration, save_model
from training import Settings, configure, train

STEPS = 8
SETTINGS = Settings(units=(16, 16), low=-1.0, high=1.0, seed=1, epochs=300, input_noise=0.05)


def resample(series: Series) -> npt.NDArray[np.float64]:
    """Every series at 8 equidistant points from its first to its last frame: (N, 8, 12)."""
    out = []
    for s in series:
        points = np.linspace(0, len(s) - 1, STEPS)
        out.append(np.stack([np.interp(points, np.arange(len(s)), column) for column in s.T], axis=1))
    return np.stack(out)


def load() -> tuple[tuple[FloatArray, IntArray], tuple[FloatArray, IntArray]]:
    """Training part and test part, each (x, y)."""
    series, labels = read_ts("JapaneseVowels", "TRAIN")
    test_series, test_labels = read_ts("JapaneseVowels", "TEST")
    low, high = np.quantile(np.concatenate(series), (0.005, 0.995), axis=0)
    x, x_test = (
        np.clip(2.0 * (resample(s) - low) / (high - low) - 1.0, -1.0, 1.0).astype(np.float32)
        for s in (series, test_series)
    )
    y, y_test = (np.array(part, np.int64) - 1 for part in (labels, test_labels))
    return (x, y), (x_test, y_test)


def calibration(y_test: IntArray) -> IntArray:
    """Indices of the test utterances that the calibration file keeps."""
    return balanced(y_test, 20)


def main() -> None:
    folder = output_folder(__doc__)
    configure(SETTINGS.seed)
    (x, y), (x_test, y_test) = load()
    trained = train(x, y, 9, SETTINGS)
    chosen = calibration(y_test)
    x_chosen, y_chosen = x_test[chosen], y_test[chosen]
    report(trained, SETTINGS, train=(x, y), test=(x_test, y_test), calibration=(x_chosen, y_chosen))
    save_model(trained, x.shape[1:], "softmax", folder / "vowels.h5", keras_version=2)
    save_calibration(x_chosen, y_chosen, folder / "vowels.calib.npz")


if __name__ == "__main__":
    main()
