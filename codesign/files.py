"""Writing files so that nobody ever sees them half-written."""

from __future__ import annotations

import os
from pathlib import Path

from codesign.errors import InputError


def require_folder(path: Path) -> None:
    """InputError where `path` cannot be a file to write: said before the work that would fill it."""
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"'{path}' cannot be written: it needs an existing folder and a file name")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"'{path}' cannot be written: its folder is read-only; choose another place")


def require_json(path: Path) -> None:
    """As `require_folder`, and InputError unless the name ends in .json: a result never takes the place of a model."""
    if path.suffix.lower() != ".json":
        raise InputError(f"'{path}' is not the name of a .json file; give one, such as '{path.stem or 'result'}.json'")
    require_folder(path)


def write_atomically(path: Path, content: bytes) -> None:
    """Write through a temporary file beside `path`. InputError where the folder cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"'{path}' cannot be written ({error.strerror}); choose another place") from None
    finally:
        temporary.unlink(missing_ok=True)
