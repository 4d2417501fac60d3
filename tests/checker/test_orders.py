"""Order criteria, norms, margins and bounds by step: derived again, and tampering with them is found."""

import json
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parent.parent / "fixtures"
CRITERIA = {"top1_above": 0.1, "topk": 2, "ranking": (3, 7)}


@pytest.fixture(scope="module")
def ordered(tmp_path_factory):
    """A certificate with every order criterion: some regions prove them, wide ones refute them."""
    from codesign import api
    from codesign.verification import Criteria, Options

    done = {}

    def make(name, radius):
        if (name, radius) not in done:
            folder = tmp_path_factory.mktemp("orders")
            paths = FIXTURES / f"{name}.h5", FIXTURES / f"{name}.tflite"
            pair = (0, 1) if name != "logits" else CRITERIA["ranking"]
            criteria = Criteria(top1_above=CRITERIA["top1_above"], topk=1 if name != "logits" else 2, ranking=pair)
            options = Options(criteria, evaluations=300)
            api.certify(
                api.load(paths[0]), api.read(paths[1]), api.calibration(paths[0]), radius, 3, options=options,
                output=folder / "certificate.json",
            )  # fmt: skip
            done[name, radius] = folder, *paths
        return done[name, radius]

    return make


@pytest.mark.parametrize(
    ("name", "radius"), [("logits", 0.002), ("logits", 0.3), ("tiny", "60lsb"), ("timedist", 0.05)]
)
def test_order_criteria_are_valid_whatever_their_status(ordered, take_apart, name, radius):
    result = take_apart(*ordered(name, radius)).check()
    assert (result.verdict, result.item, result.not_derived) == ("valid", "", ())


def test_statuses_of_all_kinds_are_met(ordered):
    seen = set()
    for name, radius in (("logits", 0.002), ("logits", 0.3), ("tiny", "60lsb")):
        document = json.loads((ordered(name, radius)[0] / "certificate.json").read_text())
        seen |= {(order, region[order]) for region in document["regions"] for order in CRITERIA}
    assert {(order, status) for order in CRITERIA for status in ("proved", "refuted")} <= seen


@pytest.mark.parametrize("order", CRITERIA)
@pytest.mark.parametrize("forgery", ["proved", "another input", "no input"])
def test_a_status_that_does_not_follow_is_found_out(ordered, take_apart, order, forgery):
    for name, radius in (("logits", 0.3), ("tiny", "60lsb")):
        forged = take_apart(*ordered(name, radius))
        regions = forged.document["regions"]
        region = next((r for r in regions if r[order] == "refuted"), None)
        if region is not None:
            break
    assert region is not None
    shown = region["counterexamples"]
    entry = next(e for e in shown if e["criterion"] == order)
    if forgery == "another input":
        entry["input"] = region["center"]
    else:
        shown.remove(entry)
    region["counterexample"] = next(iter(shown), None)
    if forgery == "proved":
        region[order] = "proved"
        statuses = [r[order] for r in regions]
        worst = next((s for s in ("refuted", "unknown") if s in statuses), "proved")
        forged.document["criteria"][f"{order}_verdict"] = worst
        verdicts = [forged.document["criteria"][f"{o}_verdict"] for o in CRITERIA]
        forged.document["verdict"] = next((s for s in ("refuted", "unknown") if s in verdicts), "proved")
    result = forged.check()
    assert result.verdict == "invalid"
    assert order in result.item or "counterexample" in result.item


@pytest.mark.parametrize(
    ("order", "asked"),
    [("topk", 10), ("topk", 1000), ("topk", 1.0), ("ranking", [0, 10]), ("ranking", [0.0, 1.0]), ("ranking", [4, 4]),
     ("ranking", [0, 10**30])],
)  # fmt: skip
@pytest.mark.parametrize("status", ["proved", "unknown", "refuted"])
def test_criteria_about_outputs_that_are_not_there_are_found_out(ordered, take_apart, order, asked, status):
    from codesign.proof.statement import conclusions

    forged = take_apart(*ordered("logits", 0.002))
    forged.document["criteria"][order] = asked
    for region in forged.document["regions"]:
        region[order], shown = status, {"criterion": order, "input": region["center"]}
        kept = [e for e in region["counterexamples"] if e["criterion"] != order]
        region["counterexamples"] = [*kept, shown] if status == "refuted" else kept
        region["counterexample"] = next(iter(region["counterexamples"]), None)
    for part, found in conclusions(forged.document).items():
        (forged.document[part] if part else forged.document).update(found)
    result = forged.check()
    assert result.verdict == "invalid"
    assert "outputs" in result.item or "schema" in result.item


def edited(region, what):
    """A millionth better than what was certified."""
    if what[0] in ("norms", "logit_norms"):
        region[what[0]][what[1]] *= 1 - 1e-6
    elif what[0] == "margins":
        region["margins"][0][what[1]] += 1e-6
    elif what[0] == "step_bound":
        region["step_bound"][0][2] *= 1 - 1e-6
    else:
        region["output_step_bound"][1] *= 1 - 1e-6


WHAT = [
    *[(key, norm) for key in ("norms", "logit_norms") for norm in ("linf", "l2", "l1")],
    *[("margins", k) for k in ("float_logit", "integer_logit", "float_probability", "integer_probability")],
    ("step_bound",),
    ("output_step_bound",),
]  # fmt: skip


@pytest.mark.parametrize("what", WHAT, ids="-".join)
def test_what_is_told_besides_is_derived_again(forge, what):
    forged = forge("timedist")
    assert forged.check().verdict == "valid"
    edited(forged.region, what)
    result = forged.check()
    assert result.verdict == "invalid"
    assert what[0] in result.item
