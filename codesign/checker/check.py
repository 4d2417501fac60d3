"""The check as a whole: reads the claims, replays the regions, asks a solver if one is wanted, and concludes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from codesign.checker.all_inputs import check_all_inputs
from codesign.checker.claims import check_arithmetic, check_bounds, check_conclusions, check_statuses, check_told
from codesign.checker.document import Claims, read_claims
from codesign.checker.replay import Bounds, replay
from codesign.checker.result import CannotCheck, Invalid, demand
from codesign.checker.solver import Choices, Facts
from codesign.errors import InputError
from codesign.processes import worker_pool
from codesign.proof.bounds import require_round_to_nearest
from codesign.proof.forms import DisjointError

CHUNK = 8  # regions replayed together
_Outcome = tuple[int, Counter[str], tuple[str, ...]]  # facts, those proved by each solver, what was not derived


@dataclass
class CheckResult:
    """`item` is the first bad item, or what cannot be checked; `facts` the number of nonlinear facts derived.

    `provers`: how many of the facts each solver has proved, where one was asked. `not_derived`: what the certificate
    tells besides and was not derived again; no bound, status or verdict rests on it.
    """

    verdict: Literal["valid", "invalid", "cannot check"]
    item: str = ""
    regions: int = 0
    facts: int = 0
    provers: dict[str, int] = field(default_factory=dict)
    not_derived: tuple[str, ...] = ()
    seconds: float = 0.0


def check(
    certificate: Path, float_path: Path, int8_path: Path, prover: str | None = None, jobs: int = 1,
    on_progress: Callable[[int, int], None] | None = None, data: Path | None = None,
) -> CheckResult:  # fmt: skip
    """Check a certificate from scratch against the two model files and the proof file beside it.

    Every nonlinear fact is derived with the margins proved in `codesign.proof.bounds`; with a `prover` ('auto',
    'closed-form', 'icp', 'dreal') each one has to be proved by that solver as well. `data`: the file with the samples
    that a covered share is about. InputError for files that cannot be read, MissingToolError for a solver that cannot
    run.
    """
    require_round_to_nearest()
    started, result = time.monotonic(), CheckResult("valid")
    try:
        claims = read_claims(certificate, float_path, int8_path)
        check_arithmetic(claims)
        check_conclusions(claims)
        count = result.regions = len(claims.regions)
        together = 1 if claims.second_order else CHUNK
        chunks = [slice(k, min(k + together, count)) for k in range(0, count, together)]
        with ExitStack() as stack:
            run: Callable[..., Iterable[_Outcome]] = map
            if jobs > 1 and len(chunks) > 1:
                run = stack.enter_context(worker_pool(min(jobs, len(chunks)))).map
            outcomes = run(partial(_check_chunk, claims, prover, data), chunks)
            for rows, (facts, provers, left) in zip(chunks, outcomes, strict=True):
                result.facts += facts
                result.not_derived += left
                result.provers = dict(Counter(result.provers) + provers)
                if on_progress is not None:
                    on_progress(rows.stop, count)
    except (Invalid, DisjointError) as error:
        result.verdict, result.item = "invalid", str(error)
    except CannotCheck as error:
        result.verdict, result.item = "cannot check", str(error)
    result.seconds = time.monotonic() - started
    return result


def _check_chunk(claims: Claims, prover: str | None, data: Path | None, rows: slice) -> _Outcome:
    require_round_to_nearest()
    try:
        facts, bounds = replay_regions(claims, rows, keep=prover is not None)
    except InputError as error:  # choices far from any that a searcher makes
        raise CannotCheck(f"the recorded choices: {error}") from None
    for k in range(rows.stop - rows.start):
        region = claims.regions[rows.start + k]
        name = f"region {rows.start + k} ('{region['id']}')"
        check_bounds(region, name, bounds, k)
        check_told(region, name, bounds, k, facts)
        check_statuses(claims, region, name, bounds, k, facts)
    left = check_all_inputs(claims, bounds, facts, data) if claims.domain is not None else ()
    return facts.count, facts.prove(prover) if prover is not None else Counter(), left


def replay_regions(claims: Claims, rows: slice, keep: bool = False) -> tuple[Facts, Bounds]:
    """Derive the bounds of some regions; `keep` the facts, so that they can be given to solvers as obligations."""
    from threadpoolctl import threadpool_limits

    facts, proof = Facts(Choices(claims.proof, rows), keep), claims.proof
    arguments = claims.network, claims.integers, proof.lo[rows], proof.hi[rows], claims.on_grid[rows], facts
    domain = claims.domain
    with threadpool_limits(1):
        bounds = replay(*arguments, domain)
        if domain is not None and domain["joint"]:
            demand(not domain["any_length"], "all_inputs/joint: a zonotope is about one number of steps")
            bounds = bounds.meet(replay(*arguments))
        if claims.second_order:
            bounds = replay(*arguments, before=bounds)
    facts.choices.finish()
    return facts, bounds
