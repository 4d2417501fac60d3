"""Streams through a device: every step compared, nothing run twice, what is lost begun again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fake_device import FakeDevice
from hil_support import Model, load_model, need_emulator

from codesign.errors import InputError, SoundnessAlarm
from codesign.hil import Device, Recovery, Stream, Target, cross_check, open_target, validate_result
from codesign.hil.protocol import MAX_PAYLOAD, steps_per_request
from codesign.semantics import dequantize, quantize
from codesign.semantics.streams import float_stream, integer_stream

if TYPE_CHECKING:
    from codesign.toolchain import Build

BUILD_ID = bytes(range(16))
STEPS = 70


def inputs(model: Model, steps: int = STEPS) -> np.ndarray:
    features = model.integer.input.shape[1]
    return np.random.default_rng(0).uniform(-1, 1, (steps, features)).astype(np.float32)


def errors(model: Model, x: np.ndarray) -> np.ndarray:
    """|integer - float| after every step, (steps, outputs)."""
    integer = integer_stream(model.integer, quantize(model.integer.input, x[None]))
    return np.abs(dequantize(model.integer.output, integer) - float_stream(model.real, x[None]))[0]


def run(fake: FakeDevice, model: Model, streams: list[Stream], **options: Any) -> dict[str, Any]:
    with Device(fake.port, timeout=0.4, retries=1) as device:
        target = Target(device, device.identify(), fake.port, False, "a fake", "instructions", 1.0)
        result = cross_check(
            target, model.integer, model.real, model.x[:2], build_id=BUILD_ID, recovery=Recovery(1.0), streams=streams,
            **options,
        )  # fmt: skip
    validate_result(result)
    return result


@pytest.mark.parametrize("name", ["tiny", "logits", "stacked", "stacked.int16", "acts"])
def test_a_good_device_passes(name: str) -> None:
    model = load_model(name)
    x = inputs(model)
    bound = errors(model, x).max(0)
    done = []
    with FakeDevice(model.integer) as fake:
        result = run(
            fake, model, [Stream(x, bound, 0.0), Stream(x[:3])], progress=lambda a, b: done.append((a, b))
        )  # fmt: skip
    assert (result["verdict"], result["failures"]) == ("PASS", [])
    first, second = result["streams"]
    assert first["steps"] == first["bit_exact"] == first["within_bound"] == STEPS
    assert first["max_error"] == bound.tolist()
    assert first["count"] == 7 * STEPS
    assert (second["steps"], second["bound"], second["within_bound"], second["class_certified"]) == (
        3,
        None,
        None,
        None,
    )
    assert result["summary"]["stream_steps"] == STEPS + 3
    assert done[-1][0] == done[-1][1] > 4


def test_a_wrong_step_is_found_and_named(tiny: Model) -> None:
    count = 0

    def corrupt(layer: int, values: np.ndarray) -> np.ndarray:
        nonlocal count
        if layer == -2:
            count += 1
            if count in (41, 60):
                values[1] ^= 1
        return values

    with FakeDevice(tiny.integer, corrupt=corrupt) as fake:
        result = run(fake, tiny, [Stream(inputs(tiny))])
    assert result["verdict"] == "FAIL"
    (failure,) = result["failures"]
    assert failure.startswith(f"2 of {STEPS} steps of stream 0 are not bit-exact")
    assert "first at step 40, output 1" in failure


def test_a_bound_that_one_step_exceeds_is_an_alarm(tiny: Model) -> None:
    x = inputs(tiny)
    bound = errors(tiny, x).max(0)
    bound[0] = np.nextafter(bound[0], 0)
    with FakeDevice(tiny.integer) as fake, pytest.raises(SoundnessAlarm, match="stream 0, bit-exact") as caught:
        run(fake, tiny, [Stream(x, bound)])
    np.testing.assert_array_equal(caught.value.evidence["inputs"], x)


def test_a_class_that_is_certified_and_differs_fails(tiny: Model) -> None:
    def corrupt(layer: int, values: np.ndarray) -> np.ndarray:
        if layer == -2:
            values[:] = values[::-1]
        return values

    with FakeDevice(tiny.integer, corrupt=corrupt) as fake:
        result = run(fake, tiny, [Stream(inputs(tiny), None, 0.01)])
    assert any("of another top-1 class than certified" in failure for failure in result["failures"])


def test_lost_replies_are_asked_for_again_and_no_step_runs_twice(tiny: Model) -> None:
    streamed = 0

    def fault(number: int, reply: bytes) -> bytes:
        nonlocal streamed
        streamed += reply[2] == 0x86
        if reply[2] == 0x86 and streamed in (2, 4):
            return b""
        return reply

    with FakeDevice(tiny.integer, fault) as fake:
        result = run(fake, tiny, [Stream(inputs(tiny))])
    assert result["verdict"] == "PASS"
    assert result["link"]["resent"] == 2


def test_a_device_that_was_reset_begins_the_stream_again(tiny: Model) -> None:
    resets = []

    def fault(number: int, reply: bytes) -> bytes:
        if reply[2] == 0x86 and not resets and len(fake.stream) > 30:
            resets.append(number)
            fake.stream, fake.stream_before = [], -1
        return reply

    with FakeDevice(tiny.integer, fault) as fake:
        result = run(fake, tiny, [Stream(inputs(tiny))])
    assert resets
    assert result["verdict"] == "PASS"
    assert result["link"]["recovered"] == 1
    assert "lost the stream" in result["link"]["events"][0]["text"]


def test_firmware_without_streams_is_told(tiny: Model) -> None:
    with FakeDevice(tiny.integer) as fake:
        fake.streams = False
        result = run(fake, tiny, [Stream(inputs(tiny))])
    assert result["verdict"] == "FAIL"
    assert "does not know the request stream; rebuild the firmware" in result["failures"][0]


def test_a_stream_is_taken_from_the_journal(tiny: Model, tmp_path: Path) -> None:
    journal, stream = tmp_path / "hil.jsonl", Stream(inputs(tiny))
    with FakeDevice(tiny.integer) as fake:
        whole = run(fake, tiny, [stream], journal=journal)
    with FakeDevice(tiny.integer) as fake:
        again = run(fake, tiny, [stream], journal=journal, resume=True)
        assert fake.requests.count(6) == 1  # not for its answer: for the stack it takes
    assert again["streams"] == whole["streams"]
    with FakeDevice(tiny.integer) as fake, pytest.raises(InputError, match="streams sha256 differs"):
        run(fake, tiny, [Stream(inputs(tiny) + 1)], journal=journal, resume=True)
    lines = journal.read_text().splitlines()
    entry = json.loads(lines[-1])
    assert entry["kind"] == "stream"
    entry["output"][3] = 200
    journal.write_text("\n".join([*lines[:-1], json.dumps(entry)]) + "\n")
    with FakeDevice(tiny.integer) as fake, pytest.raises(InputError):
        run(fake, tiny, [stream], journal=journal, resume=True)


@pytest.mark.parametrize("change", [lambda x: x[:0], lambda x: x[:, :1], lambda x: x * np.nan, lambda x: x[None]])
def test_inputs_that_do_not_fit_are_refused(tiny: Model, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with FakeDevice(tiny.integer) as fake, pytest.raises(InputError, match="stream"):
        run(fake, tiny, [Stream(change(inputs(tiny)))])
    with FakeDevice(tiny.integer) as fake, pytest.raises(InputError, match="bound"):
        run(fake, tiny, [Stream(inputs(tiny), np.full(7, np.nan))])


def test_networks_without_a_stream_are_refused() -> None:
    model = load_model("timedist")
    with FakeDevice(model.integer) as fake, pytest.raises(InputError, match="last step feeds the head"):
        run(fake, model, [Stream(inputs(model))])


@pytest.mark.parametrize("name", ["tiny", "stacked.int16"])
def test_requests_fit_what_the_device_has_room_for(name: str) -> None:
    model = load_model(name)
    with FakeDevice(model.integer) as fake, Device(fake.port) as device:
        identity = device.identify()
    steps = steps_per_request(identity, int(np.prod(model.integer.output.shape)))
    size = 2 if identity.activations == "int16" else 1
    assert steps >= 1
    assert 4 + size * steps * identity.features <= max(4 * identity.input_size, 4 + size * identity.features)
    assert steps_per_request(identity, MAX_PAYLOAD) == 1


@pytest.mark.parametrize(
    ("board", "name", "emulator"),
    [("nucleo_f746", "stacked.int16", "unicorn"), ("mps2_an386", "tiny", "qemu")],
)
def test_emulated_boards_stream(built: Callable[[str, str], Build], board: str, name: str, emulator: str) -> None:
    need_emulator(emulator)
    model = load_model(name)
    x = inputs(model, 400)
    bound = errors(model, x).max(0)
    with open_target(built(name, board), emulate=True) as target:
        result = cross_check(target, model.integer, model.real, model.x[:2], streams=[Stream(x, bound)])
    assert (result["verdict"], result["failures"]) == ("PASS", [])
    assert result["streams"][0]["bit_exact"] == 400
