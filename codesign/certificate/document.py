"""Builds, validates, writes and reads certificate.json."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.certificate.proof_file import proof_path
from codesign.errors import InputError
from codesign.files import write_atomically
from codesign.proof.arithmetic import arithmetic_facts
from codesign.proof.float32 import MODEL
from codesign.proof.ranges import NAMES
from codesign.proof.statement import METHODS, conclusions, sentences
from codesign.quantization import Calibration, pair_facts, with_profile
from codesign.quantization.align import align
from codesign.verification import Certification
from codesign.verification.affine import Array
from codesign.verification.all_inputs import AllInputs

SCHEMA_ID = "codesign-certificate-1"
_MAX_BYTES = 256 << 20


@cache
def _schema() -> dict[str, Any]:
    text = (Path(__file__).parent / "certificate.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def certificate_document(
    certification: Certification,
    samples: Sequence[int | None],
    domain: tuple[Array, Array],
    whole: AllInputs | None = None,
    data: Calibration | None = None,
) -> dict[str, Any]:
    """The content of certificate.json. `samples` gives each region's index in the calibration data (None: the domain).

    `domain` is the per-feature input range that regions were clipped to; `whole` what is stated of all inputs of it.
    `data`: the samples and labels that the certificate rests on, named by their hashes.
    """
    c = certification
    options, network = c.options, c.integer_network
    tensor = network.input
    regions = [
        {**entry, "sample": sample, "center": result.region.center.tolist()}
        for entry, result, sample in zip(c.region_entries(), c.regions, samples, strict=True)
    ]
    document = {
        "schema": SCHEMA_ID,
        "verdict": None,
        "float": {"name": c.float_network.name, "sha256": c.float_network.sha256, "source": c.float_network.source},
        "int8": {"name": network.name, "sha256": network.sha256, "profiles": list(c.profiles)},
        "float_sha256": c.float_network.sha256,
        "int8_sha256": network.sha256,
        "pair": pair_facts(align(c.float_network, network)),
        **sentences(regions),
        "input_quantization": {
            "scale": tensor.scale,
            "zero_point": tensor.zero_point,
            "minimum": -128 if tensor.dtype == "int8" else -32768,
            "maximum": 127 if tensor.dtype == "int8" else 32767,
            "rule": "clamp(round(x / scale) + zero_point); float32 division, ties away from zero, NaN to zero point",
        },
        "domain": {"lo": domain[0].tolist(), "hi": domain[1].tolist()},
        "data": None if data is None else data.describe(),
        "method": METHODS[options.method],
        "parameters": {
            "seed": options.seed,
            "evaluations": options.evaluations,
            "proof": options.proof,
            "audit_sample": options.audit_sample,
            "prover": options.prover,
            "time_limit": options.time_limit,
        },
        "criteria": options.criteria.to_json(),
        "summary": {},
        "float32_model": MODEL,
        "ranges": {name: ranges.to_json() for name, ranges in zip(NAMES, c.ranges, strict=True)},
        "proof": c.proof.to_json(),
        "arithmetic": arithmetic_facts([with_profile(network, profile) for profile in c.profiles]),  # type: ignore[arg-type]
        "regions": regions,
        "seconds": c.seconds,
        "versions": _versions(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return concluded(document if whole is None else whole.describe(document))


def concluded(document: dict[str, Any]) -> dict[str, Any]:
    """The document with what follows from its regions: verdicts of the criteria, the summary and the verdict."""
    found = conclusions(document)
    parts = {part: {**document[part], **found[part]} for part in ("criteria", "summary")}
    return {**document, **parts, **found[""]}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("codesign", "numpy", "scipy", "python-flint", "dreal", "tensorflow", "tflite-micro"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def validate_certificate(document: object) -> dict[str, Any]:
    """The document itself; InputError, naming the place, where it is no certificate."""
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(_schema()).iter_errors(document):
        place = "/".join(str(part) for part in error.absolute_path) or "the top level"
        raise InputError(f"this is no valid certificate: {error.message[:200]} at {place}")
    assert isinstance(document, dict)
    return document


def write_certificate(document: dict[str, Any], path: Path, proof: bytes | None = None) -> None:
    """Validate and write, the proof beside it; never half-written."""
    validate_certificate(document)
    if proof is not None:
        write_atomically(proof_path(path), proof)
    write_atomically(path, json.dumps(document, indent=1, allow_nan=False).encode() + b"\n")


def load_certificate(path: str | Path) -> dict[str, Any]:
    """Read and validate a certificate. InputError for anything else."""
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"'{path}' is too large for a certificate; give a certificate.json")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror}); give a certificate.json") from None
    except (ValueError, RecursionError):
        raise InputError(f"'{path}' is not JSON; give a certificate.json that 'codesign certify' wrote") from None
    return validate_certificate(document)


def _on_grid(document: dict[str, Any], region: dict[str, Any], x: npt.NDArray[np.float32]) -> bool:
    scale = document["input_quantization"]["scale"]
    point = np.rint(x.astype(np.float64) / scale) * scale
    lo, hi = (np.asarray(region["box"][end]) for end in ("lo", "hi"))
    return bool(((point.astype(np.float32) == x) & (lo <= point) & (point <= hi)).all())


def hil_regions(
    document: dict[str, Any], x: npt.NDArray[np.float32], logits: Array | None = None
) -> list[dict[str, Any]]:
    """What the cross-check needs of the regions that hold for samples of x (N, T, D): sample, output_bound, top1.

    A region around a sample of the data holds for it; one of grid points where it is such a point (rounded to float32).
    A domain region holds for every sample inside the domain; one around no sample of the data for none. With the float
    model's `logits` (N, ..., classes) it also certifies the class wherever their margin exceeds the one that it states.
    """
    lo, hi = (np.asarray(document["domain"][end]) for end in ("lo", "hi"))
    inside = np.flatnonzero(((x >= lo) & (x <= hi)).all(axis=(1, 2)))
    found = []
    for region in document["regions"]:
        if region["sample"] is not None:
            near = region["sample"] < len(x)
            holds = near and (region["kind"] != "grid" or _on_grid(document, region, x[region["sample"]]))
            samples = [region["sample"]] if holds else []
        elif region["sample"] is None and region["radius"] is None:
            samples = [int(k) for k in inside]
        else:
            samples = []
        found += [{"sample": k, "output_bound": region["total_bound"], "top1": region["top1"]} for k in samples]
    stated = document.get("all_inputs")
    margin = None if stated is None else stated.get("same_class_margin")
    if margin is not None and logits is not None and logits.shape[-1] > 1:
        ordered = np.sort(logits.reshape(len(x), -1, logits.shape[-1]), axis=2)
        apart = (ordered[..., -1] - ordered[..., -2] > margin).all(1)
        found += [{"sample": int(k), "output_bound": None, "top1": "proved"} for k in inside if apart[k]]
    return found
