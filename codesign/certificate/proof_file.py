"""The proof that lies beside a certificate: the choices of a run, from which a checker derives every bound again."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from codesign.verification import Certification

FORMAT = "codesign-proof-1"


def proof_path(certificate: Path) -> Path:
    """certificate.json -> certificate.proof.npz."""
    return certificate.with_name(f"{certificate.stem}.proof.npz")


def proof_content(certification: Certification) -> bytes | None:
    """The proof file: header (JSON), lo and hi (N, T, D), slopes (N, S), resets (N, R). None without any trace.

    `skipped` in the header lists the regions that have no trace, such as those left out by a time limit.
    """
    results = certification.regions
    traces = [r.trace for r in results]
    known = next((trace for trace in traces if trace is not None), None)
    if known is None:
        return None
    if any(trace is not None and trace.steps != known.steps for trace in traces):
        raise ArithmeticError("the regions of a certification were not propagated in the same steps")
    header = {
        "format": FORMAT,
        "float_sha256": certification.float_network.sha256,
        "int8_sha256": certification.integer_network.sha256,
        "profiles": list(certification.profiles),
        "steps": [list(step) for step in known.steps],
        "skipped": [k for k, trace in enumerate(traces) if trace is None],
    }
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        header=np.frombuffer(json.dumps(header).encode(), np.uint8),
        lo=np.stack([r.region.lo for r in results]),
        hi=np.stack([r.region.hi for r in results]),
        slopes=np.stack([(trace or known).slopes for trace in traces]),
        resets=np.stack([(trace or known).resets for trace in traces]).astype(np.uint8),
    )
    return buffer.getvalue()


def seal(document: dict[str, Any], proof: bytes | None) -> dict[str, Any]:
    """The certificate with the proof's hash and its own digest: the SHA-256 of all the rest, as canonical JSON."""
    sealed = {key: value for key, value in document.items() if key != "digest"}
    sealed["proof_file"] = (
        None if proof is None else {"format": FORMAT, "sha256": hashlib.sha256(proof).hexdigest(), "bytes": len(proof)}
    )
    return {**sealed, "digest": digest(sealed)}


def digest(document: dict[str, Any]) -> str:
    """SHA-256 of the document without its digest: keys sorted, no blanks, shortest decimals that round-trip."""
    content = {key: value for key, value in document.items() if key != "digest"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
