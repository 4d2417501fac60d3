"""TFLM as a library that PlatformIO fetches: from its registry, a Git repository, an archive or a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from codesign.errors import CodesignError, InputError
from codesign.tflm.tree import find_tree


def install_package(spec: str) -> Path:
    """Let PlatformIO install the library `spec` into codesign's cache, once, and give its folder.

    `spec` as in PlatformIO's lib_deps: owner/name@version, a Git or archive URL, or file:///folder. InputError:
    PlatformIO cannot get it (offline, or no such library), or it holds no TFLM. MissingToolError: no PlatformIO.
    """
    from codesign.toolchain import pio

    if not spec.strip() or spec.startswith("-"):
        raise InputError(f"{spec!r} is no library specification: give owner/name@version, a URL or file:///folder")
    storage = pio.core_dir().parent / "tflm" / hashlib.sha256(spec.encode()).hexdigest()[:16]
    folder = _tree_in(storage)
    if folder is not None:
        return folder
    try:
        storage.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the cache {storage} cannot be written ({error.strerror}); set XDG_CACHE_HOME") from None
    try:
        done = pio.run_command(
            "pkg", "install", "--global", "--storage-dir", str(storage), "--library", spec, "--skip-dependencies",
            timeout=600.0,
        )  # fmt: skip
    except CodesignError as error:
        raise InputError(f"PlatformIO cannot fetch the library {spec}: {error}") from None
    folder = _tree_in(storage)
    if done.returncode != 0:
        last = [line for line in done.stdout.splitlines() if line.strip()]
        why = next((line for line in last if "Error" in line or "Could not" in line), last[-1] if last else "no output")
        raise InputError(
            f"PlatformIO cannot fetch the library {spec} ({why.strip()}): check its name and the network, or name a "
            "source tree with --tflm-tree"
        )
    if folder is None:
        raise InputError(f"the library {spec} holds no TFLM source tree; name another, or a tree with --tflm-tree")
    return folder


def _tree_in(storage: Path) -> Path | None:
    if not storage.is_dir():
        return None
    for folder in sorted(p for p in storage.iterdir() if p.is_dir()):
        try:
            find_tree(folder)
        except InputError:
            continue
        return folder
    return None
