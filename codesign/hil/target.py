"""Targets: a real board behind a serial port, or its emulation. The rest of the program cannot tell them apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Literal

from codesign.errors import InputError
from codesign.hil.device import Device
from codesign.hil.emulators import EmulatedBoard, EmulatorSpec, MemoryRegion
from codesign.hil.ports import choose_port, find_ports, locked, port_of_serial_number, require_port, serial_number_of
from codesign.hil.protocol import CounterKind, DeviceError, Identity, Inference, LinkLostError

if TYPE_CHECKING:
    from codesign.toolchain import Board, Build, Firmware

__all__ = ["Target", "emulator_spec", "find_ports", "open_target"]

CounterUnit = Literal["cycles", "instructions", "none"]
EMULATED_TIMEOUT = 20.0
CONNECT_SECONDS = 10.0
REOPEN_SECONDS = 5.0
FALLBACK_BAUDS = (115200, 57600, 38400, 19200, 9600)
NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class Target:
    """An open, identified target. `counter` is what `count` gives; `description` is for the user and says EMULATED
    where that is so. Under an emulator the counter counts executed instructions, whatever the firmware takes it for.

    `granularity` is the counter's step in units of `counter`. `reset` restarts a real board that hangs,
    through its debug probe; None where that cannot be done.
    """

    device: Device
    identity: Identity
    port: str
    emulated: bool
    description: str
    counter: CounterUnit
    granularity: float
    reset: Callable[[], object] | None = None

    def count(self, inference: Inference) -> int | None:
        """The counter's value over an inference in units of `counter`; None where there is no counter."""
        return None if self.counter == "none" else round(inference.count * self.granularity)


def emulator_spec(board: Board, elf: Path) -> EmulatorSpec:
    """What the board file says about its emulation. InputError where the board has none."""
    if board.emulator is None:
        raise InputError(
            f"board {board.name} has no emulator: attach one and name its serial port with --port, "
            "or take a board that 'codesign boards' lists as emulated"
        )
    serial = board.serial
    pins = tuple(str(pin) for pin in (serial.tx, serial.rx) if pin)
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
    build: Build | Firmware,
    board: Board | None = None,
    port: str | None = None,
    emulate: bool | None = None,
    timeout: float | None = None,
    flash: bool = True,
) -> Iterator[Target]:
    """Run the firmware and talk to it; everything is closed, and every process ended, when the context is left.

    With `port`, or with one port of the board's USB ids attached, the firmware is flashed and the real board used;
    otherwise the board is emulated. `port` is a device name, 'serial:NUMBER' of a debug probe, or 'auto': the one
    attached board. `emulate` True never touches hardware, False never emulates. `timeout` is the longest silence before
    a reply, in seconds. `board` defaults to the one built for. `flash` False takes a board as it is: it has to run this
    very build.

    Raises InputError (contradicting wishes, several boards attached), MissingToolError and DeviceError.
    """
    board = board or build.board
    if port is not None and emulate:
        raise InputError("a serial port and emulation exclude each other; give one of them")
    if port is not None and port.startswith("/"):
        require_port(board, port)
    if not emulate:
        port = choose_port(board, port, required=emulate is False)
    with ExitStack() as stack:
        if port is None:
            emulated = stack.enter_context(EmulatedBoard(emulator_spec(board, build.elf)))
            device = Device(emulated.port, board.serial.baud, timeout or EMULATED_TIMEOUT, diagnose=emulated.failure)
            description = emulated.description
            fallbacks: tuple[int, ...] = ()
            reset = None
        else:
            from codesign.toolchain import reset_board, upload

            number = serial_number_of(port)
            if flash:
                with locked(port):
                    upload(build, board, port)
            device = _opened(port, number, board.serial.baud, timeout or 5.0)
            description = f"{board.title} on {port}{f', probe {number}' if number else ''}"
            fallbacks = FALLBACK_BAUDS
            reset = partial(reset_board, board, number) if board.flashing else None
        stack.callback(device.close)
        identity = device.recover(timeout or CONNECT_SECONDS, fallbacks)
        if device.baud != board.serial.baud:
            description += f" at {device.baud} instead of {board.serial.baud} baud"
        if identity.board != board.name:
            raise DeviceError(f"the firmware on {device.port} is for board '{identity.board}', not {board.name}")
        if port is not None and identity.build_id.hex() != build.build_id:
            raise DeviceError(
                f"the board on {device.port} runs build {identity.build_id.hex()}, not {build.build_id}; "
                + ("flashing it had no effect" if flash else "flash it")
            )
        counter, granularity = _counter(board, identity, emulated=port is None)
        yield Target(device, identity, device.port, port is None, description, counter, granularity, reset)


def _opened(port: str, number: str, baud: int, timeout: float) -> Device:
    """The port after flashing: a probe may leave the bus for a moment, and come back under another name."""
    limit = monotonic() + REOPEN_SECONDS

    def locate() -> str | None:
        return port_of_serial_number(number)

    while True:
        try:
            return Device(port, baud, timeout, locate=locate)
        except LinkLostError:
            if monotonic() >= limit:
                raise
            sleep(0.1)
            port = locate() or port


def _counter(board: Board, identity: Identity, emulated: bool) -> tuple[CounterUnit, float]:
    kind = identity.counter_kind
    if kind == CounterKind.NONE:
        return "none", 1.0
    if not emulated:
        return ("cycles" if kind == CounterKind.CYCLES else "instructions"), float(identity.counter_granularity)
    rate = board.emulator.counter_hz if board.emulator else None
    return "instructions", NANOSECONDS / rate if rate else 1.0
