"""The cross-check against a device whose faults are known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_device import FakeDevice
from hil_support import Model, load_model

from codesign.errors import InputError, SoundnessAlarm
from codesign.hil import Device, Recovery, Target, cross_check, validate_result, write_result
from codesign.network import evaluate
from codesign.quantization.integer import IntLstm
from codesign.semantics import dequantize, quantize_input, simulate

BUILD_ID = bytes(range(16))


@contextmanager
def target(model: Model, **behaviour: Any) -> Iterator[Target]:
    with FakeDevice(model.integer, **behaviour) as fake, Device(fake.port, timeout=0.5, retries=1) as device:
        yield Target(device, device.identify(), fake.port, False, "a fake", "instructions", 1.0)


def check(model: Model, x: np.ndarray | None = None, regions: Any = None, **behaviour: Any) -> dict[str, Any]:
    with target(model, **behaviour) as opened:
        samples = model.x[:6] if x is None else x
        result = cross_check(
            opened, model.integer, model.real, samples, regions=regions, build_id=BUILD_ID, recovery=Recovery(1.0)
        )
    validate_result(result)
    return result


def real_errors(model: Model, count: int) -> np.ndarray:
    """|int8 - float|, (count, outputs)."""
    q = quantize_input(model.integer, model.x[:count])
    values = dequantize(model.integer.output, simulate(model.integer, q))
    return np.abs(values - evaluate(model.real, model.x[:count])).reshape(count, -1)


@pytest.mark.parametrize(
    "name", ["tiny", "logits", "stacked", "sequence", "timedist", "acts", "flatten", "reshaped", "stacked.int16"]
)
def test_good_device_passes(name: str) -> None:
    model = load_model(name)
    errors = real_errors(model, 6)
    regions = [{"sample": i, "output_bound": e, "top1": "unknown"} for i, e in enumerate(errors)]
    result = check(model, regions=regions)
    assert result["failures"] == []
    assert result["verdict"] == "PASS"
    summary = result["summary"]
    assert summary["samples"] == summary["bit_exact"] == summary["within_bound"] == summary["with_bound"] == 6
    assert summary["quantize_checked"] == summary["quantize_equal"] == 3
    assert summary["max_error"] == errors.max()
    assert result["counter"] == {"unit": "instructions", "granularity": 1.0, "min": 1234, "median": 1234, "max": 1234}
    assert result["stack"] == {"high_water_bytes": 100, "size_bytes": 1000}
    layers = result["traces"][0]["layers"]
    assert [len(layer["max_error"]) for layer in layers] == [
        op.input.shape[0] for op in model.integer.ops if isinstance(op, IntLstm)
    ]
    assert layers


def test_one_step_of_an_int16_value_is_found_and_named() -> None:
    model = load_model("stacked.int16")

    def corrupt(layer: int, values: np.ndarray) -> np.ndarray:
        if layer != 0:  # the second layer is right: what the second byte says has to count
            return values
        values[2, 1] += 256
        return values

    good = check(model)
    assert (good["verdict"], good["summary"]["bit_exact"]) == ("PASS", 6)
    result = check(model, corrupt=corrupt)
    assert result["verdict"] == "FAIL"
    assert "step 2, unit 1" in result["failures"][0]


def test_a_wrong_int16_output_is_told_with_its_values() -> None:
    model = load_model("stacked.int16")

    def corrupt(layer: int, values: np.ndarray) -> np.ndarray:
        return np.full_like(values, -32768) if layer == -1 else values

    result = check(model, corrupt=corrupt)  # validated by the schema
    assert (result["verdict"], result["summary"]["bit_exact"]) == ("FAIL", 0)
    assert result["divergence"]["device"] == -32768


def test_a_device_with_values_of_another_type_is_not_run(tiny: Model) -> None:
    """The same shapes and, by mistake or malice, the same hash."""
    wide = load_model("tiny.int16")
    digest = bytes.fromhex(tiny.integer.sha256)
    with FakeDevice(wide.integer, model_hash=digest) as fake, Device(fake.port, timeout=0.5, retries=1) as device:
        opened = Target(device, device.identify(), fake.port, False, "a fake", "instructions", 1.0)
        with pytest.raises(InputError, match="takes int16 inputs, not int8"):
            device.infer(quantize_input(tiny.integer, tiny.x[:1])[0])
        result = cross_check(opened, tiny.integer, tiny.real, tiny.x[:3], build_id=BUILD_ID)
    assert result["verdict"] == "FAIL"
    assert result["failures"][0] == "the device's model takes int16 values, the model int8"
    assert result["samples"] == []


def test_an_error_just_beyond_its_bound_on_a_bit_exact_device_is_an_alarm(tiny: Model) -> None:
    errors = real_errors(tiny, 6)
    tight = errors[3].copy()
    worst = int(np.argmax(tight))
    tight[worst] = np.nextafter(tight[worst], 0)
    regions = [{"sample": i, "output_bound": e} for i, e in enumerate(errors)]
    assert check(tiny, regions=regions)["verdict"] == "PASS"
    regions[3] = {"sample": 3, "output_bound": tight}
    with pytest.raises(SoundnessAlarm, match="sample 3, bit-exact on the device") as caught:
        check(tiny, regions=regions)
    evidence = caught.value.evidence
    np.testing.assert_array_equal(evidence["input"], tiny.x[3])
    np.testing.assert_array_equal(np.abs(evidence["device"] - evidence["float"]), errors[3])


def test_a_device_that_is_not_bit_exact_is_at_fault_itself(tiny: Model) -> None:
    """What it answers outside the bound says nothing about the certificate."""

    def corrupt(layer: int, values: np.ndarray) -> np.ndarray:
        return np.where(values > 0, -128, 127).astype(values.dtype) if layer == -1 else values

    regions = [{"sample": i, "output_bound": e, "top1": "proved"} for i, e in enumerate(real_errors(tiny, 6))]
    result = check(tiny, regions=regions, corrupt=corrupt)
    assert result["verdict"] == "FAIL"
    assert [s["within_bound"] for s in result["samples"]] == [False] * 6
    assert any("6 of 6 samples (0, 1, 2, 3, 4, ...) are outside the certified bound" in f for f in result["failures"])


def test_least_of_several_bounds_counts_and_a_domain_holds_everywhere(tiny: Model) -> None:
    largest = real_errors(tiny, 6).max(0)
    regions = [
        {"sample": None, "output_bound": largest.tolist(), "top1": "unknown"},
        {"sample": 0, "output_bound": [9.0] * 3, "top1": "proved"},
    ]
    result = check(tiny, regions=regions)
    assert [s["bound"] for s in result["samples"]] == [largest.tolist()] * 6
    assert result["verdict"] == "PASS"
    assert result["samples"][0]["top1"]["certified"] == "proved"
    assert result["samples"][1]["top1"]["certified"] == "unknown"
    regions[0]["output_bound"] = [1e-9] * 3
    with pytest.raises(SoundnessAlarm):
        check(tiny, regions=regions)


def test_a_certified_class_that_differs_on_a_bit_exact_device_is_an_alarm(tiny: Model) -> None:
    """A float network with another class order is certified nothing in truth: the check has to see that."""
    import dataclasses

    layers = list(tiny.real.layers)
    index = max(i for i, layer in enumerate(layers) if hasattr(layer, "b") and layer is not layers[0])
    dense = layers[index]
    layers[index] = dataclasses.replace(dense, W=dense.W[::-1].copy(), b=dense.b[::-1].copy())  # type: ignore
    other = Model(tiny.integer, dataclasses.replace(tiny.real, layers=tuple(layers)), tiny.x)
    proved = [{"sample": None, "output_bound": None, "top1": "proved"}]
    with pytest.raises(SoundnessAlarm, match="another top-1 class than certified"):
        check(other, regions=proved)
    assert check(other)["verdict"] == "PASS"  # without the certificate, nothing is promised


def flip(at_layer: int, place: tuple[int, ...]) -> Any:
    def corrupt(layer: int, values: np.ndarray) -> np.ndarray:
        if layer in (at_layer, -1):
            values[place if layer >= 0 else 0] ^= 1
        return values

    return corrupt


@pytest.mark.parametrize(("layer", "step", "unit"), [(0, 0, 0), (0, 2, 3), (1, 1, 2)])
def test_first_divergence_is_named(layer: int, step: int, unit: int) -> None:
    model = load_model("stacked")
    result = check(model, corrupt=flip(layer, (step, unit)))
    assert result["verdict"] == "FAIL"
    found = result["divergence"]
    name = [op.name for op in model.integer.ops][layer]
    assert (found["sample"], found["layer"], found["step"], found["unit"]) == (0, name, step, unit)
    assert abs(found["device"] - found["reference"]) == 1
    assert any(f"layer {name}, step {step}, unit {unit}" in f for f in result["failures"])
    assert result["summary"]["bit_exact"] == 0


def test_divergence_behind_the_hidden_states(tiny: Model) -> None:
    result = check(tiny, corrupt=flip(99, (0,)))
    assert (result["divergence"]["layer"], result["divergence"]["step"], result["divergence"]["unit"]) == (
        "output",
        None,
        0,
    )


def test_wrong_hidden_state_with_right_output_fails(tiny: Model) -> None:
    def corrupt(layer: int, values: np.ndarray) -> np.ndarray:
        if layer == 0:
            values[0, 0] ^= 1
        return values

    result = check(tiny, corrupt=corrupt)
    assert result["summary"]["bit_exact"] == 6
    assert result["verdict"] == "FAIL"
    assert "step 0, unit 0" in result["failures"][0]


def test_device_with_memory_fails(tiny: Model) -> None:
    calls = 0

    def corrupt(layer: int, values: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += layer == -1
        if calls > 7:  # one trace, six samples, then the first again
            values[0] ^= 1
        return values

    result = check(tiny, corrupt=corrupt)
    assert result["summary"]["bit_exact"] == 6
    assert result["failures"] == [
        "sample 0 gives another output when sent again: the device keeps state between inputs"
    ]


def test_wrong_model_and_build(tiny: Model) -> None:
    result = check(tiny, model_hash=bytes(32), build_id=bytes(16))
    assert result["verdict"] == "FAIL"
    assert len(result["failures"]) == 2
    assert "wrong model" in result["failures"][0]
    assert "wrong build" in result["failures"][1]


def test_model_of_another_shape_stops_at_once(tiny: Model) -> None:
    other = load_model("stacked")
    with target(tiny) as opened:
        result = cross_check(opened, other.integer, other.real, other.x[:2])
    validate_result(result)
    assert result["verdict"] == "FAIL"
    assert result["samples"] == []
    assert any("has shape" in f for f in result["failures"])


def test_device_that_dies_fails(tiny: Model) -> None:
    result = check(tiny, fault=lambda number, reply: reply if number < 8 else b"")
    assert result["verdict"] == "FAIL"
    assert 0 < len(result["samples"]) < 6
    assert "no valid reply to infer" in result["failures"][0]
    assert result["stack"] is None


def test_wrong_quantisation_fails(tiny: Model) -> None:
    def fault(_: int, reply: bytes) -> bytes:
        from fake_device import frame

        if reply[2] != 0x85:
            return reply
        payload = bytes([reply[7] ^ 1]) + reply[8:-4]
        return frame(0x85, int.from_bytes(reply[3:5], "little"), payload)

    result = check(tiny, fault=fault)
    assert result["verdict"] == "FAIL"
    assert "the device quantises x[0, 0]" in result["failures"][0]
    assert result["summary"]["quantize_equal"] == 0


def test_labels_and_progress(tiny: Model) -> None:
    seen: list[tuple[int, int]] = []
    with target(tiny) as opened:
        result = cross_check(
            opened,
            tiny.integer,
            tiny.real,
            tiny.x[:3],
            labels=np.array([2, 0, 1]),
            build_id=BUILD_ID.hex(),
            progress=lambda done, total: seen.append((done, total)),
        )
    assert [s["label"] for s in result["samples"]] == [2, 0, 1]
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((2, 9, 9), np.float32)}, "have shape"),
        ({"x": np.zeros((0, 4, 3), np.float32)}, "at least 1"),
        ({"x": np.full((1, 4, 3), np.nan, np.float32)}, "NaN"),
        ({"labels": [1]}, "1 labels for 2 samples"),
        ({"regions": [{"sample": 2, "output_bound": [1, 1, 1]}]}, "names sample 2"),
        ({"regions": [{"sample": 0, "output_bound": [1, 1]}]}, "2 bounds for 3 outputs"),
        ({"regions": [{"sample": 0, "output_bound": [1, np.nan, 1]}]}, "not a finite number"),
    ],
)
def test_bad_input(tiny: Model, change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"x": tiny.x[:2], **change}
    with target(tiny) as opened, pytest.raises(InputError, match=message):
        cross_check(opened, tiny.integer, tiny.real, **arguments)


def test_result_file(tiny: Model, tmp_path: Path) -> None:
    import json

    result = check(tiny)
    write_result(result, tmp_path / "hil.json")
    assert json.loads((tmp_path / "hil.json").read_text()) == result
    with pytest.raises(InputError, match="verdict"):
        write_result({**result, "verdict": "MAYBE"}, tmp_path / "bad.json")
    assert [p.name for p in tmp_path.iterdir()] == ["hil.json"]
