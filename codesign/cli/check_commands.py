"""check, obligations: the independent checker, and obligations for a stock dReal."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import click

from codesign.cli import options as opt
from codesign.cli.claim_text import claim_text, print_folder
from codesign.cli.waiting import waits_for

_PROVERS = click.Choice(["auto", "interval", "closed-form", "icp", "dreal"])


def _models(command: opt.F) -> opt.F:
    for name, text in (("--int8", "The int8 .tflite."), ("--float", "The float model (.h5, .keras, .tflite).")):
        command = click.option(name, f"{name[2:]}_model", type=opt.FILE, required=True, help=text)(command)
    return command


@click.command()
@click.argument("certificate", metavar="CERTIFICATE|FOLDER", type=opt.FILE)
@click.option("--float", "float_model", type=opt.FILE, required=True, help="The float model (.h5, .keras, .tflite).")
@click.option(
    "--int8", "int8_model", type=opt.FILE, help="The int8 .tflite; a folder holds its own, which it has to be."
)
@click.option(
    "--prover", type=_PROVERS,
    help="Have every nonlinear fact proved by this solver as well (slower) [a folder: auto].",
)  # fmt: skip
@click.option("--data", type=opt.FILE, help="Samples and labels that it names [NAME.calib.npz of the float model].")
@click.option("--jobs", type=int, default=1, show_default=True, help="Processes.")
@opt.as_json
@waits_for("check: the certificate is read and its first bounds derived again")
def check(
    certificate: Path,
    float_model: Path,
    int8_model: Path | None,
    prover: str | None,
    data: Path | None,
    jobs: int,
    as_json: bool,
) -> None:
    """Check a CERTIFICATE from scratch: derive every bound again and say valid, with the claim that was verified, or
    invalid with the first bad item. It needs the proof file NAME.proof.npz beside it.

    Of a FOLDER that 'codesign deploy' made, everything is verified, and no file in it is trusted: models, certificate,
    firmware, every answer of the device, report and sign-off, against the float model that you name.

    Exit codes: 0 valid (a folder: and signed off), 1 invalid or not checkable, 2 bad input.
    """
    from codesign.cli.progress import Progress
    from codesign.errors import InputError
    from codesign.quantization import default_calibration_path
    from codesign.recheck import check as run
    from codesign.recheck import claim

    if data is None and default_calibration_path(float_model).is_file():
        data = default_calibration_path(float_model)
    if jobs < 1:
        raise InputError(f"cannot use {jobs} processes; give --jobs N with N at least 1")
    started = time.monotonic()
    if certificate.is_dir():
        from codesign.deployment_checker import check_folder

        with Progress(quiet=as_json) as progress:
            told_of = check_folder(
                certificate, float_model, int8_model, prover or "auto", jobs, progress.stage("check")
            )
        print_folder(told_of, as_json, time.monotonic() - started)
        return
    if int8_model is None:
        raise InputError("name the int8 model of the certificate: --int8 model.tflite")
    with Progress(quiet=as_json) as progress:
        result = run(certificate, float_model, int8_model, prover, jobs, progress.stage("check"), data)
    seconds = time.monotonic() - started
    told = asdict(result)
    document = told.pop("document")
    verified = claim(document) if result.verdict == "valid" else None
    if as_json:
        click.echo(json.dumps({**told, "claim": verified, "seconds": seconds}))
    else:
        click.echo(f"{result.verdict}: {result.item}" if result.item else result.verdict)
        if verified is not None:
            click.echo(claim_text(verified))
            click.echo(
                f"{result.regions} regions, {result.facts} nonlinear facts derived in {seconds:.1f} s"
                + "".join(f"; {count} proved by {name}" for name, count in sorted(result.provers.items()))
            )
            if result.not_derived:
                click.echo(f"not derived again, and nothing rests on them: {', '.join(result.not_derived)}")
    sys.exit(0 if result.verdict == "valid" else 1)


@click.group()
def obligations() -> None:
    """Proof obligations as SMT-LIB 2 files for a stock dReal 4, and its answers read back."""


@obligations.command("export")
@click.argument("certificate", type=opt.FILE)
@_models
@click.option("--region", type=int, default=0, show_default=True, help="Index of the region whose facts are written.")
@click.option("--sample", type=int, help="Write only this many, drawn by --seed [default: all].")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-o", "--output", type=opt.FILE, required=True, help="Folder for the .smt2 files; must not exist.")
def export(
    certificate: Path, float_model: Path, int8_model: Path, region: int, sample: int | None, seed: int, output: Path
) -> None:
    """Write the nonlinear facts of one region of CERTIFICATE, a file each; each holds if dReal answers unsat."""
    import numpy as np

    from codesign.errors import InputError
    from codesign.files import require_folder
    from codesign.proof.exchange import write_folder
    from codesign.recheck import facts as facts_of

    if seed < 0 or (sample is not None and sample < 1):
        raise InputError("--sample has to be at least 1 and --seed at least 0")
    if output.exists():
        raise InputError(f"'{output}' exists; name a folder that does not")
    require_folder(output.absolute())
    facts = facts_of(certificate, float_model, int8_model, region)
    if sample is not None:
        facts = [facts[k] for k in sorted(np.random.default_rng(seed).permutation(len(facts))[:sample])]
    write_folder(facts, output)
    count = len(facts)
    click.echo(f"{count} obligations in {output}. Next, for each: dreal NAME.smt2 > NAME.out")
    click.echo(f"Then: codesign obligations read {output}")


@obligations.command("read")
@click.argument("folder", type=opt.FILE)
@opt.as_json
def read(folder: Path, as_json: bool) -> None:
    """Read dReal's answers NAME.out in FOLDER: only 'unsat' proves. Exit code 1 unless every obligation is proved."""
    from codesign.proof.exchange import read_answers

    result = read_answers(folder)
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(", ".join(f"{len(names)} {status}" for status, names in result.items()))
        for status in ("delta-sat", "unreadable", "missing"):
            for name in result[status][:5]:
                click.echo(f"  {status}: {name}")
    sys.exit(0 if result["proved"] and not any(result[s] for s in ("delta-sat", "unreadable", "missing")) else 1)
