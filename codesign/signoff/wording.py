"""Sentences and figures for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from codesign.text import some, upward

if TYPE_CHECKING:
    from codesign.signoff.evidence import Region

__all__ = ["bound_statements", "conditions", "median", "number", "region_notes"]


def number(value: float) -> str:
    return f"{value:.4g}"


def median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])


def top1_notes(regions: Sequence[Region]) -> list[str]:
    """What is known of classes around samples besides 'proved'; a whole domain has words of its own."""
    counted = [r for r in regions if r.counted and r.several and r.radius is not None]
    unknown = [r.name for r in counted if r.top1 == "unknown"]
    refuted = [r.name for r in counted if r.top1 == "refuted"]
    notes = []
    if refuted:
        notes.append(
            f"In {some(refuted, 'region')} an input is known on which the integer model chooses another class."
        )
    if unknown:
        notes.append(f"It is not known whether the class is the same everywhere in {some(unknown, 'region')}.")
    return notes


def region_notes(regions: Sequence[Region], domain: str) -> list[str]:
    """What is not proved of the regions, and what they are not about. `domain`: in words."""
    notes = top1_notes(regions)
    vacuous = [r.name for r in regions if r.vacuous]
    if vacuous:
        notes.append(
            f"VACUOUS: in {some(vacuous, 'region')} the bound says no more than the outputs' ranges do; nothing useful "
            "is proved of the difference there."
        )
    late = [r.name for r in regions if not r.reached]
    if late:
        notes.append(f"The time limit left out {some(late, 'region')}: only output ranges are known there.")
    outside = [r.name for r in regions if r.outside]
    if outside:
        notes.append(
            f"The sample of {some(outside, 'region')} lies outside the domain {domain}: such a region reaches from the "
            "sample to what of its ball lies in the domain, and no farther."
        )
    if regions:
        whole = any(r.radius is None for r in regions)
        notes.append(
            f"Nothing is proved for inputs outside the {f'domain {domain}' if whole else 'certified regions'}."
        )
    return notes


_KINDS = {
    "ball": (
        "For every float32 input within {radius} (largest change of one value) of {count} samples, clipped to the "
        "domain {domain},"
    ),
    "noise": (
        "For every float32 input of {count} boxes around samples, as wide as the stated noise and clipped to the "
        "domain {domain},"
    ),
    "grid": (
        "For every integer input within the stated steps of {count} quantized samples, with the float model at the "
        "dequantized input,"
    ),
}


def bound_statements(regions: Sequence[Region], domain: str) -> list[str]:
    """What is proved, of the regions whose bound is not vacuous. `domain`: in words."""
    statements = []
    useful = [r for r in regions if not r.vacuous]
    for kind in sorted({r.kind for r in useful if r.radius is not None}):
        inside = [r for r in useful if r.kind == kind and r.radius is not None]
        radii = sorted({r.radius for r in inside if r.radius is not None})
        told = number(radii[0]) if len(radii) == 1 else f"{number(radii[0])} to {number(radii[-1])}"
        largest = sorted(max(r.bound) for r in inside)
        where = _KINDS.get(kind, "For every input of {count} regions, as the certificate states them,").format(
            radius=told, count=len(inside), domain=domain
        )
        statements.append(
            f"{where} each dequantized output of the integer model differs from the float model's, float32 included, "
            f"by at most the region's bound: median {upward(median(largest))}, largest {upward(largest[-1])}."
        )
    counted = [r for r in regions if r.counted and r.radius is not None and r.several]
    proved = sum(r.top1 == "proved" for r in counted)
    if proved:
        statements.append(
            f"In {proved} of the {len(counted)} counted regions (where there are labels: around samples that the float "
            "model classifies correctly) both models choose the same class for every input of the region."
        )
    for r in useful:
        if r.radius is None:
            statements.append(
                f"For every float32 input of the domain {domain}, each dequantized output of the integer model differs "
                f"from the float model's, float32 included, by at most {upward(max(r.bound))}."
            )
    return statements


def conditions(profiles: Sequence[object]) -> str:
    """What all statements share."""
    return (
        f"All bounds hold under the semantics profiles {', '.join(map(str, profiles))}; they include what an "
        "evaluation of the float model in float32 (as the certificate's float32_model says) and the dequantisation add."
    )
