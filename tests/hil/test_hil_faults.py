"""Whatever the link does, no PASS that a clean line would not give, and an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fake_device import FakeDevice
from fault_support import BUILD_ID, RECOVERY, SAMPLES, TIMEOUT, Tally, clean_samples, fault_run
from hil_support import Model, load_model, need_emulator

from codesign.errors import CodesignError
from codesign.hil import Device, DeviceError, Recovery, Target, cross_check, emulator_spec
from codesign.hil.emulators import EmulatedBoard
from codesign.hil.faults import FAULT_KINDS, Fault, FaultyLink, draw_faults
from codesign.toolchain import load_board

if TYPE_CHECKING:
    from codesign.toolchain import Build

Built = Callable[[str, str], "Build"]


def checked(model: Model, *faults: Fault, timeout: float = TIMEOUT, **behaviour: Any) -> dict[str, Any]:
    with (
        FakeDevice(model.integer, build_id=BUILD_ID, **behaviour) as fake,
        FaultyLink(fake.port, faults, np.random.default_rng(0), fake.requests.clear) as link,
        Device(link.port, timeout=timeout, retries=2) as device,
    ):
        target = Target(device, device.connect(2.0), link.port, False, "a fake", "instructions", 1.0)
        result = cross_check(target, model.integer, model.real, model.x[:SAMPLES], build_id=BUILD_ID, recovery=RECOVERY)
        assert link.fired or not faults
    return result


def test_runs_with_drawn_faults() -> None:
    """tools/fault_runs.py does thousands."""
    models = [load_model("tiny"), load_model("stacked")]
    clean = [clean_samples(model) for model in models]
    tally = Tally()
    with ThreadPoolExecutor(12) as pool:
        for outcome in pool.map(lambda s: fault_run(models[s % 2], s, clean[s % 2]), range(50_000, 50_140)):
            tally.add(outcome)
    assert tally.problems == []
    assert tally.stalled < 0.1 * tally.runs
    assert tally.struck > 100
    assert tally.passed > 35
    assert set(tally.by_kind) >= set(FAULT_KINDS) - {"wrong_firmware", "wrong_model"}
    assert tally.recovered > 8


def test_a_clean_link_changes_nothing(tiny: Model) -> None:
    result = checked(tiny, timeout=5.0)
    assert result["verdict"] == "PASS"
    assert result["samples"] == clean_samples(tiny)
    link = result["link"]
    assert (link["recovered"], link["events"], link["resent"], link["bad_crc"]) == (0, [], 0, 0)


@pytest.mark.parametrize("requests", [False, True])
@pytest.mark.parametrize("kind", ["drop", "duplicate", "flip", "delay", "garbage", "half_frame"])
def test_bytes_that_go_wrong_are_asked_for_again(tiny: Model, kind: Any, requests: bool) -> None:
    result = checked(tiny, Fault(kind, 12, 1, 0.05, requests))
    assert (result["verdict"], result["failures"]) == ("PASS", [])
    assert result["samples"] == clean_samples(tiny)


def test_reset_on_the_way_is_survived_and_told(tiny: Model) -> None:
    result = checked(tiny, Fault("reset", 9, seconds=1.5 * TIMEOUT * 3))
    assert result["verdict"] == "PASS"
    assert result["link"]["recovered"] == 1
    texts = [event["text"] for event in result["link"]["events"]]
    assert "no valid reply to infer" in texts[0]
    assert texts[1].startswith("recovered after")
    assert "the device was reset on the way" in texts[-1]


def test_port_that_comes_back_is_opened_again(tiny: Model) -> None:
    result = checked(tiny, Fault("vanish", 12, seconds=0.4))
    assert result["verdict"] == "PASS"
    assert result["link"]["reopened"] == 1
    assert "the link broke" in result["link"]["events"][0]["text"]


def test_a_board_that_hangs_is_reset_through_its_probe(tiny: Model) -> None:
    def run(reset: Callable[[FaultyLink], None]) -> dict[str, Any]:
        with (
            FakeDevice(tiny.integer, build_id=BUILD_ID) as fake,
            FaultyLink(
                fake.port, [Fault("hang", 9, seconds=None)], np.random.default_rng(0), fake.requests.clear
            ) as link,
            Device(link.port, timeout=TIMEOUT, retries=2) as device,
        ):
            identity = device.connect(2.0)
            target = Target(
                device, identity, link.port, False, "a fake", "instructions", 1.0, reset=lambda: reset(link)
            )
            return cross_check(target, tiny.integer, tiny.real, tiny.x[:SAMPLES], recovery=RECOVERY)

    result = run(FaultyLink.wake)
    assert (result["verdict"], result["failures"]) == ("PASS", [])
    texts = [event["text"] for event in result["link"]["events"]]
    assert "the board was reset through its debug probe" in texts
    assert any("was reset on the way" in text for text in texts)

    def broken(_link: FaultyLink) -> None:
        raise CodesignError("no probe")

    result = run(broken)
    assert result["verdict"] == "FAIL"
    assert "the board could not be reset: no probe" in [event["text"] for event in result["link"]["events"]]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("hang", 9, seconds=None), r"no valid reply to infer .* did not come back within 0.8 s"),
        (Fault("vanish", 12, seconds=None), r"the link broke .* did not come back within 0.8 s"),
        (Fault("late", 10, count=99, seconds=2 * TIMEOUT), "no valid reply"),
        (Fault("old_sequence", 10, count=99), "no valid reply"),
        (Fault("old_reply", 10, count=99), "no valid reply"),
    ],
)
def test_what_does_not_end_fails_with_the_reason(tiny: Model, fault: Fault, reason: str) -> None:
    import re

    begun = time.monotonic()
    result = checked(tiny, fault)
    assert time.monotonic() - begun < 10
    assert result["verdict"] == "FAIL"
    assert re.search(reason, result["failures"][0]), result["failures"]
    assert result["link"]["events"]


@pytest.mark.parametrize(
    ("kind", "at", "reason"),
    [
        ("wrong_firmware", 0, "wrong build on the device"),
        ("wrong_model", 0, "wrong model on the device"),
        ("wrong_firmware", 13, "its firmware is not the one it began with"),
        ("wrong_model", 13, "its model is not the one it began with"),
    ],
)
def test_an_impostor_fails_whenever_it_comes(tiny: Model, kind: Any, at: int, reason: str) -> None:
    result = checked(tiny, Fault(kind, at))
    assert result["verdict"] == "FAIL"
    assert any(reason in failure for failure in result["failures"])


def test_an_impostor_behind_a_reset_fails(tiny: Model) -> None:
    result = checked(tiny, Fault("reset", 9, seconds=1.0), Fault("wrong_firmware", 9))
    assert result["verdict"] == "FAIL"
    assert "exchanged during the run" in result["failures"][0]


def test_recoveries_are_limited(tiny: Model) -> None:
    flaky = [Fault("hang", at, seconds=5 * TIMEOUT) for at in range(8, 60, 3)]
    with (
        FakeDevice(tiny.integer, build_id=BUILD_ID) as fake,
        FaultyLink(fake.port, flaky, np.random.default_rng(0)) as link,
        Device(link.port, timeout=TIMEOUT, retries=0) as device,
    ):
        target = Target(device, device.connect(2.0), link.port, False, "a fake", "instructions", 1.0)
        x = np.repeat(tiny.x[:10], 4, axis=0)
        result = cross_check(target, tiny.integer, tiny.real, x, recovery=Recovery(2.0, 3, total=3))
    assert result["verdict"] == "FAIL"
    assert "the device was lost 4 times" in result["failures"][0]
    assert result["link"]["recovered"] == 3


@pytest.mark.parametrize(("kind", "board", "runs"), [("unicorn", "nucleo_f746", 4), ("qemu", "mps2_an500", 4)])
def test_faults_before_the_real_firmware(kind: str, board: str, runs: int, built: Built, tiny: Model) -> None:
    need_emulator(kind)
    build = built("tiny", board)
    clean: list[Any] | None = None
    passed = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        recoverable = tuple(k for k in FAULT_KINDS if k not in ("wrong_firmware", "wrong_model"))
        faults = draw_faults(rng, 20, 0.6, recoverable) if seed else []
        with (
            EmulatedBoard(emulator_spec(load_board(board), build.elf)) as emulated,
            FaultyLink(emulated.port, faults, rng) as link,
            Device(link.port, timeout=0.6, retries=2, diagnose=emulated.failure) as device,
        ):
            try:
                identity = device.connect(5.0)
            except DeviceError:
                assert link.fired
                continue
            target = Target(device, identity, link.port, True, "EMULATED", "instructions", 1.0)
            result = cross_check(
                target, tiny.integer, tiny.real, tiny.x[:4], build_id=build.build_id, recovery=Recovery(2.0)
            )
        if clean is None:
            clean = result["samples"]
        if result["verdict"] == "PASS":
            assert [s["device"] for s in result["samples"]] == [s["device"] for s in clean]
            passed += 1
        else:
            assert result["failures"]
            assert link.fired
    assert clean is not None
    assert passed >= 2
