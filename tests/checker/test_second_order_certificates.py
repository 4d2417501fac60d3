"""Certificates by quadratic zonotopes: valid, not by slack, proved by a solver; no choice of theirs can be moved."""

import numpy as np
import pytest

from codesign import api
from codesign.checker import read_claims, replay_regions
from codesign.verification import Options

STEP = 1e-6


@pytest.fixture(scope="module")
def quadratic(tmp_path_factory):
    """Makes a certificate with `--method quadratic`: folder, float path, int8 path."""
    from pathlib import Path

    fixtures = Path(__file__).parent.parent / "fixtures"
    done = {}

    def make(name, radius):
        if name not in done:
            folder = tmp_path_factory.mktemp("quadratic")
            base = name.removesuffix(".int16")
            float_path, int8_path = fixtures / f"{base}.h5", fixtures / f"{name}.tflite"
            options = Options(evaluations=30, method="quadratic")
            data = api.calibration(fixtures / f"{base}.h5")
            api.certify(
                api.load(float_path), api.read(int8_path), data, radius, 2, options=options,
                output=folder / "certificate.json",
            )  # fmt: skip
            done[name] = folder, float_path, int8_path
        return done[name]

    return make


@pytest.mark.parametrize(
    ("name", "radius"), [("tiny", "20lsb"), ("tiny.int16", 0.1), ("stacked", "2lsb"), ("sequence", "4lsb")]
)
def test_they_are_valid_and_not_by_slack(quadratic, take_apart, name, radius):
    folder, float_path, int8_path = quadratic(name, radius)
    forged = take_apart(folder, float_path, int8_path)
    result = forged.check()
    assert (result.verdict, result.item) == ("valid", "")
    claims = read_claims(folder / "certificate.json", float_path, int8_path)
    for k, region in enumerate(claims.regions):
        _, bounds = replay_regions(claims, slice(k, k + 1))
        stated = np.array(region["logit_bound"])
        derived = bounds.logits.difference.mag[0]
        assert (derived < stated).all()
        assert (stated <= derived * (1 + 1e-5) + 1e-11).all()


@pytest.mark.parametrize("around", [{"free_from": 3}, {"grid": 2}, {"noise": "zero"}])
def test_fixed_inputs_and_grids(tmp_path, take_apart, around):
    from pathlib import Path

    from codesign.verification import Neighbourhood

    fixtures = Path(__file__).parent.parent / "fixtures"
    paths = fixtures / "tiny.h5", fixtures / "tiny.tflite"
    network, data = api.load(paths[0]), api.calibration(paths[0])
    if "noise" in around:
        around = {"noise": tmp_path / "noise.csv"}
        around["noise"].write_text(",".join(["0.0"] * network.input_shape[1]) + "\n")
    api.certify(
        network, api.read(paths[1]), data, "5lsb", 2, options=Options(evaluations=30, method="quadratic"),
        around=Neighbourhood(**around), output=tmp_path / "certificate.json",
    )  # fmt: skip
    result = take_apart(tmp_path, *paths).check()
    assert (result.verdict, result.item) == ("valid", "")


def test_one_that_reached_no_region_is_valid(tmp_path, take_apart):
    from pathlib import Path

    fixtures = Path(__file__).parent.parent / "fixtures"
    paths = fixtures / "tiny.h5", fixtures / "tiny.tflite"
    options = Options(method="quadratic", time_limit=0.0)
    api.certify(
        api.load(paths[0]), api.read(paths[1]), api.calibration(paths[0]), "1lsb", 1, options=options,
        output=tmp_path / "certificate.json",
    )  # fmt: skip
    assert take_apart(tmp_path, *paths).check().verdict == "valid"


def test_every_fact_is_proved_by_the_solver(quadratic, take_apart):
    result = take_apart(*quadratic("tiny", "20lsb")).check(prover="icp")
    assert result.verdict == "valid"
    assert result.provers["icp"] == result.facts > 1000


def smaller_upper(f):
    f.region["difference_hi"][1] -= STEP
    lo, hi = np.array(f.region["difference_lo"]), np.array(f.region["difference_hi"])
    f.region["bound"] = np.maximum(-lo, hi).tolist()
    f.region["bound_max"] = max(f.region["bound"])


def smaller_logit_bound(f):
    f.region["logit_bound"][0] -= STEP


def another_method(f):
    f.document["method"] = "joint differential zonotope"


def moved(kind, coefficient):
    """One coefficient of the first relaxation of a kind in the second propagation."""

    def tamper(f):
        position = 0
        sizes = {"sigmoid": 1, "tanh": 1, "sigmoid_square": 2, "tanh_square": 2, "sigmoid_patch": 3, "tanh_patch": 3}
        for name, _, units in f.header["steps"]:
            if name == kind:
                f.arrays["slopes"][0, position + coefficient * units] += 0.5
                return
            position += sizes.get(name, 2) * units

    tamper.__name__ = f"moved {kind} {coefficient}"
    return tamper


def dropped_step(f):
    f.header = {**f.header, "steps": f.header["steps"][:-1]}


def swapped_steps(f):
    steps = f.header["steps"]
    f.header = {**f.header, "steps": [*steps[:-2], steps[-1], steps[-2]]}


def one_reset_more(f):
    f.arrays["resets"][0, -1] ^= 1


def no_second_propagation(f):
    steps = [s for s in f.header["steps"] if "second order" not in s[1]]
    count = sum(u * (2 if kind.endswith("diff") else 1) for kind, _, u in steps)
    f.header, f.arrays["slopes"] = {**f.header, "steps": steps}, f.arrays["slopes"][:, :count]


TAMPERED = [
    smaller_upper, smaller_logit_bound, another_method, dropped_step, swapped_steps, one_reset_more,
    no_second_propagation, moved("sigmoid_square", 0), moved("sigmoid_square", 1), moved("tanh_square", 1),
    moved("sigmoid_patch", 0), moved("sigmoid_patch", 1), moved("sigmoid_patch", 2), moved("tanh_patch", 2),
]  # fmt: skip


@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda t: t.__name__)
def test_tampering_is_found(quadratic, take_apart, tamper):
    forged = take_apart(*quadratic("tiny", "20lsb"))
    tamper(forged)
    result = forged.check()
    assert result.verdict == "invalid", result.item
    assert result.item
