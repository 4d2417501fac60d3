"""The cross-check: every sample on the device against the exact integer simulation and the certified bounds."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.hil.divergence import compare_trace, find_divergence
from codesign.hil.journal import optional_journal
from codesign.hil.protocol import DeviceError, Metrics, UnsupportedError
from codesign.hil.result import HilResult
from codesign.hil.session import Recovery, Session
from codesign.hil.streams import Stream, requests_of, run_stream, stream_failures
from codesign.hil.target import Target
from codesign.network.model import FloatNetwork
from codesign.quantization.integer import ActivationArray, IntegerNetwork
from codesign.soundness import require_never, require_within

FORMAT = "codesign-hil-1"
FLAG_CLOCK_FALLBACK = 0x0001
Progress = Callable[[int, int], None]  # samples done, samples in all
_NAMED_SAMPLES = 5


@dataclass(frozen=True)
class _Region:
    """What holds at one sample: the least of its certified bounds, float64 (outputs,); the word on its top-1."""

    bound: npt.NDArray[np.float64] | None = None
    top1: str | None = None


@dataclass
class _Findings:
    failures: list[str] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    traces: list[dict[str, Any]] = field(default_factory=list)
    untraced: str | None = None
    streams: list[dict[str, Any]] = field(default_factory=list)
    divergence: dict[str, Any] | None = None
    quantize_checked: int = 0
    quantize_equal: int = 0


def cross_check(
    target: Target,
    network: IntegerNetwork,
    float_network: FloatNetwork,
    x: npt.NDArray[np.float32],
    labels: Sequence[int | None] | npt.NDArray[Any] | None = None,
    regions: Sequence[Mapping[str, Any]] | None = None,
    build_id: bytes | str | None = None,
    traced_samples: int = 1,
    quantized_samples: int = 3,
    progress: Progress | None = None,
    journal: Path | None = None,
    resume: bool = False,
    recovery: Recovery | None = None,
    streams: Sequence[Stream] = (),
) -> HilResult:
    """Send every sample of x, float32 (N, T, D), to the target and compare.

    Checked: the device's model hash and `build_id` (16 bytes, or their hex digits) against the artifacts; each output
    against `codesign.semantics.simulate`, bit for bit; |device - float| at the network's output against the certified
    bounds; top-1 where it is certified; the device's own input quantisation for the first `quantized_samples`; its
    hidden states, step by step, for the first `traced_samples`; that the first sample gives the same answer at the end.
    The first output that differs is traced to the first diverging layer, step and unit.

    `regions` are mappings with 'sample' (an index into x, or None: holds for every sample), 'output_bound' (one number
    an output, flattened, or None) and 'top1' ('proved', 'refuted' or 'unknown', or None). Returns the content of
    hil.json; what failed is in 'failures', also when the device dies on the way. Raises InputError on inputs that do
    not fit, and SoundnessAlarm where an output that is bit-exact is not as certified: there is no result then. A label
    may be None where an input has none.

    `streams` are run after the samples, each from the reset state and without another reset (`codesign.hil.streams`).

    Every answer is appended to the file `journal` as it arrives; with `resume` those of an interrupted run of the same
    artifacts and samples are not asked for again. A device that is lost on the way is got back as `recovery` says; the
    result's 'link' tells what happened.
    """
    started = time.time()
    x = _checked_inputs(network, x)
    tags = _checked_labels(labels, len(x))
    streams = [stream.checked(network) for stream in streams]
    holds = _by_sample(regions or (), len(x), int(np.prod(network.output.shape)))
    found = _Findings()
    run = {
        "int8_sha256": network.sha256,
        "float_sha256": float_network.sha256,
        "board": target.identity.board,
        "build_id": target.identity.build_id.hex(),
        "device_model": target.identity.model_hash.hex(),
        "emulated": target.emulated,
        "counter": target.counter,
        "samples_sha256": hashlib.sha256(x.tobytes() + json.dumps(tags).encode()).hexdigest(),
        "traced_samples": traced_samples,
        "quantized_samples": quantized_samples,
        "streams_sha256": [stream.digest() for stream in streams],
    }
    with optional_journal(journal, run, resume) as answers:
        session = Session(target, answers, recovery)
        comparable = _check_identity(target, network, build_id, found.failures)
        metrics = None
        if comparable:
            try:
                _run(
                    session, network, float_network, x, tags, holds, traced_samples, quantized_samples, progress, found,
                    streams,
                )  # fmt: skip
            except DeviceError as error:
                found.failures.append(str(error))
            metrics = _metrics(session, found.failures)
            if metrics is not None:
                _confirm_identity(session, found.failures)
    _judge(found, len(x), len(streams))
    identity = target.identity
    return {
        "format": FORMAT,
        "verdict": "FAIL" if found.failures else "PASS",
        "failures": found.failures,
        "target": {
            "board": identity.board,
            "port": target.port,
            "emulated": target.emulated,
            "description": target.description,
            "clock_hz": identity.clock_hz,
            "clock_fallback": bool(identity.flags & FLAG_CLOCK_FALLBACK),
            "model_sha256": identity.model_hash.hex(),
            "build_id": identity.build_id.hex(),
        },
        "counter": _counter(target, found.samples),
        "stack": {"high_water_bytes": metrics.stack_high_water, "size_bytes": metrics.stack_size} if metrics else None,
        "bad_frames": metrics.bad_frames if metrics else None,
        "summary": _summary(found, len(x)),
        "samples": found.samples,
        "traces": found.traces,
        "untraced": found.untraced,
        "streams": found.streams,
        "divergence": found.divergence,
        "link": session.link(),
        "seconds": time.time() - started,
    }


def _confirm_identity(session: Session, failures: list[str]) -> None:
    """Last of all: whatever answered before was the device that the run began with."""
    try:
        session.confirm_identity()
    except DeviceError as error:
        if str(error) not in failures:
            failures.append(str(error))


def _metrics(session: Session, failures: list[str]) -> Metrics | None:
    try:
        metrics = session.metrics()
    except DeviceError as error:
        failures.append(f"no metrics: {error}")
        return None
    if metrics.stack_high_water >= metrics.stack_size:
        failures.append(f"the firmware used all of its stack ({metrics.stack_size} bytes): it may have overflowed")
    if metrics.invocations < session.answered:
        session.note(
            "metrics",
            None,
            f"the device was reset on the way: it has counted {metrics.invocations} of {session.answered} inferences",
        )
    return metrics


def _check_identity(target: Target, network: IntegerNetwork, build_id: bytes | str | None, failures: list[str]) -> bool:
    """Note what differs; True where the shapes agree, so that running the samples still tells something."""
    identity = target.identity
    if identity.model_hash.hex() != network.sha256:
        failures.append(
            f"wrong model on the device: its hash is {identity.model_hash.hex()[:16]}..., "
            f"that of the model is {network.sha256[:16]}..."
        )
    expected = build_id if isinstance(build_id, str) else build_id.hex() if build_id is not None else None
    if expected is not None and identity.build_id.hex() != expected:
        failures.append(
            f"wrong build on the device: its id is {identity.build_id.hex()}, that of the firmware is {expected}"
        )
    steps, features = network.input.shape
    shape = (identity.steps, identity.features, identity.input_size, identity.output_size)
    wanted = (steps, features, steps * features, int(np.prod(network.output.shape)))
    if identity.activations != network.activations:
        failures.append(f"the device's model takes {identity.activations} values, the model {network.activations}")
        return False
    if shape != wanted:
        failures.append(f"the device's model has shape (steps, features, inputs, outputs) {shape}, the model {wanted}")
    return shape == wanted


def _run(
    session: Session,
    network: IntegerNetwork,
    float_network: FloatNetwork,
    x: npt.NDArray[np.float32],
    labels: list[int | None] | None,
    holds: list[_Region],
    traced_samples: int,
    quantized_samples: int,
    progress: Progress | None,
    found: _Findings,
    streams: Sequence[Stream],
) -> None:
    from codesign.network import evaluate
    from codesign.semantics import dequantize, quantize_input, simulate

    q = quantize_input(network, x)
    reference = simulate(network, q).reshape(len(x), -1)
    real = evaluate(float_network, x).reshape(len(x), -1)
    if real.shape != reference.shape:
        raise InputError(
            f"the float model has {real.shape[1]} outputs and the integer model {reference.shape[1]}; "
            "they are not the same network"
        )
    classes = network.output.shape[-1]
    _check_quantisation(session, x[:quantized_samples], q, found)
    for index in range(min(traced_samples, len(x))):

        def traced(index: int = index) -> dict[str, Any]:
            try:
                trace = session.target.device.trace(q[index])
            except UnsupportedError as error:
                return {"trace": {"layers": []}, "problem": None, "untraced": str(error)}
            record, problem = compare_trace(network, float_network, x[index], q[index], trace)
            return {"trace": record, "problem": problem}

        traced_record = session.record("trace", index, traced, _is_trace)
        found.untraced = traced_record.get("untraced")
        if found.untraced is not None:
            break
        found.traces.append({"sample": index, **traced_record["trace"]})
        if traced_record["problem"]:
            found.failures.append(f"sample {index}: {traced_record['problem']}")
    first: ActivationArray | None = None
    total = len(x) + sum(requests_of(stream, session, network) for stream in streams)
    for index in range(len(x)):
        output, count = session.infer(index, q[index])
        if output.shape != reference[index].shape:
            raise DeviceError(f"the device returned {output.size} outputs instead of {reference[index].size}")
        first = output if first is None else first
        exact = bool(np.array_equal(output, reference[index]))
        if not exact and found.divergence is None:

            def diverging(index: int = index) -> dict[str, Any]:
                return {"divergence": find_divergence(session.target.device, network, q[index])}

            found.divergence = {
                "sample": index,
                **session.record("divergence", index, diverging, _is_divergence)["divergence"],
            }
        value = dequantize(network.output, output)
        told = _against_region(value, real[index], holds[index], classes)
        if exact:
            _require_as_certified(told, value, real[index], x[index], index)
        found.samples.append(
            {
                "index": index,
                "label": labels[index] if labels else None,
                "device": value.tolist(),
                "float": real[index].tolist(),
                "bit_exact": exact,
                "max_error": float(np.max(np.abs(value - real[index]))),
                **told,
                "count": count,
            }
        )
        if progress:
            progress(index + 1, total)
    done = len(x)

    def advance() -> None:
        nonlocal done
        done = min(done + 1, total)
        if progress:
            progress(done, total)

    for number, stream in enumerate(streams):
        found.streams.append(run_stream(session, network, float_network, number, stream, advance))
    if session.reused:
        session.rehearse(x[0], q[0], bool(found.traces), bool(found.quantize_checked), bool(found.streams))
    if not np.array_equal(session.repeat(0, q[0]), np.asarray(first)):
        found.failures.append("sample 0 gives another output when sent again: the device keeps state between inputs")


def _check_quantisation(session: Session, x: npt.NDArray[np.float32], q: ActivationArray, found: _Findings) -> None:
    for index, values in enumerate(x):
        if 4 * values.size > 0xFFFF:
            return  # does not fit a frame; such models take quantized inputs only
        found.quantize_checked += 1
        device = session.quantize(index, values)
        if np.array_equal(device, q[index]):
            found.quantize_equal += 1
            continue
        step, feature = (int(i) for i in np.argwhere(device != q[index])[0])
        found.failures.append(
            f"sample {index}: the device quantises x[{step}, {feature}] = {values[step, feature]!r} to "
            f"{device[step, feature]}, the rule gives {q[index][step, feature]}"
        )


def _against_region(
    value: npt.NDArray[np.float64], real: npt.NDArray[np.float64], region: _Region, classes: int
) -> dict[str, Any]:
    within = None
    if region.bound is not None:
        # Written so that a NaN on either side counts as a violation.
        within = bool(np.all(np.abs(value - real) <= region.bound))
    top1 = None
    if classes > 1:
        chosen = [np.argmax(v.reshape(-1, classes), axis=1).tolist() for v in (value, real)]
        top1 = {"device": chosen[0], "float": chosen[1], "equal": chosen[0] == chosen[1], "certified": region.top1}
    return {
        "bound": region.bound.tolist() if region.bound is not None else None,
        "within_bound": within,
        "top1": top1,
    }


def _require_as_certified(
    told: Mapping[str, Any], value: npt.NDArray[np.float64], real: npt.NDArray[np.float64], x: npt.NDArray[np.float32],
    index: int,
) -> None:  # fmt: skip
    """SoundnessAlarm where the device computes what it should and the certificate does not hold: it is not at fault."""

    def evidence() -> dict[str, Any]:
        return {"sample": index, "input": x, "device": value, "float": real, "top1": told["top1"]}

    where = f"sample {index}, bit-exact on the device"
    if told["bound"] is not None:
        require_within(f"{where}: |device - float| of an output", np.abs(value - real), told["bound"], evidence)
    top1 = told["top1"]
    flipped = top1 is not None and top1["certified"] == "proved" and not top1["equal"]
    require_never(f"{where}, is of another top-1 class than certified", flipped, evidence)


def _judge(found: _Findings, total: int, streams: int) -> None:
    samples, failures = found.samples, found.failures
    wrong = [s["index"] for s in samples if not s["bit_exact"]]
    if wrong:
        where = f"; {found.divergence['text']}" if found.divergence else ""
        failures.append(f"{_some(wrong, total)} not bit-exact with the reference{where}")
    outside = [s["index"] for s in samples if s["within_bound"] is False]
    if outside:
        failures.append(f"{_some(outside, total)} outside the certified bound")
    flipped = [
        s["index"] for s in samples if s["top1"] and s["top1"]["certified"] == "proved" and not s["top1"]["equal"]
    ]
    if flipped:
        failures.append(f"{_some(flipped, total)} of another top-1 class than certified")
    for record in found.streams:
        failures.extend(stream_failures(record))
    if len(found.streams) < streams and not failures:
        failures.append(f"only {len(found.streams)} of {streams} streams were run")
    if len(samples) < total and not failures:
        failures.append(f"only {len(samples)} of {total} samples were run")


def _some(indices: list[int], total: int) -> str:
    named = ", ".join(str(i) for i in indices[:_NAMED_SAMPLES])
    more = ", ..." if len(indices) > _NAMED_SAMPLES else ""
    return f"{len(indices)} of {total} samples ({named}{more}) {'is' if len(indices) == 1 else 'are'}"


def _summary(found: _Findings, total: int) -> dict[str, Any]:
    samples = found.samples
    proved = [s["top1"] for s in samples if s["top1"] and s["top1"]["certified"] == "proved"]
    return {
        "requested": total,
        "samples": len(samples),
        "bit_exact": sum(s["bit_exact"] for s in samples),
        "with_bound": sum(s["bound"] is not None for s in samples),
        "within_bound": sum(s["within_bound"] is True for s in samples),
        "top1_proved": len(proved),
        "top1_as_certified": sum(t["equal"] for t in proved),
        "max_error": max((s["max_error"] for s in samples), default=None),
        "quantize_checked": found.quantize_checked,
        "quantize_equal": found.quantize_equal,
        "stream_steps": sum(s["steps"] for s in found.streams),
    }


def _counter(target: Target, samples: list[dict[str, Any]]) -> dict[str, Any]:
    counts = [s["count"] for s in samples if s["count"] is not None]
    result: dict[str, Any] = {"unit": target.counter, "granularity": target.granularity}
    result.update(min=None, median=None, max=None)
    if counts:
        result.update(min=min(counts), median=statistics.median(counts), max=max(counts))
    return result


def _is_trace(record: dict[str, Any]) -> bool:
    """Whether a journal's record of a trace is one; hil.json's schema looks at the details."""
    return isinstance(record.get("trace"), dict) and isinstance(record.get("problem"), (str, type(None)))


def _is_divergence(record: dict[str, Any]) -> bool:
    found = record.get("divergence")
    return isinstance(found, dict) and isinstance(found.get("text"), str)


def _checked_inputs(network: IntegerNetwork, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    values = np.asarray(x, dtype=np.float32)
    if values.ndim != 3 or values.shape[1:] != network.input.shape or not len(values):
        raise InputError(
            f"the samples have shape {values.shape}; the model takes (N, {network.input.shape[0]}, "
            f"{network.input.shape[1]}) with N at least 1"
        )
    if not np.all(np.isfinite(values)):
        raise InputError("the samples contain NaN or infinity; remove those samples")
    return values


def _checked_labels(labels: Sequence[int | None] | npt.NDArray[Any] | None, count: int) -> list[int | None] | None:
    if labels is None:
        return None
    result = [None if label is None else int(label) for label in labels]
    if len(result) != count:
        raise InputError(f"there are {len(result)} labels for {count} samples")
    return result


def _by_sample(regions: Sequence[Mapping[str, Any]], count: int, outputs: int) -> list[_Region]:
    holds = [_Region() for _ in range(count)]
    for region in regions:
        sample, bound, top1 = region.get("sample"), region.get("output_bound"), region.get("top1")
        if sample is not None and not 0 <= sample < count:
            raise InputError(f"a region names sample {sample}, but there are {count} samples")
        new = None if bound is None else np.asarray(bound, np.float64).reshape(-1)
        if new is not None and new.shape != (outputs,):
            raise InputError(f"a region has {new.size} bounds for {outputs} outputs")
        if new is not None and not np.all(np.isfinite(new)):
            raise InputError("a region's bound is not a finite number; leave the bound out where there is none")
        for index in range(count) if sample is None else (sample,):
            old = holds[index]
            both = [b for b in (old.bound, new) if b is not None]
            merged = np.minimum.reduce(both) if both else None
            holds[index] = _Region(merged, "proved" if "proved" in (old.top1, top1) else top1 or old.top1)
    return holds
