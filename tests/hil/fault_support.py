"""Cross-checks of a fake device over a link that goes wrong, judged against the same cross-checks over a clean line."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fake_device import FakeDevice
from hil_support import Model

from codesign.errors import CodesignError
from codesign.hil import Device, Recovery, Target, cross_check, validate_result
from codesign.hil.faults import FAULT_KINDS, IMPOSTORS, Fault, FaultyLink, draw_faults

BUILD_ID = bytes(range(16))
TIMEOUT = 0.12
RECOVERY = Recovery(seconds=0.8, attempts=2, total=6)
SAMPLES = 5
FRAMES = 26  # of a clean run: identify, three quantisations, a trace, the samples and what ends a run
LONGEST_SECONDS = 25.0


@dataclass(frozen=True)
class Outcome:
    """One run: `problem` says what must not be."""

    seed: int
    defective: bool
    fired: list[Fault]
    verdict: str
    result: dict[str, Any] | None
    seconds: float
    problem: str | None = None

    @property
    def stalled(self) -> bool:
        reason = self.verdict if self.result is None else " ".join(self.result["failures"])
        return not self.fired and not self.defective and "no valid reply" in reason


@dataclass
class Tally:
    """What a number of runs came to."""

    runs: int = 0
    passed: int = 0
    struck: int = 0
    recovered: int = 0
    stalled: int = 0  # silent without a fault: this machine was busy for longer than the runs' short time-out
    longest: float = 0.0
    by_kind: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.runs += 1
        self.passed += outcome.verdict == "PASS"
        self.struck += bool(outcome.fired)
        self.recovered += bool(outcome.result and outcome.result["link"]["recovered"])
        self.stalled += outcome.stalled
        self.longest = max(self.longest, outcome.seconds)
        for kind in {fault.kind for fault in outcome.fired}:
            self.by_kind[kind] = self.by_kind.get(kind, 0) + 1
        if outcome.problem:
            self.problems.append(f"seed {outcome.seed}: {outcome.problem}; {outcome.fired}")


def clean_samples(model: Model) -> list[dict[str, Any]]:
    """The sample records of a run with a good device over a clean line."""
    with FakeDevice(model.integer) as fake, Device(fake.port, timeout=1.0) as device:
        target = Target(device, device.identify(), fake.port, False, "a fake", "instructions", 1.0)
        result = cross_check(target, model.integer, model.real, model.x[:SAMPLES], build_id=BUILD_ID)
    assert result["verdict"] == "PASS"
    samples: list[dict[str, Any]] = result["samples"]
    return samples


def fault_run(model: Model, seed: int, clean: list[dict[str, Any]]) -> Outcome:
    """Every third device computes one output of one inference wrongly: a clean run of that one fails."""
    rng = np.random.default_rng(seed)
    defective = seed % 3 == 0
    wrong = int(rng.integers(SAMPLES))
    target_output = np.array(clean[wrong]["device"])
    kinds = FAULT_KINDS if rng.random() < 0.4 else tuple(k for k in FAULT_KINDS if k not in IMPOSTORS)
    faults = draw_faults(rng, FRAMES, TIMEOUT, kinds)

    def corrupt(layer: int, values: np.ndarray) -> np.ndarray:
        if defective and layer == -1:
            tensor = model.integer.output
            if np.allclose((values.astype(float) - tensor.zero_point) * tensor.scale, target_output):
                values[0] ^= 1
        return values

    begun = time.monotonic()
    result: dict[str, Any] | None = None
    verdict = "ERROR"
    with (
        FakeDevice(model.integer, corrupt=corrupt, build_id=BUILD_ID) as fake,
        FaultyLink(fake.port, faults, rng, fake.requests.clear) as link,
    ):
        try:
            with Device(link.port, timeout=TIMEOUT, retries=2) as device:
                identity = device.recover(1.0)
                target = Target(device, identity, link.port, False, "a fake", "instructions", 1.0)
                result = cross_check(
                    target, model.integer, model.real, model.x[:SAMPLES], build_id=BUILD_ID, recovery=RECOVERY
                )
            verdict = result["verdict"]
        except CodesignError as error:
            verdict = f"ERROR {error}"
        fired = list(link.fired)
    seconds = time.monotonic() - begun
    return Outcome(
        seed, defective, fired, verdict, result, seconds,
        _problem(fired, defective, verdict, result, seconds, clean),
    )  # fmt: skip


def _noticeable(fired: list[Fault]) -> bool:
    """Whether the host cannot but notice. Before the first answer it only knows that the device is not up yet."""
    certain = ("drop", "flip", "half_frame", "reset", "hang", "vanish")
    return all(fault.at >= 1 for fault in fired) and any(fault.kind in certain for fault in fired)


def _problem(
    fired: list[Fault],
    defective: bool,
    verdict: str,
    result: dict[str, Any] | None,
    seconds: float,
    clean: list[dict[str, Any]],
) -> str | None:
    if seconds > LONGEST_SECONDS:
        return f"took {seconds:.1f} s"
    if result is None:
        told = verdict.startswith("ERROR ") and (fired or "no valid reply" in verdict)
        return None if told else f"no result without a fault: {verdict}"
    validate_result(result)
    told = any(value for key, value in result["link"].items())
    if not told and not result["failures"] and _noticeable(fired):
        return "nothing is told of what happened"
    if verdict == "PASS":
        if defective:
            return "PASS of a device that computes wrongly"
        if any(fault.kind in IMPOSTORS for fault in fired):
            return "PASS of another firmware"
        if result["samples"] != clean:
            return "PASS with records that a clean run would not give"
        return None
    if not result["failures"]:
        return "FAIL without a reason"
    if not fired and not defective and "no valid reply" not in result["failures"][0]:
        return f"FAIL of a good device without a fault: {result['failures']}"
    return None
