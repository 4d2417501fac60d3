"""The check as a whole: reads the claims, replays the regions, asks a solver if one is wanted, and concludes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np

from codesign.checker.claims import check_arithmetic, check_bounds, check_conclusions, check_statuses
from codesign.checker.document import Claims, read_claims
from codesign.checker.facts import Facts
from codesign.checker.forms import require_round_to_nearest
from codesign.checker.proof_file import Choices
from codesign.checker.replay import Bounds, replay
from codesign.checker.result import CannotCheck, Invalid
from codesign.errors import InputError

Verdict = Literal["valid", "invalid", "cannot check"]
CHUNK = 8  # regions replayed together


@dataclass
class CheckResult:
    """`item` is the first bad item, or what cannot be checked; `facts` the number of nonlinear facts derived.

    `provers`: how many of the facts each solver has proved, where one was asked.
    """

    verdict: Verdict
    item: str = ""
    regions: int = 0
    facts: int = 0
    provers: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def check(
    certificate: Path,
    float_path: Path,
    int8_path: Path,
    prover: str | None = None,
    jobs: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> CheckResult:
    """Check a certificate from scratch against the two model files and the proof file beside it.

    Every nonlinear fact is derived with the margins proved in `codesign.proof.bounds`; with a `prover` ('auto',
    'closed-form', 'icp', 'dreal') each one has to be proved by that solver as well. InputError for files that cannot be
    read, MissingToolError for a solver that cannot run.
    """
    require_round_to_nearest()
    started, result = time.monotonic(), CheckResult("valid")
    try:
        claims = read_claims(certificate, float_path, int8_path)
        check_arithmetic(claims)
        check_conclusions(claims)
        result.regions = len(claims.regions)
        for done, (facts, provers) in _replays(claims, prover, jobs):
            result.facts += facts
            result.provers = dict(Counter(result.provers) + Counter(provers))
            if on_progress is not None:
                on_progress(done, result.regions)
    except Invalid as error:
        result.verdict, result.item = "invalid", str(error)
    except CannotCheck as error:
        result.verdict, result.item = "cannot check", str(error)
    result.seconds = time.monotonic() - started
    return result


Outcome = tuple[int, dict[str, int]]


def _replays(claims: Claims, prover: str | None, jobs: int) -> Iterator[tuple[int, Outcome]]:
    count = len(claims.regions)
    chunks = [slice(k, min(k + CHUNK, count)) for k in range(0, count, CHUNK)]
    if jobs <= 1 or len(chunks) == 1:
        for rows in chunks:
            yield rows.stop, _check_chunk(claims, rows, prover)
        return
    with ProcessPoolExecutor(min(jobs, len(chunks)), mp_context=get_context("spawn")) as executor:
        futures = [executor.submit(_guarded, claims, rows, prover) for rows in chunks]
        for rows, future in zip(chunks, futures, strict=True):
            outcome = future.result()
            if isinstance(outcome, Exception):
                executor.shutdown(cancel_futures=True)
                raise outcome
            yield rows.stop, outcome


def _guarded(claims: Claims, rows: slice, prover: str | None) -> Outcome | Exception:
    try:
        return _check_chunk(claims, rows, prover)
    except (Invalid, CannotCheck) as error:
        return error


def _check_chunk(claims: Claims, rows: slice, prover: str | None) -> Outcome:
    from threadpoolctl import threadpool_limits

    require_round_to_nearest()
    facts, bounds = replay_regions(claims, rows, keep=prover is not None)
    for k in range(rows.stop - rows.start):
        region = claims.regions[rows.start + k]
        name = f"region {rows.start + k} ('{region['id']}')"
        check_bounds(region, name, bounds, k)
        check_statuses(claims, region, name, bounds, k)
    proved: Counter[str] = Counter()
    if prover is not None:
        from codesign.proof import prove

        obligations = list(facts.obligations())
        with threadpool_limits(1):
            for obligation, outcome in zip(obligations, prove(obligations, prover), strict=True):
                if outcome.status == "refuted":
                    raise Invalid(f"the fact '{obligation.tag}' is refuted by {outcome.prover}: {outcome.detail}")
                if outcome.status != "proved":
                    raise CannotCheck(f"the fact '{obligation.tag}' by {outcome.prover}: {outcome.detail}")
                proved[outcome.prover] += 1
    return facts.count, dict(proved)


def replay_regions(claims: Claims, rows: slice, keep: bool = False) -> tuple[Facts, Bounds]:
    """Derive the bounds of some regions; `keep` the facts, so that they can be given to solvers as obligations."""
    from threadpoolctl import threadpool_limits

    skipped = [k for k in claims.proof.header.get("skipped", []) if rows.start <= k < rows.stop]
    if skipped:
        raise CannotCheck(f"region {skipped[0]}, which has no recorded choices (a time limit left it out)")
    facts = Facts(Choices(claims.proof, rows), keep)
    with threadpool_limits(1):
        bounds = replay(
            claims.network, claims.integers, claims.proof.lo[rows], claims.proof.hi[rows], claims.on_grid[rows], facts
        )
    return facts, bounds


def export_obligations(
    certificate: Path,
    float_path: Path,
    int8_path: Path,
    region: int,
    folder: Path,
    sample: int | None = None,
    seed: int = 0,
) -> int:
    """Write one region's facts as SMT-LIB 2 files (`codesign.proof.exchange`), all or a seeded sample; their number.

    InputError where the certificate is not consistent, or has no such region.
    """
    from codesign.proof.exchange import write_folder

    try:
        claims = read_claims(certificate, float_path, int8_path)
        if not 0 <= region < len(claims.regions):
            raise InputError(f"there is no region {region}; the certificate has {len(claims.regions)}, counted from 0")
        obligations = list(replay_regions(claims, slice(region, region + 1), keep=True)[0].obligations())
    except (Invalid, CannotCheck) as error:
        raise InputError(f"the certificate cannot be replayed: {error}") from None
    if sample is not None:
        picks = np.random.default_rng(seed).choice(len(obligations), min(sample, len(obligations)), replace=False)
        obligations = [obligations[k] for k in sorted(picks)]
    write_folder(obligations, folder)
    return len(obligations)
