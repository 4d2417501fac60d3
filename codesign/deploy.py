"""The whole road: convert, certify, build, run on the board or its emulation, cross-check, sign off."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign import api
from codesign.errors import CodesignError, InputError
from codesign.network import load_network
from codesign.partial import Partial, fingerprint, partial, tool_fingerprint
from codesign.quantization import (
    Activations,
    Calibration,
    IntegerNetwork,
    convert,
    default_calibration_path,
    load_calibration,
    read_integer_network,
    require_one_model,
)
from codesign.verification import Neighbourhood, Options, RegionKind, input_domain, require_inside
from codesign.verification.region_files import load_regions

if TYPE_CHECKING:
    from codesign.codegen import Weights
    from codesign.tflm import TflmRuntime
    from codesign.toolchain import Board, Build

Progress = Callable[[str, int, int], None]  # stage, done, total (0: not known)


@dataclass(frozen=True)
class DeployOptions:
    """What a deployment is asked to do beyond its defaults.

    `int8` uses an existing .tflite, whatever its activations, instead of converting to `activations`. The first
    `samples` of the calibration data are certified, the first `hil_samples` sent to the board (None: those that are
    certified).

    `cover` converts with ranges for the whole `domain` and certifies it (`region` 'domain'); `any_length`: for any
    number of steps. The board then answers `drawn` inputs from all of the domain besides the samples and, for any
    length, a stream of `stream_steps` without a reset. `resume` goes on with the same deployment where an earlier run
    of it was interrupted. `weights` and `runtime` are those of `codesign.api.build`. `bit_exact_only`: the cross-check
    alone; no certificate is made, and the verdict claims nothing of the float model.
    """

    radius: str = "1lsb"
    samples: int = api.DEPLOY_SAMPLES
    region: RegionKind = "ball"
    domain: tuple[float, float] | None = None
    verification: Options | None = None
    hil_samples: int | None = None
    int8: Path | None = None
    calibration: Path | None = None
    port: str | None = None
    emulate: bool | None = None
    around: Neighbourhood = field(default_factory=Neighbourhood)
    activations: Activations = "int8"
    cover: bool = False
    any_length: bool = False
    drawn: int = api.DRAWN
    stream_steps: int = api.STREAM_STEPS
    resume: bool = False
    weights: Weights = "int8"
    runtime: TflmRuntime | None = None
    bit_exact_only: bool = False
    different_models: bool = False


def default_output(model: Path) -> Path:
    """NAME.deploy in the working folder."""
    return Path(f"{model.stem}.deploy")


def deploy(
    model: str | Path,
    board: str,
    output: str | Path | None = None,
    options: DeployOptions | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Deploy a float model to a board and give the content of signoff.json.

    The output folder gets model.tflite, certificate.json, firmware/, firmware.elf, hil.json, samples.npz, report.html
    and signoff.json; `codesign.deployment_checker` verifies it. It appears whole or not at all: an earlier one is
    replaced only when the new one is complete.
    A run that was interrupted leaves what is finished beside it (codesign.partial), and one with `options.resume` goes
    on from there: to the same result, but for times.
    Raises InputError, MissingToolError, and other CodesignErrors where a step cannot be completed.
    """
    from codesign.certificate import load_certificate
    from codesign.hil import write_result
    from codesign.hil.ports import require_port
    from codesign.recheck import check as check_certificate
    from codesign.samples import SAMPLES, Samples, write_samples
    from codesign.signoff import checker_facts, sign_off
    from codesign.toolchain import load_board
    from codesign.toolchain.build import check_buildable

    options = _checked(options or DeployOptions())
    if options.port is not None and options.emulate:
        raise InputError("a serial port and emulation exclude each other; give one of them")
    tell = on_progress or (lambda stage, done, total: None)
    path = Path(model)
    target = Path(output) if output is not None else default_output(path)
    network = load_network(path)
    data = load_calibration(options.calibration or default_calibration_path(path), network.input_shape, network)
    _check_regions(options.around)
    if options.region == "domain":
        require_inside(data.x, input_domain(data.x, options.domain))
    description = load_board(board)
    if options.port is not None:
        require_port(description, options.port)
    request = _request(path, data, description, options)
    with partial(target, request, options.resume) as work:
        folder = work.output
        tell("convert", 0, 0)
        if not work.finished("convert"):
            _make_integer_model(path, folder / "model.tflite", options)
        integer = read_integer_network(folder / "model.tflite")
        require_one_model(network, integer, options.different_models)
        device = api.for_runtime(integer, options.runtime)
        check_buildable(device, description, options.weights, options.runtime)
        work.record("convert", ["model.tflite"])
        tell("convert", 1, 1)
        certificate: dict[str, Any] | None = None
        if options.bit_exact_only:
            pass
        elif work.finished("certify"):
            certificate = load_certificate(folder / "certificate.json")
        else:
            verification = replace(options.verification or Options(), resume=work.certify_journal)
            certificate = api.certify(
                network, integer, data, options.radius, options.samples, options.region, options.domain,
                verification, lambda done, total: tell("certify", done, total), folder / "certificate.json",
                options.around, options.any_length, options.different_models,
            )  # fmt: skip
            work.record("certify", sorted(p.name for p in folder.glob("certificate.*")))
        certified = data
        regions = [] if certificate is None else certificate["regions"]
        if any(region["kind"] == "grid" and region["sample"] is not None for region in regions):
            data = api.on_grid(integer, data)
        tell("build", 0, 0)
        firmware = _built(device, board, work, options)
        tell("build", 1, 1)
        sent = options.hil_samples or options.samples
        if work.finished("hil"):
            hil = json.loads((folder / "hil.json").read_text(encoding="utf-8"))
        else:
            hil = api.cross_check(
                firmware, network, device, data, certificate, sent, options.port, options.emulate,
                lambda done, total: tell("hil", done, total), options.drawn, options.stream_steps, work.hil_journal,
                options.different_models,
            )  # fmt: skip
            write_result(hil, folder / "hil.json")
        broken_off = 0 < hil["summary"]["samples"] < hil["summary"]["requested"]
        if not broken_off:
            work.record("hil", ["hil.json"])
        tell("check", 0, 0)
        inputs, _ = api.hil_inputs(network, data, certificate, sent, options.drawn)
        sent_data = Calibration(inputs, None, api.hil_values(data, inputs, sent))
        streams = api.hil_streams(certificate, options.stream_steps)
        write_samples(folder / SAMPLES, Samples(certified, inputs, [stream.x for stream in streams]))
        checked = None
        if certificate is not None:
            found = check_certificate(
                folder / "certificate.json", path, folder / "model.tflite",
                jobs=options.verification.jobs if options.verification else 1,
                on_progress=lambda done, total: tell("check", done, total), data=folder / SAMPLES,
            )  # fmt: skip
            checked = checker_facts(found)
        result = sign_off(
            folder, certificate, hil, firmware, network, device, sent_data, bit_exact_only=options.bit_exact_only,
            checked=checked,
        )  # fmt: skip
        tell("sign off", 0, 0)
        work.publish(keep=broken_off)
        tell("sign off", 1, 1)
    return result


def _request(path: Path, data: Calibration, board: Board, options: DeployOptions) -> dict[str, str]:
    """What the deployment is a function of, by name. The port is not: the board's own answers say what it is."""
    told = {field.name: getattr(options, field.name) for field in fields(options)}
    for name in ("port", "emulate", "resume", "calibration"):
        del told[name]
    told["verification"] = replace(options.verification or Options(), jobs=1, resume=None)
    if options.around.regions is not None:  # they may name further files
        told["regions"] = load_regions(options.around.regions)
    told |= {"model": path, "samples of the data": (data.x, data.y, data.values), "board": board}
    return {"codesign itself": tool_fingerprint()} | {name: fingerprint(value) for name, value in told.items()}


def _make_integer_model(path: Path, output: Path, options: DeployOptions) -> None:
    if options.cover:
        api.quantize_for_domain(
            path, output, options.calibration, options.activations, options.domain, options.any_length
        )
    elif options.int8 is None:
        convert(path, output, options.calibration, options.activations)
    else:
        given = read_integer_network(options.int8)
        if options.activations == "int16" and given.activations != "int16":
            raise InputError(f"'{options.int8}' has int8 activations; leave out --int8 to convert {path.name} to int16")
        shutil.copyfile(options.int8, output)


def _built(integer: IntegerNetwork, board: str, work: Partial, options: DeployOptions) -> Build:
    """The firmware, with its project and ELF in the output. A resumed run builds it again, in a folder where no process
    that the interrupted one left writes: it has to come out the same."""
    for left in work.folder.glob("build.*"):
        shutil.rmtree(left, ignore_errors=True)
    folder, elf = work.output / "firmware", work.output / "firmware.elf"
    fresh = Path(tempfile.mkdtemp(prefix="build.", dir=work.folder)) / "firmware"
    made = api.build(integer, board, fresh, options.weights, options.runtime)
    if work.finished("build") and made.elf.read_bytes() != elf.read_bytes():
        raise CodesignError(
            "the firmware came out otherwise than before the interruption (another compiler?); start anew without "
            "--resume"
        )
    shutil.rmtree(folder, ignore_errors=True)
    made.folder.rename(folder)
    shutil.rmtree(made.folder.parent)
    shutil.copyfile(folder / made.elf.relative_to(made.folder), elf)
    work.record("build", ["firmware.elf"])
    return replace(
        made,
        folder=folder,
        elf=folder / made.elf.relative_to(made.folder),
        bin=folder / made.bin.relative_to(made.folder),
    )


def _checked(options: DeployOptions) -> DeployOptions:
    """With `region` 'domain' where that is what the others imply. InputError where they contradict each other."""
    if options.bit_exact_only:
        _check_alone(options)
    if options.cover and options.int8 is not None:
        raise InputError("--cover makes the integer model: leave out --int8, or make it with codesign convert --cover")
    if options.cover and options.around.regions is not None:
        raise InputError("--cover certifies the whole domain: leave out --regions")
    if options.any_length and options.runtime is not None:
        raise InputError("TFLM's interpreter takes whole sequences, not streams: leave out --any-length or --runtime")
    if options.cover:
        options = replace(options, region="domain")
    if options.any_length and options.region != "domain":
        raise InputError(
            "a certificate for any number of steps is for the whole domain; add --cover or --region domain"
        )
    return options


def _check_alone(options: DeployOptions) -> None:
    """A cross-check alone has no regions and no criteria."""
    asked = options.verification is not None and options.verification.criteria.asked
    regions = options.cover or options.any_length or options.region != "ball" or options.around.changed
    if asked or regions or options.domain is not None:
        raise InputError(
            "--bit-exact-only proves nothing of the float model: leave out criteria, regions, --domain, --cover and "
            "--any-length, or leave out --bit-exact-only"
        )


def _check_regions(around: Neighbourhood) -> None:
    """Each sample runs on the board once, so it lies on the quantisation grid or it does not."""
    if around.regions is None:
        return
    kinds = {entry.grid is not None for entry in load_regions(around.regions) if entry.sample is not None}
    if len(kinds) != 1:
        found = "regions of both kinds" if kinds else "no region"
        raise InputError(
            f"'{around.regions}' has {found} around samples; a deployment runs samples that are all on the quantisation"
            " grid or all not: give such regions, or use codesign certify"
        )
