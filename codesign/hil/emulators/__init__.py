"""Emulated boards: run a board's own ELF behind a pseudo-terminal, so that pyserial sees nothing but a port name.

`process` starts and ends the emulator's child process. In that child, `qemu` supervises qemu-system-arm, and `mcu` runs
a microcontroller on Unicorn's core (`cortexm`): `stm32`, `stm32_small`, `nrf52` and `rp2040` are their peripherals.
"""

from codesign.hil.emulators.process import EmulatedBoard, EmulatorSpec, MemoryRegion

__all__ = ["EmulatedBoard", "EmulatorSpec", "MemoryRegion"]
