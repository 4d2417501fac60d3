"""The certificate's own bound, of the integer network that an export for the domain amounts to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codesign.errors import CodesignError
from codesign.network import FloatNetwork, evaluate
from codesign.quantization import IntegerNetwork
from codesign.quantization.align import align
from codesign.quantization.rescaling import effective_network
from codesign.semantics import dequantize, quantize_input, simulate
from codesign.soundness import require_within
from codesign.training.bound import BoundModel
from codesign.training.emulate import emulate
from codesign.verification.affine import Box
from codesign.verification.all_inputs import stream_inputs
from codesign.verification.domain import DomainEnclosure, covered, enclose_domain
from codesign.verification.regions import Region, domain_region

_OBSERVED = 64  # inputs evaluated beside every bound


@dataclass(frozen=True)
class Measured:
    """Largest certified logit difference (inf: none), accuracy, and share of samples with the class proved equal: None
    for one output, which is no class."""

    bound: float
    accuracy: float | None
    covered: float | None


def _enclose(network: FloatNetwork, bound: BoundModel) -> tuple[IntegerNetwork, DomainEnclosure]:
    features = network.input_shape[1]
    domain = (
        np.broadcast_to(np.asarray(bound.low, np.float64), features).copy(),
        np.broadcast_to(np.asarray(bound.high, np.float64), features).copy(),
    )
    exported = emulate(network, domain, bound.activations, bound.steps)
    integer = effective_network(exported)
    region = domain_region(domain, network.input_shape[0])
    found = enclose_domain(align(network, integer), integer, region, any_length=bound.steps is None)
    _observe(network, exported, region, found)
    return integer, found


def _observe(network: FloatNetwork, integer: IntegerNetwork, region: Region, found: DomainEnclosure) -> None:
    """SoundnessAlarm where inputs of the domain, corners among them, are further off than the certified bound."""
    x = stream_inputs(Box(region.lo[0], region.hi[0]), _OBSERVED, network.input_shape[0], np.random.default_rng(0))
    outputs = dequantize(integer.output, simulate(integer, quantize_input(integer, x))).reshape(len(x), -1)
    error = np.abs(outputs - evaluate(network, x).reshape(len(x), -1))
    box = found.enclosure.output_difference
    worst = int(error.max(1).argmax())
    require_within(
        "training's certified bound: |integer - float| of an output", error.max(0), np.maximum(-box.lo[0], box.hi[0]),
        lambda: {"input": x[worst]},
    )  # fmt: skip


def certified_bound(network: FloatNetwork, bound: BoundModel) -> float:
    """Largest certified |integer - float| of a logit; inf where there is none. SoundnessAlarm where it is exceeded."""
    try:
        return float(_enclose(network, bound)[1].logit_bound.max())
    except CodesignError:
        return math.inf


def measure(network: FloatNetwork, bound: BoundModel, x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> Measured:
    """Bound, float accuracy and covered share on samples x (N, T, D), labels y (N,)."""
    logits = evaluate(network, x, logits=True)
    classes = logits.shape[1] > 1
    accuracy = float(np.mean(logits.argmax(1) == y)) if classes else None
    try:
        _, domain = _enclose(network, bound)
    except CodesignError:
        return Measured(math.inf, accuracy, 0.0 if classes else None)
    share = float(covered(domain, logits).mean()) if classes else None
    return Measured(float(domain.logit_bound.max()), accuracy, share)
