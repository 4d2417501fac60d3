"""A verified claim (`codesign.recheck.claim`) as text."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from codesign.text import upward

if TYPE_CHECKING:
    from codesign.deployment_checker import FolderResult

_FEATURES = 6  # ranges that are listed


def print_folder(result: FolderResult, as_json: bool, seconds: float) -> None:
    """The result of a folder's check; exits with 0 where it is valid and signed off, else with 1."""
    from codesign.deployment_checker.check import SIGNED_OFF

    good = result.verdict == "valid" and result.signed_off in SIGNED_OFF
    if as_json:
        click.echo(json.dumps({**asdict(result), "seconds": seconds}))
    elif result.claim is None:
        click.echo(f"{result.verdict}: {result.item}")
    else:
        click.echo(result.verdict)
        click.echo(claim_text(result.claim))
        proved = "".join(f", {count} proved by {name}" for name, count in sorted(result.provers.items()))
        click.echo(f"{result.facts} nonlinear facts derived{proved}; {result.samples} device outputs simulated again")
        for statement in result.proved:
            click.echo(f"follows: {statement}")
        for entry in result.not_verified:
            click.echo(f"told, not verified: {entry}")
        if result.emulated:
            click.echo("EMULATED: by its own word no hardware took part")
        click.echo(f"signed off: {result.signed_off}" if good else f"NOT signed off: {result.signed_off}")
    sys.exit(0 if good else 1)


def claim_text(claim: dict[str, Any]) -> str:
    """What was verified, a line a subject: models, semantics, inputs, bounds, criteria."""
    regions, bound, data = claim["regions"], claim["bound"], claim["data"]
    real = claim["bound_over_the_reals"]
    lo, hi = claim["domain"]["lo"], claim["domain"]["hi"]
    ranges = ", ".join(f"[{low:g}, {high:g}]" for low, high in list(zip(lo, hi, strict=True))[:_FEATURES])
    kinds = ", ".join(f"{count} of kind {kind}" for kind, count in regions["kinds"].items())
    small, large = regions["half_width"]["smallest"], regions["half_width"]["largest"]
    width = f"{large:.6g}" if small == large else f"{small:.6g} to {large:.6g}"
    fixed = f", up to {regions['fixed_steps']} first steps fixed" if regions["fixed_steps"] else ""
    named = "none" if data is None else f"{data['samples']} samples, SHA-256 {data['sha256']}"
    labels = "" if data is None or data["labels_sha256"] is None else f", labels {data['labels_sha256']}"
    same, classes = claim["same_class"], "not spoken of: the outputs are no classes"
    if same is not None:
        classes = f"proved on {same['proved']}, refuted on {same['refuted']}, open on {same['unknown']} regions"
    lines = [
        "verified claim:",
        f"  float model  SHA-256 {claim['float_sha256']}",
        f"  int8 model   SHA-256 {claim['int8_sha256']}",
        f"  semantics    {', '.join(claim['profiles'])}",
        f"  data         {named}{labels}",
        f"  domain       {ranges}{', ...' if len(lo) > _FEATURES else ''}",
        f"  regions      {kinds}; half-width {width} in input units{fixed}; {regions['counted']} counted",
        f"  bound        median {upward(bound['median'])}, largest {upward(bound['largest'])}; "
        f"over the reals {upward(real['median'])}, {upward(real['largest'])}",
        f"  float32      {claim['float32_model']}",
        f"  same class   {classes}",
        *(
            f"  criterion    {name} {entry['asked']}: {entry['verdict']}"
            for name, entry in claim["criteria"].items()
            if name != "thresholds"
        ),
        *map(_threshold, claim["thresholds"]),
        f"  verdict      {claim['verdict']}",
        f"  in words     {claim['claim']}",
    ]
    if claim["all_inputs"] is not None:
        lines.append(f"  all inputs   {claim['all_inputs']}")
    return "\n".join(lines)


def _threshold(told: dict[str, Any]) -> str:
    which = "every output" if told["output"] is None else f"output {told['output']}"
    counts = ", ".join(f"{status} on {count}" for status, count in told["regions"].items())
    band = f"always so where the float output is more than {upward(told['hysteresis'])} from it"
    return f"  criterion    {which} on the same side of {told['value']:g}: {counts} regions; {band}"
