"""A second count, by QEMU: the measuring program reads SysTick around the inferences and prints by semihosting."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

from codesign.bench.program import KNOWN_ROUNDS, Program
from codesign.errors import CodesignError, MissingToolError

# What the known loop executes between the two readings besides its rounds: the call, its argument and the return.
_KNOWN_INSTRUCTIONS = 2 * KNOWN_ROUNDS
_SECONDS = 120


@dataclass(frozen=True)
class TickCount:
    """Instructions an inference by SysTick, `resolution` the largest error of that, and a checksum of the outputs."""

    instructions: float
    resolution: float
    instructions_per_tick: float
    checksum: int


def count_by_ticks(program: Program, repeats: int) -> TickCount:
    """Run the program's own measurement. MissingToolError: no QEMU. CodesignError: it does not end or print."""
    emulator = shutil.which("qemu-system-arm")
    if emulator is None:
        raise MissingToolError("qemu-system-arm is missing: sudo apt-get install qemu-system-arm")
    command = [
        emulator,
        "-M",
        program.core.machine,
        "-kernel",
        str(program.elf),
        "-display",
        "none",
        "-monitor",
        "none",
    ]
    command += ["-serial", "none", "-icount", "shift=0", "-chardev", "stdio,id=console"]
    command += ["-semihosting-config", "enable=on,target=native,chardev=console"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise CodesignError(f"the measuring program does not end on QEMU's {program.core.machine}") from None
    lines = done.stdout.split()
    if len(lines) != 3:
        raise CodesignError(f"QEMU's {program.core.machine} does not run the program: {done.stderr.strip()[:200]}")
    known, measured, checksum = (int(line, 16) for line in lines)
    if not known:
        raise CodesignError(f"SysTick stands still on QEMU's {program.core.machine}")
    a_tick = _KNOWN_INSTRUCTIONS / known
    return TickCount(measured * a_tick / repeats, 2 * a_tick / repeats + 16, a_tick, checksum)


def checksum(output: bytes) -> int:
    """As the program computes it."""
    total = 0
    for byte in output:
        total = ((total << 5 | total >> 27) & 0xFFFF_FFFF) ^ byte
    return total
