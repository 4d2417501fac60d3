"""Reads a certificate and checks what it says of itself: its digest, the models, semantics, regions and domain."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.checker.proof_file import ProofFile, proof_path, read_proof
from codesign.checker.result import CannotCheck, Invalid
from codesign.errors import InputError
from codesign.network import FloatNetwork, load_network
from codesign.quantization import IntegerNetwork, read_integer_network

SCHEMA_ID = "codesign-certificate-1"
METHOD = "joint differential zonotope"
PROFILES = ("tflm-double", "tflm-float")
Array = npt.NDArray[np.float64]

CLAIM = (
    "For every float32 input inside a region, the dequantized output of the integer network minus the output "
    "of the float network, taken over the reals, lies between difference_lo and difference_hi, elementwise."
)
GRID_CLAIM = (
    " In a region of kind 'grid' this holds for every integer input whose dequantized values lie in the box; the float "
    "network is taken at the dequantized values scale * (q - zero_point), or at these rounded to float32, so that no "
    "rounding of the input separates the networks. Such a region says nothing of other float inputs."
)
RULE = "|x - center| <= radius elementwise, clipped to the domain; a center outside stays inside"
BOX_RULE = "; where a region has a box, lo <= x <= hi elementwise instead"


@dataclass(frozen=True, eq=False)
class Claims:
    """A certificate that is consistent with its models and its proof file. `integers`: one a profile, in its order."""

    document: dict[str, Any]
    proof: ProofFile
    network: FloatNetwork
    integers: tuple[IntegerNetwork, ...]
    on_grid: npt.NDArray[np.bool_]  # (N,) regions of dequantized inputs only

    @property
    def regions(self) -> list[dict[str, Any]]:
        regions: list[dict[str, Any]] = self.document["regions"]
        return regions


def read_claims(certificate: Path, float_path: Path, int8_path: Path) -> Claims:
    """InputError for files that cannot be read, Invalid for what does not agree, CannotCheck for other kinds."""
    document = _load(certificate)
    if document["digest"] != _digest(document):
        raise Invalid("the certificate was edited: its digest is not that of its content")
    if document["method"] != METHOD:
        raise CannotCheck(f"bounds by the method '{document['method']}'")
    network, int8_content = load_network(float_path), _content(int8_path)
    _models(document, network, hashlib.sha256(int8_content).hexdigest())
    profiles = document["int8"]["profiles"]
    if len(set(profiles)) != len(profiles) or not set(profiles) <= set(PROFILES):
        raise Invalid(f"int8/profiles: {profiles} are not semantics profiles; known are {', '.join(PROFILES)}")
    integers = tuple(read_integer_network(int8_path, profile) for profile in profiles)
    if integers[0].sha256 != document["int8_sha256"]:
        raise Invalid("int8_sha256: the int8 model changed while it was read")
    _input_quantization(document["input_quantization"], integers[0])
    if document.get("proof_file") is None:
        raise CannotCheck("a certificate without a proof file")
    proof = read_proof(proof_path(certificate), document["proof_file"]["sha256"])
    _header(proof, document)
    regions = document["regions"]
    if proof.lo.shape != (len(regions), *network.input_shape):
        raise Invalid(
            f"the proof file has regions of shape {proof.lo.shape}, the certificate has {len(regions)} regions"
        )
    domain = _domain(document, network.input_shape[1])
    kinds = []
    for k, region in enumerate(regions):
        lo, hi = region_box(region, domain, integers[0])
        if not (np.array_equal(lo, proof.lo[k]) and np.array_equal(hi, proof.hi[k])):
            raise Invalid(f"region {k} ('{region['id']}') is not the region that the proof is about")
        kinds.append(region.get("kind") == "grid")
    if document["claim"] != CLAIM + GRID_CLAIM * any(kinds):
        raise Invalid("claim: not the statement that is checked here")
    if document["region_rule"] != RULE + BOX_RULE * any(region.get("box") is not None for region in regions):
        raise Invalid("region_rule: not the rule by which regions are understood here")
    return Claims(document, proof, network, integers, np.array(kinds))


def _load(path: Path) -> dict[str, Any]:
    from jsonschema import Draft202012Validator

    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror}); give a certificate.json") from None
    except (ValueError, RecursionError):
        raise InputError(f"'{path}' is not a certificate.json that 'codesign certify' wrote") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA_ID:
        raise InputError(f"'{path}' is not a certificate of schema {SCHEMA_ID}")
    schema = Path(__file__).parent.parent / "certificate" / "certificate.schema.json"
    for error in Draft202012Validator(json.loads(schema.read_text(encoding="utf-8"))).iter_errors(document):
        place = "/".join(str(part) for part in error.absolute_path) or "the top level"
        raise Invalid(f"the certificate is malformed at {place}: {error.message[:200]}")
    if not isinstance(document.get("digest"), str):
        raise CannotCheck("a certificate without a digest; certify again with this version")
    return document


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _digest(document: dict[str, Any]) -> str:
    content = {key: value for key, value in document.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror}); give the int8 .tflite") from None


def _models(document: dict[str, Any], network: FloatNetwork, int8_sha256: str) -> None:
    for name, found in (("float", network.sha256), ("int8", int8_sha256)):
        if document[f"{name}_sha256"] != found or document[name]["sha256"] != found:
            raise Invalid(f"{name}_sha256: the certificate is about another {name} model than the file given")


def _input_quantization(stated: dict[str, Any], network: IntegerNetwork) -> None:
    tensor = network.input
    found = {"scale": tensor.scale, "zero_point": tensor.zero_point, "minimum": tensor.q_min, "maximum": tensor.q_max}
    for name, value in found.items():
        if stated[name] != value:
            raise Invalid(f"input_quantization/{name}: {stated[name]} is stated, the model has {value}")


def _header(proof: ProofFile, document: dict[str, Any]) -> None:
    stated = {
        "float_sha256": document["float_sha256"],
        "int8_sha256": document["int8_sha256"],
        "profiles": document["int8"]["profiles"],
    }
    for name, value in stated.items():
        if proof.header.get(name) != value:
            raise Invalid(f"the proof file's {name} is not the certificate's")


def _domain(document: dict[str, Any], features: int) -> tuple[Array, Array]:
    lo, hi = (np.asarray(document["domain"][end], dtype=np.float64) for end in ("lo", "hi"))
    if lo.shape != (features,) or hi.shape != (features,) or not (lo <= hi).all():
        raise Invalid("domain: not one range a feature")
    return lo, hi


def region_box(region: dict[str, Any], domain: tuple[Array, Array], network: IntegerNetwork) -> tuple[Array, Array]:
    """(lo, hi), each (T, D): the inputs that the certificate's region means."""
    center = np.asarray(region["center"], dtype=np.float64)
    if center.shape != network.input.shape:
        raise Invalid(f"region '{region['id']}': its center has shape {center.shape}")
    if region.get("box") is not None:
        lo, hi = (np.asarray(region["box"][end], dtype=np.float64) for end in ("lo", "hi"))
        if lo.shape != center.shape or hi.shape != center.shape or not ((lo <= center) & (center <= hi)).all():
            raise Invalid(f"region '{region['id']}': its box is no box around its center")
        return lo, hi
    radius = region["radius"]
    if radius is None:
        raise CannotCheck(f"region '{region['id']}', a whole domain")
    if region.get("kind", "ball") != "ball" or region.get("free_from", 0) != 0:
        raise Invalid(f"region '{region['id']}': neither a ball around its center nor a box")
    lo = np.minimum(np.maximum(center - radius, domain[0]), center)
    return lo, np.maximum(np.minimum(center + radius, domain[1]), center)
