"""Every way of tampering that we could think of, sealed again with hashes that fit unless those are the point."""

import hashlib
import json

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.network import load_network

SETTINGS = {"radius": "30lsb", "samples": 2, "epsilon": 0.015, "top1": 0.5}
STEP = 1e-6


@pytest.fixture
def forged(forge):
    return forge("tiny", **SETTINGS)


def test_the_untouched_certificate_is_valid_and_has_what_the_tests_edit(forged):
    result = forged.check()
    assert (result.verdict, result.item) == ("valid", "")
    assert result.regions == 2
    regions = forged.document["regions"]
    assert [r["top1"] for r in regions] == ["proved", "refuted"]
    assert [r["epsilon"] for r in regions] == ["proved", "unknown"]
    assert regions[1]["counterexample"]["criterion"] == "top1"


def sync(region):
    """bound and bound_max as difference_lo and difference_hi give them: only what remains can betray the forger."""
    lo, hi = np.array(region["difference_lo"]), np.array(region["difference_hi"])
    region["bound"] = np.maximum(-lo, hi).tolist()
    region["bound_max"] = max(region["bound"])


def summarise(f):
    maxima = [r["bound_max"] for r in f.document["regions"]]
    f.document["summary"]["bound_max"] = max(maxima)
    f.document["summary"]["bound_median"] = float(np.median(maxima))


def smaller_upper(f):
    f.region["difference_hi"][1] -= STEP
    sync(f.region)
    summarise(f)


def larger_lower(f):
    f.region["difference_lo"][2] += STEP
    sync(f.region)
    summarise(f)


def smaller_everywhere(f):
    for region in f.document["regions"]:
        for key in ("difference_lo", "difference_hi"):
            region[key] = [v * (1 - STEP) for v in region[key]]
        sync(region)
    summarise(f)


def bound_alone(f):
    f.region["bound"][0] -= STEP


def bound_max_alone(f):
    f.region["bound_max"] -= STEP
    summarise(f)


def logit_bound(f):
    f.region["logit_bound"][0] -= STEP


def float_range_upper(f):
    f.region["float_hi"][0] -= STEP


def float_range_lower(f):
    f.region["float_lo"][0] += STEP


def too_few_outputs(f):
    for key in ("difference_lo", "difference_hi", "bound", "logit_bound", "float_lo", "float_hi", "observed"):
        f.region[key] = f.region[key][:-1]
    sync(f.region)
    summarise(f)


def swapped_outputs(f):
    for key in ("difference_lo", "difference_hi"):
        f.region[key][0], f.region[key][1] = f.region[key][1], f.region[key][0]
    sync(f.region)
    summarise(f)


def swapped_logits(f):
    f.region["logit_bound"][0], f.region["logit_bound"][2] = f.region["logit_bound"][2], f.region["logit_bound"][0]


def observed_above_bound(f):
    f.region["observed"][0] = 2 * f.region["bound"][0]


def shifted_center(f):
    f.region["center"][0][0] += 0.01


def larger_radius(f):
    for region in f.document["regions"]:
        region["radius"] *= 2


def larger_radius_in_the_proof_too(f):
    for k, region in enumerate(f.document["regions"]):
        region["radius"] *= 2
        center = np.array(region["center"])
        domain = [np.array(f.document["domain"][end]) for end in ("lo", "hi")]
        f.arrays["lo"][k] = np.minimum(np.maximum(center - region["radius"], domain[0]), center)
        f.arrays["hi"][k] = np.maximum(np.minimum(center + region["radius"], domain[1]), center)


def slightly_larger_radius(f):
    for region in f.document["regions"]:
        region["radius"] *= 1 + 1e-12


def narrower_domain(f):
    f.document["domain"]["lo"] = [-0.3] * 3
    f.document["domain"]["hi"] = [0.3] * 3


def reversed_domain(f):
    f.document["domain"]["lo"], f.document["domain"]["hi"] = f.document["domain"]["hi"], f.document["domain"]["lo"]


def box_in_place_of_the_ball(f):
    center = np.array(f.region["center"])
    f.region["kind"], f.region["box"] = "noise", {"lo": center.tolist(), "hi": center.tolist()}


def grid_in_place_of_the_ball(f):
    f.region["kind"] = "grid"
    f.region["box"] = {"lo": f.arrays["lo"][0].tolist(), "hi": f.arrays["hi"][0].tolist()}


def fixed_prefix(f):
    f.region["free_from"] = 2


def exchanged_regions(f):
    f.document["regions"].reverse()


def exchanged_regions_in_the_proof(f):
    for name in ("lo", "hi", "slopes", "resets"):
        f.arrays[name] = f.arrays[name][::-1]


def dropped_region(f):
    f.document["regions"].pop()


def duplicated_region(f):
    f.document["regions"].append(f.document["regions"][0])


def easier_epsilon_status(f):
    f.document["regions"][1]["epsilon"] = "proved"
    f.document["criteria"]["epsilon_verdict"] = f.document["verdict"] = "proved"


def smaller_epsilon(f):
    f.document["criteria"]["epsilon"] = 0.0145


def epsilon_verdict(f):
    f.document["criteria"]["epsilon_verdict"] = "proved"


def dropped_epsilon(f):
    f.document["criteria"]["epsilon"] = None


def top1_proved_where_refuted(f):
    region = f.document["regions"][1]
    region["top1"], region["top1_class"] = "proved", 0
    region["counterexample"], region["counterexamples"] = None, []
    summary = f.document["summary"]
    summary["top1"] = {"proved": 2, "refuted": 0, "unknown": 0}
    summary["top1_share"] = float(np.mean([r["top1"] == "proved" for r in f.document["regions"] if r["counted"]]))
    f.document["criteria"]["top1_verdict"] = "proved"


def other_top1_class(f):
    f.region["top1_class"] = 1


def counterexample_that_is_none(f):
    example = {"criterion": "top1", "input": f.document["regions"][1]["center"]}
    f.document["regions"][1]["counterexample"], f.document["regions"][1]["counterexamples"] = example, [example]


def counterexample_outside_the_region(f):
    example = f.document["regions"][1]["counterexample"]
    example["input"] = (-np.array(example["input"], np.float32).astype(np.float64)).tolist()
    f.document["regions"][1]["counterexamples"] = [example]


def refuted_without_counterexample(f):
    f.document["regions"][1]["counterexample"], f.document["regions"][1]["counterexamples"] = None, []


def epsilon_refuted_for_nothing(f):
    region = f.document["regions"][1]
    region["epsilon"] = f.document["criteria"]["epsilon_verdict"] = f.document["verdict"] = "refuted"
    region["counterexamples"].append({"criterion": "epsilon", "input": region["counterexample"]["input"]})


def top1_verdict(f):
    verdict = f.document["criteria"]["top1_verdict"]
    f.document["criteria"]["top1_verdict"] = "proved" if verdict != "proved" else "refuted"


def verdict(f):
    f.document["verdict"] = "proved"


def counted(f):
    f.region["counted"] = not f.region["counted"]


def summary_bound(f):
    f.document["summary"]["bound_max"] *= 0.5


def summary_share(f):
    f.document["summary"]["top1_share"] = 0.9


def summary_counts(f):
    f.document["summary"]["top1"]["proved"] += 1


def failed_obligations(f):
    f.document["proof"]["proved"] = f.document["proof"]["checked"] + 1


def unknown_profile(f):
    f.document["int8"]["profiles"] = ["tflm-double", "cmsis-nn"]


def fewer_profiles(f):
    f.document["int8"]["profiles"] = ["tflm-double"]


def reordered_profiles(f):
    f.document["int8"]["profiles"].reverse()


def input_scale(f):
    f.document["input_quantization"]["scale"] *= 1.0 + 1e-12


def input_zero_point(f):
    f.document["input_quantization"]["zero_point"] += 1


def input_range(f):
    f.document["input_quantization"]["maximum"] = 126


def float_hash(f):
    f.document["float_sha256"] = f.document["float"]["sha256"] = "0" * 64


def float_hash_at_one_place(f):
    f.document["float"]["sha256"] = "0" * 64


def int8_hash(f):
    f.document["int8_sha256"] = f.document["int8"]["sha256"] = "0" * 64


def table_error(f):
    f.document["arithmetic"]["tables"][0]["upper"] *= 0.999


def missing_table(f):
    f.document["arithmetic"]["tables"].pop()


def rescaling_error(f):
    f.document["arithmetic"]["rescalings"][0]["largest_error"] = 0.5


def fewer_table_arguments(f):
    f.document["arithmetic"]["tables"][0]["arguments"] = 256


def claim(f):
    f.document["claim"] = f.document["claim"].replace("inside a region", "whatsoever")


def region_rule(f):
    f.document["region_rule"] = "any input"


def quantization_rule(f):
    f.document["input_quantization"]["rule"] = "any rounding"


def fewer_lower_ends(f):
    f.region["difference_lo"].pop()


def class_written_as_a_fraction(f):
    f.region["margins"][0]["class"] = float(f.region["margins"][0]["class"])


def arithmetic_that_is_a_list(f):
    f.document["arithmetic"] = []


def verdict_of_what_was_not_asked(f):
    del f.document["criteria"]["topk"]
    f.document["criteria"]["topk_verdict"] = "proved"


def example(f, values):
    shown = {"criterion": "top1", "input": values}
    f.document["regions"][1]["counterexample"], f.document["regions"][1]["counterexamples"] = shown, [shown]


def ragged_counterexample(f):
    example(f, [[0.1], [0.1, 0.2]])


def empty_counterexample(f):
    example(f, [])


def counterexample_between_float32(f):
    values = f.document["regions"][1]["counterexample"]["input"]
    values[0][0] += 1e-9
    example(f, values)


def false_counterexample_before_the_true_one(f):
    true = f.document["regions"][1]["counterexample"]
    example(f, f.document["regions"][1]["center"])
    f.document["regions"][1]["counterexamples"].append(true)


def part_of_a_domain(f):
    """Called the domain, but with a box of its own."""
    f.region["kind"], f.region["radius"] = "domain", None
    f.region["box"] = {end: f.arrays[end][0].tolist() for end in ("lo", "hi")}
    f.document["region_rule"] += "; where a region has a box, lo <= x <= hi elementwise instead"


# The proof file.


def slopes_zeroed(f):
    f.arrays["slopes"][:] = 0.0


def slope_nan(f):
    f.arrays["slopes"][0, 5] = np.nan


def slope_infinite(f):
    f.arrays["slopes"][1, 0] = np.inf


def slopes_of_two_steps_exchanged(f):
    units = f.header["steps"][0][2]
    s = f.arrays["slopes"]
    s[:, :units], s[:, units : 2 * units] = s[:, units : 2 * units].copy(), s[:, :units].copy()


def slopes_as_float32(f):
    f.arrays["slopes"] = f.arrays["slopes"].astype(np.float32)


def slopes_cut(f):
    f.arrays["slopes"] = f.arrays["slopes"][:, :-1]


def slopes_appended(f):
    f.arrays["slopes"] = np.pad(f.arrays["slopes"], ((0, 0), (0, 1)))


def step_missing(f):
    header = f.header
    kind, _, units = header["steps"].pop(0)
    assert kind == "sigmoid"
    f.header = header
    f.arrays["slopes"] = f.arrays["slopes"][:, units:]


def last_step_missing(f):
    header = f.header
    kind, _, units = header["steps"].pop()
    assert kind == "tanh_diff"
    f.header = header
    f.arrays["slopes"] = f.arrays["slopes"][:, : -2 * units]


def steps_reordered(f):
    header = f.header
    header["steps"][0], header["steps"][2] = header["steps"][2], header["steps"][0]
    f.header = header


def step_renamed(f):
    header = f.header
    header["steps"][3][1] += " "
    f.header = header


def step_added(f):
    header = f.header
    header["steps"].append(header["steps"][-1])
    f.header = header
    f.arrays["slopes"] = np.pad(f.arrays["slopes"], ((0, 0), (0, 2 * header["steps"][-1][2])))


def everything_reset(f):
    f.arrays["resets"][:] = 1


def resets_cut(f):
    f.arrays["resets"] = f.arrays["resets"][:, :-1]


def resets_appended(f):
    f.arrays["resets"] = np.pad(f.arrays["resets"], ((0, 0), (0, 1)))


def resets_of_another_kind(f):
    f.arrays["resets"][0, 0] = 2


def proof_of_other_regions(f):
    f.arrays["lo"][0, 0, 0] += 1e-9


def proof_with_nan_box(f):
    f.arrays["lo"][0, 0, 0] = np.nan


def proof_for_other_models(f):
    f.header = {**f.header, "int8_sha256": "0" * 64}


def proof_for_other_profiles(f):
    f.header = {**f.header, "profiles": ["tflm-double"]}


def proof_of_another_format(f):
    f.header = {**f.header, "format": "codesign-proof-0"}


def proof_without_steps(f):
    f.header = {**f.header, "steps": None}


def proof_with_one_region(f):
    for name in ("lo", "hi", "slopes", "resets"):
        f.arrays[name] = f.arrays[name][:1]


def proof_with_objects(f):
    f.arrays["slopes"] = f.arrays["slopes"].astype(object)


def proof_without_resets(f):
    del f.arrays["resets"]


TAMPERINGS = [
    smaller_upper,
    larger_lower,
    smaller_everywhere,
    bound_alone,
    bound_max_alone,
    logit_bound,
    float_range_upper,
    float_range_lower,
    too_few_outputs,
    swapped_outputs,
    swapped_logits,
    observed_above_bound,
    shifted_center,
    larger_radius,
    larger_radius_in_the_proof_too,
    slightly_larger_radius,
    narrower_domain,
    reversed_domain,
    box_in_place_of_the_ball,
    grid_in_place_of_the_ball,
    fixed_prefix,
    exchanged_regions,
    exchanged_regions_in_the_proof,
    dropped_region,
    duplicated_region,
    easier_epsilon_status,
    smaller_epsilon,
    epsilon_verdict,
    dropped_epsilon,
    top1_proved_where_refuted,
    other_top1_class,
    counterexample_that_is_none,
    counterexample_outside_the_region,
    refuted_without_counterexample,
    epsilon_refuted_for_nothing,
    top1_verdict,
    verdict,
    counted,
    summary_bound,
    summary_share,
    summary_counts,
    failed_obligations,
    unknown_profile,
    fewer_profiles,
    reordered_profiles,
    input_scale,
    input_zero_point,
    input_range,
    float_hash,
    float_hash_at_one_place,
    int8_hash,
    table_error,
    missing_table,
    rescaling_error,
    fewer_table_arguments,
    claim,
    region_rule,
    quantization_rule,
    fewer_lower_ends,
    class_written_as_a_fraction,
    arithmetic_that_is_a_list,
    verdict_of_what_was_not_asked,
    ragged_counterexample,
    empty_counterexample,
    counterexample_between_float32,
    false_counterexample_before_the_true_one,
    part_of_a_domain,
    slopes_zeroed,
    slope_nan,
    slope_infinite,
    slopes_of_two_steps_exchanged,
    slopes_as_float32,
    slopes_cut,
    slopes_appended,
    step_missing,
    last_step_missing,
    steps_reordered,
    step_renamed,
    step_added,
    everything_reset,
    resets_cut,
    resets_appended,
    resets_of_another_kind,
    proof_of_other_regions,
    proof_with_nan_box,
    proof_for_other_models,
    proof_for_other_profiles,
    proof_of_another_format,
    proof_without_steps,
    proof_with_one_region,
    proof_with_objects,
    proof_without_resets,
]


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda t: t.__name__)
def test_tampering_is_found_out_even_with_hashes_that_fit(forged, tamper):
    tamper(forged)
    result = forged.check()
    assert result.verdict == "invalid", result
    assert result.item


@pytest.mark.parametrize("index", [0, 31, 77])
def test_a_slope_moved_the_wrong_way_loosens_a_bound_that_is_stated(forged, index):
    slopes = forged.arrays["slopes"].copy()
    seen = set()
    for direction in (1, -1):
        forged.arrays["slopes"] = slopes.copy()
        forged.arrays["slopes"][0, index] += direction * STEP
        seen.add(forged.check().verdict)
    assert "invalid" in seen


@pytest.mark.parametrize("tamper", [smaller_upper, verdict, float_hash, table_error, claim])
def test_an_edit_without_a_new_digest_is_found_out(forged, tamper):
    tamper(forged)
    proof = (forged.folder / "certificate.proof.npz").read_bytes()
    result = forged.check(sealed=False, proof=proof)
    assert result.verdict == "invalid"
    assert "digest" in result.item


def test_another_proof_file_is_found_out_by_its_hash(forged, forge):
    other = forge("tiny", radius="1lsb", samples=2)
    proof = (other.folder / "certificate.proof.npz").read_bytes()
    result = forged.check(sealed=False, proof=proof)
    assert result.verdict == "invalid"
    assert "SHA-256" in result.item
    # and by its content where the hash fits
    assert forged.check(proof=proof).verdict == "invalid"


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_a_damaged_proof_file_is_invalid(forged, cut):
    proof = forged.packed()[:cut]
    assert forged.check(proof=proof).verdict == "invalid"


def test_a_missing_proof_file_is_bad_input(forged):
    from codesign.recheck import check

    (forged.folder / "certificate.proof.npz").unlink()
    with pytest.raises(InputError, match="proof file"):
        check(forged.folder / "certificate.json", forged.float_path, forged.int8_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "codesign-certificate-1", "x": NaN}', "\xff"])
def test_what_is_no_certificate_is_bad_input(forged, text):
    from codesign.recheck import check

    path = forged.folder / "certificate.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError):
        check(path, forged.float_path, forged.int8_path)


@pytest.mark.parametrize(
    ("place", "number"),
    [("difference_hi", "1e999"), ("center", "9" * 400), ("norms", "-1e400"), ("observed", "1" * 400)],
)
def test_numbers_beyond_binary64_and_keys_that_stand_twice_are_bad_input(forged, place, number):
    from codesign.recheck import check

    forged.check()
    path = forged.folder / "certificate.json"
    text = path.read_text()
    at = text.index(f'"{place}": ')
    start = next(k for k in range(at + len(place) + 3, len(text)) if text[k] in "-0123456789")
    end = next(k for k in range(start, len(text)) if text[k] not in "-+.eE0123456789")
    for changed in (text[:start] + number + text[end:], text[:at] + f'"{place}": 0, ' + text[at:]):
        path.write_text(changed)
        with pytest.raises(InputError):
            check(path, forged.float_path, forged.int8_path)


def test_a_counterexample_that_is_no_input_of_the_grid_is_found_out(forge):
    """It lies in the box, and refutes the criterion there; a grid region does not hold it."""
    from codesign.quantization import read_integer_network
    from codesign.verification import Neighbourhood

    forged = forge("tiny", epsilon=1e-9, around=Neighbourhood(grid=1))
    assert forged.check().verdict == "valid"
    step = read_integer_network(forged.int8_path).input.scale
    for region in forged.document["regions"]:
        moved = np.array(region["counterexample"]["input"])
        inward = np.sign((np.array(region["box"]["lo"]) + np.array(region["box"]["hi"])) / 2 - moved)
        values = (moved + 0.2 * step * inward).astype(np.float32).astype(np.float64)
        region["counterexample"] = {"criterion": "epsilon", "input": values.tolist()}
        region["counterexamples"] = [region["counterexample"]]
    result = forged.check()
    assert result.verdict == "invalid"
    assert "outside the region" in result.item


def test_another_method_is_not_called_valid(forged):
    forged.document["method"] = "comparison system, any length"
    assert forged.check().verdict == "cannot check"


def test_models_of_other_weights_are_found_out(forged, forge):
    other = forge("logits")
    forged.float_path, kept = other.float_path, forged.float_path
    assert forged.check().verdict == "invalid"
    forged.float_path, forged.int8_path = kept, other.int8_path
    assert forged.check().verdict == "invalid"


def patched(path, target, old, new):
    content = path.read_bytes()
    assert content.count(old) == 1
    target.write_bytes(content.replace(old, new))
    return hashlib.sha256(target.read_bytes()).hexdigest()


def renamed(f, which, sha256):
    f.document[f"{which}_sha256"] = f.document[which]["sha256"] = sha256
    f.header = {**f.header, f"{which}_sha256": sha256}


def test_a_float_weight_changed_with_all_hashes_is_found_out_by_the_bounds(forged, tmp_path):
    network = load_network(forged.float_path)
    weights = network.layers[0].W[0]
    target = tmp_path / "other.tflite"
    changed = weights.copy()
    changed[0, 0] += 0.05
    sha256 = patched(forged.float_path, target, weights.tobytes(), changed.tobytes())
    renamed(forged, "float", sha256)
    forged.float_path = target
    assert "different_models" in forged.check().item  # they look like two models
    forged.document["pair"]["different_models"] = True
    result = forged.check()
    assert result.verdict == "invalid"
    assert "follows" in result.item


def test_an_int8_weight_changed_with_all_hashes_is_found_out_by_the_bounds(forged, tmp_path):
    from codesign.quantization import read_integer_network

    weights = read_integer_network(forged.int8_path).ops[0].R[2]
    target = tmp_path / "other.tflite"
    changed = weights.copy()
    changed[1, 1] += 9 if changed[1, 1] < 100 else -9
    renamed(forged, "int8", patched(forged.int8_path, target, weights.tobytes(), changed.tobytes()))
    forged.int8_path = target
    result = forged.check()
    assert result.verdict == "invalid"


def test_more_kinds_of_tampering_than_asked_for():
    names = [t.__name__ for t in TAMPERINGS]
    assert len(set(names)) == len(names) >= 30


def test_the_command_says_invalid_and_exits_with_1(forged):
    from click.testing import CliRunner

    from codesign.cli.main import main

    arguments = [
        "check",
        str(forged.folder / "certificate.json"),
        "--float",
        str(forged.float_path),
        "--int8",
        str(forged.int8_path),
    ]
    good = CliRunner().invoke(main, arguments)
    assert good.exit_code == 0
    assert "valid" in good.output.splitlines()
    smaller_upper(forged)
    forged.check()
    bad = CliRunner().invoke(main, [*arguments, "--json"])
    assert bad.exit_code == 1
    told = json.loads(bad.output)
    assert told["verdict"] == "invalid"
    assert "difference_hi" in told["item"]
    missing = CliRunner().invoke(main, [*arguments[:1], str(forged.folder / "no.json"), *arguments[2:]])
    assert missing.exit_code == 2
