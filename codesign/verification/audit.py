"""Turns the relaxations of a run into proof obligations and hands a seeded sample, or all of them, to a prover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from codesign.proof.obligation import Obligation, from_planes
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


def obligations(batches: Sequence[RelaxationBatch], picks: npt.NDArray[np.int64] | None = None) -> list[Obligation]:
    """The obligations of a run as objects; `picks` are sorted indices into the run's concatenated planes."""
    result: list[Obligation] = []
    start = 0
    for batch in batches:
        if batch.kind == "fold":
            continue
        size = batch.lo.size
        index = np.arange(size) if picks is None else picks[(picks >= start) & (picks < start + size)] - start
        start += size
        if not len(index):
            continue
        lower, upper, slopes = (
            np.stack([a.reshape(-1)[index] for a in group], axis=1)
            for group in (batch.lower, batch.upper, batch.slopes)
        )
        tags = [f"{batch.place} #{k}" for k in index]
        result += from_planes(
            batch.kind, lower, upper, slopes, batch.lo.reshape(-1)[index], batch.hi.reshape(-1)[index], tags
        )
    return result


def count(batches: Sequence[RelaxationBatch]) -> int:
    return sum(batch.lo.size for batch in batches if batch.kind != "fold")


def discharge(
    batches: Sequence[RelaxationBatch], mode: ProofMode, sample: int, prover: str, rng: np.random.Generator
) -> ProofSummary:
    """Prove all obligations, a uniform sample of `sample` of them, or none."""
    total = count(batches)
    summary = ProofSummary(mode, emitted=total)
    if mode == "none" or not total:
        return summary
    from codesign.proof import prove

    picks = None if mode == "all" else np.sort(rng.choice(total, size=min(sample, total), replace=False))
    chosen = obligations(batches, picks)
    for obligation, result in zip(chosen, prove(chosen, prover=prover), strict=True):
        summary.checked += 1
        summary.provers[result.prover] += 1
        summary.note(result.prover)
        summary.seconds += result.seconds
        if result.status == "proved":
            summary.proved += 1
        else:
            summary.failures.append(
                {"obligation": obligation.to_json(), "status": result.status, "detail": result.detail}
            )
    return summary
