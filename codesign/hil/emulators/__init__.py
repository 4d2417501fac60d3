"""Emulated boards: run a board's own ELF behind a pseudo-terminal, so that pyserial sees nothing but a port name.

`process` starts and ends the emulator's child process; `qemu` supervises qemu-system-arm in that child; `cortexm` and
`stm32f7` are an emulated STM32F746 on Unicorn's Cortex-M7.
"""

from codesign.hil.emulators.process import EmulatedBoard, EmulatorSpec, MemoryRegion

__all__ = ["EmulatedBoard", "EmulatorSpec", "MemoryRegion"]
