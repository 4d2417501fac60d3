"""Reading the evidence: every value with its kind, every problem noted as a failure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from codesign.text import some

Status = Literal["proved", "refuted", "unknown"]
Evidence = Mapping[str, Any]

ORDERS: tuple[Literal["top1_above", "topk", "ranking"], ...] = ("top1_above", "topk", "ranking")
"""Criteria whose status every region tells."""

_LARGEST = 2**63  # of an integer: above, it would not convert to a float or to text


@dataclass(frozen=True)
class Region:
    """A certified region, as its entry in the certificate states it.

    `bound` is the total, with what float32 adds; `real_bound` the one over the reals, which `observed` is held against.
    """

    name: str
    kind: str
    radius: float | None
    sample: int | None
    bound: tuple[float, ...]
    real_bound: tuple[float, ...]
    observed: tuple[float, ...]
    top1: Status | None
    top1_class: int | None
    counted: bool
    orders: Mapping[str, Any]
    bands: Mapping[str, Any]  # hysteresis of thresholds, by `limit_name`
    reached: bool
    vacuous: bool
    outside: bool  # its center lies outside the domain

    @property
    def several(self) -> bool:
        """Whether there is a class to tell: of one output there is none."""
        return self.top1 is not None and len(self.bound) > 1

    def holds_at(self, sample: int) -> bool:
        """Whether the sample lies in it: it is the sample's own region, or the whole domain."""
        return self.sample == sample or (self.sample is None and self.radius is None)


@dataclass
class Reader:
    """Collects failures, notes on what is not proved and statements of what is, while reading."""

    failures: list[str] = field(default_factory=list)
    contradicted: bool = False
    notes: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)

    def take(self, data: object, where: str, *path: str | int, kind: str) -> Any:
        """The value at `path` if it is of that kind, else None and a failure."""
        value = data
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) and isinstance(key, str) else None
        if not is_kind(value, kind):
            problem = "lacks" if value is None else "has no valid"
            self.failures.append(f"{where} {problem} '{'/'.join(map(str, path))}'")
            return None
        return value

    def regions(self, certificate: Evidence | None) -> list[Region]:
        if not isinstance(certificate, Mapping):
            self.failures.append("there is no certificate")
            return []
        entries = self.take(certificate, "the certificate", "regions", kind="list")
        limits = self.take(certificate, "the certificate", "ranges", "outputs", "vacuous_from", kind="numbers")
        domain = certificate.get("domain")
        found = [
            r for k, entry in enumerate(entries or []) if (r := self._region(entry, k, limits, domain)) is not None
        ]
        if entries is not None and not entries:
            self.failures.append("the certificate has no region: it proves nothing")
        beaten = [r.name for r in found if any(o > b for o, b in zip(r.observed, r.real_bound, strict=True))]
        if beaten:
            self.contradicted = True
            self.failures.append(f"the search found an error above the certified bound in {some(beaten, 'region')}")
        return found

    def _region(self, entry: object, number: int, limits: Any, domain: object) -> Region | None:
        where = f"region {number} of the certificate"
        before = len(self.failures)
        name = self.take(entry, where, "id", kind="text")
        shape = self.take(entry, where, "kind", kind="text")
        real = self.take(entry, where, "bound", kind="numbers")
        bound = self.take(entry, where, "total_bound", kind="numbers")
        largest = self.take(entry, where, "total_bound_max", kind="number")
        observed = self.take(entry, where, "observed", kind="numbers")
        lo = self.take(entry, where, "difference_lo", kind="numbers")
        hi = self.take(entry, where, "difference_hi", kind="numbers")
        if not isinstance(entry, Mapping):
            return None
        classes = "top1" not in entry or entry["top1"] is not None  # null: the outputs are no classes
        top1 = self.take(entry, where, "top1", kind="status") if classes else None
        counted = self.take(entry, where, "counted", kind="flag")
        vacuous = self.take(entry, where, "vacuous", kind="flag")
        for key, kind in (("radius", "number"), ("sample", "count"), ("top1_class", "count")):
            if key not in entry or not (entry[key] is None or is_kind(entry[key], kind)):
                self.failures.append(f"{where} has no valid '{key}'")
        if len(self.failures) > before:
            return None
        if not bound or not len(bound) == len(real) == len(observed) == len(lo) == len(hi):
            self.failures.append(f"{where} has bounds and observations of different lengths")
            return None
        if classes and len(bound) == 1:
            self.contradicted = True
            self.failures.append(f"{where} speaks of the class of one output, which has none")
        wrong = any(t < b or b < max(-l, h) for t, b, l, h in zip(bound, real, lo, hi, strict=True))  # noqa: E741
        if max(bound) != largest or wrong:
            self.contradicted = True
            self.failures.append(f"{where} contradicts itself: its bounds disagree")
        if limits is not None and vacuous != (
            len(limits) != len(bound) or any(b >= v for b, v in zip(bound, limits, strict=False))
        ):
            self.contradicted = True
            self.failures.append(f"{where} contradicts itself: whether its bound is vacuous")
        return Region(
            name, shape, entry["radius"], entry["sample"], tuple(bound), tuple(real), tuple(observed), top1,
            entry["top1_class"], counted, {key: entry.get(key) for key in ORDERS} | _of_limits(entry, "status"),
            _of_limits(entry, "hysteresis"), entry.get("reason") != "time limit",
            vacuous, is_outside(entry.get("center"), domain),
        )  # fmt: skip


def limit_name(limit: Evidence) -> str:
    """What a threshold's status goes by, whatever else is asked for."""
    return f"threshold {limit.get('value')!r} of output {limit.get('output')!r}"


def _of_limits(entry: Evidence, key: str) -> dict[str, Any]:
    told = entry.get("thresholds")
    entries = told if isinstance(told, list) else []
    return {limit_name(e): e.get(key) for e in entries if isinstance(e, Mapping)}


def is_outside(center: object, domain: object) -> bool:
    """Whether a sample is known to lie outside the domain that regions are clipped to."""
    lo, hi = (domain.get(end) for end in ("lo", "hi")) if isinstance(domain, Mapping) else (None, None)
    if (
        not isinstance(center, list)
        or lo is None
        or hi is None
        or not is_kind(lo, "numbers")
        or not is_kind(hi, "numbers")
    ):
        return False
    rows = [row for row in center if is_kind(row, "numbers") and len(row) == len(lo) == len(hi)]
    return any(not low <= v <= high for row in rows for low, v, high in zip(lo, row, hi, strict=True))


def is_kind(value: object, kind: str) -> bool:
    """Whether a JSON value is a 'flag', 'text' (not empty), 'table', 'list', 'status', 'count' (an integer of at least
    0), a finite 'number', a list of such 'numbers', a 'pair' of counts, or 'limits': a list of thresholds."""
    if kind == "flag":
        return isinstance(value, bool)
    if kind == "text":
        return isinstance(value, str) and bool(value)
    if kind == "table":
        return isinstance(value, Mapping)
    if kind == "list":
        return isinstance(value, list)
    if kind == "status":
        return value in ("proved", "refuted", "unknown")
    if kind == "numbers":
        return isinstance(value, list) and all(is_kind(v, "number") for v in value)
    if kind == "pair":
        return isinstance(value, list) and len(value) == 2 and all(is_kind(v, "count") for v in value)
    if kind == "limits":
        tables = value if isinstance(value, list) else [None]
        parts = [(t.get("value"), t.get("output", -1)) if isinstance(t, Mapping) else (None, -1) for t in tables]
        return all(is_kind(v, "number") and (k is None or is_kind(k, "count")) for v, k in parts)
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= _LARGEST and (kind == "number" or (kind == "count" and value >= 0))
    return kind == "number" and isinstance(value, float) and math.isfinite(value)
