"""samples.npz of a deployment: the data that its certificate names, and what was sent to the device.

x         (N, T, D) float32, and y where there are labels: the certificate's data, as in NAME.calib.npz
sent      (M, T, D) float32: the inputs that the device answered, in order
stream_K  (steps, D) float32: the streams
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codesign.errors import InputError
from codesign.files import write_atomically
from codesign.network.model import Float32Array, FloatNetwork
from codesign.quantization import Calibration, load_calibration

SAMPLES = "samples.npz"
_LARGEST = 1 << 30


@dataclass(frozen=True, eq=False)
class Samples:
    """Its content."""

    data: Calibration
    sent: Float32Array
    streams: Sequence[Float32Array]


def write_samples(path: Path, samples: Samples) -> None:
    """Never half-written; the same content gives the same bytes."""
    arrays = {"x": samples.data.x, "sent": samples.sent.astype(np.float32)}
    told = samples.data.y if samples.data.y is not None else samples.data.values
    if told is not None:
        arrays["y"] = told  # type: ignore[assignment]
    arrays |= {f"stream_{k}": np.asarray(stream, np.float32) for k, stream in enumerate(samples.streams)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_samples(path: Path, network: FloatNetwork) -> Samples:
    """For a model. InputError, saying what is wrong, for anything that `write_samples` did not write;
    nothing is unpickled."""
    shape = network.input_shape
    data = load_calibration(path, shape, network)
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("it is too large")
        with np.load(path, allow_pickle=False) as loaded:
            more = {name: loaded[name] for name in loaded.files if name not in ("x", "y")}
    except Exception as error:  # numpy and zipfile raise many types on damaged files
        raise InputError(f"'{path}' cannot be read: {str(error) or type(error).__name__}") from None
    sent = more.pop("sent", None)
    streams = [more.pop(f"stream_{k}", None) for k in range(len(more))]
    good = [isinstance(a, np.ndarray) and a.dtype == np.float32 and a.ndim == 2 for a in streams]
    if more or not all(good) or any(a.shape[1] != shape[1] or not np.isfinite(a).all() for a in streams):
        raise InputError(f"'{path}' has arrays that are no streams of the model's inputs")
    fits = isinstance(sent, np.ndarray) and sent.dtype == np.float32 and sent.ndim == 3 and sent.shape[1:] == shape
    if not fits or not np.isfinite(sent).all():
        raise InputError(f"'{path}' has no array 'sent' of the inputs that were sent")
    return Samples(data, sent, streams)
