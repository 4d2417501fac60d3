"""Forged deployments: the forger has this program, makes hashes, digests, report and sign-off fit, and is found out."""

import copy
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from codesign import api
from codesign.cli import main
from codesign.deployment_checker import check_folder
from codesign.deployment_checker.firmware import check_firmware
from codesign.errors import InputError, MissingToolError
from codesign.proof.proof_file import digest
from codesign.quantization import Calibration
from codesign.samples import SAMPLES, Samples, read_samples, write_samples
from codesign.signoff import sign_off
from codesign.verification import Criteria

FIXTURES = Path(__file__).parents[1] / "fixtures"
MODEL, INT8 = FIXTURES / "tiny.h5", FIXTURES / "tiny.tflite"


def deployed(folder, criteria, **options):
    from codesign.deploy import DeployOptions, deploy
    from codesign.toolchain.pio import require_compiler
    from codesign.verification import Options

    try:
        require_compiler()
    except MissingToolError as error:
        pytest.skip(str(error))
    verification = Options(criteria, evaluations=30, proof="all")
    result = deploy(
        MODEL, "nucleo_f746", folder, DeployOptions(int8=INT8, emulate=True, verification=verification, **options)
    )
    assert result["verdict"] == "PASS", result["failures"]
    return folder


@pytest.fixture(scope="session")
def around_samples(tmp_path_factory):
    criteria = Criteria(epsilon=0.05, top1_share=0.5)
    return deployed(tmp_path_factory.mktemp("deployment") / "out", criteria, samples=3, hil_samples=4)


@pytest.fixture(scope="session")
def over_domain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domain")
    data = api.calibration(MODEL)
    np.savez(folder / "data.npz", x=0.25 * data.x, y=data.y)
    return deployed(
        folder / "out", Criteria(epsilon=0.2), region="domain", domain=(-0.25, 0.25), hil_samples=2, drawn=3,
        calibration=folder / "data.npz",
    )  # fmt: skip


class Forger:
    """A copy of a deployment, its JSON files open for editing."""

    def __init__(self, original, folder):
        shutil.copytree(original, folder)
        self.folder = folder
        self.certificate, self.hil, self.signoff = (
            json.loads((folder / name).read_text()) for name in ("certificate.json", "hil.json", "signoff.json")
        )
        self.network, self.integer = api.load(MODEL), api.read(folder / "model.tflite")
        self.samples = read_samples(folder / SAMPLES, self.network)
        _, self.build, _ = check_firmware(folder, self.signoff, self.integer)

    @property
    def region(self):
        return self.certificate["regions"][0]

    @property
    def sample(self):
        return self.hil["samples"][0]

    def write(self, name, document):
        (self.folder / name).write_text(json.dumps(document, indent=1) + "\n")

    def write_certificate(self):
        self.certificate["digest"] = digest(self.certificate)
        self.write("certificate.json", self.certificate)

    def write_samples(self, **changes):
        now = {"data": self.samples.data, "sent": self.samples.sent, "streams": self.samples.streams, **changes}
        self.samples = Samples(**now)
        write_samples(self.folder / SAMPLES, self.samples)

    def sign_again(self):
        """As 'codesign deploy' does in the end, for whatever the files say now."""
        self.write_certificate()
        self.write("hil.json", self.hil)
        sign_off(
            self.folder, self.certificate, self.hil, self.build, self.network, self.integer,
            Calibration(self.samples.sent, None), checked=self.signoff["checker"],
        )  # fmt: skip

    def hash_again(self):
        """Only the hashes in signoff.json."""
        self.signoff["artifacts"] = {
            name: hashlib.sha256((self.folder / name).read_bytes()).hexdigest() for name in self.signoff["artifacts"]
        }
        self.write("signoff.json", self.signoff)

    def check(self, model=MODEL, **more):
        return check_folder(self.folder, model, **{"prover": None, **more})


@pytest.fixture
def forger(around_samples, tmp_path):
    return Forger(around_samples, tmp_path / "forged")


@pytest.fixture
def domain_forger(over_domain, tmp_path):
    return Forger(over_domain, tmp_path / "forged")


@pytest.mark.parametrize("which", ["forger", "domain_forger"])
def test_an_untouched_deployment_is_valid_also_when_signed_again(which, request):
    f = request.getfixturevalue(which)
    result = f.check(prover="auto")
    assert (result.verdict, result.item, result.signed_off) == ("valid", "", "PASS")
    assert result.facts == sum(result.provers.values()) > 100
    assert result.samples == len(f.hil["samples"])
    assert result.claim["float_sha256"] == f.network.sha256
    assert any("emulated" in entry for entry in result.not_verified)
    f.sign_again()
    assert (f.check().verdict, f.check(int8_path=INT8).verdict) == ("valid", "valid")


# Evidence forged, everything that follows from it made to fit.


def bounds_divided_by_five(f):
    for region in f.certificate["regions"]:
        for key in ("difference_lo", "difference_hi", "bound", "logit_bound"):
            region[key] = [v / 5 for v in region[key]]
        region["bound_max"] /= 5
        region["observed"] = [v / 50 for v in region["observed"]]
        region["observed_max"] /= 50
    for key in ("bound_max", "bound_median", "observed_max"):
        f.certificate["summary"][key] = f.certificate["summary"][key] / (50 if key == "observed_max" else 5)
    for k, entry in enumerate(f.hil["samples"]):
        if entry["bound"] is not None:
            entry["bound"] = f.certificate["regions"][k]["bound"]
    return "certificate.json"


def every_top1_proved(f):
    for region in f.certificate["regions"]:
        region["top1"], region["top1_class"] = "proved", 1 - (region["top1_class"] or 0)
    return "certificate.json"


def epsilon_made_smaller(f):
    f.certificate["criteria"]["epsilon"] = 1e-4
    return "certificate.json"


def regions_made_larger(f):
    for region in f.certificate["regions"]:
        region["radius"] *= 3
    return "certificate.json"


def regions_made_smaller(f):
    for region in f.certificate["regions"]:
        region["radius"] /= 3
    return "certificate.json"


def region_called_noise(f):
    f.region["kind"] = "noise"
    return "certificate.json"


def region_around_another_sample(f):
    f.region["sample"] = 3
    return "certificate.json"


def region_counted_that_is_not(f):
    f.region["counted"] = not f.region["counted"]
    return "certificate.json"


def region_left_out(f):
    f.certificate["regions"].pop()
    return "certificate.json"


def obligations_not_all_checked(f):
    f.certificate["proof"]["checked"] = f.certificate["proof"]["obligations"] + 1
    f.certificate["proof"]["proved"] = f.certificate["proof"]["checked"]
    return "certificate.json"


def fewer_semantics(f):
    f.certificate["int8"]["profiles"] = f.certificate["int8"]["profiles"][:1]
    return "certificate.json"


def claim_in_other_words(f):
    f.certificate["claim"] = "All outputs are exact."
    return "certificate.json"


def unknown_key_in_the_certificate(f):
    f.certificate["approved"] = True
    return "certificate.json"


def verdict_of_the_certificate(f):
    f.certificate["verdict"] = "refuted" if f.certificate["verdict"] != "refuted" else "proved"
    return "certificate.json"


def certificate_of_another_float_model(f):
    f.certificate["float_sha256"] = f.certificate["float"]["sha256"] = "0" * 64
    return "certificate.json"


def certificate_of_other_data(f):
    f.certificate["data"]["sha256"] = "0" * 64
    return "certificate.json"


def labels_denied(f):
    f.certificate["data"]["labels_sha256"] = None
    return "certificate.json"


def constant_device_outputs(f):
    first = f.hil["samples"][0]["device"]
    for entry in f.hil["samples"]:
        entry["device"] = first
        errors = np.abs(np.array(first) - np.array(entry["float"]))
        entry["max_error"] = float(errors.max())
        entry["top1"]["device"] = [int(np.argmax(first))]
    return "hil.json: sample"


def one_device_output_a_step_off(f):
    scale = f.integer.output.scale
    f.sample["device"][0] += scale if f.sample["device"][0] < 0.5 else -scale
    return "hil.json: sample 0"


def device_output_between_steps(f):
    f.sample["device"][0] += f.integer.output.scale / 3
    return "hil.json: sample 0"


def float_output_moved(f):
    f.sample["float"][0] += 1e-4
    return "hil.json: sample 0"


def error_made_smaller(f):
    f.sample["max_error"] /= 2
    return "hil.json: sample 0: max_error"


def bound_of_a_sample_made_larger(f):
    f.sample["bound"] = [2 * b for b in f.sample["bound"]]
    return "hil.json: sample 0: bound"


def bound_for_a_sample_without_one(f):
    f.hil["samples"][3].update(bound=[1.0] * len(f.sample["device"]), within_bound=True)
    return "hil.json: sample 3: bound"


def bound_of_a_sample_left_out(f):
    f.sample.update(bound=None, within_bound=None)
    return "hil.json: sample 0"


def class_of_the_device(f):
    f.sample["top1"]["device"] = [1 - f.sample["top1"]["device"][0]]
    return "hil.json: sample 0: top1"


def class_certified_where_none_is(f):
    f.hil["samples"][3]["top1"]["certified"] = "proved"
    return "hil.json: sample 3: top1"


def label_that_fits_the_device(f):
    f.sample["label"] = 1 - int(f.sample["label"])
    return "hil.json: sample 0: label"


def sample_twice(f):
    f.hil["samples"][1] = copy.deepcopy(f.sample)
    return "hil.json: sample 1"


def sample_left_out(f):
    f.hil["samples"].pop()
    f.hil["summary"].update(samples=3, requested=3, bit_exact=3)
    return "hil.json"


def more_samples_than_were_sent(f):
    f.hil["samples"].append({**copy.deepcopy(f.sample), "index": 4})
    return "hil.json"


def summary_of_the_run(f):
    f.hil["summary"]["bit_exact"] -= 1
    return "hil.json: summary/bit_exact"


def summary_of_errors(f):
    f.hil["summary"]["max_error"] /= 3
    return "hil.json: summary/max_error"


def more_quantised_than_checked(f):
    f.hil["summary"]["quantize_equal"] = f.hil["summary"]["quantize_checked"] = 99
    return "hil.json: summary/quantize_equal"


def not_emulated(f):
    f.hil["target"]["emulated"] = False
    return "hil.json: target/emulated"


def not_emulated_by_its_description(f):
    f.hil["target"].update(emulated=False, description="NUCLEO-F746ZG on /dev/ttyACM0")
    return "hil.json: target/emulated"


def counted_cycles(f):
    f.hil["counter"]["unit"] = "cycles"
    return "hil.json: counter/unit"


def faster(f):
    f.hil["counter"]["median"] /= 2
    return "hil.json: counter/median"


def counts_without_a_counter(f):
    for entry in f.hil["samples"]:
        entry["count"] = None
    f.hil["counter"].update(min=None, median=None, max=None)
    return "hil.json: counter/unit"


def another_board(f):
    f.hil["target"]["board"] = "nucleo_f103"
    return "hil.json: target/board"


def another_build(f):
    f.hil["target"]["build_id"] = "0" * 32
    return "hil.json: target/build_id"


def another_model_on_the_device(f):
    f.hil["target"]["model_sha256"] = "0" * 64
    return "hil.json: target/model_sha256"


def larger_stack(f):
    f.hil["stack"]["size_bytes"] *= 2
    return "hil.json: stack/size_bytes"


def trace_of_no_error(f):
    for layer in f.hil["traces"][0]["layers"]:
        layer["max_error"] = [0.0 for _ in layer["max_error"]]
    return "hil.json: trace of sample 0"


def failure_hushed_up(f):
    f.hil["verdict"] = "FAIL"
    return "hil.json: verdict"


def unknown_key_in_the_run(f):
    f.hil["witness"] = "me"
    return "hil.json"


def stream_that_was_not_run(f):
    record = {
        "number": 0, "steps": 10000, "inputs_sha256": "0" * 64, "bit_exact": 10000, "first_wrong": None,
        "max_error": [0.0] * len(f.sample["device"]), "bound": None, "within_bound": None, "class_certified": None,
        "class_equal": None, "count": None,
    }  # fmt: skip
    f.hil["streams"] = [record]
    f.hil["summary"]["stream_steps"] = 10000
    return "hil.json: streams"


def samples_exchanged(f):
    f.write_samples(sent=f.samples.sent[::-1].copy())
    return "hil.json: sample 0"


def samples_sent_nearby(f):
    f.write_samples(sent=(f.samples.sent + np.float32(0.2)).astype(np.float32))
    return "hil.json: sample"


def fewer_samples_sent(f):
    f.write_samples(sent=f.samples.sent[:2])
    return "hil.json"


def other_calibration_data(f):
    f.write_samples(data=Calibration(f.samples.data.x[::-1].copy(), f.samples.data.y))
    return "certificate.json: data/sha256"


def other_labels(f):
    f.write_samples(data=Calibration(f.samples.data.x, 1 - np.minimum(f.samples.data.y, 1)))
    return "certificate.json: data/labels_sha256"


def samples_of_another_shape(f):
    np.savez(f.folder / SAMPLES, x=f.samples.data.x[:, :1], sent=f.samples.sent)
    return SAMPLES


def slopes_of_the_proof(f):
    path = f.folder / "certificate.proof.npz"
    with np.load(path) as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    arrays["slopes"] = arrays["slopes"] * 0.5
    np.savez(path, **arrays)
    f.certificate["proof_file"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return "certificate.json"


def patched(path, old, new):
    content = path.read_bytes()
    assert content.count(old) >= 1
    path.write_bytes(content.replace(old, new))


def patch_elf(f, old, new):
    patched(f.folder / "firmware.elf", old, new)
    f.build = {**f.build, "elf_sha256": hashlib.sha256((f.folder / "firmware.elf").read_bytes()).hexdigest()}


def elf_of_another_model(f):
    digest_of = bytes.fromhex(f.integer.sha256)
    patch_elf(f, digest_of, bytes(32))
    return "firmware.elf"


def elf_of_another_build(f):
    patch_elf(f, bytes.fromhex(f.build["build_id"]), bytes(16))
    f.build["build_id"] = f.hil["target"]["build_id"] = "0" * 32
    f.signoff["build_id"] = "0" * 32
    return "firmware.elf: its build id"


def elf_with_other_weights(f):
    from codesign.codegen.plan import make_plan

    step = make_plan(f.integer, "int8").steps[0]
    values = max(step.constants, key=lambda c: c.values.nbytes).values
    patch_elf(f, np.ascontiguousarray(values).tobytes(), bytes(values.nbytes))
    return "firmware.elf: the constants"


def elf_for_another_board(f):
    patch_elf(f, b"nucleo_f746\0", b"nucleo_f103\0")
    return "firmware.elf"


def elf_that_is_none(f):
    (f.folder / "firmware.elf").write_bytes(b"\x7fELF and no more")
    f.build = {**f.build, "elf_sha256": hashlib.sha256((f.folder / "firmware.elf").read_bytes()).hexdigest()}
    return "firmware.elf"


def source_changed(f):
    path = next((f.folder / "firmware").rglob("codesign_model.c"))
    path.write_text(path.read_text() + "/* more */\n")
    return "firmware/"


def source_left_out(f):
    next((f.folder / "firmware").rglob("cs_layers.c")).unlink()
    return "firmware/"


def source_added(f):
    (f.folder / "firmware" / "src" / "more.c").write_text("int more;\n")
    return "firmware/src/more.c"


def int8_model_of_other_weights(f):
    weights = f.integer.ops[0].R[2].tobytes()
    path = f.folder / "model.tflite"
    patched(path, weights, bytes(len(weights)))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    f.certificate["int8_sha256"] = f.certificate["int8"]["sha256"] = sha256
    f.hil["target"]["model_sha256"] = f.build["model_sha256"] = sha256
    return "certificate.json"


EVIDENCE = [
    bounds_divided_by_five, every_top1_proved, epsilon_made_smaller, regions_made_larger, regions_made_smaller,
    region_called_noise, region_around_another_sample, region_counted_that_is_not, region_left_out,
    obligations_not_all_checked, fewer_semantics, claim_in_other_words, unknown_key_in_the_certificate,
    verdict_of_the_certificate, certificate_of_another_float_model, certificate_of_other_data, labels_denied,
    constant_device_outputs, one_device_output_a_step_off, device_output_between_steps, float_output_moved,
    error_made_smaller, bound_of_a_sample_made_larger, bound_for_a_sample_without_one, bound_of_a_sample_left_out,
    class_of_the_device, class_certified_where_none_is, label_that_fits_the_device, sample_twice, sample_left_out,
    more_samples_than_were_sent, summary_of_the_run, summary_of_errors, more_quantised_than_checked, not_emulated,
    not_emulated_by_its_description, counted_cycles, faster, counts_without_a_counter, another_board, another_build,
    another_model_on_the_device, larger_stack, trace_of_no_error, failure_hushed_up, unknown_key_in_the_run,
    stream_that_was_not_run, samples_exchanged, samples_sent_nearby, fewer_samples_sent, other_calibration_data,
    other_labels, samples_of_another_shape, slopes_of_the_proof, elf_of_another_model, elf_of_another_build,
    elf_with_other_weights, elf_for_another_board, elf_that_is_none, source_changed, source_left_out, source_added,
    int8_model_of_other_weights,
]  # fmt: skip


@pytest.mark.parametrize("forge", EVIDENCE, ids=lambda t: t.__name__)
def test_forged_evidence_is_refused_by_name(forger, forge):
    item = forge(forger)
    forger.sign_again()
    result = forger.check()
    assert result.verdict in ("invalid", "cannot check")
    assert result.claim is None
    assert item in result.item, result.item


# The sign-off and the report themselves, hashes made to fit.


def reported(change):
    def forge(f):
        path = f.folder / "report.html"
        text = change(path.read_text())
        assert text != path.read_text()
        path.write_text(text)

    return forge


def stated(**changes):
    return lambda f: f.signoff.update(changes)


def inside(key, **changes):
    return lambda f: f.signoff[key].update(changes)


SIGNED = {
    "signoff.json/notes": lambda f: f.signoff["notes"].pop(0),
    "signoff.json/proved": lambda f: f.signoff["proved"].append("All obligations were proved."),
    "signoff.json/proved/0": lambda f: f.signoff["proved"].__setitem__(0, "Exact on every input."),
    "signoff.json/emulated": stated(emulated=False),
    "signoff.json/flash_bytes": stated(flash_bytes=1),
    "signoff.json/ram_bytes": stated(ram_bytes=1),
    "signoff.json/stack_bytes": stated(stack_bytes=1),
    "signoff.json/macs": stated(macs=1),
    "signoff.json: the schema": stated(approved_by="somebody"),
    "signoff.json/certificate/bound_max": inside("certificate", bound_max=1e-6),
    "signoff.json/certificate/obligations_checked": inside("certificate", obligations_checked=10**6),
    "signoff.json/hil/bit_exact": inside("hil", bit_exact=100),
    "signoff.json/hil/instructions": inside("hil", instructions=1.0),
    "signoff.json/checker/facts": inside("checker", facts=10**6),
    "signoff.json/runtime/profile": inside("runtime", profile="cmsis-nn-double"),
    "signoff.json/criteria/epsilon": inside("criteria", epsilon=None),
    "signoff.json/metrics/accuracy": lambda f: f.signoff["metrics"]["accuracy"].update(device=1.0, integer=0.5),
    "signoff.json/board": stated(board="no_such_board"),
    "report.html: its text": reported(lambda t: t.replace("EMULATED", "MEASURED")),
    "report.html: its text, ": reported(lambda t: re.sub("</body>", "<p>Approved.</p></body>", t)),
    "report.html: its figures": reported(lambda t: re.sub(r'(<path d="M )\d', r"\g<1>9", t, count=1)),
}


@pytest.mark.parametrize("item", SIGNED, ids=lambda name: re.sub("[^a-z0-9_]+", "-", name))
def test_forged_signoffs_and_reports_are_refused_by_name(forger, item):
    SIGNED[item](forger)
    forger.hash_again()
    result = forger.check()
    assert result.verdict == "invalid"
    assert item.rstrip(" ,") in result.item, result.item


# Files.


@pytest.mark.parametrize(
    "name",
    ["certificate.proof.npz", "certificate.json", "hil.json", "firmware.elf", "model.tflite", "report.html", SAMPLES,
     "signoff.json"],
)  # fmt: skip
@pytest.mark.parametrize("how", ["deleted", "cut", "linked"])
def test_missing_damaged_and_linked_files_are_refused_by_name(forger, name, how, tmp_path):
    path = forger.folder / name
    content = path.read_bytes()
    path.unlink()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "linked":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    result = forger.check()
    assert result.verdict == "invalid"
    assert name in result.item


def test_a_file_that_nobody_signed_is_refused(forger):
    (forger.folder / "notes.txt").write_text("approved")
    result = forger.check()
    assert (result.verdict, result.item) == ("invalid", "notes.txt: not signed (signoff.json/artifacts)")


def test_a_stale_digest_is_told(forger):
    for region in forger.certificate["regions"]:
        region["bound"] = [b / 5 for b in region["bound"]]
    forger.write("certificate.json", forger.certificate)
    forger.hash_again()
    result = forger.check()
    assert result.verdict == "invalid"
    assert "certificate.json: digest" in result.item


# Over a whole domain.


def domain_of_a_million(f):
    f.certificate["domain"] = {"lo": [-1e6] * 3, "hi": [1e6] * 3}
    f.region["center"] = np.zeros(f.network.input_shape).tolist()
    return "certificate.json"


def domain_of_a_million_in_the_proof(f):
    item = domain_of_a_million(f)
    path = f.folder / "certificate.proof.npz"
    with np.load(path) as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    arrays["lo"], arrays["hi"] = np.full_like(arrays["lo"], -1e6), np.full_like(arrays["hi"], 1e6)
    np.savez(path, **arrays)
    f.certificate["proof_file"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return item


def more_covered_samples(f):
    whole = f.certificate["all_inputs"]
    whole["covered_samples"], whole["covered_share"] = whole["samples"], 1.0
    return "certificate.json"


def statement_in_other_words(f):
    f.certificate["all_inputs"]["statement"] = "for every input whatsoever"
    return "certificate.json"


def smaller_bound_over_the_domain(f):
    f.certificate["all_inputs"]["logit_bound"] = [b / 2 for b in f.certificate["all_inputs"]["logit_bound"]]
    return "certificate.json"


def drawn_input_outside_the_domain(f):
    sent = f.samples.sent.copy()
    sent[-1] *= 100
    f.write_samples(sent=sent)
    return "hil.json: sample"


@pytest.mark.parametrize(
    "forge",
    [domain_of_a_million, domain_of_a_million_in_the_proof, more_covered_samples, statement_in_other_words,
     smaller_bound_over_the_domain, drawn_input_outside_the_domain],
    ids=lambda t: t.__name__,
)  # fmt: skip
def test_forged_domains_are_refused_by_name(domain_forger, forge):
    item = forge(domain_forger)
    domain_forger.sign_again()
    result = domain_forger.check()
    assert result.verdict == "invalid"
    assert item in result.item, result.item


def test_more_kinds_of_forgery_than_asked_for():
    assert len({f.__name__ for f in EVIDENCE}) + len(SIGNED) >= 40


# The models that the user names are the root of trust.


def test_another_float_model_is_told(forger):
    result = forger.check(FIXTURES / "tiny.float.tflite")
    assert result.verdict == "invalid"
    assert "float_sha256" in result.item


def test_another_int8_model_is_told(forger):
    result = forger.check(int8_path=FIXTURES / "logits.tflite")
    assert (result.verdict, result.item.split(":")[0]) == ("invalid", "model.tflite (another int8 model)")


def test_what_is_no_folder_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        check_folder(tmp_path / "none", MODEL)


def test_the_command_checks_folders(forger):
    arguments = ["check", str(forger.folder), "--float", str(MODEL)]
    good = CliRunner().invoke(main, arguments)
    assert good.exit_code == 0, good.output
    for told in ("valid", "verified claim:", "told, not verified:", "signed off: PASS", forger.network.sha256):
        assert told in good.output
    told = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert told["claim"]["int8_sha256"] == forger.integer.sha256
    assert sum(told["provers"].values()) == told["facts"]
    one_device_output_a_step_off(forger)
    forger.sign_again()
    bad = CliRunner().invoke(main, [*arguments, "--json"])
    assert bad.exit_code == 1
    assert "hil.json: sample 0" in json.loads(bad.stdout)["item"]


def test_a_deployment_that_failed_is_not_signed_off(forger):
    """Honestly recorded: everything follows, and the verdict is no pass."""
    forger.hil["failures"], forger.hil["verdict"] = ["the device was lost"], "FAIL"
    forger.sign_again()
    result = forger.check()
    assert (result.verdict, result.signed_off) == ("valid", "FAIL")
    outcome = CliRunner().invoke(main, ["check", str(forger.folder), "--float", str(MODEL)])
    assert outcome.exit_code == 1
    assert "NOT signed off: FAIL" in outcome.output
