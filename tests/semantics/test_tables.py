"""Primitives, tables, quantisation of inputs, and the variants' data."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from semantics_support import FIXTURES

from codesign.errors import InputError
from codesign.quantization import Multiplier, read_integer_network
from codesign.quantization.integer import IntActivation, Profile, QuantizedTensor
from codesign.quantization.multipliers import quantize_multiplier
from codesign.semantics import (
    activation_table,
    dequantize,
    quantize,
    quantize_input,
    sigmoid_table,
    softmax_parameters,
    tanh_table,
    variants,
)
from codesign.semantics.activations import exp_on_negative_values, one_over_one_plus
from codesign.semantics.primitives import mbqm, rdbp, sat16, srdhm

INT32 = st.integers(-(2**31) + 1, 2**31 - 1)


def half_away(v: Fraction) -> int:
    return math.floor(abs(v) + Fraction(1, 2)) * (1 if v >= 0 else -1)


@given(INT32, INT32)
def test_srdhm_rounds_ties_up(a, m):
    assert int(srdhm(a, m)) == math.floor(Fraction(a * m, 2**31) + Fraction(1, 2))


@given(INT32, st.integers(0, 31))
def test_rdbp_rounds_half_away_from_zero(v, n):
    assert int(rdbp(v, n)) == half_away(Fraction(v, 2**n))


@given(st.floats(2.0**-31, 2.0**20))
def test_quantize_multiplier_is_the_nearest_31_bit_value(real):
    multiplier = quantize_multiplier(real)
    assert 2**30 <= multiplier.m < 2**31
    assert abs(Fraction(multiplier.real) / Fraction(real) - 1) <= Fraction(1, 2**31)


def test_quantize_multiplier_corner_cases():
    assert quantize_multiplier(0.0) == Multiplier(0, 0)
    assert quantize_multiplier(2.0**-15) == Multiplier(1 << 30, -14)
    assert quantize_multiplier(1 - 2.0**-40) == Multiplier(1 << 30, 1)
    assert quantize_multiplier(2.0**-32) == Multiplier(1 << 30, -31)
    assert quantize_multiplier(2.0**-33) == Multiplier(0, 0)
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite scale"):
            quantize_multiplier(bad)


@given(st.integers(-(2**24), 2**24), st.floats(2.0**-20, 32.0))
def test_mbqm_is_within_one_of_the_real_product(v, real):
    multiplier = quantize_multiplier(real)
    assert abs(int(mbqm(v, multiplier)) - Fraction(v) * Fraction(multiplier.real)) <= 1


def test_sat16():
    assert sat16(np.array([-40000, -5, 40000])).tolist() == [-32768, -5, 32767]


def test_sigmoid_and_tanh_tables_are_as_close_as_the_design_measured():
    x = np.arange(-(1 << 15), 1 << 15)
    sigma = sigmoid_table()
    assert sigma.shape == (65536,)
    assert sigma.dtype == np.int16
    assert np.abs(sigma / 2**15 - 1 / (1 + np.exp(-x / 4096))).max() * 2**15 < 1.02
    for shift in range(-18, 1):
        tau = tanh_table(shift)
        assert tau.shape == (65536,)
        assert tau.dtype == np.int16
        assert np.abs(tau / 2**15 - np.tanh(x * 2.0**shift)).max() * 2**15 < 2.6
        assert (np.diff(tau.astype(int)) >= 0).all()
    assert np.abs(tanh_table(-12) / 2**15 - np.tanh(x / 4096)).max() * 2**15 < 2.44
    assert tanh_table() is tanh_table(-12) or np.array_equal(tanh_table(), tanh_table(-12))
    assert (np.diff(sigma.astype(int)) >= 0).all()
    with pytest.raises(ValueError, match="read-only"):
        sigma[0] = 1
    with pytest.raises(ValueError, match="outside"):
        tanh_table(3)


def test_gemmlowp_functions_are_close_to_the_real_ones():
    a = -np.linspace(0, 2**31 - 1, 4001).astype(np.int64)
    assert np.abs(exp_on_negative_values(a, 5) / 2**31 - np.exp(a / 2.0**26)).max() < 3e-7
    b = np.linspace(0, 2**31 - 1, 4001).astype(np.int64)
    assert np.abs(one_over_one_plus(b) / 2**31 - 1 / (1 + b / 2.0**31)).max() < 1e-7


def test_softmax_parameters_describe_the_exponential():
    tensor = QuantizedTensor("x", (4,), "int8", 0.1, 3)
    p = softmax_parameters(IntActivation("s", "softmax", tensor, tensor, 1.0))
    d = np.arange(256)
    assert np.allclose(p.exp_q0 / 2**31, np.where(d <= p.cutoff, np.exp(-0.1 * d), 0), atol=1e-6)
    assert p.exp_sum[0] == 1 << 19
    with pytest.raises(ValueError, match="not a function of one value"):
        activation_table(IntActivation("s", "softmax", tensor, tensor, 1.0))


def test_quantisation_rule_ties_saturation_and_nan():
    tensor = QuantizedTensor("x", (1,), "int8", 0.5, 10)
    x = [0.25, -0.25, 0.2499, 0.75, 1e30, -1e30, math.nan, math.inf, -math.inf, 58.5, -69.0]
    assert quantize(tensor, x).tolist() == [11, 9, 10, 12, 127, -128, 10, 127, -128, 127, -128]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(-128, 127))
def test_quantisation_rule_against_exact_arithmetic(x, zero_point):
    scale = float(np.float32(0.0078125 * 1.003))
    tensor = QuantizedTensor("x", (1,), "int8", scale, zero_point)
    with np.errstate(over="ignore"):
        ratio = float(np.float32(x) / np.float32(scale))
    nearest = half_away(Fraction(ratio)) if math.isfinite(ratio) else int(math.copysign(10**9, ratio))
    assert int(quantize(tensor, np.float32(x))) == max(-128, min(127, nearest + zero_point))


def test_dequantize_inverts_quantize_on_the_grid(fixture_path):
    network = read_integer_network(fixture_path)
    q = np.random.default_rng(0).integers(-128, 128, (50, *network.input.shape)).astype(np.int8)
    x = dequantize(network.input, q)
    assert x.dtype == np.float64
    assert np.array_equal(quantize_input(network, x), q)


@pytest.mark.parametrize(
    "x", [np.zeros((1, 2, 2)), np.zeros((4, 3)), np.full((1, 4, 3), "a"), np.zeros((1, 4, 3), complex)]
)
def test_quantize_input_refuses_other_shapes_and_types(x):
    with pytest.raises(InputError, match="Inputs have to be numbers of shape"):
        quantize_input(read_integer_network(FIXTURES / "tiny.tflite"), x)


def test_variants_name_every_profile():
    data = variants()
    assert {v.profile for v in data if v.profile} == set(get_args(Profile))
    assert len({v.name for v in data}) == len(data) == 5
