"""Certifies the whole input domain: the comparison system's bounds in a certification, and the statement users get."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.network import evaluate
from codesign.proof.float32 import total_bound
from codesign.proof.ranges import says_nothing
from codesign.proof.statement import ALL_INPUTS_METHOD, all_inputs_statement, sentences
from codesign.proof.thresholds import opposite
from codesign.quantization.align import align
from codesign.quantization.integer import ActivationArray, IntegerNetwork
from codesign.quantization.rescaling import effective_network
from codesign.semantics import dequantize, quantize, quantize_input, simulate
from codesign.semantics.streams import float_stream, integer_stream
from codesign.soundness import require_never, require_within
from codesign.verification.affine import Array, Box, require_round_to_nearest
from codesign.verification.audit import discharge
from codesign.verification.certify import Certification
from codesign.verification.criteria import Flags, Status, proofs
from codesign.verification.domain import DomainEnclosure, covered, enclose_domain
from codesign.verification.facts import facts
from codesign.verification.float32_domain import domain_budget
from codesign.verification.norms import class_margins
from codesign.verification.propagate import in_float32, top1_proved
from codesign.verification.relaxation import Recorder
from codesign.verification.results import Float32, Options, RegionResult, has_classes
from codesign.verification.same_class import same_class_margin
from codesign.verification.thresholds import covered as same_sides
from codesign.verification.trace import MARGIN_ROOM, RELATIVE_ROOM, Trace, published, traces

STREAMS, STREAM_STEPS = 32, 1000
_AUDIT = 1 << 20  # a stream of random numbers of its own


@dataclass(frozen=True, eq=False)
class AllInputs:
    """A certificate over the domain. `covered`: samples (N,) whose class is proved equal; None without samples or
    classes. `thresholds`: what is stated of each: its hysteresis, and the samples that are on one side of it.

    `joint`: the region's bounds are the tighter of the comparison system's and the joint zonotope's. `margin`: of the
    float logits, above which the class is the same (inf: none). `vacuous`: `codesign.proof.ranges.says_nothing`.
    `float32` (outputs,): what is added to the logits' bound; `float32_states`: `codesign.verification.float32_budget`.
    """

    domain: DomainEnclosure
    any_length: bool
    margin: float
    covered: npt.NDArray[np.bool_] | None
    stream_error: float | None
    joint: bool = False
    samples_sha256: str | None = None
    vacuous: bool = False
    samples: int | None = None
    thresholds: tuple[dict[str, Any], ...] = ()
    float32: Array = field(default_factory=lambda: np.zeros(1))
    float32_states: tuple[Array | None, ...] = ()

    @property
    def logit_bound(self) -> Array:
        """As it is stated, with room for a checker's rounding."""
        bound = self.domain.logit_bound
        return published(Box(-bound, bound)).hi

    @property
    def total_logit_bound(self) -> Array:
        """With what float32 adds."""
        return total_bound(self.logit_bound, self.float32)

    @property
    def bound(self) -> float:
        return float(self.total_logit_bound.max())

    def to_json(self) -> dict[str, Any]:
        share = None if self.covered is None else float(self.covered.mean())
        data = {
            "method": ALL_INPUTS_METHOD,
            "any_length": self.any_length,
            "joint": self.joint,
            "logit_bound": self.logit_bound.tolist(),
            "total_logit_bound": self.total_logit_bound.tolist(),
            "float32_states": [None if s is None else s.tolist() for s in self.float32_states],
            "vacuous": self.vacuous,
            "same_class_margin": self.margin if np.isfinite(self.margin) else None,
            "covered_share": share,
            "covered_samples": None if self.covered is None else int(self.covered.sum()),
            "samples": self.samples,
            "thresholds": list(self.thresholds) or None,
            "samples_sha256": self.samples_sha256,
            "contraction": [c.to_json() for c in self.domain.contractions],
            "stream_error": self.stream_error,
        }
        return {"statement": all_inputs_statement(data), **data}

    def describe(self, document: dict[str, Any]) -> dict[str, Any]:
        """The certificate's document with this statement in it."""
        claim = sentences(document["regions"], self.any_length)
        return {**document, **claim, "method": ALL_INPUTS_METHOD, "all_inputs": self.to_json()}

    def statement(self) -> str:
        """What the certificate says, in words."""
        return str(self.to_json()["statement"])


def all_inputs(
    certification: Certification,
    variants: Sequence[IntegerNetwork],
    samples: npt.NDArray[np.float32] | None,
    any_length: bool,
) -> tuple[Certification, AllInputs]:
    """The certification of one domain region with the comparison system's bounds, and what it states of all inputs.

    For a fixed number of steps the tighter of its bounds and the zonotope's counts. `samples` (N, T, D): for the
    covered share. InputError where a layer is not supported, CodesignError where no bound for any number of steps
    exists.
    """
    require_round_to_nearest()
    result = certification.regions[0]
    network = effective_network(certification.integer_network)
    stages = align(certification.float_network, network)
    others = [effective_network(v) for v in variants]
    recorder = Recorder()
    domain = enclose_domain(stages, network, result.region, others, any_length, recorder)
    lo, hi = result.region.lo, result.region.hi
    single = domain_budget(certification.float_network, lo, hi, any_length, recorder)
    float32 = Float32(single.output[0], single.logits[0], result.float32.dequantization)
    domain = replace(domain, enclosure=in_float32(domain.enclosure, single.logits))
    at_logits = float32.logits + (0.0 if domain.softmax is not None else float32.dequantization)
    options = certification.options
    kept = proofs(options.criteria, domain.enclosure.margins, domain.softmax, recorder)
    classes = top1_proved(domain.enclosure)[1]
    named = has_classes(network, options)
    told: tuple[dict[str, float | int], ...] = ()
    margin = np.inf
    if named:
        told = class_margins(domain.enclosure.margins, domain.enclosure.output_margins, classes[0], 0, recorder)
        bound = published(Box(-domain.logit_bound, domain.logit_bound)).hi
        margin = (
            same_class_margin(domain, total_bound(bound, at_logits), recorder) * (1 + 4 * RELATIVE_ROOM) + MARGIN_ROOM
        )
    rng = np.random.default_rng([options.seed, _AUDIT])
    second = 10 * options.second_sample  # there is one batch only
    proof = discharge(recorder.batches, options.proof, options.audit_sample, options.prover, rng, second)
    # The zonotope is about one number of steps, and is left out where it adds nothing: there is less to check then.
    joint = result.trace is not None and options.method == "zonotope" and _adds(result, domain, kept)
    alone = any_length or not joint
    if not alone:
        proof.merge(certification.proof)
        float32 = float32.least(result.float32)
    changed = _judged(result, domain, options, kept, told, alone, network.output.shape[-1], float32)
    share = None
    if samples is not None and len(samples):
        exact = evaluate(certification.float_network, samples, logits=True).reshape(len(samples), -1)
        inside = ((samples >= result.region.lo) & (samples <= result.region.hi)).all((1, 2))
        share = covered(domain, exact) & inside if named else None
        _observe(certification, changed, samples, exact, inside, share, margin)
    limits = _limits(certification, changed, samples)
    error = stream_error(certification, changed) if any_length else None
    count = None if samples is None else len(samples)
    stated = AllInputs(
        domain,
        any_length,
        margin,
        share,
        error,
        not alone,
        _digest(samples),
        samples=count,
        thresholds=limits,
        float32=float32.logits + (0.0 if domain.softmax is not None else float32.dequantization),
        float32_states=single.states,
    )
    return (
        replace(certification, regions=(changed,), proof=proof),
        replace(stated, vacuous=says_nothing(stated.to_json(), certification.ranges[0], network.output.shape[-1])),
    )


def _observe(
    certification: Certification, told: RegionResult, samples: npt.NDArray[np.float32], logits: Array, inside: Flags,
    share: Flags | None, margin: float,
) -> None:  # fmt: skip
    """SoundnessAlarm where a sample of the domain is further off, or of another class, than what is told of all inputs.

    `logits` (N, M): the float network's at the samples; `share` (N,): those whose class is told to be equal,
    None where outputs are no classes.
    """
    if not inside.any():
        return
    network = certification.integer_network
    outputs = dequantize(network.output, simulate(network, quantize_input(network, samples))).reshape(len(samples), -1)
    error = np.abs(outputs - evaluate(certification.float_network, samples).reshape(len(samples), -1))
    worst = int(np.argmax(np.where(inside[:, None], error - told.bound, -np.inf).max(1)))
    require_within(
        "the domain: |integer - float| at a sample", error[worst], told.bound, lambda: {"input": samples[worst]}
    )
    if logits.shape[1] == network.output.shape[-1] > 1:
        ordered = np.sort(logits, axis=1)
        promised = (False if share is None else share) | (inside & (ordered[:, -1] - ordered[:, -2] > margin))
        flipped = promised & (outputs.argmax(1) != logits.argmax(1))
        require_never(
            "the domain: a sample is told to keep its class, and the integer network gives another",
            bool(flipped.any()),
            lambda: {"input": samples[int(np.argmax(flipped))], "margin": margin},
        )


def _adds(result: RegionResult, domain: DomainEnclosure, kept: dict[str, Flags]) -> bool:
    """Whether the zonotope has a tighter bound somewhere than the comparison system, or proves more."""
    e = domain.enclosure
    difference, logits = published(e.output_difference), published(e.logit_difference)
    tighter = (result.lower > difference.lo[0]).any() or (result.upper < difference.hi[0]).any()
    logit = np.maximum(-logits.lo[0], logits.hi[0])
    proved: list[tuple[Status | None, bool]] = [(result.top1, bool(top1_proved(e)[0][0]))]
    proved += [(status, bool(kept[name][0])) for name, status in result.orders.items() if name in kept]
    more = any(status == "proved" and not flag for status, flag in proved)
    return bool(tighter or (result.logit_bound < logit).any() or more)


def _judged(
    result: RegionResult, domain: DomainEnclosure, options: Options, kept: dict[str, Flags],
    margins: tuple[dict[str, float | int], ...], alone: bool, width: int, float32: Float32,
) -> RegionResult:  # fmt: skip
    """The region's bounds, statuses and facts: by the comparison system, and unless `alone` by the zonotope as well.

    `kept`: order criteria that the comparison system proves, `margins`: those of a class that it tells.
    """
    e = domain.enclosure
    difference, output, logits = (published(box) for box in (e.output_difference, e.output, e.logit_difference))
    logit = np.maximum(-logits.lo[0], logits.hi[0])
    if not alone:
        difference = difference.meet(result.lower[None], result.upper[None])
        output = output.meet(result.output_lo[None], result.output_hi[None])
        logit = np.minimum(logit, result.logit_bound)
    bound = np.maximum(-difference.lo[0], difference.hi[0])
    criteria, epsilon = options.criteria, result.epsilon
    if criteria.epsilon is not None and epsilon != "refuted":
        total = total_bound(bound, float32.evaluation, float32.dequantization)
        epsilon = "proved" if float(total.max()) <= criteria.epsilon else "unknown"
    proved, classes = top1_proved(e)
    orders = {
        name: _status(bool(kept[name][0]), status, alone) for name, status in result.orders.items() if name in kept
    }
    top1 = None if result.top1 is None else _status(bool(proved[0]), result.top1, alone)
    known = result.top1_class if top1 == "proved" else None
    if proved[0] and top1 is not None:
        known = int(classes[0][0]) if len(classes[0]) == 1 else None
    told = facts(e, 0, bound, logit, margins)
    if not alone:
        before = result.facts
        told = replace(
            before, norms=told.norms.least(before.norms), logit_norms=told.logit_norms.least(before.logit_norms),
            output_step_bound=told.output_step_bound,
        )  # fmt: skip
    trace = Trace((), np.zeros(0), np.zeros(0, bool)) if alone or result.trace is None else result.trace
    first = traces(domain.planes, (), 1)[0]
    trace = Trace(first.steps + trace.steps, np.concatenate([first.slopes, trace.slopes]), trace.resets, domain.states)
    changed = replace(
        result, lower=difference.lo[0], upper=difference.hi[0], logit_bound=logit, output_lo=output.lo[0],
        output_hi=output.hi[0], epsilon=epsilon, sources=e.sources[0], reason=_reason(top1, epsilon), orders=orders,
        top1=top1, top1_class=known, facts=told,
        trace=trace, float32=float32,
    )  # fmt: skip
    return changed.with_thresholds(criteria, width)


def _limits(
    certification: Certification, told: RegionResult, samples: npt.NDArray[np.float32] | None
) -> tuple[dict[str, Any], ...]:
    """What is stated of each threshold: the band over the domain, and how many samples are on one side for certain.

    SoundnessAlarm where the integer network is on the other side for one of these.
    """
    found: list[dict[str, Any]] = []
    network = certification.integer_network
    for limit in told.thresholds:
        count = None
        if samples is not None and len(samples):
            inside = ((samples >= told.region.lo) & (samples <= told.region.hi)).all((1, 2))
            real, error = (
                evaluate(certification.float_network, samples).reshape(len(samples), -1),
                told.float32.evaluation,
            )
            moved = Box(told.lower, told.upper).widen(total_bound(error, told.float32.dequantization))
            kept = inside & same_sides(limit.threshold, real, moved, network.output.shape[-1], error)
            device = dequantize(network.output, simulate(network, quantize_input(network, samples)))
            shape = (len(samples), -1, network.output.shape[-1])
            apart = opposite(limit.threshold.to_json(), real.reshape(shape), device.reshape(shape)).any((1, 2))
            require_never(
                f"the domain: a sample is told to be on the same side of {limit.threshold}, and it is not",
                bool((kept & apart).any()),
                partial(_shown, samples, kept & apart),
            )
            count = int(kept.sum())
        count = 0 if samples is not None and count is None else count
        found.append({**limit.threshold.to_json(), "hysteresis": limit.hysteresis, "covered_samples": count})
    return tuple(found)


def _shown(samples: npt.NDArray[np.float32], wrong: Flags) -> dict[str, Any]:
    return {"input": samples[int(np.argmax(wrong))]}


def _status(proved: bool, before: Status, alone: bool) -> Status:
    """A status by the comparison system, given the zonotope's, which does not count where the system stands alone."""
    if proved or before == "refuted":
        return "proved" if proved else "refuted"
    return "unknown" if alone else before


def _digest(samples: npt.NDArray[np.float32] | None) -> str | None:
    """SHA-256 of the samples that a covered share is about."""
    return None if samples is None else hashlib.sha256(np.ascontiguousarray(samples, "<f4").tobytes()).hexdigest()


def _reason(top1: str | None, epsilon: str | None) -> str:
    if top1 == "unknown" and epsilon != "unknown":
        return (
            "over the whole domain the float model's own class changes; see all_inputs for the inputs that are covered"
        )
    return "" if epsilon != "unknown" else "the bound over all inputs is wider than epsilon"


def stream_error(certification: Certification, told: RegionResult) -> float:
    """Largest difference of an output seen on random streams with corners: an observation, not a bound.

    SoundnessAlarm where it exceeds the bound that is told.
    """
    seed, region = certification.options.seed, told.region
    rng = np.random.default_rng(seed)
    gap = stream_gap(certification, Box(region.lo[0], region.hi[0]), STREAMS, STREAM_STEPS, rng)
    require_within(
        "the domain: |integer - float| in a stream", gap, told.bound.reshape(-1, len(gap)).min(0),
        lambda: {"streams": STREAMS, "steps": STREAM_STEPS, "seed": seed, "lo": region.lo[0], "hi": region.hi[0]},
    )  # fmt: skip
    return float(gap.max())


def stream_gap(certification: Certification, domain: Box, streams: int, steps: int, rng: np.random.Generator) -> Array:
    """Largest |integer - float| of every output over `streams` streams of `steps` inputs, (outputs,)."""
    x = stream_inputs(domain, streams, steps, rng)
    integer = integer_stream(certification.integer_network, quantized_stream(certification.integer_network, x))
    real = dequantize(certification.integer_network.output, integer)
    return np.asarray(np.abs(real - float_stream(certification.float_network, x)).max((0, 1)))


def quantized_stream(network: IntegerNetwork, x: npt.NDArray[np.float32]) -> ActivationArray:
    """Streams (B, L, D) by the input quantisation rule."""
    return quantize(network.input, x)


def stream_inputs(domain: Box, streams: int, steps: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Streams (B, L, D) that hold corners, noise, and constants for random times: float32 values inside the domain."""
    lo, hi = float_ends(domain)
    uniform = rng.random((streams, steps, len(lo)), np.float32)
    corner = (uniform < 0.5).astype(np.float32)
    hold = rng.random((streams, steps)) < rng.choice([0.02, 0.2, 1.0], size=(streams, 1))
    hold[:, 0] = True
    index = np.maximum.accumulate(np.where(hold, np.arange(steps), 0), axis=1)
    pick = rng.random((streams, steps, 1)) < rng.choice([0.1, 0.5, 0.9], size=(streams, 1, 1))
    mixed = np.where(pick, corner, uniform)
    held = np.take_along_axis(mixed, index[:, :, None], axis=1)
    result: npt.NDArray[np.float32] = np.clip(lo + (hi - lo) * held, lo, hi).astype(np.float32)
    return result


def float_ends(domain: Box) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The smallest and largest float32 values inside the domain, per feature."""
    lo, hi = domain.lo.astype(np.float32), domain.hi.astype(np.float32)
    lo = np.where(lo < domain.lo, np.nextafter(lo, np.float32(np.inf)), lo)
    hi = np.where(hi > domain.hi, np.nextafter(hi, np.float32(-np.inf)), hi)
    return lo.astype(np.float32), hi.astype(np.float32)
