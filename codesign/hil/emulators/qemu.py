"""Child process that runs qemu-system-arm and joins its UART to a pseudo-terminal.

QEMU's own pty backend looks for a connected peer only once a second, so the UART goes through a socket pair instead.
With `-icount shift=0` one instruction takes one virtual nanosecond: SysTick then counts instructions, repeatably.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
from typing import Any

from codesign.hil.emulators.terminal import announce, ignore_interrupts, open_terminal

PROGRAM = "qemu-system-arm"
_PR_SET_PDEATHSIG = 1
_LAST_WORDS_SECONDS = 2.0


def command(machine: str, elf: str) -> list[str]:
    """QEMU's command line; the UART is on its stdin and stdout."""
    return [
        PROGRAM,
        *("-M", machine),
        *("-kernel", elf),
        *("-display", "none"),
        *("-monitor", "none"),
        *("-icount", "shift=0"),
        *("-chardev", "stdio,id=uart,signal=off"),
        *("-serial", "chardev:uart"),
        "-no-reboot",
    ]


def _die_with_supervisor() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(argument: str) -> int:
    """Run until stdin or QEMU ends; QEMU's last words go to stderr."""
    spec: dict[str, Any] = json.loads(argument)
    ignore_interrupts()
    master, slave = open_terminal()
    near, far = socket.socketpair()
    qemu = subprocess.Popen(
        command(spec["machine"], spec["elf"]),
        stdin=far.fileno(),
        stdout=far.fileno(),
        stderr=subprocess.PIPE,
        preexec_fn=_die_with_supervisor,
    )
    far.close()
    announce(slave)
    try:
        if not _pump(master, near):
            qemu.wait(_LAST_WORDS_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        qemu.kill()
        code = qemu.wait()
    words = qemu.stderr.read().decode("utf-8", "replace").splitlines() if qemu.stderr else []
    if code in (0, -signal.SIGKILL):
        return 0
    # A fatal error is followed by a dump of the registers, which the one line for the user leaves out.
    reason = next((line for line in words if line.startswith("qemu")), " ".join(words[:1]))
    print(f"QEMU ended with exit code {code}: {reason}", file=sys.stderr)
    return 1


def _pump(master: int, uart: socket.socket) -> bool:
    """Copy bytes both ways; True when stdin ended (the parent is done), False when QEMU's end closed."""
    stdin = sys.stdin.fileno()
    while True:
        ready, _, _ = select.select([stdin, master, uart], [], [])
        if stdin in ready and not os.read(stdin, 4096):
            return True
        if master in ready:
            try:
                uart.sendall(os.read(master, 4096))
            except OSError:
                return False
        if uart in ready:
            try:
                data = uart.recv(4096)
            except OSError:
                return False
            if not data:
                return False
            while data:
                data = data[os.write(master, data) :]
