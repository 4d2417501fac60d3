"""Obligations of one kind in arrays, and their proof: in batches first, one by one what that leaves open."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.proof import batch
from codesign.proof.obligation import VARIABLES, Kind, Obligation, from_planes
from codesign.proof.solvers import AUTO, BATCH, ProofResult, Prover, one_by_one

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Planes:
    """N obligations of one kind that are needed at one place: one array (N,) a variable, `lo` and `hi` (N,)."""

    kind: Kind
    place: str
    lower: tuple[Array, ...]
    upper: tuple[Array, ...]
    slopes: tuple[Array, ...]
    lo: Array
    hi: Array
    numbers: npt.NDArray[np.int64]  # which of the obligations of that place these are, for their tags

    @staticmethod
    def of(
        kind: Kind, place: str, lower: Sequence[Array], upper: Sequence[Array], slopes: Sequence[Array], lo: Array,
        hi: Array,
    ) -> Planes:  # fmt: skip
        """From arrays of any one shape."""

        def flat(group: Sequence[Array]) -> tuple[Array, ...]:
            return tuple(np.broadcast_to(a, lo.shape).reshape(-1) for a in group)

        numbers = np.arange(lo.size)
        return Planes(kind, place, flat(lower), flat(upper), flat(slopes), lo.reshape(-1), hi.reshape(-1), numbers)

    def __len__(self) -> int:
        return len(self.lo)

    def part(self, index: npt.NDArray[np.int64]) -> Planes:
        """Some of them, in the order of `index`; their tags name the place, and their number here."""

        def some(group: Sequence[Array]) -> tuple[Array, ...]:
            return tuple(a[index] for a in group)

        return Planes(
            self.kind, self.place, some(self.lower), some(self.upper), some(self.slopes), self.lo[index],
            self.hi[index], self.numbers[index],
        )  # fmt: skip

    def obligations(self) -> list[Obligation]:
        """As objects. InputError for numbers that no obligation has."""
        lower, upper, slopes = (np.stack(group, axis=1) for group in (self.lower, self.upper, self.slopes))
        tags = [f"{self.place} #{k}" for k in self.numbers]
        return from_planes(self.kind, lower, upper, slopes, self.lo, self.hi, tags)


@dataclass(eq=False)
class PlanesResult:
    """`provers`: of every obligation, in order, run-length encoded. `open`: what was not proved, with the reason."""

    proved: int = 0
    provers: list[tuple[Prover, int]] = field(default_factory=list)
    open: list[tuple[Obligation | str, ProofResult]] = field(default_factory=list)
    seconds: float = 0.0


def prove_planes(groups: Sequence[Planes], prover: str = AUTO) -> PlanesResult:
    """Decide every obligation, in order; `prover` as of `codesign.proof.prove`.

    An obligation with numbers that none may have (a relaxation that diverged) is 'unknown', and told by its tag.
    InputError and MissingToolError as of `prove`.
    """
    started = time.perf_counter()
    done = _batched(groups) if prover in (AUTO, BATCH) else [np.zeros(len(group), bool) for group in groups]
    rest = [group.part(np.flatnonzero(~flags)) for group, flags in zip(groups, done, strict=True)]
    singles = _singles([group for group in rest if len(group)], prover)
    found, names = PlanesResult(), list[Prover]()
    for flags in done:
        for good in flags.tolist():
            if good:
                names.append(BATCH)
                found.proved += 1
                continue
            obligation, result = next(singles)
            names.append(result.prover)
            if result.status == "proved":
                found.proved += 1
            else:
                found.open.append((obligation, result))
    found.provers = [(name, sum(1 for _ in same)) for name, same in groupby(names)]
    found.seconds = time.perf_counter() - started
    return found


def _batched(groups: Sequence[Planes]) -> list[Flags]:
    """What the batch prover proves of each group: all of one kind together."""
    result: list[Flags] = [np.zeros(0, bool)] * len(groups)
    kinds: dict[Kind, list[int]] = {}
    for k, group in enumerate(groups):
        kinds.setdefault(group.kind, []).append(k)
    for kind, members in kinds.items():
        some = [groups[k] for k in members]
        lower, upper, slopes = (
            [np.concatenate([getattr(group, name)[v] for group in some]) for v in range(len(VARIABLES[kind]))]
            for name in ("lower", "upper", "slopes")
        )
        lo, hi = (np.concatenate([getattr(group, end) for group in some]) for end in ("lo", "hi"))
        flags = batch.proved(kind, lower, upper, slopes, lo, hi)
        ends = np.cumsum([len(group) for group in some])[:-1]
        for k, part in zip(members, np.split(flags, ends), strict=True):
            result[k] = part
    return result


def _singles(groups: Sequence[Planes], prover: str) -> Iterator[tuple[Obligation | str, ProofResult]]:
    stated = [item for group in groups for item in _stated(group)]
    good = [item for item in stated if isinstance(item, Obligation)]
    decided = iter(one_by_one(good, prover) if good or prover not in (AUTO, BATCH) else [])
    for item in stated:
        if isinstance(item, Obligation):
            yield item, next(decided)
        else:
            yield item[0], ProofResult("unknown", BATCH, 0.0, item[1], None)


def _stated(group: Planes) -> Iterator[Obligation | tuple[str, str]]:
    """Every obligation of a group, or its tag and why it is none."""
    for k, number in enumerate(group.numbers):
        try:
            yield group.part(np.array([k])).obligations()[0]
        except InputError as error:
            yield f"{group.place} #{number}", str(error)
