"""Readers of Keras files: .h5 (Keras 2 and 3) and .keras (a zip of config.json and model.weights.h5).

Only JSON and float32 arrays are taken from the file. HDF5 soft links, external links, external storage and
virtual data sets, which could pull in other files, are refused.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from codesign.errors import InputError
from codesign.network.keras_config import WeightSpec, build_layers, chain, layer_entries
from codesign.network.model import Float32Array, FloatNetwork

MAX_CONFIG_BYTES = 1 << 24
MAX_WEIGHT_FILE_BYTES = 1 << 29


def read_h5(content: bytes, name: str, sha256: str) -> FloatNetwork:
    """A whole-model .h5 file, written by `model.save` of Keras 2 or Keras 3. Raises InputError."""
    with _hdf5(content) as file:
        if "model_config" not in file.attrs:
            raise InputError("it holds no model_config: it is not a whole Keras model, so save one with model.save()")
        config = _json(_text(file.attrs["model_config"]))
        version = _text(file.attrs.get("keras_version", b"2"))
        root = _child(file, "model_weights")

        def weights(spec: WeightSpec) -> dict[str, Float32Array]:
            return _weights_by_name(_child(root, spec.layer), spec)

        source = "keras3-h5" if version.startswith("3") else "keras2-h5"
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
    source = "keras2-archive" if str(version).startswith("2") else "keras3-archive"
    with _hdf5(stored) as file:
        # Keras 2.12 and 2.13 wrote the layers under another name.
        legacy = "_layer_checkpoint_dependencies"
        root = _child(file, legacy if legacy in file else "layers")

        def weights(spec: WeightSpec) -> dict[str, Float32Array]:
            group = root
            for part in (spec.archive_key, *spec.archive_path, "vars"):
                group = _child(group, part)
            return _weights_by_position(group, spec)

        return _network(config, weights, name, sha256, source)


def _network(config: Any, weights: Any, name: str, sha256: str, source: str) -> FloatNetwork:
    entries = chain(config, layer_entries(config))
    input_shape, layers = build_layers(config, entries, weights)
    return FloatNetwork(name, input_shape, layers, sha256, source)


@contextmanager
def _hdf5(content: bytes) -> Iterator[Any]:
    import h5py

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            yield file
    except InputError:
        raise
    except Exception as error:  # the HDF5 library raises many types on damaged files
        raise InputError("the file is damaged or truncated: its HDF5 content cannot be read") from error


def _child(group: Any, name: str) -> Any:
    """The group `name` directly below `group`, reached by a hard link."""
    import h5py

    if not isinstance(group, h5py.Group) or "/" in name or name not in group:
        raise InputError(f"the weights of {name!r} are missing from the file")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"the weights of {name!r} are a link to somewhere else, which is not followed")
    return group[name]


def _weights_by_name(group: Any, spec: WeightSpec) -> dict[str, Float32Array]:
    """The data sets below a layer's group whose last name component is kernel, recurrent_kernel or bias."""
    import h5py

    found: dict[str, Any] = {}
    doubled: list[str] = []

    def visit(path: str, item: Any) -> None:
        key = path.rsplit("/", 1)[-1].split(":")[0]
        if isinstance(item, h5py.Dataset) and key in ("kernel", "recurrent_kernel", "bias"):
            if key in found:
                doubled.append(key)
            found[key] = item

    group.visititems(visit)
    if doubled or set(found) != set(spec.shapes):
        raise InputError(
            f"layer {spec.layer!r} has the weights {sorted([*found, *doubled])} in the file, "
            f"but its configuration needs {sorted(spec.shapes)}"
        )
    return {key: _array(found[key], spec, key) for key in spec.shapes}


def _weights_by_position(group: Any, spec: WeightSpec) -> dict[str, Float32Array]:
    import h5py

    names = [str(index) for index in range(len(spec.shapes))]
    if not isinstance(group, h5py.Group) or sorted(group) != names:
        raise InputError(f"layer {spec.layer!r} does not have the {len(names)} weights that its configuration needs")
    return {key: _array(_child(group, name), spec, key) for name, key in zip(names, spec.shapes, strict=True)}


def _array(item: Any, spec: WeightSpec, key: str) -> Float32Array:
    import h5py

    shape = spec.shapes[key]
    if not isinstance(item, h5py.Dataset) or item.external or item.is_virtual:
        raise InputError(f"layer {spec.layer!r}: its {key} is not stored in the file itself")
    if item.shape != shape:
        raise InputError(f"layer {spec.layer!r}: its {key} has shape {item.shape}, but its configuration needs {shape}")
    if item.dtype.kind != "f" or item.dtype.itemsize != 4:
        raise InputError(f"layer {spec.layer!r}: its {key} is {item.dtype}, but only float32 weights are supported")
    value = np.ascontiguousarray(item[()], dtype=np.float32)
    if not np.isfinite(value).all():
        raise InputError(f"layer {spec.layer!r}: its {key} contains NaN or infinite values; train or export it again")
    return value


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    if name not in archive.namelist():
        raise InputError(f"the archive has no {name}: it is not a Keras model saved with model.save()")
    if archive.getinfo(name).file_size > limit:
        raise InputError(f"the archive's {name} unpacks to more than {limit} bytes, which is refused")
    return archive.read(name)


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _json(text: str) -> Any:
    if len(text) > MAX_CONFIG_BYTES:
        raise InputError("its configuration is too long to be a model's")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("its configuration is not valid JSON: the file is damaged") from error
