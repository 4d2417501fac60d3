"""The end of a UART that is joined to a pseudo-terminal: sending takes no time, receiving loses nothing."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

IDLE_SECONDS = 0.02
_FLUSH_BYTES = 256
_POLLS_BEFORE_SLEEP = 4


class SerialLine:
    """Bytes from and to a file descriptor. Polls in a row with no byte moved are the firmware waiting for the host:
    then the line waits a moment too and tells `slept` how many seconds passed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._received = bytearray()
        self._sending = bytearray()
        self._polls = 0
        self.slept: Callable[[float], None] = lambda seconds: None

    def poll(self) -> bool:
        """Whether a byte has been received."""
        if not self._received:
            self._polls += 1
            if self._polls >= _POLLS_BEFORE_SLEEP:
                self.sleep()
        return bool(self._received)

    def take(self) -> int:
        """The next byte received; 0 where there is none."""
        self._polls = 0
        return self._received.pop(0) if self._received else 0

    def send(self, byte: int) -> None:
        """Send one byte."""
        self._polls = 0
        self._sending.append(byte)
        if len(self._sending) >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        while self._sending:
            del self._sending[: os.write(self._descriptor, self._sending)]

    def sleep(self) -> None:
        """Send what waits; then wait a moment for bytes, letting the emulated time go on with the real one."""
        self.flush()
        begun = time.monotonic()
        if select.select([self._descriptor], [], [], IDLE_SECONDS)[0]:
            self._received += os.read(self._descriptor, 4096)
        self.slept(time.monotonic() - begun)
        self._polls = 0


def check_baud(name: str, found: float, wanted: int) -> None:
    """BoardFaultError where a rate is more than 2 % off: a real port would garble."""
    from codesign.hil.emulators.cortexm import BoardFaultError

    if abs(found / wanted - 1.0) > 0.02:
        raise BoardFaultError(f"{name} runs at {found:.0f} baud, the board file says {wanted}")
