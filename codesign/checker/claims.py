"""Compares what a certificate states of its regions, and concludes from them, with what a replay derived."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.checker.document import Claims
from codesign.checker.forms import Flags
from codesign.checker.replay import Bounds
from codesign.checker.result import CannotCheck, Invalid, demand, same
from codesign.network import evaluate
from codesign.proof.arithmetic import arithmetic_facts
from codesign.proof.statement import ORDERS, conclusions
from codesign.semantics import dequantize, quantize_input, simulate


def check_arithmetic(claims: Claims) -> None:
    """The stored errors of tables and rescalings are those that an enumeration gives here."""
    stated = claims.document.get("arithmetic")
    if stated is None:
        raise CannotCheck("a certificate without the enumerated errors of the integer arithmetic")
    for name, found in arithmetic_facts(claims.integers).items():
        same(f"arithmetic/{name}", stated.get(name), found)


def check_bounds(region: dict[str, Any], name: str, bounds: Bounds, k: int) -> None:
    """Every stated bound holds at least what was derived for the region, row `k` of `bounds`."""
    difference, logit = bounds.output_difference, bounds.logit_difference
    derived = {
        "difference_hi": difference.hi[k],
        "difference_lo": -difference.lo[k],
        "logit_bound": np.maximum(-logit.lo[k], logit.hi[k]),
        "float_hi": bounds.output.hi[k],
        "float_lo": -bounds.output.lo[k],
    }
    stated = {key: np.asarray(region[key], dtype=np.float64) for key in (*derived, "bound", "observed")}
    for key, values in stated.items():
        good = values.shape == difference.lo[k].shape and bool(np.isfinite(values).all())
        demand(good, f"{name}/{key}: has to be {difference.lo.shape[1]} finite numbers")
    for key, least in derived.items():
        values = -stated[key] if key.endswith("_lo") else stated[key]
        for j in np.flatnonzero(~(values >= least)):
            raise Invalid(f"{name}/{key}[{j}]: {stated[key][j]:.17g} is stated, but only {abs(least[j]):.17g} follows")
    bound = np.maximum(-stated["difference_lo"], stated["difference_hi"])
    same(f"{name}/bound", region["bound"], bound.tolist())
    same(f"{name}/bound_max", region["bound_max"], bound.max())
    seen = region["observed_max"] <= region["bound_max"] and bool((np.abs(stated["observed"]) <= bound).all())
    demand(seen, f"{name}/observed: larger than the bound")


def check_statuses(claims: Claims, region: dict[str, Any], name: str, bounds: Bounds, k: int) -> None:
    """A 'proved' follows from the derived margins and stated bounds; a 'refuted' has an input that shows it."""
    criteria = claims.document["criteria"]
    above = [(real[k] > 0) & (integer[k] > 0) for real, integer in bounds.beats]
    winners = [np.flatnonzero((a | np.eye(len(a), dtype=bool)).all(1)) for a in above]
    one = region["top1"] != "proved" or all(w.size == 1 for w in winners)
    demand(one, f"{name}/top1: 'proved' is stated, but no class has a positive margin in both networks")
    known = region["top1"] == "proved" and len(winners) == 1
    same(f"{name}/top1_class", region["top1_class"], int(winners[0][0]) if known else None)
    epsilon = criteria["epsilon"]
    same(f"{name}/epsilon is asked for", region["epsilon"] is not None, epsilon is not None)
    small = region["epsilon"] != "proved" or region["bound_max"] <= epsilon
    demand(small, f"{name}/epsilon: 'proved' is stated, but the bound {region['bound_max']} is above {epsilon}")
    for order in ORDERS:
        follows = region.get(order) != "proved" or _ordered(order, criteria.get(order), above)
        demand(follows, f"{name}/{order}: 'proved' is stated, but does not follow")
    _check_refuted(claims, region, name)


def _ordered(order: str, asked: Any, above: list[Flags]) -> bool:
    """Whether an order criterion follows from which classes are above which, in both networks, for every input."""
    if order == "ranking":
        return all(bool(a[asked[0], asked[1]] or a[asked[1], asked[0]]) for a in above)
    if order == "topk":
        return all(_top_set(a, asked) for a in above)
    raise CannotCheck(f"the criterion {order}")


def _top_set(above: Flags, count: int) -> bool:
    inside = np.argsort(-above.sum(1), kind="stable")[:count]
    outside = np.setdiff1d(np.arange(len(above)), inside)
    return bool(above[np.ix_(inside, outside)].all())


def _check_refuted(claims: Claims, region: dict[str, Any], name: str) -> None:
    """Every criterion stated as refuted has a counterexample that refutes it, by exact evaluation."""
    listed = region.get("counterexamples") or ([region["counterexample"]] if region["counterexample"] else [])
    same(f"{name}/counterexample", region["counterexample"], next(iter(listed), None))
    shown = {example["criterion"]: example["input"] for example in listed}
    stated = {criterion for criterion in ("top1", "epsilon", *ORDERS) if region.get(criterion) == "refuted"}
    same(f"{name}: criteria with counterexamples", sorted(stated), sorted(shown))
    k = claims.regions.index(region)
    for criterion, values in shown.items():
        x = np.asarray(values, dtype=np.float32)
        good = x.shape == tuple(claims.network.input_shape) and np.array_equal(x.astype(np.float64), values)
        demand(good, f"{name}/counterexample: not a float32 input of the network")
        wide = np.where(claims.on_grid[k], 2.0**-23 * np.abs(x.astype(np.float64)), 0.0)
        inside = (claims.proof.lo[k] - wide <= x) & (x <= claims.proof.hi[k] + wide)
        demand(bool(inside.all()), f"{name}/counterexample: outside the region")
        demand(
            any(_refutes(claims, criterion, x, profile) for profile in range(len(claims.integers))),
            f"{name}/counterexample: its input does not refute {criterion}",
        )


def _refutes(claims: Claims, criterion: str, x: npt.NDArray[np.float32], profile: int) -> bool:
    network, asked = claims.integers[profile], claims.document["criteria"]
    real = evaluate(claims.network, x[None])[0]
    q = simulate(network, quantize_input(network, x[None]))[0]
    if criterion == "epsilon":
        return bool(np.abs(dequantize(network.output, q) - real).max() > asked["epsilon"])
    if criterion == "top1":
        return bool((q.argmax(-1) != real.argmax(-1)).any())
    if criterion == "ranking":
        i, j = asked["ranking"]
        return bool(((real[..., i] > real[..., j]) & (q[..., i] <= q[..., j])).any())
    raise CannotCheck(f"a counterexample to the criterion {criterion}")


def check_conclusions(claims: Claims) -> None:
    """Criteria, summary and verdict follow from the regions."""
    document, proof = claims.document, claims.document["proof"]
    counts = proof["proved"] <= proof["checked"] <= proof["obligations"]
    demand(counts, "proof: more obligations proved than checked, or checked than there are")
    for part, found in conclusions(document).items():
        stated = document[part] if part else document
        for key, value in found.items():
            same(f"{part}/{key}".lstrip("/"), stated[key], value)
