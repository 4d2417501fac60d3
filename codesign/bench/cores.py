"""The cores that are measured: compiler flags, Unicorn's model of the core, and a QEMU machine that has it."""

from __future__ import annotations

from dataclasses import dataclass

from codesign.errors import InputError


@dataclass(frozen=True)
class Core:
    """A core. `flash` and `ram` are (origin, size) in bytes, such that the same program runs on the QEMU machine."""

    name: str
    title: str
    flags: tuple[str, ...]
    unicorn: str  # name of Unicorn's UC_CPU_ARM_ constant
    machine: str  # of qemu-system-arm
    flash: tuple[int, int]
    ram: tuple[int, int]


_MPS2 = {"flash": (0, 0x40_0000), "ram": (0x2000_0000, 0x40_0000)}
CORES = {
    core.name: core
    for core in (
        # The M0+ executes the M0's instructions (ARMv6-M): neither emulator tells them apart, nor does the count.
        Core("m0", "Cortex-M0+", ("-mcpu=cortex-m0plus",), "CORTEX_M0", "microbit", (0, 0x4_0000),
            (0x2000_0000, 0x4000)),
        Core("m3", "Cortex-M3", ("-mcpu=cortex-m3",), "CORTEX_M3", "mps2-an385", **_MPS2),
        Core(
            "m4", "Cortex-M4", ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"), "CORTEX_M4",
            "mps2-an386", **_MPS2
        ),
        Core(
            "m7", "Cortex-M7", ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"), "CORTEX_M7",
            "mps2-an500", **_MPS2
        ),
        Core(
            "m33",
            "Cortex-M33",
            ("-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"),
            "CORTEX_M33",
            "mps2-an505",
            (0x1000_0000, 0x40_0000),
            (0x3800_0000, 0x40_0000),
        ),
    )
}  # fmt: skip


def find_core(name: str) -> Core:
    """The core 'm0', 'm3', 'm4', 'm7' or 'm33' (or 'cortex-m4', 'm0plus'). InputError for another."""
    short = name.lower().removeprefix("cortex-").replace("m0plus", "m0").replace("m0+", "m0")
    if short not in CORES:
        raise InputError(f"there is no core {name!r} to measure; the cores are {', '.join(CORES)}")
    return CORES[short]
