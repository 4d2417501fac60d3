"""Runs functions of a measuring program on Unicorn's core and counts their instructions exactly."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

from codesign.bench.program import Program
from codesign.errors import CodesignError, MissingToolError

_STACK_BYTES = 4096
_PAINT = 0xA5


@dataclass(frozen=True)
class Call:
    """One call: executed instructions, its return included; the deepest use of the stack in bytes; the instructions by
    function."""

    instructions: int
    stack_bytes: int
    functions: dict[str, int]


class Machine:
    """A core with the program in its memory. State is kept between calls.

    Instructions are counted by translated blocks, each of known content, without the overhead of a hook on every one.
    An instruction of an IT block counts whether its condition holds or not, as it does under QEMU.
    """

    def __init__(self, program: Program) -> None:
        if importlib.util.find_spec("unicorn") is None:
            raise MissingToolError("unicorn is missing: pip install 'codesign[board]'")
        import unicorn
        from unicorn import arm_const

        self.program = program
        self._constants = arm_const
        self._error = unicorn.UcError
        engine: Any = unicorn.Uc
        self.uc: Any = engine(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        self.uc.ctl_set_cpu_model(getattr(arm_const, f"UC_CPU_ARM_{program.core.unicorn}"))
        core = program.core
        self.uc.mem_map(core.flash[0], core.flash[1], unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        self.uc.mem_map(core.ram[0], core.ram[1], unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
        self._return = core.flash[0] + core.flash[1] - 16  # nothing runs there
        for address, data in program.segments:
            self.uc.mem_write(address, data)
        self._stack_top = program.address("cs_ld_stack_top") & ~7
        self._lengths: dict[tuple[int, int], int] = {}
        self._blocks: dict[tuple[int, int], int] = {}
        self.uc.hook_add(unicorn.UC_HOOK_BLOCK, self._on_block)

    def read(self, symbol: str, size: int) -> bytes:
        """Memory at a symbol."""
        return bytes(self.uc.mem_read(self.program.address(symbol), size))

    def write(self, symbol: str, data: bytes) -> None:
        self.uc.mem_write(self.program.address(symbol), data)

    def call(self, function: str, *arguments: int | str) -> Call:
        """Call a function with up to four words, or symbols' addresses. CodesignError where the core faults."""
        registers = self._constants
        bottom = self._stack_top - _STACK_BYTES
        self.uc.mem_write(bottom, bytes([_PAINT]) * _STACK_BYTES)
        for number, argument in enumerate(arguments):
            value = self.program.address(argument) if isinstance(argument, str) else argument
            self.uc.reg_write(registers.UC_ARM_REG_R0 + number, value & 0xFFFF_FFFF)
        self.uc.reg_write(registers.UC_ARM_REG_SP, self._stack_top)
        self.uc.reg_write(registers.UC_ARM_REG_LR, self._return | 1)
        self._blocks = {}
        try:
            self.uc.emu_start(self.program.address(function) | 1, self._return)
        except self._error as error:
            pc = self.uc.reg_read(registers.UC_ARM_REG_PC)
            raise CodesignError(
                f"{function} stops the emulated {self.program.core.title} at 0x{pc:x}: {error}"
            ) from error
        used = bytes(self.uc.mem_read(bottom, _STACK_BYTES))
        untouched = len(used) - len(used.lstrip(bytes([_PAINT])))
        if untouched == 0:
            raise CodesignError(f"{function} uses the measuring program's whole stack of {_STACK_BYTES} bytes")
        functions: dict[str, int] = {}
        for block, times in self._blocks.items():
            if block not in self._lengths:
                self._lengths[block] = _instructions(bytes(self.uc.mem_read(*block)))
            name = self.program.function_at(block[0])
            functions[name] = functions.get(name, 0) + times * self._lengths[block]
        return Call(sum(functions.values()), _STACK_BYTES - untouched, functions)

    def _on_block(self, _uc: Any, address: int, size: int, _user: Any) -> None:
        key = (address, size)
        self._blocks[key] = self._blocks.get(key, 0) + 1


def _instructions(code: bytes) -> int:
    """Thumb instructions in a block: those whose first halfword starts with 0b11101, 0b11110 or 0b11111 have two."""
    count = offset = 0
    while offset < len(code):
        offset += 4 if code[offset + 1] >> 3 >= 0b11101 else 2
        count += 1
    return count
