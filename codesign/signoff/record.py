"""signoff.json: its content, its schema, and writing it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.errors import InputError
from codesign.files import write_atomically
from codesign.outcome import outcome
from codesign.signoff.comparison import Comparison
from codesign.signoff.domain import stated
from codesign.signoff.evidence import ORDERS, Evidence, is_kind
from codesign.signoff.headline import headline
from codesign.signoff.verdict import SignOff

if TYPE_CHECKING:
    from codesign.checker import CheckResult

SCHEMA_ID = "codesign-signoff-1"
UNCHECKED = {"verdict": "cannot check", "item": "it was not asked", "regions": 0, "facts": 0, "not_derived": []}
_PACKAGES = (
    "codesign", "numpy", "scipy", "python-flint", "dreal", "tensorflow", "tf_keras", "tflite-micro", "platformio",
    "pyserial", "unicorn", "matplotlib",
)  # fmt: skip


def signoff_document(
    signoff: SignOff,
    certificate: Evidence | None,
    hil: Evidence | None,
    build: Evidence | None,
    artifacts: Mapping[str, str],
    comparison: Comparison,
    checked: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The content of signoff.json; figures that the evidence does not give are None. `checked`: `checker_facts`."""
    certificate, hil, build = certificate or {}, hil or {}, build or {}
    target = _table(hil.get("target"))
    stack = _table(hil.get("stack"))
    certified = _certificate(certificate)
    told = [(c.name, {"wanted": c.wanted, "reached": c.reached, "status": c.status}) for c in signoff.criteria]
    criteria: dict[str, Any] = {name: entry for name, entry in told if name != "thresholds"}
    bands = [{"hysteresis": c.hysteresis} for c in signoff.criteria if c.name == "thresholds"]
    limits = [entry for name, entry in told if name == "thresholds"]
    criteria["thresholds"] = [{**entry, **band} for entry, band in zip(limits, bands, strict=True)] or None
    return {
        "schema": SCHEMA_ID,
        "verdict": signoff.verdict,
        "exit_code": outcome(signoff.verdict).exit_code,
        "headline": headline(certified),
        "board": _if(build.get("board"), "text"),
        "emulated": _if(target.get("emulated"), "flag"),
        "failures": list(signoff.failures),
        "unproved": list(signoff.unproved),
        "notes": list(signoff.notes),
        "proved": list(signoff.proved),
        "criteria": {**dict.fromkeys(("epsilon", "top1_share", *ORDERS)), **criteria},
        "certificate": certified,
        "checker": None if checked is None else dict(checked),
        "hil": _hil(hil, target),
        "metrics": comparison.to_json(),
        "macs": comparison.work.macs if comparison.work else None,
        "flash_bytes": _if(build.get("flash_bytes"), "count"),
        "ram_bytes": _if(build.get("ram_bytes"), "count"),
        "stack_bytes": _if(stack.get("high_water_bytes"), "count"),
        "stack_reserved_bytes": _if(build.get("stack_size"), "count"),
        "flash_available_bytes": _if(build.get("flash_available"), "count"),
        "ram_available_bytes": _if(build.get("ram_available"), "count"),
        "build_id": _if(build.get("build_id"), "text"),
        "runtime": {
            "name": _if(build.get("runtime"), "text"),
            "profile": _if(build.get("profile"), "text"),
            "weights": _if(build.get("weights"), "text"),
            "arena_bytes": _if(build.get("arena_bytes"), "count"),
        },
        "artifacts": dict(artifacts),
        "versions": {
            **{k: v for k, v in _table(certificate.get("versions")).items() if is_kind(v, "text")},
            **versions(),
        },
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def checker_facts(result: CheckResult) -> dict[str, Any]:
    """Of an independent check of the certificate, what a sign-off records. `facts`: nonlinear ones, derived again."""
    return {
        "verdict": result.verdict,
        "item": result.item,
        "regions": result.regions,
        "facts": result.facts,
        "not_derived": list(result.not_derived),
    }


def versions() -> dict[str, str]:
    """Versions of Python, the system and the packages that matter, where installed."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _certificate(certificate: Evidence) -> dict[str, Any]:
    entries = certificate.get("regions")
    regions = [r for r in entries if isinstance(r, Mapping)] if isinstance(entries, list) else []
    bounds = [max(r["total_bound"]) for r in regions if is_kind(r.get("total_bound"), "numbers") and r["total_bound"]]
    observed = [max(r["observed"]) for r in regions if is_kind(r.get("observed"), "numbers") and r["observed"]]
    counted = [r["top1"] == "proved" for r in regions if r.get("counted") is True and r.get("top1") is not None]
    whole = stated(certificate)
    counted = counted if whole is None else []  # a whole domain's share is that of the samples that its margin covers
    proof = _table(certificate.get("proof"))
    return {
        "regions": len(regions),
        "vacuous": sum(r.get("vacuous") is not False for r in regions),
        "all_inputs": None if whole is None else _whole(whole),
        "bound_median": float(np.median(bounds)) if bounds else None,
        "bound_max": max(bounds, default=None),
        "observed_max": max(observed, default=None),
        "top1_proved_share": float(np.mean(counted)) if counted else None,
        "top1_counted": len(counted),
        "float_sha256": _if(_table(certificate.get("float")).get("sha256"), "text"),
        "int8_sha256": _if(_table(certificate.get("int8")).get("sha256"), "text"),
        "obligations": _if(proof.get("obligations"), "count"),
        "obligations_checked": _if(proof.get("checked"), "count"),
        "obligations_proved": _if(proof.get("proved"), "count"),
    }


def _whole(whole: Evidence) -> dict[str, Any]:
    """What a certificate over a whole domain states; None where it is not readable."""
    bounds, margin = whole.get("total_logit_bound"), whole.get("same_class_margin")
    return {
        "logit_bound": max(bounds) if bounds and is_kind(bounds, "numbers") else None,
        "vacuous": whole.get("vacuous") is not False,
        "any_length": whole.get("any_length") is True,
        "same_class_margin": _if(margin, "number"),
        "covered_samples": _if(whole.get("covered_samples"), "count"),
        "samples": _if(whole.get("samples"), "count"),
    }


def _hil(hil: Evidence, target: Evidence) -> dict[str, Any]:
    entries = hil.get("samples")
    samples = [s for s in entries if isinstance(s, Mapping)] if isinstance(entries, list) else []
    top1 = [s["top1"] for s in samples if isinstance(s.get("top1"), Mapping)]
    certified = [t for t in top1 if t.get("certified") == "proved"]
    errors = [s["max_error"] for s in samples if is_kind(s.get("max_error"), "number")]
    result: dict[str, Any] = {
        "samples": len(samples),
        "bit_exact": sum(s.get("bit_exact") is True for s in samples),
        "with_bound": sum(s.get("bound") is not None for s in samples),
        "within_bound": sum(s.get("within_bound") is True for s in samples),
        "top1_certified": len(certified),
        "top1_equal": sum(t.get("equal") is True for t in certified),
        "max_error": max(errors, default=None),
        "clock_hz": _if(target.get("clock_hz"), "count"),
        "port": _if(target.get("port"), "text"),
        "description": _if(target.get("description"), "text"),
    }
    counter = _table(hil.get("counter"))
    unit = counter.get("unit")
    if unit in ("cycles", "instructions"):
        result[unit] = _if(counter.get("median"), "number")
        result[f"{unit}_max"] = _if(counter.get("max"), "number")
    return result


def _table(value: object) -> Evidence:
    return value if isinstance(value, Mapping) else {}


def _if(value: Any, kind: str) -> Any:
    return value if is_kind(value, kind) else None


@cache
def load_schema() -> dict[str, Any]:
    """The JSON Schema of signoff.json."""
    schema: dict[str, Any] = json.loads((Path(__file__).parent / "signoff.schema.json").read_text(encoding="utf-8"))
    return schema


def validate_signoff(document: object) -> dict[str, Any]:
    """The document itself; InputError, naming the place, where it is not the content of a signoff.json."""
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(load_schema()).iter_errors(document):
        place = "/".join(str(part) for part in error.absolute_path) or "the top level"
        raise InputError(f"this is no valid signoff.json: {error.message[:200]} at {place}")
    assert isinstance(document, dict)
    return document


def write_signoff(document: dict[str, Any], path: Path) -> None:
    """Validate and write; never half-written."""
    validate_signoff(document)
    write_atomically(path, json.dumps(document, indent=1, allow_nan=False).encode() + b"\n")
