"""What a certificate states: whether it agrees with itself and its models, and follows from what a replay derived."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codesign.checker.forms import Array, Box, Flags, gamma, up
from codesign.checker.replay import Bounds
from codesign.checker.result import CannotCheck, Invalid, demand, same
from codesign.checker.solver import Facts, Margins
from codesign.network import FloatNetwork, load_network
from codesign.proof import statement
from codesign.proof.arithmetic import arithmetic_facts
from codesign.proof.float32 import region_ends
from codesign.proof.proof_file import ProofFile, digest, proof_path, read
from codesign.proof.ranges import implied, stated_ranges
from codesign.quantization import IntegerNetwork, pair_facts, read_integer_network
from codesign.quantization.align import Stage, align
from codesign.quantization.integer import IntActivation


@dataclass(frozen=True, eq=False)
class Claims:
    """A certificate that is consistent with its models and its proof file.

    `integers`, `chains`: the integer network and the paired layers under each profile, in its order.
    """

    document: dict[str, Any]
    regions: list[dict[str, Any]]
    proof: ProofFile
    network: FloatNetwork
    integers: tuple[IntegerNetwork, ...]
    chains: tuple[tuple[Stage, ...], ...]
    on_grid: Flags  # (N,) regions of dequantized inputs only
    second_order: bool  # whether quadratic zonotopes are replayed besides the joint zonotope


def read_claims(
    certificate: Path, float_path: Path, int8_path: Path, methods: Collection[str] = statement.METHODS.values()
) -> Claims:
    """InputError for files that cannot be read, Invalid for what does not agree, CannotCheck for other `methods`."""
    document, wrong = statement.read_document(certificate)
    demand(not wrong, f"the certificate's schema: {wrong}")
    for part in ("digest", "proof_file", "arithmetic"):
        if document.get(part) is None:
            raise CannotCheck(f"a certificate without '{part}'; certify again with this version")
    same("digest (the certificate was edited)", document["digest"], digest(document))
    method, regions = document["method"], document["regions"]
    if method not in methods:
        raise CannotCheck(f"bounds by the method '{method}'")
    whole = document.get("all_inputs") or {"any_length": False}
    demand(
        ("all_inputs" in document) == (method not in statement.METHODS.values()),
        "all_inputs: not what the method derives",
    )
    network, profiles = load_network(float_path), document["int8"]["profiles"]
    integers = tuple(read_integer_network(int8_path, profile) for profile in profiles)
    for name, found in (("float", network.sha256), *(("int8", net.sha256) for net in integers)):
        same(f"{name}_sha256 (another model)", document[f"{name}_sha256"], found)
        same(f"{name}/sha256 (another model)", document[name]["sha256"], found)
    chains, tensor = tuple(align(network, net) for net in integers), integers[0].input
    real = {"scale": tensor.scale, "zero_point": tensor.zero_point, "minimum": tensor.q_min, "maximum": tensor.q_max}
    stated = document["input_quantization"]
    same("input_quantization", stated, {**stated, **real})
    try:
        proof = read(proof_path(certificate), document)
        boxes = [statement.region_box(region, document["domain"], network.input_shape, real) for region in regions]
    except ValueError as error:
        raise Invalid(str(error)) from None
    same("regions in the proof file", proof.lo.shape, (len(regions), *network.input_shape))
    for region, box, *recorded in zip(regions, boxes, proof.lo, proof.hi, strict=True):
        demand(np.array_equal(box, recorded), f"region '{region['id']}' is not the region that the proof is about")
    for name, text in statement.sentences(regions, whole["any_length"]).items():
        same(name, document[name], text)
    grid = np.array([region.get("kind") == "grid" for region in regions])
    second_order = method == statement.METHODS["quadratic"]
    return Claims(document, regions, proof, network, integers, chains, grid, second_order)


def check_document(claims: Claims) -> None:
    """The stored errors of tables and rescalings are those of an enumeration; criteria, summary and verdict follow."""
    document, proof, nets, chain = claims.document, claims.document["proof"], claims.integers, claims.chains[0]
    counts = proof["proved"] <= proof["checked"] <= proof["obligations"]
    demand(counts, "proof: more obligations proved than checked, or checked than there are")
    derived = {"arithmetic": arithmetic_facts(nets), "ranges": stated_ranges(chain, nets[0]), "pair": pair_facts(chain)}
    for part, found in {**derived, **statement.conclusions(document)}.items():
        stated = document[part] if part else document
        for key, value in found.items():
            same(f"{part}/{key}".lstrip("/"), stated.get(key), value)


def at_least(name: str, stated: Any, derived: Array) -> None:
    """Numbers are stated that are finite, of the derived ones' shape and not below any of them."""
    values = np.asarray(stated, dtype=np.float64)
    demand(values.shape == derived.shape, f"{name}: has to be {derived.shape} numbers")
    for index in np.argwhere(~((values >= derived) & np.isfinite(values))):
        place, shown = "".join(f"[{i}]" for i in index), tuple(index)
        raise Invalid(f"{name}{place}: {values[shown]:.17g} is stated, but only {derived[shown]:.17g} follows")


def check_bounds(region: dict[str, Any], name: str, b: Bounds, facts: Facts) -> None:
    """Every bound that is stated holds at least what was derived for the region, the only one in `b`."""
    for key, box in (("difference", b.difference), ("float", b.output)):
        at_least(f"{name}/{key}_hi", region[f"{key}_hi"], box.hi[0])
        at_least(f"{name}/-{key}_lo", np.negative(region[f"{key}_lo"]), -box.lo[0])
    rows = b.logits.margins
    for key, value in implied(region, b.ranges[1], len(rows)).items():
        same(f"{name}/{key}", region[key], value)
    bounds, observed = ([*region[key], region[f"{key}_max"]] for key in ("bound", "observed"))
    at_least(f"{name}/bound (what was observed)", bounds, np.abs(observed))
    at_least(f"{name}/logit_bound", region["logit_bound"], b.logits.difference.mag[0])
    for key, box, sums in (("norms", b.difference, b.sums), ("logit_norms", b.logits.difference, b.logits.sums)):
        if region.get(key) is not None:
            stated = [region[key][norm] for norm in ("linf", "l2", "l1")]
            at_least(f"{name}/{key} (linf, l2, l1)", stated, _norms(box.mag[0], sums.hi[0]))
    if region.get("step_bound") is not None:
        same(f"{name}/step_bound: layers", len(region["step_bound"]), len(b.logits.hidden))
        for layer, steps in enumerate(b.logits.hidden):
            at_least(f"{name}/step_bound[{layer}]", region["step_bound"][layer], steps.hi[0])
    told = region.get("margins") or []
    demand(len(told) in (0, len(rows)), f"{name}/margins: not one a row")
    for row, (m, entry) in enumerate(zip(rows, told, strict=False)):
        chosen = entry["class"]
        demand(0 <= chosen < m.value.lo.shape[1] > 1, f"{name}/margins[{row}]/class: no such class")
        integer = facts.output_margins(b.softmax, m) if b.softmax else facts.probability_margins(m.integer)
        least = {"float_logit": m.value.lo, "integer_logit": m.integer.lo, "integer_probability": integer}
        for key, lower in {**least, "float_probability": facts.probability_margins(m.value)}.items():
            at_least(f"{name}/margins[{row}]/-{key}", -entry[key], -np.delete(lower[0, chosen], chosen).min())


def _norms(bound: Array, sums: Array) -> Array:
    """(Linf, L2, L1) of a difference: its square sum is at most the bounds' squares' and Linf L1, row by row."""
    rows = bound.reshape(len(sums), -1)
    sums = np.minimum(sums, rows.sum(1) * (1 + gamma(rows.shape[1])))
    squares = np.minimum(np.square(rows).sum(1), rows.max(1) * sums).sum()
    l2 = np.sqrt(squares * (1 + gamma(bound.size + len(sums)))) + 1e-150
    return np.array([bound.max(), up(l2), up(sums.sum() * (1 + gamma(len(sums))))])


def check_statuses(claims: Claims, region: dict[str, Any], name: str, b: Bounds, facts: Facts) -> None:
    """A 'proved' follows from the derived margins and stated bounds (a 'refuted': codesign.input_checker)."""
    criteria, rows, told = claims.document["criteria"], b.logits.margins, statement.statuses(region)
    asked, limits, width = statement.asked_of_regions(criteria), criteria["thresholds"] or [], rows[0].value.lo.shape[1]
    demand(width > 1 or not {"top1", "top1_above"} & {*told}, f"{name}/top1: one output is no class")
    classes = [winner(m, b.softmax, facts) for m in rows] if region["top1"] == "proved" else []
    demand(None not in classes, f"{name}/top1: 'proved' is stated, but no class has a positive margin in both networks")
    same(f"{name}/top1_class", region["top1_class"], classes[0] if len(classes) == 1 else None)
    named = [criteria.get("topk") or 0, *(criteria.get("ranking") or []), *(limit["output"] or 0 for limit in limits)]
    demand(max(named) < width, "criteria: about more outputs than there are")
    same(f"{name}: criteria that are asked for", sorted({*told} - {"top1"}), sorted(asked))
    for criterion in (one for one, status in told.items() if status == "proved" and one != "top1"):
        good = follows(criterion, asked[criterion], region, rows, b.softmax, facts)
        demand(good, f"{name}/{criterion}: 'proved' is stated, but does not follow")
    for limit, entry in zip(limits, region["thresholds"] or [], strict=True):
        same(f"{name}/thresholds", [entry["value"], entry["output"]], [limit["value"], limit["output"]])
        good = same_side(limit, region, width, entry["hysteresis"])
        demand(good, f"{name}/thresholds/hysteresis: does not follow")


def above(m: Margins, softmax: IntActivation | None, facts: Facts) -> Flags:
    """(M, M): class i is above class j in both networks' outputs, for every input of the one region."""
    return np.asarray((m.value.lo[0] > 0) & (facts.output_margins(softmax, m)[0] > 0))


def winner(m: Margins, softmax: IntActivation | None, facts: Facts) -> int | None:
    """The class that is above all others; None of one output."""
    flags = above(m, softmax, facts)
    return next((i for i, others in enumerate(flags) if len(flags) > 1 and np.delete(others, i).all()), None)


def follows(
    criterion: str, asked: Any, region: dict[str, Any], rows: Sequence[Margins], softmax: IntActivation | None,
    facts: Facts,
) -> bool:  # fmt: skip
    """Whether a criterion does: from stated bounds, or in every row of outputs from its margins."""
    rules: dict[str, Callable[..., bool]] = {"ranking": _ranking, "topk": _topk, "top1_above": _top1_above}
    if criterion == "epsilon":
        return bool(region["total_bound_max"] <= asked)
    if criterion not in rules:
        return same_side(asked, region, rows[0].value.lo.shape[1])
    return all(rules[criterion](asked, m, softmax, facts) for m in rows)


def same_side(asked: dict[str, Any], region: dict[str, Any], width: int, beyond: float = 0.0) -> bool:
    """No float output that is farther than `beyond` from the threshold has the integer one on the other side of it."""
    part, value = slice(asked["output"], None, width if asked["output"] is not None else 1), asked["value"]
    lo, hi, down, rise = (end[part] for end in region_ends(region))
    slack = 1e-14 * (1 + abs(value) + beyond + np.abs([lo, hi, down, rise]).max(0))
    falls = (hi >= value + beyond) & (np.maximum(lo, value + beyond) + down < value + slack)
    rises = (lo < value - beyond) & (np.minimum(hi, value - beyond) + rise > value - slack)
    return not (falls | rises).any()


def _topk(count: int, m: Margins, softmax: IntActivation | None, facts: Facts) -> bool:
    flags = above(m, softmax, facts)
    inside = np.argsort(-flags.sum(1), kind="stable")[:count]
    return bool(flags[np.ix_(inside, np.setdiff1d(np.arange(len(flags)), inside))].all())


def _ranking(pair: list[int], m: Margins, softmax: IntActivation | None, facts: Facts) -> bool:
    """Output I never is above J; or cannot fall behind; or stays above in the integer network whenever it is."""
    i, j = pair
    floor = np.full(m.value.lo.shape[1], -np.inf)
    floor[j] = 0.0
    never, behind = m.value.hi[0, i, j] <= 0, softmax is None and m.difference.lo[0, i, j] >= 0
    return bool(never or behind or _given(m, i, floor, softmax, facts)[j] > 0)


def _top1_above(least: float, m: Margins, softmax: IntActivation | None, facts: Facts) -> bool:
    """Every class that can be the float network's with a probability above `least` is the integer network's as well."""
    for i in range(m.value.lo.shape[1]):
        floor = facts.confident(i, least, m.value)
        if floor is not None and not (np.delete(_given(m, i, floor, softmax, facts), i) > 0).all():
            return False
    return True


def _given(m: Margins, i: int, floor: Array, softmax: IntActivation | None, facts: Facts) -> Array:
    """Lower bounds (M,) of the integer output's i minus j at inputs with l_i - l_j >= floor_j for all j."""
    lo = np.full(m.value.lo.shape, -np.inf)
    lo[0, i] = floor
    total = np.maximum(m.value.lo, lo) + m.difference.lo
    low = np.maximum(m.integer.lo, total - 1e-14 * (np.abs(m.value.lo) + np.abs(total) + np.abs(m.difference.lo)))
    high = np.maximum(np.minimum(m.integer.hi, -np.swapaxes(low, 1, 2)), low)  # a range that is empty: any
    return np.asarray(facts.output_margins(softmax, m._replace(integer=Box(low, high)))[0, i])
