"""Certifies a pair of networks over a list of regions: bounds, proofs, adversarial search, verdicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Literal

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.network.model import FloatNetwork
from codesign.quantization.integer import IntegerNetwork
from codesign.verification.abstract import abstract_lower
from codesign.verification.affine import Array, Box, require_round_to_nearest
from codesign.verification.align import align
from codesign.verification.audit import ProofMode, ProofSummary, discharge
from codesign.verification.propagate import Enclosure, propagate, top1_proved
from codesign.verification.regions import Region
from codesign.verification.relaxation import Recorder
from codesign.verification.search import SearchResult, search
from codesign.verification.trace import Trace, published, traces

Status = Literal["proved", "refuted", "unknown"]
METHOD = "joint differential zonotope"
BATCH = 4  # regions propagated together; fixed, so that results do not depend on the number of processes


@dataclass(frozen=True)
class Criteria:
    """What has to be proved: |integer - float| <= epsilon on every output, equal top-1 class on a share of regions."""

    epsilon: float | None = None
    top1_share: float | None = None

    def __post_init__(self) -> None:
        if self.epsilon is not None and not (np.isfinite(self.epsilon) and self.epsilon >= 0):
            raise InputError(f"epsilon {self.epsilon} is not a bound; give --epsilon E with E at least 0")
        if self.top1_share is not None and not 0 <= self.top1_share <= 1:
            raise InputError(f"the top-1 share {self.top1_share} is not between 0 and 1; give for example 0.8")


@dataclass(frozen=True)
class Options:
    """Parameters of a run. `evaluations`: exact ones per region in the adversarial search."""

    criteria: Criteria = Criteria()
    seed: int = 0
    jobs: int = 1
    evaluations: int = 1000
    proof: ProofMode = "audit"
    audit_sample: int = 25  # obligations per batch of regions
    prover: str = "auto"


@dataclass(frozen=True, eq=False)
class RegionResult:
    """One region: certified bounds, what was observed, and verdicts.

    `lower`, `upper`: certified range of integer - float for each output; `bound` the larger magnitude. `logit_bound`
    is the same before a final softmax, `abstract` the abstract model's worst case from below, on the logits.
    `output_lo`, `output_hi`: certified range of the float network's outputs.
    """

    region: Region
    lower: Array
    upper: Array
    logit_bound: Array
    output_lo: Array
    output_hi: Array
    top1: Status
    top1_class: int | None
    epsilon: Status | None
    reason: str
    sources: dict[str, float]
    found: SearchResult
    abstract: Array | None
    seconds: float
    trace: Trace | None = None  # None: the run cannot be replayed

    @property
    def bound(self) -> Array:
        return np.maximum(-self.lower, self.upper)

    @property
    def bound_max(self) -> float:
        return float(self.bound.max())

    def to_json(self) -> dict[str, object]:
        return {
            "id": self.region.name,
            "radius": self.region.radius,
            "bound": self.bound.tolist(),
            "bound_max": self.bound_max,
            "difference_lo": self.lower.tolist(),
            "difference_hi": self.upper.tolist(),
            "logit_bound": self.logit_bound.tolist(),
            "float_lo": self.output_lo.tolist(),
            "float_hi": self.output_hi.tolist(),
            "observed_max": self.found.error,
            "abstract_lower": None if self.abstract is None else float(self.abstract.max()),
            "observed": self.found.per_output.tolist(),
            "evaluations": self.found.evaluations,
            "top1": self.top1,
            "top1_class": self.top1_class,
            "epsilon": self.epsilon,
            "reason": self.reason,
            "sources": self.sources,
            "counterexample": self._counterexample(),
            "seconds": self.seconds,
        }

    def _counterexample(self) -> dict[str, object] | None:
        """The input that refutes a criterion; the exact outputs can be recomputed from it."""
        if self.top1 == "refuted" and self.found.disagreement is not None:
            return {"criterion": "top1", "input": self.found.disagreement.tolist()}
        if self.epsilon == "refuted":
            return {"criterion": "epsilon", "input": self.found.worst.tolist()}
        return None


@dataclass(frozen=True, eq=False)
class Certification:
    """Everything a certificate states; `counted[k]` says whether region k counts for the top-1 share."""

    float_network: FloatNetwork
    integer_network: IntegerNetwork
    regions: tuple[RegionResult, ...]
    counted: tuple[bool, ...]
    options: Options
    proof: ProofSummary
    profiles: tuple[str, ...]
    seconds: float

    def _share(self, statuses: Sequence[Status]) -> float:
        chosen = [r.top1 in statuses for r, c in zip(self.regions, self.counted, strict=True) if c]
        return float(np.mean(chosen)) if chosen else 0.0

    @property
    def top1_share(self) -> float:
        """Share of counted regions with a proved equal top-1 class."""
        return self._share(("proved",))

    @property
    def epsilon_verdict(self) -> Status | None:
        if self.options.criteria.epsilon is None:
            return None
        return _weakest([r.epsilon or "unknown" for r in self.regions])

    @property
    def top1_verdict(self) -> Status | None:
        wanted = self.options.criteria.top1_share
        if wanted is None:
            return None
        if self.top1_share >= wanted:
            return "proved"
        return "unknown" if self._share(("proved", "unknown")) >= wanted else "refuted"

    @property
    def verdict(self) -> Status:
        """Of the criteria asked for; with none asked, of 'the same top-1 class on every region'.

        A bound whose proof obligations were not all discharged proves nothing.
        """
        asked = [v for v in (self.epsilon_verdict, self.top1_verdict) if v is not None]
        verdict = _weakest(asked or [r.top1 for r in self.regions])
        return "unknown" if verdict == "proved" and not self.proof.ok else verdict


def _weakest(statuses: Sequence[Status]) -> Status:
    order: tuple[Status, ...] = ("refuted", "unknown")
    for status in order:
        if status in statuses:
            return status
    return "proved"


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
    finished since the last call. Deterministic for a seed, whatever `jobs` is.
    Raises InputError where the two networks do not belong together or there is no region.
    """
    if not regions:
        raise InputError("there is no region to certify; give at least one sample")
    options = options or Options()
    align(float_network, integer_network)
    started = time.monotonic()
    tasks = [
        _Task(float_network, integer_network, tuple(variants), tuple(regions[k : k + BATCH]), options, k // BATCH)
        for k in range(0, len(regions), BATCH)
    ]
    results: list[RegionResult] = []
    proof = ProofSummary(options.proof)
    for part, summary in _run(tasks, options.jobs):
        results.extend(part)
        proof.merge(summary)
        if on_progress is not None:
            on_progress(len(part))
    flags = np.ones(len(regions), bool) if counted is None else np.asarray(counted, bool)
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


def _run(tasks: Sequence[_Task], jobs: int) -> Iterator[tuple[list[RegionResult], ProofSummary]]:
    if jobs <= 1 or len(tasks) == 1:
        yield from map(_certify_batch, tasks)
        return
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=get_context("spawn")) as executor:
        yield from executor.map(_certify_batch, tasks)


def _certify_batch(task: _Task) -> tuple[list[RegionResult], ProofSummary]:
    from threadpoolctl import threadpool_limits

    require_round_to_nearest()
    options = task.options
    rng = np.random.default_rng([options.seed, task.index])
    started = time.process_time()
    recorder = Recorder()
    with threadpool_limits(1):
        stages = align(task.float_network, task.integer_network)
        enclosure = propagate(stages, task.integer_network, task.regions, recorder, task.variants)
        spent = (time.process_time() - started) / len(task.regions)
        summary = discharge(recorder.batches, options.proof, options.audit_sample, options.prover, rng)
        choices = traces(recorder.batches, enclosure.resets, len(task.regions))
        del recorder
        proved, classes = top1_proved(enclosure)
        results = []
        for k, region in enumerate(task.regions):
            found = search(task.float_network, task.integer_network, region, rng, options.evaluations)
            lower = abstract_lower(stages, task.integer_network, region, rng)
            result = _judge(region, k, enclosure, bool(proved[k]), classes[k], found, lower, options, spent)
            results.append(replace(result, trace=choices[k]))
    return results, summary


def _judge(
    region: Region, k: int, enclosure: Enclosure, top1: bool, classes: npt.NDArray[np.intp], found: SearchResult,
    abstract: Array | None, options: Options, seconds: float,
) -> RegionResult:  # fmt: skip
    difference, logits, output = (
        published(Box(box.lo[k], box.hi[k]))
        for box in (enclosure.output_difference, enclosure.logit_difference, enclosure.output)
    )
    lower, upper = difference.lo, difference.hi
    bound = float(np.maximum(-lower, upper).max())
    logit = np.maximum(-logits.lo, logits.hi)
    top1_status: Status = "proved" if top1 else "refuted" if found.disagreement is not None else "unknown"
    epsilon = options.criteria.epsilon
    epsilon_status: Status | None = None
    if epsilon is not None:
        epsilon_status = "proved" if bound <= epsilon else "refuted" if found.error > epsilon else "unknown"
    return RegionResult(
        region, lower, upper, logit, output.lo, output.hi, top1_status,
        int(classes[0]) if top1 and len(classes) == 1 else None, epsilon_status,
        _reason(top1_status, epsilon_status, enclosure, k), enclosure.sources[k], found, abstract, seconds,
    )  # fmt: skip


def _reason(top1: Status, epsilon: Status | None, enclosure: Enclosure, k: int) -> str:
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
