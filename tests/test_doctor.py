from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from codesign import doctor
from codesign.doctor import Check, checks


def by_name() -> dict[str, Check]:
    return {check.name: check for check in checks()}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty PATH, to be filled by the test."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def script(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_every_problem_comes_with_a_fix() -> None:
    found = checks()
    assert len({c.name for c in found}) == len(found)
    for check in found:
        assert check.detail
        assert check.needed_for
        assert (check.fix == "") == (check.status == "ok"), check


def test_names_what_the_project_stands_on() -> None:
    wanted = {
        "Python", "tensorflow", "tf_keras", "tflite-micro", "python-flint", "dReal", "arm-none-eabi-gcc", "newlib",
        "qemu-system-arm", "unicorn", "openocd", "platformio", "pyserial", "serial port permissions", "attached boards",
    }  # fmt: skip
    assert wanted <= set(by_name())


def test_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time; s = time.perf_counter(); from codesign.doctor import checks; checks();"
        "heavy = {'tensorflow', 'tf_keras', 'keras', 'matplotlib', 'unicorn', 'platformio', 'tflite_micro'};"
        "print(time.perf_counter() - s, *(heavy & set(sys.modules)))"
    )
    best = 99.0
    for _ in range(3):  # the machine may be busy
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert out[1:] == []
        best = min(best, float(out[0]))
    assert best < 2.0


def test_versions_are_those_installed() -> None:
    found = by_name()
    for name in ("platformio", "unicorn", "python-flint", "matplotlib"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            assert found[name].status == "missing"
        else:
            assert found[name].detail.startswith(version)
    assert found["Python"].detail.startswith(".".join(map(str, sys.version_info[:3])))


def test_missing_tools(tools: Path) -> None:
    found = by_name()
    for name, package in (
        ("arm-none-eabi-gcc", "gcc-arm-none-eabi"), ("newlib", "libnewlib-arm-none-eabi"),
        ("qemu-system-arm", "qemu"), ("openocd", "open"),
    ):  # fmt: skip
        assert found[name].status == "missing"
        assert package in found[name].fix or sys.platform == "darwin"


def test_tools_that_are_there(tools: Path) -> None:
    library = tools / "libc.a"
    version = "arm-none-eabi-gcc (15:9.9.rel1) 12.3.4 20221205"
    choose = f'case "$*" in *print-file-name*) echo {library};; *) echo "{version}";; esac'
    script(tools, "arm-none-eabi-gcc", choose)
    script(tools, "openocd", 'echo "Open On-Chip Debugger 0.12.0+dev (2024)" >&2')
    script(tools, "qemu-system-arm", "exit 3")
    found = by_name()
    assert found["arm-none-eabi-gcc"] == Check(
        "arm-none-eabi-gcc", "ok", "12.3.4", "", found["arm-none-eabi-gcc"].needed_for
    )
    assert found["newlib"].status == "ok"
    assert found["openocd"].detail == "0.12.0+dev"
    assert found["qemu-system-arm"].status == "missing"
    assert "does not run" in found["qemu-system-arm"].detail


def test_a_compiler_without_its_library(tools: Path) -> None:
    script(tools, "arm-none-eabi-gcc", 'case "$*" in *print-file-name*) echo libc.a;; *) echo "gcc 12.2.1";; esac')
    assert by_name()["newlib"].status == "missing"


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    hidden = {"tensorflow", "platformio", "serial", "jinja2"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in hidden else real(name, *a))
    found = by_name()
    for name, extra in (
        ("tensorflow", "convert"),
        ("platformio", "board"),
        ("pyserial", "board"),
        ("jinja2", "report"),
    ):
        assert found[name].status == "missing"
        assert found[name].fix == f"pip install 'codesign[{extra}]'"
    assert "serial port permissions" not in found


def test_another_version_than_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_pins", lambda: {"click": "0.0.1"})
    check = doctor._package("click", "click", "board", "nothing")
    assert check.status == "warning"
    assert "0.0.1" in check.detail


def test_pins_are_read_from_the_package() -> None:
    assert doctor._pins().get("platformio") == "6.2.0"
    assert "numpy" not in doctor._pins()


def test_dreal_tells_the_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import codesign.proof
    from codesign.proof import Availability

    states = [
        Availability("closed-form", True, "", ""),
        Availability("icp", True, "", ""),
        Availability("dreal", False, "lacks the shared libraries libibex.so", "sudo apt-get install libibex-dev"),
    ]
    monkeypatch.setattr(codesign.proof, "availability", lambda: states)
    check = by_name()["dReal"]
    assert check.status == "warning"
    assert "libibex.so" in check.detail
    assert "libibex-dev" in check.fix


def port(device: str, vid: int | None = None, pid: int | None = None) -> Any:
    return SimpleNamespace(device=device, vid=vid, pid=pid)


def with_ports(monkeypatch: pytest.MonkeyPatch, ports: list[Any]) -> None:
    serial = pytest.importorskip("serial.tools.list_ports")
    monkeypatch.setattr(serial, "comports", lambda: ports)


def test_an_attached_board_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_ports(monkeypatch, [port("/dev/ttyACM0", 0x0483, 0x374B), port("/dev/ttyS0")])
    check = by_name()["attached boards"]
    assert check.status == "ok"
    assert "/dev/ttyACM0" in check.detail
    assert "nucleo_f746" in check.detail
    assert "ttyS0" not in check.detail


def test_a_port_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "ttyACM0"
    path.touch()
    with_ports(monkeypatch, [port(str(path))])
    monkeypatch.setattr(os, "access", lambda *a, **k: False)
    check = by_name()["serial port permissions"]
    assert check.status == "warning"
    assert str(path) in check.detail
    assert f"usermod -aG {path.group()}" in check.fix


@pytest.mark.skipif(sys.platform != "linux", reason="groups of Linux distributions")
@pytest.mark.parametrize(("member", "status"), [(True, "ok"), (False, "warning"), (None, "ok")])
def test_group_where_no_port_is_there(monkeypatch: pytest.MonkeyPatch, member: bool | None, status: str) -> None:
    with_ports(monkeypatch, [])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(doctor, "_in_group", lambda name: member)
    check = by_name()["serial port permissions"]
    assert check.status == status
    assert "dialout" in check.detail


def test_unsupported_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PYTHONS", ((4, 0), (4, 1)))
    assert doctor._python()[0].status == "missing"


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed")
def test_the_real_compiler_is_found() -> None:
    assert by_name()["arm-none-eabi-gcc"].status == "ok"
