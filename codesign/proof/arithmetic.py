"""The enumerated facts about an integer network's arithmetic, as they are stored in a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, get_args

import numpy as np

from codesign.proof.requantization import requantization_range
from codesign.proof.tables import Array, Table, table_errors, table_range
from codesign.quantization.integer import IntActivation, IntDense, IntegerNetwork, IntLstm, Multiplier, Profile
from codesign.semantics import (
    activation_table,
    reciprocal_table,
    sigmoid_table,
    softmax16_parameters,
    softmax_parameters,
    tanh_table,
)

ARGUMENTS = 65536
RECIPROCAL = 2.0**-24  # the reciprocal of a softmax's sum by three Newton steps: docs/soundness.md


def arithmetic_facts(networks: Sequence[IntegerNetwork]) -> dict[str, Any]:
    """Errors of all tables over all their arguments, in real units, and of every operator's rescalings.

    `networks`: the same file under each semantics profile. Rescaling errors are in output steps: the largest over all
    accumulators, by residue classes; for int16 accumulators, of one rounding (1/2).
    """
    lstms = [op for op in networks[0].ops if isinstance(op, IntLstm)]
    wanted = {("sigmoid", -12), ("tanh", -12), *(("tanh", op.cell_shift) for op in lstms)} if lstms else set()
    tables: list[dict[str, Any]] = []
    for function, shift in sorted(wanted):
        lo, hi = lstm_table_range(function, shift)
        tables.append({"function": function, "scale_log2": shift, "arguments": ARGUMENTS, "lower": lo, "upper": hi})
    for op in networks[0].ops:
        if isinstance(op, IntActivation) and op.kind != "softmax":
            lo, hi = activation_range(op)
            count = op.input.q_max - op.input.q_min + 1
            tables.append({"operator": op.name, "function": op.kind, "arguments": count, "lower": lo, "upper": hi})
        elif isinstance(op, IntActivation):
            tables.append({"operator": op.name, "function": "softmax", "exp_errors": list(softmax_errors(op))})
    rescalings = []
    for network in networks:
        for op in network.ops:
            for use, multipliers, wide in _multipliers(op, network.activations == "int16"):
                ranges = [requantization_range(m.m, m.e) for m in multipliers]
                worst = 0.5 if wide else float(max(max(-lo, hi) for lo, hi in ranges))
                entry = {"operator": op.name, "profile": network.profile, "use": use, "largest_error": worst}
                rescalings.append({**entry, "multipliers": len(multipliers)})
    return {"tables": tables, "rescalings": rescalings}


def lstm_table_range(function: str, cell_shift: int) -> tuple[float, float]:
    """Range of an LSTM's table minus its function over all int16 arguments of scale 2^cell_shift, in real units."""
    if function == "sigmoid":
        return table_range(sigmoid_table(), 2.0**-15, "sigmoid", 2.0**-12, -32768)
    return table_range(tanh_table(cell_shift), 2.0**-15, "tanh", 2.0**cell_shift, -32768)


@lru_cache(maxsize=16)
def _lstm_table_errors(function: str, cell_shift: int) -> Array:
    """Larger magnitude of each entry's error, (65536,)."""
    if function == "sigmoid":
        lo, hi = table_errors(sigmoid_table(), 2.0**-15, "sigmoid", 2.0**-12, -32768)
    else:
        lo, hi = table_errors(tanh_table(cell_shift), 2.0**-15, "tanh", 2.0**cell_shift, -32768)
    return np.maximum(-lo, hi)


def lstm_table_error(function: str, cell_shift: int, lo: Array, hi: Array) -> Array:
    """Largest |table - function| of an LSTM's table over the int16 arguments of scale 2^cell_shift in [lo, hi]."""
    errors, step = _lstm_table_errors(function, cell_shift), 2.0**cell_shift
    first, last = (np.clip(f(e / step) + 32768, 0, 65535).astype(np.int64) for f, e in ((np.floor, lo), (np.ceil, hi)))
    pairs = zip(first.ravel(), last.ravel(), strict=True)
    return np.array([errors[a : b + 1].max() for a, b in pairs]).reshape(lo.shape)


@lru_cache(maxsize=64)
def activation_range(op: IntActivation) -> tuple[float, float]:
    """Range of a LOGISTIC's, TANH's or RELU's output minus its function of the dequantized input.

    All inputs and profiles are enumerated. RELU is exact in rational arithmetic; binary64 is off by a few roundings.
    """
    first = op.input.q_min - op.input.zero_point
    ends = []
    for profile in get_args(Profile):
        table = activation_table(op, profile)
        if op.kind == "relu":
            x = op.input.scale * (np.arange(len(table)) + float(first))
            error = op.output.scale * (table.astype(np.float64) - op.output.zero_point) - np.maximum(x, 0.0)
            slack = 1e-13 * (1 + float(np.abs(x).max()))
            ends.append((float(error.min()) - slack, float(error.max()) + slack))
        else:
            function: Any = op.kind
            ends.append(table_range(table, op.output.scale, function, op.input.scale, first, op.output.zero_point))
    return min(lo for lo, _ in ends), max(hi for _, hi in ends)


@lru_cache(maxsize=64)
def softmax_errors(op: IntActivation) -> tuple[float, float]:
    """Largest errors of a softmax's two tables: exponentials (result, sum), or for int16 (exponential, reciprocal).

    All differences of inputs are enumerated. The product beta scale is rounded once, which moves an exponential by
    less than 1e-16. An entry of the reciprocal table stands for [x, x + 2^-16].
    """
    argument = -op.beta * op.input.scale
    if op.input.dtype == "int8":
        p = softmax_parameters(op)
        pairs: list[tuple[Table, float]] = [(p.exp_q0, 2.0**-31), (p.exp_sum, 2.0**-19)]
    else:
        pairs = [(softmax16_parameters(op).exp_q15, 2.0**-15)]
    errors = [max(abs(e) for e in table_range(table, unit, "exp", argument, 0)) + 1e-13 for table, unit in pairs]
    if op.input.dtype == "int8":
        return errors[0], errors[1]
    x = np.arange(65537, dtype=np.float64) / 65536.0
    stored = reciprocal_table() * 2.0**-15
    ends = (1.0 / (1.0 + x[:-1]), 1.0 / (1.0 + x[1:]))
    return errors[0], max(float(np.abs(stored - end).max()) for end in ends) + 1e-13


def softmax_range(op: IntActivation, probability: Array) -> tuple[Array, Array]:
    """Range of integer - real softmax of the same logits, elementwise; the real one is at most `probability`.

    docs/soundness.md, lemma 9.
    """
    (first, second), classes = softmax_errors(op), op.output.shape[-1]
    if op.input.dtype == "int16":
        relative = 1.01 * classes * first + 2.02 * second + 2.0**-15
        lost = np.asarray(1.01 * first + probability * relative + 2.0**-15 + 1e-9)
        return -lost, lost
    step, arithmetic = op.output.scale, first + (classes - 1) * second + RECIPROCAL + 2.0**-31
    half, top = 0.5 * step + arithmetic, 255.5 * step - arithmetic
    lo = np.where(probability >= top, -(step + arithmetic), -half)
    return lo, np.full_like(lo, half)


def _multipliers(op: object, int16: bool) -> list[tuple[str, tuple[Multiplier, ...], bool]]:
    """(what is rescaled, by what, whether the accumulator is of 64 bits)."""
    if isinstance(op, IntLstm):
        return [
            ("gates from input", op.input_multipliers, int16),
            ("gates from hidden state", op.recurrent_multipliers, int16),
            ("forget gate * cell", (op.forget_multiplier,), False),
            ("input gate * cell gate", (op.input_gate_multiplier,), False),
            ("output gate * tanh", (op.hidden_multiplier,), False),
        ]
    return [("accumulator", op.multipliers, int16)] if isinstance(op, IntDense) else []
