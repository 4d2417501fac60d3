"""Reads a certificate and checks what it says of itself: its digest, the models, semantics, regions and domain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from codesign.checker.result import CannotCheck, Invalid, demand, same
from codesign.network import FloatNetwork, load_network
from codesign.proof.forms import Flags
from codesign.proof.proof_file import ProofFile, digest, proof_path, read
from codesign.proof.statement import ALL_INPUTS_METHOD, METHODS, read_document, region_box, sentences
from codesign.quantization import IntegerNetwork, Profile, read_integer_network

PROFILES = get_args(Profile)


@dataclass(frozen=True, eq=False)
class Claims:
    """A certificate that is consistent with its models and its proof file. `integers`: one a profile, in its order."""

    document: dict[str, Any]
    regions: list[dict[str, Any]]
    proof: ProofFile
    network: FloatNetwork
    integers: tuple[IntegerNetwork, ...]
    on_grid: Flags  # (N,) regions of dequantized inputs only

    @property
    def second_order(self) -> bool:
        """Whether quadratic zonotopes are replayed besides the joint zonotope."""
        return bool(self.document["method"] == METHODS["quadratic"])

    @property
    def domain(self) -> dict[str, Any] | None:
        """What is stated of all inputs of a domain."""
        return self.document.get("all_inputs")


def read_claims(certificate: Path, float_path: Path, int8_path: Path) -> Claims:
    """InputError for files that cannot be read, Invalid for what does not agree, CannotCheck for other kinds."""
    document, wrong = read_document(certificate)
    same("the certificate's schema", wrong, "")
    if "digest" not in document:
        raise CannotCheck("a certificate without a digest; certify again with this version")
    same("digest (the certificate was edited)", document["digest"], digest(document))
    whole = "all_inputs" in document
    if document["method"] not in ([ALL_INPUTS_METHOD] if whole else METHODS.values()):
        raise CannotCheck(f"bounds by the method '{document['method']}'")
    demand(not whole or [r.get("kind") for r in document["regions"]] == ["domain"], "all_inputs: not of one domain")
    network, profiles = load_network(float_path), document["int8"]["profiles"]
    known = len(set(profiles)) == len(profiles) and set(profiles) <= set(PROFILES)
    demand(known, f"int8/profiles: {profiles} are not semantics profiles; known are {', '.join(PROFILES)}")
    integers = tuple(read_integer_network(int8_path, profile) for profile in profiles)
    for name, found in (("float", network.sha256), *(("int8", net.sha256) for net in integers)):
        same(f"{name}_sha256 (another model)", document[f"{name}_sha256"], found)
        same(f"{name}/sha256 (another model)", document[name]["sha256"], found)
    tensor = integers[0].input
    real = {"scale": tensor.scale, "zero_point": tensor.zero_point, "minimum": tensor.q_min, "maximum": tensor.q_max}
    for name, value in real.items():
        same(f"input_quantization/{name}", document["input_quantization"][name], value)
    if document.get("proof_file") is None:
        raise CannotCheck("a certificate without a proof file")
    regions = document["regions"]
    try:
        proof = read(proof_path(certificate), document)
        boxes = [region_box(region, document["domain"], network.input_shape) for region in regions]
    except ValueError as error:
        raise Invalid(str(error)) from None
    same("regions in the proof file", proof.lo.shape, (len(regions), *network.input_shape))
    for k, (lo, hi) in enumerate(boxes):
        equal = np.array_equal(lo, proof.lo[k]) and np.array_equal(hi, proof.hi[k])
        demand(equal, f"region {k} ('{regions[k]['id']}') is not the region that the proof is about")
    grid = np.array([region.get("kind") == "grid" for region in regions])
    for name, text in sentences(regions, whole and document["all_inputs"]["any_length"]).items():
        same(name, document[name], text)
    return Claims(document, regions, proof, network, integers, grid)
