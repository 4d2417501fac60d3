"""Certifies a pair of networks over a list of regions: bounds, proofs, adversarial search, verdicts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.network.model import FloatNetwork
from codesign.processes import worker_pool
from codesign.proof.float32 import dequantization_error, total_bound
from codesign.proof.ranges import output_ranges
from codesign.proof.statement import TIME_LIMIT
from codesign.quantization.align import align
from codesign.quantization.integer import IntegerNetwork
from codesign.verification.abstract import abstract_lower
from codesign.verification.affine import Array, Box, require_round_to_nearest
from codesign.verification.audit import ProofSummary, discharge
from codesign.verification.criteria import Criteria, Flags, Status, proofs
from codesign.verification.facts import Facts, facts
from codesign.verification.float32_budget import Budget, budget, recorded
from codesign.verification.journal import Batch, Journal, batch_key
from codesign.verification.norms import Norms, class_margins
from codesign.verification.propagate import Enclosure, in_float32, propagate, top1_proved
from codesign.verification.quadratic_network import require_quadratic, sharpened
from codesign.verification.regions import FLOAT32_UNIT, Region
from codesign.verification.relaxation import Recorder
from codesign.verification.results import Certification, Float32, Options, RegionResult, has_classes
from codesign.verification.search import Search, SearchResult, search
from codesign.verification.trace import published, traces
from codesign.verification.violations import watches

__all__ = ["BATCH", "Certification", "Criteria", "Options", "RegionResult", "Status", "certify"]

BATCH = 4  # regions propagated together; fixed, so that results do not depend on the number of processes


def certify(
    float_network: FloatNetwork,
    integer_network: IntegerNetwork,
    regions: Sequence[Region],
    options: Options | None = None,
    counted: npt.ArrayLike | None = None,
    variants: Sequence[IntegerNetwork] = (),
    on_progress: Callable[[int], None] | None = None,
) -> Certification:
    """Bound |integer - float| over each region, for every input of it.

    `variants` are the same model read with other semantics profiles: the bound then holds for all of them. `counted`
    (N,) bool chooses the regions that count for a top-1 share (default all). `on_progress` gets the number of regions
    finished since the last call. Deterministic for a seed, whatever `jobs` is; regions that a time limit leaves out are
    'unknown' with that reason.
    Raises InputError where the two networks do not belong together or cannot be asked the criteria, where there is no
    region, or where the journal to resume is damaged; SoundnessAlarm where an exact evaluation exceeds a bound.
    """
    if not regions:
        raise InputError("there is no region to certify; give at least one sample")
    options = options or Options()
    stages = align(float_network, integer_network)
    if options.method == "quadratic":
        require_quadratic(stages, integer_network, regions)
    options.criteria.check_outputs(integer_network.output.shape[-1], options.classes)
    flags = np.ones(len(regions), bool) if counted is None else np.asarray(counted, bool)
    if options.criteria.top1_share is not None and not flags.any():
        raise InputError(
            "no region counts for a top-1 share, as the float model classifies none of these samples as labelled; give "
            "more --samples, or right labels 'y'"
        )
    started = time.monotonic()
    tasks = [
        _Task(float_network, integer_network, tuple(variants), tuple(regions[k : k + BATCH]), options, k // BATCH)
        for k in range(0, len(regions), BATCH)
    ]
    results: list[RegionResult] = []
    proof = ProofSummary(options.proof)
    for part, summary in _run(tasks, options, started):
        results.extend(part)
        proof.merge(summary)
        if on_progress is not None:
            on_progress(len(part))
    return Certification(
        float_network,
        integer_network,
        tuple(results),
        tuple(map(bool, flags)),
        options,
        proof,
        (integer_network.profile, *(v.profile for v in variants)),
        time.monotonic() - started,
    )


@dataclass(frozen=True, eq=False)
class _Task:
    float_network: FloatNetwork
    integer_network: IntegerNetwork
    variants: tuple[IntegerNetwork, ...]
    regions: tuple[Region, ...]
    options: Options
    index: int


def _run(tasks: Sequence[_Task], options: Options, started: float) -> Iterator[Batch]:
    """The batches in order: from the journal, computed, or left out once the time is over."""

    def over() -> bool:
        return options.time_limit is not None and time.monotonic() - started >= options.time_limit

    with Journal(options.resume) if options.resume is not None else nullcontext() as journal:
        keys = [_key(task) if journal is not None else "" for task in tasks]

        def finished(index: int) -> Batch | None:
            return None if journal is None else journal.get(keys[index], tasks[index].regions)

        def keep(index: int, batch: Batch) -> Batch:
            if journal is not None:
                journal.put(keys[index], batch)
            return batch

        if options.jobs <= 1 or len(tasks) == 1:
            for k, task in enumerate(tasks):
                yield finished(k) or (_left_out(task) if over() else keep(k, _certify_batch(task)))
            return
        with worker_pool(min(options.jobs, len(tasks))) as executor:
            # One batch more than there are processes: none is idle, and few are under way when the time is over.
            waiting: deque[tuple[int, Future[Batch] | Batch]] = deque()
            running = 0
            for k, task in enumerate(tasks):
                while running > options.jobs or (waiting and not isinstance(waiting[0][1], Future)):
                    first, batch = waiting.popleft()
                    if isinstance(batch, Future):
                        running -= 1
                        batch = keep(first, batch.result())
                    yield batch
                done = finished(k) or (_left_out(task) if over() else None)
                running += done is None
                waiting.append((k, executor.submit(_certify_batch, task) if done is None else done))
            for k, batch in waiting:
                yield keep(k, batch.result()) if isinstance(batch, Future) else batch


def _key(task: _Task) -> str:
    models = (task.float_network.sha256, task.integer_network.sha256)
    return batch_key(models, (task.integer_network, *task.variants), task.options, task.regions, task.index)


def _float32(task: _Task, recorder: Recorder | None) -> Budget:
    """What float32 adds over the regions, given the ranges that a propagation noted; without them, only the trivial."""
    size = np.stack([np.maximum(np.abs(r.lo), np.abs(r.hi)) for r in task.regions]) * (1 + 4 * FLOAT32_UNIT)
    network = task.float_network
    return budget(network, size, None if recorder is None else recorded(network, recorder.batches))


def _left_out(task: _Task) -> Batch:
    """Nothing is proved of these regions but what the output ranges say; their centers are evaluated."""
    stages = align(task.float_network, task.integer_network)
    asked = task.options.criteria
    results = []
    before, after = output_ranges(stages, task.integer_network)
    single, device = _float32(task, None), dequantization_error(task.integer_network.output)
    for k, region in enumerate(task.regions):
        watching = watches(asked, task.float_network)
        run = Search(task.float_network, task.integer_network, region, np.random.default_rng(0))
        run.watches = watching
        run.evaluate(run.region.center[None])
        found = run.result(watching)
        difference, logits, output = (
            published(Box(lo[None], hi[None])) for lo, hi in (after.difference, before.difference, after.real)
        )
        bound, logit = (np.maximum(-box.lo[0], box.hi[0]) for box in (difference, logits))
        top1: Status | None = None
        if has_classes(task.integer_network, task.options):
            top1 = "unknown" if found.disagreement is None else "refuted"
        epsilon: Status | None = None
        if asked.epsilon is not None:
            epsilon = "refuted" if found.error > asked.epsilon else "unknown"
        norms, logit_norms = (Norms.of(b, np.array([np.inf])) for b in (bound, logit))
        result = RegionResult(
            region, difference.lo[0], difference.hi[0], logit, output.lo[0], output.hi[0], top1, None, epsilon,
            TIME_LIMIT, {}, found, None, 0.0, Facts(norms, logit_norms),
            Float32(single.output[k], single.logits[k], device), _orders(asked, {}, 0, found),
        )  # fmt: skip
        results.append(result.with_thresholds(asked, task.integer_network.output.shape[-1]))
    return results, ProofSummary(task.options.proof)


def _certify_batch(task: _Task) -> Batch:
    from threadpoolctl import threadpool_limits

    require_round_to_nearest()
    options, width = task.options, task.integer_network.output.shape[-1]
    rng = np.random.default_rng([options.seed, task.index])
    started = time.process_time()
    recorders = [Recorder()]
    with threadpool_limits(1):
        stages = align(task.float_network, task.integer_network)
        enclosure = propagate(stages, task.integer_network, task.regions, recorders[0], task.variants)
        choices = traces(recorders[0].batches, enclosure.resets, len(task.regions))
        if options.method == "quadratic":
            enclosure, batches, more = sharpened(enclosure, stages, task.integer_network, task.regions, task.variants)
            choices = [first.then(second) for first, second in zip(choices, more, strict=True)]
            recorders.append(Recorder(batches))
            del batches
        single = _float32(task, recorders[0])
        enclosure = in_float32(enclosure, single.logits)
        device = dequantization_error(task.integer_network.output)
        spent = (time.process_time() - started) / len(task.regions)
        asked = options.criteria
        kept = proofs(asked, enclosure.margins, enclosure.softmax, recorders[-1])
        proved, classes = top1_proved(enclosure)
        named = has_classes(task.integer_network, options)
        told = [
            class_margins(enclosure.margins, enclosure.output_margins, classes[k], k, recorders[-1]) if named else ()
            for k in range(len(task.regions))
        ]
        summary = ProofSummary(options.proof)
        while recorders:
            batches = recorders.pop(0).batches
            summary.merge(
                discharge(batches, options.proof, options.audit_sample, options.prover, rng, options.second_sample)
            )
            del batches
        results = []
        for k, region in enumerate(task.regions):
            float32 = Float32(single.output[k], single.logits[k], device)
            watching = watches(asked, task.float_network)  # those that are proved as well: nothing may violate them
            found = search(task.float_network, task.integer_network, region, rng, options.evaluations, watches=watching)
            lower = abstract_lower(stages, task.integer_network, region, rng)
            result = _judge(
                region,
                k,
                enclosure,
                bool(proved[k]),
                classes[k] if named else None,
                told[k],
                found,
                lower,
                options,
                spent,
                float32,
            )
            result = replace(result, orders=_orders(asked, kept, k, found)).with_thresholds(asked, width)
            undecided = "unknown" in result.orders.values()
            reason = result.reason or (_reason("unknown", None, enclosure, k) if undecided else "")
            results.append(replace(result, reason=reason, trace=choices[k]))
    return results, summary


def _orders(asked: Criteria, proved: dict[str, Flags], k: int, found: SearchResult) -> dict[str, Status]:
    """The status of each order criterion asked for, in region `k` of its batch."""
    statuses: dict[str, Status] = {}
    for name, value in asked.orders().items():
        if value is not None:
            kept = name in proved and bool(proved[name][k])
            statuses[name] = "proved" if kept else "refuted" if name in found.violations else "unknown"
    return statuses


def _judge(
    region: Region, k: int, enclosure: Enclosure, top1: bool, classes: npt.NDArray[np.intp] | None,
    margins: tuple[dict[str, float | int], ...], found: SearchResult, abstract: Array | None, options: Options,
    seconds: float, float32: Float32,
) -> RegionResult:  # fmt: skip
    difference, logits, output = (
        published(Box(box.lo[k], box.hi[k]))
        for box in (enclosure.output_difference, enclosure.logit_difference, enclosure.output)
    )
    lower, upper = difference.lo, difference.hi
    bound = float(total_bound(np.maximum(-lower, upper), float32.evaluation, float32.dequantization).max())
    logit = np.maximum(-logits.lo, logits.hi)
    top1_status: Status | None = None
    if classes is not None:
        top1_status = "proved" if top1 else "refuted" if found.disagreement is not None else "unknown"
    epsilon = options.criteria.epsilon
    epsilon_status: Status | None = None
    if epsilon is not None:
        epsilon_status = "proved" if bound <= epsilon else "refuted" if found.error > epsilon else "unknown"
    return RegionResult(
        region, lower, upper, logit, output.lo, output.hi, top1_status,
        int(classes[0]) if classes is not None and top1 and len(classes) == 1 else None, epsilon_status,
        _reason(top1_status, epsilon_status, enclosure, k), enclosure.sources[k], found, abstract, seconds,
        facts(enclosure, k, np.maximum(-lower, upper), logit, margins), float32,
    )  # fmt: skip


def _reason(top1: Status | None, epsilon: Status | None, enclosure: Enclosure, k: int) -> str:
    """Why something is unknown: one sentence, '' where nothing is."""
    if top1 != "unknown" and epsilon != "unknown":
        return ""
    sources = enclosure.sources[k]
    total = sum(sources.values())
    if sources.get("reset", 0.0) > 0.3 * total:
        return "the relaxation diverges over this region (its affine forms fell back to intervals)"
    float_margin = min(
        float(np.where(np.eye(m.value.lo.shape[1], dtype=bool), np.inf, m.value.lo[k]).min(1).max())
        for m in enclosure.margins
    )
    if top1 == "unknown" and float_margin <= 0:
        return "the float model itself is not proved to keep one class over this region"
    widest = max(sources, key=lambda name: sources[name]) if sources else "none"
    return f"the bound is wider than the margin; its largest part comes from: {widest}"
