"""What is said first of all: the bound, the share with the same class, and whether these say anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codesign.signoff.wording import number
from codesign.text import percent, upward


def headline(certificate: Mapping[str, Any]) -> list[str]:
    """Sentences from the 'certificate' part of signoff.json, for the report, the command line and scripts."""
    if not certificate["regions"]:
        return ["Nothing is proved of the distance from the float model: there is no certificate."]
    whole = certificate["all_inputs"]
    told = [_domain(whole), *_domain_classes(whole)] if whole is not None else [_regions(certificate)]
    if whole is None and certificate["top1_counted"]:
        share = certificate["top1_proved_share"]
        told.append(f"Same class proved in {percent(share)} of {certificate['top1_counted']} counted regions.")
    return told


def _regions(certificate: Mapping[str, Any]) -> str:
    count, vacuous = certificate["regions"], certificate["vacuous"]
    if certificate["bound_max"] is None or certificate["observed_max"] is None:
        return "The certificate has no readable bounds."
    if vacuous == count:
        return (
            f"VACUOUS: the bound on |integer - float|, {upward(certificate['bound_max'])}, says no more than the "
            "outputs' ranges do, in every region."
        )
    text = (
        f"Certified bound on |integer - float|: median {upward(certificate['bound_median'])}, largest "
        f"{upward(certificate['bound_max'])} over {count} regions; largest error found by search "
        f"{number(certificate['observed_max'])}."
    )
    return text if not vacuous else f"{text} VACUOUS in {vacuous} of them: no more than the outputs' ranges say."


def _domain(whole: Mapping[str, Any]) -> str:
    bound = "none" if whole["logit_bound"] is None else upward(whole["logit_bound"])
    where = "for every sequence of inputs of the domain" if whole["any_length"] else "for every input of the domain"
    if whole["vacuous"]:
        return f"VACUOUS: the bound on the logits {where}, {bound}, says no more than their ranges do."
    return f"Certified bound on the logits' |integer - float| {where}: {bound}."


def _domain_classes(whole: Mapping[str, Any]) -> list[str]:
    if whole["same_class_margin"] is None:
        return []
    text = f"The same class wherever the float model's margin exceeds {upward(whole['same_class_margin'])}"
    covered, samples = whole["covered_samples"], whole["samples"]
    if samples and covered is not None:
        text += f": proved for {covered} of {samples} samples ({percent(covered / samples)})"
    return [f"{text}."]
