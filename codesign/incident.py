"""Report files of what must not happen: a soundness alarm, or a bug. They hold what finding its cause takes."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

FORMAT = "codesign-incident-1"
_PACKAGES = (
    "numpy",
    "scipy",
    "click",
    "h5py",
    "tflite",
    "python-flint",
    "tensorflow",
    "unicorn",
    "platformio",
    "dreal",
)
_LARGEST_FILE = 1 << 28  # bytes; the digest of a larger one is not taken


def write_report(kind: str, error: BaseException, arguments: Sequence[str]) -> Path | None:
    """Write codesign-KIND-TIME.json to the working folder, or where that cannot be written to the one for temporary
    files. None where neither can.

    It holds the message and traceback (a worker process's as well), the alarm's evidence, versions, the command line,
    and SHA-256 and size of the files that it names; of the machine only its system and Python.
    """
    report = {
        "format": FORMAT,
        "kind": kind,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "error": type(error).__name__,
        "message": str(error),
        "evidence": getattr(error, "evidence", None),
        "traceback": "".join(traceback.format_exception(error)).splitlines(),
        "command": ["codesign", *arguments],
        "files": _files(arguments),
        "versions": _versions(),
        "system": platform.platform(),
    }
    content = (json.dumps(report, indent=1, default=_plain) + "\n").encode()
    name = f"codesign-{kind.replace(' ', '-')}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.json"
    for folder in (Path(), Path(tempfile.gettempdir())):
        try:
            with (folder / name).open("xb") as stream:
                stream.write(content)
        except OSError:
            continue
        return folder / name
    return None


def _plain(value: Any) -> Any:
    """What JSON does not know: arrays and their numbers as lists and numbers, anything else as text."""
    return value.tolist() if hasattr(value, "tolist") else dict(value) if isinstance(value, Mapping) else str(value)


def _files(arguments: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for argument in arguments:
        name = argument.split("=", 1)[1] if argument.startswith("--") and "=" in argument else argument
        try:
            size = os.path.getsize(name) if os.path.isfile(name) else None
            if size is not None:
                digest = hashlib.sha256(Path(name).read_bytes()).hexdigest() if size <= _LARGEST_FILE else None
                found[name] = {"bytes": size, "sha256": digest}
        except (OSError, ValueError):
            continue
    return found


def _versions() -> dict[str, str | None]:
    from codesign import __version__
    from codesign.partial import tool_fingerprint

    told: dict[str, str | None] = {"codesign": __version__, "python": sys.version}
    try:
        told["codesign's files"] = tool_fingerprint()
    except OSError:
        told["codesign's files"] = None
    for package in _PACKAGES:
        try:
            told[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            told[package] = None
    return told
