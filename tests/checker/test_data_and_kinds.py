"""What a certificate says of samples, labels and the kinds of its regions follows from the data and the boxes."""

import json

import numpy as np
import pytest

from codesign.recheck import claim

BALL = {"radius": "1lsb", "samples": 3, "top1": 0.5}
REGION = ("kind", "radius", "free_from", "grid_steps", "box")


@pytest.fixture
def balls(forge):
    return forge("tiny", **BALL)


@pytest.fixture
def of_kind(forge):
    """Certificates of other kinds, by name."""
    from codesign.verification import Neighbourhood

    def make(kind):
        around = {"prefix": Neighbourhood(free_from=1), "grid": Neighbourhood(grid=1)}[kind]
        return forge("tiny", radius="1lsb", samples=2, around=around)

    return make


def test_with_the_data_everything_is_derived_and_the_claim_is_told(balls):
    result = balls.check()
    assert (result.verdict, result.item, result.not_derived) == ("valid", "", ())
    told = claim(result.document)
    assert told["float_sha256"] == balls.document["float_sha256"]
    assert told["profiles"] == balls.document["int8"]["profiles"]
    assert told["regions"]["count"] == 3
    assert told["regions"]["kinds"] == {"ball": 3}
    assert 0 < told["regions"]["half_width"]["smallest"] <= told["regions"]["half_width"]["largest"]
    assert told["regions"]["half_width"]["largest"] <= balls.region["radius"] * (1 + 1e-12)
    assert told["criteria"] == {"top1_share": {"asked": 0.5, "verdict": balls.document["criteria"]["top1_verdict"]}}
    assert told["domain"] == balls.document["domain"]


def test_without_the_data_a_share_by_labels_has_no_verdict(balls, forge):
    result = balls.check(data=None)
    assert result.verdict == "cannot check"
    assert "--data" in result.item
    result = forge("tiny", radius="1lsb", samples=3).check(data=None)  # no share is asked for
    assert (result.verdict, result.not_derived) == ("valid", ("regions/sample", "regions/counted"))


def test_what_counts_follows_from_the_labels(balls):
    counted = [r["counted"] for r in balls.document["regions"]]
    balls.region["counted"] = not counted[0]
    flags = [r["top1"] for r in balls.document["regions"] if r["counted"]]
    balls.document["summary"]["top1_counted"] = len(flags)
    balls.document["summary"]["top1_share"] = float(np.mean([f == "proved" for f in flags])) if flags else 0.0
    result = balls.check()
    assert result.verdict == "invalid"
    assert "counted" in result.item or "share" in result.item or "top1" in result.item


def test_without_labels_every_region_counts(balls):
    balls.document["data"]["labels_sha256"] = None
    balls.region["counted"] = False
    result = balls.check()
    assert result.verdict == "invalid"


@pytest.mark.parametrize("key", ["sha256", "labels_sha256", "samples"])
def test_other_data_are_told_by_name(balls, key):
    balls.document["data"][key] = 5 if key == "samples" else "0" * 64
    result = balls.check()
    assert (result.verdict, result.item) == ("invalid", f"data/{key}: the certificate names other data, or none")


def test_regions_around_samples_name_their_data(balls):
    balls.document["data"] = None
    result = balls.check(data=None)
    assert result.verdict == "invalid"
    assert "data" in result.item


def test_a_region_is_around_the_sample_that_it_names(balls):
    first, second = balls.document["regions"][:2]
    first["sample"], second["sample"] = second["sample"], first["sample"]
    result = balls.check()
    assert result.verdict == "invalid"
    assert "/center: not the sample 1" in result.item
    first["sample"] = 10_000
    assert "/sample" in balls.check().item


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("ball", {"kind": "noise"}),
        ("ball", {"kind": "domain"}),
        ("ball", {"kind": "grid", "grid_steps": 1}),
        ("ball", {"grid_steps": 1}),
        ("ball", {"radius": None}),
        ("prefix", {"radius": 1.0}),
        ("prefix", {"radius": 1e-9}),
        ("prefix", {"kind": "noise"}),
        ("prefix", {"free_from": 0}),
        ("prefix", {"free_from": 99}),
        ("grid", {"kind": "noise"}),
        ("grid", {"kind": "noise", "grid_steps": None}),
        ("grid", {"kind": "ball", "grid_steps": None}),
        ("grid", {"radius": 0.5}),
        ("grid", {"grid_steps": 7}),
        ("grid", {"grid_steps": None}),
    ],
)
def test_kind_and_size_follow_from_the_box(balls, of_kind, kind, change):
    forged = balls if kind == "ball" else of_kind(kind)
    assert forged.check().verdict == "valid"
    before = {key: forged.region[key] for key in REGION}
    forged.region.update(change)
    if (kind, change) == ("prefix", {"kind": "noise"}):  # a box all the same: the radius says its largest half-width
        return
    result = forged.check()
    assert result.verdict == "invalid", (before, change)
    assert "region" in result.item or "kind" in result.item


@pytest.mark.parametrize(
    "place", [(), ("float",), ("int8",), ("domain",), ("data",), ("parameters",), ("criteria",), ("arithmetic",),
              ("arithmetic", "tables", 0), ("summary",), ("summary", "top1"), ("proof",), ("proof_file",),
              ("regions", 0), ("regions", 0, "norms"), ("regions", 0, "margins", 0), ("input_quantization",)],
    ids=lambda p: "/".join(map(str, p)) or "top",
)  # fmt: skip
def test_no_unknown_key_is_admitted(balls, place):
    node = balls.document
    for key in place:
        node = node[key]
    node["certified_by"] = "somebody"
    result = balls.check()
    assert result.verdict == "invalid"
    assert "certified_by" in result.item


def closed(schema, path=""):
    """Places of a schema that describe an object and admit unknown keys."""
    found = []
    if isinstance(schema, dict):
        kind = schema.get("type")
        if (kind == "object" or (isinstance(kind, list) and "object" in kind)) and "additionalProperties" not in schema:
            found.append(path)
        if schema.get("additionalProperties") is True:
            found.append(path)
        for key, value in schema.items():
            found += closed(value, f"{path}/{key}")
    elif isinstance(schema, list):
        for k, value in enumerate(schema):
            found += closed(value, f"{path}/{k}")
    return found


@pytest.mark.parametrize("name", ["certificate/certificate", "hil/hil", "signoff/signoff"])
def test_no_schema_admits_an_unknown_key(name):
    from codesign import signoff

    folder = signoff.__path__[0].rsplit("/", 1)[0]
    with open(f"{folder}/{name}.schema.json", encoding="utf-8") as stream:
        assert closed(json.load(stream)) == []


def test_a_missing_file_is_told_as_missing(balls, tmp_path):
    from codesign.errors import InputError
    from codesign.recheck import check

    with pytest.raises(InputError, match=r"none.json' cannot be read \(No such file or directory\)"):
        check(tmp_path / "none.json", balls.float_path, balls.int8_path)
