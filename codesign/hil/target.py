"""Targets: a real board behind a serial port, or its emulation. The rest of the program cannot tell them apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from codesign.errors import InputError, MissingToolError
from codesign.hil.device import Device
from codesign.hil.emulators import EmulatedBoard, EmulatorSpec, MemoryRegion
from codesign.hil.protocol import CounterKind, DeviceError, Identity, Inference

if TYPE_CHECKING:
    from codesign.toolchain import Board, Build

CounterUnit = Literal["cycles", "instructions", "none"]
EMULATED_TIMEOUT = 20.0
CONNECT_SECONDS = 10.0
NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class Target:
    """An open, identified target. `counter` is what `count` gives; `description` is for the user and says EMULATED
    where that is so. Under an emulator the counter counts executed instructions, whatever the firmware takes it for.

    `granularity` is the counter's step in units of `counter`.
    """

    device: Device
    identity: Identity
    port: str
    emulated: bool
    description: str
    counter: CounterUnit
    granularity: float

    def count(self, inference: Inference) -> int | None:
        """The counter's value over an inference in units of `counter`; None where there is no counter."""
        return None if self.counter == "none" else round(inference.count * self.granularity)


def find_ports(board: Board) -> list[str]:
    """Serial ports whose USB ids are those of the board's debug probe, sorted. MissingToolError without pyserial."""
    try:
        from serial.tools import list_ports
    except ImportError as error:
        raise MissingToolError("pyserial is missing: pip install 'codesign[board]'") from error
    wanted = set(board.flashing.usb) if board.flashing else set()
    return sorted(port.device for port in list_ports.comports() if (port.vid, port.pid) in wanted)


def emulator_spec(board: Board, elf: Path) -> EmulatorSpec:
    """What the board file says about its emulation. InputError where the board has none."""
    if board.emulator is None:
        raise InputError(
            f"board {board.name} has no emulator: attach one and name its serial port with --port, "
            "or take a board that 'codesign boards' lists as emulated"
        )
    serial = board.serial
    pins = tuple(f"P{pin.port}{pin.number}" for pin in (serial.tx, serial.rx) if pin)
    return EmulatorSpec(
        kind=board.emulator.kind,
        machine=board.emulator.machine,
        board=board.name,
        elf=str(Path(elf).resolve()),
        clock_hz=board.clock_hz,
        baud=serial.baud,
        memories=tuple(MemoryRegion(m.name, m.origin, m.size, m.kind) for m in board.memories),
        serial=serial.peripheral,
        pins=pins,
        alternate_function=serial.af or 0,
        hse_hz=board.clock.hse_hz if board.clock else 0,
    )


@contextmanager
def open_target(
    build: Build,
    board: Board | None = None,
    port: str | None = None,
    emulate: bool | None = None,
    timeout: float | None = None,
) -> Iterator[Target]:
    """Run the firmware and talk to it; everything is closed, and every process ended, when the context is left.

    With `port`, or with one port of the board's USB ids attached, the firmware is flashed and the real board used;
    otherwise the board is emulated. `emulate` True never touches hardware, False never emulates. `timeout` is the
    longest silence before a reply, in seconds. `board` defaults to the one built for.

    Raises InputError (contradicting wishes, several boards attached), MissingToolError and DeviceError.
    """
    board = board or build.board
    if port is not None and emulate:
        raise InputError("a serial port and emulation exclude each other; give one of them")
    if port is None and not emulate:
        port = _attached(board, required=emulate is False)
    with ExitStack() as stack:
        if port is None:
            emulated = stack.enter_context(EmulatedBoard(emulator_spec(board, build.elf)))
            device = Device(emulated.port, board.serial.baud, timeout or EMULATED_TIMEOUT, diagnose=emulated.failure)
            description = emulated.description
        else:
            from codesign.toolchain import upload

            upload(build, board, port)
            device = Device(port, board.serial.baud, timeout or 5.0)
            description = f"{board.title} on {port}"
        stack.callback(device.close)
        identity = device.connect(timeout or CONNECT_SECONDS)
        if identity.board != board.name:
            raise DeviceError(f"the firmware on {device.port} is for board '{identity.board}', not {board.name}")
        counter, granularity = _counter(board, identity, emulated=port is None)
        yield Target(device, identity, device.port, port is None, description, counter, granularity)


def _attached(board: Board, required: bool) -> str | None:
    ports = find_ports(board)
    if len(ports) > 1:
        raise InputError(f"several boards are attached ({', '.join(ports)}); name one with --port")
    if not ports and required:
        raise InputError(f"no {board.title} is attached; name its serial port with --port, or emulate it")
    return ports[0] if ports else None


def _counter(board: Board, identity: Identity, emulated: bool) -> tuple[CounterUnit, float]:
    kind = identity.counter_kind
    if kind == CounterKind.NONE:
        return "none", 1.0
    if not emulated:
        return ("cycles" if kind == CounterKind.CYCLES else "instructions"), float(identity.counter_granularity)
    rate = board.emulator.counter_hz if board.emulator else None
    return "instructions", NANOSECONDS / rate if rate else 1.0
