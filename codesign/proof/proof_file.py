"""The proof file beside a certificate, NAME.proof.npz: plain arrays, from which a checker derives every bound again.

header   JSON as bytes: format, float_sha256, int8_sha256, profiles, steps (kind, place, units of every plane in order;
         ['fold', place, first]: after that step of an LSTM, symbols from before step `first` are folded)
lo, hi   (N, T, D) boxes of the regions
slopes   (N, S) slopes of the planes, step after step
resets   (N, R) 0 or 1: the units whose affine form is replaced by an interval, in the order of a replay
states   (N, P) for a whole domain: what every step of every LSTM ends in, or for any number of steps what no step
         leaves: -lo and hi of the float h, -lo and hi of the float c, largest differences of h and of c, (H,) each
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError

FORMAT = "codesign-proof-2"
_MAX_BYTES = 4 << 30
_ARRAYS = ("header", "lo", "hi", "slopes", "resets", "states")


@dataclass(frozen=True, eq=False)
class ProofFile:
    """Its content, of the right types and shapes, all numbers finite."""

    header: dict[str, Any]
    lo: npt.NDArray[np.float64]
    hi: npt.NDArray[np.float64]
    slopes: npt.NDArray[np.float64]
    resets: npt.NDArray[np.bool_]
    states: npt.NDArray[np.float64]


def proof_path(certificate: Path) -> Path:
    """certificate.json -> certificate.proof.npz."""
    return certificate.with_name(f"{certificate.stem}.proof.npz")


def pack(proof: ProofFile) -> bytes:
    """The file's content; the header gets the format's name."""
    buffer = io.BytesIO()
    header = json.dumps({**proof.header, "format": FORMAT}).encode()
    np.savez_compressed(
        buffer,
        header=np.frombuffer(header, np.uint8),
        lo=proof.lo,
        hi=proof.hi,
        slopes=proof.slopes,
        resets=proof.resets.astype(np.uint8),
        states=proof.states,
    )
    return buffer.getvalue()


def unpack(content: bytes) -> ProofFile:
    """The inverse of `pack`. ValueError, saying what is wrong, for anything else; nothing is ever unpickled."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(info.file_size for info in archive.infolist()) > _MAX_BYTES:
                raise ValueError("it unpacks to more than it may")
        with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in _ARRAYS}
        header = json.loads(arrays["header"].astype(np.uint8).tobytes())
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("a member has no array's header")  # numpy gives such a one as bytes
    except Exception as error:  # numpy, zipfile and its decompressors raise many types on damaged files
        raise ValueError(str(error) or type(error).__name__) from None
    if not isinstance(header, dict) or header.get("format") != FORMAT or not isinstance(header.get("steps"), list):
        raise ValueError(f"its header is not one of format {FORMAT}")
    lo, hi, slopes, resets, states = (arrays[name] for name in _ARRAYS[1:])
    if lo.ndim != 3 or lo.shape != hi.shape or (slopes.ndim, resets.ndim, states.ndim) != (2, 2, 2):
        raise ValueError("its arrays have wrong shapes")
    if len({len(array) for array in (lo, slopes, resets, states)}) != 1:
        raise ValueError("its arrays disagree on the number of regions")
    for name, array in (("lo", lo), ("hi", hi), ("slopes", slopes), ("states", states)):
        if array.dtype != np.float64 or not np.isfinite(array).all():
            raise ValueError(f"its array '{name}' has numbers that are not finite float64")
    if resets.dtype != np.uint8 or resets.max(initial=0) > 1:
        raise ValueError("its array 'resets' has something else than 0 and 1")
    return ProofFile(header, lo, hi, slopes, resets.astype(bool), states)


def read(path: Path, document: dict[str, Any]) -> ProofFile:
    """The proof file that a certificate names. InputError where it cannot be read; ValueError where it is another."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"the proof file '{path}' cannot be read ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest() != document["proof_file"]["sha256"]:
        raise ValueError("SHA-256 of the proof file: it is not the one that the certificate names")
    proof = unpack(content)
    stated = {name: document[name] for name in ("float_sha256", "int8_sha256")}
    for name, value in {**stated, "profiles": document["int8"]["profiles"]}.items():
        if proof.header.get(name) != value:
            raise ValueError(f"{name} in the proof file: not the certificate's")
    return proof


def digest(document: dict[str, Any]) -> str:
    """SHA-256 of a certificate without its digest: keys sorted, no blanks, shortest decimals that round-trip."""
    content = {key: value for key, value in document.items() if key != "digest"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
