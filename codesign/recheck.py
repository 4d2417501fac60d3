"""Checks certificates of any kind: regions by `codesign.checker`, whole domains by `codesign.domain_checker`, and what
is said of single inputs by `codesign.input_checker`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from codesign import checker, domain_checker
from codesign.checker import CannotCheck, CheckResult, Invalid
from codesign.data_checker import check_data, other_data
from codesign.errors import InputError
from codesign.float32_checker import check_float32
from codesign.input_checker import check_inputs
from codesign.network import load_network
from codesign.observation import observe
from codesign.proof.obligation import Obligation
from codesign.proof.statement import parse_document
from codesign.quantization import load_calibration, read_integer_network


def check(
    certificate: Path, float_path: Path, int8_path: Path, prover: str | None = None, jobs: int = 1,
    on_progress: Callable[[int, int], None] | None = None, data: Path | None = None,
) -> CheckResult:  # fmt: skip
    """Says valid, or invalid with the first bad item; arguments and errors as of the checkers' own `check`.

    `data`: the file with the samples and labels that the certificate is about; without it what rests on them is told as
    not derived, and a share by labels cannot be checked. What is valid is then tried on both models: SoundnessAlarm
    where an exact evaluation contradicts it.
    """
    network, integer = load_network(float_path), read_integer_network(int8_path)
    samples = None if data is None else load_calibration(data, network.input_shape, network)
    if samples is not None and (other := other_data(parse_document(certificate).get("data"), samples)):
        return CheckResult("invalid", other)
    of_domain, x = _is_of_domain(certificate), None if samples is None else samples.x
    if of_domain:
        result = domain_checker.check(certificate, float_path, int8_path, check_float32, prover, x, on_progress)
    else:
        result = checker.check(certificate, float_path, int8_path, check_float32, prover, jobs, on_progress)
    if result.verdict != "valid":
        return result
    try:
        result.not_derived += check_data(result.document, network, integer, samples)
        claims = (domain_checker if of_domain else checker).read_claims(certificate, float_path, int8_path)
        result.not_derived += check_inputs(claims, x)
    except Invalid as error:
        result.verdict, result.item = "invalid", str(error)
    except CannotCheck as error:
        result.verdict, result.item = "cannot check", str(error)
    if result.verdict == "valid":
        observe(result.document, network, integer)
    return result


def _is_of_domain(certificate: Path) -> bool:
    return "all_inputs" in parse_document(certificate)


def claim(document: dict[str, Any]) -> dict[str, Any]:
    """What a certificate that was found valid says, by name: what a reader has to compare with what he wanted to know.

    Half-widths are those of the regions' boxes, in input units, the largest of each region.
    """
    regions, criteria = document["regions"], document["criteria"]
    summary = document["summary"]
    asked = {name: value for name, value in criteria.items() if value is not None and not name.endswith("_verdict")}
    kinds = sorted({region["kind"] for region in regions})
    widths = [_half_width(region, document["domain"]) for region in regions]
    return {
        "float_sha256": document["float_sha256"],
        "int8_sha256": document["int8_sha256"],
        "profiles": document["int8"]["profiles"],
        "data": document["data"],
        "claim": document["claim"],
        "domain": document["domain"],
        "regions": {
            "count": len(regions),
            "counted": sum(region["counted"] for region in regions),
            "kinds": {kind: sum(region["kind"] == kind for region in regions) for kind in kinds},
            "half_width": {"smallest": min(widths), "largest": max(widths)},
            "fixed_steps": max(region["free_from"] for region in regions),
        },
        "method": document["method"],
        "bound": {name: summary[f"total_bound_{key}"] for name, key in (("median", "median"), ("largest", "max"))},
        "bound_over_the_reals": {"median": summary["bound_median"], "largest": summary["bound_max"]},
        "float32_model": document["float32_model"]["statement"],
        "same_class": document["summary"]["top1"],
        "criteria": {
            name: {"asked": value, "verdict": criteria[f"{name.removesuffix('_share')}_verdict"]}
            for name, value in asked.items()
        },
        "thresholds": [_threshold(limit, k, regions) for k, limit in enumerate(criteria["thresholds"] or [])],
        "verdict": document["verdict"],
        "all_inputs": document["all_inputs"]["statement"] if "all_inputs" in document else None,
    }


def _threshold(limit: dict[str, Any], k: int, regions: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one threshold over all regions."""
    told = [region["thresholds"][k] for region in regions]
    statuses = {s: sum(entry["status"] == s for entry in told) for s in ("proved", "refuted", "unknown")}
    return {**limit, "regions": statuses, "hysteresis": max(entry["hysteresis"] for entry in told)}


def _half_width(region: dict[str, Any], domain: dict[str, Any]) -> float:
    """The largest half-width of a region's box."""
    low, high = (np.asarray(domain[end]) for end in ("lo", "hi"))
    center = np.asarray(region["center"])
    if region["box"] is not None:
        low, high = (np.asarray(region["box"][end]) for end in ("lo", "hi"))
    elif region["radius"] is not None:
        low, high = np.maximum(center - region["radius"], low), np.minimum(center + region["radius"], high)
    return float(0.5 * np.max(np.maximum(high, low) - low))


def facts(certificate: Path, float_path: Path, int8_path: Path, region: int = 0) -> list[Obligation]:
    """The nonlinear facts that the bounds of one region rest on. InputError where they cannot be replayed."""
    of_domain = _is_of_domain(certificate)
    read = domain_checker.read_claims if of_domain else checker.read_claims
    try:
        claims = read(certificate, float_path, int8_path)
        if not 0 <= region < len(claims.regions):
            raise InputError(f"there is no region {region}; the certificate has {len(claims.regions)}, counted from 0")
        rows = slice(region, region + 1)
        if of_domain:
            found, bounds = domain_checker.replay_domain(claims, keep=True)
        else:
            found, bounds = checker.replay_regions(claims, rows, keep=True)
        check_float32(claims, rows, bounds, found)
    except (Invalid, CannotCheck) as error:
        raise InputError(f"the certificate cannot be replayed: {error}") from None
    return list(found.obligations())
