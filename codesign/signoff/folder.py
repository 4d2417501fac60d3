"""The output folder: its files' SHA-256, and whether they are what was judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.errors import InputError

if TYPE_CHECKING:
    from codesign.toolchain import Board, Build
    from codesign.toolchain.elf import Image

SIGNOFF = "signoff.json"
REPORT = "report.html"


def build_facts(build: Build) -> dict[str, Any]:
    """What the verdict and the report need of a build. Sizes in bytes; sections with their addresses."""
    return {
        "board": build.board.name,
        "title": build.board.title,
        "mcu": build.board.mcu,
        "core": build.board.core,
        "clock_hz": build.board.clock_hz,
        "runtime": build.runtime,
        "profile": build.profile,
        "weights": build.weights,
        "arena_bytes": build.arena_bytes,
        "build_id": build.build_id,
        "model_sha256": build.model_sha256,
        "elf_sha256": sha256_of(build.elf),
        **image_facts(build.image, build.board),
    }


def image_facts(image: Image, board: Board) -> dict[str, Any]:
    """Of these, what an ELF for a board says: sizes in bytes, and sections by memory, in address order."""
    flash = sorted((s for s in image.sections if s.loaded), key=lambda s: s.load_address)
    ram = sorted((s for s in image.sections if s.writable), key=lambda s: s.address)
    return {
        "flash_bytes": image.flash_bytes,
        "flash_available": board.flash.size,
        "ram_bytes": image.ram_bytes,
        "ram_available": board.ram.size,
        "stack_size": image.stack_bytes,
        "memory_map": {
            region: [
                {
                    "name": s.name,
                    "address": s.load_address if region == "flash" else s.address,
                    "size": s.size,
                    "memory": s.memory,
                }
                for s in sections
            ]
            for region, sections in (("flash", flash), ("ram", ram))
        },
    }


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content. InputError where it cannot be read."""
    try:
        with path.open("rb") as stream:
            digest = hashlib.sha256()
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
            return digest.hexdigest()
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror}); it is to be signed off") from None


def artifact_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 by relative path of every file below `folder`, in path order.

    Left out: signoff.json itself, and hidden files and folders (PlatformIO's .pio: what a build can make again; the ELF
    is kept beside it). A symbolic link would be signed for a content that lies elsewhere: InputError.
    """
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder; sign off the output folder of a deployment")
    result = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts) or name.as_posix() == SIGNOFF:
            continue
        if path.is_symlink():
            raise InputError(f"'{name}' is a symbolic link; put the file itself into the output folder")
        if path.is_file():
            result[name.as_posix()] = sha256_of(path)
    return result


def unlike_file(path: Path, content: Mapping[str, Any] | None) -> str | None:
    """A sentence where the JSON file does not hold `content`; None where it does."""
    if content is None:
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return f"{path.name} in the output folder cannot be read"
    if stored != json.loads(json.dumps(content)):
        return f"{path.name} in the output folder is not what was judged"
    return None
