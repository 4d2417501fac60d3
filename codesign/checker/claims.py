"""Compares what a certificate states of its regions, and concludes from them, with what a replay derived."""

from __future__ import annotations

from typing import Any

import numpy as np

from codesign.checker.criteria import above, follows, winner
from codesign.checker.document import Claims
from codesign.checker.head import output_margins, probability_margins
from codesign.checker.replay import Bounds
from codesign.checker.result import CannotCheck, Invalid, demand, same
from codesign.checker.solver import Facts
from codesign.network import evaluate, without_final_softmax
from codesign.proof.arithmetic import arithmetic_facts
from codesign.proof.forms import Array, gamma, up
from codesign.proof.statement import ORDERS, conclusions, refutes
from codesign.semantics import dequantize, quantize_input, simulate


def check_arithmetic(claims: Claims) -> None:
    """The stored errors of tables and rescalings are those that an enumeration gives here."""
    stated = claims.document.get("arithmetic")
    if stated is None:
        raise CannotCheck("a certificate without the enumerated errors of the integer arithmetic")
    for name, found in arithmetic_facts(claims.integers).items():
        same(f"arithmetic/{name}", stated.get(name), found)


def at_least(name: str, stated: Any, derived: Array) -> None:
    """Numbers are stated that are finite, of the derived ones' shape and not below any of them."""
    values = np.asarray(stated, dtype=np.float64)
    demand(values.shape == derived.shape, f"{name}: has to be {derived.shape} numbers")
    for index in np.argwhere(~((values >= derived) & np.isfinite(values))):
        place, shown = "".join(f"[{i}]" for i in index), tuple(index)
        raise Invalid(f"{name}{place}: {values[shown]:.17g} is stated, but only {derived[shown]:.17g} follows")


def check_bounds(region: dict[str, Any], name: str, bounds: Bounds, k: int) -> None:
    """Every stated bound holds at least what was derived for the region, row `k` of `bounds`."""
    difference, logit = bounds.output_difference, bounds.logit_difference
    at_least(f"{name}/difference_hi", region["difference_hi"], difference.hi[k])
    at_least(f"{name}/-difference_lo", np.negative(region["difference_lo"]), -difference.lo[k])
    at_least(f"{name}/logit_bound", region["logit_bound"], np.maximum(-logit.lo[k], logit.hi[k]))
    at_least(f"{name}/float_hi", region["float_hi"], bounds.output.hi[k])
    at_least(f"{name}/-float_lo", np.negative(region["float_lo"]), -bounds.output.lo[k])
    bound = np.maximum(np.negative(region["difference_lo"]), region["difference_hi"])
    same(f"{name}/bound", region["bound"], bound.tolist())
    same(f"{name}/bound_max", region["bound_max"], bound.max())
    at_least(f"{name}/bound (what was observed)", bound, np.abs(region["observed"]))
    demand(region["observed_max"] <= region["bound_max"], f"{name}/observed_max: larger than the bound")


def check_told(region: dict[str, Any], name: str, bounds: Bounds, k: int, facts: Facts) -> None:
    """What is told besides: norms, margins of a class, bounds by step."""
    for key, box, sums in (
        ("norms", bounds.output_difference, bounds.sums[1]),
        ("logit_norms", bounds.logit_difference, bounds.sums[0]),
    ):
        if region.get(key) is not None:
            stated = [region[key][norm] for norm in ("linf", "l2", "l1")]
            at_least(f"{name}/{key} (linf, l2, l1)", stated, _norms(box.mag[k], sums[k]))
    if region.get("step_bound") is not None:
        same(f"{name}/step_bound: layers", len(region["step_bound"]), len(bounds.hidden))
        for layer, steps in enumerate(bounds.hidden):
            at_least(f"{name}/step_bound[{layer}]", region["step_bound"][layer], steps[k])
    if region.get("output_step_bound") is not None:
        rows = np.reshape(region["bound"], (len(bounds.margins), -1)).max(1)
        same(f"{name}/output_step_bound", region["output_step_bound"], rows.tolist())
    told = region.get("margins") or []
    demand(len(told) in (0, len(bounds.margins)), f"{name}/margins: not one a row")
    for row, entry in enumerate(told):
        m, chosen = bounds.margins[row].region(k), entry["class"]
        demand(0 <= chosen < m.value.lo.shape[1] > 1, f"{name}/margins[{row}]/class: no such class")
        least = {"float_logit": m.value.lo, "integer_logit": m.integer.lo}
        least["float_probability"] = probability_margins(m.value, facts)
        integer = output_margins(bounds.softmax, m, facts) if bounds.softmax else probability_margins(m.integer, facts)
        for key, lower in (*least.items(), ("integer_probability", integer)):
            at_least(f"{name}/margins[{row}]/-{key}", -entry[key], -np.delete(lower[0, chosen], chosen).min())


def _norms(bound: Array, sums: Array) -> Array:
    """(Linf, L2, L1) of a difference: its square sum is at most the bounds' squares' and Linf L1, row by row."""
    rows = bound.reshape(len(sums), -1)
    l1 = np.minimum(sums, rows.sum(1) * (1 + gamma(rows.shape[1])))
    squares = np.minimum(np.square(rows).sum(1), rows.max(1) * l1).sum()
    l2 = np.sqrt(squares * (1 + gamma(bound.size + len(sums)))) + 1e-150
    return np.array([bound.max(), up(l2), up(l1.sum() * (1 + gamma(len(sums))))])


def check_statuses(claims: Claims, region: dict[str, Any], name: str, bounds: Bounds, k: int, facts: Facts) -> None:
    """A 'proved' follows from the derived margins and stated bounds; a 'refuted' has an input that shows it."""
    criteria, rows = claims.document["criteria"], [m.region(k) for m in bounds.margins]
    proved = region["top1"] == "proved"
    classes = [winner(above(m, bounds.softmax, facts)) for m in rows] if proved else []
    demand(None not in classes, f"{name}/top1: 'proved' is stated, but no class has a positive margin in both networks")
    same(f"{name}/top1_class", region["top1_class"], classes[0] if len(classes) == 1 else None)
    epsilon = criteria["epsilon"]
    same(f"{name}/epsilon is asked for", region["epsilon"] is not None, epsilon is not None)
    small = region["epsilon"] != "proved" or region["bound_max"] <= epsilon
    demand(small, f"{name}/epsilon: 'proved' is stated, but the bound {region['bound_max']} is above {epsilon}")
    for order in ORDERS:
        asked = criteria.get(order)
        same(f"{name}/{order} is asked for", region.get(order) is not None, asked is not None)
        good = region.get(order) != "proved" or follows(order, asked, rows, bounds.softmax, facts)
        demand(good, f"{name}/{order}: 'proved' is stated, but does not follow")
    _check_refuted(claims, region, name)


def _check_refuted(claims: Claims, region: dict[str, Any], name: str) -> None:
    """Every criterion stated as refuted has a counterexample that refutes it, by exact evaluation."""
    listed = region.get("counterexamples") or ([region["counterexample"]] if region["counterexample"] else [])
    same(f"{name}/counterexample", region["counterexample"], next(iter(listed), None))
    shown = {example["criterion"]: example["input"] for example in listed}
    stated = {criterion for criterion in ("top1", "epsilon", *ORDERS) if region.get(criterion) == "refuted"}
    same(f"{name}: criteria with counterexamples", sorted(stated), sorted(shown))
    k, criteria = claims.regions.index(region), claims.document["criteria"]
    for criterion, values in shown.items():
        x = np.asarray(values, dtype=np.float32)
        good = x.shape == tuple(claims.network.input_shape) and np.array_equal(x.astype(np.float64), values)
        demand(good, f"{name}/counterexample: not a float32 input of the network")
        wide = np.where(claims.on_grid[k], 2.0**-23 * np.abs(x.astype(np.float64)), 0.0)
        inside = (claims.proof.lo[k] - wide <= x) & (x <= claims.proof.hi[k] + wide)
        demand(bool(inside.all()), f"{name}/counterexample: outside the region")
        real = evaluate(claims.network, x[None])[0]
        outputs = [dequantize(net.output, simulate(net, quantize_input(net, x[None]))[0]) for net in claims.integers]
        softmax = [*map(id, without_final_softmax(claims.network))] != [*map(id, claims.network.layers)]
        sure = any(refutes(criterion, criteria, real, q, softmax) for q in outputs)
        demand(sure, f"{name}/counterexample: its input does not refute {criterion}")


def check_conclusions(claims: Claims) -> None:
    """Criteria, summary and verdict follow from the regions."""
    document, proof = claims.document, claims.document["proof"]
    counts = proof["proved"] <= proof["checked"] <= proof["obligations"]
    demand(counts, "proof: more obligations proved than checked, or checked than there are")
    for part, found in conclusions(document).items():
        stated = document[part] if part else document
        for key, value in found.items():
            same(f"{part}/{key}".lstrip("/"), stated[key], value)
