"""Soak: random inputs inside the certified regions against one device, for as long as asked, in bounded memory.

Every answer has to be the exact simulation's, bit for bit, and within its region's certified bound of the float model.
Inputs are uniform in a region's box or, every fourth, at its corners, where errors tend to be largest.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.hil.deployment import CertifiedRegion
from codesign.hil.protocol import DeviceError
from codesign.hil.session import Recovery, Session
from codesign.hil.target import Target
from codesign.network.model import Float32Array, FloatNetwork
from codesign.quantization.integer import IntegerNetwork
from codesign.soundness import require_never, require_within

FORMAT = "codesign-soak-1"
BATCH = 32
_KEPT_FAILURES = 20
_KEPT_INPUTS = 5
_LARGEST_SECONDS = 30 * 86400
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds of '90s', '10m', '1h', '2d' or a plain number of seconds. InputError otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip().lower())
    seconds = float(match[1]) * _UNITS[match[2] or "s"] if match else 0.0
    if not 0 < seconds <= _LARGEST_SECONDS:
        raise InputError(f"'{text}' is no duration; give for example 90s, 10m or 1h, and at most 30d")
    return seconds


@dataclass
class SoakStatus:
    """Counts so far. `worst_ratio` is the largest |device - float| / bound, at `worst_region`."""

    seconds: float = 0.0
    inferences: int = 0
    mismatches: int = 0
    out_of_bound: int = 0
    flipped: int = 0
    recovered: int = 0
    worst_error: float = 0.0
    worst_ratio: float = 0.0
    worst_region: str | None = None
    count_min: int | None = None
    count_max: int | None = None
    count_sum: int = 0
    resident_bytes: int = 0
    resident_first: int = 0
    resident_largest: int = 0
    failures: list[str] = field(default_factory=list)
    inputs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """Answers that were not as certified."""
        return self.mismatches + self.out_of_bound + self.flipped

    @property
    def throughput(self) -> float:
        """Inferences a second."""
        return self.inferences / self.seconds if self.seconds else 0.0


def soak(
    target: Target,
    network: IntegerNetwork,
    float_network: FloatNetwork,
    regions: Sequence[CertifiedRegion],
    seconds: float,
    rng: np.random.Generator,
    on_update: Callable[[SoakStatus], None] = lambda status: None,
    recovery: Recovery | None = None,
    build_id: str | None = None,
) -> dict[str, Any]:
    """Cross-check random inputs for `seconds` and give a JSON-ready result with its 'verdict'.

    `on_update` is called after every batch. The run ends early when the device dies; KeyboardInterrupt ends it with
    what was found so far, as 'interrupted'. InputError without regions; SoundnessAlarm at the first answer that is
    bit-exact and not as certified.
    """
    if not regions:
        raise InputError("there is no certified region to draw inputs from; give the certificate")
    session = Session(target, recovery=recovery or Recovery(total=1_000_000))
    status = SoakStatus()
    begun = time.monotonic()
    interrupted = False
    _check_subject(target, network, build_id, status)
    try:
        while status.seconds < seconds and not (status.failures and not status.inferences):
            _batch(session, network, float_network, regions, rng, status, begun + seconds)
            status.seconds = time.monotonic() - begun
            status.recovered = session.recovered
            status.resident_bytes = _resident_bytes()
            status.resident_first = status.resident_first or status.resident_bytes
            status.resident_largest = max(status.resident_largest, status.resident_bytes)
            on_update(status)
        session.confirm_identity()
    except DeviceError as error:
        _fail(status, str(error))
    except KeyboardInterrupt:
        interrupted = True
    status.seconds = time.monotonic() - begun
    metrics = None
    try:
        metrics = session.metrics()
    except DeviceError as error:
        _fail(status, f"no metrics: {error}")
    if metrics is not None and metrics.stack_high_water >= metrics.stack_size:
        _fail(status, f"the firmware used all of its stack ({metrics.stack_size} bytes): it may have overflowed")
    _count_failures(status)
    counted = status.count_min is not None
    return {
        "format": FORMAT,
        "verdict": "FAIL" if status.failures or not status.inferences else "PASS",
        "failures": status.failures,
        "interrupted": interrupted,
        "board": target.identity.board,
        "emulated": target.emulated,
        "description": target.description,
        "model_sha256": target.identity.model_hash.hex(),
        "build_id": target.identity.build_id.hex(),
        "regions": len(regions),
        "requested_seconds": seconds,
        "seconds": status.seconds,
        "inferences": status.inferences,
        "throughput": status.throughput,
        "mismatches": status.mismatches,
        "out_of_bound": status.out_of_bound,
        "flipped_top1": status.flipped,
        "worst_error": status.worst_error,
        "worst_error_share_of_bound": status.worst_ratio,
        "worst_region": status.worst_region,
        "inputs": status.inputs,
        "counter": {
            "unit": target.counter,
            "min": status.count_min,
            "mean": status.count_sum / status.inferences if counted else None,
            "max": status.count_max,
        },
        "stack": {"high_water_bytes": metrics.stack_high_water, "size_bytes": metrics.stack_size} if metrics else None,
        "link": session.link(),
        "host_resident_bytes": {  # of this process after the first batch, at most, and after the last
            "first": status.resident_first,
            "largest": status.resident_largest,
            "last": status.resident_bytes,
        },
    }


def draw(regions: Sequence[CertifiedRegion], count: int, rng: np.random.Generator) -> tuple[list[int], Float32Array]:
    """Indices of regions, and float32 inputs (count, T, D) inside them."""
    chosen = [int(index) for index in rng.integers(len(regions), size=count)]
    values = []
    for number, index in enumerate(chosen):
        region = regions[index]
        share = rng.random(region.lo.shape)
        if number % 4 == 3:
            share = np.round(share)
        values.append(region.at(share))
    return chosen, np.stack(values)


def _check_subject(target: Target, network: IntegerNetwork, build_id: str | None, status: SoakStatus) -> None:
    if target.identity.model_hash.hex() != network.sha256:
        _fail(status, "wrong model on the device")
    if build_id is not None and target.identity.build_id.hex() != build_id:
        _fail(status, "wrong build on the device")


def _batch(
    session: Session,
    network: IntegerNetwork,
    float_network: FloatNetwork,
    regions: Sequence[CertifiedRegion],
    rng: np.random.Generator,
    status: SoakStatus,
    limit: float,
) -> None:
    from codesign.network import evaluate
    from codesign.semantics import dequantize, quantize_input, simulate

    chosen, x = draw(regions, BATCH, rng)
    q = quantize_input(network, x)
    reference = simulate(network, q).reshape(BATCH, -1)
    real = evaluate(float_network, x).reshape(BATCH, -1)
    classes = network.output.shape[-1]
    for index in range(BATCH):
        output, count = session.infer(status.inferences, q[index])
        status.inferences += 1
        if count is not None:
            status.count_min = count if status.count_min is None else min(status.count_min, count)
            status.count_max = max(status.count_max or 0, count)
            status.count_sum += count
        region = regions[chosen[index]]
        exact = bool(np.array_equal(output, reference[index]))
        if not exact:
            status.mismatches += 1
            _keep_input(status, region, x[index], "not bit-exact")
            if output.shape != reference[index].shape:
                raise DeviceError(f"the device returned {output.size} outputs instead of {reference[index].size}")
        value = dequantize(network.output, output)
        error = np.abs(value - real[index])
        if exact:
            _require_as_certified(region, x[index], value, real[index], classes)
        if not np.all(error <= region.bound):
            status.out_of_bound += 1
            _keep_input(status, region, x[index], "outside the certified bound")
        if region.top1 == "proved" and classes > 1:
            device, wanted = (np.argmax(v.reshape(-1, classes), axis=1) for v in (value, real[index]))
            if not np.array_equal(device, wanted):
                status.flipped += 1
                _keep_input(status, region, x[index], "another top-1 class than certified")
        status.worst_error = max(status.worst_error, float(error.max()))
        ratio = _ratio(error, region.bound)
        if ratio > status.worst_ratio:
            status.worst_ratio, status.worst_region = ratio, region.name
        if time.monotonic() >= limit:
            return


def _require_as_certified(
    region: CertifiedRegion, x: Float32Array, value: npt.NDArray[np.float64], real: npt.NDArray[np.float64],
    classes: int,
) -> None:  # fmt: skip
    """SoundnessAlarm where the device computes what it should and the certificate does not hold."""

    def evidence() -> dict[str, Any]:
        return {"region": region.name, "input": x, "device": value, "float": real}

    where = f"an input of region '{region.name}', bit-exact on the device"
    require_within(f"{where}: |device - float| of an output", np.abs(value - real), region.bound, evidence)
    device, wanted = (np.argmax(v.reshape(-1, classes), axis=1) for v in (value, real))
    flipped = region.top1 == "proved" and not np.array_equal(device, wanted)
    require_never(f"{where}, is of another top-1 class than certified", flipped, evidence)


def _ratio(error: npt.NDArray[np.float64], bound: npt.NDArray[np.float64]) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.where(error == 0, 0.0, error / bound)))


def _keep_input(status: SoakStatus, region: CertifiedRegion, x: Float32Array, what: str) -> None:
    if len(status.inputs) < _KEPT_INPUTS:
        number = status.inferences - 1
        status.inputs.append({"inference": number, "region": region.name, "what": what, "input": x.tolist()})


def _count_failures(status: SoakStatus) -> None:
    for count, what in (
        (status.mismatches, "not bit-exact with the reference"),
        (status.out_of_bound, "outside the certified bound"),
        (status.flipped, "of another top-1 class than certified"),
    ):
        if count:
            _fail(status, f"{count} of {status.inferences} answers {'is' if count == 1 else 'are'} {what}")


def _fail(status: SoakStatus, text: str) -> None:
    if len(status.failures) < _KEPT_FAILURES:
        status.failures.append(text)


def _resident_bytes() -> int:
    """Of this process; 0 where the system does not tell."""
    import os

    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
