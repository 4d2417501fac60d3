"""Certificates over a whole domain, for a fixed and for any number of steps: valid, honest, and tampering is found."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from codesign.domain_checker import check as check_domain
from codesign.domain_checker import read_claims, replay_domain
from codesign.errors import InputError
from codesign.float32_checker import check_float32

FIXTURES = Path(__file__).parent.parent / "fixtures"
STEP = 1e-6


@pytest.fixture(scope="session")
def over_domain(tmp_path_factory):
    """Makes a certificate over a domain once: (folder, float model, int8 model, samples).

    For any length the forget gates of both models are turned towards forgetting: the fixtures do not contract.
    """
    from codesign import api
    from codesign.network.model import Lstm
    from codesign.quantization import load_calibration
    from codesign.quantization.integer import IntLstm
    from codesign.verification import Criteria, Options

    done = {}

    def contracting(name, folder):
        paths = FIXTURES / f"{name}.float.tflite", FIXTURES / f"{name}.tflite"
        network, integer = api.load(paths[0]), api.read(paths[1])
        real, device = (path.read_bytes() for path in paths)
        layers = [layer for layer in network.layers if isinstance(layer, Lstm)]
        for layer, op in zip(layers, [op for op in integer.ops if isinstance(op, IntLstm)], strict=True):
            step = op.input.scale * op.W_scale[1]
            count = int(np.rint(-2.0 / step))
            b, q = layer.b[1].astype("<f4"), op.b[1].astype("<i4")
            assert real.count(b.tobytes()) == device.count(q.tobytes()) == 1
            real = real.replace(b.tobytes(), (b + np.float32(count * step)).astype("<f4").tobytes())
            device = device.replace(q.tobytes(), (q + count).astype("<i4").tobytes())
        result = folder / "float.tflite", folder / "int8.tflite"
        for path, content in zip(result, (real, device), strict=True):
            path.write_bytes(content)
        return result

    def make(name, any_length=False, reach=0.1, **criteria):
        key = name, any_length, reach, str(criteria)
        if key not in done:
            folder, base = tmp_path_factory.mktemp("domain"), name.removesuffix(".int16")
            float_path, int8_path = FIXTURES / f"{base}.h5", FIXTURES / f"{name}.tflite"
            if any_length:
                float_path, int8_path = contracting(name, folder)
            samples = folder / "samples.npz"
            x = api.calibration(FIXTURES / f"{base}.h5").x
            np.savez(samples, x=(0.9 * reach * np.sign(x) * (np.abs(x) % 1)).astype(np.float32))
            network = api.load(float_path)
            api.certify(
                network, api.read(int8_path), load_calibration(samples, network.input_shape), region="domain",
                domain=(-reach, reach), options=Options(Criteria(**criteria), evaluations=60),
                output=folder / "certificate.json", any_length=any_length,
            )  # fmt: skip
            done[key] = folder, float_path, int8_path, samples
        return done[key]

    return make


def run(made, prover=None, data=None, on_progress=None):
    from codesign import api
    from codesign.quantization import load_calibration

    folder, float_path, int8_path, _ = made
    samples = None if data is None else load_calibration(data, api.load(float_path).input_shape).x
    return check_domain(folder / "certificate.json", float_path, int8_path, check_float32, prover, samples, on_progress)


@pytest.mark.parametrize(
    "name", ["tiny", "stacked", "sequence", "timedist", "acts", "flatten", "reshaped", "tiny.int16"]
)
def test_certificates_over_a_domain_are_valid(over_domain, name):
    made = over_domain(name)
    result = run(made, prover="auto" if name in ("tiny", "acts") else None)
    assert (result.verdict, result.item) == ("valid", "")
    assert sum(result.provers.values()) == (result.facts if name in ("tiny", "acts") else 0)


@pytest.mark.parametrize(("name", "reach"), [("tiny", 0.1), ("acts", 0.1), ("sequence", 0.02)])
def test_certificates_for_any_length_are_valid(over_domain, name, reach):
    made = over_domain(name, any_length=True, reach=reach)
    document = json.loads((made[0] / "certificate.json").read_text())
    assert all(0 < entry["rate"] < 1 for entry in document["all_inputs"]["contraction"])
    result = run(made, prover="auto", data=made[3])
    assert (result.verdict, result.item, result.not_derived) == ("valid", "", ())
    assert sum(result.provers.values()) == result.facts > 100


def test_a_class_that_only_the_zonotope_proves_is_told(over_domain):
    made = over_domain("logits", reach=0.02)
    (region,) = json.loads((made[0] / "certificate.json").read_text())["regions"]
    assert region["top1"] == "proved"
    assert region["top1_class"] == 3
    result = run(made)
    assert (result.verdict, result.item) == ("valid", "")


def test_obligations_are_emitted_when_certifying(over_domain):
    for any_length in (False, True):
        document = json.loads((over_domain("tiny", any_length)[0] / "certificate.json").read_text())
        proof = document["proof"]
        assert proof["obligations"] > 200
        assert 0 < proof["checked"] == proof["proved"]


def test_samples_of_a_covered_share_are_needed_to_derive_it(over_domain):
    from codesign.recheck import check as check_any

    made = over_domain("tiny")
    assert run(made).not_derived == ("all_inputs/covered_share",)
    assert run(made, data=made[3]).not_derived == ()
    other = check_any(made[0] / "certificate.json", *made[1:3], data=FIXTURES / "tiny.calib.npz")
    assert (other.verdict, other.item) == ("invalid", "data/sha256: the certificate names other data, or none")


def test_the_check_of_a_domain_tells_how_far_it_is(over_domain):
    told = []
    run(over_domain("tiny"), on_progress=lambda done, total: told.append((done, total)))
    done, totals = zip(*told, strict=True)
    assert len(told) > 2
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}


def test_statuses_for_any_length_do_not_come_from_one_length(over_domain, monkeypatch):
    """A zonotope over the model's own number of steps proves nothing of others."""
    from codesign.verification import all_inputs

    assert all_inputs._status(False, "proved", alone=True) == "unknown"
    assert all_inputs._status(False, "proved", alone=False) == "proved"
    assert all_inputs._status(True, "unknown", alone=True) == "proved"
    assert all_inputs._status(False, "refuted", alone=True) == "refuted"


def test_bounds_by_the_checker_hold_on_streams(over_domain):
    """Derived for any number of steps: 8 streams of 400 steps stay inside, every output at every step."""
    from codesign.semantics import dequantize
    from codesign.semantics.streams import float_stream, integer_stream
    from codesign.verification.affine import Box
    from codesign.verification.all_inputs import quantized_stream, stream_inputs

    folder, float_path, int8_path, _ = over_domain("acts", any_length=True)
    claims = read_claims(folder / "certificate.json", float_path, int8_path)
    _, bounds = replay_domain(claims)
    x = stream_inputs(Box(claims.proof.lo[0, 0], claims.proof.hi[0, 0]), 8, 400, np.random.default_rng(0))
    for net in claims.integers:
        gap = dequantize(net.output, integer_stream(net, quantized_stream(net, x))) - float_stream(claims.network, x)
        gap = gap.reshape(3200, -1)
        assert (gap >= bounds.difference.lo[0]).all()
        assert (gap <= bounds.difference.hi[0]).all()


# Tampering. Each takes a Forgery (conftest.py); those of FIXED are for a certificate of a fixed number of steps.


def stated(f):
    return f.document["all_inputs"]


def state(f):
    """(6, H): -lo, hi of the float h and c, differences of h and of c."""
    return f.arrays["states"][0].reshape(-1, 6, 5)[-1]


def sync(f):
    region, summary = f.region, f.document["summary"]
    region["bound"] = np.maximum(np.negative(region["difference_lo"]), region["difference_hi"]).tolist()
    region["bound_max"] = summary["bound_max"] = summary["bound_median"] = max(region["bound"])


def smaller_upper(f):
    f.region["difference_hi"][1] *= 1 - STEP
    sync(f)


def larger_lower(f):
    f.region["difference_lo"][0] *= 1 - STEP
    sync(f)


def smaller_logit_bound(f):
    f.region["logit_bound"][0] *= 1 - STEP


def smaller_stated_logit_bound(f):
    stated(f)["logit_bound"][2] *= 1 - STEP


def swapped_stated_logit_bounds(f):
    bound = stated(f)["logit_bound"]
    low, high = int(np.argmin(bound)), int(np.argmax(bound))
    bound[low], bound[high] = bound[high], bound[low]


def swapped_outputs(f):
    for key in ("difference_lo", "difference_hi"):
        f.region[key].reverse()
    sync(f)


def smaller_float_range(f):
    f.region["float_hi"][0] -= STEP


def other_words(f):
    stated(f)["statement"] = stated(f)["statement"].replace("within 0.0", "within 0.00")


def smaller_margin(f):
    """With the sentence that belongs to it."""
    from codesign.proof.statement import all_inputs_statement

    stated(f)["same_class_margin"] *= 0.9
    stated(f)["statement"] = all_inputs_statement(stated(f))


def larger_share(f):
    stated(f)["covered_share"] = 0.999


def more_covered_samples(f):
    from codesign.proof.statement import all_inputs_statement

    data = stated(f)
    data["covered_samples"] += 1
    data["covered_share"] = data["covered_samples"] / data["samples"]
    data["statement"] = all_inputs_statement(data)


def more_samples(f):
    from codesign.proof.statement import all_inputs_statement

    data = stated(f)
    data["covered_samples"] = data["samples"] = data["samples"] + 5
    data["covered_share"] = 1.0
    data["statement"] = all_inputs_statement(data)


def wider_domain(f):
    f.document["domain"] = {end: [2 * v for v in f.document["domain"][end]] for end in ("lo", "hi")}


def wider_domain_in_the_proof_too(f):
    wider_domain(f)
    f.arrays["lo"], f.arrays["hi"] = 2 * f.arrays["lo"], 2 * f.arrays["hi"]


def slightly_wider_domain(f):
    f.document["domain"]["hi"][0] *= 1 + 1e-3
    f.arrays["hi"][..., 0] *= 1 + 1e-3
    assert (f.arrays["hi"][0] == f.document["domain"]["hi"]).all()


def domain_of_one_step(f):
    f.arrays["hi"][0, 1:] *= 0.5


def region_of_another_kind(f):
    f.region["kind"] = "ball"


def two_regions(f):
    f.document["regions"].append(f.document["regions"][0])


def without_the_statement(f):
    del f.document["all_inputs"]


def statement_of_a_zonotope(f):
    f.document["method"] = "joint differential zonotope"


def claim(f):
    f.document["claim"] = f.document["claim"].replace("inside a region", "whatsoever")


def top1_proved(f):
    f.region["top1"], f.region["top1_class"], f.region["counterexample"] = "proved", 0, None
    f.region["counterexamples"] = []
    f.document["summary"]["top1"] = {"proved": 1, "refuted": 0, "unknown": 0}
    if f.region["counted"]:
        f.document["summary"]["top1_share"] = 1.0
    f.document["verdict"] = "proved"


def epsilon_proved(f):
    f.region["epsilon"] = f.document["criteria"]["epsilon_verdict"] = f.document["verdict"] = "proved"
    f.document["criteria"]["epsilon"] = f.region["bound_max"] * (1 - STEP)


def hash_of_the_model(f):
    f.document["int8_sha256"] = f.document["int8"]["sha256"] = "0" * 64


def fewer_profiles(f):
    f.document["int8"]["profiles"] = f.document["int8"]["profiles"][:1]


def smaller_norm(f):
    f.region["norms"]["l1"] *= 1 - STEP


def smaller_euclidean_norm(f):
    f.region["logit_norms"]["l2"] *= 1 - STEP


def larger_margin_of_the_class(f):
    f.region["margins"][0]["float_logit"] += STEP


def margins_of_a_class_that_is_not(f):
    f.region["margins"][0]["class"] = 99


# The recorded states.


def smaller_difference_of_h(f):
    state(f)[4, 0] *= 1 - STEP


def smaller_difference_of_c(f):
    state(f)[5, 2] *= 1 - STEP


def smaller_differences(f):
    state(f)[4:] *= 0.5


def hidden_box_moved_inward(f):
    state(f)[0, 0] -= STEP


def cell_box_moved_inward(f):
    state(f)[3, 1] -= STEP


def boxes_of_two_units_exchanged(f):
    state(f)[:, [0, 1]] = state(f)[:, [1, 0]]


def h_and_c_exchanged(f):
    state(f)[:4] = state(f)[[2, 3, 0, 1]]


def wider_state(f):
    """Every step ends inside, but the outputs' bounds no longer follow."""
    state(f)[4] *= 1 + 1e-3


def negative_difference(f):
    state(f)[4] = -1.0


def empty_box(f):
    state(f)[0], state(f)[1] = -10.0, -10.0


def infinite_state(f):
    state(f)[1, 0] = np.inf


def state_missing(f):
    f.arrays["states"] = f.arrays["states"][:, :-30]


def state_added(f):
    f.arrays["states"] = np.tile(f.arrays["states"], (1, 2))


def states_as_float32(f):
    f.arrays["states"] = f.arrays["states"].astype(np.float32)


def proof_without_states(f):
    del f.arrays["states"]


# Any number of steps only.


def entry(f):
    return stated(f)["contraction"][0]


def smaller_rate(f):
    entry(f)["rate"] *= 1 - STEP


def larger_weight(f):
    entry(f)["weights"][3] *= 3.0


def smaller_weight(f):
    entry(f)["weights"][1] *= 0.2


def negative_weights(f):
    entry(f)["weights"] = [-w for w in entry(f)["weights"]]


def missing_weight(f):
    entry(f)["weights"].pop()


def other_fixed_point(f):
    entry(f)["hidden"][0] *= 0.5


def rate_of_another_layer(f):
    entry(f)["layer"] = "another"


def rates_of_more_layers(f):
    stated(f)["contraction"].append(entry(f))


def no_rates(f):
    stated(f)["contraction"] = []


def called_any_length(f):
    stated(f)["any_length"] = True
    stated(f)["statement"] = stated(f)["statement"].replace(
        "every float32 input", "every sequence of float32 inputs of any length"
    )
    f.document["claim"] = f.document["claim"].replace(
        "every float32 input", "every sequence of any number of float32 inputs"
    )


def called_fixed_length(f):
    """A weaker claim, but not the one that the recorded state is for."""
    stated(f)["any_length"] = False
    stated(f)["statement"] = stated(f)["statement"].replace(
        "every sequence of float32 inputs of any length", "every float32 input"
    )
    f.document["claim"] = f.document["claim"].replace("sequence of any number of float32 inputs", "float32 input")


def states_of_two_steps_exchanged(f):
    blocks = f.arrays["states"][0].reshape(-1, 30)
    blocks[[0, 1]] = blocks[[1, 0]]


def first_state_smaller(f):
    f.arrays["states"][0][20:30] *= 1 - STEP


def called_joint(f):
    stated(f)["joint"] = not stated(f)["joint"]


def part_of_a_wider_domain(f):
    """The region is the old domain, by a box of its own; the statement is about the wider one."""
    f.region["box"] = {end: f.arrays[end][0].tolist() for end in ("lo", "hi")}
    f.document["domain"] = {"lo": [-1.0] * 3, "hi": [1.0] * 3}
    f.document["region_rule"] += "; where a region has a box, lo <= x <= hi elementwise instead"


def share_without_samples(f):
    stated(f)["samples"], stated(f)["covered_share"] = None, 1.0
    stated(f)["statement"] = stated(f)["statement"].partition(" (")[0]


def no_covered_samples(f):
    stated(f)["covered_samples"] = None


def no_share(f):
    stated(f)["covered_share"] = None


def samples_that_are_none(f):
    stated(f).update(samples=0, covered_samples=1, covered_share=0.0)
    stated(f)["samples_sha256"] = hashlib.sha256(b"").hexdigest()
    stated(f)["statement"] = stated(f)["statement"].partition(" (")[0] + " (0.0 % of the 0 samples)"


def another_method_in_words(f):
    stated(f)["method"] = "exact"


BOTH = [
    smaller_upper, larger_lower, smaller_logit_bound,
    swapped_outputs, smaller_float_range, other_words, smaller_margin, larger_share, more_covered_samples, more_samples,
    wider_domain, wider_domain_in_the_proof_too, slightly_wider_domain, domain_of_one_step, region_of_another_kind,
    two_regions, without_the_statement, statement_of_a_zonotope, claim, top1_proved, epsilon_proved, hash_of_the_model,
    fewer_profiles, smaller_norm, smaller_euclidean_norm, larger_margin_of_the_class, margins_of_a_class_that_is_not,
    smaller_difference_of_h, smaller_difference_of_c, smaller_differences, hidden_box_moved_inward,
    cell_box_moved_inward, boxes_of_two_units_exchanged, h_and_c_exchanged, negative_difference, empty_box,
    infinite_state, state_missing, state_added, states_as_float32, proof_without_states, called_joint,
    part_of_a_wider_domain, share_without_samples, no_covered_samples, no_share, another_method_in_words,
]  # fmt: skip
ANY = [
    smaller_stated_logit_bound, swapped_stated_logit_bounds, wider_state,  # else the zonotope's bounds may be smaller
    
    smaller_rate, larger_weight, smaller_weight, negative_weights, missing_weight, other_fixed_point,
    rate_of_another_layer, rates_of_more_layers, no_rates, called_fixed_length,
]  # fmt: skip
FIXED = [called_any_length, states_of_two_steps_exchanged, first_state_smaller]


def tamperings(kinds):
    return pytest.mark.parametrize("tamper", kinds, ids=lambda t: t.__name__)


def found_out(forged, tamper, samples):
    untouched = forged.check(data=samples)
    assert (untouched.verdict, untouched.item, untouched.not_derived) == ("valid", "", ())
    tamper(forged)
    result = forged.check(data=samples)
    assert result.verdict in ("invalid", "cannot check"), result
    assert result.item
    assert result.verdict == "invalid" or tamper in (without_the_statement, statement_of_a_zonotope)


@tamperings([*BOTH, *ANY])
def test_tampering_for_any_length_is_found_out(over_domain, take_apart, tamper):
    *made, samples = over_domain("tiny", any_length=True, epsilon=0.005)
    found_out(take_apart(*made), tamper, samples)


@tamperings([*BOTH, *FIXED])
def test_tampering_for_a_fixed_number_of_steps_is_found_out(over_domain, take_apart, tamper):
    *made, samples = over_domain("tiny", epsilon=0.001)
    found_out(take_apart(*made), tamper, samples)


def test_a_share_of_no_samples_is_found_out(over_domain, take_apart):
    *made, samples = over_domain("tiny", epsilon=0.001)
    forged = take_apart(*made)
    samples_that_are_none(forged)
    for data in (None, samples):
        result = forged.check(data=data)
        assert result.verdict == "invalid"
        assert "samples" in result.item


def test_samples_that_cannot_be_read_are_bad_input(over_domain, take_apart, tmp_path):
    *made, _ = over_domain("tiny", epsilon=0.001)
    with pytest.raises(InputError, match="does not exist"):
        take_apart(*made).check(data=tmp_path / "none.npz")


def test_a_zonotope_of_one_length_does_not_count_for_any_length(over_domain, take_apart):
    """With slopes, steps and resets of a zonotope that is right for the model's own number of steps."""
    from codesign import api
    from codesign.certificate import proof_content
    from codesign.proof.proof_file import unpack
    from codesign.verification import Options, certify
    from codesign.verification.regions import domain_region

    *made, samples = over_domain("tiny", any_length=True, epsilon=0.005)
    forged = take_apart(*made)
    network, integer = api.load(made[1]), api.read(made[2])
    region = domain_region((np.full(3, -0.1), np.full(3, 0.1)), network.input_shape[0])
    found = certify(
        network, integer, [region], Options(evaluations=20, proof="none"), variants=api.profile_variants(integer)
    )
    other = unpack(proof_content(found))
    forged.header = {**forged.header, "steps": other.header["steps"]}
    forged.arrays["slopes"], forged.arrays["resets"] = other.slopes, other.resets.astype(np.uint8)
    stated(forged)["joint"] = True
    result = forged.check(data=samples)
    assert result.verdict == "invalid"
    assert "one number of steps" in result.item


def test_more_kinds_of_tampering_than_asked_for():
    names = [t.__name__ for t in (*BOTH, *ANY, *FIXED)]
    assert len(set(names)) == len(names) >= 50


def test_a_certificate_of_regions_does_not_borrow_the_claim_of_a_domain(over_domain, made, take_apart):
    from codesign import checker
    from codesign.proof.statement import sentences

    folder, *_ = over_domain("acts", any_length=True)
    forged = take_apart(*made("acts"))
    assert forged.check().verdict == "valid"
    forged.document["all_inputs"] = json.loads((folder / "certificate.json").read_text())["all_inputs"]
    forged.document.update(sentences(forged.document["regions"], any_length=True))
    assert "any number" in forged.document["claim"]
    assert forged.check().verdict == "cannot check"
    result = checker.check(forged.folder / "certificate.json", forged.float_path, forged.int8_path, check_float32)
    assert result.verdict == "invalid"
    assert "all_inputs" in result.item
