"""Which target is chosen: a named port, an attached board, or the emulation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_device import FakeDevice
from hil_support import Model

from codesign.errors import InputError
from codesign.hil import DeviceError, find_ports, open_target
from codesign.toolchain import load_board

BOARD = load_board("nucleo_f746")


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Flashing is the toolchain's; here it is only noted."""
    done: list[tuple[str, str | None]] = []
    monkeypatch.setattr("codesign.toolchain.upload", lambda build, board, port=None: done.append((board.name, port)))
    return done


def attach(monkeypatch: pytest.MonkeyPatch, *ports: tuple[str, int | None, int | None]) -> None:
    found = [SimpleNamespace(device=device, vid=vid, pid=pid) for device, vid, pid in ports]
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: found)


def build_for(board: Any = BOARD) -> Any:
    return SimpleNamespace(elf=Path("nowhere.elf"), board=board, build_id=bytes(range(16)).hex())


def test_ports_are_found_by_usb_id(monkeypatch: pytest.MonkeyPatch) -> None:
    attach(
        monkeypatch,
        ("/dev/ttyACM1", 0x0483, 0x374B),
        ("/dev/ttyUSB0", 0x10C4, 0xEA60),
        ("/dev/ttyS0", None, None),
        ("/dev/ttyACM0", 0x0483, 0x374E),
    )
    assert find_ports(BOARD) == ["/dev/ttyACM0", "/dev/ttyACM1"]
    assert find_ports(load_board("mps2_an500")) == []


def test_named_port_is_flashed_and_used(tiny: Model, uploads: list[Any]) -> None:
    with FakeDevice(tiny.integer, board="nucleo_f746") as fake, open_target(build_for(), port=fake.port) as target:
        assert uploads == [("nucleo_f746", fake.port)]
        assert not target.emulated
        assert "EMULATED" not in target.description
        assert target.counter == "instructions"  # as this device says; nothing is known better about hardware


def test_attached_board_is_preferred(tiny: Model, uploads: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeDevice(tiny.integer, board="nucleo_f746") as fake:
        attach(monkeypatch, (fake.port, 0x0483, 0x374B))
        with open_target(build_for()) as target:
            assert (target.port, target.emulated) == (fake.port, False)
    assert len(uploads) == 1


def test_emulation_never_touches_hardware(uploads: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    attach(monkeypatch, ("/dev/ttyACM0", 0x0483, 0x374B))
    with pytest.raises(InputError, match=r"nowhere\.elf; build it first"), open_target(build_for(), emulate=True):
        pass
    assert uploads == []


def test_firmware_of_another_board_is_refused(tiny: Model, uploads: list[Any]) -> None:
    with (
        FakeDevice(tiny.integer, board="nucleo_f446") as fake,
        pytest.raises(DeviceError, match="for board 'nucleo_f446', not nucleo_f746"),
        open_target(build_for(), port=fake.port),
    ):
        pass


def test_silent_board_is_refused(tiny: Model, uploads: list[Any]) -> None:
    with (
        FakeDevice(tiny.integer, lambda *_: b"") as fake,
        pytest.raises(DeviceError, match="no valid reply"),
        open_target(build_for(), port=fake.port, timeout=1.0),
    ):
        pass


@pytest.mark.parametrize(
    ("arguments", "ports", "message"),
    [
        ({"port": "/dev/ttyACM0", "emulate": True}, [], "exclude each other"),
        ({"emulate": False}, [], "no NUCLEO-F746ZG is attached"),
        ({"port": "/dev/nothing-here"}, [], "no serial port /dev/nothing-here"),
        ({}, [("/dev/ttyACM0", 0x0483, 0x374B), ("/dev/ttyACM1", 0x0483, 0x374B)], "several boards are attached"),
    ],
)
def test_contradictions(
    arguments: dict[str, Any], ports: list[Any], message: str, uploads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(monkeypatch, *ports)
    with pytest.raises(InputError, match=message), open_target(build_for(), **arguments):
        pass
    assert uploads == []


def test_board_without_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    attach(monkeypatch)
    with (
        pytest.raises(InputError, match="nucleo_f446 has no emulator"),
        open_target(build_for(dataclasses.replace(load_board("nucleo_f446"), emulator=None))),
    ):
        pass
