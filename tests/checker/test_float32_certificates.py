"""What certificates state of float32 programs is derived again: smaller numbers are found out, honest ones never."""

import sys
from pathlib import Path

import numpy as np
import pytest

from codesign.checker import read_claims, replay_regions
from codesign.domain_checker import read_claims as read_domain
from codesign.domain_checker import replay_domain
from codesign.float32_checker import check_float32, errors, statement
from codesign.proof.float32 import region_total, total_bound
from codesign.verification import float32_budget, float32_domain

FIXTURES = Path(__file__).parent.parent / "fixtures"
FEW = {"samples": 2}
LENGTHS = {"region": "domain"}
# What the searcher may state more than the checker derives: both have rooms of their own, below this.
ROOM = 1e-3


def derived(folder, float_path, int8_path):
    """(logits, outputs) of every region, as the checker has them."""
    path = folder / "certificate.json"
    claims = read_claims(path, float_path, int8_path)
    rows = slice(0, len(claims.regions))
    facts, bounds = replay_regions(claims, rows)
    return claims.regions, statement._errors(claims, rows, len(bounds.logits.margins), facts)


NAMES = ["tiny", "stacked", "acts", "logits", "sequence", "timedist", "flatten", "reshaped", "tiny.int16"]


@pytest.mark.parametrize("name", NAMES)
def test_both_derive_the_same_but_for_room(made, name):
    regions, (logits, outputs) = derived(*made(name, **FEW))
    for k, region in enumerate(regions):
        for key, found in (("logits", logits[k]), ("evaluation", outputs[k])):
            stated = np.array(region["float32"][key])
            assert (found <= stated).all()
            assert (stated <= found * (1 + ROOM) + 2e-12).all(), (name, key, stated / found)


def test_totals_are_the_sums(made, forge):
    f = forge("tiny", **FEW)
    for region in f.document["regions"]:
        budget = region["float32"]
        exact = np.array(region["bound"]) + budget["evaluation"] + budget["dequantization"]
        total = np.array(region["total_bound"])
        assert (total >= exact).all()
        assert (total <= exact * (1 + 1e-12)).all()
        assert region["total_bound_max"] == total.max()
        assert total.max() > region["bound_max"]
    assert f.document["summary"]["total_bound_max"] == max(r["total_bound_max"] for r in f.document["regions"])
    assert f.check().verdict == "valid"


def consistent(f):
    """The numbers that follow from a region's own."""
    totals = []
    for region in f.document["regions"]:
        total = region_total(region)
        region.update(total_bound=total.tolist(), total_bound_max=float(total.max()))
        totals.append(float(total.max()))
    f.document["summary"].update(total_bound_max=max(totals), total_bound_median=float(np.median(totals)))


def evaluation(f):
    f.region["float32"]["evaluation"][1] *= 0.99
    consistent(f)


def evaluation_a_tenth(f):
    for region in f.document["regions"]:
        region["float32"]["evaluation"] = [0.1 * v for v in region["float32"]["evaluation"]]
    consistent(f)


def logits(f):
    f.region["float32"]["logits"][0] *= 0.99


def dequantization(f):
    f.region["float32"]["dequantization"][2] *= 0.5
    consistent(f)


def too_few(f):
    f.region["float32"]["logits"].pop()


def total(f):
    f.region["total_bound"][0] = f.region["bound"][0]


def total_max(f):
    f.region["total_bound_max"] = f.region["bound_max"]


def summary_max(f):
    f.document["summary"]["total_bound_max"] = f.document["summary"]["bound_max"]


def summary_median(f):
    f.document["summary"]["total_bound_median"] *= 0.9


def model(f):
    f.document["float32_model"]["sigmoid"] = 2


def model_statement(f):
    f.document["float32_model"]["statement"] = "whatever a GPU does"


def model_missing(f):
    del f.document["float32_model"]


def budget_missing(f):
    del f.region["float32"]


TAMPERINGS = [
    (evaluation, "float32/evaluation[1]"), (evaluation_a_tenth, "float32/evaluation[0]"),
    (logits, "float32/logits[0]"), (dequantization, "float32/dequantization[2]"), (too_few, "float32/logits"),
    (total, "total_bound"), (total_max, "total_bound_m"), (summary_max, "summary/total_bound_max"),
    (summary_median, "summary/total_bound_median"), (model, "float32_model"), (model_statement, "float32_model"),
    (model_missing, "schema"), (budget_missing, "schema"),
]  # fmt: skip


@pytest.mark.parametrize(("tamper", "item"), TAMPERINGS, ids=lambda t: getattr(t, "__name__", ""))
def test_smaller_numbers_are_found_out(forge, tamper, item):
    f = forge("logits", **FEW)
    tamper(f)
    result = f.check()
    assert (result.verdict, item in result.item) == ("invalid", True), result.item


def test_epsilon_is_judged_on_the_total(forge):
    f = forge("tiny", **FEW)
    between = 0.5 * (f.document["summary"]["bound_max"] + f.document["summary"]["total_bound_max"])
    for epsilon, status in ((between, "unknown"), (f.document["summary"]["total_bound_max"], "proved")):
        g = forge("tiny", **FEW, epsilon=epsilon)
        worst = max(g.document["regions"], key=lambda r: r["bound_max"])
        assert worst["epsilon"] == status
        assert g.check().verdict == "valid"
    g = forge("tiny", **FEW, epsilon=between)
    for region in g.document["regions"]:
        region["epsilon"] = "proved"
    g.document["criteria"]["epsilon_verdict"] = g.document["verdict"] = "proved"
    result = g.check()
    assert (result.verdict, "epsilon" in result.item) == ("invalid", True)


def test_class_margins_leave_room_for_float32(made):
    """The margins of the float network are those over the reals less twice what its logits can be off by."""
    folder, float_path, int8_path = made("tiny", **FEW)
    claims = read_claims(folder / "certificate.json", float_path, int8_path)
    facts, bounds = replay_regions(claims, slice(0, 2))
    single = check_float32(claims, slice(0, 2), bounds, facts)
    for before, after in zip(bounds.logits.margins, single.logits.margins, strict=True):
        off = ~np.eye(before.value.lo.shape[1], dtype=bool)
        for side in ("value", "difference"):
            lost = (getattr(before, side).lo - getattr(after, side).lo)[:, off]
            gained = (getattr(after, side).hi - getattr(before, side).hi)[:, off]
            assert (lost > 1e-6).all()
            np.testing.assert_allclose(lost, gained, rtol=1e-6)
        assert np.array_equal(before.integer.lo, after.integer.lo)
    for k, region in enumerate(claims.regions):
        (entry,), m = region["margins"], single.logits.margins[0]
        chosen = entry["class"]
        assert entry["float_logit"] <= np.delete(m.value.lo[k, chosen], chosen).min()


PLANTED = {
    "sigmoid is exact": lambda m: m.setattr(float32_budget, "SIGMOID", 0),
    "tanh is exact": lambda m: m.setattr(float32_budget, "TANH", 0),
    "sums are exact": lambda m: m.setattr(float32_budget, "gamma", lambda terms: 0.0),
    "sums round once": lambda m: m.setattr(float32_budget, "gamma", lambda terms: 2.0**-24),
    "the softmax is exact": lambda m: m.setattr(float32_budget, "softmax_rounding", lambda outputs: 0.0),
    "the softmax keeps orders": lambda m: m.setattr(float32_budget, "_confused", lambda v: 0.0 * v.error),
    "errors do not go on": lambda m: m.setattr(
        float32_budget.Errors, "folded", lambda self, blocks: float32_budget.Errors(self.symbols[:, :, :0])
    ),
    "coefficients are their middles": lambda m: m.setattr(float32_budget, "_combined", _middles),
    "dequantization is exact": lambda m: m.setattr(
        sys.modules["codesign.verification.certify"], "dequantization_error", lambda t: 0.0
    ),
}


def _middles(parts, local):
    from codesign.verification.affine import Box

    return _original(
        [(Box(b.mid, b.mid), symbols, 0.0 * error, 0.0 * np.asarray(lost)) for b, symbols, error, lost in parts],
        local,
    )


_original = float32_budget._combined


@pytest.mark.parametrize("error", PLANTED)
def test_errors_planted_in_the_searcher_are_found_out(error, tmp_path, monkeypatch, take_apart):

    from codesign import api
    from codesign.verification import Options

    name = "logits" if "dequantization" in error else "tiny"
    (tmp_path / "made").mkdir()
    PLANTED[error](monkeypatch)
    paths = FIXTURES / f"{name}.float.tflite", FIXTURES / f"{name}.tflite"
    network, integer, data = api.load(paths[0]), api.read(paths[1]), api.calibration(FIXTURES / f"{name}.h5")
    options = Options(proof="none", evaluations=20)
    api.certify(network, integer, data, "1lsb", 1, options=options, output=tmp_path / "made" / "certificate.json")
    monkeypatch.undo()
    result = take_apart(tmp_path / "made", *paths).check()
    assert (result.verdict, "float32/" in result.item) == ("invalid", True), result.item


CHECKER_ERRORS = {
    "sigmoid is exact": lambda m: m.setattr(errors, "SIGMOID", 0),
    "tanh is exact": lambda m: m.setattr(errors, "TANH", 0),
    "sums are exact": lambda m: m.setattr(errors, "single", lambda terms: 0.0),
    "no slope": lambda m: m.setattr(errors, "slope", lambda f, z: errors.Box(0 * z.lo, 0 * z.hi)),
    "a hidden value of size 0": lambda m: m.setattr(errors, "hidden_size", lambda step: 0 * step.after.lo),
    "the softmax is exact": lambda m: m.setattr(errors, "_softmax", lambda x: 0.25 * x.error),
    "columns are dropped": lambda m: m.setattr(
        errors.LstmErrors, "fold", lambda self, h, c: (h[:, :, :0], c[:, :, :0])
    ),
}


@pytest.mark.parametrize("error", CHECKER_ERRORS)
def test_errors_planted_in_the_checker_are_seen(made, monkeypatch, error):
    CHECKER_ERRORS[error](monkeypatch)
    regions, (logits, outputs) = derived(*made("tiny", **FEW))
    stated = np.array([[r["float32"][key] for r in regions] for key in ("logits", "evaluation")])
    assert (stated > np.array([logits, outputs]) * (1 + ROOM) + 2e-12).any()


@pytest.mark.parametrize("name", ["tiny", "stacked", "acts", "timedist"])
def test_domains(forge, name):
    f = forge(name, region="domain")
    assert f.check().verdict == "valid"
    whole = f.document["all_inputs"]
    assert max(whole["total_logit_bound"]) > max(whole["logit_bound"])
    stated = np.array(f.region["float32"]["logits"])
    claims = read_domain(f.folder / "certificate.json", f.float_path, f.int8_path)
    facts, bounds = replay_domain(claims)
    found, _ = statement._errors(claims, slice(0, 1), len(bounds.logits.margins), facts)
    assert (found[0] <= stated).all()
    assert (stated <= found[0] * (1 + ROOM) + 2e-12).all()


def less_total(f):
    f.document["all_inputs"]["total_logit_bound"] = f.document["all_inputs"]["logit_bound"]


def less_evaluation(f):
    f.region["float32"]["logits"] = [0.5 * v for v in f.region["float32"]["logits"]]


@pytest.mark.parametrize(("tamper", "item"), [(less_total, "total_logit_bound"), (less_evaluation, "float32/logits")])
def test_domains_with_smaller_numbers(forge, tamper, item):
    f = forge("tiny", region="domain")
    tamper(f)
    result = f.check()
    assert (result.verdict, item in result.item) == ("invalid", True), result.item


def test_planted_in_the_searcher_of_domains(tmp_path, monkeypatch, take_apart):

    from codesign import api
    from codesign.verification import Options

    monkeypatch.setattr(float32_domain, "TANH", 0)
    (tmp_path / "made").mkdir()
    paths = FIXTURES / "tiny.float.tflite", FIXTURES / "tiny.tflite"
    network, integer, data = api.load(paths[0]), api.read(paths[1]), api.calibration(FIXTURES / "tiny.h5")
    options, path = Options(proof="none", evaluations=20), tmp_path / "made" / "certificate.json"
    api.certify(network, integer, data, region="domain", domain=(-0.1, 0.1), options=options, output=path)
    monkeypatch.undo()
    result = take_apart(tmp_path / "made", *paths).check()
    assert (result.verdict, "float32" in result.item) == ("invalid", True), result.item


def test_totals_round_up():
    rng = np.random.default_rng(0)
    from fractions import Fraction

    for _ in range(200):
        parts = rng.uniform(0, 1, 3) * 10.0 ** rng.integers(-12, 3, 3)
        exact = sum((Fraction(float(v)) for v in parts), Fraction(0))
        assert Fraction(float(total_bound(*parts))) >= exact
