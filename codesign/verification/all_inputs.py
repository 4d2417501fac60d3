"""Certifies the whole input domain: the comparison system's bounds in a certification, and the statement users get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.network import evaluate
from codesign.quantization.integer import ActivationArray, IntegerNetwork
from codesign.semantics import dequantize, quantize
from codesign.verification.affine import Array, Box, require_round_to_nearest
from codesign.verification.align import align
from codesign.verification.certify import Certification
from codesign.verification.domain import DomainEnclosure, covered, enclose_domain
from codesign.verification.regions import Region
from codesign.verification.rescaling import effective_network
from codesign.verification.streams import float_stream, integer_stream

METHOD = "elementwise comparison system over the domain"
STREAMS, STREAM_STEPS = 32, 1000


@dataclass(frozen=True, eq=False)
class AllInputs:
    """A certificate over the domain. `covered`: samples (N,) whose class is proved equal; None without samples."""

    domain: DomainEnclosure
    any_length: bool
    covered: npt.NDArray[np.bool_] | None
    stream_error: float | None

    @property
    def bound(self) -> float:
        return float(self.domain.logit_bound.max())

    def to_json(self) -> dict[str, Any]:
        share = None if self.covered is None else float(self.covered.mean())
        return {
            "statement": self.statement(),
            "method": METHOD,
            "any_length": self.any_length,
            "logit_bound": self.domain.logit_bound.tolist(),
            "covered_share": share,
            "covered_samples": None if self.covered is None else int(self.covered.sum()),
            "samples": None if self.covered is None else len(self.covered),
            "contraction": [c.to_json() for c in self.domain.contractions],
            "stream_error": self.stream_error,
        }

    def describe(self, document: dict[str, Any]) -> dict[str, Any]:
        """The certificate's document with this statement in it."""
        claim = str(document["claim"])
        if self.any_length:
            claim = claim.replace("every float32 input inside", "every sequence of any number of float32 inputs inside")
        return {**document, "method": METHOD, "claim": claim, "all_inputs": self.to_json()}

    def statement(self) -> str:
        """What the certificate says, in words."""
        inputs = "every sequence of inputs of any length" if self.any_length else "every possible input"
        share = ""
        if self.covered is not None:
            share = f" ({100 * float(self.covered.mean()):.1f} % of the {len(self.covered)} samples)"
        return (
            f"for {inputs} of the domain the board's logits are within {self.bound:.4g} of the float model's; wherever "
            f"the float model's margin exceeds {2 * self.bound:.4g} the class is the same{share}"
        )


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
    domain = enclose_domain(stages, network, result.region, others, any_length)
    e = domain.enclosure
    difference, output = e.output_difference, e.output
    logit = domain.logit_bound
    if not any_length:
        difference = difference.meet(result.lower[None], result.upper[None])
        output = output.meet(result.output_lo[None], result.output_hi[None])
        logit = np.minimum(logit, result.logit_bound)
    bound = float(np.maximum(-difference.lo, difference.hi).max())
    epsilon, status = certification.options.criteria.epsilon, result.epsilon
    if epsilon is not None and status != "refuted":
        status = "proved" if bound <= epsilon else "unknown"
    changed = replace(
        result, lower=difference.lo[0], upper=difference.hi[0], logit_bound=logit, output_lo=output.lo[0],
        output_hi=output.hi[0], epsilon=status, sources=e.sources[0], reason=_reason(result.top1, status),
        trace=None,
    )  # fmt: skip
    share = None
    if samples is not None and len(samples):
        exact = evaluate(certification.float_network, samples, logits=True)
        inside = ((samples >= result.region.lo) & (samples <= result.region.hi)).all((1, 2))
        share = covered(domain, exact.reshape(len(samples), -1)) & inside
    error = stream_error(certification, result.region) if any_length else None
    return replace(certification, regions=(changed,)), AllInputs(domain, any_length, share, error)


def _reason(top1: str, epsilon: str | None) -> str:
    if top1 == "unknown" and epsilon != "unknown":
        return (
            "over the whole domain the float model's own class changes; see all_inputs for the inputs that are covered"
        )
    return "" if epsilon != "unknown" else "the bound over all inputs is wider than epsilon"


def stream_error(certification: Certification, region: Region) -> float:
    """Largest difference of an output seen on random streams with corners: an observation, not a bound."""
    rng = np.random.default_rng(certification.options.seed)
    return float(stream_gap(certification, Box(region.lo[0], region.hi[0]), STREAMS, STREAM_STEPS, rng).max())


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
