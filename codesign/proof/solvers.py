"""One interface to all provers: closed forms and branch and bound in rigorous arithmetic, in batches or one by one, and
dReal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal, get_args

import numpy as np

from codesign.errors import InputError
from codesign.proof import batch, closed_form, icp
from codesign.proof.dreal_solver import DrealProver, find_dreal
from codesign.proof.functions import violates
from codesign.proof.obligation import Kind, Obligation

Prover = Literal["interval", "closed-form", "icp", "dreal"]
AUTO = "auto"
BATCH: Prover = "interval"
Status = Literal["proved", "refuted", "unknown"]


@dataclass(frozen=True)
class ProofResult:
    """The outcome for one obligation.

    `prover` is the one that decided (or tried last), `seconds` the time over all provers tried, `detail` the
    reason where unknown, `counterexample` a point of the box that rigorously violates the statement where
    refuted.
    """

    status: Status
    prover: Prover
    seconds: float
    detail: str
    counterexample: tuple[float, ...] | None


@dataclass(frozen=True)
class Availability:
    """Whether a prover can run here; if not, `reason` says what is missing and `fix` what installs it."""

    prover: Prover
    available: bool
    reason: str
    fix: str


def availability() -> list[Availability]:
    """Every prover with its state on this machine. The first call takes about 0.1 s (dReal's import is tried)."""
    try:
        import flint  # noqa: F401

        reason, fix = "", ""
    except ImportError as error:
        reason, fix = f"python-flint does not load ({error})", "pip install python-flint"
    state = find_dreal()
    return [
        Availability(BATCH, True, "", ""),
        Availability("closed-form", not reason, reason, fix),
        Availability("icp", not reason, reason, fix),
        Availability("dreal", state.mode is not None, state.reason, state.fix),
    ]


def prove(
    obligations: Sequence[Obligation],
    prover: str = "auto",
    timeout_s: float = 10.0,
    on_progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> list[ProofResult]:
    """Decide every obligation, in order; results as in `ProofResult`.

    `prover` is 'interval' (in batches, `codesign.proof.batch`), 'closed-form', 'icp', 'dreal', or 'auto': the first
    three, each for what is left unknown by the ones before. `timeout_s` is per obligation and prover.
    `on_progress` gets (done, total) after every obligation. With `workers` > 1 the closed form and icp share the work
    between that many (spawned) processes.

    Raises InputError for an unknown prover or a timeout that is not positive, MissingToolError for 'dreal'
    where no dReal can be run.
    """
    _check(prover, timeout_s, workers)
    done = _batched(obligations) if prover in (AUTO, BATCH) else [None] * len(obligations)
    rest = [o for o, result in zip(obligations, done, strict=True) if result is None]
    singles = _decide_all(rest, prover, timeout_s, workers)
    results: list[ProofResult] = []
    for known in done:
        results.append(next(singles) if known is None else known)
        if on_progress is not None:
            on_progress(len(results), len(obligations))
    next(singles, None)  # ends a solver's process
    return results


def one_by_one(obligations: Sequence[Obligation], prover: str = AUTO, timeout_s: float = 10.0) -> list[ProofResult]:
    """As `prove`, of obligations that `codesign.proof.batch` has left open already."""
    _check(prover, timeout_s, 1)
    return list(_decide_all(obligations, prover, timeout_s, 1))


def _check(prover: str, timeout_s: float, workers: int) -> None:
    if prover not in (AUTO, *get_args(Prover)):
        raise InputError(f"unknown prover {prover!r}; use auto, {', '.join(get_args(Prover))}")
    if not timeout_s > 0 or workers < 1:
        raise InputError("the timeout has to be positive and there has to be at least one worker")


def _batched(obligations: Sequence[Obligation]) -> list[ProofResult | None]:
    """What the batch prover proves; it says nothing of the rest."""
    results: list[ProofResult | None] = [None] * len(obligations)
    kinds: dict[Kind, list[int]] = {}
    for k, obligation in enumerate(obligations):
        kinds.setdefault(obligation.kind, []).append(k)
    for kind, index in kinds.items():
        start = time.perf_counter()
        box = np.array([obligations[k].box for k in index])  # (N, variables, 2)
        slopes = np.array([obligations[k].slopes for k in index])
        lo, hi = (np.array([getattr(obligations[k], end) for k in index]) for end in ("lo", "hi"))
        lower, upper, slope = (list(np.ascontiguousarray(v.T)) for v in (box[:, :, 0], box[:, :, 1], slopes))
        good = batch.proved(kind, lower, upper, slope, lo, hi)
        seconds = (time.perf_counter() - start) / len(index)
        for k in (k for k, proved in zip(index, good, strict=True) if proved):
            results[k] = ProofResult("proved", BATCH, seconds, "", None)
    return results


def _decide_all(
    obligations: Sequence[Obligation], prover: str, timeout_s: float, workers: int
) -> Iterator[ProofResult]:
    if prover == "dreal":
        with DrealProver() as dreal:
            for obligation in obligations:
                start = time.perf_counter()
                outcome = dreal.decide(obligation, timeout_s)
                yield _result(obligation, "dreal", start, outcome.status, outcome.point, outcome.detail)
        return
    if workers == 1 or len(obligations) < 2 * workers:
        for obligation in obligations:
            yield _decide(obligation, prover, timeout_s)
        return
    from codesign.processes import in_order

    chunks = [obligations[k : k + 64] for k in range(0, len(obligations), 64)]
    yield from chain.from_iterable(in_order(partial(_decide_chunk, prover, timeout_s), chunks, workers))


def _decide_chunk(prover: str, timeout_s: float, obligations: Sequence[Obligation]) -> list[ProofResult]:
    return [_decide(obligation, prover, timeout_s) for obligation in obligations]


def _decide(obligation: Obligation, prover: str, timeout_s: float) -> ProofResult:
    start = time.perf_counter()
    if prover == BATCH:
        return ProofResult("unknown", BATCH, 0.0, "not decided in intervals of binary64", None)
    if prover != "icp":
        verdict = closed_form.decide(obligation)
        result = _result(obligation, "closed-form", start, verdict.status, verdict.point, verdict.detail)
        if prover == "closed-form" or result.status != "unknown":
            return result
    outcome = icp.decide(obligation, timeout_s)
    return _result(obligation, "icp", start, outcome.status, outcome.point, outcome.detail)


def _result(
    obligation: Obligation,
    prover: Prover,
    start: float,
    status: Status,
    point: tuple[float, ...] | None,
    detail: str,
) -> ProofResult:
    """A refutation is only passed on with a point that a last evaluation finds outside."""
    if status == "refuted" and (point is None or not violates(obligation, point)):
        status, point, detail = "unknown", None, "a counterexample did not stand the rigorous evaluation"
    seconds = time.perf_counter() - start
    return ProofResult(status, prover, seconds, detail, point if status == "refuted" else None)
