"""load_network: which reader a file needs, and the checks that are common to all of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from codesign.errors import InputError
from codesign.network.model import FloatNetwork

SUFFIXES = (".h5", ".keras", ".tflite")
MAX_FILE_BYTES = 1 << 29
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK\x03\x04"


def load_network(path: str | Path) -> FloatNetwork:
    """Read a float model: .h5 (Keras 2 or 3), .keras, or a float .tflite with fused LSTM operators.

    The weights are the file's float32 values; the network they define is evaluated over the reals (float64).
    Nothing in the file is executed, unpickled or deserialised to an object.
    Raises InputError, one sentence that names the file and the layer, for anything that is not supported.
    """
    path = Path(path)
    content = _read(path)
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        if path.suffix.lower() == ".tflite":
            from codesign.network.tflite_file import read_tflite

            return read_tflite(content, _name(path), sha256)
        from codesign.network.keras_file import read_h5, read_keras_archive

        read = read_h5 if path.suffix.lower() == ".h5" else read_keras_archive
        return read(content, _name(path), sha256)
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from error


def _name(path: Path) -> str:
    return path.name[: -len(path.suffix)]


def _read(path: Path) -> bytes:
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path} has the wrong extension: a model is a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file"
        )
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if not path.is_file():
        raise InputError(f"{path} is not a file: give a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputError(f"{path} is {size} bytes long; models up to {MAX_FILE_BYTES} bytes are read")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    _check_magic(path, content)
    return content


def _check_magic(path: Path, content: bytes) -> None:
    found = "an HDF5 file (.h5)" if content.startswith(_HDF5_MAGIC) else None
    found = "a zip archive (.keras)" if content.startswith(_ZIP_MAGIC) else found
    found = "a TFLite file (.tflite)" if content[4:8] == b"TFL3" else found
    expected = {
        ".h5": "an HDF5 file (.h5)",
        ".keras": "a zip archive (.keras)",
        ".tflite": "a TFLite file (.tflite)",
    }
    wanted = expected[path.suffix.lower()]
    if found == wanted:
        return
    if not content:
        raise InputError(f"{path} is empty")
    if found is None:
        raise InputError(f"{path} is not a model: its first bytes are not those of {wanted}")
    raise InputError(f"{path} has the wrong extension: it is {found}, so rename it")
