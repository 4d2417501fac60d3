"""One interface to all provers: closed forms and branch and bound in rigorous arithmetic, and dReal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal, get_args

from codesign.errors import InputError
from codesign.proof import closed_form, icp
from codesign.proof.dreal_solver import DrealProver, find_dreal
from codesign.proof.functions import violates
from codesign.proof.obligation import Obligation

Prover = Literal["closed-form", "icp", "dreal"]
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

    `prover` is 'closed-form', 'icp', 'dreal', or 'auto': the closed form, then branch and bound for what that
    leaves unknown. `timeout_s` is per obligation and prover. `on_progress` gets (done, total) after every
    obligation. With `workers` > 1 the closed form and icp share the work between that many (spawned)
    processes.

    Raises InputError for an unknown prover or a timeout that is not positive, MissingToolError for 'dreal'
    where no dReal can be run.
    """
    if prover not in ("auto", *get_args(Prover)):
        raise InputError(f"unknown prover {prover!r}; use auto, {', '.join(get_args(Prover))}")
    if not timeout_s > 0 or workers < 1:
        raise InputError("the timeout has to be positive and there has to be at least one worker")
    results: list[ProofResult] = []
    for result in _decide_all(obligations, prover, timeout_s, workers):
        results.append(result)
        if on_progress is not None:
            on_progress(len(results), len(obligations))
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
