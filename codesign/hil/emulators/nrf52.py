"""Emulated nRF52840: crystal oscillator, UART without DMA, pins, on `cortexm.Core`.

Register layouts are from the nRF52840 Product Specification v1.7.
"""

from __future__ import annotations

from typing import Any

from codesign.hil.emulators.cortexm import BoardFaultError, Core, Image, SystemControlSpace
from codesign.hil.emulators.registers import Registers
from codesign.hil.emulators.serial_port import SerialLine, check_baud

CLOCK_HZ = 64_000_000
_PAGE = 0x1000


class Clock(Registers):
    """HFCLKSTART makes HFCLKSTARTED true at once."""

    def __init__(self) -> None:
        super().__init__("CLOCK", {}, _PAGE, lambda: True)

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        if offset == 0x000 and value & 1:
            self.words[0x100] = 1

    @property
    def crystal(self) -> bool:
        return self.words.get(0x000, 0) == 1


class Gpio(Registers):
    """P0 at offset 0, P1 at offset 0x300: PIN_CNF is what counts."""

    def __init__(self) -> None:
        super().__init__("GPIO", {}, _PAGE, lambda: True)

    def is_output(self, port: int, pin: int) -> bool:
        return bool(self._configuration(port, pin) & 1)

    def is_input(self, port: int, pin: int) -> bool:
        return not self._configuration(port, pin) & 0b11

    def _configuration(self, port: int, pin: int) -> int:
        return self.words.get(0x300 * port + 0x700 - 0x400 + 4 * pin, 0b10)


class Uart(Registers):
    """Events read back; a byte sent makes TXDRDY true at once."""

    _STARTRX, _STARTTX, _RXDRDY, _TXDRDY = 0x000, 0x008, 0x108, 0x11C
    _ENABLE, _PSELTXD, _PSELRXD, _RXD, _TXD, _BAUDRATE, _INTENSET = 0x500, 0x50C, 0x514, 0x518, 0x51C, 0x524, 0x304

    def __init__(self, line: SerialLine, clock: Clock, gpio: Gpio, spec: dict[str, Any]) -> None:
        super().__init__("UART0", {}, _PAGE, lambda: True)
        self.line, self._clock, self._gpio, self._spec = line, clock, gpio, spec
        self._held = False  # a byte announced by RXDRDY that has not been read

    def read(self, offset: int) -> int:
        if offset == self._RXDRDY:
            if not self.words.get(offset, 0) and not self._held and self.words.get(self._STARTRX) and self.line.poll():
                self._require_set_up()
                self.words[offset] = 1
                self._held = True
        elif offset == self._RXD:
            self._held = False
            return self.line.take()
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        if offset == self._INTENSET and value:
            raise BoardFaultError("UART0 enables an interrupt; this emulator models none")
        if offset == self._TXD:
            if not self.words.get(self._STARTTX):
                raise BoardFaultError("UART0 is told to send before STARTTX")
            self._require_set_up()
            self.line.send(value & 0xFF)
            self.words[self._TXDRDY] = 1

    def _require_set_up(self) -> None:
        if self.words.get(self._ENABLE) != 4:
            raise BoardFaultError("UART0 is used while ENABLE does not say so")
        if not self._clock.crystal:
            raise BoardFaultError("UART0 is used without the crystal oscillator: its baud rate may be off")
        check_baud("UART0", self.words.get(self._BAUDRATE, 0) * 16_000_000 / 2**32, self._spec["baud"])
        for register, pin, right in (
            (self._PSELTXD, self._spec["pins"][0], self._gpio.is_output),
            (self._PSELRXD, self._spec["pins"][1], self._gpio.is_input),
        ):
            port, number = int(pin[1]), int(pin[3:])
            if self.words.get(register) != port << 5 | number:
                raise BoardFaultError(f"UART0 is not connected to pin {pin}")
            if not right(port, number):
                raise BoardFaultError(f"pin {pin} has the wrong direction")


def build(spec: dict[str, Any], line: SerialLine) -> Core:
    """The whole board, its UART on the line. BoardFaultError where the ELF does not fit it."""
    if spec["clock_hz"] != CLOCK_HZ:
        raise BoardFaultError(f"the core runs at {CLOCK_HZ} Hz, the board file says {spec['clock_hz']} Hz")
    memories = [(m["origin"], m["size"], m["kind"] == "ram") for m in spec["memories"]]
    core = Core(Image.load(spec["elf"]), memories, "cortex-m4", ((0x4000_0000, 0x4_0000), (0x5000_0000, 0x1000)))
    system = SystemControlSpace(core.now)
    core.system = system
    core.floating_point_enabled = system.floating_point_enabled
    clock, gpio = Clock(), Gpio()
    core.add(0x4000_0000, clock, _PAGE)
    core.add(0x4001_E000, Registers("NVMC", {}, _PAGE, lambda: True), _PAGE)
    core.add(0x5000_0400, gpio, 0x800)
    core.add(0x4000_2000, Uart(line, clock, gpio, spec), _PAGE)

    def slept(seconds: float) -> None:
        core.idle_cycles += int(seconds * CLOCK_HZ)

    line.slept = slept
    return core
