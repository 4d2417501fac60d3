"""The profiles of TFLM with CMSIS-NN, against its LSTM step written out in Python's integers (docs/semantics.md)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codesign.quantization import read_integer_network, with_profile
from codesign.quantization.integer import IntLstm, Multiplier
from codesign.semantics import run_operator, sigmoid_table, simulate, tanh_table

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def clip16(v: int) -> int:
    return max(-32768, min(32767, v))


def rescale(v: int, m: Multiplier, wide: bool) -> int:
    """arm_nn_requantize, or arm_nn_requantize_s64 for the accumulators of int16 activations."""
    if wide:
        return (v * m.reduced + (1 << (14 - m.e))) >> (15 - m.e)
    high = ((v << max(m.e, 0)) * m.m + (1 << 30)) >> 31
    right = max(-m.e, 0)
    remainder, threshold = high & ((1 << right) - 1), ((1 << right) - 1) >> 1
    return (high >> right) + (remainder > threshold + (high < 0))


def step_by_step(op: IntLstm, x: np.ndarray) -> np.ndarray:
    """arm_lstm_unidirectional_s8 (s16): one sequence (T, D) -> hidden states (T, H)."""
    wide = op.input.dtype == "int16"
    sigma, tau, tau_cell = sigmoid_table(), tanh_table(-12), tanh_table(op.cell_shift)
    hidden, cell, rows = [op.output.zero_point] * op.units, [0] * op.units, []
    for t in range(len(x)):
        gates = []
        for g in range(4):
            row = []
            for k in range(op.units):
                acc = sum(int(w) * (int(v) - op.input.zero_point) for w, v in zip(op.W[g, k], x[t], strict=True))
                part = clip16(rescale(acc + int(op.b[g, k]), op.input_multipliers[g], wide))
                acc = sum(int(w) * (h - op.output.zero_point) for w, h in zip(op.R[g, k], hidden, strict=True))
                a = clip16(part + rescale(acc, op.recurrent_multipliers[g], wide))  # the recurrent part as it is
                row.append(int((tau if g == 2 else sigma)[a + 32768]))
            gates.append(row)
        for k in range(op.units):
            i, f, g, o = (gate[k] for gate in gates)
            c = clip16(rescale(f * cell[k], op.forget_multiplier, False))
            c = clip16(c + rescale(i * g, op.input_gate_multiplier, False))  # i g as it is
            cell[k] = max(-op.cell_clip_q, min(op.cell_clip_q, c)) if op.cell_clip_q else c
            h = rescale(o * int(tau_cell[cell[k] + 32768]), op.hidden_multiplier, False) + op.output.zero_point
            hidden[k] = max(op.output.q_min, min(op.output.q_max, h))
        rows.append(list(hidden))
    return np.array(rows)


@pytest.mark.parametrize("name", ["logits", "stacked.int16"])
@pytest.mark.parametrize("case", ["as it is", "recurrent parts saturate", "i g saturates"])
def test_lstm_is_cmsis_nn_s(name: str, case: str) -> None:
    network = read_integer_network(FIXTURES / f"{name}.tflite", "cmsis-nn-float")
    op = next(op for op in network.ops if isinstance(op, IntLstm))
    if case == "recurrent parts saturate":
        op = replace(op, recurrent_multipliers=tuple(replace(m, e=m.e + 6) for m in op.recurrent_multipliers))  # type: ignore[arg-type]
    if case == "i g saturates":
        op = replace(op, input_gate_multiplier=Multiplier(1 << 30, -12))
    rng = np.random.default_rng(5)
    q = rng.integers(op.input.q_min, op.input.q_max + 1, (6, *op.input.shape)).astype(network.activations)
    got = run_operator(op, q, network)
    assert all((got[k] == step_by_step(op, q[k])).all() for k in range(len(q)))
    reference = run_operator(op, q, replace(network, profile="tflm-float"))
    assert (got != reference).any() == (case != "as it is")


def test_scale_products_are_those_of_the_name() -> None:
    for product in ("double", "float"):
        network = read_integer_network(FIXTURES / "stacked.tflite", f"cmsis-nn-{product}")  # type: ignore[arg-type]
        other = with_profile(network, f"tflm-{product}")  # type: ignore[arg-type]
        for a, b in zip(network.ops, other.ops, strict=True):
            if isinstance(a, IntLstm) and isinstance(b, IntLstm):
                assert (a.input_multipliers, a.recurrent_multipliers) == (b.input_multipliers, b.recurrent_multipliers)
        q = np.random.default_rng(6).integers(-128, 128, (50, *network.input.shape)).astype(np.int8)
        assert (simulate(network, q) == simulate(other, q)).all()  # no gate of this model saturates
