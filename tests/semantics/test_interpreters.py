"""The adapters, and the comparison of TFLite with TFLM."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys

import numpy as np
import pytest
from semantics_support import FIXTURES, mixed_inputs

from codesign.errors import InputError, MissingToolError
from codesign.quantization import read_integer_network
from codesign.semantics import TfliteInterpreter, TflmInterpreter, compare_interpreters, simulate


def test_tflm_resets_between_sequences():
    pytest.importorskip("tflite_micro")
    network = read_integer_network(FIXTURES / "sequence.tflite")
    interpreter = TflmInterpreter(network.content)
    q = mixed_inputs(network.input.shape, 200, 0)
    first = interpreter.run(q)
    assert np.array_equal(interpreter.run(q[::-1].copy()), first[::-1])


def test_interpreters_leave_the_rounding_mode_alone():
    pytest.importorskip("tflite_micro")
    library = ctypes.util.find_library("m")
    if not library or not sys.platform.startswith("linux"):
        pytest.skip("no libm to ask")
    libm = ctypes.CDLL(library)
    before = libm.fegetround()
    network = read_integer_network(FIXTURES / "tiny.tflite")
    q = mixed_inputs(network.input.shape, 30, 0)
    TflmInterpreter(network.content).run(q)
    assert libm.fegetround() == before


def test_compare_reports_what_the_two_interpreters_give(fixture_path):
    network = read_integer_network(fixture_path)
    q = mixed_inputs(network.input.shape, 600, 1)
    try:
        tflite = TfliteInterpreter(network.content)
    except MissingToolError:
        pytest.skip("no TFLite interpreter")
    report = compare_interpreters(network, q)
    exact = simulate(network, q)
    difference = np.abs(tflite.run(q).reshape(exact.shape).astype(int) - exact)
    assert report["inputs"] == len(q)
    assert report["differing_inputs"] == int(difference.reshape(len(q), -1).any(1).sum())
    assert report["max_difference"] == difference.max()
    assert sum(report["histogram"].values()) == exact.size
    assert report["histogram"]["0"] == int((difference == 0).sum())
    assert 0 < report["share"] < 1, "TFLite and TFLM are known to disagree on these models"
    assert report["max_difference"] <= 4


def test_compare_needs_inputs():
    network = read_integer_network(FIXTURES / "tiny.tflite")
    with pytest.raises(InputError, match="No inputs"):
        compare_interpreters(network, np.zeros((0, 4, 3), np.int8))


@pytest.mark.parametrize("kind", [TflmInterpreter, TfliteInterpreter])
def test_float_models_are_refused(kind):
    pytest.importorskip("tflite_micro")
    with pytest.raises(InputError):
        kind((FIXTURES / "tiny.float.tflite").read_bytes())


def test_missing_packages_are_named(monkeypatch):
    for name in (
        "tflite_micro.python.tflite_micro",
        "tflite_runtime.interpreter",
        "ai_edge_litert.interpreter",
        "tensorflow",
    ):
        monkeypatch.setitem(sys.modules, name, None)
    content = (FIXTURES / "tiny.tflite").read_bytes()
    with pytest.raises(MissingToolError, match="pip install tflite-micro"):
        TflmInterpreter(content)
    with pytest.raises(MissingToolError, match="pip install"):
        TfliteInterpreter(content)
