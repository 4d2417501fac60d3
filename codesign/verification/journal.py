"""A journal of finished batches of regions, so that a killed run goes on where it stopped.

Append-only JSON lines, one a batch: {"key", "digest", "body"}. The key hashes everything that the result is a function
of: both models, the semantics profiles, the options, the regions, the verifier's own source and numpy's version. A last
line without its end (the run was killed while writing) is dropped; any other damage is refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.proof.thresholds import Threshold
from codesign.quantization.integer import IntegerNetwork
from codesign.verification.audit import ProofSummary
from codesign.verification.facts import Facts
from codesign.verification.regions import Region
from codesign.verification.results import Float32, Options, RegionResult
from codesign.verification.search import SearchResult
from codesign.verification.thresholds import ThresholdResult
from codesign.verification.trace import Trace

Batch = tuple[list[RegionResult], ProofSummary]
_MAX_BYTES = 4 << 30


@cache
def source_digest() -> str:
    """SHA-256 over the source of the packages that results depend on."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256(np.__version__.encode())
    for package in ("network", "quantization", "semantics", "proof", "verification"):
        for path in sorted((root / package).glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def batch_key(
    models: Sequence[str], networks: Sequence[IntegerNetwork], options: Options, regions: Sequence[Region], index: int
) -> str:
    """The key of batch `index`; `models`: the SHA-256 of both model files."""
    told = {
        "source": source_digest(),
        "models": list(models),
        "profiles": [n.profile for n in networks],
        "options": {k: v for k, v in asdict(options).items() if k not in ("jobs", "time_limit", "resume")},
        "index": index,
        "regions": [[r.name, r.kind, r.radius, r.free_from, r.grid_steps, list(r.center.shape)] for r in regions],
    }
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for region in regions:
        for values in (region.center, region.lo, region.hi):
            digest.update(np.ascontiguousarray(values, np.float64).tobytes())
    return digest.hexdigest()


class Journal:
    """Finished batches by key. InputError where the file is damaged or cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bodies: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._read()
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(
                f"'{path}' cannot be written ({error.strerror}); name another file with --resume"
            ) from None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def _read(self) -> None:
        wrong = f"'{self.path}' is no journal of 'codesign certify --resume', or it is damaged; name another file"
        try:
            if not self.path.is_file() or self.path.stat().st_size > _MAX_BYTES:
                raise InputError(wrong)
            content = self.path.read_bytes()
        except OSError as error:
            raise InputError(f"'{self.path}' cannot be read ({error.strerror}); name another file") from None
        whole = content.rfind(b"\n") + 1
        for line in content[:whole].splitlines():
            try:
                entry = json.loads(line)
                key, body = entry["key"], entry["body"]
                good = isinstance(key, str) and isinstance(body, str) and entry["digest"] == _digest(key, body)
                parsed = json.loads(body) if good else None
            except (ValueError, KeyError, TypeError, RecursionError):
                parsed = None
            if not isinstance(parsed, dict):
                raise InputError(wrong)
            self._bodies[key] = parsed
        if whole < len(content):
            if whole == 0 and not content.startswith(b'{"key": '):
                raise InputError(wrong)
            try:
                os.truncate(self.path, whole)
            except OSError as error:
                raise InputError(f"'{self.path}' cannot be written ({error.strerror}); name another file") from None

    def get(self, key: str, regions: Sequence[Region]) -> Batch | None:
        """The results of a finished batch, with its regions."""
        body = self._bodies.get(key)
        if body is None:
            return None
        results = [_result(data, region) for data, region in zip(body["results"], regions, strict=True)]
        return results, ProofSummary.restored(body["proof"])

    def put(self, key: str, batch: Batch) -> None:
        """Append one line, on disk when this returns."""
        results, proof = batch
        body = json.dumps({"results": [_to_json(r) for r in results], "proof": proof.state()})
        line = json.dumps({"key": key, "digest": _digest(key, body), "body": body}).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError as error:
            raise InputError(f"'{self.path}' cannot be written ({error.strerror}); name another file") from None


def _digest(key: str, body: str) -> str:
    return hashlib.sha256(f"{key}\n{body}".encode()).hexdigest()


def _pack(array: npt.NDArray[Any]) -> dict[str, Any]:
    """Exact, whatever the values are."""
    data = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 1)).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def _unpack(data: dict[str, Any]) -> npt.NDArray[Any]:
    raw = zlib.decompress(base64.b64decode(data["data"]))
    return np.frombuffer(raw, np.dtype(data["dtype"])).reshape(data["shape"]).copy()


def _optional(array: npt.NDArray[Any] | None) -> dict[str, Any] | None:
    return None if array is None else _pack(array)


_ARRAYS = ("lower", "upper", "logit_bound", "output_lo", "output_hi")
_PLAIN = ("top1", "top1_class", "epsilon", "reason", "sources", "seconds", "orders")


def _to_json(result: RegionResult) -> dict[str, Any]:
    found, trace = result.found, result.trace
    return {
        **{name: _pack(getattr(result, name)) for name in _ARRAYS},
        **{name: getattr(result, name) for name in _PLAIN},
        "abstract": _optional(result.abstract),
        "facts": result.facts.to_json(),
        "float32": {
            "evaluation": _pack(result.float32.evaluation),
            "logits": _pack(result.float32.logits),
            "dequantization": result.float32.dequantization,
        },
        "thresholds": [(asdict(t.threshold), t.proved, t.hysteresis) for t in result.thresholds],
        "found": {
            "error": found.error,
            "per_output": _pack(found.per_output),
            "worst": _pack(found.worst),
            "disagreement": _optional(found.disagreement),
            "evaluations": found.evaluations,
            "logit_error": found.logit_error,
            "violations": {name: _pack(x) for name, x in found.violations.items()},
            "float_range": _optional(found.float_range),
        },
        "trace": None
        if trace is None
        else {"steps": trace.steps, "slopes": _pack(trace.slopes), "resets": _pack(trace.resets)},
    }


def _result(data: dict[str, Any], region: Region) -> RegionResult:
    fields: dict[str, Any] = {name: _unpack(data[name]) for name in _ARRAYS} | {name: data[name] for name in _PLAIN}
    found, trace, abstract = data["found"], data["trace"], data["abstract"]
    disagreement = found["disagreement"]
    return RegionResult(
        region=region,
        **fields,
        abstract=None if abstract is None else _unpack(abstract),
        facts=Facts.from_json(data["facts"]),
        float32=Float32(
            _unpack(data["float32"]["evaluation"]),
            _unpack(data["float32"]["logits"]),
            data["float32"]["dequantization"],
        ),
        thresholds=tuple(ThresholdResult(Threshold(**asked), *told) for asked, *told in data["thresholds"]),
        found=SearchResult(
            found["error"],
            _unpack(found["per_output"]),
            _unpack(found["worst"]),
            None if disagreement is None else _unpack(disagreement),
            found["evaluations"],
            found["logit_error"],
            {name: _unpack(x) for name, x in found["violations"].items()},
            None if found["float_range"] is None else _unpack(found["float_range"]),
        ),
        trace=None
        if trace is None
        else Trace(
            tuple((kind, place, n) for kind, place, n in trace["steps"]),
            _unpack(trace["slopes"]),
            _unpack(trace["resets"]),
        ),
    )
