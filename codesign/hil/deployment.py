"""What a deployment left behind, as the cross-check needs it again: firmware, both networks, regions and samples."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.network.model import Float32Array, FloatNetwork
from codesign.quantization.integer import IntegerNetwork

if TYPE_CHECKING:
    from codesign.toolchain import Firmware

SIGNOFF = "signoff.json"
_MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class CertifiedRegion:
    """A box [lo, hi] of inputs, float64 (T, D), the certified bound on |int8 - float| there, float64 (outputs,), and
    the word on its top-1 class (None where outputs are no classes). `center` is a float32 input inside. With a `step`,
    it holds the multiples of it only, rounded to float32."""

    name: str
    center: Float32Array
    lo: npt.NDArray[np.float64]
    hi: npt.NDArray[np.float64]
    bound: npt.NDArray[np.float64]
    top1: str | None
    step: float | None = None

    def at(self, share: npt.NDArray[np.float64]) -> Float32Array:
        """The float32 input of the region that lies at `share` (T, D), 0 to 1, between lo and hi."""
        x = self.lo + share * (self.hi - self.lo)
        if self.step is None:
            return inside(x, self.lo, self.hi)
        values: Float32Array = np.clip(np.rint(x / self.step) * self.step, self.lo, self.hi).astype(np.float32)
        return values


@dataclass(frozen=True, eq=False)
class Deployment:
    """A firmware and what it was certified against. `certificate` is None where there is none."""

    firmware: Firmware
    integer: IntegerNetwork
    real: FloatNetwork
    certificate: dict[str, Any] | None

    def regions(self) -> list[CertifiedRegion]:
        """The certificate's regions; empty without a certificate. InputError where they do not fit the model."""
        return [] if self.certificate is None else certified_regions(self.certificate, self.integer)

    def samples(self) -> tuple[Float32Array, list[dict[str, Any]]]:
        """The centers of the certified regions, float32 (N, T, D), and the regions as `cross_check` takes them.

        InputError where the certificate names none.
        """
        regions = self.regions()
        if not regions or self.certificate is None:
            raise InputError("there is no certificate to take samples from; give samples with --calibration")
        holds = [
            {
                "sample": None if region["radius"] is None else index,
                "output_bound": region["total_bound"],
                "top1": region["top1"],
            }
            for index, region in enumerate(self.certificate["regions"])
        ]
        return np.stack([region.center for region in regions]), holds


def load_deployment(
    place: Path | str,
    model: Path | str,
    board: str | None = None,
    int8: Path | str | None = None,
    certificate: Path | str | None = None,
    different_models: bool = False,
) -> Deployment:
    """Read the output folder of a deployment, or an ELF with its `int8` model and `certificate`; `model` is the float
    model that was deployed.

    InputError: something is missing, or does not belong together. Files that signoff.json signed have to be unchanged.
    `different_models` as for `codesign.certify`, unless the certificate is of two.
    """
    from codesign.certificate import load_certificate
    from codesign.network import load_network
    from codesign.quantization import read_integer_network, require_one_model
    from codesign.toolchain import read_firmware

    place = Path(place)
    folder = place if place.is_dir() else None
    if folder is not None:
        signoff = _signoff(folder)
        names = ["model.tflite", "firmware.elf"]
        if signoff.get("verdict") != "BIT-EXACT-ONLY" or (folder / "certificate.json").exists():
            names.append("certificate.json")
        _check_signed(folder, signoff, names)
        board = board or _board_of(signoff)
        int8 = int8 or folder / "model.tflite"
        if certificate is None and (folder / "certificate.json").is_file():
            certificate = folder / "certificate.json"
        elf = folder / "firmware.elf"
    elif place.is_file():
        elf = place
    else:
        raise InputError(f"there is no '{place}'; name the output folder of a deployment, or a firmware ELF")
    if board is None or int8 is None:
        raise InputError("an ELF by itself does not say enough: add --board NAME and --int8 model.tflite")
    firmware = read_firmware(elf, _board(board), folder / "firmware" if folder else None)
    integer = read_integer_network(int8, firmware.profile)  # type: ignore[arg-type]
    if firmware.model_sha256 != integer.sha256:
        raise InputError(f"{elf} holds another model than {int8}; build it again")
    real = load_network(model)
    document = None if certificate is None else load_certificate(certificate)
    if document is not None:
        for what, found, wanted in (
            ("float model", real.sha256, document["float_sha256"]),
            ("int8 model", integer.sha256, document["int8_sha256"]),
        ):
            if found != wanted:
                raise InputError(
                    f"the certificate is about another {what} (SHA-256 {wanted[:16]}..., not {found[:16]}...)"
                )
    known = document is not None and document["pair"]["different_models"]
    require_one_model(real, integer, different_models or known)
    return Deployment(firmware, integer, real, document)


def certified_regions(certificate: dict[str, Any], network: IntegerNetwork) -> list[CertifiedRegion]:
    """The boxes of a certificate, by its own region rule. InputError where they do not fit the network."""
    shape = network.input.shape
    outputs = int(np.prod(network.output.shape))
    domain = tuple(_numbers(certificate["domain"][end], (shape[1],)) for end in ("lo", "hi"))
    found = []
    for region in certificate["regions"]:
        x = _numbers(region["center"], shape)
        radius = region["radius"]
        box, grid = region.get("box"), region.get("kind") == "grid"
        if box is not None:
            lo, hi = (_numbers(box[end], shape) for end in ("lo", "hi"))
        elif radius is None:
            lo, hi = (np.tile(end, (shape[0], 1)) for end in domain)
        else:
            width = _numbers(radius, ())
            lo = np.minimum(np.maximum(x - width, domain[0]), x)
            hi = np.maximum(np.minimum(x + width, domain[1]), x)
        center = x.astype(np.float32) if grid else inside(x, lo, hi)
        bound, step = _numbers(region["total_bound"], (outputs,)), network.input.scale if grid else None
        found.append(CertifiedRegion(str(region["id"]), center, lo, hi, bound, region["top1"], step))
    return found


def inside(x: npt.NDArray[np.float64], lo: npt.NDArray[np.float64], hi: npt.NDArray[np.float64]) -> Float32Array:
    """x rounded to float32 without leaving [lo, hi]; InputError where no float32 number lies between."""
    with np.errstate(over="ignore"):  # what becomes infinite lies outside
        values = x.astype(np.float32)
        wide = values.astype(np.float64)
        values = np.where(wide > hi, np.nextafter(values, np.float32(-np.inf)), values)
        values = np.where(wide < lo, np.nextafter(values, np.float32(np.inf)), values).astype(np.float32)
    wide = values.astype(np.float64)
    if not np.all((lo <= wide) & (wide <= hi)):
        raise InputError("a certified region holds no float32 input; certify again with a larger --radius")
    return values


def _numbers(values: Any, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    try:
        array = np.array(values, np.float64)
    except (ValueError, TypeError, OverflowError):
        array = np.empty(0)
    if array.size != int(np.prod(shape)) or not np.all(np.isfinite(array)):
        raise InputError("the certificate's regions do not fit the int8 model")
    return array.reshape(shape)


def _signoff(folder: Path) -> dict[str, Any]:
    path = folder / SIGNOFF
    if not path.is_file():
        raise InputError(f"'{folder}' is no output folder of 'codesign deploy': it has no {SIGNOFF}")
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise InputError(f"'{path}' is too large for a sign-off")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("artifacts"), dict):
        raise InputError(f"'{path}' is not what 'codesign deploy' wrote; deploy again")
    return document


def _check_signed(folder: Path, signoff: dict[str, Any], names: list[str]) -> None:
    for name in names:
        path = folder / name
        signed = signoff["artifacts"].get(name)
        if signed is None or not path.is_file() or path.is_symlink():
            raise InputError(f"'{folder}' lacks {name}, or it was not signed; deploy again")
        if hashlib.sha256(path.read_bytes()).hexdigest() != signed:
            raise InputError(f"'{path}' is not the file that {SIGNOFF} was made for; deploy again")


def _board_of(signoff: dict[str, Any]) -> str | None:
    """Only a name: a sign-off cannot make this program read a board file elsewhere."""
    from codesign.toolchain import list_boards

    name = signoff.get("board")
    return name if name in list_boards() else None


def _board(name: str) -> Any:
    from codesign.toolchain import load_board

    return load_board(name)
