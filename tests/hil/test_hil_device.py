from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
import pytest
from fake_device import FakeDevice, frame
from hil_support import Model

from codesign.errors import InputError
from codesign.hil import Device, DeviceError
from codesign.semantics import quantize_input, simulate, simulate_trace

TIMEOUT = 0.3


def first_only(change: Callable[[bytes], bytes]) -> Callable[[int, bytes], bytes]:
    return lambda number, reply: change(reply) if number == 0 else reply


def damaged(reply: bytes) -> bytes:
    return reply[:-1] + bytes([reply[-1] ^ 1])


def test_every_request(tiny: Model) -> None:
    q = quantize_input(tiny.integer, tiny.x[:1])
    with FakeDevice(tiny.integer) as fake, Device(fake.port) as device:
        identity = device.identify()
        assert identity.model_hash.hex() == tiny.integer.sha256
        assert (identity.steps, identity.features) == tiny.integer.input.shape
        assert np.array_equal(device.infer(q[0]).output, simulate(tiny.integer, q)[0])
        assert np.array_equal(device.quantize(tiny.x[0]), q[0])
        trace = device.trace(q[0])
        hidden = simulate_trace(tiny.integer, q).outputs[0][0]
        assert [s.step for s in trace.steps] == list(range(len(hidden)))
        assert np.array_equal(np.stack([s.hidden for s in trace.steps]), hidden)
        assert np.array_equal(trace.output, simulate(tiny.integer, q)[0])
        assert device.metrics().invocations == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda reply: bytes(os.urandom(300)) + reply,  # garbage first
        lambda reply: b"\xc5\xd1\x81\x01\x00\xff\xff" + reply,  # a false header that swallows the reply
        lambda reply: b"\xc5\xd1\xc5" + reply,
        damaged,
        lambda reply: b"",
        lambda reply: reply[:20],
        lambda reply: frame(reply[2], 0x7777, reply[7:-4]),  # another request's sequence number
        lambda reply: frame(0x84, 1, bytes(16)),  # another type
        lambda reply: frame(0xFF, 0, b"\x01\x00"),  # the device saw a bad CRC
    ],
)
def test_one_fault_is_survived(tiny: Model, change: Callable[[bytes], bytes]) -> None:
    with (
        FakeDevice(tiny.integer, first_only(change)) as fake,
        Device(fake.port, timeout=TIMEOUT) as device,
    ):
        assert device.identify().board == "fake"
        assert len(fake.requests) <= 2


def test_stale_reply_does_not_answer_a_later_request(tiny: Model) -> None:
    q = quantize_input(tiny.integer, tiny.x[:2])
    reference = simulate(tiny.integer, q)
    assert not np.array_equal(reference[0], reference[1])
    held: list[bytes] = []

    def late(number: int, reply: bytes) -> bytes:
        if number == 0:
            held.append(reply)
            return b""
        return held[0] + reply  # the first answer arrives together with the second

    with FakeDevice(tiny.integer, late) as fake, Device(fake.port, timeout=TIMEOUT, retries=0) as device:
        with pytest.raises(DeviceError):
            device.infer(q[0])
        assert np.array_equal(device.infer(q[1]).output, reference[1])


def test_silence_ends_at_the_deadline(tiny: Model) -> None:
    with (
        FakeDevice(tiny.integer, lambda *_: b"") as fake,
        Device(fake.port, timeout=TIMEOUT, retries=1) as device,
    ):
        begun = time.monotonic()
        with pytest.raises(DeviceError, match="no valid reply to identify"):
            device.identify()
        assert 2 * TIMEOUT <= time.monotonic() - begun < 2 * TIMEOUT + 2
        assert len(fake.requests) == 2


def test_endless_garbage_ends_too(tiny: Model) -> None:
    with (
        FakeDevice(tiny.integer, lambda *_: os.urandom(2000)) as fake,
        Device(fake.port, timeout=TIMEOUT, retries=1) as device,
    ):
        begun = time.monotonic()
        with pytest.raises(DeviceError, match="no valid reply"):
            device.identify()
        assert time.monotonic() - begun < 4


def test_bad_crc_is_never_accepted(tiny: Model) -> None:
    with (
        FakeDevice(tiny.integer, lambda _, reply: damaged(reply)) as fake,
        Device(fake.port, timeout=TIMEOUT, retries=1) as device,
        pytest.raises(DeviceError, match="no valid reply"),
    ):
        device.metrics()


def test_trace_that_stops_is_reported(tiny: Model) -> None:
    q = quantize_input(tiny.integer, tiny.x[:1])
    with (
        FakeDevice(tiny.integer, lambda _, reply: reply[: len(reply) // 2]) as fake,
        Device(fake.port, timeout=TIMEOUT, retries=0) as device,
        pytest.raises(DeviceError, match=r"after [1-9] trace frames"),
    ):
        device.trace(q[0])


def test_a_refused_length_is_asked_again_in_case_it_was_damaged_and_then_told(tiny: Model) -> None:
    with FakeDevice(tiny.integer) as fake, Device(fake.port, timeout=TIMEOUT) as device:
        with pytest.raises(DeviceError, match="another input shape"):
            device.infer(np.zeros(5, np.int8))
        assert len(fake.requests) == 3


def test_core_fault_is_reported(tiny: Model) -> None:
    import struct

    fault = frame(0xFF, 0, struct.pack("<BBIII", 16, 0, 0x0800_1234, 0x8200, 0x4000_0000))
    with (
        FakeDevice(tiny.integer, lambda *_: fault) as fake,
        Device(fake.port, timeout=TIMEOUT) as device,
        pytest.raises(DeviceError, match="faulted at pc 0x08001234"),
    ):
        device.identify()


def test_other_protocol_version(tiny: Model) -> None:
    with (
        FakeDevice(tiny.integer, protocol=9) as fake,
        Device(fake.port, timeout=TIMEOUT) as device,
        pytest.raises(DeviceError, match="version 9"),
    ):
        device.identify()


def test_missing_port() -> None:
    with pytest.raises(DeviceError, match="/dev/nothing-here cannot be opened"):
        Device("/dev/nothing-here")


def test_port_that_vanishes(tiny: Model) -> None:
    fake = FakeDevice(tiny.integer)
    with fake:
        device = Device(fake.port, timeout=TIMEOUT)
    with device, pytest.raises(DeviceError, match="died"):
        device.identify()


def test_wrong_arguments(tiny: Model) -> None:
    with FakeDevice(tiny.integer) as fake:
        with Device(fake.port) as device, pytest.raises(InputError, match="int8"):
            device.infer(np.zeros((4, 3)))  # type: ignore[arg-type]
        with pytest.raises(InputError):
            Device(fake.port, timeout=0)


def test_connect_waits_for_a_device_that_starts(tiny: Model) -> None:
    begun = time.monotonic()
    with (
        FakeDevice(tiny.integer, lambda _, reply: reply if time.monotonic() - begun > 1 else b"") as fake,
        Device(fake.port) as device,
    ):
        assert device.connect().board == "fake"
        assert time.monotonic() - begun < 3
        assert (device.timeout, device.retries) == (5.0, 2)


def test_connect_gives_up(tiny: Model) -> None:
    with (
        FakeDevice(tiny.integer, lambda *_: b"") as fake,
        Device(fake.port) as device,
        pytest.raises(DeviceError, match="within 1 s"),
    ):
        device.connect(1.0)


def test_error_about_earlier_bytes_is_not_ours(tiny: Model) -> None:
    stray = lambda reply: frame(0xFF, int.from_bytes(reply[3:5], "little"), b"\x03\x02") + reply  # noqa: E731
    with FakeDevice(tiny.integer, first_only(stray)) as fake, Device(fake.port, timeout=TIMEOUT) as device:
        assert device.identify().board == "fake"
        assert len(fake.requests) == 1
