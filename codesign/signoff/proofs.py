"""What a certificate says of its proof obligations: all of them proved, or why not, and what dReal proved besides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codesign.signoff.evidence import Evidence, Reader, is_kind
from codesign.text import everything_proved, proved_sentence, second_sentence


def proof(judge: Reader, certificate: Evidence | None) -> bool:
    """Whether every obligation was proved. Failures, notes and statements go to `judge`.

    That one was not proved is a failure; that not all were asked for is no claim, and leaves the deployment unproved.
    """
    if not isinstance(certificate, Mapping):
        return False
    numbers = [
        judge.take(certificate, "the certificate", "proof", key, kind="count")
        for key in ("obligations", "checked", "proved")
    ]
    if None in numbers:
        return False
    total, checked, proved = numbers
    if not proved <= checked <= total:
        judge.failures.append(
            f"the certificate claims {proved} proved and {checked} checked proof obligations of {total}"
        )
        return False
    proof = certificate["proof"]
    provers = judge.take(certificate, "the certificate", "proof", "provers", kind="table")
    if provers is None or judge.take(certificate, "the certificate", "proof", "mode", kind="text") is None:
        return False
    if not all(is_kind(count, "count") for count in provers.values()):
        judge.failures.append("the certificate does not say which provers proved how many obligations")
        return False
    if not everything_proved(proof):
        if proved < checked or proof["mode"] == "all":  # else they were not all asked for: `missing`
            judge.failures.append(proved_sentence(proof))
        return False
    judge.statements.append(_sentence(proved_sentence(proof)))
    _second(judge, certificate)
    return True


def missing(certificate: Evidence | None) -> list[str]:
    """Why nothing is proved, where not all obligations were asked to be; empty else."""
    proof = certificate.get("proof") if isinstance(certificate, Mapping) else None
    if not isinstance(proof, Mapping) or proof.get("mode") not in ("audit", "none"):
        return []
    if not all(is_kind(proof.get(key), "count") for key in ("obligations", "checked", "proved")):
        return []
    return [] if everything_proved(proof) else [f"the bounds are not proved: {proved_sentence(proof)}"]


def _second(judge: Reader, certificate: Mapping[str, Any]) -> None:
    """What a solver of its own proved besides, or that none could be run."""
    if certificate["proof"].get("second") is None:
        return
    second = judge.take(certificate, "the certificate", "proof", "second", kind="table")
    counts = [
        judge.take(certificate, "the certificate", "proof", "second", key, kind="count")
        for key in ("drawn", "proved", "undecided")
    ]
    if second is None or None in counts:
        return
    if not all(isinstance(second.get(key), str) for key in ("version", "reason")):
        judge.failures.append("the certificate does not say which dReal proved obligations besides")
        return
    drawn, proved, undecided = counts
    if proved + undecided != drawn or (drawn and second["reason"]):
        judge.failures.append("the certificate contradicts itself about what dReal proved besides")
    elif second["reason"]:
        judge.notes.append(_sentence(second_sentence(certificate["proof"])))
    else:
        judge.statements.append(_sentence(second_sentence(certificate["proof"])))


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."
