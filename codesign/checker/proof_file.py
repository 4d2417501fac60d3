"""The proof file beside a certificate: NAME.proof.npz, plain arrays.

header   JSON as bytes: format, float_sha256, int8_sha256, profiles, steps (kind, place, units of every plane in order)
lo, hi   (N, T, D) boxes of the regions
slopes   (N, S) slopes of the planes, step after step
resets   (N, R) 0 or 1: the units whose affine form is replaced by an interval, in the order of the replay
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

from codesign.checker.result import Invalid
from codesign.errors import InputError
from codesign.proof.obligation import VARIABLES

FORMAT = "codesign-proof-1"
MAX_BYTES = 4 << 30
_ARRAYS = ("header", "lo", "hi", "slopes", "resets")


@dataclass(frozen=True, eq=False)
class ProofFile:
    """A proof file's content, of the right types, shapes and finite; nothing else has been checked."""

    header: dict[str, Any]
    lo: npt.NDArray[np.float64]
    hi: npt.NDArray[np.float64]
    slopes: npt.NDArray[np.float64]
    resets: npt.NDArray[np.bool_]


def proof_path(certificate: Path) -> Path:
    """Where the proof of a certificate lies: certificate.json -> certificate.proof.npz."""
    return certificate.with_name(f"{certificate.stem}.proof.npz")


def read_proof(path: Path, sha256: str) -> ProofFile:
    """InputError where it cannot be read at all, Invalid where its hash or its content is not as it should be."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the proof file '{path}' cannot be read ({error.strerror}); it belongs beside the certificate"
        ) from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Invalid(f"the proof file '{path.name}' is not the one that the certificate names (SHA-256 differs)")
    try:
        arrays = _arrays(content)
        header = json.loads(arrays["header"].astype(np.uint8).tobytes())
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise Invalid(f"the proof file is damaged ({error})") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT or not isinstance(header.get("steps"), list):
        raise Invalid(f"the proof file's header is not one of format {FORMAT}")
    lo, hi, slopes, resets = (arrays[name] for name in _ARRAYS[1:])
    regions = len(lo)
    if lo.ndim != 3 or lo.shape != hi.shape or slopes.ndim != 2 or resets.ndim != 2:
        raise Invalid("the proof file's arrays have wrong shapes")
    if len(slopes) != regions or len(resets) != regions:
        raise Invalid("the proof file's arrays disagree on the number of regions")
    for name, array in (("lo", lo), ("hi", hi), ("slopes", slopes)):
        if array.dtype != np.float64 or not np.isfinite(array).all():
            raise Invalid(f"the proof file's array '{name}' has numbers that are not finite float64")
    if not np.isin(resets, (0, 1)).all():
        raise Invalid("the proof file's array 'resets' has something else than 0 and 1")
    return ProofFile(header, lo, hi, slopes, resets.astype(bool))


def _arrays(content: bytes) -> dict[str, npt.NDArray[Any]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(info.file_size for info in archive.infolist()) > MAX_BYTES:
            raise ValueError("it unpacks to more than it may")
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {name: archive[name] for name in _ARRAYS}


class Choices:
    """Hands out the recorded choices of some regions in order, and makes sure that none is missing or left over."""

    def __init__(self, proof: ProofFile, rows: slice) -> None:
        self._steps: list[Any] = proof.header["steps"]
        self._slopes, self._resets = proof.slopes[rows], proof.resets[rows]
        self._step = self._slope = self._reset = 0

    def slopes(self, kind: str, place: str, units: int) -> list[npt.NDArray[np.float64]]:
        """One array (B, units) a variable of the plane."""
        found = self._steps[self._step] if self._step < len(self._steps) else None
        if found != [kind, place, units]:
            raise Invalid(f"the proof's step {self._step} is {found} where {[kind, place, units]} is needed")
        self._step += 1
        result = []
        for _ in VARIABLES[kind]:
            part = self._slopes[:, self._slope : self._slope + units]
            if part.shape[1] != units:
                raise Invalid(f"the proof's slopes end before step {self._step - 1}, {place}")
            result.append(part)
            self._slope += units
        return result

    def resets(self, units: int) -> npt.NDArray[np.bool_]:
        part = self._resets[:, self._reset : self._reset + units]
        if part.shape[1] != units:
            raise Invalid("the proof's resets end too early")
        self._reset += units
        return part

    def finish(self) -> None:
        if self._step != len(self._steps) or self._slope != self._slopes.shape[1]:
            raise Invalid(f"the proof has {len(self._steps) - self._step} steps more than the networks have")
        if self._reset != self._resets.shape[1]:
            raise Invalid("the proof has more resets than the networks have units")
