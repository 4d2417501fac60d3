"""The whole road: convert, certify, build, run on the board or its emulation, cross-check, sign off."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codesign import api
from codesign.errors import InputError
from codesign.network import load_network
from codesign.quantization import (
    Activations,
    convert,
    default_calibration_path,
    load_calibration,
    read_integer_network,
)
from codesign.verification import Neighbourhood, Options, RegionKind
from codesign.verification.align import align
from codesign.verification.region_files import load_regions

Progress = Callable[[str, int, int], None]  # stage, done, total (0: not known)


@dataclass(frozen=True)
class DeployOptions:
    """What a deployment is asked to do beyond its defaults.

    `int8` uses an existing .tflite, whatever its activations, instead of converting to `activations`. The first
    `samples` of the calibration data are certified, the first `hil_samples` sent to the board (None: those that are
    certified).
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

    The output folder gets model.tflite, certificate.json, firmware/, firmware.elf, hil.json, report.html and
    signoff.json. It appears whole or not at all: an earlier one is replaced only when the new one is complete.
    Raises InputError, MissingToolError, and other CodesignErrors where a step cannot be completed.
    """
    from codesign.hil import write_result
    from codesign.signoff import sign_off
    from codesign.toolchain import load_board
    from codesign.toolchain.build import check_fits

    options = options or DeployOptions()
    tell = on_progress or (lambda stage, done, total: None)
    path = Path(model)
    target = Path(output) if output is not None else default_output(path)
    network = load_network(path)
    data = load_calibration(options.calibration or default_calibration_path(path), network.input_shape)
    _check_regions(options.around)
    description = load_board(board)
    with _staged(target) as folder:
        tell("convert", 0, 0)
        tflite = folder / "model.tflite"
        if options.int8 is None:
            convert(path, tflite, options.calibration, options.activations)
        else:
            given = read_integer_network(options.int8)
            if options.activations == "int16" and given.activations != "int16":
                raise InputError(
                    f"'{options.int8}' has int8 activations; leave out --int8 to convert {path.name} to int16"
                )
            shutil.copyfile(options.int8, tflite)
        integer = read_integer_network(tflite)
        align(network, integer)
        check_fits(integer, description)
        tell("convert", 1, 1)
        certificate = api.certify(
            network, integer, data, options.radius, options.samples, options.region, options.domain,
            options.verification, lambda done, total: tell("certify", done, total), folder / "certificate.json",
            options.around,
        )  # fmt: skip
        if any(region["kind"] == "grid" and region["sample"] is not None for region in certificate["regions"]):
            data = api.on_grid(integer, data)
        tell("build", 0, 0)
        firmware = api.build(integer, board, folder / "firmware")
        shutil.copyfile(firmware.elf, folder / "firmware.elf")
        tell("build", 1, 1)
        hil = api.cross_check(
            firmware, network, integer, data, certificate, options.hil_samples or options.samples,
            options.port, options.emulate,
            lambda done, total: tell("hil", done, total),
        )  # fmt: skip
        write_result(hil, folder / "hil.json")
        tell("sign off", 0, 0)
        result = sign_off(folder, certificate, hil, firmware, network, integer, data)
        tell("sign off", 1, 1)
    return result


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


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when all went well."""
    if target.exists() and not target.is_dir():
        raise InputError(f"'{target}' is a file; name a folder with --output")
    if target.is_dir() and any(target.iterdir()) and not (target / "signoff.json").exists():
        raise InputError(f"'{target}' holds something else than a deployment; name another folder with --output")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise InputError(f"'{target}' cannot be made ({error.strerror}); name another folder with --output") from None
    folder.chmod(0o755)
    try:
        yield folder
        replaced = folder.with_name(folder.name + ".old")
        if target.exists():
            target.rename(replaced)
        folder.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
