"""Seals a certificate: the proof of its run is packed, and both get hashes."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from codesign.proof.proof_file import FORMAT, ProofFile, digest, pack, proof_path
from codesign.verification import Certification

__all__ = ["digest", "proof_content", "proof_path", "seal"]


def proof_content(certification: Certification) -> bytes | None:
    """The proof file of a run (`codesign.proof.proof_file`); None where no region has a trace."""
    results = certification.regions
    traces = [r.trace for r in results]
    known = next((trace for trace in traces if trace is not None), None)
    if known is None:
        return None
    if any(trace is not None and trace.steps != known.steps for trace in traces):
        raise ArithmeticError("the regions of a certification were not propagated in the same steps")
    header = {
        "float_sha256": certification.float_network.sha256,
        "int8_sha256": certification.integer_network.sha256,
        "profiles": list(certification.profiles),
        "steps": [list(step) for step in known.steps],
        "skipped": [k for k, trace in enumerate(traces) if trace is None],
    }
    lo, hi = (np.stack([getattr(r.region, end) for r in results]) for end in ("lo", "hi"))
    slopes, resets = (np.stack([getattr(trace or known, name) for trace in traces]) for name in ("slopes", "resets"))
    return pack(ProofFile(header, lo, hi, slopes, resets))


def seal(document: dict[str, Any], proof: bytes | None) -> dict[str, Any]:
    """The certificate with the proof's hash and its own digest, the SHA-256 of all the rest as canonical JSON."""
    sealed = {key: value for key, value in document.items() if key != "digest"}
    sealed["proof_file"] = (
        None if proof is None else {"format": FORMAT, "sha256": hashlib.sha256(proof).hexdigest(), "bytes": len(proof)}
    )
    return {**sealed, "digest": digest(sealed)}
