"""A firmware that is already built: an ELF file, and what it will answer when asked to identify."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from codesign.errors import CodesignError, InputError
from codesign.quantization.integer import Profile
from codesign.toolchain.boards import Board
from codesign.toolchain.elf import read_constant
from codesign.toolchain.project import BUILD_ID_BYTES, MARKER

MODEL_HASH_BYTES = 32
OWN_RUNTIME = "codesign"
OWN_PROFILE = "tflm-double"  # of the generated C, unless the network was read for another


@dataclass(frozen=True)
class Firmware:
    """An ELF for a board. `folder` is its PlatformIO project, None where only the ELF is there. Hex digits throughout:
    `build_id` (32) and `model_sha256` (64) as they stand in the ELF. `runtime` and `profile`: what runs the model, and
    the semantics profile that it computes by."""

    board: Board
    elf: Path
    build_id: str
    model_sha256: str
    folder: Path | None = None
    runtime: str = OWN_RUNTIME
    profile: str = OWN_PROFILE


def read_firmware(elf: Path | str, board: Board, folder: Path | str | None = None) -> Firmware:
    """Read the identity in `elf`, built for `board`, and optionally the project it was built from.

    InputError: not a firmware of codesign's, or not for this board, or not the project's.
    """
    elf = Path(elf)
    if not elf.is_file():
        raise InputError(f"there is no firmware {elf}; name an ELF file or the output folder of a deployment")
    try:
        build_id = read_constant(elf, "build_id")
        model_hash = read_constant(elf, "model_hash")
        name = read_constant(elf, "board_name").rstrip(b"\0").decode("ascii", "replace")
    except CodesignError as error:
        raise InputError(f"{elf} is no firmware of codesign's: {error}") from None
    if len(build_id) != BUILD_ID_BYTES or len(model_hash) != MODEL_HASH_BYTES:
        raise InputError(f"{elf} is no firmware of codesign's: its build id or model hash has another length")
    if name != board.name:
        raise InputError(f"{elf} was built for board {name}, not for {board.name}")
    project = None
    if folder is not None and (Path(folder) / MARKER).is_file():
        project = Path(folder)
        if build_id.hex() not in (project / MARKER).read_text(encoding="utf-8", errors="replace"):
            raise InputError(f"{elf} was not built from the project in {folder}: build it again")
    return Firmware(board, elf, build_id.hex(), model_hash.hex(), project, *_runtime(elf))


def _runtime(elf: Path) -> tuple[str, str]:
    """TFLM's glue keeps both in the image; the generated C has no such constant."""
    try:
        told = read_constant(elf, "cs_runtime").rstrip(b"\0").decode("ascii", "replace").split()
    except CodesignError:
        return OWN_RUNTIME, OWN_PROFILE
    if len(told) != 2 or told[1] not in get_args(Profile):
        raise InputError(f"{elf} was built for a runtime that this codesign does not know: {' '.join(told)!r}")
    return told[0], told[1]
