"""Untrusted content, mutated by hypothesis: nothing but the tool's own error. tools/fuzz_loaders.py does a million."""

from __future__ import annotations

import copy
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_device import frame
from hil_support import FIXTURES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codesign.certificate import load_certificate
from codesign.errors import CodesignError
from codesign.hil import Journal, protocol, validate_result
from codesign.hil.deployment import certified_regions
from codesign.network import load_network
from codesign.proof.proof_file import ProofFile, pack, unpack
from codesign.quantization import load_calibration, read_integer_network
from codesign.resources import resource_dir
from codesign.toolchain import list_boards, load_board

SEEDS = Path(__file__).parent / "seeds"
SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)

# Values that parsers stumble over.
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just([]), st.just({}),
    st.sampled_from(["..", "../../x", "/dev/zero", "\0", "*/", "\u2028", -1, 0, 2**31, 2**63, 10**400, 1e308, "NaN"]),
    st.lists(st.integers(-300, 300), max_size=5),
)  # fmt: skip


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON-like tree."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    found = [(tree, key) for key in keys]
    for key in keys:
        found += places(tree[key])
    return found


@st.composite
def mutated_tree(draw: Callable[..., Any], seed: Any) -> Any:
    tree = copy.deepcopy(seed)
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(places(tree) or [({"x": 0}, "x")]))
        action = draw(st.sampled_from(["replace", "delete", "add", "repeat"]))
        if action == "delete":
            del container[key]
        elif action == "add" and isinstance(container, dict):
            container[draw(st.text(max_size=8))] = draw(ODD)
        elif action == "repeat" and isinstance(container, list):
            container *= draw(st.integers(0, 3))
        else:
            container[key] = draw(ODD)
    return tree


@st.composite
def mutated_bytes(draw: Callable[..., Any], seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        action = draw(st.sampled_from(["set", "cut", "insert", "splice", "word"]))
        if action == "set" and data:
            data[place] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])) ^ draw(st.integers(0, 3))
        elif action == "cut":
            del data[place : place + draw(st.integers(1, 64))]
        elif action == "insert":
            data[place:place] = draw(st.binary(max_size=16))
        elif action == "splice":
            other = draw(st.integers(0, max(len(data) - 1, 0)))
            data[place : place + 8] = data[other : other + 8]
        else:
            word = draw(st.sampled_from([0, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFF00]))
            data[place : place + 4] = word.to_bytes(4, "little")
    return bytes(data)


def refused_or_fine(load: Callable[[Path], Any], content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        told = ""
        try:
            load(path)
        except CodesignError as error:
            told = str(error)
        assert "\n" not in told
        assert len(told) < 2000
        assert [p.name for p in Path(folder).iterdir()] == [name]


@given(mutated_tree(json.loads((SEEDS / "certificate").read_text())))
@settings(SETTINGS, max_examples=150)
def test_certificates(tree: Any) -> None:
    network = read_integer_network(FIXTURES / "tiny.tflite")
    content = json.dumps(tree).encode()
    refused_or_fine(lambda path: certified_regions(load_certificate(path), network), content, "certificate.json")


@pytest.mark.parametrize("place", ["center", "radius", "bound"])
@pytest.mark.parametrize("value", [10**400, 1e308, -(10**30)])
def test_certificates_with_numbers_beyond_reason(place: str, value: Any, tmp_path: Path) -> None:
    tree = json.loads((SEEDS / "certificate").read_text())
    region = tree["regions"][0]
    while isinstance(region[place], list):
        region, place = region[place], 0  # type: ignore[assignment]
    region[place] = value
    network = read_integer_network(FIXTURES / "tiny.tflite")
    refused_or_fine(
        lambda path: certified_regions(load_certificate(path), network), json.dumps(tree).encode(), "certificate.json"
    )


@given(mutated_tree(json.loads((SEEDS / "hil").read_text())))
@settings(SETTINGS, max_examples=200)
def test_results(tree: Any) -> None:
    told = "no valid hil.json"
    try:
        validate_result(tree)
    except CodesignError as error:
        told = str(error)
    assert "no valid hil.json" in told


@given(mutated_bytes((SEEDS / "journal").read_bytes()))
@settings(SETTINGS, max_examples=200)
def test_journals(content: bytes) -> None:
    refused_or_fine(lambda path: Journal(path, {"a": 1}, resume=True).close(), content, "hil.jsonl")


@pytest.mark.parametrize("name", list_boards())
def test_boards_with_mutated_bytes(name: str) -> None:
    seed = (resource_dir("boards") / f"{name}.toml").read_bytes()

    @given(mutated_bytes(seed))
    @settings(SETTINGS, max_examples=40)
    def run(content: bytes) -> None:
        refused_or_fine(load_board, content, "board.toml")

    run()


@given(
    st.sampled_from(["baud", "clock_hz", "size", "origin", "pll_m", "pll_n", "pll_p", "stack_bytes", "hse_hz", "af"]),
    st.one_of(st.integers(), st.sampled_from([2**31, 2**32, 2**63, 10**30, 0, -1]), st.floats(), st.text(max_size=9)),
)
@settings(SETTINGS, max_examples=200)
def test_board_values(key: str, value: Any) -> None:
    import re

    seed = (resource_dir("boards") / "nucleo_f746.toml").read_text()
    written = json.dumps(value) if isinstance(value, str) else repr(value)
    content = re.sub(rf"\b{key} = [0-9x_A-F]+", lambda _: f"{key} = {written}", seed, count=1)
    assert content != seed or written in seed
    refused_or_fine(load_board, content.encode("utf-8", "surrogatepass"), "board.toml")


@given(
    st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"\xc5\xd1", frame(0x82, 1, bytes(13))])), max_size=9)
)
@settings(SETTINGS, max_examples=300)
def test_serial_frames(chunks: list[bytes]) -> None:
    decoder = protocol.Decoder()
    stream = b"".join(chunks)
    found = [decoded for chunk in chunks for decoded in decoder.feed(chunk)] + decoder.flush()
    assert sum(len(protocol.encode(decoded)) for decoded in found) + decoder.discarded == len(stream)
    for decoded in found:
        assert protocol.encode(decoded) in stream
    parsers = (
        protocol.parse_identity, protocol.parse_inference, protocol.parse_trace_step, protocol.parse_metrics
    )  # fmt: skip
    for parse in parsers:
        try:
            parse(stream)
        except CodesignError:
            continue


@given(mutated_bytes((FIXTURES / "tiny.tflite").read_bytes()))
@settings(SETTINGS, max_examples=150)
def test_int8_models(content: bytes) -> None:
    refused_or_fine(read_integer_network, content, "model.tflite")


@given(mutated_bytes((FIXTURES / "tiny.float.tflite").read_bytes()))
@settings(SETTINGS, max_examples=100)
def test_float_models(content: bytes) -> None:
    refused_or_fine(load_network, content, "model.tflite")


@given(mutated_bytes((FIXTURES / "tiny.calib.npz").read_bytes()))
@settings(SETTINGS, max_examples=100)
def test_calibration_files(content: bytes) -> None:
    refused_or_fine(lambda path: load_calibration(path, (4, 3)), content, "x.npz")


@pytest.mark.parametrize("member", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_archives_with_members_that_are_no_arrays(member: bytes, tmp_path: Path) -> None:
    """numpy gives a member without an array's header as bytes."""
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", member)
    with pytest.raises(CodesignError, match=r"is not a readable \.npz file"):
        load_calibration(path, (4, 3))


PROOF = pack(
    ProofFile({"steps": []}, *np.zeros((2, 2, 4, 3)), np.zeros((2, 5)), np.zeros((2, 3), bool), np.zeros((2, 0)))
)


@given(mutated_bytes(PROOF), st.sampled_from(["", "header.npy", "lo.npy", "slopes.npy"]), st.binary(max_size=200))
@settings(SETTINGS, max_examples=100)
def test_proof_files(content: bytes, member: str, inside: bytes) -> None:
    """Damaged archives, and sound ones with a member that is none."""
    if member:
        with zipfile.ZipFile(io.BytesIO(PROOF)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()} | {member: inside}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, stored in members.items():
                archive.writestr(name, stored)
        content = buffer.getvalue()
    try:
        unpack(content)
    except ValueError:
        return
    assert not member


@given(mutated_bytes((FIXTURES / "tiny.h5").read_bytes()))
@settings(SETTINGS, max_examples=4)
def test_hdf5_models(content: bytes) -> None:
    refused_or_fine(load_network, content, "model.h5")
