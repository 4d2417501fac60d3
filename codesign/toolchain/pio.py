"""The real PlatformIO Core, run in a child process without network access, registry or telemetry."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from codesign.errors import CodesignError, MissingToolError

COMPILER = "arm-none-eabi-gcc"
COMPILER_INSTALL = "sudo apt install gcc-arm-none-eabi libnewlib-arm-none-eabi"
CXX_COMPILER = "arm-none-eabi-g++"
CXX_INSTALL = "sudo apt install gcc-arm-none-eabi libstdc++-arm-none-eabi-newlib"
PIP_INSTALL = "pip install 'codesign[board]'"
OPENOCD_INSTALL = "sudo apt install openocd"


def require_compiler() -> str:
    """Path of arm-none-eabi-gcc; MissingToolError where it or its C library (newlib) is missing."""
    compiler = shutil.which(COMPILER)
    if compiler is None:
        raise MissingToolError(f"{COMPILER} is not installed: install it with '{COMPILER_INSTALL}'")
    query = [compiler, "-mcpu=cortex-m4", "-mthumb", "-print-file-name=libc.a"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    if not Path(answer).is_absolute():
        raise MissingToolError(f"the C library of {COMPILER} is not installed: install it with '{COMPILER_INSTALL}'")
    return compiler


def require_cxx_compiler() -> str:
    """Path of arm-none-eabi-g++; MissingToolError where it or its C++ headers are missing."""
    compiler = shutil.which(CXX_COMPILER)
    if compiler is None:
        raise MissingToolError(f"{CXX_COMPILER} is not installed: install it with '{CXX_INSTALL}'")
    query = [compiler, "-mcpu=cortex-m4", "-mthumb", "-x", "c++", "-E", "-"]
    tried = subprocess.run(
        query, input="#include <cstdint>\n#include <new>\n", capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        raise MissingToolError(
            f"the C++ headers of {CXX_COMPILER} are not installed: install them with '{CXX_INSTALL}'"
        )
    return compiler


def require_openocd() -> str:
    """Path of openocd; MissingToolError where it is missing."""
    openocd = shutil.which("openocd")
    if openocd is None:
        raise MissingToolError(f"openocd is not installed: install it with '{OPENOCD_INSTALL}'")
    return openocd


def require_platformio() -> None:
    """MissingToolError where PlatformIO Core or SCons cannot be imported."""
    for module, package in (("platformio", "platformio"), ("SCons", "scons")):
        if importlib.util.find_spec(module) is None:
            raise MissingToolError(f"the Python package {package} is not installed: install it with {PIP_INSTALL}")


def core_dir() -> Path:
    """PlatformIO's core directory, in the user's cache. One a PlatformIO version: an upgrade starts afresh."""
    from importlib.metadata import version

    cache = os.environ.get("XDG_CACHE_HOME")
    base = Path(cache) if cache and Path(cache).is_absolute() else Path.home() / ".cache"
    return base / "codesign" / f"platformio-{version('platformio')}"


def object_cache(compiler: str) -> Path:
    """Where objects of third parties' sources are kept between builds. One a version of the compiler."""
    told = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    folder = core_dir().parent / "objects" / hashlib.sha256(f"{compiler}\n{told}".encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CodesignError(f"the cache {folder} cannot be written: {error.strerror}") from None
    return folder


def install_scons(core: Path) -> Path:
    """Make PyPI's scons PlatformIO's package 'tool-scons' in `core`; nothing is downloaded.

    PlatformIO's tool-scons 4.41101 is SCons 4.11.1. A folder with a manifest, installation metadata and a scons.py
    that calls the SCons of this Python satisfies it.
    """
    from platformio.dependencies import get_core_dependencies

    requirement = get_core_dependencies()["tool-scons"]
    version = requirement.lstrip("~^=<> ")
    package = core / "packages" / "tool-scons"
    content = {
        "package.json": json.dumps(
            {"name": "tool-scons", "version": version, "description": "SCons from PyPI", "system": "*"}, indent=2
        ),
        ".piopm": json.dumps(
            {
                "type": "tool",
                "name": "tool-scons",
                "version": version,
                "spec": {"owner": "platformio", "id": None, "name": "tool-scons", "requirements": None, "uri": None},
            }
        ),
        ".piokeep": "",
        "scons.py": "from SCons.Script import main\n\nmain()\n",
    }
    if all((package / n).is_file() and (package / n).read_text(encoding="utf-8") == t for n, t in content.items()):
        return package
    package.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix="_tmp_installing-", dir=package.parent))
    try:
        for name, text in content.items():
            (staging / name).write_text(text, encoding="utf-8")
        if package.exists():
            shutil.rmtree(package, ignore_errors=True)
        try:
            os.replace(staging, package)
        except OSError:
            if not (package / "scons.py").is_file():  # else another process was first
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return package


def environment(core: Path) -> dict[str, str]:
    """The child's environment: the caller's PLATFORMIO_* settings must not leak into a reproducible build."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PLATFORMIO_")}
    return kept | {
        "PLATFORMIO_CORE_DIR": str(core),
        "PLATFORMIO_DISABLE_UPGRADE_CHECK": "true",
        "PLATFORMIO_SETTING_ENABLE_TELEMETRY": "no",
        "PLATFORMIO_SETTING_CHECK_PRUNE_SYSTEM_THRESHOLD": "0",
        "PLATFORMIO_NO_ANSI": "true",
        "PLATFORMIO_CALLER": "codesign",
        "PYTHONIOENCODING": "utf-8",
        "LC_ALL": "C.UTF-8",
    }


def run(
    folder: Path, *arguments: str, timeout: float = 600.0, extra: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`platformio run --project-dir folder arguments...`; standard error is merged into `stdout`.

    `extra` are further environment variables.

    MissingToolError: PlatformIO or SCons missing. CodesignError: no end within `timeout` seconds.
    """
    return run_command("run", "--project-dir", str(folder), *arguments, timeout=timeout, extra=extra)


def run_command(
    *arguments: str, timeout: float, extra: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`platformio arguments...`, as `run`."""
    require_platformio()
    core = core_dir()
    try:
        install_scons(core)
    except OSError as error:
        raise CodesignError(f"PlatformIO's directory {core} cannot be written: {error.strerror}") from None
    command = [sys.executable, "-m", "platformio", *arguments]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment(core) | dict(extra or {}),
        start_new_session=True,
    )
    try:
        log, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise CodesignError(f"PlatformIO did not finish within {timeout:.0f} s") from None
    finally:
        if process.poll() is None:  # time-out or Ctrl-C: end SCons and the compilers too
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return subprocess.CompletedProcess(command, process.returncode, log, "")
