"""sign_off as a whole: files, hashes, schema, and the report's page."""

from __future__ import annotations

import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import html5lib
import numpy as np
import pytest
from signoff_support import VALID, Evidence, make_evidence

from codesign.errors import InputError, MissingToolError
from codesign.quantization import Calibration
from codesign.semantics import quantize_input, simulate
from codesign.signoff import compare, sign_off, validate_signoff
from codesign.verification import Criteria

XHTML = "{http://www.w3.org/1999/xhtml}"


def run(e: Evidence, folder: Path, **changes: Any) -> tuple[dict[str, Any], str]:
    e.write(folder)
    arguments: dict[str, Any] = {
        "certificate": e.certificate, "hil": e.hil, "build": e.build, "float_network": e.float_network,
        "integer_network": e.network, "data": e.data, "checked": VALID, **changes,
    }  # fmt: skip
    document = sign_off(folder, **arguments)
    return document, (folder / "report.html").read_text(encoding="utf-8")


def check_page(page: str) -> Any:
    """Strict HTML, self-contained, unique ids."""
    tree = html5lib.HTMLParser(strict=True).parse(page)
    assert not re.search(r"<(script|link|iframe|object|embed|base)\b", page, re.IGNORECASE)
    assert not re.search(r"@import|url\((?!#)", page)
    for element in tree.iter():
        for name, value in element.attrib.items():
            if str(name).rsplit("}")[-1] in ("src", "href", "action", "data"):
                assert value.startswith("#"), value
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for reference in re.findall(r'(?:href="#|url\(#)([^")]+)', page):
        assert reference in ids
    return tree


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)))


def test_pass_writes_everything(good: Evidence, tmp_path: Path) -> None:
    document, page = run(good, tmp_path)
    assert document["verdict"] == "PASS", document["failures"]
    assert json.loads((tmp_path / "signoff.json").read_text()) == document
    names = {"certificate.json", "firmware.elf", "firmware/platformio.ini", "hil.json", "model.tflite", "report.html"}
    assert set(document["artifacts"]) == names
    for name, digest in document["artifacts"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
        assert name == "report.html" or digest in page
    assert document["emulated"] is True
    assert document["board"] == "nucleo_f746"
    assert document["flash_bytes"] == 9440
    assert document["ram_bytes"] == 352
    assert document["stack_bytes"] == 368
    hil = document["hil"]
    assert hil["samples"] == hil["bit_exact"] == hil["with_bound"] == hil["within_bound"] == 8
    assert hil["instructions"] == good.hil["counter"]["median"]
    assert "cycles" not in hil
    bounds = [max(r["total_bound"]) for r in good.certificate["regions"]]
    assert document["certificate"]["bound_max"] == max(bounds)
    assert document["certificate"]["bound_median"] == float(np.median(bounds))
    check_page(page)
    assert str(tmp_path) not in page
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]


def test_the_page_says_what_matters(good: Evidence, tmp_path: Path) -> None:
    document, page = run(good, tmp_path)
    text = text_of(page)
    assert text.index("PASS") < text.index("EMULATED") < text.index("What is not proved") < text.index("What is proved")
    for sentence in (*document["notes"], *document["proved"]):
        assert sentence in text
    for value in (good.network.sha256, good.float_network.sha256, good.build["build_id"], ".rodata", "0x0800184c"):
        assert value in text
    assert f"{document['macs']:,}" in text
    assert "Nash-Sutcliffe" in text
    tree = check_page(page)
    tables = list(tree.iter(f"{XHTML}table"))
    samples = [t for t in tables if "bit-exact" in "".join(t.itertext())][-1]
    assert len(list(samples.iter(f"{XHTML}tr"))) == 1 + 8


def test_hardware_counts_cycles_and_is_not_emulated(tmp_path: Path) -> None:
    document, page = run(make_evidence("tiny", 2, 2, emulated=False), tmp_path)
    assert document["verdict"] == "PASS"
    assert document["hil"]["cycles"] > 0
    assert "instructions" not in document["hil"]
    assert "EMULATED" not in page
    assert "Run on hardware" in page


def test_fail_is_recorded_with_its_reasons(tmp_path: Path) -> None:
    def spoil(number: int, output: np.ndarray) -> np.ndarray:
        return (output ^ 64).astype(np.int8) if number == 1 else output

    document, page = run(make_evidence("tiny", 4, 4, spoil=spoil), tmp_path)
    assert document["verdict"] == "FAIL"
    assert document["hil"]["bit_exact"] == 3
    text = text_of(page)
    assert text.index("Why it failed") < text.index("What is not proved")
    for failure in document["failures"]:
        assert failure in text
    assert 'class="wrong"' in page
    check_page(page)


def test_nothing_run_is_reported(good: Evidence, tmp_path: Path) -> None:
    document, page = run(good, tmp_path, hil=None)
    assert document["verdict"] == "FAIL"
    assert document["emulated"] is None
    assert "NOTHING RUN" in page
    check_page(page)


def test_no_evidence_at_all_is_reported(tmp_path: Path) -> None:
    document = sign_off(tmp_path, None, None, None)
    assert document["verdict"] == "FAIL"
    validate_signoff(document)
    check_page((tmp_path / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("document", ["certificate", "hil"])
def test_malformed_evidence_fails_and_is_not_drawn(good: Evidence, tmp_path: Path, document: str) -> None:
    good.write(tmp_path)
    broken = dict(getattr(good, document))
    broken["regions" if document == "certificate" else "traces"] = [1, {"layers": [3]}, None]
    (tmp_path / f"{document}.json").write_text(json.dumps(broken))
    evidence = {"certificate": good.certificate, "hil": good.hil, document: broken}
    result = sign_off(
        tmp_path, **evidence, build=good.build, float_network=good.float_network, integer_network=good.network,
        data=good.data,
    )  # fmt: skip
    assert result["verdict"] == "FAIL"
    assert any("this is no valid" in f for f in result["failures"])
    check_page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_criteria_are_recorded(tmp_path: Path) -> None:
    document, page = run(make_evidence("tiny", 4, 4, criteria=Criteria(epsilon=1e-9, top1_share=0.0)), tmp_path)
    assert document["verdict"] == "FAIL"
    assert document["criteria"]["epsilon"]["status"] in ("refuted", "unknown")
    assert document["criteria"]["top1_share"]["status"] == "proved"
    assert "criterion not met" in page


def test_changed_files_fail(good: Evidence, tmp_path: Path) -> None:
    good.write(tmp_path)
    (tmp_path / "model.tflite").write_bytes(good.network.content + b"x")
    changed = {**good.hil, "seconds": 1.0}
    document = sign_off(tmp_path, good.certificate, changed, good.build)
    assert document["verdict"] == "FAIL"
    assert any("model.tflite in the output folder" in f for f in document["failures"])
    assert any("hil.json in the output folder" in f for f in document["failures"])


def test_signing_again_replaces(good: Evidence, tmp_path: Path) -> None:
    first, _ = run(good, tmp_path)
    second = sign_off(tmp_path, good.certificate, good.hil, good.build, checked=VALID)
    assert set(second["artifacts"]) == set(first["artifacts"])
    assert "signoff.json" not in second["artifacts"]


def test_a_failed_report_leaves_no_signoff(good: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(good, tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingToolError, match=r"pip install 'codesign\[report\]'"):
        sign_off(tmp_path, good.certificate, good.hil, good.build, checked=VALID)
    assert not (tmp_path / "signoff.json").exists()
    assert not (tmp_path / "report.html").exists()


def test_bad_folders_are_refused(good: Evidence, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        sign_off(tmp_path / "none", good.certificate, good.hil, good.build, checked=VALID)
    good.write(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "hil.json")
    with pytest.raises(InputError, match="symbolic link"):
        sign_off(tmp_path, good.certificate, good.hil, good.build, checked=VALID)


def test_everything_from_outside_is_escaped(good: Evidence, tmp_path: Path) -> None:
    evil = "<script>alert('$x_1$')</script>&\"'"
    good.certificate["float"]["name"] = evil
    good.hil["failures"] = [evil]
    good.hil["verdict"] = "FAIL"
    good.hil["target"]["description"] = evil
    good.build["title"] = evil
    good.build["memory_map"]["flash"][0]["name"] = evil
    good.certificate["regions"][0]["reason"] = evil
    _, page = run(good, tmp_path)
    assert "<script" not in page
    assert evil in text_of(page)
    check_page(page)


@pytest.mark.parametrize("name", ["logits", "stacked", "sequence", "timedist", "acts", "flatten", "reshaped"])
def test_every_shape_of_model(name: str, tmp_path: Path) -> None:
    e = make_evidence(name, 3, 2)
    document, page = run(e, tmp_path)
    assert document["verdict"] == "PASS", document["failures"]
    check_page(page)
    lstms = sum(hasattr(layer, "R") for layer in e.float_network.layers)
    assert page.count("per time step") >= lstms


def test_without_networks_and_labels(good: Evidence, tmp_path: Path) -> None:
    for sample in good.hil["samples"]:
        sample["label"] = None
    document, page = run(good, tmp_path, float_network=None, integer_network=None, data=None)
    assert document["verdict"] == "PASS"
    assert document["macs"] is None
    assert document["metrics"]["accuracy"] == {}
    check_page(page)


def test_two_hundred_samples_stay_below_a_megabyte(good: Evidence, tmp_path: Path) -> None:
    good.hil["samples"] = [{**good.hil["samples"][k % 8], "index": k} for k in range(200)]
    good.hil["summary"].update(requested=200, samples=200)
    good.certificate["regions"] = [
        {**good.certificate["regions"][k % 8], "id": str(k), "sample": k} for k in range(200)
    ]
    _, page = run(good, tmp_path, data=Calibration(np.repeat(good.data.x, 25, axis=0), None))
    assert len(page.encode()) < 1_000_000
    check_page(page)


def test_classes_and_accuracy(good: Evidence) -> None:
    found = compare(good.certificate, good.hil, good.float_network, good.network, good.data)
    labels = good.data.y
    assert labels is not None
    outputs = simulate(good.network, quantize_input(good.network, good.data.x))
    by_name = {m.name: m for m in found.models}
    assert by_name["integer"].classes.tolist() == outputs.argmax(-1).tolist()
    assert by_name["float"].accuracy == 6 / 8  # the fixture mislabels two
    confusion = by_name["device"].confusion
    assert confusion is not None
    assert confusion.sum() == 8
    assert confusion[labels[0], by_name["device"].classes[0]] >= 1


def test_the_integer_class_is_neither_the_floats_nor_the_devices(good: Evidence) -> None:
    honest = compare(good.certificate, good.hil, good.float_network, good.network, good.data)
    expected = honest.models[1].classes
    count = len(good.hil["samples"][0]["device"])
    for sample, k in zip(good.hil["samples"], expected.tolist(), strict=True):
        sample["top1"].update(float=[(k + 1) % count], device=[(k + 2) % count])
        sample["bit_exact"] = False
    told = compare(good.certificate, good.hil, good.float_network, good.network, good.data)
    assert [m.name for m in told.models] == ["float", "integer", "device"]
    assert told.models[1].classes.tolist() == expected.tolist()
    blind = compare(good.certificate, good.hil)
    assert [m.name for m in blind.models] == ["float", "device"]


def test_hidden_state_errors_per_step(good: Evidence) -> None:
    """Against the cross-check's own trace of the device, and its per-sample maximum."""
    found = compare(good.certificate, good.hil, good.float_network, good.network, good.data)
    (steps,) = found.per_step
    (traced,) = good.hil["traces"]
    assert len(steps.largest) == good.data.x.shape[1]
    assert steps.device is not None
    np.testing.assert_allclose(steps.device, traced["layers"][0]["max_error"])
    single = Calibration(good.data.x[:1], None)
    one = {**good.hil, "samples": good.hil["samples"][:1]}
    (alone,) = compare(good.certificate, one, good.float_network, good.network, single).per_step
    np.testing.assert_allclose(alone.largest, traced["layers"][0]["max_error"], rtol=1e-9)
    assert (steps.largest >= alone.largest).all()
    assert steps.bound is not None
    assert (steps.largest <= steps.bound).all()
    del good.certificate["regions"][0]["step_bound"]
    (unbounded,) = compare(good.certificate, good.hil, good.float_network, good.network, good.data).per_step
    assert unbounded.bound is None
    for region in good.certificate["regions"]:
        region["step_bound"] = list(range(1, 1 + len(steps.largest)))
    (bounded,) = compare(good.certificate, good.hil, good.float_network, good.network, good.data).per_step
    assert bounded.bound is not None
    assert bounded.bound.tolist() == region["step_bound"]


def test_schema_refuses_contradictions(good: Evidence, tmp_path: Path) -> None:
    document, _ = run(good, tmp_path)
    for change in (
        {"failures": ["something"]},
        {"verdict": "FAIL"},
        {"verdict": "MAYBE"},
        {"emulated": None},
        {"artifacts": {"a": "not a hash"}},
        {"created": "yesterday"},
        {"extra": 1},
    ):
        with pytest.raises(InputError, match=r"no valid signoff\.json"):
            validate_signoff({**document, **change})
    del document["notes"]
    with pytest.raises(InputError, match="notes"):
        validate_signoff(document)


@pytest.mark.parametrize("verdict", ["invalid", "cannot check", None])
def test_nothing_is_signed_off_but_what_the_checker_found_valid(good: Evidence, tmp_path: Path, verdict: str) -> None:
    checked = None if verdict is None else {**VALID, "verdict": verdict, "item": "region 0 ('0')/bound"}
    document, _ = run(good, tmp_path, checked=checked)
    assert document["verdict"] == "FAIL"
    assert document["proved"] == []
    told = f"the independent checker does not find the certificate valid: {(checked or {}).get('item', 'it was not')}"
    assert any(f.startswith(told) for f in document["failures"])
    assert document["checker"]["verdict"] == (verdict or "cannot check")
