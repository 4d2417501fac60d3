"""Emulated STM32F4 and STM32F7: clock tree, power, flash interface, GPIO and one USART, on `cortexm.Core`.

The model is strict where a real board would stay silent: a USART whose clock, pins or baud rate are wrong, flash wait
states too few for the clock, a PLL outside its range. Register layouts and limits are from ST's RM0385 and DS10916
(STM32F746), RM0390 and DS10693 (STM32F446), RM0368 and DS10086 (STM32F401).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from codesign.hil.emulators.cortexm import BoardFaultError, Core, Image, SystemControlSpace
from codesign.hil.emulators.registers import Registers
from codesign.hil.emulators.serial_port import SerialLine, check_baud

HSI_HZ = 16_000_000
_MHZ = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Frequencies in MHz: the core's without and with over-drive, the buses', and the core's for each wait state."""

    cpu: str
    core: int
    overdriven: int
    bus1: int
    bus2: int
    wait_state: int
    usart_v2: bool


MACHINES = {
    "stm32f746": Limits("cortex-m7", 180, 216, 54, 108, 30, True),
    "stm32f446": Limits("cortex-m4", 168, 180, 45, 90, 30, False),
    "stm32f401": Limits("cortex-m4", 84, 84, 42, 84, 30, False),
}


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

    def __init__(self, flash: FlashInterface, hse_hz: int, limits: Limits) -> None:
        reset = {self._CR: 0x83, self._PLLCFGR: 0x2400_3010, self._AHB1ENR: 0x0010_0000}
        super().__init__("RCC", reset, 0x98, lambda: True)
        self.flash = flash
        self.hse_hz = hse_hz
        self.limits = limits
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
        core, limits = self.core_hz(), self.limits
        needed = -(-core // (limits.wait_state * _MHZ)) - 1
        if self.flash.wait_states < needed:
            raise BoardFaultError(
                f"the core runs at {core} Hz with {self.flash.wait_states} flash wait states; it needs {needed}"
            )
        overdriven = bool(self.power and self.power.overdrive)
        if core > (limits.overdriven if overdriven else limits.core) * _MHZ:
            raise BoardFaultError(f"the core runs at {core} Hz, beyond its limit with the over-drive as it is set")
        if self.bus_hz(1) > limits.bus1 * _MHZ or self.bus_hz(2) > limits.bus2 * _MHZ:
            raise BoardFaultError(
                f"PCLK1 {self.bus_hz(1)} Hz or PCLK2 {self.bus_hz(2)} Hz is beyond {limits.bus1} and {limits.bus2} MHz"
            )


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


@dataclass(frozen=True)
class UsartLayout:
    """Offsets of the registers, and the bits of CR1 that enable the port and its interrupts."""

    cr1: int
    brr: int
    status: int
    receive: int
    transmit: int
    size: int
    enable: int
    interrupts: int
    acknowledges: bool


USART_V1 = UsartLayout(0x0C, 0x08, 0x00, 0x04, 0x04, 0x1C, 13, 0b1_1111_0000, False)
USART_V2 = UsartLayout(0x00, 0x0C, 0x1C, 0x24, 0x28, 0x2C, 0, 0b1_1111_0000, True)


class Usart(Registers):
    """USART of the older (F1, F2, F4) or newer (F7, L4) layout, without interrupts or DMA."""

    _RXNE, _TC, _TXE, _TEACK, _REACK = 1 << 5, 1 << 6, 1 << 7, 1 << 21, 1 << 22
    _TE, _RE = 3, 2

    def __init__(
        self,
        name: str,
        line: SerialLine,
        layout: UsartLayout,
        is_clocked: Callable[[], bool],
        check: Callable[[Usart], None],
    ) -> None:
        super().__init__(name, {}, layout.size, is_clocked)
        self.line = line
        self.layout = layout
        self._check_settings = check
        self._checked = False

    def read(self, offset: int) -> int:
        if offset == self.layout.status:
            return self._status()
        if offset == self.layout.receive:
            super().read(offset)
            return self.line.take()
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        if offset == self.layout.transmit:
            if not self._enabled(self._TE):
                raise BoardFaultError(f"{self.name} is told to send while its transmitter is off")
            self.line.send(value & 0xFF)
        elif offset == self.layout.cr1:
            if value & self.layout.interrupts:
                raise BoardFaultError(f"{self.name} enables an interrupt; this emulator models none")
            self._checked = False
        elif offset == self.layout.brr:
            self._checked = False

    def divider(self) -> float:
        """Clock cycles a bit, by BRR and OVER8."""
        setting = self.words.get(self.layout.brr, 0)
        if self.words.get(self.layout.cr1, 0) >> 15 & 1:
            return (setting & 0xFFF0 | (setting & 0b111) << 1) / 2
        return float(setting)

    def _enabled(self, bit: int) -> bool:
        control = self.words.get(self.layout.cr1, 0)
        if not (control >> self.layout.enable & 1 and control >> bit & 1):
            return False
        if not self._checked:
            self._check_settings(self)
            self._checked = True
        return True

    def _status(self) -> int:
        super().read(self.layout.status)
        transmit, receive = self._enabled(self._TE), self._enabled(self._RE)
        received = self.line.poll()
        status = self._TXE | self._TC
        if receive and received:
            status |= self._RXNE
        if self.layout.acknowledges:
            status |= (self._TEACK if transmit else 0) | (self._REACK if receive else 0)
        return status


_USARTS: dict[str, tuple[int, int, int, int]] = {  # address, RCC enable register, bit, bus
    "USART1": (0x4001_1000, 0x44, 4, 2),
    "USART2": (0x4000_4400, 0x40, 17, 1),
    "USART3": (0x4000_4800, 0x40, 18, 1),
    "USART6": (0x4001_1400, 0x44, 5, 2),
}


def usart_place(spec: dict[str, Any], known: dict[str, tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    """Address, RCC enable register, bit and bus of the board's serial port."""
    if spec["serial"] not in known:
        raise BoardFaultError(f"serial port {spec['serial']} is not modelled; {', '.join(known)} are")
    return known[spec["serial"]]


def check_core_clock(found: int, spec: dict[str, Any]) -> None:
    """BoardFaultError where the clock is not the board file's."""
    if found != spec["clock_hz"]:
        raise BoardFaultError(f"the core runs at {found} Hz, the board file says {spec['clock_hz']} Hz")


def build(spec: dict[str, Any], line: SerialLine) -> Core:
    """The whole board, its USART on the line. BoardFaultError where the ELF does not fit it."""
    limits = MACHINES[spec["machine"]]
    image = Image.load(spec["elf"])
    memories = [(m["origin"], m["size"], m["kind"] == "ram") for m in spec["memories"]]
    core = Core(image, memories, limits.cpu)
    system = SystemControlSpace(core.now)
    core.system = system
    core.floating_point_enabled = system.floating_point_enabled

    flash = FlashInterface()
    clocks = Clocks(flash, spec["hse_hz"], limits)
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
    address, register, bit, bus = usart_place(spec, _USARTS)

    def check(usart: Usart) -> None:
        check_core_clock(clocks.core_hz(), spec)
        check_baud(usart.name, clocks.bus_hz(bus) / max(usart.divider(), 1.0), spec["baud"])
        for pin in spec["pins"]:
            if ports[pin[1]].alternate_function(int(pin[2:])) != spec["alternate_function"]:
                raise BoardFaultError(f"pin {pin} is not set to {usart.name} (AF{spec['alternate_function']})")

    layout = USART_V2 if limits.usart_v2 else USART_V1
    core.add(address, Usart(spec["serial"], line, layout, lambda: clocks.peripheral_enabled(register, bit), check))

    def slept(seconds: float) -> None:
        core.idle_cycles += int(seconds * clocks.core_hz())

    line.slept = slept
    return core
