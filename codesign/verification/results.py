"""Options and results of a certification."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from codesign.errors import InputError
from codesign.network.model import FloatNetwork
from codesign.proof.float32 import region_ends, total_bound
from codesign.proof.ranges import Ranges, output_ranges
from codesign.proof.statement import conclusions
from codesign.quantization.align import align
from codesign.quantization.integer import IntegerNetwork
from codesign.soundness import require_never, require_within
from codesign.verification.affine import Array, Box
from codesign.verification.audit import ProofMode, ProofSummary
from codesign.verification.criteria import ORDER_CRITERIA, THRESHOLDS, Criteria, Status
from codesign.verification.facts import Facts
from codesign.verification.regions import Region
from codesign.verification.search import Float32Array, SearchResult
from codesign.verification.thresholds import ThresholdResult, judge
from codesign.verification.trace import Trace

Method = Literal["zonotope", "quadratic"]


@dataclass(frozen=True)
class Options:
    """Parameters of a run. `evaluations`: exact ones per region in the adversarial search.

    `method` 'quadratic' adds quadratic zonotopes to the joint zonotope: tighter, slower, for short sequences.
    `classes`: whether the outputs of a row are scores of classes, so that 'the same class' means something; one output
    never is. No batch of regions is started after `time_limit` seconds. `resume`: a journal of finished batches, to go
    on from.
    """

    criteria: Criteria = field(default_factory=Criteria)
    seed: int = 0
    jobs: int = 1
    evaluations: int = 1000
    proof: ProofMode = "all"
    audit_sample: int = 25  # obligations per batch of regions, of an audit
    second_sample: int = 10  # obligations per batch that dReal proves besides, where it can be run
    prover: str = "auto"
    time_limit: float | None = None
    resume: Path | None = None
    method: Method = "zonotope"
    classes: bool = True

    def __post_init__(self) -> None:
        if self.time_limit is not None and not (np.isfinite(self.time_limit) and self.time_limit >= 0):
            raise InputError(f"the time limit {self.time_limit} is not a time; give --time-limit SECONDS, at least 0")


@dataclass(frozen=True, eq=False)
class Float32:
    """Budgets (outputs,) of a region: of the float network's evaluation, of its outputs and for comparing its logits;
    and of the device's dequantisation."""

    evaluation: Array
    logits: Array
    dequantization: float

    def least(self, other: Float32) -> Float32:
        """The smaller budgets of two."""
        evaluation, logits = (
            np.minimum(*both) for both in ((self.evaluation, other.evaluation), (self.logits, other.logits))
        )
        return Float32(evaluation, logits, self.dequantization)

    def to_json(self) -> dict[str, Any]:
        return {
            "evaluation": self.evaluation.tolist(),
            "logits": self.logits.tolist(),
            "dequantization": [self.dequantization] * len(self.evaluation),
        }


@dataclass(frozen=True, eq=False)
class RegionResult:
    """One region: certified bounds, what was observed, and verdicts.

    `lower`, `upper`: certified range of integer - float for each output; `bound` the larger magnitude. `logit_bound`
    is the same before a final softmax, `abstract` the abstract model's worst case from below, on the logits.
    `output_lo`, `output_hi`: certified range of the float network's outputs. `orders`: status of each order criterion
    and threshold that was asked for. `top1` is None where outputs are no classes. `reason`: why something is unknown.
    `thresholds`: what is certified of each.
    """

    region: Region
    lower: Array
    upper: Array
    logit_bound: Array
    output_lo: Array
    output_hi: Array
    top1: Status | None
    top1_class: int | None
    epsilon: Status | None
    reason: str
    sources: dict[str, float]
    found: SearchResult
    abstract: Array | None
    seconds: float
    facts: Facts
    float32: Float32
    orders: dict[str, Status] = field(default_factory=dict)
    trace: Trace | None = None  # None: the run cannot be replayed
    thresholds: tuple[ThresholdResult, ...] = ()

    def __post_init__(self) -> None:
        """No result exists whose search beats it, whatever method made its bounds: SoundnessAlarm."""
        found, name = self.found, f"region '{self.region.name}'"

        def evidence(x: Float32Array | None = found.worst) -> dict[str, Any]:
            told = {key: getattr(self, key) for key in ("lower", "upper", "logit_bound", "output_lo", "output_hi")}
            box = {"center": self.region.center, "lo": self.region.lo, "hi": self.region.hi}
            return {"region": {**self.region.describe(), **box}, "input": x, "derived": told}

        require_within(f"{name}: |integer - float| of an output", found.per_output, self.bound, evidence)
        require_within(f"{name}: |integer - float|", found.error, self.bound.max(), evidence)
        require_within(
            f"{name}: |integer - float| before the softmax", found.logit_error, self.logit_bound.max(), evidence
        )
        if found.float_range is not None:
            lowest, highest = found.float_range
            require_within(f"{name}: minus a float output", -lowest, -self.output_lo, evidence)
            require_within(f"{name}: a float output", highest, self.output_hi, evidence)
        broken = dict(found.violations)
        if found.disagreement is not None:
            broken["top1"] = found.disagreement
        for criterion, status in {**self.orders, "top1": self.top1}.items():
            require_never(
                f"{name}: criterion {criterion} was derived to hold, and an exact evaluation violates it",
                status == "proved" and criterion in broken,
                partial(evidence, broken.get(criterion)),
            )

    @property
    def bound(self) -> Array:
        return np.maximum(-self.lower, self.upper)

    @property
    def total_bound(self) -> Array:
        """With what float32 adds: `codesign.proof.float32`."""
        return total_bound(self.bound, self.float32.evaluation, self.float32.dequantization)

    @property
    def bound_max(self) -> float:
        return float(self.bound.max())

    def with_thresholds(self, criteria: Criteria, width: int) -> RegionResult:
        """With what these bounds say of each threshold, `width` outputs a row; and the status of each."""
        lo, hi, down, rise = region_ends(self._outputs())
        real, difference = Box(lo, hi), Box(down, rise)
        found = {name: judge(t, real, difference, width) for name, t in criteria.limits().items()}
        orders: dict[str, Status] = {
            name: "proved" if t.proved else "refuted" if name in self.found.violations else "unknown"
            for name, t in found.items()
        }
        return replace(self, orders={**self.orders, **orders}, thresholds=tuple(found.values()))

    def _outputs(self) -> dict[str, Any]:
        """What is stated of the outputs."""
        return {
            "bound": self.bound.tolist(),
            "bound_max": self.bound_max,
            "float32": self.float32.to_json(),
            "total_bound": self.total_bound.tolist(),
            "total_bound_max": float(self.total_bound.max()),
            "difference_lo": self.lower.tolist(),
            "difference_hi": self.upper.tolist(),
            "logit_bound": self.logit_bound.tolist(),
            "float_lo": self.output_lo.tolist(),
            "float_hi": self.output_hi.tolist(),
        }

    def to_json(self) -> dict[str, object]:
        return {
            **self.region.describe(),
            **self._outputs(),
            "observed_max": self.found.error,
            "observed_logit_max": self.found.logit_error,
            "abstract_lower": None if self.abstract is None else float(self.abstract.max()),
            "observed": self.found.per_output.tolist(),
            "evaluations": self.found.evaluations,
            "top1": self.top1,
            "top1_class": self.top1_class,
            "epsilon": self.epsilon,
            **{name: self.orders.get(name) for name in ORDER_CRITERIA},
            THRESHOLDS: [t.to_json(self.orders[f"{THRESHOLDS}/{k}"]) for k, t in enumerate(self.thresholds)] or None,
            **self.facts.to_json(),
            "reason": self.reason,
            "sources": self.sources,
            "counterexample": next(iter(self.counterexamples()), None),
            "counterexamples": self.counterexamples(),
            "seconds": self.seconds,
        }

    def counterexamples(self) -> list[dict[str, object]]:
        """An input for each refuted criterion; the exact outputs can be recomputed from it."""
        found: list[dict[str, object]] = []
        if self.top1 == "refuted" and self.found.disagreement is not None:
            found.append({"criterion": "top1", "input": self.found.disagreement.tolist()})
        if self.epsilon == "refuted":
            found.append({"criterion": "epsilon", "input": self.found.worst.tolist()})
        for name, status in self.orders.items():
            if status == "refuted":
                found.append({"criterion": name, "input": self.found.violations[name].tolist()})
        return found


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

    @cached_property
    def ranges(self) -> tuple[Ranges, Ranges]:
        """Of the logits and of the outputs, whatever the input is."""
        return output_ranges(align(self.float_network, self.integer_network), self.integer_network)

    def region_entries(self) -> list[dict[str, Any]]:
        """The regions as the certificate has them."""
        return [
            {**r.to_json(), "vacuous": self.ranges[1].vacuous(r.total_bound), "counted": counted}
            for r, counted in zip(self.regions, self.counted, strict=True)
        ]

    @cached_property
    def _conclusions(self) -> dict[str, dict[str, Any]]:
        told = {"regions": self.region_entries(), "criteria": self.options.criteria.to_json()}
        return conclusions({**told, "proof": self.proof.to_json()})

    @property
    def verdict(self) -> str:
        """'proved', 'refuted', 'unknown' or 'vacuous' (`codesign.proof.statement.conclusions`)."""
        return str(self._conclusions[""]["verdict"])

    def criterion_verdict(self, name: str) -> Status | None:
        """Of 'epsilon', 'top1', 'top1_above', 'topk', 'ranking' or 'thresholds'; None where it was not asked for."""
        found: Status | None = self._conclusions["criteria"][f"{name}_verdict"]
        return found

    @property
    def top1_share(self) -> float | None:
        """Share of counted regions with a proved equal top-1 class; None where outputs are no classes."""
        found: float | None = self._conclusions["summary"]["top1_share"]
        return found


def has_classes(network: IntegerNetwork, options: Options) -> bool:
    """Whether a row of outputs are the scores of classes: several, and not said to be values."""
    return options.classes and network.output.shape[-1] > 1
