"""Certificates of every kind of model are valid, quickly; what cannot be checked is said; independence."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codesign import domain_checker
from codesign.checker import Invalid, read_claims, replay_regions
from codesign.checker.forms import Box
from codesign.recheck import check


def run(made, name, **options):
    folder, float_path, int8_path = made(name, **options)
    return check(folder / "certificate.json", float_path, int8_path), folder, float_path, int8_path


@pytest.mark.parametrize(
    "name",
    [
        "tiny",
        "logits",
        "stacked",
        "sequence",
        "timedist",
        "acts",
        "flatten",
        "reshaped",
        "tiny.int16",
        "acts.int16",
        "timedist.int16",
    ],
)
def test_certificates_are_valid_and_not_by_slack(made, name):
    result, folder, float_path, int8_path = run(made, name, float_suffix=".h5")
    assert (result.verdict, result.item) == ("valid", "")
    assert result.facts > 500
    claims = read_claims(folder / "certificate.json", float_path, int8_path)
    _, bounds = replay_regions(claims, slice(0, 2))
    for k, region in enumerate(claims.regions):
        stated = np.array(region["logit_bound"])
        derived = bounds.logits.difference.mag[k]
        assert (derived < stated).all()
        assert (stated <= derived * (1 + 1e-7) + 1e-11).all()


def test_a_region_where_forms_are_given_up_is_valid(made):
    result, folder, *_ = run(made, "logits", radius=0.5)
    assert (result.verdict, result.item) == ("valid", "")
    with np.load(folder / "certificate.proof.npz") as archive:
        assert archive["resets"].any()


def test_bounds_hold_on_sampled_inputs(made):
    from codesign.network import evaluate
    from codesign.semantics import dequantize, quantize_input, simulate

    _, folder, float_path, int8_path = run(made, "acts", radius="8lsb")
    claims = read_claims(folder / "certificate.json", float_path, int8_path)
    _, bounds = replay_regions(claims, slice(0, 2))
    rng = np.random.default_rng(0)
    lo, hi = claims.proof.lo[0], claims.proof.hi[0]
    x = (lo + rng.integers(0, 3, (400, *lo.shape)) / 2 * (hi - lo)).astype(np.float32)
    x = np.clip(x, np.nextafter(lo.astype(np.float32), 9), np.nextafter(hi.astype(np.float32), -9))
    for network in claims.integers:
        gap = dequantize(network.output, simulate(network, quantize_input(network, x))) - evaluate(claims.network, x)
        gap = gap.reshape(400, -1)
        assert (gap >= bounds.difference.lo[0]).all()
        assert (gap <= bounds.difference.hi[0]).all()


@pytest.mark.parametrize("prover", ["closed-form", "auto"])
def test_every_fact_is_proved_by_a_solver(made, prover):
    folder, float_path, int8_path = made("tiny", samples=1)
    result = check(folder / "certificate.json", float_path, int8_path, prover)
    assert (result.verdict, result.item) == ("valid", "")
    assert sum(result.provers.values()) == result.facts


@pytest.mark.parametrize("kind", ["sigmoid", "tanh_diff", "square_difference"])
def test_a_fact_that_a_solver_refutes_makes_it_invalid(made, kind):
    folder, float_path, int8_path = made("tiny", samples=1)
    facts, _ = replay_regions(read_claims(folder / "certificate.json", float_path, int8_path), slice(0, 1), keep=True)
    index = next(k for k, fact in enumerate(facts._kept) if fact[0] == kind)
    *rest, box = facts._kept[index]
    facts._kept = [(*rest, Box(box.lo, box.hi - 1e-3 * (box.hi - box.lo)))]
    with pytest.raises(Invalid, match="refuted"):
        facts.prove("closed-form")


def test_order_criteria(made):
    folder, float_path, int8_path = made("logits", topk=1, samples=2)
    statuses = [r["topk"] for r in json.loads((folder / "certificate.json").read_text())["regions"]]
    assert "proved" in statuses
    assert check(folder / "certificate.json", float_path, int8_path).verdict == "valid"


def test_two_processes_say_the_same(made):
    folder, float_path, int8_path = made("tiny", samples=9)
    one, two = (check(folder / "certificate.json", float_path, int8_path, jobs=jobs) for jobs in (1, 2))
    assert one == two
    assert one.verdict == "valid"


def test_the_checker_shares_no_code_with_the_searcher():
    script = (
        "import sys, codesign.recheck, codesign.cli.check_commands\n"
        "print([m for m in sys.modules if m.startswith(('codesign.verification', 'codesign.certificate'))])"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_exported_obligations_are_those_of_the_check(made, tmp_path):
    from click.testing import CliRunner

    from codesign.cli.main import main

    folder, float_path, int8_path = made("tiny", samples=1)
    models = ["--float", str(float_path), "--int8", str(int8_path)]
    out = tmp_path / "facts"
    arguments = ["obligations", "export", str(folder / "certificate.json"), *models, "--sample", "20", "-o", str(out)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert len(list(out.glob("*.smt2"))) == 20
    assert CliRunner().invoke(main, ["obligations", "read", str(out)]).exit_code == 1
    for path in out.glob("*.smt2"):
        path.with_suffix(".out").write_text("unsat\n")
    told = CliRunner().invoke(main, ["obligations", "read", str(out), "--json"])
    assert told.exit_code == 0
    assert len(json.loads(told.output)["proved"]) == 20
    assert CliRunner().invoke(main, arguments).exit_code == 2  # the folder exists


@pytest.mark.parametrize("change", [{"grid": 1}, {"free_from": 2}, {"noise": [0.01, 0.0, 0.2]}])
def test_regions_of_every_kind_are_valid(made, tmp_path, change):
    from codesign.verification import Neighbourhood

    if "noise" in change:
        np.savez(tmp_path / "noise.npz", noise=np.array(change["noise"]))
        change = {"noise": tmp_path / "noise.npz"}
    result, folder, *_ = run(made, "tiny", around=Neighbourhood(**change))
    assert (result.verdict, result.item) == ("valid", "")
    regions = json.loads((folder / "certificate.json").read_text())["regions"]
    assert all(region["box"] is not None for region in regions)


def test_regions_that_a_time_limit_left_out_are_valid_with_what_output_ranges_say(tmp_path):
    from codesign import api
    from codesign.verification import Criteria, Options

    fixtures = Path(__file__).parent.parent / "fixtures"
    float_path, int8_path, path = fixtures / "tiny.h5", fixtures / "tiny.tflite", tmp_path / "certificate.json"
    network, integer, data = api.load(float_path), api.read(int8_path), api.calibration(float_path)
    options = Options(Criteria(), evaluations=20, time_limit=0.0)
    api.certify(network, integer, data, samples=2, options=options, output=path)
    document = json.loads(path.read_text())
    assert {r["reason"] for r in document["regions"]} == {"time limit"}
    assert check(path, float_path, int8_path).verdict == "valid"


@pytest.mark.parametrize(("region", "method"), [("ball", "zonotope"), ("ball", "quadratic"), ("domain", "zonotope")])
def test_a_float_model_that_clips_its_cells_is_replayed(tmp_path, region, method):
    """Cells of the float model only are cut at 0.3, which they pass."""
    from dataclasses import replace

    from codesign import api
    from codesign.network import evaluate
    from codesign.quantization.align import align
    from codesign.semantics import dequantize, quantize_input, simulate
    from codesign.verification import Criteria, Options

    fixtures = Path(__file__).parent.parent / "fixtures"
    paths, path = (fixtures / "logits.h5", fixtures / "logits.tflite"), tmp_path / "certificate.json"
    network, integer, data = api.load(paths[0]), api.read(paths[1]), api.calibration(paths[0])
    clipping = replace(network, layers=(replace(network.layers[0], cell_clip=0.3), *network.layers[1:]))
    assert np.abs(evaluate(clipping, data.x) - evaluate(network, data.x)).max() > 1e-3
    options = Options(Criteria(), evaluations=40, proof="none", method=method)
    api.certify(clipping, integer, data, 0.02, 1, region, (-0.5, 0.5), options, output=path)
    read = read_claims if region == "ball" else domain_checker.read_claims
    integers = read(path, *paths).integers
    claims = replace(read(path, *paths), network=clipping, chains=tuple(align(clipping, net) for net in integers))
    _, bounds = replay_regions(claims, slice(0, 1)) if region == "ball" else domain_checker.replay_domain(claims)
    stated = claims.regions[0]
    assert (bounds.difference.hi[0] <= stated["difference_hi"]).all()
    assert (bounds.difference.lo[0] >= stated["difference_lo"]).all()
    lo, hi = claims.proof.lo[0], claims.proof.hi[0]
    x = (lo + np.random.default_rng(3).uniform(0.01, 0.99, (400, *lo.shape)) * (hi - lo)).astype(np.float32)
    gap = dequantize(integer.output, simulate(integer, quantize_input(integer, x))) - evaluate(clipping, x)
    assert (gap >= bounds.difference.lo[0]).all()
    assert (gap <= bounds.difference.hi[0]).all()
