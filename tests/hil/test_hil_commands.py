"""`codesign hil` and `codesign boards` on a deployment made of a fixture."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from fake_device import FakeDevice
from hil_support import FIXTURES, Model, need_emulator

from codesign import api
from codesign.certificate import write_certificate
from codesign.cli import main
from codesign.errors import InputError, SoundnessAlarm
from codesign.hil import Device, Target, mutate, validate_result
from codesign.hil.deployment import certified_regions, load_deployment
from codesign.hil.soak import draw, parse_duration, soak
from codesign.verification import Options

if TYPE_CHECKING:
    from codesign.toolchain import Build

MODEL = FIXTURES / "tiny.h5"


@pytest.fixture(scope="session")
def certificate() -> dict[str, Any]:
    data = api.calibration(MODEL)
    options = Options(jobs=1, evaluations=100)
    return api.certify(api.load(MODEL), api.read(FIXTURES / "tiny.tflite"), data, samples=4, options=options)


@pytest.fixture
def deployment(
    built: Callable[[str, str], Build], certificate: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """As `codesign deploy` leaves it, for the parts that are read again."""
    need_emulator("qemu")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "tiny.deploy"
    folder.mkdir()
    shutil.copyfile(FIXTURES / "tiny.tflite", folder / "model.tflite")
    shutil.copyfile(built("tiny", "mps2_an385").elf, folder / "firmware.elf")
    write_certificate(certificate, folder / "certificate.json")
    sign(folder)
    return folder


def sign(folder: Path, **changes: Any) -> None:
    names = ("model.tflite", "certificate.json", "firmware.elf")
    artifacts = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "signoff.json").write_text(json.dumps({"board": "mps2_an385", "artifacts": artifacts, **changes}))


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["hil", *map(str, arguments)])


def test_deployment_is_checked_again(deployment: Path) -> None:
    result = run(deployment, "--model", MODEL, "--emulate", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    validate_result(document)
    assert document["verdict"] == "PASS"
    assert document["summary"]["samples"] == document["summary"]["within_bound"] == 4
    assert document == json.loads(Path("tiny.hil.json").read_text())
    assert (
        len(Path("tiny.hil.jsonl").read_text().splitlines()) == 1 + 3 + 1 + 4
    )  # header, quantisations, trace, samples
    again = run(deployment, "--model", MODEL, "--emulate", "--resume")
    assert again.exit_code == 0, again.output
    assert "EMULATED" in again.stdout
    assert "4 of 4 samples: 4 bit-exact" in again.stdout


def test_an_elf_with_what_belongs_to_it(deployment: Path) -> None:
    elf = deployment / "firmware.elf"
    bare = run(elf, "--model", MODEL)
    assert bare.exit_code == 2
    assert "add --board NAME and --int8" in bare.stderr
    told = ("--board", "mps2_an385", "--int8", FIXTURES / "tiny.tflite")
    calibration = ("--calibration", FIXTURES / "tiny.calib.npz", "--samples", "5")
    result = run(elf, "--model", MODEL, *told, *calibration, "-o", "other.json")
    assert result.exit_code == 1, result.output
    assert "5 of 5 samples: 5 bit-exact, 0 of 0 within" in result.stdout
    assert "UNPROVED: no sample had a certified bound; --bit-exact-only asks" in result.stdout
    assert json.loads(Path("other.json").read_text())["verdict"] == "UNPROVED"
    alone = run(elf, "--model", MODEL, *told, *calibration, "-o", "alone.json", "--bit-exact-only")
    assert alone.exit_code == 0, alone.output
    assert alone.stdout.endswith("verdict: BIT-EXACT-ONLY\n")
    assert json.loads(Path("alone.json").read_text())["verdict"] == "BIT-EXACT-ONLY"
    no_samples = run(elf, "--model", MODEL, *told)
    assert no_samples.exit_code == 2
    assert "give samples with --calibration" in no_samples.stderr


def test_bounds_do_not_count_where_only_bits_are_asked_for(deployment: Path) -> None:
    result = run(deployment, "--model", MODEL, "--emulate", "--bit-exact-only", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    validate_result(document)
    assert (document["verdict"], document["summary"]["with_bound"]) == ("BIT-EXACT-ONLY", 0)
    assert run(deployment, "--model", MODEL, "--soak", "1s", "--bit-exact-only").exit_code == 2


def test_vacuous_bounds_prove_nothing_on_a_device(deployment: Path, certificate: dict[str, Any]) -> None:
    limits = certificate["ranges"]["outputs"]["vacuous_from"]
    regions = [dict(region) for region in certificate["regions"]]
    regions[1].update(
        bound=limits, bound_max=max(limits), difference_lo=[-v for v in limits], difference_hi=limits, vacuous=True
    )
    write_certificate({**certificate, "regions": regions}, deployment / "certificate.json")
    sign(deployment)
    result = run(deployment, "--model", MODEL, "--emulate", "--json")
    assert result.exit_code == 1, result.output
    document = json.loads(result.stdout)
    validate_result(document)
    assert document["verdict"] == "UNPROVED"
    assert document["unproved"][0].startswith("VACUOUS: the bounds of 1 region (1) say no more")


def test_samples_outside_the_domain_are_refused_by_number(deployment: Path) -> None:
    network, integer = api.load(MODEL), api.read(FIXTURES / "tiny.tflite")
    data = api.calibration(MODEL)
    whole = api.certify(network, integer, data, region="domain", options=Options(evaluations=20))
    write_certificate(whole, deployment / "certificate.json")
    sign(deployment)
    x = data.x[:4].copy()
    x[2, 0, 0] = 50.0
    np.savez("far.npz", x=x)
    result = run(deployment, "--model", MODEL, "--emulate", "--calibration", "far.npz")
    assert result.exit_code == 2, result.output
    assert "1 sample (2) of 4, counted from 0, lie outside the domain" in result.stderr


def test_a_mutated_firmware_fails(deployment: Path) -> None:
    mutate.flip_bit(deployment / "firmware.elf", deployment / "firmware.elf", "op1_weights", 0, 6)
    unsigned = run(deployment, "--model", MODEL)
    assert unsigned.exit_code == 2
    assert "is not the file that signoff.json was made for" in unsigned.stderr
    sign(deployment)
    result = run(deployment, "--model", MODEL)
    assert result.exit_code == 1
    assert "FAILED:" in result.stdout
    soaked = run(deployment, "--model", MODEL, "--soak", "2s", "--json")
    assert soaked.exit_code == 1
    document = json.loads(soaked.stdout)
    assert document["verdict"] == "FAIL"
    assert document["mismatches"] > 0
    assert 0 < len(document["inputs"]) <= 5


def test_soak_of_the_emulated_board(deployment: Path) -> None:
    result = run(deployment, "--model", MODEL, "--soak", "3s", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["verdict"] == "PASS"
    assert document["emulated"] is True
    assert document["inferences"] > 10
    assert document["mismatches"] == document["out_of_bound"] == document["flipped_top1"] == 0
    assert 0 < document["worst_error_share_of_bound"] <= 1
    assert document["counter"]["min"] > 1000
    assert 3 <= document["seconds"] < 30
    assert json.loads(Path("tiny.soak.json").read_text()) == document


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "signoff.json").unlink(), "no output folder of 'codesign deploy'"),
        (lambda f: (f / "signoff.json").write_text("[" * 100_000), "is not what 'codesign deploy' wrote"),
        (lambda f: (f / "firmware.elf").unlink(), "lacks firmware.elf"),
        (lambda f: sign(f, board="../../evil.toml"), "add --board NAME"),
        (lambda f: sign(f, board=["x"]), "add --board NAME"),
        (lambda f: sign(f, artifacts=3), "is not what 'codesign deploy' wrote"),
        (lambda f: sign(f, board="mps2_an386"), "was built for board mps2_an385, not for mps2_an386"),
        (lambda f: ((f / "firmware.elf").write_bytes(b"\x7fELF" + bytes(60)), sign(f)), "no firmware of codesign's"),
        (lambda f: ((f / "firmware.elf").unlink(), (f / "firmware.elf").symlink_to(MODEL)), "lacks firmware.elf"),
        (lambda f: (shutil.copyfile(FIXTURES / "logits.tflite", f / "model.tflite"), sign(f)), "holds another model"),
    ],
)
def test_what_does_not_belong_together_is_refused(deployment: Path, change: Any, message: str) -> None:
    change(deployment)
    result = run(deployment, "--model", MODEL, "--emulate")
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not Path("tiny.hil.json").exists()


def test_bad_usage(deployment: Path) -> None:
    for arguments, message in (
        (("nowhere", "--model", MODEL), "there is no 'nowhere'"),
        ((deployment, "--model", FIXTURES / "logits.h5"), "the certificate is about another float model"),
        ((deployment, "--model", MODEL, "--soak", "soon"), "'soon' is no duration"),
        ((deployment, "--model", MODEL, "--soak", "1h", "--resume"), "leave out --resume"),
        ((deployment, "--model", MODEL, "--port", "auto"), "cannot be flashed|is attached"),
        ((deployment, "--model", MODEL, "-o", "missing/x.json"), "cannot be written"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert any(part in result.stderr for part in message.split("|")), result.stderr


def test_durations() -> None:
    assert [parse_duration(text) for text in ("90", "90s", "1.5m", "1h", "2d")] == [90, 90, 90, 3600, 172800]
    for text in ("", "0", "-1s", "1w", "1e9h", "nan", "999d"):
        with pytest.raises(InputError):
            parse_duration(text)


def test_drawn_inputs_stay_in_their_regions(certificate: dict[str, Any], tiny: Model) -> None:
    regions = certified_regions(certificate, tiny.integer)
    chosen, x = draw(regions, 400, np.random.default_rng(0))
    assert x.dtype == np.float32
    assert set(chosen) == set(range(4))
    at_a_corner = 0
    for index, value in zip(chosen, x.astype(np.float64), strict=True):
        region = regions[index]
        assert np.all((region.lo <= value) & (value <= region.hi))
        at_a_corner += bool(np.all((value - region.lo < 1e-6) | (region.hi - value < 1e-6)))
    assert at_a_corner >= 100
    with pytest.raises(InputError, match="do not fit"):
        certified_regions(certificate, api.read(FIXTURES / "stacked.tflite"))


def test_soak_over_a_bad_line_and_with_a_tight_bound(certificate: dict[str, Any], tiny: Model) -> None:
    from dataclasses import replace

    from codesign.hil.faults import Fault, FaultyLink

    regions = certified_regions(certificate, tiny.integer)
    faults = [Fault("flip", at, 1) for at in range(5, 200, 17)]
    with (
        FakeDevice(tiny.integer) as fake,
        FaultyLink(fake.port, faults, np.random.default_rng(1)) as link,
        Device(link.port, timeout=0.3) as device,
    ):
        target = Target(device, device.connect(2.0), link.port, False, "a fake", "instructions", 1.0)
        rng = np.random.default_rng(2)
        updates: list[int] = []
        good = soak(
            target, tiny.integer, tiny.real, regions, 2.0, rng, lambda status: updates.append(status.inferences)
        )
        tight = [replace(region, bound=region.bound * good["worst_error_share_of_bound"] * 0.5) for region in regions]
        with pytest.raises(SoundnessAlarm, match="bit-exact on the device"):
            soak(target, tiny.integer, tiny.real, tight, 10.0, rng)
        wrong = soak(target, tiny.integer, tiny.real, regions, 1.0, rng, build_id="00" * 16)
    assert good["verdict"] == "PASS"
    assert good["link"]["resent"] > 0
    assert updates == sorted(updates)
    assert updates[-1] == good["inferences"]
    assert wrong["failures"] == ["wrong build on the device"]
    assert wrong["inferences"] == 0


def test_boards_are_described() -> None:
    result = CliRunner().invoke(main, ["boards", "--describe", "nucleo_l476"])
    assert result.exit_code == 0
    for fact in ("cortex-m4 at 80 MHz", "0x08000000", "USART2 at 115200 baud, TX PA2, RX PA3 (AF7)", "device id 0x415"):
        assert fact in result.stdout
    pico = json.loads(CliRunner().invoke(main, ["boards", "--describe", "pico", "--json"]).stdout)
    assert pico["core"] == "cortex-m0plus"
    unknown = CliRunner().invoke(main, ["boards", "--describe", "nothing"])
    assert unknown.exit_code == 2
    assert "unknown board" in unknown.stderr


def test_a_soak_ended_by_ctrl_c_still_reports(deployment: Path) -> None:
    import signal

    child = subprocess.Popen(
        [sys.executable, "-m", "codesign", "hil", str(deployment), "--model", str(MODEL), "--soak", "300s"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit it ignored
    )
    try:
        assert child.stderr
        assert "its board started" in child.stderr.readline()
        assert "EMULATED" in child.stderr.readline()
        assert "inferences" in child.stderr.readline()
        child.send_signal(signal.SIGINT)
        output, _ = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert "interrupted after" in output
    document = json.loads(Path("tiny.soak.json").read_text())
    assert document["interrupted"] is True
    assert document["inferences"] > 0
    assert document["verdict"] == "PASS"
    assert child.returncode == 130


def test_load_deployment_gives_the_regions(deployment: Path) -> None:
    loaded = load_deployment(deployment, MODEL)
    x, holds = loaded.samples()
    assert x.shape == (4, *loaded.integer.input.shape)
    assert [region["sample"] for region in holds] == [0, 1, 2, 3]
    assert loaded.firmware.board.name == "mps2_an385"
    assert len(loaded.regions()) == 4
