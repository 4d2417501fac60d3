"""Turns the relaxations of a run into proof obligations and hands a seeded sample, or all of them, to a prover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from codesign.proof import Obligation, Planes, prove_planes
from codesign.verification.relaxation import RelaxationBatch

ProofMode = Literal["audit", "all", "none"]


@dataclass
class ProofSummary:
    """How many obligations a run rests on, how many were checked, by which prover, and those that were not proved.

    `sequence` names the prover of every checked obligation, in order, run-length encoded.
    """

    mode: ProofMode
    emitted: int = 0
    checked: int = 0
    proved: int = 0
    provers: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, object]] = field(default_factory=list)
    seconds: float = 0.0
    sequence: list[list[str | int]] = field(default_factory=list)

    def note(self, prover: str, count: int = 1) -> None:
        """The next `count` checked obligations were decided by `prover`."""
        if self.sequence and self.sequence[-1][0] == prover:
            self.sequence[-1][1] = int(self.sequence[-1][1]) + count
        else:
            self.sequence.append([prover, count])

    def merge(self, other: ProofSummary) -> None:
        self.emitted += other.emitted
        self.checked += other.checked
        self.proved += other.proved
        self.provers.update(other.provers)
        self.failures.extend(other.failures)
        self.seconds += other.seconds
        for prover, count in other.sequence:
            self.note(str(prover), int(count))

    @property
    def ok(self) -> bool:
        return self.proved == self.checked

    def to_json(self) -> dict[str, object]:
        """For the certificate. With n obligations drawn uniformly and all proved, the share of wrong ones is below
        `unproved_share_95` with 95 % confidence (0.05 = (1 - share)^n)."""
        result: dict[str, object] = {
            "mode": self.mode,
            "obligations": self.emitted,
            "checked": self.checked,
            "proved": self.proved,
            "provers": dict(self.provers),
            "prover_sequence": self.sequence,
            "failures": self.failures[:20],
            "seconds": self.seconds,
        }
        if self.mode == "audit" and self.checked and self.ok:
            result["unproved_share_95"] = 1.0 - 0.05 ** (1.0 / self.checked)
        return result


def planes(batches: Sequence[RelaxationBatch]) -> list[Planes]:
    """The obligations of a run, in order."""
    return [Planes.of(b.kind, b.place, b.lower, b.upper, b.slopes, b.lo, b.hi) for b in batches if b.kind != "fold"]


def obligations(batches: Sequence[RelaxationBatch], picks: npt.NDArray[np.int64] | None = None) -> list[Obligation]:
    """The obligations of a run as objects; `picks` are sorted indices into the run's concatenated planes."""
    groups = planes(batches)
    return [o for group in (groups if picks is None else _picked(groups, picks)) for o in group.obligations()]


def _picked(groups: Sequence[Planes], picks: npt.NDArray[np.int64]) -> list[Planes]:
    result, start = [], 0
    for group in groups:
        index = picks[(picks >= start) & (picks < start + len(group))] - start
        start += len(group)
        if len(index):
            result.append(group.part(index))
    return result


def count(batches: Sequence[RelaxationBatch]) -> int:
    return sum(batch.lo.size for batch in batches if batch.kind != "fold")


def drawn(groups: Sequence[Planes], size: int, rng: np.random.Generator) -> list[Planes]:
    """A uniform sample of `count` obligations, in order."""
    total = sum(map(len, groups))
    return _picked(groups, np.sort(rng.choice(total, size=min(size, total), replace=False)))


def discharge(
    batches: Sequence[RelaxationBatch], mode: ProofMode, sample: int, prover: str, rng: np.random.Generator
) -> ProofSummary:
    """Prove all obligations, a uniform sample of `sample` of them, or none."""
    groups = planes(batches)
    summary = ProofSummary(mode, emitted=count(batches))
    if mode == "none" or not summary.emitted:
        return summary
    chosen = groups if mode == "all" else drawn(groups, sample, rng)
    found = prove_planes(chosen, prover)
    summary.checked, summary.proved, summary.seconds = sum(map(len, chosen)), found.proved, found.seconds
    for name, times in found.provers:
        summary.provers[name] += times
        summary.note(name, times)
    for obligation, result in found.open:
        told = {"tag": obligation} if isinstance(obligation, str) else obligation.to_json()
        summary.failures.append({"obligation": told, "status": result.status, "detail": result.detail})
    return summary
