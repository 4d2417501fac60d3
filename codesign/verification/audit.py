"""Turns the relaxations of a run into proof obligations and hands all of them, or a seeded sample, to a prover.

Where dReal can be run it proves a drawn sample besides, on its own: `Second`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from codesign.errors import SoundnessAlarm
from codesign.proof import Obligation, Planes, prove, prove_planes
from codesign.proof.dreal_solver import find_dreal
from codesign.proof.solvers import AUTO
from codesign.verification.relaxation import RelaxationBatch

ProofMode = Literal["audit", "all", "none"]


@dataclass
class Second:
    """What dReal decided on its own of a drawn sample of the obligations that were proved already.

    `undecided`: it answered delta-sat, which proves nothing either way, or not in time. `reason`: why it cannot be run
    here, '' where it can.
    """

    version: str = ""
    drawn: int = 0
    proved: int = 0
    undecided: int = 0
    seconds: float = 0.0
    reason: str = ""

    def merge(self, other: Second) -> None:
        self.version, self.reason = self.version or other.version, self.reason or other.reason
        self.drawn, self.proved = self.drawn + other.drawn, self.proved + other.proved
        self.undecided, self.seconds = self.undecided + other.undecided, self.seconds + other.seconds

    def to_json(self) -> dict[str, object]:
        return {"prover": "dreal", **vars(self)}


@dataclass
class ProofSummary:
    """How many obligations a run rests on, how many were checked, by which prover, and those that were not proved.

    `sequence` names the prover of every checked obligation, in order, run-length encoded. `second` is None where no
    second solver was asked for.
    """

    mode: ProofMode
    emitted: int = 0
    checked: int = 0
    proved: int = 0
    provers: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, object]] = field(default_factory=list)
    seconds: float = 0.0
    sequence: list[list[str | int]] = field(default_factory=list)
    second: Second | None = None

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
        if other.second is not None:
            self.second = self.second or Second()
            self.second.merge(other.second)

    @property
    def ok(self) -> bool:
        """Whether the bounds are proved: every obligation that they rest on is."""
        return self.mode != "none" and self.proved == self.emitted

    def to_json(self) -> dict[str, object]:
        """For the certificate."""
        return {
            "mode": self.mode,
            "obligations": self.emitted,
            "checked": self.checked,
            "proved": self.proved,
            "provers": dict(self.provers),
            "prover_sequence": self.sequence,
            "failures": self.failures[:20],
            "seconds": self.seconds,
            "second": None if self.second is None else self.second.to_json(),
        }

    def state(self) -> dict[str, Any]:
        """Everything, as JSON data."""
        second = None if self.second is None else vars(self.second)
        return {**vars(self), "provers": dict(self.provers), "second": second}

    @staticmethod
    def restored(state: dict[str, Any]) -> ProofSummary:
        """The inverse of `state`, after a round trip through JSON."""
        second = None if state["second"] is None else Second(**state["second"])
        return ProofSummary(**{**state, "provers": Counter(state["provers"]), "second": second})


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
    batches: Sequence[RelaxationBatch],
    mode: ProofMode,
    sample: int,
    prover: str,
    rng: np.random.Generator,
    second_sample: int = 0,
) -> ProofSummary:
    """Prove all obligations, a uniform sample of `sample` of them, or none; and `second_sample` of them by dReal.

    `rng` is left in a state that does not depend on whether dReal can be run here. SoundnessAlarm where dReal refutes
    one, by a point that rigorous arithmetic confirms.
    """
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
    if second_sample and prover == AUTO and not found.open:
        summary.second = _second(drawn(chosen, second_sample, rng.spawn(1)[0]))
    return summary


def _second(groups: Sequence[Planes]) -> Second:
    state = find_dreal()
    if state.mode is None:
        return Second(reason=state.reason)
    stated = [o for group in groups for o in group.obligations()]
    result = Second(state.version, len(stated))
    for obligation, outcome in zip(stated, prove(stated, "dreal"), strict=True):
        if outcome.status == "refuted":
            raise SoundnessAlarm(
                f"dReal refutes the obligation '{obligation.tag}', which another prover has proved: one of them is "
                "wrong",
                {"obligation": obligation.to_json(), "point": list(outcome.counterexample or ())},
            )
        result.proved += outcome.status == "proved"
        result.undecided += outcome.status == "unknown"
        result.seconds += outcome.seconds
    return result
