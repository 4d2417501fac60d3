"""Accuracy, confusion and error figures as vendor tools report them. Pure functions of arrays.

The error figures are those of ST's X-CUBE-AI validation report ("Evaluation report and metrics", UM2526 and its
embedded documentation): RMSE, MAE, relative L2, mean and standard deviation of the error, Nash-Sutcliffe efficiency and
cosine similarity of predicted against reference values, over all values of all outputs and samples.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ErrorMetrics:
    """Of e = predicted - reference over all values. None where a figure is not defined (a zero denominator).

    rmse = sqrt(mean e^2); mae = mean |e|; largest = max |e|; relative_l2 = ||e||_2 / ||reference||_2; mean, std
    (population) of e; nash_sutcliffe = 1 - sum e^2 / sum (reference - mean reference)^2 (Nash and Sutcliffe, "River
    flow forecasting through conceptual models part I", J. Hydrology 10, 1970; R^2 with the
    reference as truth); cosine = <predicted, reference> / (||predicted||_2 ||reference||_2).
    """

    values: int
    rmse: float
    mae: float
    largest: float
    relative_l2: float | None
    mean: float
    std: float
    nash_sutcliffe: float | None
    cosine: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def error_metrics(predicted: npt.ArrayLike, reference: npt.ArrayLike) -> ErrorMetrics:
    """Figures of two arrays of one shape, with at least one value. InputError otherwise, and for NaN or infinity."""
    p, r = np.asarray(predicted, np.float64), np.asarray(reference, np.float64)
    if p.shape != r.shape or p.size == 0:
        raise InputError(f"predicted and reference values have shapes {p.shape} and {r.shape}; they have to be equal")
    if not (np.isfinite(p).all() and np.isfinite(r).all()):
        raise InputError("predicted or reference values contain NaN or infinity")
    p, r = p.reshape(-1), r.reshape(-1)
    e = p - r
    norm_e, norm_p, norm_r = (float(np.linalg.norm(v)) for v in (e, p, r))
    spread = float(np.sum((r - r.mean()) ** 2))
    return ErrorMetrics(
        values=e.size,
        rmse=float(np.sqrt(np.mean(e**2))),
        mae=float(np.mean(np.abs(e))),
        largest=float(np.max(np.abs(e))),
        relative_l2=norm_e / norm_r if norm_r else None,
        mean=float(np.mean(e)),
        std=float(np.std(e)),
        nash_sutcliffe=1.0 - float(np.sum(e**2)) / spread if spread else None,
        cosine=float(np.dot(p, r)) / (norm_p * norm_r) if norm_p and norm_r else None,
    )


def accuracy(labels: npt.ArrayLike, classes: npt.ArrayLike) -> float:
    """Share of `classes` (N,) that equal `labels` (N,); N at least 1 (InputError)."""
    y, c = _pair(labels, classes)
    return float(np.mean(y == c))


def confusion_matrix(labels: npt.ArrayLike, classes: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    """C[i, j]: how many samples of label i were given class j; shape (count, count).

    InputError where a label or class lies outside 0..count - 1.
    """
    y, c = _pair(labels, classes)
    if min(y.min(), c.min()) < 0 or max(y.max(), c.max()) >= count:
        raise InputError(f"labels and classes have to lie in 0..{count - 1}")
    matrix = np.zeros((count, count), np.int64)
    np.add.at(matrix, (y, c), 1)
    return matrix


def _pair(labels: npt.ArrayLike, classes: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    y, c = np.asarray(labels), np.asarray(classes)
    if y.ndim != 1 or y.shape != c.shape or not y.size or y.dtype.kind not in "iu" or c.dtype.kind not in "iu":
        raise InputError(f"labels {y.shape} and classes {c.shape} have to be two equally long lists of integers")
    return y.astype(np.int64), c.astype(np.int64)
