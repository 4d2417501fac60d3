"""The ELF and its project: identity, constants of the model, sizes, and sources as generated from the model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from codesign.checker.result import demand, same
from codesign.errors import CodesignError
from codesign.quantization import IntegerNetwork, with_profile

_SMALLEST = 8  # bytes of a constant that are worth looking for


def check_firmware(
    folder: Path, signoff: dict[str, Any], integer: IntegerNetwork
) -> tuple[IntegerNetwork, dict[str, Any], tuple[str, ...]]:
    """(the model under the device's semantics, `codesign.signoff.build_facts` of the ELF itself, what is not verified).

    Invalid where the ELF holds another model, was built for another board or otherwise than signoff.json says.
    """
    from codesign.signoff.folder import image_facts, sha256_of
    from codesign.toolchain import list_boards, load_board, read_firmware
    from codesign.toolchain.elf import read_image
    from codesign.toolchain.firmware import OWN_RUNTIME

    elf, stated = folder / "firmware.elf", signoff["runtime"]
    demand(signoff["board"] in list_boards(), f"signoff.json/board: there is no board '{signoff['board']}'")
    board = load_board(signoff["board"])
    firmware = read_firmware(elf, board)
    same("firmware.elf: the model's hash in it", firmware.model_sha256, integer.sha256)
    same("firmware.elf: its build id", firmware.build_id, signoff["build_id"])
    device = with_profile(integer, firmware.profile)  # type: ignore[arg-type]
    own = firmware.runtime == OWN_RUNTIME
    image, content = read_image(elf, (board.flash, board.ram)), _loaded(elf)
    if own:
        weights, arena = stated["weights"], None
        demand(weights in ("int8", "int16"), "signoff.json/runtime/weights: neither int8 nor int16")
        _check_project(folder / "firmware", device, board, weights, firmware.build_id)
        _check_constants(content, device, weights)
        more: tuple[str, ...] = ()
    else:
        weights, arena = "int8", stated["arena_bytes"]
        demand(integer.content in content, "firmware.elf: the model's bytes are not in it")
        more = ("the sources of TFLM in firmware/", "the size of TFLM's arena")
    facts = {
        "board": board.name,
        "title": board.title,
        "mcu": board.mcu,
        "core": board.core,
        "clock_hz": board.clock_hz,
        "runtime": firmware.runtime,
        "profile": firmware.profile,
        "weights": weights,
        "arena_bytes": arena,
        "build_id": firmware.build_id,
        "model_sha256": firmware.model_sha256,
        "elf_sha256": sha256_of(elf),
        **image_facts(image, board),
    }
    return device, facts, more


def _loaded(elf: Path) -> bytes:
    """The content of all segments that are loaded."""
    from elftools.elf.elffile import ELFFile

    try:
        with elf.open("rb") as stream:
            return b"\0".join(segment.data() for segment in ELFFile(stream).iter_segments("PT_LOAD"))
    except Exception as error:  # a damaged ELF makes pyelftools raise errors of many kinds
        raise CodesignError(f"its segments cannot be read: {str(error) or type(error).__name__}") from None


def _check_project(folder: Path, device: IntegerNetwork, board: Any, weights: Any, build_id: str) -> None:
    """The project is what is generated from the model for this board, and has the ELF's build id."""
    from codesign.codegen import generate
    from codesign.toolchain.project import generate_project

    with tempfile.TemporaryDirectory(prefix="codesign-") as scratch:
        fresh = Path(scratch) / "firmware"
        generate(device, Path(scratch) / "model", weights)
        project = generate_project(Path(scratch) / "model", board, fresh)
        wanted, found = (
            {str(p.relative_to(root)): p for p in sorted(root.rglob("*")) if p.is_file() and ".pio" not in p.parts}
            for root in (fresh, folder)
        )
        for name in sorted({*wanted, *found}):
            good = name in wanted and name in found and wanted[name].read_bytes() == found[name].read_bytes()
            demand(good, f"firmware/{name}: not as it is generated from model.tflite (by this version)")
        same("firmware.elf: its build id (of other sources)", build_id, project.build_id)


def _check_constants(content: bytes, device: IntegerNetwork, weights: Any) -> None:
    """Every array of the model is in what the ELF loads."""
    from codesign.codegen.plan import make_plan

    for step in make_plan(device, weights).steps:
        for constant in step.constants:
            data = np.ascontiguousarray(constant.values).astype(constant.values.dtype.newbyteorder("<")).tobytes()
            good = len(data) < _SMALLEST or data in content
            demand(good, f"firmware.elf: the constants '{constant.role}' of '{step.op.name}' are not in it")
