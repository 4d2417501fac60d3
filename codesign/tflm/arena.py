"""How large a tensor arena is needed: a firmware's own start of the interpreter, run on an emulated core."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from codesign.errors import InputError, MissingToolError

if TYPE_CHECKING:
    from codesign.toolchain import Build

_STATUS = {
    1: "the model's schema version is not this TFLM's",
    2: "an operator cannot be registered",
    3: "its tensors cannot be allocated: the arena is too small, or TFLM refuses an operator's parameters",
    5: "an inference failed",
    4: "its input or output is not what the model's file says",
    -1: "the interpreter crashes, as a release build does in an arena that is too small",
}
_PAGE = 4096
_INSTRUCTIONS = 50_000_000
ARENA_STEP = 16  # TFLM's alignment


def status_text(status: int) -> str:
    """What the glue's status means (firmware/tflm/cs_tflm.cc)."""
    return _STATUS.get(status, f"it stops with status {status}")


def measure_arena(build: Build) -> int:
    """The smallest arena in which the interpreter of a built TFLM firmware starts, in bytes; at most that it has.

    Runs the start alone, on Unicorn's core of the board's kind, without the board, with smaller and smaller arenas:
    what the interpreter says it uses leaves out its planner's working memory. MissingToolError: no unicorn. InputError:
    TFLM cannot run the model in the arena that the firmware has.
    """
    if importlib.util.find_spec("unicorn") is None:
        raise MissingToolError("unicorn is missing: pip install 'codesign[board]'")
    largest = build.arena_bytes or 0
    status = _start(build, largest)
    if status:
        raise InputError(
            f"TFLM does not start the model on {build.board.title} with an arena of {largest} bytes: "
            f"{status_text(status)}; take a larger --arena or a larger board"
        )
    enough, short = largest, 0
    while enough - short > ARENA_STEP:
        middle = (enough + short) // 2 // ARENA_STEP * ARENA_STEP
        if _start(build, middle) == 0:
            enough = middle
        else:
            short = middle
    return enough


def _start(build: Build, arena: int) -> int:
    """The status of cs_tflm_start(arena); -1 where the core stops: TFLM's release build leaves checks out."""
    import unicorn
    from elftools.elf.elffile import ELFFile
    from unicorn import arm_const

    from codesign.bench.cores import find_core
    from codesign.toolchain.elf import STACK_SECTION

    engine: Any = unicorn.Uc
    uc: Any = engine(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
    uc.ctl_set_cpu_model(getattr(arm_const, f"UC_CPU_ARM_{find_core(build.board.core).unicorn}"))
    for memory in (build.board.flash, build.board.ram):
        start = memory.origin // _PAGE * _PAGE
        uc.mem_map(start, -(-(memory.origin + memory.size - start) // _PAGE) * _PAGE)
    with build.elf.open("rb") as stream:
        for segment in ELFFile(stream).iter_segments("PT_LOAD"):
            if segment["p_filesz"]:
                uc.mem_write(segment["p_vaddr"], bytes(segment.data()))  # .data where it runs, .bss zero
    stack = next(section for section in build.image.sections if section.name == STACK_SECTION)
    end = build.board.flash.origin + build.board.flash.size - 16
    uc.reg_write(arm_const.UC_ARM_REG_R0, arena)
    uc.reg_write(arm_const.UC_ARM_REG_SP, stack.address + stack.size & ~7)
    uc.reg_write(arm_const.UC_ARM_REG_LR, end | 1)
    try:
        uc.emu_start(build.image.symbol("cs_tflm_start").address | 1, end, count=_INSTRUCTIONS)
    except unicorn.UcError:
        return -1
    if uc.reg_read(arm_const.UC_ARM_REG_PC) & ~1 != end:
        return -1
    return int(uc.reg_read(arm_const.UC_ARM_REG_R0))
