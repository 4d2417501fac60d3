"""Attached boards: found by the USB ids of their debug probes, told apart by serial number, locked while in use."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codesign.errors import InputError, MissingToolError
from codesign.hil.protocol import DeviceError

if TYPE_CHECKING:
    from codesign.toolchain import Board

AUTO = "auto"
BY_SERIAL = "serial:"
_SERIAL = re.compile(r"[0-9A-Za-z_.-]{1,64}")


@dataclass(frozen=True)
class AttachedBoard:
    """A serial port with the USB facts of the probe behind it; `serial_number` is '' where the probe has none."""

    port: str
    vendor_id: int
    product_id: int
    serial_number: str
    product: str

    def __str__(self) -> str:
        serial = f", {BY_SERIAL}{self.serial_number}" if self.serial_number else ""
        return f"{self.port} ({self.product or 'USB device'} {self.vendor_id:04x}:{self.product_id:04x}{serial})"


def find_boards(board: Board) -> list[AttachedBoard]:
    """The attached probes whose USB ids the board file names, by port. MissingToolError without pyserial."""
    wanted = set(board.flashing.usb) if board.flashing else set()
    found = []
    for port in _comports():
        if (port.vid, port.pid) in wanted:
            serial = getattr(port, "serial_number", None) or ""
            product = getattr(port, "product", None) or ""
            found.append(AttachedBoard(port.device, port.vid, port.pid, serial, product))
    return sorted(found, key=lambda attached: attached.port)


def find_ports(board: Board) -> list[str]:
    """Serial ports whose USB ids are those of the board's debug probe, sorted. MissingToolError without pyserial."""
    return [attached.port for attached in find_boards(board)]


def choose_port(board: Board, wish: str | None, required: bool) -> str | None:
    """The port meant by `wish`: a device name, 'serial:NUMBER' of a probe, or 'auto' / None for the one attached.

    None where no board is attached and none is `required`. InputError, naming what is attached, where the wish cannot
    be met or several boards meet it.
    """
    if wish not in (None, AUTO) and not str(wish).startswith(BY_SERIAL):
        return wish
    found = find_boards(board)
    if wish is not None and wish.startswith(BY_SERIAL):
        number = wish[len(BY_SERIAL) :]
        if not _SERIAL.fullmatch(number):
            raise InputError(f"'{wish}' names no probe: write {BY_SERIAL} and the serial number as 'lsusb -v' shows it")
        match = [attached for attached in found if attached.serial_number == number]
        if not match:
            raise InputError(f"no {board.title} with serial number {number} is attached{_named(found)}")
        return match[0].port
    if len(found) > 1:
        raise InputError(f"several boards are attached ({', '.join(map(str, found))}); name one with --port")
    if not found and (required or wish == AUTO):
        raise InputError(f"no {board.title} is attached; name its serial port with --port, or emulate it")
    return found[0].port if found else None


def require_port(board: Board, wish: str) -> None:
    """InputError where the port meant by `wish` (see `choose_port`) is not there, before the work that needs it."""
    port = choose_port(board, wish, required=True)
    if port is not None and port.startswith("/") and not os.path.exists(port):
        raise InputError(f"there is no serial port {port}; 'codesign boards --attached' lists what is attached")


def serial_number_of(port: str) -> str:
    """USB serial number of the probe behind a port; '' where it cannot be told."""
    real = os.path.realpath(port)
    for found in _comports():
        if os.path.realpath(found.device) == real:
            number = getattr(found, "serial_number", None) or ""
            return number if _SERIAL.fullmatch(number) else ""
    return ""


def port_of_serial_number(number: str) -> str | None:
    """The port that a probe has now: the system may name it otherwise after the cable was pulled."""
    ports = [p.device for p in _comports() if number and getattr(p, "serial_number", None) == number]
    return str(ports[0]) if len(ports) == 1 else None


@contextmanager
def locked(port: str) -> Iterator[None]:
    """Hold a port against other users while it is not open yet (its board is being flashed).

    DeviceError where another program holds it; a port that cannot be opened is left to the one who opens it next.
    """
    try:
        descriptor = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DeviceError(f"serial port {port} is in use by another program; end it first") from None
        yield
    finally:
        os.close(descriptor)


def _comports() -> list[Any]:
    try:
        from serial.tools import list_ports
    except ImportError as error:
        raise MissingToolError("pyserial is missing: pip install 'codesign[board]'") from error
    return list(list_ports.comports())


def _named(found: list[AttachedBoard]) -> str:
    return f"; attached: {', '.join(map(str, found))}" if found else ""
