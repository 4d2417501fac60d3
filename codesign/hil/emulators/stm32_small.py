"""Emulated STM32F1 and STM32L4, as strict as `stm32`: clock tree, flash wait states, pins and one USART.

Register layouts and limits are from ST's RM0008 and DS5319 (STM32F103), RM0351 and DS10198 (STM32L476).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from codesign.hil.emulators.cortexm import BoardFaultError, Core, Image, SystemControlSpace
from codesign.hil.emulators.registers import Registers
from codesign.hil.emulators.serial_port import SerialLine, check_baud
from codesign.hil.emulators.stm32 import USART_V1, USART_V2, FlashInterface, Gpio, Usart, check_core_clock, usart_place

_MHZ = 1_000_000


class Clocks(Registers):
    """RCC: oscillators and PLL are ready at once; a change of the system clock is checked against the limits."""

    CR, CFGR = 0x00, 0x00
    PPRE1, PPRE2 = 8, 11
    INTERNAL_HZ = 0
    CORE_MHZ, BUS1_MHZ, BUS2_MHZ = 0, 0, 0

    def __init__(self, flash: FlashInterface, hse_hz: int, reset: dict[int, int], size: int) -> None:
        super().__init__("RCC", reset, size, lambda: True)
        self.flash = flash
        self.hse_hz = hse_hz

    def read(self, offset: int) -> int:
        word = super().read(offset)
        if offset == self.CR:
            for enable, ready in ((0, 1), (16, 17), (24, 25)):
                word = word & ~(1 << ready) | (word >> enable & 1) << ready
        elif offset == self.CFGR:
            word = word & ~0b1100 | (word & 0b11) << 2
        return word

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        if offset == self.CFGR:
            self._check_system_clock()

    def peripheral_enabled(self, register: int, bit: int) -> bool:
        return bool(self.words.get(register, 0) >> bit & 1)

    def core_hz(self) -> int:
        """SYSCLK in Hz, undivided; BoardFaultError where its source does not run."""
        setting = self.words.get(self.CFGR, 0)
        if setting >> 4 & 0xF:
            raise BoardFaultError("the AHB prescaler is not modelled")
        source = setting & 0b11
        if source == 0:
            return self.INTERNAL_HZ
        if source != self.pll_source() or not self.read(self.CR) >> 25 & 1 or not self.read(self.CR) >> 17 & 1:
            raise BoardFaultError("the system clock is switched to a PLL that does not run")
        return self.pll_hz()

    def pll_source(self) -> int:
        """The value of SW that selects the PLL."""
        raise NotImplementedError

    def pll_hz(self) -> int:
        """The PLL's output; BoardFaultError where it leaves its range."""
        raise NotImplementedError

    def wait_states(self, core_hz: int) -> int:
        """Flash wait states that the core clock needs."""
        raise NotImplementedError

    def bus_hz(self, bus: int) -> int:
        """PCLK1 or PCLK2."""
        field = self.words.get(self.CFGR, 0) >> (self.PPRE1 if bus == 1 else self.PPRE2) & 0b111
        return self.core_hz() >> (0 if field < 4 else field - 3)

    def _check_system_clock(self) -> None:
        core = self.core_hz()
        needed = self.wait_states(core)
        if self.flash.words.get(0, 0) & 0b111 < needed:
            raise BoardFaultError(f"the core runs at {core} Hz with too few flash wait states; it needs {needed}")
        if core > self.CORE_MHZ * _MHZ:
            raise BoardFaultError(f"the core runs at {core} Hz, beyond its limit of {self.CORE_MHZ} MHz")
        if self.bus_hz(1) > self.BUS1_MHZ * _MHZ or self.bus_hz(2) > self.BUS2_MHZ * _MHZ:
            raise BoardFaultError(f"PCLK1 {self.bus_hz(1)} Hz or PCLK2 {self.bus_hz(2)} Hz is beyond its limit")


class ClocksF1(Clocks):
    """PLL: HSE, or half of it, times PLLMUL."""

    CFGR = 0x04
    INTERNAL_HZ = 8 * _MHZ
    CORE_MHZ, BUS1_MHZ, BUS2_MHZ = 72, 36, 72

    def pll_source(self) -> int:
        return 2

    def pll_hz(self) -> int:
        setting = self.words.get(self.CFGR, 0)
        if not setting >> 16 & 1:
            raise BoardFaultError("the PLL runs from the internal oscillator, not from HSE")
        return self.hse_hz // (2 if setting >> 17 & 1 else 1) * min((setting >> 18 & 0xF) + 2, 16)

    def wait_states(self, core_hz: int) -> int:
        return 0 if core_hz <= 24 * _MHZ else 1 if core_hz <= 48 * _MHZ else 2


class ClocksL4(Clocks):
    """PLL: HSE / M * N / R."""

    CFGR, PLLCFGR = 0x08, 0x0C
    INTERNAL_HZ = 4 * _MHZ
    CORE_MHZ, BUS1_MHZ, BUS2_MHZ = 80, 80, 80

    def write(self, offset: int, value: int) -> None:
        if offset == self.PLLCFGR and self.words.get(self.CR, 0) >> 24 & 1:
            raise BoardFaultError("RCC_PLLCFGR is written while the PLL runs")
        super().write(offset, value)

    def pll_source(self) -> int:
        return 3

    def pll_hz(self) -> int:
        setting = self.words.get(self.PLLCFGR, 0)
        if setting & 0b11 != 3 or not setting >> 24 & 1:
            raise BoardFaultError("the PLL does not run from HSE, or its output R is off")
        reference = self.hse_hz / ((setting >> 4 & 0b111) + 1)
        vco = reference * (setting >> 8 & 0x7F)
        if not 4 * _MHZ <= reference <= 16 * _MHZ or not 64 * _MHZ <= vco <= 344 * _MHZ:
            raise BoardFaultError(f"the PLL's input {reference:.0f} Hz or oscillator {vco:.0f} Hz is outside its range")
        return int(vco / (2 * (setting >> 25 & 0b11) + 2))

    def wait_states(self, core_hz: int) -> int:
        return -(-core_hz // (16 * _MHZ)) - 1


class GpioF1(Registers):
    """CRL and CRH: four bits a pin."""

    ALTERNATE_OUTPUTS = (0x9, 0xA, 0xB)
    INPUTS = (0x4, 0x8)

    def mode(self, pin: int) -> int:
        return self.words.get(4 * (pin // 8), 0x4444_4444) >> 4 * (pin % 8) & 0xF


_USARTS_F1 = {  # address, RCC enable register, bit, bus
    "USART1": (0x4001_3800, 0x18, 14, 2),
    "USART2": (0x4000_4400, 0x1C, 17, 1),
    "USART3": (0x4000_4800, 0x1C, 18, 1),
}
_USARTS_L4 = {
    "USART1": (0x4001_3800, 0x60, 14, 2),
    "USART2": (0x4000_4400, 0x58, 17, 1),
    "USART3": (0x4000_4800, 0x58, 18, 1),
}


def _core(spec: dict[str, Any], cpu: str, windows: tuple[tuple[int, int], ...]) -> Core:
    memories = [(m["origin"], m["size"], m["kind"] == "ram") for m in spec["memories"]]
    core = Core(Image.load(spec["elf"]), memories, cpu, windows)
    system = SystemControlSpace(core.now)
    core.system = system
    core.floating_point_enabled = system.floating_point_enabled
    return core


def _finish(core: Core, line: SerialLine, clocks: Clocks) -> Core:
    def slept(seconds: float) -> None:
        core.idle_cycles += int(seconds * clocks.core_hz())

    line.slept = slept
    return core


def build_f1(spec: dict[str, Any], line: SerialLine) -> Core:
    """STM32F103."""
    core = _core(spec, "cortex-m3", ((0x4000_0000, 0x8_0000),))
    flash = FlashInterface()
    clocks = ClocksF1(flash, spec["hse_hz"], {0: 0x83, 0x14: 0x14}, 0x28)
    core.add(0x4002_2000, flash)
    core.add(0x4002_1000, clocks)
    ports = {}
    for bit, name in enumerate("ABCDEFG"):
        enabled = partial(clocks.peripheral_enabled, 0x18, 2 + bit)
        ports[name] = GpioF1(f"GPIO{name}", {0: 0x4444_4444, 4: 0x4444_4444}, 0x1C, enabled)
    for index, port in enumerate(ports.values()):
        core.add(0x4001_0800 + 0x400 * index, port)
    address, register, bit, bus = usart_place(spec, _USARTS_F1)
    tx, rx = spec["pins"]

    def check(usart: Usart) -> None:
        check_core_clock(clocks.core_hz(), spec)
        check_baud(usart.name, clocks.bus_hz(bus) / max(usart.divider(), 1.0), spec["baud"])
        if ports[tx[1]].mode(int(tx[2:])) not in GpioF1.ALTERNATE_OUTPUTS:
            raise BoardFaultError(f"pin {tx} is no output of {usart.name}")
        if ports[rx[1]].mode(int(rx[2:])) not in GpioF1.INPUTS:
            raise BoardFaultError(f"pin {rx} is no input")

    core.add(address, Usart(spec["serial"], line, USART_V1, lambda: clocks.peripheral_enabled(register, bit), check))
    return _finish(core, line, clocks)


def build_l4(spec: dict[str, Any], line: SerialLine) -> Core:
    """STM32L476."""
    core = _core(spec, "cortex-m4", ((0x4000_0000, 0x8_0000), (0x4800_0000, 0x4000)))
    flash = FlashInterface()
    clocks = ClocksL4(flash, spec["hse_hz"], {0: 0x63, 0x0C: 0x1000}, 0xA0)
    core.add(0x4002_2000, flash)
    core.add(0x4002_1000, clocks)
    ports = {
        name: Gpio(name, lambda bit=bit: clocks.peripheral_enabled(0x4C, bit))  # type: ignore[misc]
        for bit, name in enumerate("ABCDEFGH")
    }
    for index, port in enumerate(ports.values()):
        core.add(0x4800_0000 + 0x400 * index, port)
    address, register, bit, bus = usart_place(spec, _USARTS_L4)

    def check(usart: Usart) -> None:
        check_core_clock(clocks.core_hz(), spec)
        check_baud(usart.name, clocks.bus_hz(bus) / max(usart.divider(), 1.0), spec["baud"])
        for pin in spec["pins"]:
            if ports[pin[1]].alternate_function(int(pin[2:])) != spec["alternate_function"]:
                raise BoardFaultError(f"pin {pin} is not set to {usart.name} (AF{spec['alternate_function']})")

    core.add(address, Usart(spec["serial"], line, USART_V2, lambda: clocks.peripheral_enabled(register, bit), check))
    return _finish(core, line, clocks)
