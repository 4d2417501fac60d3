"""Reads a certificate and checks what it says of itself: its digest, the models, semantics, regions and domain."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codesign.checker.forms import Array, CannotCheck, Flags, Invalid
from codesign.errors import InputError
from codesign.network import FloatNetwork, load_network
from codesign.proof.proof_file import ProofFile, digest, proof_path, unpack
from codesign.proof.statement import read_document, sentences
from codesign.quantization import IntegerNetwork, read_integer_network

METHOD = "joint differential zonotope"
PROFILES = ("tflm-double", "tflm-float")


@dataclass(frozen=True, eq=False)
class Claims:
    """A certificate that is consistent with its models and its proof file. `integers`: one a profile, in its order."""

    document: dict[str, Any]
    proof: ProofFile
    network: FloatNetwork
    integers: tuple[IntegerNetwork, ...]
    on_grid: Flags  # (N,) regions of dequantized inputs only

    @property
    def regions(self) -> list[dict[str, Any]]:
        regions: list[dict[str, Any]] = self.document["regions"]
        return regions


def same(what: str, stated: object, found: object) -> None:
    """Invalid unless what is stated is what was found."""
    if stated != found:
        raise Invalid(f"{what}: {str(stated)[:80]} is stated, but it is {str(found)[:80]}")


def read_claims(certificate: Path, float_path: Path, int8_path: Path) -> Claims:
    """InputError for files that cannot be read, Invalid for what does not agree, CannotCheck for other kinds."""
    document, wrong = read_document(certificate)
    same("the certificate's schema", wrong, "")
    if "digest" not in document:
        raise CannotCheck("a certificate without a digest; certify again with this version")
    same("digest (the certificate was edited)", document["digest"], digest(document))
    if document["method"] != METHOD:
        raise CannotCheck(f"bounds by the method '{document['method']}'")
    network, profiles = load_network(float_path), document["int8"]["profiles"]
    if len(set(profiles)) != len(profiles) or not set(profiles) <= set(PROFILES):
        raise Invalid(f"int8/profiles: {profiles} are not semantics profiles; known are {', '.join(PROFILES)}")
    integers = tuple(read_integer_network(int8_path, profile) for profile in profiles)
    for name, found in (("float", network.sha256), *(("int8", net.sha256) for net in integers)):
        same(f"{name}_sha256 (another model)", document[f"{name}_sha256"], found)
        same(f"{name}/sha256 (another model)", document[name]["sha256"], found)
    tensor = integers[0].input
    real = {"scale": tensor.scale, "zero_point": tensor.zero_point, "minimum": tensor.q_min, "maximum": tensor.q_max}
    for name, value in real.items():
        same(f"input_quantization/{name}", document["input_quantization"][name], value)
    proof = _proof(certificate, document)
    regions = document["regions"]
    same("regions in the proof file", proof.lo.shape, (len(regions), *network.input_shape))
    domain = [np.asarray(document["domain"][end], dtype=np.float64) for end in ("lo", "hi")]
    if any(end.shape != (network.input_shape[1],) for end in domain) or not (domain[0] <= domain[1]).all():
        raise Invalid("domain: not one range a feature")
    for k, region in enumerate(regions):
        lo, hi = _region_box(region, domain, network.input_shape)
        if not (np.array_equal(lo, proof.lo[k]) and np.array_equal(hi, proof.hi[k])):
            raise Invalid(f"region {k} ('{region['id']}') is not the region that the proof is about")
    grid = np.array([region.get("kind") == "grid" for region in regions])
    for name, text in sentences(regions).items():
        same(name, document[name], text)
    return Claims(document, proof, network, integers, grid)


def _proof(certificate: Path, document: dict[str, Any]) -> ProofFile:
    path = proof_path(certificate)
    if document.get("proof_file") is None:
        raise CannotCheck("a certificate without a proof file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"the proof file '{path}' cannot be read ({error.strerror})") from None
    same("SHA-256 of the proof file", document["proof_file"]["sha256"], hashlib.sha256(content).hexdigest())
    try:
        proof = unpack(content)
    except ValueError as error:
        raise Invalid(f"the proof file is damaged: {error}") from None
    models = {name: document[name] for name in ("float_sha256", "int8_sha256")}
    for name, value in {**models, "profiles": document["int8"]["profiles"]}.items():
        same(f"{name} in the proof file", value, proof.header.get(name))
    return proof


def _region_box(region: dict[str, Any], domain: list[Array], shape: tuple[int, int]) -> tuple[Array, Array]:
    """(lo, hi), each (T, D): the inputs that the certificate's region means."""
    center = np.asarray(region["center"], dtype=np.float64)
    if center.shape != tuple(shape):
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
