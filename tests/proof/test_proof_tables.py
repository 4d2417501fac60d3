"""Tables and rescalings: the enumerations against the arithmetic itself."""

from fractions import Fraction

import flint
import numpy as np
import pytest

from codesign.proof.arithmetic import arithmetic_facts
from codesign.proof.functions import working_precision
from codesign.proof.requantization import (
    rdbp_range,
    requantization_bound,
    requantization_range,
    srdhm_range,
)
from codesign.proof.tables import function_values, table_errors, table_range
from codesign.quantization.integer import Multiplier
from codesign.semantics import sigmoid_table, tanh_table
from codesign.semantics.primitives import mbqm


@pytest.mark.parametrize(("function", "shift"), [("sigmoid", -12), ("tanh", -12), ("tanh", -15), ("tanh", -9)])
def test_every_entry_lies_in_its_enclosure_and_the_extremes_are_reached(function, shift):
    table = sigmoid_table() if function == "sigmoid" else tanh_table(shift)
    lo, hi = table_errors(table, 2.0**-15, function, 2.0**shift, -32768)
    assert lo.shape == hi.shape == (65536,)
    assert (hi - lo).max() < 1e-14
    with working_precision():
        for k in range(0, 65536, 97):
            z = flint.arb(k - 32768) * flint.arb(2) ** shift
            exact = 1 / (1 + (-z).exp()) if function == "sigmoid" else z.tanh()
            error = flint.arb(int(table[k])) / 32768 - exact
            assert error > lo[k]
            assert error < hi[k]
    assert table_range(table, 2.0**-15, function, 2.0**shift, -32768) == (lo.min(), hi.max())


def test_a_wrong_entry_shows():
    table = sigmoid_table().copy()
    before = table_range(table, 2.0**-15, "sigmoid", 2.0**-12, -32768)
    table[40000] += 2
    after = table_range(table, 2.0**-15, "sigmoid", 2.0**-12, -32768)
    assert after[1] > before[1] + 0.9 * 2.0**-15


def test_exp_values_and_zero_points():
    values = function_values("exp", -0.05, 0, 255)
    assert np.abs(values - np.exp(-0.05 * np.arange(256))).max() < 1e-15
    q = np.arange(-128, 128, dtype=np.int16)
    lo, hi = table_errors(q, 1 / 128, "tanh", 1e-9, -128, zero_point=-128)
    assert hi[128] == pytest.approx(1.0)
    assert lo[0] == pytest.approx(128e-9, abs=1e-10)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 12])
def test_rounding_shift_over_all_residues_of_both_signs(n):
    from codesign.semantics.primitives import rdbp

    s = np.arange(-(3 << n), 3 << n)
    errors = [Fraction(int(o)) - Fraction(int(v), 1 << n) for v, o in zip(s, rdbp(s, n), strict=True)]
    assert (min(errors), max(errors)) == rdbp_range(n)


@pytest.mark.parametrize("m", [1 << 30, 3 << 29, 5 << 28, (1 << 30) + (1 << 14), 7 << 20])
@pytest.mark.parametrize("shift", [0, 1, 5])
def test_high_multiplication_over_all_residue_classes(m, shift):
    """The products run through multiples of gcd(m 2^shift, 2^31) modulo 2^31: one period of v has them all."""
    from math import gcd

    from codesign.semantics.primitives import srdhm

    period = (1 << 31) // gcd(m << shift, 1 << 31)
    assert period <= 1 << 17
    v = np.arange(period, dtype=np.int64)
    out = srdhm(v << shift, m)
    errors = out.astype(object) * (1 << 31) - (v << shift).astype(object) * m
    lo, hi = srdhm_range(m, shift)
    assert (min(errors), max(errors)) == (lo * (1 << 31), hi * (1 << 31))


@pytest.mark.parametrize(("m", "e"), [(1 << 30, -14), (1 << 30, -17), (5 << 28, -6), (3 << 29, 0), (7 << 28, 3)])
def test_rescaling_over_whole_periods(m, e):
    n = max(-e, 0)
    v = np.arange(-(1 << 10), 1 << 10, dtype=np.int64) if e >= 0 else np.arange(-(1 << (n + 3)), 1 << (n + 3))
    out = mbqm(v, Multiplier(m, e))
    real = Fraction(m) * Fraction(2) ** (e - 31)
    errors = [Fraction(int(o)) - int(x) * real for x, o in zip(v, out, strict=True)]
    lo, hi = requantization_range(m, e)
    assert lo <= min(errors)
    assert max(errors) <= hi
    assert Fraction(requantization_bound(m, e)) >= max(-lo, hi)
    assert max(-min(errors), max(errors)) > Fraction(9, 10) * max(-lo, hi) or max(-lo, hi) < Fraction(1, 2)


def test_facts_of_a_network_name_every_table_and_rescaling():
    from pathlib import Path

    from codesign.quantization import read_integer_network

    fixtures = Path(__file__).parent.parent / "fixtures"
    networks = [read_integer_network(fixtures / "stacked.tflite", p) for p in ("tflm-double", "tflm-float")]
    facts = arithmetic_facts(networks)
    shifts = {op.cell_shift for op in networks[0].ops if hasattr(op, "cell_shift")}
    tables = [t for t in facts["tables"] if "scale_log2" in t]
    softmax = [t for t in facts["tables"] if t["function"] == "softmax"]
    assert len(softmax) == 1
    assert max(softmax[0]["exp_errors"]) < 1e-4
    assert len(tables) + len(softmax) == len(facts["tables"])
    assert {(t["function"], t["scale_log2"]) for t in tables} == {
        ("sigmoid", -12),
        ("tanh", -12),
        *(("tanh", s) for s in shifts),
    }
    assert all(t["arguments"] == 65536 and t["lower"] < 0 < t["upper"] < 1e-4 for t in tables)
    lstms = sum(hasattr(op, "cell_shift") for op in networks[0].ops)
    uses = [r["use"] for r in facts["rescalings"]]
    assert uses.count("forget gate * cell") == 2 * lstms
    assert all(0.5 <= r["largest_error"] <= 1.0 for r in facts["rescalings"])
