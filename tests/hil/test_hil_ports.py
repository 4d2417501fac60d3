"""Attached boards: told apart by serial number, locked, found again under another name, at another baud rate."""

from __future__ import annotations

import os
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_device import FakeDevice
from hil_support import Model

from codesign.errors import CodesignError, InputError
from codesign.hil import Device, DeviceError, choose_port, find_boards, open_target
from codesign.hil.ports import locked
from codesign.toolchain import load_board

BOARD = load_board("nucleo_f746")
BUILD_ID = bytes(range(16))


def attach(monkeypatch: pytest.MonkeyPatch, *ports: tuple[str, int, int, str]) -> None:
    found = [
        SimpleNamespace(device=device, vid=vid, pid=pid, serial_number=serial or None, product="STM32 STLink")
        for device, vid, pid, serial in ports
    ]
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: found)


def build_for(flashes: Any = None) -> Any:
    return SimpleNamespace(elf=Path("nowhere.elf"), board=BOARD, build_id=BUILD_ID.hex(), folder=None)


def test_probes_of_many_makers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    attach(
        monkeypatch,
        ("/dev/ttyACM0", 0x0483, 0x374B, "066A"), ("/dev/ttyACM1", 0x1366, 0x1015, "000683"),
        ("/dev/ttyACM2", 0x2E8A, 0x000C, "E660"), ("/dev/ttyACM3", 0x0D28, 0x0204, "9900"),
    )  # fmt: skip
    for name, port in (
        ("nucleo_f746", "/dev/ttyACM0"), ("nucleo_l476", "/dev/ttyACM0"), ("nrf52840dk", "/dev/ttyACM1"),
        ("pico", "/dev/ttyACM2"), ("microbit", "/dev/ttyACM3"),
    ):  # fmt: skip
        assert [found.port for found in find_boards(load_board(name))] == [port]


def test_one_of_several_boards_by_its_serial_number(monkeypatch: pytest.MonkeyPatch) -> None:
    attach(monkeypatch, ("/dev/ttyACM0", 0x0483, 0x374B, "066A"), ("/dev/ttyACM1", 0x0483, 0x374E, "066B"))
    assert choose_port(BOARD, "serial:066B", True) == "/dev/ttyACM1"
    assert choose_port(BOARD, "/dev/ttyS9", True) == "/dev/ttyS9"
    for wish in (None, "auto"):
        with pytest.raises(InputError, match=r"several boards .*ttyACM0.*serial:066A.*ttyACM1.*serial:066B"):
            choose_port(BOARD, wish, False)
    with pytest.raises(InputError, match=r"no NUCLEO-F746ZG with serial number 77 is attached; attached: /dev/ttyACM0"):
        choose_port(BOARD, "serial:77", False)
    with pytest.raises(InputError, match="names no probe"):
        choose_port(BOARD, "serial:x; rm", False)
    attach(monkeypatch)
    assert choose_port(BOARD, None, False) is None
    with pytest.raises(InputError, match="is attached"):
        choose_port(BOARD, "auto", False)


def test_two_boards_of_a_kind_at_once(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    flashed: list[str] = []
    monkeypatch.setattr("codesign.toolchain.upload", lambda build, board, port=None: flashed.append(port))
    with (
        FakeDevice(tiny.integer, board="nucleo_f746", build_id=BUILD_ID) as one,
        FakeDevice(tiny.integer, board="nucleo_f746", build_id=BUILD_ID) as two,
    ):
        attach(monkeypatch, (one.port, 0x0483, 0x374B, "066A"), (two.port, 0x0483, 0x374B, "066B"))
        with (
            open_target(build_for(), port="serial:066B") as second,
            open_target(build_for(), port="serial:066A") as first,
        ):
            assert (first.port, second.port) == (one.port, two.port)
            assert first.device.identify() == second.device.identify()
    assert flashed == [two.port, one.port]


def test_a_port_in_use_is_refused_here_and_in_another_process(tiny: Model) -> None:
    opening = "import sys; from codesign.hil import Device; Device(sys.argv[1])"
    with FakeDevice(tiny.integer) as fake:
        with Device(fake.port):
            with pytest.raises(DeviceError, match="in use by another program"):
                Device(fake.port)
            second = subprocess.run(
                [sys.executable, "-c", opening, fake.port], capture_output=True, text=True, check=False, timeout=60
            )
            assert "in use by another program" in second.stderr
            with pytest.raises(DeviceError, match="in use by another program"), locked(fake.port):
                pass
        with locked(fake.port), pytest.raises(DeviceError, match="in use by another program"):
            Device(fake.port)
        Device(fake.port).close()


def test_a_second_user_cannot_flash_under_a_running_test(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    flashed: list[str] = []
    monkeypatch.setattr("codesign.toolchain.upload", lambda build, board, port=None: flashed.append(port))
    with (
        FakeDevice(tiny.integer, board="nucleo_f746") as fake,
        Device(fake.port),
        pytest.raises(DeviceError, match="in use"),
        open_target(build_for(), port=fake.port),
    ):
        pass
    assert flashed == []


def test_flashing_without_effect_is_noticed(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codesign.toolchain.upload", lambda *_: None)
    with (
        FakeDevice(tiny.integer, board="nucleo_f746", build_id=bytes(16)) as fake,
        pytest.raises(DeviceError, match=r"runs build 0000.*flashing it had no effect"),
        open_target(build_for(), port=fake.port),
    ):
        pass


def test_a_board_that_is_not_flashed_has_to_run_this_build(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codesign.toolchain.upload", lambda *_: pytest.fail("flashed"))
    with (
        FakeDevice(tiny.integer, board="nucleo_f746", build_id=BUILD_ID) as fake,
        open_target(build_for(), port=fake.port, flash=False) as target,
    ):
        assert target.identity.build_id == BUILD_ID
    with (
        FakeDevice(tiny.integer, board="nucleo_f746", build_id=bytes(16)) as fake,
        pytest.raises(DeviceError, match=r"runs build 0000.*flash it"),
        open_target(build_for(), port=fake.port, flash=False),
    ):
        pass


@pytest.mark.parametrize("baud", [115200, 57600, 9600])
def test_baud_rate_falls_back(tiny: Model, baud: int) -> None:
    speeds = {115200: termios.B115200, 57600: termios.B57600, 9600: termios.B9600}

    def at_its_rate(_number: int, reply: bytes) -> bytes:
        return reply if termios.tcgetattr(fake.slave)[5] == speeds[baud] else os.urandom(20)

    with FakeDevice(tiny.integer, at_its_rate) as fake, Device(fake.port, 115200, timeout=0.3) as device:
        assert device.connect(6.0, (57600, 9600)).board == "fake"
        assert device.baud == baud
        assert device.metrics().stack_size == 1000


def test_no_baud_rate_fits(tiny: Model) -> None:
    with FakeDevice(tiny.integer, lambda *_: os.urandom(20)) as fake, Device(fake.port, timeout=0.3) as device:
        with pytest.raises(DeviceError, match="no valid reply"):
            device.connect(1.5, (57600,))
        assert device.baud == 115200


def test_a_board_that_comes_back_under_another_name(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codesign.toolchain.upload", lambda *_: None)
    second = FakeDevice(tiny.integer, board="nucleo_f746", build_id=BUILD_ID)
    with second:
        with FakeDevice(tiny.integer, board="nucleo_f746", build_id=BUILD_ID) as first:
            attach(monkeypatch, (first.port, 0x0483, 0x374B, "066A"))
            context = open_target(build_for(), port="serial:066A")
            target = context.__enter__()
            assert "probe 066A" in target.description
        attach(monkeypatch, (second.port, 0x0483, 0x374B, "066A"))
        with pytest.raises(CodesignError):
            target.device.identify()
        assert target.device.recover(3.0).build_id == BUILD_ID
        assert target.device.port == second.port
        context.__exit__(None, None, None)


def test_flashing_that_makes_the_port_vanish_for_a_moment(
    tiny: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a debug probe does that leaves the bus."""
    port = tmp_path / "ttyACM0"
    with FakeDevice(tiny.integer, board="nucleo_f746", build_id=BUILD_ID) as fake:
        port.symlink_to(fake.port)

        def upload(*_: object) -> None:
            import threading

            port.unlink()
            threading.Thread(target=lambda: (time.sleep(0.5), port.symlink_to(fake.port))).start()

        monkeypatch.setattr("codesign.toolchain.upload", upload)
        with open_target(build_for(), port=str(port)) as target:
            assert target.identity.board == "nucleo_f746"
