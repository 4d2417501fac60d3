"""The enumerated facts about an integer network's arithmetic, as they are stored in a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codesign.proof.requantization import requantization_range
from codesign.proof.tables import table_range
from codesign.quantization.integer import IntDense, IntegerNetwork, IntLstm, Multiplier
from codesign.semantics import sigmoid_table, tanh_table

ARGUMENTS = 65536


def arithmetic_facts(networks: Sequence[IntegerNetwork]) -> dict[str, Any]:
    """Errors of the LSTMs' tables over all 65,536 arguments, in real units, and of every operator's rescalings.

    `networks`: the same file under each semantics profile. Rescaling errors are in output steps: the largest over all
    accumulators, by residue classes; for int16 accumulators, of one rounding (1/2).
    """
    lstms = [op for op in networks[0].ops if isinstance(op, IntLstm)]
    wanted = {("sigmoid", -12), ("tanh", -12), *(("tanh", op.cell_shift) for op in lstms)} if lstms else set()
    tables = []
    for function, shift in sorted(wanted):
        table = sigmoid_table() if function == "sigmoid" else tanh_table(shift)
        lo, hi = table_range(table, 2.0**-15, function, 2.0**shift, -32768)  # type: ignore[arg-type]
        tables.append({"function": function, "scale_log2": shift, "arguments": ARGUMENTS, "lower": lo, "upper": hi})
    rescalings = []
    for network in networks:
        for op in network.ops:
            for use, multipliers, wide in _multipliers(op, network.activations == "int16"):
                ranges = [requantization_range(m.m, m.e) for m in multipliers]
                worst = 0.5 if wide else float(max(max(-lo, hi) for lo, hi in ranges))
                entry = {"operator": op.name, "profile": network.profile, "use": use, "largest_error": worst}
                rescalings.append({**entry, "multipliers": len(multipliers)})
    return {"tables": tables, "rescalings": rescalings}


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
