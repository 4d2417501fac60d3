"""Entry point and commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from codesign import __version__
from codesign.cli import firmware_commands as fw
from codesign.cli import options as opt
from codesign.cli.check_commands import check, obligations
from codesign.cli.endings import endings, stopping
from codesign.cli.firmware_commands import bench, export, size
from codesign.cli.hil_commands import boards, hil
from codesign.cli.robust_command import robust
from codesign.cli.waiting import waits_for
from codesign.outcome import outcome


class _Group(click.Group):
    """Every command of it ends in one sentence on standard error and an exit code, whatever happens in it."""

    _arguments: Sequence[str] = ()

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **kwargs: Any) -> click.Context:
        self._arguments = [*args]
        with endings(self._arguments):
            return super().make_context(info_name, args, *more, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with endings(self._arguments):
            return super().invoke(ctx)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="codesign")
def main() -> None:
    """Deploy a Keras LSTM to a microcontroller as int8, with a proof of how far it can be from the float model.

    \b
    Exit codes:
      0    signed off, or all that was asked for is proved
      1    a check failed, or a criterion is not proved
      2    bad usage or bad input
      3    something on this machine is missing or used up (a tool, disk, memory)
      4    SOUNDNESS ALARM: something observed exceeds what would have been told as proved; nothing is written
      5    internal error: a bug in codesign; a report file is written
      130  interrupted by Ctrl-C
    """


main.add_command(hil)
main.add_command(boards)
main.add_command(check)
main.add_command(obligations)
main.add_command(bench)
main.add_command(size)
main.add_command(export)
main.add_command(robust)


@main.command()
@click.argument("model", type=opt.FILE)
@click.option("-o", "--output", type=opt.FILE, help="The .tflite to write [default: NAME.tflite in this folder].")
@click.option(
    "--activations", type=click.Choice(["int8", "int16"]), default="int8", show_default=True,
    help="Type of inputs, outputs and hidden states; weights are int8.",
)  # fmt: skip
@click.option("--cover", is_flag=True, help="Ranges that hold whatever inputs of the domain reach, not samples alone.")
@click.option("--any-length", is_flag=True, help="With --cover: after any number of steps.")
@click.option(
    "--domain", callback=opt.domain, help="With --cover: input range LO,HI of every feature [default: the data's]."
)
@opt.calibration
@opt.as_json
@waits_for("converting: TensorFlow starts, converts and calibrates")
def convert(
    model: Path, output: Path | None, activations: str, cover: bool, any_length: bool,
    domain: tuple[float, float] | None, calibration: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Convert MODEL (.h5, .keras, float .tflite) to a full-integer .tflite with fused LSTMs."""
    from codesign import api
    from codesign.errors import InputError

    if not cover and (any_length or domain is not None):
        raise InputError("--domain and --any-length are about ranges for every input: add --cover")
    destination = output or Path(f"{model.stem}.tflite")
    if cover:
        network = api.quantize_for_domain(model, destination, calibration, activations, domain, any_length)  # type: ignore[arg-type]
    else:
        network = api.quantize(model, destination, calibration, activations)  # type: ignore[arg-type]
    facts = {
        "tflite": str(destination),
        "sha256": network.sha256,
        "bytes": len(network.content),
        "activations": network.activations,
        "input": {"shape": network.input.shape, "scale": network.input.scale, "zero_point": network.input.zero_point},
        "output": {
            "shape": network.output.shape,
            "scale": network.output.scale,
            "zero_point": network.output.zero_point,
        },
    }
    if as_json:
        click.echo(json.dumps(facts))
    else:
        click.echo(f"{destination}: {len(network.content)} bytes, sha256 {network.sha256}")


@main.command()
@click.argument("float_model", metavar="FLOAT", type=opt.FILE)
@click.argument("int8_model", metavar="INT8", type=opt.FILE)
@opt.certification(50)
@click.option("--any-length", is_flag=True, help="Of --region domain: bounds for any number of steps.")
@opt.calibration
@click.option("-o", "--output", type=opt.FILE, help="Write the certificate here.")
@opt.as_json
@waits_for("certify: the models are read and the first regions computed")
def certify(
    float_model: Path, int8_model: Path, radius: str, samples: int, region: str, domain: tuple[float, float] | None,
    epsilon: float | None, require_top1: float | None, prove: str, prover: str, evaluations: int, seed: int,
    jobs: int | None, any_length: bool, calibration: Path | None, output: Path | None, as_json: bool, more: opt.More,
) -> None:  # fmt: skip
    """Prove bounds on |INT8 - FLOAT| that hold for every input of each region.

    The verdict, and exit code 0 only where it is 'proved', are about the criteria asked for; without any: no bound is
    vacuous, and around samples of a model with several outputs the class is the same in some region and known to differ
    in none.
    """
    from codesign import api
    from codesign.cli.progress import Progress
    from codesign.cli.text import print_certificate
    from codesign.files import require_json
    from codesign.text import some
    from codesign.verification import input_domain, outside

    options = opt.verification_options(epsilon, require_top1, prove, prover, evaluations, seed, jobs, more)
    if output is not None:
        require_json(output)
    network, integer = api.load(float_model), api.read(int8_model)
    data = api.calibration(float_model, calibration)

    def left() -> str:
        return (
            "" if more.resume is None else f"'{more.resume}' has the finished regions: the same command goes on from it"
        )

    with stopping(left), Progress(quiet=as_json) as progress:
        document = api.certify(
            network, integer, data, radius, samples, region, domain, options, progress.stage("certify"), output,  # type: ignore[arg-type]
            more.around(), any_length, more.different_models,
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(document, allow_nan=False))
    else:
        print_certificate(document, output)
        uncovered = outside(data.x, input_domain(data.x, domain)) if region == "domain" else []
        if uncovered:
            click.echo(f"{some(uncovered, 'sample')}, counted from 0, lie outside the domain: not covered")
    sys.exit(outcome(document["verdict"]).exit_code)


@main.command()
@click.argument("int8_model", metavar="INT8", type=opt.FILE)
@click.option("--calibration", type=opt.FILE, help="Samples as .npz [default: random int8 inputs].")
@click.option("--inputs", type=int, default=2000, show_default=True, help="Number of random inputs without samples.")
@click.option("--seed", type=int, default=0, show_default=True)
@opt.as_json
@waits_for("compare: both interpreters run the model")
def compare(int8_model: Path, calibration: Path | None, inputs: int, seed: int, as_json: bool) -> None:
    """Say how often and by how much TFLite and TFLM disagree on INT8 (they are not the same arithmetic)."""
    import numpy as np

    from codesign import api
    from codesign.errors import InputError
    from codesign.quantization import load_calibration
    from codesign.semantics import compare_interpreters, quantize_input

    if inputs < 1 or seed < 0:
        raise InputError("--inputs has to be at least 1 and --seed at least 0")
    network = api.read(int8_model)
    if calibration is not None:
        steps, features = network.input.shape
        q = quantize_input(network, load_calibration(calibration, (steps, features)).x)
    else:
        q = np.random.default_rng(seed).integers(-128, 128, (inputs, *network.input.shape)).astype(np.int8)
    result = compare_interpreters(network, q)
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(
        f"TFLite ({result['tflite_package']}) differs from TFLM on {result['differing_inputs']} of {result['inputs']} "
        f"inputs ({100 * result['share']:.1f} %), by at most {result['max_difference']} output steps "
        f"({result['max_real_difference']:.4g})."
    )
    if result["top1_differing_inputs"] is not None:
        click.echo(f"The top-1 class differs on {result['top1_differing_inputs']} inputs.")


@main.command()
@click.argument("model", type=opt.FILE)
@click.option("--board", required=True, help="A board that 'codesign boards' lists, or a board file.")
@click.option("-o", "--output", type=opt.FILE, help="Output folder [default: NAME.deploy in this folder].")
@click.option("--int8", type=opt.FILE, help="Use this int8 (or 16x8) .tflite instead of converting MODEL.")
@click.option(
    "--activations", type=click.Choice(["int8", "int16"]), default="int8", show_default=True,
    help="Type of inputs, outputs and hidden states in the conversion; weights are int8.",
)  # fmt: skip
@click.option("--port", help="Serial port of an attached board [default: found by USB id, else emulated].")
@click.option("--emulate", is_flag=True, help="Emulate the board even if one is attached.")
@click.option("--hil-samples", type=int, help="Samples sent to the board [default: those that are certified].")
@click.option("--cover", is_flag=True, help="Convert for, and certify, every input of --domain (docs/all-inputs.md).")
@click.option("--any-length", is_flag=True, help="With --cover or --region domain: bounds for any number of steps.")
@click.option(
    "--bit-exact-only", is_flag=True, help="The cross-check alone: no certificate, nothing proved of the float model."
)
@fw.weights
@fw.runtime
@opt.domain_checks
@opt.certification(200, deployment=True)
@opt.calibration
@opt.as_json
@waits_for("deploy: the model is read")
def deploy(
    model: Path, board: str, output: Path | None, int8: Path | None, activations: str, port: str | None, emulate: bool,
    hil_samples: int | None, cover: bool, any_length: bool, drawn: int, stream_steps: int, radius: str, samples: int,
    region: str, domain: tuple[float, float] | None, epsilon: float | None, require_top1: float | None, prove: str,
    prover: str, evaluations: int, seed: int, jobs: int | None, calibration: Path | None, as_json: bool, more: opt.More,
    resume: bool, weights: str, runtime: Any, bit_exact_only: bool,
) -> None:  # fmt: skip
    """Convert, certify, build, run on the board (or its emulation), cross-check and sign off MODEL.

    Verdicts: PASS (exit code 0), UNPROVED (1: the device is bit-exact, but a criterion is not proved, or nothing
    useful is), FAIL (1), and BIT-EXACT-ONLY (0) where that was asked for.
    """
    from codesign.cli.progress import Progress
    from codesign.cli.text import print_signoff
    from codesign.deploy import DeployOptions, default_output
    from codesign.deploy import deploy as run
    from codesign.errors import InputError
    from codesign.partial import partial_folder

    if hil_samples is not None and hil_samples < 1:
        raise InputError("--hil-samples has to be at least 1: a sign-off without a sample would say nothing")
    verification = opt.verification_options(epsilon, require_top1, prove, prover, evaluations, seed, jobs, more)
    options = DeployOptions(
        radius, samples, region, domain, verification, hil_samples, int8, calibration, port, emulate or None,  # type: ignore[arg-type]
        more.around(), activations, cover, any_length, drawn, stream_steps, resume, weights, runtime,  # type: ignore[arg-type]
        bit_exact_only, different_models=more.different_models,
    )  # fmt: skip
    folder = output or default_output(model)
    kept = partial_folder(folder)

    def left() -> str:
        return "what is finished is kept: the same command with --resume goes on" if kept.is_dir() else ""

    try:
        with stopping(left), Progress(quiet=as_json) as progress:
            result = run(model, board, folder, options, progress)
    except Exception:
        _note(left())
        raise
    _note(left())
    if as_json:
        click.echo(json.dumps(result, allow_nan=False))
    else:
        print_signoff(result, folder)
    sys.exit(outcome(result["verdict"]).exit_code)


def _note(text: str) -> None:
    if text:
        click.echo(f"codesign: {text}", err=True)


@main.command()
@opt.as_json
@waits_for("doctor: programs and packages are asked for their versions")
def doctor(as_json: bool) -> None:
    """List what is present and what is missing on this machine, with the fix."""
    from dataclasses import asdict

    from codesign.cli.text import print_checks
    from codesign.doctor import checks

    found = checks()
    if as_json:
        click.echo(json.dumps([asdict(check) for check in found]))
    else:
        print_checks(found)
    sys.exit(3 if any(check.status == "missing" for check in found) else 0)
