"""What a certificate states of float32 programs holds at least what is derived here."""

from __future__ import annotations

from functools import partial

import numpy as np

from codesign.checker import Claims
from codesign.checker.claims import at_least
from codesign.checker.forms import Array, Box, Symbols
from codesign.checker.replay import Bounds
from codesign.checker.result import demand, same
from codesign.checker.solver import Facts, Margins
from codesign.float32_checker.domain import DomainErrors
from codesign.float32_checker.errors import LstmErrors, Vector, forward, replayed
from codesign.network.model import Lstm
from codesign.proof.float32 import MODEL
from codesign.quantization.integer import QuantizedTensor

ON_GRID = 1 + 2.0**-22  # inputs of grid regions are rounded to float32


def check_float32(claims: Claims, rows: slice, b: Bounds, facts: Facts) -> Bounds:
    """The bounds of some regions with margins that hold for the float32 evaluation of the float network.

    Invalid where a region states a smaller budget than the one derived.
    """
    same("float32_model", claims.document["float32_model"], MODEL)
    logits, outputs = _errors(claims, rows, len(b.logits.margins), facts)
    dequantized = dequantization(claims.integers[0].output)
    for k, region in enumerate(claims.regions[rows]):
        stated, name = region["float32"], f"region {rows.start + k} ('{region['id']}')/float32"
        at_least(f"{name}/evaluation", stated["evaluation"], outputs[k])
        at_least(f"{name}/logits", stated["logits"], logits[k])
        at_least(f"{name}/dequantization", stated["dequantization"], np.full(outputs.shape[1], dequantized))
    whole = claims.document.get("all_inputs")
    if whole is not None:
        device = 0.0 if b.softmax else dequantized
        total = (b.logits.difference.mag[0] + logits[0] + device) * (1 + 2.0**-50)
        at_least("all_inputs/total_logit_bound", whole["total_logit_bound"], total)
        least = np.asarray(whole["logit_bound"]) + region_logits(claims) + device
        at_least("all_inputs/total_logit_bound (the sum)", whole["total_logit_bound"], least)
    return b._replace(logits=b.logits._replace(margins=_widened(b.logits.margins, logits)))


def region_logits(claims: Claims) -> Array:
    """What the one region of a domain states of its logits."""
    return np.asarray(claims.regions[0]["float32"]["logits"], dtype=np.float64)


def dequantization(output: QuantizedTensor) -> float:
    """The largest rounding of scale * (q - zero_point) in float32, over all integers of the type."""
    steps = np.arange(output.q_min - output.zero_point, output.q_max - output.zero_point + 1)
    exact = output.scale * steps  # 24 bits times 17
    rounded = np.multiply(np.float32(output.scale), steps.astype(np.float32), dtype=np.float32)
    return float(np.abs(rounded - exact).max())


def _widened(margins: tuple[Margins, ...], logits: Array) -> tuple[Margins, ...]:
    found, start = [], 0
    for m in margins:
        count = m.value.lo.shape[1]
        own, start = logits[:, start : start + count], start + count
        slack = (own[:, :, None] + own[:, None, :]) * ~np.eye(count, dtype=bool) * (1 + 1e-12)
        found.append(m._replace(value=m.value.widen(slack), difference=m.difference.widen(slack)))
    return tuple(found)


def _errors(claims: Claims, rows: slice, count: int, facts: Facts) -> tuple[Array, Array]:
    """Of logits and of outputs, (B, outputs) each: `errors.forward`."""
    whole, network = claims.document.get("all_inputs"), claims.network
    size = Box(claims.proof.lo[rows], claims.proof.hi[rows]).mag
    size = np.where(claims.on_grid[rows][:, None, None], size * ON_GRID, size)
    inputs = [Vector(x, 0.0 * x) for x in np.moveaxis(size, 1, 0)]
    found = []
    if whole is None or whole["joint"]:
        noted = iter(facts.ranges)

        def zonotope(layer: Lstm, vectors: list[Vector]) -> list[Vector]:
            return LstmErrors(layer).run(vectors, replayed(layer, len(vectors), noted))

        found.append(forward(network, inputs, zonotope, False, count))
    if whole is not None:
        domain, any_length = DomainErrors(claims, facts), whole["any_length"]
        polygons = partial(domain.lstm, symbols=Symbols())
        first = inputs[: 1 if any_length else None]
        found.append(forward(network, first, polygons, any_length, count, domain.follow))
        demand(next(domain.stated, None) is None, "all_inputs/float32_states: more than layers")
    logits, outputs = (np.minimum.reduce(sides) for sides in zip(*found, strict=True))
    return logits, outputs
