"""Seals a certificate: the proof of its run is packed, and both get hashes."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from codesign.proof.proof_file import FORMAT, ProofFile, digest, pack, proof_path
from codesign.quantization.align import align
from codesign.verification import Certification
from codesign.verification.propagate import propagate
from codesign.verification.quadratic_network import sharpened
from codesign.verification.relaxation import Recorder
from codesign.verification.trace import Trace, traces

__all__ = ["digest", "proof_content", "proof_path", "seal"]


def proof_content(certification: Certification) -> bytes:
    """The proof file of a run (`codesign.proof.proof_file`).

    Regions that a time limit left out get the choices of another one: any are sound.
    """
    results = certification.regions
    kept = [r.trace for r in results]
    known = next((trace for trace in kept if trace is not None), None) or _some_choices(certification)
    if any(trace is not None and trace.steps != known.steps for trace in kept):
        raise ArithmeticError("the regions of a certification were not propagated in the same steps")
    header = {
        "float_sha256": certification.float_network.sha256,
        "int8_sha256": certification.integer_network.sha256,
        "profiles": list(certification.profiles),
        "steps": [list(step) for step in known.steps],
    }
    lo, hi = (np.stack([getattr(r.region, end) for r in results]) for end in ("lo", "hi"))
    slopes, resets, states = (
        np.stack([getattr(trace or known, name) for trace in kept]) for name in ("slopes", "resets", "states")
    )
    return pack(ProofFile(header, lo, hi, slopes, resets, states))


def _some_choices(certification: Certification) -> Trace:
    """Of a run that no region was reached in."""
    integer, regions, recorder = certification.integer_network, [certification.regions[0].region], Recorder()
    stages = align(certification.float_network, integer)
    found = propagate(stages, integer, regions, recorder)
    choices = traces(recorder.batches, found.resets, 1)[0]
    if certification.options.method == "quadratic":
        return choices.then(sharpened(found, stages, integer, regions)[2][0])
    return choices


def seal(document: dict[str, Any], proof: bytes | None) -> dict[str, Any]:
    """The certificate with the proof's hash and its own digest, the SHA-256 of all the rest as canonical JSON."""
    sealed = {key: value for key, value in document.items() if key != "digest"}
    sealed["proof_file"] = (
        None if proof is None else {"format": FORMAT, "sha256": hashlib.sha256(proof).hexdigest(), "bytes": len(proof)}
    )
    return {**sealed, "digest": digest(sealed)}
