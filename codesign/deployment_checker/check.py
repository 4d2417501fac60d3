"""The check of a folder as a whole: files, certificate, firmware, run, sign-off, in this order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from codesign.checker import CannotCheck, Invalid
from codesign.checker.result import demand, same
from codesign.deployment_checker.files import about, check_artifacts, read_json, require_files
from codesign.deployment_checker.firmware import check_firmware
from codesign.deployment_checker.record import check_record
from codesign.deployment_checker.run import check_run
from codesign.errors import InputError
from codesign.network import load_network
from codesign.quantization import read_integer_network
from codesign.recheck import check as check_certificate
from codesign.recheck import claim
from codesign.samples import SAMPLES, read_samples

SIGNED_OFF = ("PASS", "BIT-EXACT-ONLY")
TOLD = (
    "that firmware.elf was compiled from firmware/ (its constants, identity and sizes were read from the ELF itself)",
    "counters, stack use, clock, link and what the device quantised: as the run told them",
    "accuracies are those of the labels in samples.npz",
)


@dataclass
class FolderResult:
    """`item`: the first bad item, or what cannot be checked. `signed_off`: signoff.json's own verdict, which follows
    from the evidence where `verdict` is 'valid'. `claim`: of the certificate (`codesign.recheck.claim`). `facts`,
    `provers`: as of a certificate's check. `not_verified`: what nobody can tell from the folder."""

    verdict: Literal["valid", "invalid", "cannot check"] = "valid"
    item: str = ""
    signed_off: str = ""
    emulated: bool | None = None
    samples: int = 0
    facts: int = 0
    provers: dict[str, int] = field(default_factory=dict)
    claim: dict[str, Any] | None = None
    proved: tuple[str, ...] = ()
    not_verified: tuple[str, ...] = ()


def check_folder(
    folder: Path,
    float_path: Path,
    int8_path: Path | None = None,
    prover: str | None = "auto",
    jobs: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> FolderResult:
    """Check the output folder of a deployment of the float model `float_path`.

    `int8_path`: an int8 model that the folder's has to be, byte for byte. Every fact that the certificate rests on is
    derived again, and proved by `prover` as well where one is given. InputError where the float model or `int8_path`
    cannot be read, or `folder` is no folder.
    """
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder; give the output folder of a deployment")
    network = load_network(float_path)
    wanted = None if int8_path is None else read_integer_network(int8_path).sha256
    result = FolderResult()
    try:
        if (folder / "signoff.json").is_file() and not (folder / "certificate.json").exists():
            only = read_json(folder, "signoff.json")["verdict"] == "BIT-EXACT-ONLY"
            if only:
                raise CannotCheck("certificate.json: there is none, as --bit-exact-only asks for none to be made")
        require_files(folder)
        signoff, hil = read_json(folder, "signoff.json"), read_json(folder, "hil.json")
        result.signed_off = signoff["verdict"]
        check_artifacts(folder, signoff)
        with about("model.tflite"):
            integer = read_integer_network(folder / "model.tflite")
        if wanted is not None:
            same("model.tflite (another int8 model)", integer.sha256, wanted)
        with about(SAMPLES):
            samples = read_samples(folder / SAMPLES, network)
        with about("certificate.json"):
            certificate = check_certificate(
                folder / "certificate.json", float_path, folder / "model.tflite", prover, jobs, on_progress,
                folder / SAMPLES,
            )  # fmt: skip
        if certificate.verdict == "cannot check":
            raise CannotCheck(f"certificate.json: {certificate.item}")
        demand(certificate.verdict == "valid", f"certificate.json: {certificate.item}")
        result.facts, result.provers = certificate.facts, certificate.provers
        with about("firmware.elf"):
            device, build, more = check_firmware(folder, signoff, integer)
        check_run(hil, certificate.document, network, device, samples, build)
        check_record(folder, signoff, hil, certificate, network, device, samples, build)
        result.claim, result.proved = claim(certificate.document), tuple(signoff["proved"])
        result.emulated, result.samples = hil["target"]["emulated"], len(samples.sent)
        port = hil["target"]["port"]
        how = "that the board was emulated" if result.emulated else f"that the answers came from hardware at {port}"
        result.not_verified = (*certificate.not_derived, how, *more, *TOLD)
    except Invalid as error:
        result.verdict, result.item = "invalid", str(error)
    except CannotCheck as error:
        result.verdict, result.item = "cannot check", str(error)
    return result
