"""The serial protocol as the tests speak it, written apart from codesign.hil, and the stub model's results."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STUB = HERE / "stub_model"
TINY = ROOT / "tests" / "fixtures" / "tiny.tflite"
MAGIC = b"\xc5\xd1"
STUB_HASH = bytes([0xAB, *range(1, 31), 0xCD])


@dataclass(frozen=True)
class Frame:
    type: int
    sequence: int
    payload: bytes


def frame(type_: int, sequence: int, payload: bytes = b"") -> bytes:
    body = struct.pack("<BHH", type_, sequence, len(payload)) + payload
    return MAGIC + body + struct.pack("<I", zlib.crc32(body))


def parse_all(data: bytes) -> list[Frame]:
    """Every byte has to belong to a good frame."""
    frames = []
    position = 0
    while position < len(data):
        assert data[position : position + 2] == MAGIC
        type_, sequence, length = struct.unpack_from("<BHH", data, position + 2)
        end = position + 7 + length
        assert struct.unpack_from("<I", data, end)[0] == zlib.crc32(data[position + 2 : end])
        frames.append(Frame(type_, sequence, data[position + 7 : end]))
        position = end + 4
    return frames


def stub_output(q: np.ndarray) -> bytes:
    return bytes((int(q.sum()) + i + 17) & 0x3F for i in range(5))


class Device:
    """A device behind a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.sequence = 0

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.connection.recv(count - len(data))
            assert part, "the emulator closed the line"
            data += part
        return data

    def receive(self) -> Frame:
        head = self._read(7)
        assert head[:2] == MAGIC
        type_, sequence, length = struct.unpack("<BHH", head[2:])
        rest = self._read(length + 4)
        assert struct.unpack("<I", rest[length:])[0] == zlib.crc32(head[2:] + rest[:length])
        return Frame(type_, sequence, rest[:length])

    def ask(self, type_: int, payload: bytes = b"") -> Frame:
        self.sequence += 1
        self.send(frame(type_, self.sequence, payload))
        while True:
            reply = self.receive()
            if reply.sequence == self.sequence or reply.type == 0xFF:
                return reply
            assert reply.sequence < self.sequence  # the late answer to a request that was given up

    def wait_until_up(self) -> Frame:
        """Asks again until the start-up code has enabled the serial port."""
        self.connection.settimeout(0.3)
        deadline = time.monotonic() + 10
        while True:
            try:
                reply = self.ask(0x01)
                break
            except TimeoutError:
                assert time.monotonic() < deadline, "no answer to identify"
        self.connection.settimeout(30)
        return reply


@contextmanager
def qemu(elf: Path, machine: str, *options: str) -> Iterator[Device]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        port = server.getsockname()[1]
        command = ["qemu-system-arm", "-M", machine, "-kernel", str(elf), "-display", "none", "-monitor", "none"]
        process = subprocess.Popen([*command, "-serial", f"tcp:127.0.0.1:{port}", *options])
        try:
            connection, _ = server.accept()
            with connection:
                yield Device(connection)
        finally:
            process.kill()
            process.wait()


def identify_fields(payload: bytes) -> dict[str, object]:
    names = ["input", "output", "steps", "features", "layers", "counter", "granularity", "clock"]
    values = dict(zip(names, struct.unpack_from("<IIHHHBBI", payload, 52), strict=True))
    protocol, flags = struct.unpack_from("<HH", payload)
    return {
        "protocol": protocol,
        "flags": flags,
        "hash": payload[4:36],
        "build": payload[36:52].hex(),
        "board": payload[72:].decode(),
        **values,
    }
