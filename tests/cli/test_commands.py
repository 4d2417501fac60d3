"""The command line: results for scripts, exit codes, one sentence for bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from codesign.certificate import load_certificate
from codesign.cli import main
from codesign.errors import InputError

FIXTURES = Path(__file__).parent.parent / "fixtures"


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def model(tmp_path):
    """A copy of the tiny fixture that a test may spoil."""
    for name in ("tiny.h5", "tiny.tflite", "tiny.calib.npz"):
        shutil.copy(FIXTURES / name, tmp_path / name)
    return tmp_path


def refused(result, code=2, *words):
    assert result.exit_code == code
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_certify_prints_what_scripts_rely_on(model):
    output = model / "certificate.json"
    result = run(
        "certify", model / "tiny.h5", model / "tiny.tflite", "--radius", 0.01, "--samples", 3, "--json", "-o", output
    )
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert {"verdict", "float_sha256", "int8_sha256", "method", "seconds", "regions"} <= set(document)
    assert len(document["regions"]) == 3
    for region in document["regions"]:
        assert region["radius"] == 0.01
        assert len(region["bound"]) == 3
        assert region["bound_max"] == max(region["bound"])
        assert region["observed_max"] <= region["bound_max"]
        assert region["top1"] in ("proved", "refuted", "unknown")
    assert load_certificate(output)["regions"] == document["regions"]


def test_radius_in_quantisation_steps(model):
    result = run("certify", model / "tiny.h5", model / "tiny.tflite", "--radius", "2lsb", "--samples", 1, "--json")
    document = json.loads(result.stdout)
    assert document["regions"][0]["radius"] == 2 * document["input_quantization"]["scale"]


def test_certify_exit_code_follows_the_criterion(model):
    arguments = ("certify", model / "tiny.h5", model / "tiny.tflite", "--samples", 2, "--evaluations", 200)
    assert run(*arguments, "--epsilon", 0.5).exit_code == 0
    assert run(*arguments, "--epsilon", 1e-6).exit_code == 1
    assert run(*arguments, "--require-top1", 1).exit_code == 0
    assert "refuted" in run(*arguments, "--epsilon", 1e-6).stdout


def test_domain_region(model):
    result = run("certify", model / "tiny.h5", model / "tiny.tflite", "--region", "domain", "--domain=-1,1", "--json")
    document = json.loads(result.stdout)
    (region,) = document["regions"]
    assert region["id"] == "domain"
    assert region["sample"] is None
    assert document["domain"]["lo"] == [-1.0] * 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--radius", "wide"], ["radius"]),
        (["--radius", "-1"], ["radius"]),
        (["--samples", 0], ["samples"]),
        (["--epsilon", -1], ["epsilon"]),
        (["--require-top1", 2], ["share"]),
        (["--jobs", 0], ["--jobs"]),
        (["--evaluations", 0], ["--evaluations"]),
        (["--seed", -1], ["seed"]),
        (["--domain", "3,1"], ["domain"]),
        (["--calibration", "no.npz"], ["no.npz"]),
        (["--output", "no/such/folder/c.json"], ["folder"]),
    ],
)
def test_certify_refuses_bad_options_with_one_sentence(model, arguments, words):
    refused(run("certify", model / "tiny.h5", model / "tiny.tflite", "--samples", 1, *arguments), 2, *words)


def test_a_result_never_takes_the_place_of_a_model(model):
    for name in ("tiny.h5", "tiny.tflite", "c.txt"):
        before = (model / name).read_bytes() if (model / name).exists() else None
        arguments = ("certify", model / "tiny.h5", model / "tiny.tflite", "--samples", 1, "-o", model / name)
        refused(run(*arguments), 2, name, ".json")
        assert ((model / name).read_bytes() if (model / name).exists() else None) == before
    refused(run("hil", model, "--model", model / "tiny.h5", "-o", model / "tiny.h5"), 2, "tiny.h5", ".json")


def test_certify_says_where_the_certificate_lies(model):
    result = run("certify", model / "tiny.h5", model / "tiny.tflite", "--samples", 1, "-o", model / "c.json")
    assert result.exit_code == 0
    assert "c.json, and c.proof.npz" in result.stdout
    assert (model / "c.proof.npz").is_file()


def test_a_top1_share_of_no_region_is_refused(model):
    data = np.load(model / "tiny.calib.npz")
    np.savez(model / "wrong.npz", x=data["x"], y=(data["y"] + 1) % 3)
    arguments = ("certify", model / "tiny.h5", model / "tiny.tflite", "--samples", 2, "--prove", "none")
    refused(run(*arguments, "--calibration", model / "wrong.npz", "--require-top1", 0.5, "--json"), 2, "labelled")
    told = run(*arguments, "--calibration", model / "wrong.npz")
    assert told.exit_code == 1
    assert "no region counts for the class" in told.stdout


@pytest.mark.parametrize("option", [["--any-length"], ["--domain", "0,1"]])
def test_convert_does_not_ignore_options_of_cover(model, option):
    refused(run("convert", model / "tiny.h5", "-o", model / "new.tflite", *option), 2, "--cover")


def test_errors_of_the_operating_system_are_one_sentence(model, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device", "/x/y")

    monkeypatch.setattr("codesign.api.quantize", full)
    refused(run("convert", model / "tiny.h5", "-o", model / "new.tflite"), 3, "No space left on device", "/x/y")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--seed", -1, "-o", "facts"], "--seed"),
        (["--sample", 0, "-o", "facts"], "--sample"),
        (["-o", "."], "exists"),
        (["-o", "no/such/folder/facts"], "existing folder"),
    ],
)
def test_obligations_refuses_bad_options_before_any_work(model, monkeypatch, options, word):
    monkeypatch.chdir(model)
    models = ("--float", model / "tiny.h5", "--int8", model / "tiny.tflite")
    refused(run("obligations", "export", model / "none.json", *models, *options), 2, word)
    assert not (model / "facts").exists()


def test_the_api_refuses_what_would_be_taken_for_something_else(model):
    from types import SimpleNamespace

    from codesign import api

    network, integer = api.load(model / "tiny.h5"), api.read(model / "tiny.tflite")
    data = api.calibration(model / "tiny.h5")
    with pytest.raises(InputError, match="unknown kind of region 'bal'"):
        api.certify(network, integer, data, region="bal")
    with pytest.raises(InputError, match="int4"):
        api.quantize_for_domain(model / "tiny.h5", model / "new.tflite", activations="int4", domain=(0.0, 1.0))
    for samples in (0, -2):
        with pytest.raises(InputError, match=f"cannot send {samples} samples"):
            api.hil_inputs(network, data, samples=samples)
    firmware = SimpleNamespace(model_sha256="0" * 64)
    with pytest.raises(InputError, match="firmware is about another model"):
        api.cross_check(firmware, network, integer, data)
    firmware = SimpleNamespace(model_sha256=integer.sha256)
    certificate = {"int8": {"sha256": integer.sha256}, "float": {"sha256": "0" * 64}}
    certificate["pair"] = {"different_models": False}
    with pytest.raises(InputError, match="certificate is about another model"):
        api.cross_check(firmware, network, integer, data, certificate)
    with pytest.raises(InputError, match="give two models of the same network"):
        api.cross_check(firmware, network, api.read(FIXTURES / "stacked.tflite"), data)


def test_certify_refuses_models_that_are_none(model):
    refused(run("certify", model / "no.h5", model / "tiny.tflite"), 2, "no.h5")
    refused(run("certify", model / "tiny.h5", model / "no.tflite"), 2, "no.tflite")
    (model / "cut.h5").write_bytes((model / "tiny.h5").read_bytes()[:3000])
    refused(run("certify", model / "cut.h5", model / "tiny.tflite"), 2)
    (model / "cut.tflite").write_bytes((model / "tiny.tflite").read_bytes()[:1000])
    refused(run("certify", model / "tiny.h5", model / "cut.tflite"), 2)
    refused(run("certify", model / "tiny.h5", FIXTURES / "stacked.tflite"), 2, "shape")


def test_without_calibration_data_the_error_says_how_to_make_it(model):
    (model / "tiny.calib.npz").unlink()
    refused(run("certify", model / "tiny.h5", model / "tiny.tflite"), 2, "calib.npz", "savez")
    refused(run("convert", model / "tiny.h5", "-o", model / "new.tflite"), 2, "calib.npz")
    assert not (model / "new.tflite").exists()


def test_missing_dreal_is_exit_code_three(model):
    from codesign.proof import availability

    if next(a for a in availability() if a.prover == "dreal").available:
        pytest.skip("dReal is installed here")
    refused(run("certify", model / "tiny.h5", model / "tiny.tflite", "--samples", 1, "--prover", "dreal"), 3, "dReal")


def test_compare_reports_disagreement():
    result = run("compare", FIXTURES / "logits.tflite", "--inputs", 300, "--json")
    if result.exit_code == 3:
        pytest.skip(result.stderr)
    facts = json.loads(result.stdout)
    assert facts["inputs"] == 300
    assert 0 < facts["share"] < 1
    assert sum(facts["histogram"].values()) == 3000


def test_boards_and_doctor():
    names = {b["name"] for b in json.loads(run("boards", "--json").stdout)}
    assert {"nucleo_f746", "mps2_an386", "mps2_an500"} <= names
    result = run("doctor", "--json")
    assert result.exit_code in (0, 3)
    checks = json.loads(result.stdout)
    assert all(c["fix"] for c in checks if c["status"] == "missing")


def test_help_is_fast_and_needs_nothing_heavy():
    code = (
        "import sys\nfrom codesign.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'tensorflow', 'rich', 'h5py', 'matplotlib', 'flint'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_certificate_that_is_edited_is_refused(model):
    output = model / "c.json"
    run("certify", model / "tiny.h5", model / "tiny.tflite", "--samples", 1, "-o", output)
    document = json.loads(output.read_text())
    for spoil in (
        lambda d: d.pop("claim"),
        lambda d: d.update(verdict="PROVED"),
        lambda d: d.update(schema="other"),
        lambda d: d["regions"].clear(),
        lambda d: d["regions"][0].update(bound_max=-1),
    ):
        changed = json.loads(output.read_text())
        spoil(changed)
        output.with_name("bad.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match="certificate"):
            load_certificate(output.with_name("bad.json"))
    assert load_certificate(output) == document
    output.write_text("{")
    with pytest.raises(InputError, match="JSON"):
        load_certificate(output)


def test_counterexamples_are_saved(model):
    document = json.loads(
        run("certify", model / "tiny.h5", model / "tiny.tflite", "--samples", 1, "--epsilon", 1e-6, "--json").stdout
    )
    found = document["regions"][0]["counterexample"]
    assert found["criterion"] == "epsilon"
    assert np.asarray(found["input"]).shape == (4, 3)
