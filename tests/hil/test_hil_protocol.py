from __future__ import annotations

import dataclasses
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.hil.protocol import (
    CounterKind,
    Decoder,
    DeviceError,
    Frame,
    Identity,
    encode,
    identity_payload,
    parse_identity,
    parse_inference,
    parse_metrics,
    parse_trace_step,
)

frames = st.builds(
    Frame, st.integers(0, 255), st.integers(0, 0xFFFF), st.one_of(st.binary(max_size=40), st.just(b"\xc5\xd1" * 9))
)
IDENTITY = Identity(1, 0, bytes(32), b"0123456789abcdef", 12, 3, 4, 3, 1, CounterKind.CYCLES, 1, 216_000_000, "board")


def test_bytes_are_those_of_the_specification() -> None:
    body = b"\x02" + b"\x34\x12" + b"\x03\x00" + b"abc"
    assert encode(Frame(2, 0x1234, b"abc")) == b"\xc5\xd1" + body + struct.pack("<I", zlib.crc32(body))


@given(st.lists(frames, max_size=4), st.integers(1, 7))
def test_frames_survive_any_cutting(sent: list[Frame], size: int) -> None:
    decoder = Decoder()
    stream = b"".join(encode(f) for f in sent)
    got = [f for i in range(0, len(stream), size) for f in decoder.feed(stream[i : i + size])]
    assert got == sent
    assert decoder.discarded == decoder.bad_crc == 0


@given(st.binary(max_size=30), frames)
def test_frame_behind_garbage_is_found(garbage: bytes, sent: Frame) -> None:
    decoder = Decoder()
    got = decoder.feed(garbage + encode(sent)) + decoder.flush()
    assert sent in got


@given(frames, st.data())
def test_any_flipped_bit_is_rejected(sent: Frame, data: st.DataObject) -> None:
    damaged = bytearray(encode(sent))
    bit = data.draw(st.integers(0, 8 * len(damaged) - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    decoder = Decoder()
    assert sent not in decoder.feed(bytes(damaged)) + decoder.flush()


def test_too_long_payload_is_refused() -> None:
    with pytest.raises(ValueError, match="65535"):
        encode(Frame(1, 1, bytes(65536)))


def test_identity_round_trip() -> None:
    assert parse_identity(identity_payload(IDENTITY)) == IDENTITY


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "at least"),
        (identity_payload(IDENTITY)[:71], "at least"),
        (b"\x02\x00" + identity_payload(IDENTITY)[2:], "protocol version 2"),
        (identity_payload(IDENTITY)[:66] + b"\x09" + identity_payload(IDENTITY)[67:], "makes no sense"),
        (identity_payload(IDENTITY) + b"\xff", "makes no sense"),
    ],
)
def test_bad_identities(payload: bytes, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        parse_identity(payload)


def test_replies() -> None:
    inference = parse_inference(b"\xff\x01" + struct.pack("<Q", 1 << 40))
    assert inference.output.tolist() == [-1, 1]
    assert inference.count == 1 << 40
    step = parse_trace_step(struct.pack("<HHH", 1, 2, 3) + b"\x80\x00\x7f")
    assert (step.layer, step.step, step.hidden.tolist()) == (1, 2, [-128, 0, 127])
    assert step.hidden.dtype == np.int8
    assert parse_metrics(struct.pack("<IIII", 1, 2, 3, 4)).bad_frames == 4


def test_int16_replies_are_little_endian() -> None:
    inference = parse_inference(b"\xff\x01\x00\x80" + struct.pack("<Q", 7), "int16")
    assert (inference.output.tolist(), inference.output.dtype) == ([511, -32768], np.int16)
    step = parse_trace_step(struct.pack("<HHH", 1, 2, 1) + b"\x01\x02", "int16")
    assert step.hidden.tolist() == [513]
    with pytest.raises(DeviceError, match="3 bytes where int16"):
        parse_inference(bytes(3) + struct.pack("<Q", 7), "int16")
    with pytest.raises(DeviceError, match="announces 2 units but carries 1"):
        parse_trace_step(struct.pack("<HHH", 1, 2, 2) + b"\x01\x02", "int16")
    assert dataclasses.replace(IDENTITY, flags=3).activations == "int16"
    assert dataclasses.replace(IDENTITY, flags=1).activations == "int8"


def test_bad_replies() -> None:
    with pytest.raises(DeviceError):
        parse_inference(bytes(8))
    with pytest.raises(DeviceError, match="announces 4 units but carries 3"):
        parse_trace_step(struct.pack("<HHH", 0, 0, 4) + bytes(3))
    with pytest.raises(DeviceError):
        parse_trace_step(bytes(5))
    with pytest.raises(DeviceError):
        parse_metrics(bytes(15))
