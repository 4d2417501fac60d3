"""What a certificate states: its schema and fixed sentences, what a region means, what follows from its regions."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.proof.thresholds import CLEAR, opposite
from codesign.text import percent, upward

Array = npt.NDArray[np.float64]
ORDERS = ("top1_above", "topk", "ranking")
TIME_LIMIT = "time limit"  # the reason of a region that was not reached
SCHEMA_ID = "codesign-certificate-1"
CLAIM = (
    "For every float32 input inside a region, the dequantized output of the integer network minus the output "
    "of the float network, taken over the reals, lies between difference_lo and difference_hi, elementwise."
)
FLOAT32_CLAIM = (
    " Where the float network is evaluated in float32 as float32_model says, and the integer output is dequantized in "
    "float32, outputs differ by at most total_bound; classes and sides of thresholds are those of such an evaluation."
)
GRID_CLAIM = (
    " In a region of kind 'grid' this holds for every integer input whose dequantized values lie in the box; the float "
    "network is taken at the dequantized values scale * (q - zero_point), or at these rounded to float32, so that no "
    "rounding of the input separates the networks. Such a region says nothing of other float inputs."
)
METHODS = {
    "zonotope": "joint differential zonotope",
    "quadratic": "joint differential zonotope, and quadratic zonotopes",
}
ALL_INPUTS_METHOD = "elementwise comparison system over the domain"
RULE = "|x - center| <= radius elementwise, clipped to the domain; a center outside stays inside"
BOX_RULE = "; where a region has a box, lo <= x <= hi elementwise instead"


def sentences(regions: Sequence[dict[str, Any]], any_length: bool = False) -> dict[str, str]:
    """The claim and the rule for what a region means, as they belong to these regions of a certificate."""
    claim = CLAIM
    if any_length:
        claim = claim.replace("every float32 input inside", "every sequence of any number of float32 inputs inside")
    grid = any(region.get("kind") == "grid" for region in regions)
    boxes = any(region.get("box") is not None for region in regions)
    return {"claim": claim + FLOAT32_CLAIM + GRID_CLAIM * grid, "region_rule": RULE + BOX_RULE * boxes}


def all_inputs_statement(stated: dict[str, Any]) -> str:
    """What a certificate over a whole domain says, in words, given its 'all_inputs'. Numbers are rounded up."""
    inputs = "every sequence of float32 inputs of any length" if stated["any_length"] else "every float32 input"
    margin, count = stated["same_class_margin"], stated["samples"]

    def share(part: int | None) -> str:
        return "" if part is None else f" ({percent(part / count if count else 0.0)} of the {count} samples)"

    told = []
    if margin is not None:
        share_of = share(stated["covered_samples"])
        told.append(f"wherever the float model's margin exceeds {upward(margin)} the class is the same{share_of}")
    elif stated["covered_samples"] is not None:
        told.append("no margin is proved to keep the class" + share(stated["covered_samples"]))
    for limit in stated.get("thresholds") or []:
        which = "its output" if limit["output"] is None else f"its output {limit['output']}"
        told.append(
            f"wherever {which} is more than {upward(limit['hysteresis'])} from {limit['value']:g} the board's is on "
            f"the same side of it{share(limit['covered_samples'])}"
        )
    what = "outputs" if count is not None and stated["covered_samples"] is None else "logits"
    bound = upward(max(stated["total_logit_bound"]))
    distance = f"the integer model's dequantized {what} are within {bound} of the float model's, float32 included"
    return "; ".join([f"for {inputs} of the domain {distance}", *told])


def region_box(
    region: dict[str, Any], domain: dict[str, Any], shape: tuple[int, int], tensor: dict[str, Any]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(lo, hi), each (T, D): the inputs that a certificate's region means. ValueError where it means none.

    All that a region says of its shape has to give this very box: its kind, center and radius, the steps it fixes, the
    quantisation steps of a grid (`tensor`: the certificate's input quantization).
    """
    name, kind, first = f"region '{region['id']}'", region["kind"], region["free_from"]
    low, high = (np.asarray(domain[end], dtype=np.float64) for end in ("lo", "hi"))
    if low.shape != (shape[1],) or high.shape != low.shape or not (low <= high).all():
        raise ValueError("domain: not one range a feature")
    center = np.asarray(region["center"], dtype=np.float64)
    if center.shape != tuple(shape):
        raise ValueError(f"{name}: its center has shape {center.shape}")
    if not 0 <= first < shape[0]:
        raise ValueError(f"{name}: no step is free from step {first} on")
    radius, box = region["radius"], region["box"]
    told = None if box is None else tuple(np.asarray(box[end], dtype=np.float64) for end in ("lo", "hi"))
    if told is not None and not (told[0].shape == told[1].shape == center.shape):
        raise ValueError(f"{name}: its box has shapes {told[0].shape} and {told[1].shape}")
    if kind == "domain":
        lo, hi = np.tile(low, (shape[0], 1)), np.tile(high, (shape[0], 1))
        size, stated = None, None  # never a part of it
        if first or not (center == 0.5 * (lo + hi)).all():
            raise ValueError(f"{name}: not the whole domain around its middle")
    elif kind == "noise" and told is not None:
        lo, hi = told
        size, stated = box_radius(center, lo, hi), told
        if not ((np.minimum(center, low) <= lo) & (lo <= center) & (center <= hi)).all():
            raise ValueError(f"{name}: its box is no box around its center, clipped to the domain")
        if not (hi <= np.maximum(center, high)).all() or (lo[:first] < hi[:first]).any():
            raise ValueError(f"{name}: its box is not clipped to the domain, or not fixed before step {first}")
    elif kind == "ball" and radius is not None:
        lo, hi = np.maximum(center - radius, low), np.minimum(center + radius, high)
        lo, hi = np.minimum(lo, center), np.maximum(hi, center)
        lo[:first] = hi[:first] = center[:first]
        size, stated = radius, (lo, hi) if first else None
    elif kind == "grid" and region["grid_steps"] is not None:
        scale, zero, steps = tensor["scale"], tensor["zero_point"], region["grid_steps"]
        q = np.rint(center / scale) + zero
        reach = np.full(q.shape, float(min(steps, 1 << 16)))
        reach[:first] = 0.0
        lo, middle, hi = (
            scale * (np.clip(q + side * reach, tensor["minimum"], tensor["maximum"]) - zero) for side in (-1, 0, 1)
        )
        size, stated = steps * scale, (lo, hi)
        if not (middle == center).all():
            raise ValueError(f"{name}: its center is no dequantized input")
    else:
        raise ValueError(f"{name}: neither a ball around its center nor a box nor the domain")
    if (kind == "grid") != (region["grid_steps"] is not None):
        raise ValueError(f"{name}: grid_steps of a region of kind '{kind}'")
    if radius != size:
        raise ValueError(f"{name}: the radius {radius} is stated, but it is {size}")
    if (told is None) != (stated is None) or not np.array_equal(told or (), stated or ()):
        raise ValueError(f"{name}: its box is not the one of its kind, center and radius")
    return lo, hi


def box_radius(center: Array, lo: Array, hi: Array) -> float:
    """The largest distance of an input of a box from its center."""
    return float(np.maximum(hi - center, center - lo).max())


def asked_of_regions(criteria: dict[str, Any]) -> dict[str, Any]:
    """What every region has a status for, by name: of several thresholds each one."""
    limits = {f"thresholds/{k}": asked for k, asked in enumerate(criteria.get("thresholds") or [])}
    found = {name: criteria.get(name) for name in ("epsilon", *ORDERS)} | limits
    return {name: asked for name, asked in found.items() if asked is not None}


def statuses(region: dict[str, Any]) -> dict[str, str]:
    """What a region states of the criteria that it has a status for, by name as in `asked_of_regions`; and 'top1'."""
    limits = {f"thresholds/{k}": entry["status"] for k, entry in enumerate(region.get("thresholds") or [])}
    found = {name: region.get(name) for name in ("top1", "epsilon", *ORDERS)} | limits
    return {name: status for name, status in found.items() if status is not None}


def refutes(criterion: str, criteria: dict[str, Any], real: Array, device: Array, probabilities: bool) -> bool:
    """Whether outputs (..., M) of the float and of the integer network at one input show that a criterion fails.

    Ties go to the lower index. `probabilities`: whether these are the outputs, not logits.
    """
    asked: Any = asked_of_regions(criteria).get(criterion)
    if criterion == "epsilon":
        return bool(np.abs(device - real).max() > asked)
    if criterion.startswith("thresholds/"):
        return bool(opposite(asked, real, device).any())
    ordered, top = -np.sort(-real, axis=-1), real.argmax(-1)
    wrong = device.argmax(-1) != top
    if criterion == "ranking":
        first, second = (v[..., asked[0]] - v[..., asked[1]] for v in (real, device))
        wrong = (first > CLEAR) & (second <= 0)
    elif criterion == "topk":
        sets = (np.sort(np.argsort(-v, axis=-1, kind="stable")[..., :asked], -1) for v in (real, device))
        wrong = (ordered[..., asked - 1] - ordered[..., asked] > CLEAR) & (next(sets) != next(sets)).any(-1)
    elif criterion == "top1_above":
        shares = np.exp(real - real.max(-1, keepdims=True))
        p = real if probabilities else shares / shares.sum(-1, keepdims=True)
        wrong &= (p.max(-1) - asked > CLEAR) & (ordered[..., 0] - ordered[..., 1] > CLEAR)
    return bool(wrong.any())


def conclusions(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What has to stand under 'criteria' and 'summary', and (under '') the verdict, given the regions' statuses.

    The verdict is the weakest of the criteria asked for; without any, see `_unasked`. It is 'vacuous' where nothing
    follows but a vacuous bound, and not 'proved' unless every proof obligation was proved.
    Where a region has no top-1 status its outputs are no classes, and nothing is said of them.
    """
    regions, criteria, proof = document["regions"], document["criteria"], document["proof"]
    named = all(r["top1"] is not None for r in regions)
    counted = [r["top1"] for r in regions if r["counted"] and r["top1"] is not None]
    share, possible = (
        float(np.mean([s in wanted for s in counted])) if counted else 0.0
        for wanted in (("proved",), ("proved", "unknown"))
    )
    verdicts: dict[str, str | None] = {"top1": None}
    wanted = criteria["top1_share"]
    if wanted is not None:
        verdicts["top1"] = "proved" if share >= wanted else "unknown" if possible >= wanted else "refuted"
        verdicts["top1"] = verdicts["top1"] if counted else "unknown"
    asked = asked_of_regions(criteria)
    for name in ("epsilon", *(order for order in ORDERS if order in criteria), "thresholds"):
        told = [statuses(r).get(one, "unknown") for one in asked if one.partition("/")[0] == name for r in regions]
        verdicts[name] = _weakest(told) if told else None
    asked_for = {name: v for name, v in verdicts.items() if v is not None}
    verdict = _weakest(list(asked_for.values())) if asked_for else _unasked(document, counted)
    classes = (asked_for.keys() & {*ORDERS, "thresholds"}) or ("top1" in asked_for and share > 0)
    if verdict == "proved" and asked_for and not classes and any(r["vacuous"] for r in regions):
        verdict = "vacuous"
    if verdict == "proved" and proof["proved"] != proof["obligations"]:
        verdict = "unknown"
    maxima, totals = ([r[key] for r in regions] for key in ("bound_max", "total_bound_max"))
    summary = {
        "regions": len(regions),
        "bound_median": float(np.median(maxima)),
        "bound_max": max(maxima),
        "total_bound_median": float(np.median(totals)),
        "total_bound_max": max(totals),
        "observed_max": max(r["observed_max"] for r in regions),
        "evaluations": sum(r["evaluations"] for r in regions),
        "top1_share": share if named else None,
        "top1_counted": len(counted) if named else None,
        "vacuous": sum(r["vacuous"] for r in regions),
        "not_reached": sum(r["reason"] == TIME_LIMIT for r in regions),
        "top1": {s: sum(r["top1"] == s for r in regions) for s in ("proved", "refuted", "unknown")} if named else None,
    }
    told_of = {f"{name}_verdict": value for name, value in verdicts.items()}
    return {"criteria": told_of, "summary": summary, "": {"verdict": verdict}}


def _unasked(document: dict[str, Any], classes: Sequence[str]) -> str:
    """The verdict where no criterion was asked for; `classes`: statuses of the same top-1 class, counted regions'.

    'proved': no bound is vacuous, and around samples of a model with several outputs the class is proved to be the same
    in some region and known to differ in none. Over a whole domain, the bounds of logits and outputs alone decide.
    """
    regions, whole = document["regions"], document.get("all_inputs")
    flags = [r["vacuous"] for r in regions]
    if whole is not None:
        return "vacuous" if any(flags) or whole["vacuous"] else "proved"
    if "refuted" in classes:
        return "refuted"
    if all(flags):
        return "vacuous"
    several = any(r["top1"] is not None for r in regions)
    return "unknown" if any(flags) or (several and "proved" not in classes) else "proved"


def _weakest(statuses: Sequence[str]) -> str:
    return next((s for s in ("refuted", "unknown") if s in statuses), "proved")


def strict_json(path: Path, what: str = "a JSON file that codesign wrote") -> Any:
    """A JSON file's content. InputError where it cannot be read, or is no JSON: numbers beyond binary64 are none, and a
    key stands once."""
    readers: dict[str, Any] = {"parse_constant": _refuse, "parse_float": _number, "parse_int": _integer}
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once, **readers)
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror}); name {what}") from None
    except (ValueError, RecursionError):
        raise InputError(f"'{path}' is not {what}") from None


def parse_document(path: Path) -> dict[str, Any]:
    """A certificate's content, whatever its schema says of it. InputError for what is no certificate; `strict_json`."""
    document = strict_json(path, "a certificate.json that 'codesign certify' wrote")
    if not isinstance(document, dict) or document.get("schema") != SCHEMA_ID:
        raise InputError(f"'{path}' is not a certificate of schema {SCHEMA_ID}")
    return document


def read_document(path: Path) -> tuple[dict[str, Any], str]:
    """(the certificate's content, what its schema forbids: '' if nothing); `parse_document`.

    An integer is written as one.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    document = parse_document(path)
    schema = Path(__file__).parent.parent / "certificate" / "certificate.schema.json"
    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    validator = extend(Draft202012Validator, type_checker=types)
    for wrong in validator(json.loads(schema.read_text(encoding="utf-8"))).iter_errors(document):
        place = "/".join(map(str, wrong.absolute_path)) or "the top level"
        return document, f"{wrong.message[:200]} at {place}"
    return document, ""


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _number(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _integer(text: str) -> int:
    _number(text)
    return int(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key that stands twice")
    return found
