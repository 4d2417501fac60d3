"""A device in a thread, behind a pseudo-terminal, that speaks the protocol as docs/architecture.md has it.

It shares no code with codesign.hil, so that an error there cannot hide by being made on both ends.
"""

from __future__ import annotations

import os
import pty
import select
import struct
import threading
import time
import tty
import zlib
from collections.abc import Callable

import numpy as np

from codesign.quantization.integer import IntegerNetwork, IntLstm
from codesign.semantics import quantize_input, simulate_trace
from codesign.semantics.streams import integer_stream

Fault = Callable[[int, bytes], bytes]  # number of the request, reply as it should be -> what is sent


def frame(kind: int, sequence: int, payload: bytes) -> bytes:
    body = struct.pack("<BHH", kind, sequence, len(payload)) + payload
    return b"\xc5\xd1" + body + struct.pack("<I", zlib.crc32(body))


class FakeDevice:
    """`fault` may change every reply; `corrupt` may change output and hidden states before they are sent."""

    def __init__(
        self,
        network: IntegerNetwork,
        fault: Fault = lambda _, reply: reply,
        corrupt: Callable[[int, np.ndarray], np.ndarray] = lambda layer, values: values,
        build_id: bytes = bytes(range(16)),
        model_hash: bytes | None = None,
        protocol: int = 1,
        board: str = "fake",
    ) -> None:
        self.network = network
        self.fault = fault
        self.corrupt = corrupt
        self.build_id = build_id
        self.model_hash = model_hash or bytes.fromhex(network.sha256)
        self.protocol = protocol
        self.board = board
        self.requests: list[int] = []
        self.master, self.slave = pty.openpty()
        tty.setraw(self.slave)
        self.port = os.ttyname(self.slave)
        self.stream: list[np.ndarray] = []  # the steps of the stream that goes on
        self.stream_before = -1  # where the last request of it began
        self.streams = True  # old firmware does not know streams
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> FakeDevice:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._stop_write, b"x")
        self._thread.join()
        for descriptor in (self.master, self.slave, self._stop_read, self._stop_write):
            os.close(descriptor)

    def _serve(self) -> None:
        buffer = b""
        last = time.monotonic()
        while True:
            ready, _, _ = select.select([self.master, self._stop_read], [], [])
            if self._stop_read in ready:
                return
            if time.monotonic() - last > 0.5:
                buffer = b""
            last = time.monotonic()
            buffer += os.read(self.master, 4096)
            while (start := buffer.find(b"\xc5\xd1")) >= 0 and len(buffer) >= start + 7:
                kind, sequence, length = struct.unpack_from("<BHH", buffer, start + 2)
                end = start + 7 + length
                if len(buffer) < end + 4:
                    break
                good = struct.unpack_from("<I", buffer, end)[0] == zlib.crc32(buffer[start + 2 : end])
                payload, buffer = buffer[start + 7 : end], buffer[end + 4 :]
                self.requests.append(kind)
                reply = self._answer(kind, sequence, payload) if good else frame(0xFF, 0, bytes([1, kind]))
                os.write(self.master, self.fault(len(self.requests) - 1, reply))

    def _answer(self, kind: int, sequence: int, payload: bytes) -> bytes:
        network = self.network
        steps, features = network.input.shape
        size = steps * features
        value_type = np.dtype(network.activations)
        lengths = {1: 0, 2: size * value_type.itemsize, 3: size * value_type.itemsize, 4: 0, 5: 4 * size}
        if kind == 6 and self.streams:
            return self._step(sequence, payload)
        if kind not in lengths:
            return frame(0xFF, sequence, bytes([2, kind]))
        if len(payload) != lengths[kind]:
            return frame(0xFF, sequence, bytes([3, kind]))
        if kind == 1:
            outputs = int(np.prod(network.output.shape))
            layers = sum(isinstance(op, IntLstm) for op in network.ops)
            flags = 2 if value_type.itemsize == 2 else 0
            identity = struct.pack("<HH", self.protocol, flags) + self.model_hash + self.build_id
            identity += struct.pack("<IIHHHBBI", size, outputs, steps, features, layers, 2, 1, 1_000_000)
            return frame(0x81, sequence, identity + self.board.encode())
        if kind == 4:
            return frame(
                0x84, sequence, struct.pack("<IIII", 100, 1000, self.requests.count(2) + self.requests.count(3), 0)
            )
        if kind == 5:
            x = np.frombuffer(payload, "<f4").reshape(1, steps, features)
            return frame(0x85, sequence, quantize_input(network, x).tobytes())
        self.stream, self.stream_before = [], -1
        q = np.frombuffer(payload, value_type).reshape(1, steps, features)
        trace = simulate_trace(network, q)
        output = self.corrupt(-1, trace.outputs[-1].reshape(-1).copy()).tobytes()
        if kind == 2:
            return frame(0x82, sequence, output + struct.pack("<Q", 1234))
        hidden = [out[0] for out, op in zip(trace.outputs, network.ops, strict=True) if isinstance(op, IntLstm)]
        reply = b""
        for layer, states in enumerate(hidden):
            for step, state in enumerate(self.corrupt(layer, states.copy())):
                reply += frame(0x83, sequence, struct.pack("<HHH", layer, step, len(state)) + state.tobytes())
        return reply + frame(
            0x83, sequence, struct.pack("<HHH", 0xFFFF, 0, len(output) // value_type.itemsize) + output
        )

    def _step(self, sequence: int, payload: bytes) -> bytes:
        value_type, features = np.dtype(self.network.activations), self.network.input.shape[1]
        size = value_type.itemsize * features
        if len(payload) <= 4 or (len(payload) - 4) % size:
            return frame(0xFF, sequence, b"\x03\x06")
        (first,) = struct.unpack_from("<I", payload)
        if first not in (0, len(self.stream) or -1, self.stream_before):
            return frame(0xFF, sequence, b"\x04\x06")
        new = list(np.frombuffer(payload[4:], value_type).reshape(-1, features))
        self.stream, self.stream_before = self.stream[:first] + new, first
        outputs = integer_stream(self.network, np.stack(self.stream)[None])[0, first:]
        outputs = np.stack([self.corrupt(-2, row.copy()) for row in outputs])
        return frame(0x86, sequence, outputs.tobytes() + struct.pack("<Q", 7 * len(new)))
