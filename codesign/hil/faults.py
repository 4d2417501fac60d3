"""A serial link that goes wrong on purpose: between the host and a device's port, with faults drawn from a seed.

The host opens `FaultyLink.port`, a symbolic link to a pseudo-terminal, as it would open /dev/serial/by-id/...; the
bytes of both directions pass through a thread that damages them. Damage is done to single bytes (dropped, duplicated,
flipped, delayed), to the line (garbage, half frames), or the way a device does it: a reset, a hang, late answers, old
sequence numbers, a firmware or a model that is another one, a port that vanishes.
"""

from __future__ import annotations

import os
import pty
import select
import tempfile
import threading
import time
import tty
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from codesign.hil.protocol import (
    MAGIC,
    REPLY,
    Command,
    Decoder,
    Frame,
    encode,
    identity_payload,
    parse_identity,
)

FaultKind = Literal[
    "drop", "duplicate", "flip", "delay", "garbage", "half_frame",
    "reset", "hang", "late", "old_reply", "old_sequence", "wrong_firmware", "wrong_model", "vanish",
]  # fmt: skip
FAULT_KINDS: tuple[FaultKind, ...] = FaultKind.__args__  # type: ignore[attr-defined]
# Faults after which the device behind the link is not the one that was certified.
IMPOSTORS: tuple[FaultKind, ...] = ("wrong_firmware", "wrong_model")
_ON_REQUESTS = ("drop", "duplicate", "flip", "delay", "garbage", "half_frame")


@dataclass(frozen=True)
class Fault:
    """One fault: `at` counts frames of its direction from the link's start, `count` how many in a row are hit.

    `seconds` is a delay, a boot time, or how long a vanished port or a hanging device stays away (None: for good).
    """

    kind: FaultKind
    at: int
    count: int = 1
    seconds: float | None = 0.05
    requests: bool = False  # hit the host's frames instead of the device's


def draw_faults(rng: np.random.Generator, frames: int, timeout: float, kinds: Sequence[FaultKind]) -> list[Fault]:
    """One to three faults among the first `frames` frames; times are scaled to the host's `timeout` in seconds."""
    faults = []
    for _ in range(int(rng.integers(1, 4))):
        kind = kinds[int(rng.integers(len(kinds)))]
        seconds: float | None = float(rng.uniform(0.1, 0.9)) * timeout
        count = int(rng.choice([1, 1, 2, 4]))
        if kind == "late":
            seconds = float(rng.uniform(1.1, 1.8)) * timeout
        elif kind in ("hang", "vanish"):
            seconds = None if rng.random() < 0.5 else float(rng.uniform(1.0, 4.0)) * timeout
        requests = kind in _ON_REQUESTS and bool(rng.random() < 0.5)
        faults.append(Fault(kind, int(rng.integers(frames)), count, seconds, requests))
    return faults


class FaultyLink:
    """Stands between a host and the device on `device_port`; a context manager. `fired` lists the faults that struck.

    `on_reset` is called when a reset strikes, for a device that can be told.
    """

    def __init__(
        self,
        device_port: str,
        faults: Sequence[Fault],
        rng: np.random.Generator,
        on_reset: Callable[[], None] = lambda: None,
    ) -> None:
        self.faults = tuple(faults)
        self.fired: list[Fault] = []
        self._rng = rng
        self._on_reset = on_reset
        self._folder = tempfile.TemporaryDirectory(prefix="codesign-link-")
        self.port = str(Path(self._folder.name) / "tty")
        self._device = os.open(device_port, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._device)
        self._host: tuple[int, int] | None = None
        self._plug_in()
        self._replies = Decoder()
        self._counts = {False: 0, True: 0}
        self._pending: list[tuple[float, bool, bytes]] = []  # due, to the device, bytes; in order within a direction
        self._deaf_until = 0.0
        self._back_at: float | None = None
        self._impostor: FaultKind | None = None
        self._previous = b""
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> FaultyLink:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._stop_write, b"x")
        self._thread.join()
        self._unplug()
        for descriptor in (self._device, self._stop_read, self._stop_write):
            os.close(descriptor)
        self._folder.cleanup()

    def wake(self) -> None:
        """End a hang, as a reset through a debug probe does."""
        self._deaf_until = 0.0
        self._on_reset()

    def _plug_in(self) -> None:
        master, slave = pty.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        self._host = (master, slave)
        os.symlink(os.ttyname(slave), self.port)

    def _unplug(self) -> None:
        if self._host:
            os.unlink(self.port)
            for descriptor in self._host:
                os.close(descriptor)
            self._host = None

    def _run(self) -> None:
        while True:
            now = time.monotonic()
            self._deliver(now)
            if self._back_at is not None and now >= self._back_at:
                self._back_at = None
                self._plug_in()
            wakes = [due for due, _, _ in self._pending] + ([self._back_at] if self._back_at else [])
            wait = min((max(wake - time.monotonic(), 0.0) for wake in wakes), default=None)
            watched = [self._device, self._stop_read, *([self._host[0]] if self._host else [])]
            ready, _, _ = select.select(watched, [], [], wait)
            if self._stop_read in ready:
                return
            try:
                if self._host and self._host[0] in ready:
                    self._from_host(os.read(self._host[0], 65536))
                if self._device in ready:
                    self._from_device(os.read(self._device, 65536))
            except OSError:
                return  # the device is gone for good; the host sees silence

    def _deliver(self, now: float) -> None:
        left = []
        held = {False: False, True: False}
        for due, to_device, data in self._pending:
            if due > now or held[to_device]:
                held[to_device] = True
                left.append((due, to_device, data))
                continue
            descriptor = self._device if to_device else self._host[0] if self._host else -1
            if descriptor >= 0:
                try:
                    while data:
                        data = data[os.write(descriptor, data) :]
                except OSError:
                    continue  # nobody reads; a real line loses the bytes too
        self._pending = left

    def _send(self, to_device: bool, data: bytes, delay: float = 0.0) -> None:
        if data:
            self._pending.append((time.monotonic() + delay, to_device, data))

    def _from_host(self, data: bytes) -> None:
        if time.monotonic() < self._deaf_until:
            return
        if MAGIC not in data:
            self._send(True, data)
            return
        number = self._counts[True]
        self._counts[True] += 1
        for fault in self.faults:
            if fault.kind in ("reset", "hang") and number == fault.at and not fault.requests:
                self._away(fault)
                return
        for piece, delay in self._damaged(data, number, requests=True):
            self._send(True, piece, delay)

    def _away(self, fault: Fault) -> None:
        self.fired.append(fault)
        self._deaf_until = float("inf") if fault.seconds is None else time.monotonic() + fault.seconds
        if fault.kind == "reset":
            self._on_reset()
            self._send(False, self._rng.bytes(int(self._rng.integers(0, 20))))  # what a line does at power-up

    def _from_device(self, data: bytes) -> None:
        for frame in self._replies.feed(data):
            if time.monotonic() < self._deaf_until:
                continue
            number = self._counts[False]
            self._counts[False] += 1
            reply = encode(self._disguised(frame, number))
            for piece, delay in self._damaged(reply, number, requests=False):
                self._send(False, piece, delay)
            self._previous = reply

    def _disguised(self, frame: Frame, number: int) -> Frame:
        for fault in self.faults:
            if fault.kind in IMPOSTORS and number >= fault.at and self._impostor is None:
                self._impostor = fault.kind
                self.fired.append(fault)
            if fault.kind == "old_sequence" and fault.at <= number < fault.at + fault.count:
                self.fired.append(fault)
                frame = replace(frame, sequence=(frame.sequence - 2) % 0xFFFF + 1)
        if self._impostor is None:
            return frame
        if frame.type == Command.IDENTIFY | REPLY:
            identity = parse_identity(frame.payload)
            if self._impostor == "wrong_model":
                identity = replace(identity, model_hash=bytes(32))
            identity = replace(identity, build_id=bytes(b ^ 0x55 for b in identity.build_id))
            return replace(frame, payload=identity_payload(identity))
        if frame.type == Command.INFER | REPLY and self._impostor == "wrong_model":
            payload = bytearray(frame.payload)
            payload[0] ^= 1
            return replace(frame, payload=bytes(payload))
        return frame

    def _damaged(self, data: bytes, number: int, requests: bool) -> list[tuple[bytes, float]]:
        """The pieces, each with its delay, that go on the line for one frame."""
        rng = self._rng
        pieces = [(data, 0.0)]
        for fault in self.faults:
            if fault.requests != requests or not fault.at <= number < fault.at + fault.count:
                continue
            place = int(rng.integers(len(data)))
            seconds = fault.seconds or 0.0
            if fault.kind == "drop":
                pieces = [(data[:place] + data[place + 1 :], 0.0)]
            elif fault.kind == "duplicate":
                pieces = [(data[: place + 1] + data[place:], 0.0)]
            elif fault.kind == "flip":
                changed = bytearray(data)
                changed[place] ^= 1 << int(rng.integers(8))
                pieces = [(bytes(changed), 0.0)]
            elif fault.kind == "delay":
                pieces = [(data[:place], 0.0), (data[place:], seconds)]
            elif fault.kind == "garbage":
                noise = rng.bytes(int(rng.integers(1, 600))) + (MAGIC if rng.random() < 0.5 else b"")
                pieces = [(noise, 0.0), (data, 0.0)] if rng.random() < 0.5 else [(data, 0.0), (noise, 0.0)]
            elif fault.kind == "half_frame":
                pieces = [(data[:place], 0.0)]
            elif fault.kind == "late" and not requests:
                pieces = [(data, seconds)]
            elif fault.kind == "old_reply" and not requests:
                pieces = [(self._previous, 0.0)]
            elif fault.kind == "vanish" and not requests and self._host:
                pieces = []
            else:
                continue
            self.fired.append(fault)
            if fault.kind == "vanish":
                self._unplug()
                self._back_at = None if fault.seconds is None else time.monotonic() + seconds
        return pieces
