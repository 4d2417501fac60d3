"""`codesign hil`: the cross-check of a deployment again, or a soak; `codesign boards`: boards and what they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codesign.cli import options as opt
from codesign.cli.endings import stopping
from codesign.cli.waiting import waits_for
from codesign.errors import INTERRUPTED
from codesign.outcome import outcome
from codesign.text import some

if TYPE_CHECKING:
    from codesign.hil.deployment import Deployment
    from codesign.hil.target import Target
    from codesign.toolchain import Board

_LISTED = 20


@click.command()
@click.argument("place", metavar="FOLDER|ELF", type=opt.FILE)
@click.option("--model", type=opt.FILE, required=True, help="The float model that was deployed.")
@click.option("--board", help="The board [default: the deployment's].")
@click.option("--int8", type=opt.FILE, help="The int8 .tflite in the firmware [default: the deployment's].")
@click.option("--certificate", type=opt.FILE, help="certificate.json [default: the deployment's].")
@click.option("--calibration", type=opt.FILE, help="Samples as .npz [default: the centers of the certified regions].")
@click.option("--samples", type=click.IntRange(min=1), help="Send the first N samples [default: all].")
@click.option("--port", help="Serial port, 'auto', or serial:NUMBER of a debug probe [default: auto, else emulated].")
@click.option("--emulate", is_flag=True, help="Emulate the board even if one is attached.")
@click.option("--no-flash", is_flag=True, help="Take the board as it is; it has to run this very build.")
@click.option("-o", "--output", type=opt.FILE, help="Result [default: NAME.hil.json or NAME.soak.json here].")
@click.option("--resume", is_flag=True, help="Go on from the journal (.jsonl beside the result) of an interrupted run.")
@click.option("--soak", metavar="DURATION", help="Random inputs in the certified regions for 90s, 10m, 1h, ...")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the soak's inputs.")
@click.option(
    "--bit-exact-only", is_flag=True, help="Compare with the exact reference alone; no bound counts, none is claimed."
)
@opt.domain_checks
@opt.different_models
@opt.as_json
@waits_for("hil: the deployment is read and its board started")
def hil(
    place: Path, model: Path, board: str | None, int8: Path | None, certificate: Path | None,
    calibration: Path | None, samples: int | None, port: str | None, emulate: bool, no_flash: bool,
    output: Path | None, resume: bool, soak: str | None, seed: int, drawn: int, stream_steps: int,
    different_models: bool, as_json: bool, bit_exact_only: bool,
) -> None:  # fmt: skip
    """Cross-check a deployment again, on its board or emulated.

    Every answer is appended to a journal as it arrives; --resume goes on from it. Exit codes: 0 PASS, 1 FAIL.
    """
    from codesign.errors import InputError
    from codesign.files import require_json
    from codesign.hil.deployment import load_deployment
    from codesign.hil.soak import parse_duration

    if soak is not None and (resume or calibration or samples):
        raise InputError("--soak draws its own inputs: leave out --resume, --calibration and --samples")
    if soak is not None and bit_exact_only:
        raise InputError("--soak draws its inputs in certified regions: leave out --bit-exact-only")
    seconds = None if soak is None else parse_duration(soak)
    name = place.resolve().name.removesuffix(".deploy").removesuffix(".elf")
    destination = output or Path(f"{name}.{'hil' if seconds is None else 'soak'}.json")
    require_json(destination.absolute())
    deployment = load_deployment(place, model, board, int8, certificate, different_models)
    from codesign.hil import open_target

    with open_target(deployment.firmware, port=port, emulate=emulate or None, flash=not no_flash) as target:
        if not as_json:
            click.echo(target.description, err=True)
        if seconds is not None:
            result = _soak(target, deployment, seconds, seed, as_json)
        else:
            inputs = _inputs(deployment, calibration, samples, drawn, stream_steps)
            if bit_exact_only:
                inputs = {**inputs, "regions": [], "streams": []}
            result = _check(target, deployment, inputs, destination, resume, as_json)
    result = _concluded(result, deployment, bit_exact_only)
    _write(result, destination)
    if as_json:
        click.echo(json.dumps(result, allow_nan=False))
    elif seconds is not None:
        _print_soak(result, destination)
    else:
        _print_check(result, destination)
    code = outcome(result["verdict"]).exit_code
    sys.exit(INTERRUPTED if code == 0 and result.get("interrupted") else code)


def _concluded(result: dict[str, Any], deployment: Deployment, bit_exact_only: bool) -> dict[str, Any]:
    """The result with the verdict on more than the comparison: bounds that samples rely on, and whether they say
    anything."""
    if result["verdict"] != "PASS":
        return result
    if bit_exact_only:
        return {**result, "verdict": "BIT-EXACT-ONLY"}
    regions = [] if deployment.certificate is None else deployment.certificate["regions"]
    compared = result["summary"]["with_bound"] if "summary" in result else result["inferences"]
    vacuous = [r["id"] for r in regions if r["vacuous"]]
    reason = None
    if not compared:
        reason = "no sample had a certified bound; --bit-exact-only asks for the cross-check alone"
    elif vacuous:
        reason = f"VACUOUS: the bounds of {some(vacuous, 'region')} say no more than the outputs' ranges do"
    return result if reason is None else {**result, "verdict": "UNPROVED", "unproved": [reason]}


def _inputs(
    deployment: Deployment, calibration: Path | None, samples: int | None, drawn: int, stream_steps: int
) -> dict[str, Any]:
    """What is sent, as arguments of `cross_check`.

    A certificate over the whole domain is checked with inputs from all of it and, for any length, with a stream.
    """
    from codesign import api
    from codesign.certificate import hil_regions
    from codesign.network import evaluate
    from codesign.quantization import Calibration, load_calibration

    shape, certificate = deployment.integer.input.shape, deployment.certificate
    given = None if calibration is None else load_calibration(calibration, (shape[0], shape[1]), deployment.real)
    if certificate is None or "all_inputs" not in certificate:
        x, regions = deployment.samples() if given is None else (given.x, [])
        count = min(samples or len(x), len(x))
        known = None if given is None or given.y is None or given.y.ndim != 1 else given.y[:count]
        held = [region for region in regions if region["sample"] is None or region["sample"] < count]
        return {"x": x[:count], "labels": known, "regions": held}
    if given is None:
        centers, _ = deployment.samples()
        given = Calibration(centers, None)
    sent, labels = api.hil_inputs(deployment.real, given, certificate, samples, drawn)
    streams = [api.domain_stream(certificate, stream_steps)] if certificate["all_inputs"]["any_length"] else []
    held = hil_regions(certificate, sent, evaluate(deployment.real, sent, logits=True))
    return {"x": sent, "labels": labels, "regions": held, "streams": streams}


def _check(
    target: Target, deployment: Deployment, inputs: dict[str, Any], destination: Path, resume: bool, quiet: bool
) -> dict[str, Any]:
    from codesign.cli.progress import Progress
    from codesign.hil import cross_check

    journal = destination.with_suffix(".jsonl")

    def left() -> str:
        return (
            f"'{journal}' has the answers so far: the same command with --resume goes on" if journal.is_file() else ""
        )

    with stopping(left), Progress(quiet=quiet) as progress:
        return cross_check(
            target,
            deployment.integer,
            deployment.real,
            build_id=deployment.firmware.build_id,
            progress=progress.stage("hil"),
            journal=journal,
            resume=resume,
            **inputs,
        )


def _soak(target: Target, deployment: Deployment, seconds: float, seed: int, quiet: bool) -> dict[str, Any]:
    import numpy as np

    from codesign.cli.soak_display import SoakDisplay
    from codesign.hil.soak import soak

    with SoakDisplay(seconds, quiet) as display:
        return soak(
            target, deployment.integer, deployment.real, deployment.regions(), seconds,
            np.random.default_rng(seed), display, build_id=deployment.firmware.build_id,
        )  # fmt: skip


def _write(result: dict[str, Any], destination: Path) -> None:
    from codesign.files import write_atomically
    from codesign.hil import write_result

    if result["format"] == "codesign-soak-1":
        write_atomically(destination, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    else:
        write_result(result, destination)


def _print_check(result: dict[str, Any], destination: Path) -> None:
    summary = result["summary"]
    if result["target"]["emulated"]:
        click.echo(f"EMULATED: {result['target']['board']} was emulated; no hardware was touched")
    _print_events(result["link"])
    for failure in result["failures"]:
        click.echo(f"FAILED: {failure}")
    click.echo(
        f"{summary['samples']} of {summary['requested']} samples: {summary['bit_exact']} bit-exact, "
        f"{summary['within_bound']} of {summary['with_bound']} within their certified bound"
    )
    for stream in result["streams"]:
        bound = "" if stream["within_bound"] is None else f", {stream['within_bound']} within the certified bound"
        click.echo(f"stream of {stream['steps']} steps without a reset: {stream['bit_exact']} bit-exact{bound}")
    counter = result["counter"]
    if counter["median"] is not None:
        click.echo(f"{counter['median']:,.0f} {counter['unit']} per inference (median)")
    click.echo(f"result: {destination}")
    _print_verdict(result)


def _print_verdict(result: dict[str, Any]) -> None:
    for reason in result.get("unproved", []):
        click.echo(f"UNPROVED: {reason}")
    click.echo(f"verdict: {result['verdict']}")


def _print_soak(result: dict[str, Any], destination: Path) -> None:
    if result["emulated"]:
        click.echo(f"EMULATED: {result['board']} was emulated; no hardware was touched")
    _print_events(result["link"])
    for failure in result["failures"]:
        click.echo(f"FAILED: {failure}")
    if result["interrupted"]:
        click.echo(f"interrupted after {result['seconds']:.0f} of {result['requested_seconds']:.0f} s")
    click.echo(
        f"{result['inferences']} random inputs in {result['regions']} certified regions, "
        f"{result['throughput']:.1f} a second: {result['mismatches']} not bit-exact, "
        f"{result['out_of_bound']} outside the bound, {result['flipped_top1']} of another class than certified"
    )
    click.echo(
        f"worst error {result['worst_error']:.4g}; at most {100 * result['worst_error_share_of_bound']:.1f} % of its "
        f"certified bound (region {result['worst_region']})"
    )
    click.echo(f"result: {destination}")
    _print_verdict(result)


def _print_events(link: dict[str, Any]) -> None:
    for event in link["events"][:_LISTED]:
        sample = "" if event["sample"] is None else f" of sample {event['sample']}"
        click.echo(f"link: {event['seconds']:.1f} s, {event['request']}{sample}: {event['text']}")
    if len(link["events"]) > _LISTED:
        click.echo(f"link: ... and {len(link['events']) - _LISTED} more events")


@click.command()
@click.option("--describe", metavar="NAME", help="Say all about one board: a name, or a board file.")
@click.option("--attached", is_flag=True, help="List the boards that are attached to this machine.")
@opt.as_json
def boards(describe: str | None, attached: bool, as_json: bool) -> None:
    """List the boards."""
    from codesign.errors import InputError
    from codesign.toolchain import list_boards, load_board

    if describe is not None and attached:
        raise InputError("--describe and --attached exclude each other")
    if describe is not None:
        _describe(load_board(describe), as_json)
        return
    found = [load_board(name) for name in list_boards()]
    if attached:
        _attached(found, as_json)
        return
    if as_json:
        facts = [
            {"name": b.name, "title": b.title, "core": b.core, "clock_hz": b.clock_hz,
             "emulator": b.emulator.kind if b.emulator else None} for b in found
        ]  # fmt: skip
        click.echo(json.dumps(facts))
        return
    width = max(len(b.name) for b in found)
    for board in found:
        emulator = f"emulated by {board.emulator.kind}" if board.emulator else "hardware only"
        click.echo(f"{board.name:<{width}}  {board.title}, {board.core}, {board.clock_hz // 10**6} MHz, {emulator}")


def _describe(board: Board, as_json: bool) -> None:
    from dataclasses import asdict

    from codesign.toolchain.describe import describe

    if as_json:
        click.echo(json.dumps(asdict(board)))
        return
    for line in describe(board):
        click.echo(line)


def _attached(known: list[Board], as_json: bool) -> None:
    from dataclasses import asdict

    from codesign.hil import find_boards

    by_port: dict[str, dict[str, Any]] = {}
    for board in known:
        for attached in find_boards(board):
            entry = by_port.setdefault(attached.port, {**asdict(attached), "boards": []})
            entry["boards"].append(board.name)
    if as_json:
        click.echo(json.dumps(list(by_port.values())))
        return
    for entry in by_port.values():
        serial = f" serial:{entry['serial_number']}" if entry["serial_number"] else ""
        click.echo(
            f"{entry['port']}  {entry['product'] or 'USB device'} "
            f"{entry['vendor_id']:04x}:{entry['product_id']:04x}{serial}  may be {', '.join(entry['boards'])}"
        )
    if not by_port:
        click.echo("no board's debug probe is attached")
