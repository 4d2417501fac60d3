"""What every emulator's child process does the same way: its pseudo-terminal, its announcement, its end."""

from __future__ import annotations

import json
import os
import pty
import signal
import sys
import threading
import tty


def open_terminal() -> tuple[int, int]:
    """Master and slave of a raw pseudo-terminal. The slave stays open here: the master then never sees a hang-up
    between two users of the port."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    return master, slave


def announce(slave: int) -> None:
    """Tell the parent process the port's name."""
    print(json.dumps({"port": os.ttyname(slave)}), flush=True)


def ignore_interrupts() -> None:
    """Ctrl-C goes to the whole foreground group; ending the child is the parent's job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def end_with_parent() -> None:
    """End this process as soon as stdin ends, even while the emulated core is busy."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
