"""The data sets of the sample models, from the files that ship inside the PyPI packages aeon and scikit-learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Series = list[npt.NDArray[np.float64]]


def read_ts(name: str, part: str) -> tuple[Series, list[str]]:
    """Series (each (length, dimensions)) and labels of aeon's NAME_PART.ts; part is 'TRAIN' or 'TEST'.

    The package is located, not imported: importing aeon needs numba and a numpy newer than TensorFlow's wheels take.
    """
    spec = importlib.util.find_spec("aeon")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("package aeon is missing: pip install --no-deps aeon==1.6.0")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / name / f"{name}_{part}.ts"
    series: Series = []
    labels: list[str] = []
    lines = path.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().lower() == "@data")
    for line in lines[start + 1 :]:
        if line.strip():
            *dimensions, label = line.strip().split(":")
            series.append(np.array([[float(v) for v in d.split(",")] for d in dimensions]).T)
            labels.append(label)
    return series, labels
