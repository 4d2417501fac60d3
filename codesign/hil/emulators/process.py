"""The host's side of an emulated board: one child process, started, watched and always ended.

The child announces its port as one JSON line on stdout and ends when its stdin does, so that it cannot outlive this
process however this process ends. What it writes to stderr is the reason that the link reports.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from codesign.errors import InputError, MissingToolError
from codesign.hil.protocol import DeviceError

START_SECONDS = 30.0
STOP_SECONDS = 3.0
_BOOT = "import sys; from codesign.hil.emulators import {module}; sys.exit({module}.main(sys.argv[1]))"


@dataclass(frozen=True)
class MemoryRegion:
    """Origin and size in bytes; flash is read-only to the core."""

    name: str
    origin: int
    size: int
    kind: Literal["flash", "ram"]


@dataclass(frozen=True)
class EmulatorSpec:
    """What an emulator needs to know: `machine` is QEMU's machine name, or one of `mcu.builders`."""

    kind: Literal["qemu", "unicorn"]
    machine: str
    board: str
    elf: str
    clock_hz: int
    baud: int
    memories: tuple[MemoryRegion, ...] = ()
    serial: str = ""
    pins: tuple[str, ...] = ()
    alternate_function: int = 0
    hse_hz: int = 0


class EmulatedBoard:
    """A running emulated board; also a context manager. `port` is the pseudo-terminal's name.

    Raises InputError (unknown kind, unreadable ELF), MissingToolError (QEMU or Unicorn not installed) and DeviceError
    (the emulator does not come up, with its own words).
    """

    def __init__(self, spec: EmulatorSpec) -> None:
        module = _module(spec)
        if not Path(spec.elf).is_file():
            raise InputError(f"there is no firmware {spec.elf}; build it first")
        self.spec = spec
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        environment = dict(os.environ, PYTHONSAFEPATH="1", PYTHONPATH=_search_path())
        self._child = subprocess.Popen(
            [sys.executable, "-c", _BOOT.format(module=module), json.dumps(asdict(spec))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
        )
        try:
            self.port = self._announced()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> EmulatedBoard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def description(self) -> str:
        """For the user: which emulator runs which board."""
        return f"EMULATED {self.spec.board} ({self.spec.kind} {self.spec.machine})"

    def failure(self) -> str | None:
        """Why the emulated board stopped, in the emulator's words; None while it runs."""
        if self._child.poll() is None:
            return None
        return self._said() or f"the emulator ended with exit code {self._child.returncode}"

    def close(self) -> None:
        """End the child process and wait for it; harmless when repeated."""
        if self._child.stdin:
            self._child.stdin.close()
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.terminate()
            try:
                self._child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        if self._child.stdout:
            self._child.stdout.close()
        self._stderr.close()

    def _announced(self) -> str:
        assert self._child.stdout
        descriptor = self._child.stdout.fileno()
        deadline = time.monotonic() + START_SECONDS
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeviceError(f"{self.description} did not come up within {START_SECONDS:g} s")
            if not select.select([descriptor], [], [], left)[0]:
                continue
            data = os.read(descriptor, 4096)
            if not data:
                self._child.wait(STOP_SECONDS)
                raise DeviceError(f"{self.description} did not start: {self.failure()}")
            line += data
        return str(json.loads(line)["port"])

    def _said(self) -> str:
        if self._stderr.closed:
            return ""
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else ""


def _module(spec: EmulatorSpec) -> str:
    if not sys.platform.startswith("linux"):
        raise MissingToolError("emulated boards need Linux (pseudo-terminals); use a real board with --port")
    if spec.kind == "qemu":
        if shutil.which("qemu-system-arm") is None:
            raise MissingToolError("qemu-system-arm is missing: sudo apt-get install qemu-system-arm")
        return "qemu"
    if spec.kind == "unicorn":
        if importlib.util.find_spec("unicorn") is None or importlib.util.find_spec("elftools") is None:
            raise MissingToolError("unicorn or pyelftools is missing: pip install 'codesign[board]'")
        return "mcu"
    raise InputError(f"board {spec.board} names an unknown emulator '{spec.kind}'; use qemu or unicorn")


def _search_path() -> str:
    """This package first, whatever the child's working folder."""
    package_parent = str(Path(__file__).resolve().parents[3])
    inherited = os.environ.get("PYTHONPATH")
    return package_parent + (os.pathsep + inherited if inherited else "")
