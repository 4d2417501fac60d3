"""Sentences and figures for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from codesign.text import upward

if TYPE_CHECKING:
    from codesign.signoff.evidence import Region

__all__ = ["bound_statements", "median", "number", "some", "top1_notes", "upward"]

_NAMED = 5  # how many samples or regions a sentence names


def some(names: Sequence[object], what: str) -> str:
    named = ", ".join(str(n) for n in names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'} ({named})"


def number(value: float) -> str:
    return f"{value:.4g}"


def median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])


def top1_notes(regions: Sequence[Region]) -> list[str]:
    counted = [r for r in regions if r.counted and len(r.bound) > 1]
    unknown = [r.name for r in counted if r.top1 == "unknown"]
    refuted = [r.name for r in counted if r.top1 == "refuted"]
    notes = []
    if refuted:
        notes.append(
            f"In {some(refuted, 'region')} an input is known on which the integer model chooses another class."
        )
    if unknown:
        notes.append(f"An equal top-1 class is neither proved nor refuted in {some(unknown, 'region')}.")
    return notes


def bound_statements(regions: Sequence[Region]) -> list[str]:
    statements = []
    for kind in sorted({r.kind for r in regions if r.radius is not None}):
        inside = [r for r in regions if r.kind == kind and r.radius is not None]
        radii = sorted({r.radius for r in inside if r.radius is not None})
        told = number(radii[0]) if len(radii) == 1 else f"{number(radii[0])} to {number(radii[-1])}"
        largest = sorted(max(r.bound) for r in inside)
        where = (
            f"For every input within {told} (largest change of one value) of {len(inside)} samples"
            if kind == "ball"
            else f"For every input of {len(inside)} regions of kind '{kind}' (as the certificate states them)"
        )
        statements.append(
            f"{where}, each output of the integer model differs from the float model by at most the region's bound: "
            f"median {upward(median(largest))}, largest {upward(largest[-1])}."
        )
    counted = [r for r in regions if r.counted and r.radius is not None and len(r.bound) > 1]
    proved = sum(r.top1 == "proved" for r in counted)
    if proved:
        statements.append(
            f"In {proved} of the {len(counted)} counted regions (where there are labels: around samples that the float "
            "model classifies correctly) both models choose the same class for every input."
        )
    for r in regions:
        if r.radius is None:
            statements.append(
                f"For every input of region '{r.name}', the whole input domain, the difference is at most "
                f"{upward(max(r.bound))}."
            )
    return statements
