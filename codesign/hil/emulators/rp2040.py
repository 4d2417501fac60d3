"""Emulated RP2040, one core: boot from flash, resets, crystal, PLL, clocks, timer and UART0, on `cortexm.Core`.

As the boot ROM does, the second stage is checked, copied to RAM and run. Register layouts: RP2040 data sheet.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from codesign.hil.emulators.cortexm import BoardFaultError, Core, Image, SystemControlSpace
from codesign.hil.emulators.registers import Registers
from codesign.hil.emulators.serial_port import SerialLine, check_baud

BOOT2_AT = 0x2004_1F00
BOOT2_BYTES = 256
VECTORS = 0x1000_0200
RING_OSCILLATOR_HZ = 6_500_000
_BLOCK = 0x4000
_IO_BANK0, _PADS_BANK0, _PLL_SYS, _UART0 = 5, 8, 12, 22


class Block(Registers):
    """A peripheral with the atomic aliases: XOR at +0x1000, set at +0x2000, clear at +0x3000."""

    def write(self, offset: int, value: int) -> None:
        place, alias = offset & 0xFFF, offset >> 12
        old = self.words.get(place, 0)
        self.store(place, (value, old ^ value, old | value, old & ~value)[alias])

    def store(self, offset: int, value: int) -> None:
        super().write(offset, value)


class Resets(Block):
    """RESET_DONE is the inverse of RESET, at once."""

    def __init__(self) -> None:
        super().__init__("RESETS", {0: 0x01FF_FFFF}, _BLOCK, lambda: True)

    def read(self, offset: int) -> int:
        return ~self.words[0] & 0x01FF_FFFF if offset == 8 else super().read(offset)

    def released(self, bit: int) -> bool:
        return not self.words[0] >> bit & 1


class Crystal(Block):
    """Stable as soon as CTRL enables it with the right magic number."""

    def __init__(self) -> None:
        super().__init__("XOSC", {}, _BLOCK, lambda: True)

    @property
    def stable(self) -> bool:
        return self.words.get(0, 0) == 0xFAB << 12 | 0xAA0

    def read(self, offset: int) -> int:
        return int(self.stable) << 31 if offset == 4 else super().read(offset)


class Pll(Block):
    """PLL_SYS: locked as soon as it is powered."""

    def __init__(self, resets: Resets) -> None:
        super().__init__("PLL_SYS", {0: 1, 4: 0x2D, 0xC: 0x0007_7000}, _BLOCK, lambda: resets.released(_PLL_SYS))

    @property
    def running(self) -> bool:
        return not self.words[4] & (1 << 0 | 1 << 5)

    def read(self, offset: int) -> int:
        word = super().read(offset)
        return word | 1 << 31 if offset == 0 and self.running else word

    def hz(self, crystal_hz: int) -> int:
        reference = crystal_hz / (self.words[0] & 0x3F)
        vco = reference * (self.words.get(8, 0) & 0xFFF)
        if not self.running or self.words[4] & 1 << 3:
            raise BoardFaultError("the system clock is switched to a PLL that does not run")
        if reference < 5e6 or not 750e6 <= vco <= 1600e6:
            raise BoardFaultError(f"the PLL's input {reference:.0f} Hz or oscillator {vco:.0f} Hz is outside its range")
        return int(vco / (self.words[0xC] >> 16 & 7) / (self.words[0xC] >> 12 & 7))


class Clocks(Block):
    """CLK_REF, CLK_SYS and CLK_PERI; a change of source takes effect at once."""

    _REF_CTRL, _REF_SELECTED, _SYS_CTRL, _SYS_SELECTED, _PERI_CTRL = 0x30, 0x38, 0x3C, 0x44, 0x48

    def __init__(self, crystal: Crystal, pll: Pll, crystal_hz: int) -> None:
        super().__init__("CLOCKS", {}, _BLOCK, lambda: True)
        self._crystal, self._pll, self._crystal_hz = crystal, pll, crystal_hz

    def read(self, offset: int) -> int:
        if offset == self._REF_SELECTED:
            return 1 << (self.words.get(self._REF_CTRL, 0) & 0b11)
        if offset == self._SYS_SELECTED:
            return 1 << (self.words.get(self._SYS_CTRL, 0) & 1)
        return super().read(offset)

    def store(self, offset: int, value: int) -> None:
        super().store(offset, value)
        if offset == self._SYS_CTRL:
            self.core_hz()

    def reference_hz(self) -> int:
        source = self.words.get(self._REF_CTRL, 0) & 0b11
        if source == 2 and not self._crystal.stable:
            raise BoardFaultError("the reference clock is switched to a crystal that does not run")
        return self._crystal_hz if source == 2 else RING_OSCILLATOR_HZ

    def core_hz(self) -> int:
        setting = self.words.get(self._SYS_CTRL, 0)
        if not setting & 1:
            return self.reference_hz()
        if setting >> 5 & 7:
            raise BoardFaultError("only PLL_SYS is modelled as the auxiliary source of the system clock")
        hz = self._pll.hz(self._crystal_hz)
        if hz > 133_000_000:
            raise BoardFaultError(f"the core runs at {hz} Hz, beyond 133 MHz")
        return hz

    def peripheral_hz(self) -> int:
        setting = self.words.get(self._PERI_CTRL, 0)
        if not setting >> 11 & 1 or setting >> 5 & 7:
            raise BoardFaultError("clk_peri is off, or not taken from clk_sys")
        return self.core_hz()


class Timer(Block):
    """TIMERAWL and TIMERAWH: ticks of the watchdog's tick generator."""

    def __init__(self, now: Callable[[], int], cycles_per_tick: Callable[[], int]) -> None:
        super().__init__("TIMER", {}, _BLOCK, lambda: True)
        self._now, self._cycles_per_tick = now, cycles_per_tick

    def read(self, offset: int) -> int:
        if offset in (0x24, 0x28):
            ticks = self._now() // self._cycles_per_tick()
            return (ticks >> 32 if offset == 0x24 else ticks) & 0xFFFF_FFFF
        return super().read(offset)


class Uart(Block):
    """PL011 with its FIFOs on."""

    _DR, _FR, _IBRD, _FBRD, _LCR_H, _CR, _IMSC = 0x00, 0x18, 0x24, 0x28, 0x2C, 0x30, 0x38

    def __init__(self, line: SerialLine, resets: Resets, check: Callable[[Uart], None]) -> None:
        super().__init__("UART0", {}, _BLOCK, lambda: resets.released(_UART0))
        self.line, self._check_settings, self._checked = line, check, False

    def read(self, offset: int) -> int:
        word = super().read(offset)
        if offset == self._FR:
            self._require_set_up()
            return 1 << 7 | (0 if self.line.poll() else 1 << 4)
        return self.line.take() if offset == self._DR else word

    def store(self, offset: int, value: int) -> None:
        super().store(offset, value)
        if offset == self._IMSC and value:
            raise BoardFaultError("UART0 enables an interrupt; this emulator models none")
        if offset == self._DR:
            self._require_set_up()
            self.line.send(value & 0xFF)
        else:
            self._checked = False

    def divider(self) -> float:
        return self.words.get(self._IBRD, 0) + (self.words.get(self._FBRD, 0) & 63) / 64

    def _require_set_up(self) -> None:
        if self._checked:
            return
        if self.words.get(self._CR, 0) & 0x301 != 0x301:
            raise BoardFaultError("UART0 is used while CR does not enable it both ways")
        if self.words.get(self._LCR_H, 0) & 0x70 != 0x70:
            raise BoardFaultError("UART0 is not set to 8 bits with FIFOs")
        self._check_settings(self)
        self._checked = True


def boot_crc(data: bytes) -> int:
    """The boot ROM's CRC-32: polynomial 0x04C11DB7, not reflected, start 0xFFFFFFFF."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C1_1DB7) & 0xFFFF_FFFF if crc >> 31 else crc << 1
    return crc


def build(spec: dict[str, Any], line: SerialLine) -> Core:
    """The whole board, its UART on the line. BoardFaultError where the ELF does not fit it or would not boot."""
    image = Image.load(spec["elf"])
    memories = [(m["origin"], m["size"], m["kind"] == "ram") for m in spec["memories"]]
    windows = ((0x4000_0000, 0x8_0000), (0x1800_0000, 0x1000))
    core = Core(image, memories, "cortex-m0plus", windows, first_vectors=VECTORS)
    core.system = SystemControlSpace(core.now)
    resets, crystal = Resets(), Crystal()
    pll = Pll(resets)
    clocks = Clocks(crystal, pll, spec["hse_hz"])
    watchdog = Block("WATCHDOG", {0x2C: 0x200}, _BLOCK, lambda: True)
    io = Block("IO_BANK0", {}, _BLOCK, lambda: resets.released(_IO_BANK0))
    pads = Block("PADS_BANK0", {}, _BLOCK, lambda: resets.released(_PADS_BANK0))
    tx, rx = (int(pin[2:]) for pin in spec["pins"])

    def cycles_per_tick() -> int:
        setting = watchdog.words[0x2C]
        if not setting & 1 << 9 or not setting & 0x1FF:
            raise BoardFaultError("the timer is read while the watchdog's tick generator is off")
        return clocks.core_hz() * (setting & 0x1FF) // clocks.reference_hz()

    def check(uart: Uart) -> None:
        if clocks.core_hz() != spec["clock_hz"]:
            raise BoardFaultError(f"the core runs at {clocks.core_hz()} Hz, the board file says {spec['clock_hz']} Hz")
        check_baud("UART0", clocks.peripheral_hz() / (16 * max(uart.divider(), 1.0)), spec["baud"])
        for pin in (tx, rx):
            if io.words.get(8 * pin + 4, 31) & 31 != spec["alternate_function"]:
                raise BoardFaultError(f"pin GP{pin} is not set to UART0 (function {spec['alternate_function']})")
        if pads.words.get(4 * rx + 4, 0x56) & 0xC0 != 0x40 or pads.words.get(4 * tx + 4, 0x56) & 0x80:
            raise BoardFaultError(f"the pads of GP{tx} and GP{rx} do not let the port through")

    for address, block in (
        (0x4000_C000, resets), (0x4002_4000, crystal), (0x4002_8000, pll), (0x4000_8000, clocks),
        (0x4005_8000, watchdog), (0x4001_4000, io), (0x4001_C000, pads),
        (0x4005_4000, Timer(core.now, cycles_per_tick)), (0x4003_4000, Uart(line, resets, check)),
    ):  # fmt: skip
        core.add(address, block, _BLOCK)
    core.add(0x1800_0000, Registers("SSI", {}, 0x100, lambda: True))

    boot2 = image.bytes_at(spec["memories"][0]["origin"], BOOT2_BYTES)
    if len(boot2) != BOOT2_BYTES or boot_crc(boot2[:-4]) != struct.unpack("<I", boot2[-4:])[0]:
        raise BoardFaultError("the boot ROM refuses the flash: its second stage is missing or has a wrong CRC")
    core.uc.mem_write(BOOT2_AT, boot2)
    core.start_at(BOOT2_AT, BOOT2_AT)

    def slept(seconds: float) -> None:
        core.idle_cycles += int(seconds * clocks.core_hz())

    line.slept = slept
    return core
