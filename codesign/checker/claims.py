"""Compares what a certificate states of its regions, and concludes from them, with what a replay derived."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.checker.document import Array, Claims
from codesign.checker.forms import Box
from codesign.checker.replay import Bounds
from codesign.checker.result import CannotCheck, Invalid
from codesign.network import evaluate
from codesign.proof.arithmetic import arithmetic_facts
from codesign.semantics import dequantize, quantize_input, simulate

_ORDERS = ("top1_above", "topk", "ranking")


def check_arithmetic(claims: Claims) -> None:
    """The stored errors of tables and rescalings are those that an enumeration gives here."""
    stated = claims.document.get("arithmetic")
    if stated is None:
        raise CannotCheck("a certificate without the enumerated errors of the integer arithmetic")
    found = arithmetic_facts(claims.integers)
    for name, entries in found.items():
        if stated.get(name) != entries:
            raise Invalid(f"arithmetic/{name}: not what the enumeration gives")


def check_bounds(region: dict[str, Any], name: str, bounds: Bounds, k: int) -> None:
    """Every stated bound holds at least what was derived for the region, row `k` of `bounds`."""
    difference = Box(bounds.output_difference.lo[k], bounds.output_difference.hi[k])
    logit = np.maximum(-bounds.logit_difference.lo[k], bounds.logit_difference.hi[k])
    lo, hi = _numbers(region, name, "difference_lo", logit), _numbers(region, name, "difference_hi", logit)
    _above(difference.hi, hi, f"{name}/difference_hi")
    _above(-difference.lo, -lo, f"{name}/difference_lo")
    bound = _numbers(region, name, "bound", logit)
    if not np.array_equal(bound, np.maximum(-lo, hi)) or region["bound_max"] != bound.max():
        raise Invalid(f"{name}/bound: not the larger magnitude of difference_lo and difference_hi")
    _above(logit, _numbers(region, name, "logit_bound", logit), f"{name}/logit_bound")
    _above(bounds.output.hi[k], _numbers(region, name, "float_hi", logit), f"{name}/float_hi")
    _above(-bounds.output.lo[k], -_numbers(region, name, "float_lo", logit), f"{name}/float_lo")
    if not region["observed_max"] <= region["bound_max"] or not (np.abs(region["observed"]) <= bound).all():
        raise Invalid(f"{name}/observed: larger than the bound")


def _numbers(region: dict[str, Any], name: str, key: str, like: Array) -> Array:
    values = np.asarray(region[key], dtype=np.float64)
    if values.shape != like.shape or not np.isfinite(values).all():
        raise Invalid(f"{name}/{key}: has to be {like.size} finite numbers")
    return values


def _above(derived: Array, stated: Array, what: str) -> None:
    wrong = np.flatnonzero(~(stated >= derived))
    if wrong.size:
        j = int(wrong[0])
        raise Invalid(f"{what}[{j}]: {stated[j]:.17g} is stated, but only {derived[j]:.17g} follows")


def check_statuses(claims: Claims, region: dict[str, Any], name: str, bounds: Bounds, k: int) -> None:
    """A 'proved' follows from the derived margins and stated bounds; a 'refuted' has an input that shows it."""
    criteria = claims.document["criteria"]
    winners = [np.flatnonzero(worst[k] > 0) for worst in bounds.margins]
    if region["top1"] == "proved":
        if any(w.size != 1 for w in winners):
            raise Invalid(f"{name}/top1: 'proved' is stated, but no class has a positive margin in both networks")
        if region["top1_class"] != (int(winners[0][0]) if len(winners) == 1 else None):
            raise Invalid(f"{name}/top1_class: {region['top1_class']} is stated, another class is proved")
    elif region["top1_class"] is not None:
        raise Invalid(f"{name}/top1_class: a class is stated, but none is proved")
    epsilon = criteria["epsilon"]
    if (region["epsilon"] is None) != (epsilon is None):
        raise Invalid(f"{name}/epsilon: a status without the criterion, or none with it")
    if region["epsilon"] == "proved" and not region["bound_max"] <= epsilon:
        raise Invalid(f"{name}/epsilon: 'proved' is stated, but the bound {region['bound_max']} is above {epsilon}")
    check_refuted(claims, region, name)
    for order in _ORDERS:
        if region.get(order) == "proved":
            raise CannotCheck(f"{name}/{order}: this criterion")


def check_refuted(claims: Claims, region: dict[str, Any], name: str) -> None:
    """Every criterion stated as refuted has a counterexample that refutes it, by exact evaluation."""
    listed = region.get("counterexamples") or ([region["counterexample"]] if region["counterexample"] else [])
    if region["counterexample"] is not None and region["counterexample"] not in listed:
        raise Invalid(f"{name}/counterexample: not one of the counterexamples")
    shown = {example["criterion"]: example["input"] for example in listed}
    for criterion in ("top1", "epsilon", *_ORDERS):
        if (region.get(criterion) == "refuted") != (criterion in shown):
            raise Invalid(f"{name}/{criterion}: 'refuted' without a counterexample, or one without 'refuted'")
    k = claims.regions.index(region)
    for criterion, values in shown.items():
        x = np.asarray(values, dtype=np.float32)
        if x.shape != claims.network.input_shape or not np.array_equal(x.astype(np.float64), np.asarray(values)):
            raise Invalid(f"{name}/counterexample: not a float32 input of the network")
        wide = np.where(claims.on_grid[k], 2.0**-23 * np.abs(x.astype(np.float64)), 0.0)
        if not ((claims.proof.lo[k] - wide <= x) & (x <= claims.proof.hi[k] + wide)).all():
            raise Invalid(f"{name}/counterexample: outside the region")
        if criterion in _ORDERS:
            raise CannotCheck(f"{name}/{criterion}: a counterexample to this criterion")
        if not any(_refutes(claims, criterion, x, profile) for profile in range(len(claims.integers))):
            raise Invalid(f"{name}/counterexample: its input does not refute {criterion}")


def _refutes(claims: Claims, criterion: str, x: npt.NDArray[np.float32], profile: int) -> bool:
    network = claims.integers[profile]
    real = evaluate(claims.network, x[None])[0]
    q = simulate(network, quantize_input(network, x[None]))[0]
    if criterion == "epsilon":
        gap = np.abs(dequantize(network.output, q) - real).max()
        return bool(gap > claims.document["criteria"]["epsilon"])
    return bool((q.argmax(-1) != real.argmax(-1)).any())


def check_conclusions(claims: Claims) -> None:
    """Criteria, summary and verdict follow from the regions."""
    document, regions = claims.document, claims.regions
    criteria, summary, proof = document["criteria"], document["summary"], document["proof"]
    counted = [r["top1"] for r in regions if r["counted"]]
    share = float(np.mean([s == "proved" for s in counted])) if counted else 0.0
    possible = float(np.mean([s != "refuted" for s in counted])) if counted else 0.0
    asked: list[str] = []
    if criteria["epsilon"] is not None:
        asked.append(_same(criteria["epsilon_verdict"], _weakest([r["epsilon"] for r in regions]), "epsilon_verdict"))
    elif criteria["epsilon_verdict"] is not None:
        raise Invalid("criteria/epsilon_verdict: a verdict on a criterion that was not asked")
    wanted = criteria["top1_share"]
    if wanted is not None:
        verdict = "proved" if share >= wanted else "unknown" if possible >= wanted else "refuted"
        asked.append(_same(criteria["top1_verdict"], verdict, "top1_verdict"))
    elif criteria["top1_verdict"] is not None:
        raise Invalid("criteria/top1_verdict: a verdict on a criterion that was not asked")
    for order in _ORDERS:
        if criteria.get(order) is not None:
            asked.append(_weakest([r.get(order) or "unknown" for r in regions]))
    verdict = _weakest(asked or [r["top1"] for r in regions])
    if proof["proved"] > proof["checked"] or proof["checked"] > proof["obligations"]:
        raise Invalid("proof: more obligations proved than checked, or checked than there are")
    if verdict == "proved" and proof["proved"] != proof["checked"]:
        verdict = "unknown"
    if document["verdict"] != verdict:
        raise Invalid(f"verdict: '{document['verdict']}' is stated, '{verdict}' follows from the regions")
    maxima = [r["bound_max"] for r in regions]
    found = {
        "regions": len(regions),
        "bound_median": float(np.median(maxima)),
        "bound_max": max(maxima),
        "observed_max": max(r["observed_max"] for r in regions),
        "evaluations": sum(r["evaluations"] for r in regions),
        "top1_share": share,
        "top1_counted": len(counted),
        "top1": {s: sum(r["top1"] == s for r in regions) for s in ("proved", "refuted", "unknown")},
    }
    for key, value in found.items():
        if summary[key] != value:
            raise Invalid(f"summary/{key}: {summary[key]} is stated, {value} follows from the regions")


def _same(stated: object, found: str, what: str) -> str:
    if stated != found:
        raise Invalid(f"criteria/{what}: '{stated}' is stated, '{found}' follows from the regions")
    return found


def _weakest(statuses: list[str]) -> str:
    return next((s for s in ("refuted", "unknown") if s in statuses), "proved")
