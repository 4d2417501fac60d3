"""What a softmax and ranges of functions rest on: recorded, proved by every prover, and a wrong one is found."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from codesign.proof import exponentials, prove
from codesign.quantization.align import align
from codesign.verification import Criteria, Options, ball, certify, domain_region, input_domain, relaxation
from codesign.verification.affine import Box
from codesign.verification.audit import count, obligations
from codesign.verification.criteria import proofs
from codesign.verification.domain import enclose_domain
from codesign.verification.norms import class_margins
from codesign.verification.propagate import propagate, top1_proved
from codesign.verification.relaxation import Recorder
from codesign.verification.same_class import same_class_margin
from codesign.verification.trace import traces

QUICK = Options(evaluations=20, proof="all")
PROVERS = ("closed-form", "icp")


def region(data, integer, radius=0.5):
    return ball("r", data.x[0], radius * integer.input.scale, input_domain(data.x))


def kinds(batches):
    return {b.kind for b in batches}


def proved(batches, provers=PROVERS):
    stated = obligations(batches)
    assert len(stated) == count(batches) > 0
    for prover in provers:
        results = prove(stated, prover)
        assert {r.status for r in results} == {"proved"}, [
            (o, r) for o, r in zip(stated, results, strict=True) if r.status != "proved"
        ]


@pytest.mark.parametrize("function", ["sigmoid", "tanh"])
def test_ranges_are_facts_far_out_too(function):
    rng = np.random.default_rng(1)
    lo = rng.normal(0, 1, (3, 20)) * np.exp(rng.uniform(-4, 8, (3, 20)))
    z = Box(lo, lo + np.abs(rng.normal(0, 1, (3, 20))))
    d = Box(*np.sort(rng.normal(0, 1, (2, 3, 20)) * np.exp(rng.uniform(-6, 3, (3, 20))), axis=0))
    recorder = Recorder()
    image = relaxation.image(function, z, "here", recorder)
    moved = relaxation.difference_image(function, z, d, "here", recorder)
    found, found_d = recorder.batches
    assert (found.lo <= image.lo).all()
    assert (found.hi >= image.hi).all()
    assert (found_d.lo == moved.lo).all()
    assert (found_d.hi == moved.hi).all()
    assert not any(b.chosen for b in recorder.batches)
    proved(recorder.batches)
    for batch in recorder.batches:
        room = 1e-3 * (batch.hi - batch.lo) + 2 * relaxation.RANGE_ROOM
        wrong = obligations([replace(batch, lo=batch.lo + room), replace(batch, hi=batch.hi - room)])
        assert {r.status for r in prove(wrong)} == {"refuted"}


def test_they_are_no_steps_of_a_proof_file(pair):
    network, integer, data = pair("tiny")
    recorder = Recorder()
    enclosure = propagate(align(network, integer), integer, [region(data, integer)], recorder)
    (choices,) = traces(recorder.batches, enclosure.resets, 1)
    steps = integer.input.shape[0]
    assert len(choices.steps) == 8 * steps  # planes of three groups of gates and of the cell, value and difference
    assert not any("range" in place for _, place, _ in choices.steps)
    assert len(choices.slopes) == sum(n * (2 if kind.endswith("diff") else 1) for kind, _, n in choices.steps)


def test_every_fact_of_a_softmax_is_recorded_and_proved(pair):
    """Its range, its difference, margins of its outputs, of probabilities, and the order criteria."""
    network, integer, data = pair("tiny")
    recorder, known = Recorder(), Recorder()
    enclosure = propagate(align(network, integer), integer, [region(data, integer)], recorder)
    name = enclosure.softmax.name
    softmax = [b for b in recorder.batches if b.place.startswith(name)]
    assert {("exp", False), ("tanh", False), ("sigmoid", False), ("sigmoid_diff", False)} == {
        (b.kind, b.chosen) for b in softmax
    }
    classes = enclosure.margins[0].value.lo.shape[1]
    exps = sum(b.lo.size for b in softmax if b.kind == "exp")
    assert exps == 2 * (2 * classes * (classes - 1) + 2 * classes)  # of the float and of the integer network
    class_margins(enclosure.margins, enclosure.output_margins, top1_proved(enclosure)[1][0], 0, known)
    assert kinds(known.batches) == {"exp", "tanh", "sigmoid"}
    asked = Recorder()
    proofs(Criteria(top1_above=0.4, topk=1, ranking=(0, 1)), enclosure.margins, enclosure.softmax, asked)
    assert kinds(asked.batches) == {"exp", "tanh", "sigmoid"}
    proved([*softmax, *known.batches, *asked.batches])


def test_facts_over_a_domain_are_recorded_and_proved(pair):
    network, integer, data = pair("tiny")
    everything = domain_region(input_domain(data.x), integer.input.shape[0])
    recorder = Recorder()
    domain = enclose_domain(align(network, integer), integer, everything, recorder=recorder)
    before = count(recorder.batches)
    assert {"exp", "tanh", "sigmoid", "sigmoid_diff"} <= {
        b.kind for b in recorder.batches if b.place.startswith(domain.softmax.name)
    }
    margin = same_class_margin(domain, domain.logit_bound, recorder)
    assert margin == same_class_margin(domain, domain.logit_bound)
    assert np.isfinite(margin)
    assert count(recorder.batches) > before
    proved(recorder.batches)


def test_outputs_without_a_softmax_have_probabilities_too(pair):
    network, integer, data = pair("logits")
    result = certify(network, integer, [region(data, integer, 0.1)], replace(QUICK, prover="icp"))
    assert result.proof.ok
    assert result.proof.checked == result.proof.emitted
    assert set(result.proof.provers) == {"icp"}
    (told,) = result.regions[0].facts.margins
    assert told["float_probability"] < 1


@pytest.mark.parametrize("criteria", [Criteria(), Criteria(top1_above=0.4)])
@pytest.mark.parametrize("method", ["zonotope", "quadratic"])
@pytest.mark.parametrize(
    ("what", "factor"),
    [("exp", 1 + 1e-9), ("exp", 1 - 1e-9), ("log", 1 + 1e-9), ("log", 1 - 1e-9)],
)
def test_a_wrong_exponential_is_found_when_everything_is_proved(pair, monkeypatch, what, factor, method, criteria):
    network, integer, data = pair("tiny")
    right = getattr(np, what)
    names = {name: getattr(np, name) for name in dir(np) if not name.startswith("_")}
    off = SimpleNamespace(**{**names, what: lambda x: right(x) * factor})
    monkeypatch.setattr(exponentials, "np", off)
    options = replace(QUICK, method=method, criteria=criteria)
    result = certify(network, integer, [region(data, integer, 0.2)], options)
    assert {f["obligation"]["kind"] for f in result.proof.failures} == {"exp"}
    assert {f["status"] for f in result.proof.failures} == {"refuted"}
    assert not result.proof.ok
    assert result.verdict != "proved"


def test_a_wrong_range_is_found(pair, monkeypatch):
    network, integer, data = pair("tiny")
    right = relaxation.value
    monkeypatch.setattr(relaxation, "value", lambda function, z: right(function, z) * (1 + 1e-9))
    result = certify(network, integer, [region(data, integer, 0.2)], QUICK)
    places = {f["obligation"]["tag"].split(" #")[0] for f in result.proof.failures}
    assert result.proof.failures
    assert all(place.endswith("range") for place in places)
