"""Results as text for people, on standard output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codesign.outcome import outcome, same_class
from codesign.signoff.evidence import is_outside
from codesign.text import domain_words, percent, proved_sentence, second_sentence, some, upward

if TYPE_CHECKING:
    from codesign.doctor import Check


def print_certificate(document: dict[str, Any], written: Path | None = None) -> None:
    """The bound and the share with the same class, what is not proved, then the rest; `written`: the certificate."""
    summary, proof, criteria = document["summary"], document["proof"], document["criteria"]
    regions = document["regions"]
    _print_claim(document)
    if summary["not_reached"]:
        click.echo(
            f"TIME LIMIT: {summary['not_reached']} of {summary['regions']} regions were not reached; for them only the "
            "outputs' ranges are known"
        )
    if document["pair"]["different_models"]:
        click.echo("TWO DIFFERENT MODELS: the int8 weights are not the float model's, rounded (--different-models)")
    outside = [r["id"] for r in regions if is_outside(r["center"], document["domain"])]
    if outside:
        click.echo(
            f"{some(outside, 'region')}: the sample lies outside the domain {domain_words(document['domain'])}; the "
            "region reaches from it to what of its ball lies in the domain"
        )
    whole = "all_inputs" in document
    open_regions = [
        r for r in regions if r["top1"] not in ("proved", None) and r["reason"] != "time limit" and not whole
    ]
    for region in open_regions[:10]:
        reason = f" ({region['reason']})" if region["reason"] else ""
        words, _ = same_class(region["top1"], document["verdict"])
        click.echo(f"region {region['id']}: same class {words}{reason}")
    if len(open_regions) > 10:
        click.echo(f"... and {len(open_regions) - 10} more regions without proved top-1 equality")
    click.echo(proved_sentence(proof))
    if proof.get("second"):
        click.echo(second_sentence(proof))
    print_worst(regions)
    if criteria["epsilon"] is not None:
        click.echo(f"criterion epsilon {criteria['epsilon']:g}: {criteria['epsilon_verdict']}")
    if criteria["top1_share"] is not None:
        click.echo(f"criterion top-1 share {criteria['top1_share']:g}: {criteria['top1_verdict']}")
    for name, told in (
        ("top1_above", "top-1 equal above probability {}"),
        ("topk", "equal sets of the {} largest outputs"),
        ("ranking", "output {} stays above output {}"),
    ):
        wanted = criteria[name]
        if wanted is not None:
            statuses = [r[name] for r in regions]
            counts = ", ".join(f"{s} on {statuses.count(s)}" for s in ("proved", "refuted", "unknown"))
            asked = told.format(*(wanted if isinstance(wanted, list) else [wanted]))
            click.echo(f"criterion {asked}: {criteria[f'{name}_verdict']} ({counts} regions)")
    for k, wanted in enumerate(criteria["thresholds"] or []):
        entries = [r["thresholds"][k] for r in regions]
        found = [entry["status"] for entry in entries]
        counts = ", ".join(f"{s} on {found.count(s)}" for s in ("proved", "refuted", "unknown"))
        which = "all outputs" if wanted["output"] is None else f"output {wanted['output']}"
        band = max(entry["hysteresis"] for entry in entries)
        click.echo(
            f"criterion {which} on the same side of {wanted['value']:g}: {counts} regions; always so where the float "
            f"output is more than {upward(band)} from it"
        )
    if written is not None:
        click.echo(f"written: {written}, and {written.stem}.proof.npz, which codesign check needs beside it")
    click.echo(f"verdict: {document['verdict']} ({outcome(document['verdict']).sentence})")


def _print_claim(document: dict[str, Any]) -> None:
    """First of all: how large the bounds are, whether they say anything, and how often the class is proved the same."""
    summary, regions = document["summary"], document["regions"]
    kind = "int16" if document["input_quantization"]["maximum"] > 127 else "int8"
    click.echo(
        f"bound on |{kind} - float|, float32 included: median {upward(summary['total_bound_median'])}, largest "
        f"{upward(summary['total_bound_max'])} (over the reals {upward(summary['bound_max'])}) "
        f"over {summary['regions']} regions; largest observed {summary['observed_max']:.4g} in "
        f"{summary['evaluations']} exact evaluations"
    )
    if summary["vacuous"]:
        click.echo(
            f"VACUOUS: in {summary['vacuous']} of {summary['regions']} regions the bound says no more than the "
            f"outputs' ranges do ({upward(min(document['ranges']['outputs']['vacuous_from']))} and more says nothing)"
        )
    whole = document.get("all_inputs")
    if whole is not None:
        click.echo(whole["statement"])
        if whole["vacuous"]:
            click.echo("VACUOUS: this says no more than the ranges of the logits do")
    elif summary["top1_counted"]:
        click.echo(
            f"same class proved in {percent(summary['top1_share'])} of {summary['top1_counted']} counted regions; of "
            f"all, known to differ in {summary['top1']['refuted']}, not known in {summary['top1']['unknown']}"
        )
    elif any(r["top1"] is not None for r in regions):
        click.echo("no region counts for the class: the float model classifies none of these samples as labelled")


def print_worst(regions: Sequence[dict[str, Any]]) -> None:
    """The region of the largest bound: certified, the abstract model's worst case from below, and observed."""
    reached = [r for r in regions if r["reason"] != "time limit"]
    if not reached:
        return
    worst = max(reached, key=lambda r: max(r["logit_bound"]))
    bound, lower, seen = max(worst["logit_bound"]), worst["abstract_lower"], worst["observed_logit_max"]
    softmax = "" if worst["logit_bound"] == worst["bound"] else ", before the softmax"
    abstract = "" if lower is None else f" | abstract model's worst case at least {lower:.4g}{_ratio(bound, lower)}"
    click.echo(
        f"worst region {worst['id']}{softmax}: certified {bound:.4g}{abstract} | observed {seen:.4g}"
        f"{_ratio(bound, seen)}"
    )


def _ratio(bound: float, lower: float) -> str:
    return f" (certified is {bound / lower:.3g} times that)" if lower > 0 else ""


def print_signoff(result: dict[str, Any], folder: Path) -> None:
    """The bound and the proved share, failures, what is not proved, the figures, the verdict."""
    for line in result["headline"]:
        click.echo(line)
    if result["emulated"]:
        click.echo(f"EMULATED: {result['board']} was emulated; no hardware was touched")
    for note in result["notes"]:
        click.echo(f"note: {note}")
    for failure in result["failures"]:
        click.echo(f"FAILED: {failure}")
    for reason in result["unproved"]:
        click.echo(f"UNPROVED: {reason}")
    for statement in result["proved"]:
        if statement.startswith(("For every ", "All bounds hold", "Checked on the device: ")):
            click.echo(statement)
    hil = result["hil"]
    within = f", {hil['within_bound']} of {hil['with_bound']} within their bound" if hil["with_bound"] else ""
    click.echo(f"{hil['samples']} samples on the board: {hil['bit_exact']} bit-exact{within}")
    for unit in ("instructions", "cycles"):
        if hil.get(unit) is not None:
            click.echo(f"{hil[unit]:,.0f} {unit} per inference (median)")
    click.echo(
        f"flash {result['flash_bytes']} bytes, static RAM {result['ram_bytes']} bytes, "
        f"stack {result['stack_bytes']} bytes"
    )
    click.echo(f"report: {folder / 'report.html'}")
    click.echo(f"verdict: {result['verdict']} ({outcome(result['verdict']).sentence})")


def print_checks(checks: Sequence[Check]) -> None:
    """One line a check, and the fix where one is needed."""
    marks = {"ok": "ok     ", "warning": "warning", "missing": "MISSING"}
    for check in checks:
        click.echo(f"{marks[check.status]}  {check.name}: {check.detail}")
        if check.status != "ok" and check.fix:
            click.echo(f"         fix: {check.fix}")
