"""Boards as data: one validated TOML file each (see docs/architecture.md for the format)."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from codesign.errors import InputError
from codesign.resources import resource_dir

T = TypeVar("T")

DEFAULT_STACK_BYTES = 8192
MAX_FILE_BYTES = 1 << 20
CORES = ("cortex-m0", "cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33")
CORES_WITHOUT_DWT = ("cortex-m0", "cortex-m0plus")


@dataclass(frozen=True)
class Memory:
    """One memory: `origin` address and `size` in bytes."""

    name: str
    kind: Literal["flash", "ram"]
    origin: int
    size: int

    @property
    def end(self) -> int:
        """The first address behind the memory."""
        return self.origin + self.size

    def contains(self, address: int, size: int = 0) -> bool:
        """Whether `size` bytes at `address` lie inside."""
        return self.origin <= address and address + size <= self.end


@dataclass(frozen=True)
class Pin:
    """A pin by its vendor's name: PD8 is port 'D', number 8; P0.06 port '0', number 6; GP1 port 'GP', number 1."""

    port: str
    number: int

    def __str__(self) -> str:
        if self.port == "GP":
            return f"GP{self.number}"
        return f"P{self.port}.{self.number:02}" if self.port.isdigit() else f"P{self.port}{self.number}"

    @property
    def port_number(self) -> int:
        """Ports counted from 0."""
        return 0 if self.port == "GP" else int(self.port) if self.port.isdigit() else ord(self.port) - ord("A")


@dataclass(frozen=True)
class Serial:
    """The serial port the host talks to. `tx`, `rx` and `af` are None where the pins need no set-up."""

    peripheral: str
    baud: int
    tx: Pin | None
    rx: Pin | None
    af: int | None

    @property
    def unit(self) -> int:
        """The number in the peripheral's name: 3 of USART3."""
        return int(re.findall(r"\d+$", self.peripheral)[0])


@dataclass(frozen=True)
class Clock:
    """Crystal and PLL: HSE / pll_m * pll_n / pll_p is the core clock; APB dividers; flash wait states.

    On STM32F1, pll_m is PLLXTPRE's divider, pll_n the multiplier and pll_p 1; on STM32L4, pll_p is the output R; on
    RP2040, pll_p * pll_q divides.
    """

    hse_hz: int
    hse_bypass: bool
    pll_m: int
    pll_n: int
    pll_p: int
    pll_q: int
    overdrive: bool
    flash_wait_states: int
    apb1_divider: int
    apb2_divider: int


@dataclass(frozen=True)
class Flashing:
    """How a real board is programmed: openocd scripts, and the (vendor, product) USB ids of its debug probe.

    `device_id` is (address, value): the low 12 bits that the chip has to show there before it is programmed.
    """

    method: Literal["openocd"]
    config: tuple[str, ...]
    usb: tuple[tuple[int, int], ...]
    device_id: tuple[int, int] | None


@dataclass(frozen=True)
class Emulator:
    """What runs the board's ELF without hardware.

    `counter_hz` is the rate at which the emulated machine advances the firmware's counter, in Hz of its virtual time
    (None: the emulator counts instructions). Under QEMU's -icount shift=0 an instruction takes 1 ns, so a counter tick
    is 1e9 / counter_hz instructions.
    """

    kind: Literal["qemu", "unicorn"]
    machine: str
    counter_hz: int | None


@dataclass(frozen=True)
class Board:
    """A board. Sizes in bytes, frequencies in Hz. `emulator`, `flashing` and `clock` are None where there is none."""

    name: str
    title: str
    vendor: str
    url: str
    mcu: str
    core: str
    fpu: str
    float_abi: Literal["hard", "softfp", "soft"]
    clock_hz: int
    memories: tuple[Memory, ...]
    serial: Serial
    clock: Clock | None
    support: str
    shared: tuple[str, ...]
    stack_bytes: int
    flashing: Flashing | None
    emulator: Emulator | None
    counter: Literal["dwt", "systick", "board"]

    @property
    def flash(self) -> Memory:
        """The first flash: the program's place."""
        return next(m for m in self.memories if m.kind == "flash")

    @property
    def ram(self) -> Memory:
        """The first RAM with everything that follows it without a gap, as one region."""
        rams = [m for m in self.memories if m.kind == "ram"]
        end = rams[0].end
        for memory in sorted(rams[1:], key=lambda m: m.origin):
            if memory.origin == end:
                end = memory.end
        return Memory("ram", "ram", rams[0].origin, end - rams[0].origin)


def list_boards() -> list[str]:
    """Names of the boards that ship with codesign, sorted."""
    return sorted(path.stem for path in resource_dir("boards").glob("*.toml"))


def load_board(name: str | Path) -> Board:
    """The board of that name, or of the .toml file at that path.

    InputError: no such board or file, or a file that is not a valid board.
    """
    text = str(name)
    if text.endswith(".toml") or "/" in text:
        path = Path(text)
        if not path.is_file():
            raise InputError(f"there is no board file {path}: give a .toml file, or one of {', '.join(list_boards())}")
    elif text in list_boards():
        path = resource_dir("boards") / f"{text}.toml"
    else:
        raise InputError(
            f"unknown board '{text}': choose one of {', '.join(list_boards())}, or give the path of a .toml file"
        )
    board = _parse(_read_toml(path), path)
    if path.parent == resource_dir("boards") and board.name != path.stem:
        raise InputError(f"board file {path.name}: 'name' has to be '{path.stem}', as the file is called")
    return board


def _read_toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"board file {path.name} is too large: a board takes less than {MAX_FILE_BYTES} bytes")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"board file {path.name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        # Also numbers of thousands of digits, text that is not UTF-8, and tables nested without end.
        reason = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "it is not a board's"
        raise InputError(f"board file {path.name} is not valid TOML: {reason}") from None


class _Table:
    """A TOML table read key by key: every key is checked for its type, and none may be left over."""

    def __init__(self, path: Path, data: Mapping[str, Any], where: str) -> None:
        self.path = path
        self.where = where
        self.data = dict(data)

    def fail(self, what: str) -> InputError:
        place = f"[{self.where}] " if self.where else ""
        return InputError(f"board file {self.path.name}: {place}{what}")

    def take(self, key: str, kind: type[T], default: T | None = None) -> T:
        value = self.data.pop(key, default)
        if value is None:
            raise self.fail(f"'{key}' is missing")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.fail(f"'{key}' has to be of type {kind.__name__}")
        if isinstance(value, int) and abs(value) > 1 << 32:
            raise self.fail(f"'{key}' has to fit 32 bits")
        return value

    def label(self, key: str) -> str:
        """Text that is put into comments of C and linker scripts."""
        value = self.take(key, str)
        if not value.isprintable() or not value.strip() or "*/" in value:
            raise self.fail(f"'{key}' has to be one line of text")
        return value

    def positive(self, key: str, default: int | None = None) -> int:
        value = self.take(key, int, default)
        if value <= 0:
            raise self.fail(f"'{key}' has to be positive")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.take(key, str)
        if value not in choices:
            raise self.fail(f"'{key}' is '{value}': it has to be one of {', '.join(choices)}")
        return value

    def table(self, key: str) -> _Table | None:
        value = self.data.pop(key, None)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fail(f"'{key}' has to be a table")
        return _Table(self.path, value, key)

    def done(self) -> None:
        if self.data:
            raise self.fail(f"unknown key '{next(iter(self.data))}'")


def _require(root: _Table, key: str) -> _Table:
    table = root.table(key)
    if table is None:
        raise root.fail(f"the table [{key}] is missing")
    return table


def _parse(data: dict[str, Any], path: Path) -> Board:
    root = _Table(path, data, "")
    name = root.take("name", str)
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise root.fail("'name' has to consist of 1 to 64 letters, digits, '_' and '-'")
    fpu = root.take("fpu", str, "")
    memories = _memories(root)
    firmware = _require(root, "firmware")
    support = firmware.take("support", str)
    shared = tuple(str(folder) for folder in firmware.take("shared", list, []))
    folders = sorted(p.name for p in (resource_dir("firmware") / "boards").iterdir() if p.is_dir())
    for folder in (support, *shared):
        if folder not in folders:
            raise firmware.fail(f"there is no board support '{folder}': choose one of {', '.join(folders)}")
    stack_bytes = firmware.positive("stack_bytes", DEFAULT_STACK_BYTES)
    if stack_bytes % 8:
        raise firmware.fail("'stack_bytes' has to be a multiple of 8")
    firmware.done()
    counter = _require(root, "counter")
    kind = counter.choice("kind", ("dwt", "systick", "board"))
    counter.done()
    from codesign.toolchain.families import check_family

    board = Board(
        name=name,
        title=root.label("title"),
        vendor=root.label("vendor"),
        url=root.take("url", str, ""),
        mcu=root.take("mcu", str),
        core=root.choice("core", CORES),
        fpu=fpu,
        float_abi=cast(Any, root.choice("float_abi", ("hard", "softfp", "soft"))),
        clock_hz=root.positive("clock_hz"),
        memories=memories,
        serial=_serial(_require(root, "serial")),
        clock=_clock(root.table("clock")),
        support=support,
        shared=shared,
        stack_bytes=stack_bytes,
        flashing=_flashing(root.table("flash")),
        emulator=_emulator(root.table("emulator")),
        counter=cast(Any, kind),
    )
    if not re.fullmatch(r"[a-z0-9-]*", fpu) or (board.float_abi == "hard" and not fpu):
        raise root.fail("'fpu' has to be a compiler's FPU name, such as fpv5-sp-d16, where 'float_abi' is hard")
    if kind == "dwt" and board.core in CORES_WITHOUT_DWT:
        raise root.fail(f"[counter] {board.core} has no DWT cycle counter: take systick")
    if complaint := check_family(board):
        raise root.fail(complaint)
    if board.ram.size < stack_bytes:
        raise root.fail(f"'stack_bytes' is {stack_bytes}, which is more than the RAM ({board.ram.size} bytes)")
    root.done()
    return board


def _memories(root: _Table) -> tuple[Memory, ...]:
    entries = root.take("memory", list)
    memories = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise root.fail("'memory' has to be a list of tables")
        table = _Table(root.path, entry, f"memory {index + 1}")
        origin = table.take("origin", int)
        memory = Memory(
            name=table.take("name", str),
            kind=cast(Any, table.choice("kind", ("flash", "ram"))),
            origin=origin,
            size=table.positive("size"),
        )
        if not 0 <= origin < memory.end <= 1 << 32:
            raise table.fail("the memory has to lie in the 32-bit address space")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", memory.name):
            raise table.fail("'name' has to be a lower-case identifier")
        table.done()
        memories.append(memory)
    for kind in ("flash", "ram"):
        if not any(m.kind == kind for m in memories):
            raise root.fail(f"there is no memory of kind '{kind}'")
    for first, second in zip(ordered := sorted(memories, key=lambda m: m.origin), ordered[1:], strict=False):
        if second.origin < first.end:
            raise root.fail(f"the memories '{first.name}' and '{second.name}' overlap")
    if len({m.name for m in memories}) != len(memories):
        raise root.fail("two memories have the same name")
    return tuple(memories)


def _serial(table: _Table) -> Serial:
    peripheral = table.take("peripheral", str)
    if not re.fullmatch(r"[A-Z]+[0-9]+", peripheral):
        raise table.fail("'peripheral' has to be a name such as USART3")
    baud = table.positive("baud")
    pins = table.table("pins")
    tx = rx = af = None
    if pins is not None:
        tx, rx = _pin(pins, "tx"), _pin(pins, "rx")
        if "af" in pins.data:
            af = pins.take("af", int)
            if not 0 <= af <= 15:
                raise pins.fail("'af' has to lie in 0..15")
        pins.done()
    table.done()
    return Serial(peripheral, baud, tx, rx, af)


def _pin(table: _Table, key: str) -> Pin:
    text = table.take(key, str)
    for pattern in (r"P([A-K])([0-9]|1[0-5])", r"P([01])\.([0-2][0-9]|3[01])", r"(GP)([0-9]|[12][0-9])"):
        if match := re.fullmatch(pattern, text):
            return Pin(match[1], int(match[2]))
    raise table.fail(f"'{key}' is '{text}': it has to be a pin such as PD8, P0.06 or GP1")


def _clock(table: _Table | None) -> Clock | None:
    if table is None:
        return None
    numbers = ("hse_hz", "pll_m", "pll_n", "pll_p", "pll_q", "flash_wait_states", "apb1_divider", "apb2_divider")
    clock = Clock(
        hse_bypass=table.take("hse_bypass", bool),
        overdrive=table.take("overdrive", bool),
        **{key: table.positive(key) for key in numbers},
    )
    table.done()
    return clock


def _flashing(table: _Table | None) -> Flashing | None:
    if table is None:
        return None
    table.choice("method", ("openocd",))
    config = tuple(part.strip() for part in table.take("config", str).split(","))
    # openocd's scripts can run programs: only its own, never a path of the board file's choosing.
    if not all(re.fullmatch(r"(interface|target|board)/[A-Za-z0-9_+-][A-Za-z0-9_.+-]*\.cfg", part) for part in config):
        raise table.fail(
            "'config' has to name openocd's own scripts, such as board/st_nucleo_f7.cfg, separated by commas"
        )
    usb = []
    for pair in table.take("usb", list, []):
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(n) is int and 0 <= n <= 0xFFFF for n in pair):
            raise table.fail("'usb' has to be a list of [vendor, product] numbers of 16 bits")
        usb.append((pair[0], pair[1]))
    device = table.table("device_id")
    device_id = None
    if device is not None:
        device_id = (device.positive("address"), device.positive("value"))
        if device_id[0] >= 1 << 32 or device_id[1] >= 1 << 12:
            raise device.fail("'address' takes 32 bits and 'value' 12")
        device.done()
    table.done()
    return Flashing("openocd", config, tuple(usb), device_id)


def _emulator(table: _Table | None) -> Emulator | None:
    if table is None:
        return None
    kind = table.choice("kind", ("qemu", "unicorn"))
    machine = table.take("machine", str)
    counter_hz = table.positive("counter_hz") if "counter_hz" in table.data else None
    table.done()
    return Emulator(cast(Any, kind), machine, counter_hz)
