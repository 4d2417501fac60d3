"""Counterexamples, and samples covered: single inputs, evaluated exactly under every profile."""

from __future__ import annotations

from typing import Any

import numpy as np

from codesign.checker import Claims
from codesign.checker.claims import same_side
from codesign.checker.result import demand, same
from codesign.network import evaluate, without_final_softmax
from codesign.network.model import Float32Array
from codesign.proof.statement import refutes, statuses
from codesign.semantics import dequantize, quantize_input, simulate

CLEAR = 1e-9  # of an evaluation in binary64, relative


def check_inputs(claims: Claims, samples: Float32Array | None) -> tuple[str, ...]:
    """Names of what was not derived, for want of the `samples` (N, T, D) that it is about. Invalid for the first item
    that is wrong."""
    for k, region in enumerate(claims.regions):
        check_refuted(claims, k, f"region {k} ('{region['id']}')")
    whole = claims.document.get("all_inputs")
    return () if whole is None else check_covered(claims, whole, samples)


def check_refuted(claims: Claims, k: int, name: str) -> None:
    """Every criterion stated as refuted has a counterexample that refutes it, by exact evaluation."""
    region = claims.regions[k]
    listed = region.get("counterexamples") or ([region["counterexample"]] if region["counterexample"] else [])
    same(f"{name}/counterexample", region["counterexample"], next(iter(listed), None))
    stated = {criterion for criterion, status in statuses(region).items() if status == "refuted"}
    same(f"{name}: criteria with counterexamples", sorted(stated), sorted(example["criterion"] for example in listed))
    criteria, shape = claims.document["criteria"], claims.network.input_shape
    for criterion, values in ((example["criterion"], example["input"]) for example in listed):
        shaped, net = [*map(len, values)] == [shape[1]] * shape[0], claims.integers[0]
        x = np.array(values if shaped else np.nan).astype(np.float32)
        demand(np.array_equal(x, values), f"{name}/counterexample: not a float32 input of the network")
        wide = np.where(claims.on_grid[k], 2.0**-23 * np.abs(x.astype(np.float64)), 0.0)
        meant = dequantize(net.input, quantize_input(net, x[None])[0]) if claims.on_grid[k] else x
        inside = (claims.proof.lo[k] - wide <= x) & (x <= claims.proof.hi[k] + wide) & (np.abs(meant - x) <= wide)
        demand(bool(inside.all()), f"{name}/counterexample: outside the region")
        real = evaluate(claims.network, x[None])[0]
        outputs = [dequantize(net.output, simulate(net, quantize_input(net, x[None]))[0]) for net in claims.integers]
        softmax = [*map(id, without_final_softmax(claims.network))] != [*map(id, claims.network.layers)]
        sure = any(refutes(criterion, criteria, real, q, softmax) for q in outputs)
        demand(sure, f"{name}/counterexample: its input does not refute {criterion}")


def check_covered(claims: Claims, whole: dict[str, Any], samples: Float32Array | None) -> tuple[str, ...]:
    """Of a whole domain, what is stated of each threshold is the region's; and so many samples are on its same side."""
    limits, region = claims.regions[0]["thresholds"] or [], claims.regions[0]
    stated, width = whole["thresholds"] or [], claims.integers[0].output.shape[-1]
    keys = "value", "output", "hysteresis"
    told = [[[entry[key] for key in keys] for entry in entries] for entries in (stated, limits)]
    same("all_inputs/thresholds", *told)
    told_of = whole["samples"] is not None and region["top1"] is not None
    same("all_inputs/covered_samples: of classes", whole["covered_samples"] is not None, told_of)
    counts = [entry["covered_samples"] for entry in stated]
    same(
        "all_inputs/thresholds: counted", [n is not None for n in counts], [whole["samples"] is not None] * len(counts)
    )
    if samples is None or not any(counts):
        return ("all_inputs/thresholds/covered_samples",) if any(counts) else ()
    inside = ((claims.proof.lo[0] <= samples) & (samples <= claims.proof.hi[0])).all((1, 2))
    outputs = evaluate(claims.network, samples).reshape(len(samples), -1)[inside]
    for entry, limit in zip(stated, limits, strict=True):
        at = ({**region, "float_lo": v - CLEAR * (1 + abs(v)), "float_hi": v + CLEAR * (1 + abs(v))} for v in outputs)
        count = sum(same_side(limit, point, width) for point in at)
        demand(count >= entry["covered_samples"], f"all_inputs/thresholds/covered_samples: only {count}")
    return ()
