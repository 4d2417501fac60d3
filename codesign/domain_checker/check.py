"""Replays the comparison system over recorded states, and the joint zonotope where it was used, and concludes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from codesign import checker
from codesign.checker import CannotCheck, CheckResult, Claims
from codesign.checker.check import check_regions, concluding, zonotope
from codesign.checker.claims import check_document
from codesign.checker.forms import Symbols
from codesign.checker.replay import Bounds, forward, input_pairs, outputs, read_off
from codesign.checker.result import demand
from codesign.checker.solver import Choices, Facts
from codesign.domain_checker.lstm import DomainReplay
from codesign.domain_checker.statement import check_all_inputs
from codesign.errors import InputError
from codesign.network.model import Float32Array
from codesign.proof.statement import ALL_INPUTS_METHOD

DOMAIN = slice(0, 1)  # the only region


def check(
    certificate: Path, float_path: Path, int8_path: Path, in_float32: Callable[..., Bounds], prover: str | None = None,
    samples: Float32Array | None = None, on_progress: Callable[[int, int], None] | None = None,
) -> CheckResult:  # fmt: skip
    """As `codesign.checker.check`; `samples` (N, T, D): those that a covered share is about. Progress is
    in numbers of the recorded states."""
    with concluding() as result:
        claims = read_claims(certificate, float_path, int8_path)
        check_document(claims)
        result.document = claims.document
        try:
            facts, bounds = replay_domain(claims, prover is not None, on_progress)
            check_regions(claims, DOMAIN, bounds := in_float32(claims, DOMAIN, bounds, facts), facts)
            result.not_derived = check_all_inputs(claims, bounds, facts, samples)
        except InputError as error:  # states far from any that a searcher finds
            raise CannotCheck(f"the recorded states: {error}") from None
        result.regions, result.facts, result.provers = 1, facts.count, dict(facts.prove(prover))
    return result


def read_claims(certificate: Path, float_path: Path, int8_path: Path) -> Claims:
    """As `codesign.checker.read_claims`."""
    claims = checker.read_claims(certificate, float_path, int8_path, [ALL_INPUTS_METHOD])
    demand([region.get("kind") for region in claims.regions] == ["domain"], "all_inputs: not of one domain")
    return claims


def replay_domain(
    claims: Claims, keep: bool = False, on_progress: Callable[[int, int], None] | None = None
) -> tuple[Facts, Bounds]:
    """Derive the bounds over the domain; `keep` the facts, so that they can be given to solvers as obligations."""
    facts, symbols, network = Facts(Choices(claims.proof, DOMAIN), keep), Symbols(), claims.integers[0]
    facts.choices.told = on_progress
    stated, lo, hi = claims.document["all_inputs"], claims.proof.lo, claims.proof.hi
    any_length, rates = stated["any_length"], iter(stated["contraction"])
    rows = input_pairs(network, lo, hi, claims.on_grid, symbols)
    if any_length:
        demand(bool((lo == lo[:, :1]).all() and (hi == hi[:, :1]).all()), "the domain is another one at other steps")
        rows = rows[:1]

    def layer(*given: Any) -> DomainReplay:
        lstm = DomainReplay(*given)
        lstm.contraction = next(rates, None) if any_length else None
        found = not any_length or lstm.contraction is not None
        demand(found, f"all_inputs/contraction: none of '{lstm.layer.name}'")
        return lstm

    rows, hidden = forward(claims.chains, rows, facts, symbols, layer)
    demand(next(rates, None) is None, "all_inputs/contraction: more entries than layers")
    if any_length:
        rows = rows * (int(np.prod(network.output.shape)) // rows[0].value.lo.shape[1])
    passes = [read_off(rows, hidden, symbols)]
    if stated["joint"]:
        demand(not any_length, "all_inputs/joint: a zonotope is about one number of steps")
        passes.append(zonotope(claims, DOMAIN, facts))
    facts.choices.finish()
    return facts, outputs(passes, claims.chains[0], network, facts)
