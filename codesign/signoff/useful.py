"""Why a deployment is UNPROVED although its device is bit-exact: what was asked for, or anything useful, is missing."""

from __future__ import annotations

from collections.abc import Sequence

from codesign.signoff import domain
from codesign.signoff.criterion import CriterionResult
from codesign.signoff.evidence import Evidence, Region
from codesign.text import some, upward


def shortfalls(
    certificate: Evidence | None,
    regions: Sequence[Region],
    relied: Sequence[Region],
    results: Sequence[CriterionResult],
) -> list[str]:
    """Sentences; none where the deployment can be signed off. `relied`: the regions that hold for samples that ran.

    A criterion of classes that is proved makes up for vacuous bounds. Without any criterion the bounds that samples
    rely on must not be vacuous, and where there are several outputs the class has to be proved the same somewhere and
    known to differ nowhere; over a whole domain the margin has to cover some sample.
    """
    found = [f"criterion not proved: {r.sentence}" for r in results if r.status == "unknown"]
    if regions and not relied:
        return [*found, "no sample that was run lies in a certified region: nothing is proved of them"]
    if not any(r.name != "epsilon" and r.status == "proved" and r.reached for r in results):
        vacuous = [r for r in relied if r.vacuous]
        if vacuous:
            found.append(
                f"VACUOUS: the bound of {some([r.name for r in vacuous], 'region')} that samples rely on, "
                f"{upward(max(max(r.bound) for r in vacuous))}, says no more than the outputs' ranges do"
            )
    if not results:
        found += _whole(certificate, regions) if domain.stated(certificate) is not None else _classes(regions)
    return found


def _classes(regions: Sequence[Region]) -> list[str]:
    """Of regions around samples."""
    classes = [r for r in regions if r.several and r.counted]
    refuted = [r.name for r in classes if r.top1 == "refuted"]
    if refuted:
        return [
            f"in {some(refuted, 'region')} an input is known on which the integer model chooses another class; say "
            "what share of regions suffices with --require-top1"
        ]
    if any(r.several for r in regions) and not any(r.top1 == "proved" for r in classes):
        return [f"the same class is proved in none of the {len(classes)} counted regions"]
    return []


def _whole(certificate: Evidence | None, regions: Sequence[Region]) -> list[str]:
    """Of a whole domain."""
    told = domain.stated(certificate) or {}
    if told.get("vacuous") is not False:
        return [
            "VACUOUS: over the whole domain the bound on the logits, or the margin, says no more than their ranges do"
        ]
    if any(r.several for r in regions) and not told.get("covered_samples"):
        return [
            f"the certificate over the whole domain proves the same class for none of the {told.get('samples') or 0} "
            "samples: its margin is wider than theirs"
        ]
    return []
