"""codesign robust: certify that one network's class cannot change in balls around samples."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from codesign.cli import options as opt
from codesign.cli.waiting import waits_for
from codesign.text import proved_sentence, second_sentence


@click.command()
@click.argument("model", type=opt.FILE)
@click.option("--radius", required=True, help="L-inf radius in input units; for an integer .tflite also as 2lsb.")
@click.option("--samples", type=int, default=20, show_default=True, help="The first N correctly classified samples.")
@click.option("--domain", callback=opt.domain, help="Input range LO,HI of every feature [default: the data's].")
@click.option(
    "--mode", type=click.Choice(["fast", "balanced", "tight"]), default="tight", show_default=True,
    help="Quadratic forms by Frobenius norm, by eigenvalues on a subspace, or by eigenvalues of each.",
)  # fmt: skip
@click.option(
    "--prove", type=click.Choice(["audit", "all", "none"]), default="all", show_default=True,
    help="Prove all proof obligations, a random sample, or none.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--jobs", type=int, default=1, show_default=True, help="Processes; results do not depend on it.")
@opt.calibration
@opt.as_json
@waits_for("robust: the model is read and the first ball computed")
def robust(
    model: Path, radius: str, samples: int, domain: tuple[float, float] | None, mode: str, prove: str, seed: int,
    jobs: int, calibration: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Certify MODEL's top-1 class (float .h5, .keras, .tflite, or integer .tflite) in L-inf balls around samples.

    Exit code 0: every ball is robust; 1: some are refuted or unknown.
    """
    from codesign.cli.progress import Progress
    from codesign.errors import InputError
    from codesign.quantization import default_calibration_path, load_calibration
    from codesign.quantization.integer import IntegerNetwork
    from codesign.verification.robust import RobustOptions
    from codesign.verification.robust import robust as certify
    from codesign.verification.selection import parse_radius

    if seed < 0:
        raise InputError("the seed is negative; give --seed N with N at least 0")
    if jobs < 1:
        raise InputError(f"cannot use {jobs} processes; give --jobs N with N at least 1")
    network = _read(model)
    integer = isinstance(network, IntegerNetwork)
    if not integer and radius.strip().lower().endswith("lsb"):
        raise InputError("a float model has no quantisation step; give --radius in input units, such as 0.01")
    size = parse_radius(radius, network.input.scale if isinstance(network, IntegerNetwork) else 1.0)
    shape = network.input.shape if isinstance(network, IntegerNetwork) else network.input_shape
    data = load_calibration(calibration or default_calibration_path(model), (int(shape[0]), int(shape[1])), network)
    options = RobustOptions(mode=mode, seed=seed, jobs=jobs, proof=prove)  # type: ignore[arg-type]
    with Progress(quiet=as_json) as progress:
        result = certify(network, data, size, samples, domain, options, progress.stage("robust"))
    document = result.document()
    if as_json:
        click.echo(json.dumps(document, allow_nan=False))
    else:
        for r in result.regions:
            click.echo(
                f"sample {r.sample}: class {r.label} {r.status}; margin >= {r.margin:.4g}, attained {r.attack:.4g}; "
                f"mean logit width {r.width:.4g}; {r.cpu_seconds:.2f} s CPU"
            )
        total = document["summary"]
        click.echo(
            f"{total['robust']} of {total['regions']} robust, {total['refuted']} refuted, "
            f"{total['unknown']} unknown at radius {size:g}; mean logit width {total['mean_logit_width']:.4g}; "
            f"{total['cpu_seconds_per_region']:.2f} s CPU a region"
        )
        for sentence in filter(None, (proved_sentence(document["proof"]), second_sentence(document["proof"]))):
            click.echo(sentence)
    sys.exit(0 if result.count("robust") == len(result.regions) and result.proof.ok else 1)


def _read(model: Path):  # type: ignore[no-untyped-def]
    """An integer .tflite as such, anything else as a float model; the reader's message where neither fits."""
    from codesign import api
    from codesign.errors import InputError

    if model.suffix.lower() != ".tflite":
        return api.load(model)
    try:
        return api.load(model)
    except InputError as error:
        try:
            return api.read(model)
        except InputError as second:
            raise InputError(f"{second} (and as a float model: {error})") from None
