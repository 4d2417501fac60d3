"""Calibration data: real samples of the model's input, in a .npz file beside the model."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.network.model import FloatNetwork
from codesign.quantization.integer import IntegerNetwork
from codesign.quantization.targets import read_targets

MAX_VALUES = 1 << 28  # 1 GiB of float32


@dataclass(frozen=True, eq=False)
class Calibration:
    """Samples `x` float32 (N, T, D) and, where the file has them, labels `y` int64: (N,), or (N, rows) for a model
    with an output at every step; or in place of labels `values` float64 (N, outputs), which the outputs aim at."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64] | None
    values: npt.NDArray[np.float64] | None = None

    @property
    def sha256(self) -> str:
        """Of the samples: their float32 values, little-endian, in order."""
        return hashlib.sha256(np.ascontiguousarray(self.x, "<f4").tobytes()).hexdigest()

    @property
    def labels_sha256(self) -> str | None:
        """Of the labels or values, as 8 bytes each, little-endian, after their shape as text; None without."""
        told = self.y if self.y is not None else self.values
        if told is None:
            return None
        values = np.ascontiguousarray(told, "<f8" if told.dtype.kind == "f" else "<i8")
        return hashlib.sha256(str(values.shape).encode() + values.tobytes()).hexdigest()

    def describe(self) -> dict[str, int | str | None]:
        """What a certificate says of the data that its regions are around."""
        return {"samples": len(self.x), "sha256": self.sha256, "labels_sha256": self.labels_sha256}


def default_calibration_path(model_path: str | Path) -> Path:
    """The sidecar of a model: NAME.calib.npz beside NAME.h5, NAME.keras, NAME.tflite or NAME.float.tflite."""
    path = Path(model_path)
    name = path.name[: -len(path.suffix)] if path.suffix else path.name
    if path.suffix == ".tflite" and name.endswith(".float"):
        name = name[: -len(".float")]
    return path.with_name(name + ".calib.npz")


def load_calibration(
    path: str | Path, input_shape: tuple[int, int], network: FloatNetwork | IntegerNetwork | None = None
) -> Calibration:
    """Read a calibration file for a model of input shape (T, D); of `network`, where what `y` means is of interest.

    Raises InputError where the file is missing or damaged, where `x` is absent, not (N, T, D) with N >= 1,
    not floating point or not finite, and where `y` does not fit (`codesign.quantization.targets`). Nothing in the file
    is unpickled.
    """
    path = Path(path)
    steps, features = input_shape
    recipe = (
        f"make one from N >= 1 real inputs with numpy: np.savez({path.name!r}, x=x.astype('float32')) "
        f"where x has shape (N, {steps}, {features})"
    )
    if not path.exists():
        raise InputError(f"calibration file {path} does not exist; {recipe}")
    if not path.is_file():
        raise InputError(f"calibration file {path} is not a file; {recipe}")
    arrays = _read_arrays(path, recipe)
    if "x" not in arrays:
        raise InputError(f"calibration file {path} has no array 'x'; {recipe}")
    x = arrays["x"]
    if x.dtype not in (np.float32, np.float64, np.float16):
        raise InputError(f"calibration file {path}: x has dtype {x.dtype}, but it has to be float32; {recipe}")
    if x.ndim != 3 or x.shape[0] < 1 or x.shape[1:] != (steps, features):
        raise InputError(
            f"calibration file {path}: x has shape {x.shape}, but this model needs (N, {steps}, {features}) with N >= 1"
        )
    with np.errstate(over="ignore"):
        samples: npt.NDArray[np.float32] = np.ascontiguousarray(x, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise InputError(
            f"calibration file {path}: x contains NaN, infinite or float32-overflowing values; remove them"
        )
    if "y" not in arrays:
        return Calibration(samples, None)
    return Calibration(samples, *read_targets(arrays["y"], len(samples), network, f"calibration file {path}"))


def _read_arrays(path: Path, recipe: str) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays x and y; their sizes are checked from the archive's headers before anything is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename in ("x.npy", "y.npy") and info.file_size > 8 * MAX_VALUES:
                    raise InputError(f"calibration file {path}: {info.filename} is too large; use fewer samples")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("x", "y") if name in archive.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("numpy gives a member without an array's header as bytes")
        return arrays
    except InputError:
        raise
    except Exception as error:  # numpy and zipfile raise many types on damaged files
        raise InputError(f"calibration file {path} is not a readable .npz file of plain arrays; {recipe}") from error
