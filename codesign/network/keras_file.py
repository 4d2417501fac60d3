"""Readers of Keras files: .h5 (Keras 2 and 3) and .keras (a zip of config.json and model.weights.h5).

Only JSON and float32 arrays are taken from the file.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from codesign.errors import InputError, MissingToolError
from codesign.network.keras_config import WeightReader, WeightSpec, build_layers, chain, layer_entries
from codesign.network.model import Float32Array, FloatNetwork

MAX_CONFIG_BYTES = 1 << 24
MAX_WEIGHT_FILE_BYTES = 1 << 29
HDF5_TIMEOUT_SECONDS = 300
_LEGACY_LAYERS = "_layer_checkpoint_dependencies"  # what Keras 2.12 and 2.13 called "layers"
_DAMAGED = "the file is damaged or truncated: its HDF5 content cannot be read"


@dataclass(frozen=True, eq=False)
class _Dataset:
    shape: tuple[int, ...]
    status: str
    values: Float32Array | None


@dataclass(frozen=True, eq=False)
class _Hdf5:
    """What `_hdf5_dump` found: root attributes, and data sets by path."""

    attributes: dict[str, str]
    datasets: dict[str, _Dataset]

    def below(self, prefix: str) -> dict[str, _Dataset]:
        """The data sets below a group, by their path from it."""
        start = prefix + "/"
        return {path[len(start) :]: item for path, item in self.datasets.items() if path.startswith(start)}


def read_h5(content: bytes, name: str, sha256: str) -> FloatNetwork:
    """A whole-model .h5 file, written by `model.save` of Keras 2 or Keras 3. Raises InputError."""
    file = _read_hdf5(content)
    if "model_config" not in file.attributes:
        raise InputError("it holds no model_config: it is not a whole Keras model, so save one with model.save()")
    config = _json(file.attributes["model_config"])

    def weights(spec: WeightSpec) -> dict[str, Float32Array]:
        return _weights_by_name(file.below(f"model_weights/{spec.layer}"), spec)

    source = "keras3-h5" if file.attributes.get("keras_version", "2").startswith("3") else "keras2-h5"
    return _network(config, weights, name, sha256, source)


def read_keras_archive(content: bytes, name: str, sha256: str) -> FloatNetwork:
    """A .keras archive. Raises InputError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            config = _json(_member(archive, "config.json", MAX_CONFIG_BYTES).decode("utf-8"))
            if "model.weights.json" in archive.namelist():
                raise InputError("its weights are split into shards; save the model as one .keras file")
            stored = _member(archive, "model.weights.h5", MAX_WEIGHT_FILE_BYTES)
            metadata = _json(_member(archive, "metadata.json", MAX_CONFIG_BYTES).decode("utf-8"))
    except InputError:
        raise
    except Exception as error:  # zipfile and its decompressors raise many types on damaged archives
        raise InputError("the archive is damaged or truncated") from error
    version = metadata.get("keras_version", "") if isinstance(metadata, dict) else ""
    file = _read_hdf5(stored)
    root = _LEGACY_LAYERS if file.below(_LEGACY_LAYERS) else "layers"

    def weights(spec: WeightSpec) -> dict[str, Float32Array]:
        return _weights_by_position(file.below("/".join((root, spec.archive_key, *spec.archive_path, "vars"))), spec)

    source = "keras2-archive" if str(version).startswith("2") else "keras3-archive"
    return _network(config, weights, name, sha256, source)


def _network(config: Any, weights: WeightReader, name: str, sha256: str, source: str) -> FloatNetwork:
    entries = chain(config, layer_entries(config))
    input_shape, layers = build_layers(config, entries, weights)
    return FloatNetwork(name, input_shape, layers, sha256, source)


def _read_hdf5(content: bytes) -> _Hdf5:
    if find_spec("h5py") is None:
        raise MissingToolError("reading Keras files needs h5py: install it with pip install h5py")
    try:
        with np.load(io.BytesIO(_dumped(content)), allow_pickle=False) as archive:
            index = json.loads(archive["index"].tobytes())
            datasets = {
                path: _Dataset(tuple(shape), status, archive[str(i)] if status == "stored" else None)
                for i, (path, shape, status) in enumerate(index["datasets"])
            }
    except Exception as error:  # an exception, a crash or a time-out in the HDF5 library
        raise InputError(_DAMAGED) from error
    return _Hdf5(index["attributes"], datasets)


def _dumped(content: bytes) -> bytes:
    """`_hdf5_dump.dump`, in a child process; an exception where that fails."""
    command = [sys.executable, str(Path(__file__).with_name("_hdf5_dump.py"))]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        command, input=content, capture_output=True, env=environment, timeout=HDF5_TIMEOUT_SECONDS, check=True
    ).stdout


def _weights_by_name(found: dict[str, _Dataset], spec: WeightSpec) -> dict[str, Float32Array]:
    """The data sets below a layer's group whose last name component is kernel, recurrent_kernel or bias."""
    items = [(path.rsplit("/", 1)[-1].split(":")[0], item) for path, item in found.items()]
    items = [(key, item) for key, item in items if key in ("kernel", "recurrent_kernel", "bias")]
    if sorted(key for key, _ in items) != sorted(spec.shapes):
        raise InputError(
            f"layer {spec.layer!r} has the weights {sorted(key for key, _ in items)} in the file, "
            f"but its configuration needs {sorted(spec.shapes)}"
        )
    by_name = dict(items)
    return {key: _array(by_name[key], spec, key) for key in spec.shapes}


def _weights_by_position(found: dict[str, _Dataset], spec: WeightSpec) -> dict[str, Float32Array]:
    names = [str(index) for index in range(len(spec.shapes))]
    if sorted(found) != names:
        raise InputError(
            f"layer {spec.layer!r} has {len(found)} weights in the file, but its configuration needs {len(names)}"
        )
    return {key: _array(found[name], spec, key) for name, key in zip(names, spec.shapes, strict=True)}


def _array(item: _Dataset, spec: WeightSpec, key: str) -> Float32Array:
    shape = spec.shapes[key]
    if item.shape != shape:
        raise InputError(f"layer {spec.layer!r}: its {key} has shape {item.shape}, but its configuration needs {shape}")
    if item.values is None:
        raise InputError(f"layer {spec.layer!r}: its {key} is {item.status}")
    if not np.isfinite(item.values).all():
        raise InputError(f"layer {spec.layer!r}: its {key} contains NaN or infinite values; train or export it again")
    return item.values


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    if name not in archive.namelist():
        raise InputError(f"the archive has no {name}: it is not a Keras model saved with model.save()")
    if archive.getinfo(name).file_size > limit:
        raise InputError(f"the archive's {name} unpacks to more than {limit} bytes, which is refused")
    return archive.read(name)


def _json(text: str) -> Any:
    if len(text) > MAX_CONFIG_BYTES:
        raise InputError("its configuration is too long to be a model's")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("its configuration is not valid JSON: the file is damaged") from error
