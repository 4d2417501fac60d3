"""The check as a whole: reads the claims, replays the regions, asks a solver if one is wanted, and concludes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from codesign.checker.claims import Claims, check_bounds, check_document, check_statuses, read_claims
from codesign.checker.forms import Box, Symbols
from codesign.checker.replay import Bounds, Logits, each, forward, input_pairs, outputs, read_off
from codesign.checker.result import CannotCheck, Invalid
from codesign.checker.solver import Choices, Facts
from codesign.errors import InputError
from codesign.processes import in_order
from codesign.proof.bounds import require_round_to_nearest

CHUNK = 8  # regions replayed together


@dataclass
class CheckResult:
    """`item` is the first bad item, or what cannot be checked; `facts` the number of nonlinear facts derived.

    `provers`: how many of the facts each solver has proved, where one was asked. `not_derived`: what the certificate
    tells besides and was not derived again; no bound, status or verdict rests on it. `document`: the certificate.
    """

    verdict: Literal["valid", "invalid", "cannot check"] = "valid"
    item: str = ""
    regions: int = 0
    facts: int = 0
    provers: dict[str, int] = field(default_factory=dict)
    not_derived: tuple[str, ...] = ()
    document: dict[str, Any] = field(default_factory=dict)


@contextmanager
def concluding() -> Iterator[CheckResult]:
    """A result that the body fills in, or the first bad item that it finds."""
    result = CheckResult()
    try:
        require_round_to_nearest()
        yield result
    except Invalid as error:
        result.verdict, result.item = "invalid", str(error)
    except CannotCheck as error:
        result.verdict, result.item = "cannot check", str(error)


def check(
    certificate: Path, float_path: Path, int8_path: Path, in_float32: Callable[..., Bounds], prover: str | None = None,
    jobs: int = 1, on_progress: Callable[[int, int], None] | None = None,
) -> CheckResult:  # fmt: skip
    """Check a certificate of regions from scratch against the two model files and the proof file beside it.

    `in_float32` is `codesign.float32_checker.check_float32`, which says what holds for float32 programs as well.

    Every nonlinear fact is derived with the margins proved in `codesign.proof.bounds`; with a `prover` ('auto',
    'interval', 'closed-form', 'icp', 'dreal') each one has to be proved by that solver as well. InputError for files
    that cannot be read, MissingToolError for a solver that cannot run.
    """
    with concluding() as result:
        claims = read_claims(certificate, float_path, int8_path)
        check_document(claims)
        result.document = claims.document
        count = result.regions = len(claims.regions)
        together = 1 if claims.second_order else CHUNK
        chunks = [slice(k, min(k + together, count)) for k in range(0, count, together)]
        outcomes = in_order(partial(_check_chunk, claims, prover, in_float32), chunks, jobs)
        for rows, (facts, provers) in zip(chunks, outcomes, strict=True):
            result.facts += facts
            result.provers = dict(Counter(result.provers) + provers)
            if on_progress is not None:
                on_progress(rows.stop, count)
    return result


def _check_chunk(claims: Claims, prover: str | None, single: Callable[..., Bounds], rows: slice) -> tuple[int, Any]:
    """The number of facts, and of those proved by each solver."""
    require_round_to_nearest()
    try:
        facts, bounds = replay_regions(claims, rows, keep=prover is not None)
        check_regions(claims, rows, single(claims, rows, bounds, facts), facts)
    except InputError as error:  # choices far from any that a searcher makes
        raise CannotCheck(f"the recorded choices: {error}") from None
    return facts.count, facts.prove(prover)


def check_regions(claims: Claims, rows: slice, bounds: Bounds, facts: Facts) -> None:
    """All that is stated of some regions follows from their bounds."""
    for k, region in enumerate(claims.regions[rows]):
        own: Bounds = each(lambda box, k=k: Box(box.lo[k : k + 1], box.hi[k : k + 1]), bounds)
        name = f"region {rows.start + k} ('{region['id']}')"
        check_bounds(region, name, own, facts)
        check_statuses(claims, region, name, own, facts)


def replay_regions(claims: Claims, rows: slice, keep: bool = False) -> tuple[Facts, Bounds]:
    """Derive the bounds of some regions; `keep` the facts, so that they can be given to solvers as obligations."""
    facts = Facts(Choices(claims.proof, rows), keep)
    passes = [zonotope(claims, rows, facts, order) for order in [False, True][: 1 + claims.second_order]]
    facts.choices.finish()
    return facts, outputs(passes, claims.chains[0], claims.integers[0], facts)


def zonotope(claims: Claims, rows: slice, facts: Facts, second_order: bool = False) -> Logits:
    """Replay the joint zonotope, or the quadratic one."""
    from threadpoolctl import threadpool_limits

    symbols, region = Symbols(second_order), (claims.proof.lo[rows], claims.proof.hi[rows], claims.on_grid[rows])
    with threadpool_limits(1):
        inputs = input_pairs(claims.integers[0], *region, symbols)
        return read_off(*forward(claims.chains, inputs, facts, symbols), symbols)
