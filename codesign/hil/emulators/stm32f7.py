"""Child process that emulates an STM32F746: clock tree, power, flash interface, GPIO and one USART, on `cortexm.Core`.

The model is strict where a real board would stay silent: a USART whose clock, pins or baud rate are wrong, flash wait
states too few for the clock, a PLL outside its range. Register layouts and limits are from ST's RM0385 and the
STM32F746xx data sheet (DS10916).
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable
from typing import Any

from codesign.hil.emulators.cortexm import BoardFaultError, Core, Image, SystemControlSpace
from codesign.hil.emulators.terminal import announce, end_with_parent, ignore_interrupts, open_terminal

HSI_HZ = 16_000_000
IDLE_SECONDS = 0.02
_FLUSH_BYTES = 256
_POLLS_BEFORE_SLEEP = 4
_MHZ = 1_000_000


class Registers:
    """Plain storage for the registers that the model only has to remember. `is_clocked` is the RCC's word."""

    def __init__(self, name: str, reset: dict[int, int], size: int, is_clocked: Callable[[], bool]) -> None:
        self.name = name
        self.words = dict(reset)
        self.size = size
        self.is_clocked = is_clocked

    def read(self, offset: int) -> int:
        self._check(offset)
        return self.words.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        self._check(offset)
        self.words[offset] = value

    def _check(self, offset: int) -> None:
        if not self.is_clocked():
            raise BoardFaultError(f"{self.name} is used while its clock is off in the RCC")
        if offset >= self.size:
            raise BoardFaultError(f"{self.name} has no register at offset 0x{offset:x}")


class FlashInterface(Registers):
    """ACR's latency is what counts."""

    def __init__(self) -> None:
        super().__init__("FLASH", {0x14: 0xC000_00FF}, 0x1C, lambda: True)

    @property
    def wait_states(self) -> int:
        return self.words.get(0, 0) & 0xF


class Power(Registers):
    """CR1 and CSR1: voltage scaling and over-drive, ready at once."""

    def __init__(self, is_clocked: Callable[[], bool]) -> None:
        super().__init__("PWR", {0: 0xC000}, 0x10, is_clocked)

    def read(self, offset: int) -> int:
        if offset != 4:
            return super().read(offset)
        overdrive = self.words[0] & (0b11 << 16)
        return super().read(offset) & ~(0b11 << 16) | overdrive | 1 << 14

    @property
    def overdrive(self) -> bool:
        return self.words[0] >> 16 & 0b11 == 0b11


class Clocks(Registers):
    """RCC: oscillators and PLL are ready at once; a change of the system clock is checked against the limits."""

    _CR, _PLLCFGR, _CFGR, _AHB1ENR, _APB1ENR, _DCKCFGR2, _CSR = 0x00, 0x04, 0x08, 0x30, 0x40, 0x90, 0x74

    def __init__(self, flash: FlashInterface, hse_hz: int) -> None:
        reset = {self._CR: 0x83, self._PLLCFGR: 0x2400_3010, self._AHB1ENR: 0x0010_0000}
        super().__init__("RCC", reset, 0x98, lambda: True)
        self.flash = flash
        self.hse_hz = hse_hz
        self.power: Power | None = None

    def read(self, offset: int) -> int:
        word = super().read(offset)
        if offset == self._CR:
            for enable, ready in ((0, 1), (16, 17), (24, 25), (26, 27), (28, 29)):
                word = word & ~(1 << ready) | (word >> enable & 1) << ready
        elif offset == self._CFGR:
            word = word & ~0b1100 | (word & 0b11) << 2
        elif offset == self._CSR:
            word = word & ~0b10 | (word & 1) << 1
        return word

    def write(self, offset: int, value: int) -> None:
        before = self.words.get(self._CR, 0)
        if offset == self._PLLCFGR and before >> 24 & 1:
            raise BoardFaultError("RCC_PLLCFGR is written while the PLL runs")
        super().write(offset, value)
        if offset == self._CFGR:
            self._check_system_clock()

    def peripheral_enabled(self, register: int, bit: int) -> bool:
        return bool(self.words.get(register, 0) >> bit & 1)

    def system_hz(self) -> int:
        """SYSCLK in Hz; BoardFaultError where the selected source does not run or leaves its range."""
        source = self.words.get(self._CFGR, 0) & 0b11
        control = self.read(self._CR)
        if source == 0:
            return HSI_HZ
        if source == 1:
            if not control >> 17 & 1:
                raise BoardFaultError("the system clock is switched to HSE, which does not run")
            return self.hse_hz
        if source != 2 or not control >> 25 & 1:
            raise BoardFaultError("the system clock is switched to the PLL, which does not run")
        setting = self.words[self._PLLCFGR]
        reference = self.hse_hz if setting >> 22 & 1 else HSI_HZ
        divider, factor = setting & 0x3F, setting >> 6 & 0x1FF
        if divider < 2 or not _MHZ <= reference / divider <= 2 * _MHZ:
            raise BoardFaultError(f"the PLL's input {reference} Hz / {divider} is outside 1 to 2 MHz")
        vco = reference * factor // divider
        if not 100 * _MHZ <= vco <= 432 * _MHZ:
            raise BoardFaultError(f"the PLL's oscillator would run at {vco} Hz, outside 100 to 432 MHz")
        return vco // (2 * (setting >> 16 & 0b11) + 2)

    def core_hz(self) -> int:
        field = self.words.get(self._CFGR, 0) >> 4 & 0xF
        return self.system_hz() >> (0 if field < 8 else (1, 2, 3, 4, 6, 7, 8, 9)[field - 8])

    def bus_hz(self, bus: int) -> int:
        """PCLK1 or PCLK2."""
        field = self.words.get(self._CFGR, 0) >> (10 if bus == 1 else 13) & 0b111
        return self.core_hz() >> (0 if field < 4 else field - 3)

    def _check_system_clock(self) -> None:
        core = self.core_hz()
        needed = -(-core // (30 * _MHZ)) - 1
        if self.flash.wait_states < needed:
            raise BoardFaultError(
                f"the core runs at {core} Hz with {self.flash.wait_states} flash wait states; it needs {needed}"
            )
        if core > 216 * _MHZ or (core > 180 * _MHZ and not (self.power and self.power.overdrive)):
            raise BoardFaultError(f"the core runs at {core} Hz, beyond its limit with the over-drive as it is set")
        if self.bus_hz(1) > 54 * _MHZ or self.bus_hz(2) > 108 * _MHZ:
            raise BoardFaultError(f"PCLK1 {self.bus_hz(1)} Hz or PCLK2 {self.bus_hz(2)} Hz is beyond 54 and 108 MHz")


class Gpio(Registers):
    """A port: modes and alternate functions are remembered, outputs read back."""

    def __init__(self, port: str, is_clocked: Callable[[], bool]) -> None:
        super().__init__(f"GPIO{port}", {}, 0x28, is_clocked)

    def write(self, offset: int, value: int) -> None:
        if offset == 0x18:
            self.words[0x14] = self.words.get(0x14, 0) & ~(value >> 16) | value & 0xFFFF
        else:
            super().write(offset, value)

    def alternate_function(self, pin: int) -> int | None:
        """The pin's alternate function; None in any other mode."""
        if self.words.get(0, 0) >> 2 * pin & 0b11 != 0b10:
            return None
        return self.words.get(0x20 + 4 * (pin // 8), 0) >> 4 * (pin % 8) & 0xF


class Usart(Registers):
    """USART without interrupts or DMA, joined to a pseudo-terminal. Sending takes no time; receiving loses nothing."""

    _CR1, _CR2, _BRR, _RQR, _ISR, _ICR, _RDR, _TDR = 0x00, 0x04, 0x0C, 0x18, 0x1C, 0x20, 0x24, 0x28
    _RXNE, _TC, _TXE, _TEACK, _REACK, _IDLE_ENABLED = 1 << 5, 1 << 6, 1 << 7, 1 << 21, 1 << 22, 0b1111_0000

    def __init__(
        self, name: str, descriptor: int, is_clocked: Callable[[], bool], check: Callable[[Usart], None]
    ) -> None:
        super().__init__(name, {}, 0x2C, is_clocked)
        self._descriptor = descriptor
        self._check_settings = check
        self._checked = False
        self._received = bytearray()
        self._sending = bytearray()
        self._polls = 0
        self.slept: Callable[[float], None] = lambda seconds: None

    def read(self, offset: int) -> int:
        if offset == self._ISR:
            return self._status()
        if offset == self._RDR:
            self._polls = 0
            return self._received.pop(0) if self._received else 0
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        if offset == self._TDR:
            self._send(value & 0xFF)
        elif offset == self._CR1:
            if value & self._IDLE_ENABLED:
                raise BoardFaultError(f"{self.name} enables an interrupt; this emulator models none")
            self._checked = False
        elif offset == self._BRR:
            self._checked = False

    def divider(self) -> float:
        """Clock cycles a bit, by BRR and OVER8."""
        setting = self.words.get(self._BRR, 0)
        if self.words.get(self._CR1, 0) >> 15 & 1:
            return (setting & 0xFFF0 | (setting & 0b111) << 1) / 2
        return float(setting)

    def flush(self) -> None:
        while self._sending:
            del self._sending[: os.write(self._descriptor, self._sending)]

    def sleep(self) -> None:
        """Send what waits; then wait a moment for bytes, letting the emulated time go on with the real one."""
        self.flush()
        begun = time.monotonic()
        if select.select([self._descriptor], [], [], IDLE_SECONDS)[0]:
            self._received += os.read(self._descriptor, 4096)
        self.slept(time.monotonic() - begun)
        self._polls = 0

    def _enabled(self, bit: int) -> bool:
        control = self.words.get(self._CR1, 0)
        if not (control & 1 and control >> bit & 1):
            return False
        if not self._checked:
            self._check_settings(self)
            self._checked = True
        return True

    def _send(self, byte: int) -> None:
        if not self._enabled(3):
            raise BoardFaultError(f"{self.name} is told to send while its transmitter is off")
        self._polls = 0
        self._sending.append(byte)
        if len(self._sending) >= _FLUSH_BYTES:
            self.flush()

    def _status(self) -> int:
        super().read(self._ISR)
        transmit, receive = self._enabled(3), self._enabled(2)
        if not self._received:
            # Reads in a row with no byte moved are the firmware waiting for the host.
            self._polls += 1
            if self._polls >= _POLLS_BEFORE_SLEEP:
                self.sleep()
        status = self._TXE | self._TC
        if receive and self._received:
            status |= self._RXNE
        return status | (self._TEACK if transmit else 0) | (self._REACK if receive else 0)


_USARTS: dict[str, tuple[int, int, int, int]] = {  # address, RCC enable register, bit, bus
    "USART1": (0x4001_1000, 0x44, 4, 2),
    "USART2": (0x4000_4400, 0x40, 17, 1),
    "USART3": (0x4000_4800, 0x40, 18, 1),
    "USART6": (0x4001_1400, 0x44, 5, 2),
}


def build_core(spec: dict[str, Any], descriptor: int) -> Core:
    """The whole board, its USART on the file descriptor. BoardFaultError where the ELF does not fit it."""
    image = Image.load(spec["elf"])
    memories = [(m["origin"], m["size"], m["kind"] == "ram") for m in spec["memories"]]
    core = Core(image, memories)
    system = SystemControlSpace(core.now)
    core.system = system
    core.floating_point_enabled = system.floating_point_enabled

    flash = FlashInterface()
    clocks = Clocks(flash, spec["hse_hz"])
    power = Power(lambda: clocks.peripheral_enabled(0x40, 28))
    clocks.power = power
    core.add(0x4002_3C00, flash)
    core.add(0x4002_3800, clocks)
    core.add(0x4000_7000, power)
    ports = {
        name: Gpio(name, lambda bit=bit: clocks.peripheral_enabled(0x30, bit))  # type: ignore[misc]
        for bit, name in enumerate("ABCDEFGHIJK")
    }
    for index, port in enumerate(ports.values()):
        core.add(0x4002_0000 + 0x400 * index, port)

    name = spec["serial"]
    if name not in _USARTS:
        raise BoardFaultError(f"serial port {name} is not modelled; {', '.join(_USARTS)} are")
    address, register, bit, bus = _USARTS[name]

    def check(usart: Usart) -> None:
        if clocks.core_hz() != spec["clock_hz"]:
            raise BoardFaultError(f"the core runs at {clocks.core_hz()} Hz, the board file says {spec['clock_hz']} Hz")
        baud = clocks.bus_hz(bus) / max(usart.divider(), 1.0)
        if abs(baud / spec["baud"] - 1.0) > 0.02:
            raise BoardFaultError(f"{name} runs at {baud:.0f} baud, the board file says {spec['baud']}")
        for pin in spec["pins"]:
            if ports[pin[1]].alternate_function(int(pin[2:])) != spec["alternate_function"]:
                raise BoardFaultError(f"pin {pin} is not set to {name} (AF{spec['alternate_function']})")

    usart = Usart(name, descriptor, lambda: clocks.peripheral_enabled(register, bit), check)
    core.add(address, usart)

    def slept(seconds: float) -> None:
        core.idle_cycles += int(seconds * clocks.core_hz())

    usart.slept = slept
    core.wait = usart.sleep
    return core


def main(argument: str) -> int:
    """Run until stdin ends or the board faults; the fault goes to stderr."""
    spec: dict[str, Any] = json.loads(argument)
    ignore_interrupts()
    master, slave = open_terminal()
    try:
        core = build_core(spec, master)
        end_with_parent()
        announce(slave)
        core.run()
    except BoardFaultError as fault:
        print(fault, file=sys.stderr)
        sys.stderr.flush()
    return 1
