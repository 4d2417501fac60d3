"""The serial protocol: frames with length, sequence number and CRC-32, and the typed content of every reply.

A frame is, little endian: magic C5 D1, type u8, sequence u16, length u16, payload, CRC-32 (zlib's) over type..payload.
A reply has the request's type | 0x80 and its sequence number; an error reply has type 0xFF.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from codesign.errors import CodesignError
from codesign.quantization.integer import ActivationArray, Activations

PROTOCOL_VERSION = 1
MAGIC = b"\xc5\xd1"
REPLY = 0x80
ERROR_TYPE = 0xFF
CLOSING_LAYER = 0xFFFF
MAX_PAYLOAD = 0xFFFF
FLAG_INT16 = 2
_HEADER = struct.Struct("<2sBHH")
_CRC = struct.Struct("<I")
OVERHEAD = _HEADER.size + _CRC.size

_IDENTITY = struct.Struct("<HH32s16sIIHHHBBI")
_METRICS = struct.Struct("<IIII")
_TRACE = struct.Struct("<HHH")
_COUNTER = struct.Struct("<Q")
_STREAM = struct.Struct("<I")


class DeviceError(CodesignError):
    """The device does not answer, answers nonsense, or refuses a request."""


class NoReplyError(DeviceError):
    """Silence, or nothing but noise, until the deadline."""


class LinkLostError(DeviceError):
    """The serial port broke or cannot be opened: a cable pulled, a device that re-enumerates."""


class UnsupportedError(DeviceError):
    """The firmware's runtime cannot answer this request."""


class Command(IntEnum):
    """Request types."""

    IDENTIFY = 0x01
    INFER = 0x02
    TRACE = 0x03
    METRICS = 0x04
    QUANTIZE = 0x05
    STREAM = 0x06


class ErrorCode(IntEnum):
    """First byte of an error reply."""

    BAD_CRC = 1
    UNKNOWN_TYPE = 2
    WRONG_LENGTH = 3
    WRONG_STEP = 4
    UNSUPPORTED = 6
    RUNTIME = 7  # payload goes on with the runtime's status, u8
    FAULT = 16  # sequence 0; payload goes on with pc, CFSR and HFSR, u32 each


class CounterKind(IntEnum):
    """What the firmware's counter counts, as the firmware knows it."""

    NONE = 0
    CYCLES = 1
    INSTRUCTIONS = 2


@dataclass(frozen=True)
class Frame:
    """One frame, its CRC already checked (or not yet added)."""

    type: int
    sequence: int
    payload: bytes = b""


@dataclass(frozen=True)
class Identity:
    """Reply to identify. Sizes count values, int8 or int16; `clock_hz` is the core clock."""

    protocol: int
    flags: int
    model_hash: bytes  # 32 bytes, SHA-256 of model.tflite
    build_id: bytes  # 16 bytes
    input_size: int
    output_size: int
    steps: int
    features: int
    lstm_layers: int
    counter_kind: CounterKind
    counter_granularity: int
    clock_hz: int
    board: str

    @property
    def activations(self) -> Activations:
        """The type of inputs, outputs and hidden states."""
        return "int16" if self.flags & FLAG_INT16 else "int8"


@dataclass(frozen=True, eq=False)
class Inference:
    """Reply to infer: int8 or int16 (output_size,), and the counter's difference over the inference."""

    output: ActivationArray
    count: int


@dataclass(frozen=True, eq=False)
class TraceStep:
    """Hidden state of one LSTM layer (counted from 0) after one time step: int8 or int16 (units,)."""

    layer: int
    step: int
    hidden: ActivationArray


@dataclass(frozen=True, eq=False)
class DeviceTrace:
    """Reply to trace: every step in the order of execution, and the output, int8 or int16 (output_size,)."""

    steps: tuple[TraceStep, ...]
    output: ActivationArray


@dataclass(frozen=True)
class Metrics:
    """Reply to metrics, since reset: bytes of stack, counts of inferences and of rejected frames."""

    stack_high_water: int
    stack_size: int
    invocations: int
    bad_frames: int


def encode(frame: Frame) -> bytes:
    """The bytes of a frame. ValueError where the payload exceeds 65,535 bytes."""
    if len(frame.payload) > MAX_PAYLOAD:
        raise ValueError(f"a frame carries at most {MAX_PAYLOAD} bytes, not {len(frame.payload)}")
    head = _HEADER.pack(MAGIC, frame.type, frame.sequence, len(frame.payload))
    body = head[len(MAGIC) :] + frame.payload
    return MAGIC + body + _CRC.pack(zlib.crc32(body))


class Decoder:
    """Finds frames in a byte stream. After bytes that are no frame it looks for the next magic, one byte further on,
    so that a good frame behind a false or damaged header is still found.

    `discarded` counts skipped bytes, `bad_crc` frames whose CRC was wrong.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.discarded = 0
        self.bad_crc = 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes."""
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def flush(self) -> list[Frame]:
        """Give up on the incomplete frame at the buffer's head; the frames found behind it."""
        frames = []
        while self._buffer:
            self._skip(1)
            while (frame := self._next()) is not None:
                frames.append(frame)
        return frames

    def _skip(self, count: int) -> None:
        del self._buffer[:count]
        self.discarded += count

    def _next(self) -> Frame | None:
        while True:
            start = self._buffer.find(MAGIC)
            if start < 0:
                # The last byte may be the first half of a magic.
                keep = 1 if self._buffer[-1:] == MAGIC[:1] else 0
                self._skip(len(self._buffer) - keep)
                return None
            self._skip(start)
            if len(self._buffer) < _HEADER.size:
                return None
            _, kind, sequence, length = _HEADER.unpack_from(self._buffer)
            end = _HEADER.size + length
            if len(self._buffer) < end + _CRC.size:
                return None
            (crc,) = _CRC.unpack_from(self._buffer, end)
            if crc == zlib.crc32(self._buffer[len(MAGIC) : end]):
                payload = bytes(self._buffer[_HEADER.size : end])
                del self._buffer[: end + _CRC.size]
                return Frame(kind, sequence, payload)
            self.bad_crc += 1
            self._skip(1)


def parse_identity(payload: bytes) -> Identity:
    """DeviceError where the payload is not an identity or speaks another protocol version."""
    if len(payload) >= 2 and (version := int.from_bytes(payload[:2], "little")) != PROTOCOL_VERSION:
        raise DeviceError(
            f"the device speaks protocol version {version}, this host version {PROTOCOL_VERSION}; "
            "rebuild and flash the firmware"
        )
    if len(payload) < _IDENTITY.size:
        raise DeviceError(f"the device's identity has {len(payload)} bytes instead of at least {_IDENTITY.size}")
    fields = _IDENTITY.unpack_from(payload)
    try:
        kind = CounterKind(fields[9])
        board = payload[_IDENTITY.size :].decode("ascii").rstrip("\0")
    except (ValueError, UnicodeDecodeError) as error:
        raise DeviceError(f"the device's identity makes no sense ({error})") from error
    return Identity(
        protocol=fields[0],
        flags=fields[1],
        model_hash=fields[2],
        build_id=fields[3],
        input_size=fields[4],
        output_size=fields[5],
        steps=fields[6],
        features=fields[7],
        lstm_layers=fields[8],
        counter_kind=kind,
        counter_granularity=fields[10],
        clock_hz=fields[11],
        board=board,
    )


def parse_values(payload: bytes, activations: Activations) -> ActivationArray:
    """Values of the device's type, little endian. DeviceError where the payload holds no whole number of them."""
    if activations == "int8":
        return np.frombuffer(payload, np.int8)
    if len(payload) % 2:
        raise DeviceError(f"the device sends {len(payload)} bytes where int16 values are expected")
    return np.frombuffer(payload, "<i2").astype(np.int16)


def parse_inference(payload: bytes, activations: Activations = "int8") -> Inference:
    """DeviceError where the payload is too short to hold the counter, or does not fit the type of values."""
    if len(payload) <= _COUNTER.size:
        raise DeviceError(f"the device's inference reply has only {len(payload)} bytes")
    output = parse_values(payload[: -_COUNTER.size], activations)
    return Inference(output, _COUNTER.unpack(payload[-_COUNTER.size :])[0])


def stream_payload(first: int, values: bytes) -> bytes:
    """Of a stream request: the number of its first step, 0 to begin anew, and the steps' inputs."""
    return _STREAM.pack(first) + values


def steps_per_request(identity: Identity, outputs: int) -> int:
    """How many steps of a stream fit one request and its reply of `outputs` values a step; at least 1.

    The device has room for a whole float32 input (where a frame cannot hold that: an integer one), and for one step.
    """
    size = 2 if identity.activations == "int16" else 1
    floats = 4 * identity.input_size
    room = floats if floats <= MAX_PAYLOAD else size * identity.input_size
    asked = (room - _STREAM.size) // (size * identity.features)
    return max(1, min(asked, (MAX_PAYLOAD - _COUNTER.size) // (size * outputs)))


def parse_trace_step(payload: bytes, activations: Activations = "int8") -> TraceStep:
    """DeviceError where the number of units does not match the payload's length."""
    if len(payload) < _TRACE.size:
        raise DeviceError(f"a trace frame of the device has only {len(payload)} bytes")
    layer, step, units = _TRACE.unpack_from(payload)
    hidden = parse_values(payload[_TRACE.size :], activations)
    if len(hidden) != units:
        raise DeviceError(f"a trace frame of the device announces {units} units but carries {len(hidden)}")
    return TraceStep(layer, step, hidden)


def parse_metrics(payload: bytes) -> Metrics:
    """DeviceError where the payload's length is wrong."""
    if len(payload) != _METRICS.size:
        raise DeviceError(f"the device's metrics reply has {len(payload)} bytes instead of {_METRICS.size}")
    return Metrics(*_METRICS.unpack(payload))


def identity_payload(identity: Identity) -> bytes:
    """The inverse of parse_identity."""
    return _IDENTITY.pack(
        identity.protocol,
        identity.flags,
        identity.model_hash,
        identity.build_id,
        identity.input_size,
        identity.output_size,
        identity.steps,
        identity.features,
        identity.lstm_layers,
        identity.counter_kind,
        identity.counter_granularity,
        identity.clock_hz,
    ) + identity.board.encode("ascii")
