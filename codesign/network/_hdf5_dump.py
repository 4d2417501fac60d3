"""The HDF5 half of the Keras readers, run as a script in a child process: HDF5 on stdin, plain arrays (.npz) on stdout.

A child process with limited CPU time and memory, because the HDF5 library was seen to loop for ever on damaged files
and cannot be interrupted. Standard library and h5py only. Only hard links are followed, so that no other file is read.
"""

from __future__ import annotations

import io
import json
import sys
from typing import Any

ROOTS = ("model_weights", "layers", "_layer_checkpoint_dependencies")
ATTRIBUTES = ("model_config", "keras_version")
MAX_DATASETS = 100_000
MAX_VALUES = 1 << 26
CPU_SECONDS = 10
MEMORY_BYTES = 4 << 30


def dump(content: bytes) -> bytes:
    """The model's attributes and the float32 data sets below ROOTS, as an .npz archive.

    Entry `index` is JSON (as bytes): {"attributes": {name: text}, "datasets": [[path, shape, status]]}; where
    status is "stored", entry str(i) holds data set i, otherwise status says why it is not there.
    """
    import h5py
    import numpy as np

    attributes: dict[str, str] = {}
    datasets: list[tuple[str, list[int], str]] = []
    arrays: dict[str, Any] = {}
    with h5py.File(io.BytesIO(content), "r") as file:
        for name in ATTRIBUTES:
            if name in file.attrs:
                value = file.attrs[name]
                attributes[name] = value.decode("utf-8") if isinstance(value, bytes) else str(value)
        budget = MAX_VALUES

        def visit(path: str, item: Any) -> None:
            nonlocal budget
            if not isinstance(item, h5py.Dataset):
                return
            if len(datasets) >= MAX_DATASETS:
                raise ValueError("too many data sets")
            status, shape = "stored", item.shape or ()
            if item.external or item.is_virtual:
                status = "not stored in the file itself"
            elif item.shape is None or item.dtype.kind != "f" or item.dtype.itemsize != 4:
                status = f"of type {item.dtype}, but only float32 weights are supported"
            elif item.size > budget:
                status = "too large"
            else:
                budget -= item.size
                arrays[str(len(datasets))] = np.ascontiguousarray(item[()], dtype=np.float32)
            datasets.append((f"{root}/{path}", list(shape), status))

        for root in ROOTS:
            if isinstance(file.get(root, getlink=True), h5py.HardLink) and isinstance(file[root], h5py.Group):
                file[root].visititems(visit)
    index = json.dumps({"attributes": attributes, "datasets": datasets}).encode("utf-8")
    buffer = io.BytesIO()
    np.savez(buffer, index=np.frombuffer(index, np.uint8), **arrays)
    return buffer.getvalue()


def limit_resources() -> None:
    """Bound CPU time and memory of this process where the system can."""
    try:
        import resource

        for kind, value in ((resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_AS, MEMORY_BYTES)):
            resource.setrlimit(kind, (value, value))
    except (ImportError, ValueError, OSError):
        return


if __name__ == "__main__":
    sys.path.pop(0)  # this script's own folder: its modules are not top-level ones
    limit_resources()
    sys.stdout.buffer.write(dump(sys.stdin.buffer.read()))
