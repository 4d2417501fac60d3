"""What this machine has of what codesign needs, and the command that adds what it lacks.

Nothing heavy is imported: packages are looked up by their metadata, tools by asking for their version.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

Status = Literal["ok", "missing", "warning"]

_TIMEOUT = 10.0  # seconds a tool may take to tell its version
_PYTHONS = ((3, 10), (3, 12))


@dataclass(frozen=True)
class Check:
    """One thing looked for.

    `detail` says what was found, `fix` how to get it ('' where it is there), `needed_for` what does not work without
    it. 'missing': a part of codesign cannot work; 'warning': something optional, or not set up.
    """

    name: str
    status: Status
    detail: str
    fix: str
    needed_for: str


def checks() -> list[Check]:
    """Look for everything; takes about a second, changes nothing."""
    tasks: list[Callable[[], list[Check]]] = [
        _python,
        lambda: [_package("tensorflow", "tensorflow", "convert", "converting models to int8 (convert, deploy)")],
        lambda: [_package("tf_keras", "tf_keras", "convert", "converting models to int8 (convert, deploy)")],
        _tflite_micro,
        _tflite,
        _provers,
        _compiler,
        _newlib,
        _cxx,
        lambda: [_package("platformio", "platformio", "board", "building firmware (build, deploy)")],
        lambda: [_package("scons", "SCons", "board", "building firmware (build, deploy)")],
        lambda: [_package("unicorn", "unicorn", "board", "emulating the STM32 boards")],
        _qemu,
        _openocd,
        _serial,
        lambda: [_package("matplotlib", "matplotlib", "report", "report.html (deploy)")],
        lambda: [_package("jinja2", "jinja2", "report", "report.html (deploy)")],
    ]
    with ThreadPoolExecutor(len(tasks)) as executor:
        return [check for found in executor.map(lambda task: task(), tasks) for check in found]


def _python() -> list[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    needed = "everything"
    if _PYTHONS[0] <= sys.version_info[:2] <= _PYTHONS[1]:
        limits = (
            "" if sys.version_info[:2] == (3, 11) else " (not every optional package has a build for it; 3.11 has all)"
        )
        return [Check("Python", "ok", f"{version}{limits}", "", needed)]
    low, high = (".".join(map(str, v)) for v in _PYTHONS)
    return [Check("Python", "missing", f"{version} is not supported", f"use Python {low} to {high}, best 3.11", needed)]


def _package(name: str, module: str, extra: str, needed_for: str) -> Check:
    fix = f"pip install 'codesign[{extra}]'"
    if not _importable(module):
        return Check(name, "missing", f"the Python package {name} is not installed", fix, needed_for)
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, "warning", f"the module {module} is there, but no package {name}", fix, needed_for)
    pinned = _pins().get(name.lower())
    if pinned is not None and pinned != version:
        return Check(name, "warning", f"{version}, but codesign is made for {pinned}", fix, needed_for)
    return Check(name, "ok", version, "", needed_for)


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _pins() -> dict[str, str]:
    """Exact versions that codesign's own metadata asks for, by lower-case package name."""
    try:
        requirements = metadata.requires("codesign") or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([A-Za-z0-9._-]+)\s*==\s*([^\s;,]+)", r) for r in requirements)
    return {match[1].lower(): match[2] for match in found if match}


def _tflite_micro() -> list[Check]:
    needed = "comparing with the TFLM interpreter (compare)"
    if sys.version_info[:2] != (3, 11) and not _importable("tflite_micro"):
        version = ".".join(map(str, sys.version_info[:2]))
        return [Check("tflite-micro", "warning", f"there is no build for Python {version}", "use Python 3.11", needed)]
    return [_package("tflite-micro", "tflite_micro", "interpreters", needed)]


def _tflite() -> list[Check]:
    needed = "comparing with the TFLite interpreter (compare)"
    for name, module in (("tflite-runtime", "tflite_runtime"), ("ai-edge-litert", "ai_edge_litert")):
        if _importable(module):
            found = _package(name, module, "interpreters", needed)
            numpy = metadata.version("numpy")
            if name == "tflite-runtime" and found.status == "ok" and int(numpy.split(".")[0]) >= 2:
                detail = f"{found.detail} was built for numpy 1 and does not load with numpy {numpy}"
                return [Check(name, "warning", detail, "pip install 'numpy<2'", needed)]
            return [found]
    name = "tflite-runtime" if sys.version_info < (3, 12) else "ai-edge-litert"
    return [_package(name, name.replace("-", "_"), "interpreters", needed)]


def _provers() -> list[Check]:
    needed = "proving the obligations of a certificate (certify, deploy)"
    try:
        from codesign.proof import availability

        found = {state.prover: state for state in availability()}
    except ImportError as error:
        return [Check("provers", "missing", f"codesign.proof does not load ({error})", "pip install codesign", needed)]
    flint, dreal = found["icp"], found["dreal"]
    result = [
        Check("python-flint", "ok", _version("python-flint"), "", needed)
        if flint.available
        else Check("python-flint", "missing", flint.reason, flint.fix, needed)
    ]
    optional = "a second, independent prover (certify --prover dreal); the built-in ones do without"
    result.append(
        Check("dReal", "ok", _dreal_version(), "", optional)
        if dreal.available
        else Check("dReal", "warning", dreal.reason, dreal.fix, optional)
    )
    return result


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "version unknown"


def _dreal_version() -> str:
    """Of the one that would run: the Python module, or else an executable."""
    from codesign.proof.dreal_solver import find_dreal

    state = find_dreal()
    return f"{state.version}, the executable {state.path}" if state.mode == "executable" else state.version


def _install(apt: str, brew: str) -> str:
    return f"brew install {brew}" if sys.platform == "darwin" else f"sudo apt-get install {apt}"


_COMPILER = ("gcc-arm-none-eabi libnewlib-arm-none-eabi", "--cask gcc-arm-embedded")


def _compiler() -> list[Check]:
    return [_tool("arm-none-eabi-gcc", _install(*_COMPILER), "building firmware (build, deploy)")]


def _newlib() -> list[Check]:
    name, needed, fix = "newlib", "building firmware (build, deploy)", _install(*_COMPILER)
    compiler = shutil.which("arm-none-eabi-gcc")
    if compiler is None:
        return [Check(name, "missing", "cannot be looked for without arm-none-eabi-gcc", fix, needed)]
    answer = _ask([compiler, "-mcpu=cortex-m4", "-mthumb", "-print-file-name=libc.a"])
    # gcc echoes the bare name where it finds no such file.
    if answer is None or not Path(answer).is_absolute():
        return [Check(name, "missing", "the C library of arm-none-eabi-gcc is not installed", fix, needed)]
    return [Check(name, "ok", os.path.normpath(answer), "", needed)]


def _cxx() -> list[Check]:
    name, needed = "arm-none-eabi-g++", "TFLM as the runtime (deploy --runtime tflm)"
    fix = _install("gcc-arm-none-eabi libstdc++-arm-none-eabi-newlib", "--cask gcc-arm-embedded")
    compiler = shutil.which(name)
    if compiler is None:
        return [Check(name, "warning", f"{name} is not on the PATH", fix, needed)]
    headers = _ask([compiler, "-print-file-name=libstdc++.a"])
    if headers is None or not Path(headers).is_absolute():
        return [Check(name, "warning", f"the C++ library of {name} is not installed", fix, needed)]
    return _optional(_tool(name, fix, needed))


def _optional(check: Check) -> list[Check]:
    return [replace(check, status="warning") if check.status == "missing" else check]


def _qemu() -> list[Check]:
    return [_tool("qemu-system-arm", _install("qemu-system-arm", "qemu"), "emulating the boards that run under QEMU")]


def _openocd() -> list[Check]:
    return [_tool("openocd", _install("openocd", "open-ocd"), "flashing real boards (deploy --port)")]


def _tool(name: str, fix: str, needed_for: str) -> Check:
    path = shutil.which(name)
    if path is None:
        return Check(name, "missing", f"{name} is not on the PATH", fix, needed_for)
    answer = _ask([path, "--version"])
    if answer is None:
        return Check(name, "missing", f"{path} does not run", fix, needed_for)
    version = re.search(r"\d+\.\d+[\w.+-]*", re.sub(r"\([^)]*\)", "", answer.split("\n", 1)[0]))
    return Check(name, "ok", version[0] if version else answer.split("\n", 1)[0], "", needed_for)


def _ask(command: list[str]) -> str | None:
    """What a command prints (openocd tells its version on standard error); None where it fails."""
    try:
        run = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (run.stdout.strip() or run.stderr.strip()) if run.returncode == 0 else None


def _serial() -> list[Check]:
    package = _package("pyserial", "serial", "board", "talking to boards, real and emulated (deploy)")
    if package.status == "missing":
        return [package]
    from serial.tools import list_ports

    try:
        ports = sorted(list_ports.comports(), key=lambda port: str(port.device))
    except OSError:
        ports = []
    return [package, _permissions([str(port.device) for port in ports]), _boards(ports)]


def _permissions(ports: list[str]) -> Check:
    name, needed = "serial port permissions", "real boards (deploy --port)"
    closed = [port for port in ports if not os.access(port, os.R_OK | os.W_OK)]
    if closed:
        group = _group_of(closed[0])
        return Check(
            name, "warning", f"no permission to open {', '.join(closed)}",
            f"sudo usermod -aG {group} $USER, then log in again", needed,
        )  # fmt: skip
    if ports or sys.platform != "linux" or os.geteuid() == 0:
        told = f"{', '.join(ports)} can be opened" if ports else "nothing in the way"
        return Check(name, "ok", told, "", needed)
    member = _in_group("dialout")
    if member is None:
        return Check(name, "ok", "there is no group dialout here; a port's own group decides", "", needed)
    if member:
        return Check(name, "ok", "the user is in the group dialout", "", needed)
    return Check(
        name, "warning", "the user is not in the group dialout",
        "sudo usermod -aG dialout $USER, then log in again", needed,
    )  # fmt: skip


def _in_group(name: str) -> bool | None:
    """Whether this process has the group; None where there is no such group."""
    import grp

    try:
        return grp.getgrnam(name).gr_gid in {*os.getgroups(), os.getegid()}
    except KeyError:
        return None


def _group_of(port: str) -> str:
    try:
        return Path(port).group()
    except (OSError, KeyError, NotImplementedError):
        return "dialout"


def _boards(ports: list[Any]) -> Check:
    """Which attached ports belong to boards that codesign knows."""
    from codesign.toolchain import list_boards, load_board

    name, needed = "attached boards", "real boards (deploy without --emulate)"
    known = {b.name: set(b.flashing.usb) for b in map(load_board, list_boards()) if b.flashing}
    found = []
    for port in ports:
        boards = [board for board, usb in known.items() if (port.vid, port.pid) in usb]
        if boards:
            found.append(f"{port.device} ({' or '.join(boards)})")
    if found:
        return Check(name, "ok", ", ".join(found), "", needed)
    others = f"; other serial ports: {', '.join(str(p.device) for p in ports)}" if ports else ""
    return Check(
        name, "warning", f"none{others}; boards can be emulated", "attach a board by its USB debug port", needed
    )
