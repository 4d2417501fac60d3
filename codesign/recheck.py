"""Checks certificates of any kind: regions by `codesign.checker`, whole domains by `codesign.domain_checker`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from codesign import checker, domain_checker
from codesign.checker import CannotCheck, CheckResult, Invalid
from codesign.errors import InputError
from codesign.proof.obligation import Obligation


def check(
    certificate: Path, float_path: Path, int8_path: Path, prover: str | None = None, jobs: int = 1,
    on_progress: Callable[[int, int], None] | None = None, data: Path | None = None,
) -> CheckResult:  # fmt: skip
    """Says valid, or invalid with the first bad item; arguments and errors as of the checkers' own `check`."""
    if domain_checker.is_of_domain(certificate):
        return domain_checker.check(certificate, float_path, int8_path, prover, data)
    return checker.check(certificate, float_path, int8_path, prover, jobs, on_progress)


def facts(certificate: Path, float_path: Path, int8_path: Path, region: int = 0) -> list[Obligation]:
    """The nonlinear facts that the bounds of one region rest on. InputError where they cannot be replayed."""
    of_domain = domain_checker.is_of_domain(certificate)
    read = domain_checker.read_claims if of_domain else checker.read_claims
    try:
        claims = read(certificate, float_path, int8_path)
        if not 0 <= region < len(claims.regions):
            raise InputError(f"there is no region {region}; the certificate has {len(claims.regions)}, counted from 0")
        if of_domain:
            found, _ = domain_checker.replay_domain(claims, keep=True)
        else:
            found, _ = checker.replay_regions(claims, slice(region, region + 1), keep=True)
    except (Invalid, CannotCheck) as error:
        raise InputError(f"the certificate cannot be replayed: {error}") from None
    return list(found.obligations())
