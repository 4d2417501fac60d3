"""What an integer network multiplies its accumulators by, exactly.

int16 networks rescale int64 accumulators with 16-bit multipliers (MBQM64), which differ from the 32-bit ones by up to
2^-15 relatively. A 32-bit multiplier r 2^16 has the same value r 2^(e - 15) as the 16-bit one, and its rounding error
model (two roundings) covers MBQM64's single one: so the verifier reads an int16 network with such multipliers in its
place. Products of gates (cell, hidden) are rescaled by the 32-bit MBQM in both kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from codesign.quantization.integer import IntDense, IntegerNetwork, IntLstm, IntOp, Multiplier


def effective_network(network: IntegerNetwork) -> IntegerNetwork:
    """The network with its accumulators' multipliers as they act: unchanged where activations are int8."""
    if network.input.dtype == "int8":
        return network
    return replace(network, ops=tuple(map(_effective, network.ops)))


def _acting(multipliers: Sequence[Multiplier]) -> tuple[Multiplier, ...]:
    return tuple(Multiplier(m.reduced << 16, m.e) for m in multipliers)


def _effective(op: IntOp) -> IntOp:
    if isinstance(op, IntLstm):
        w, r = _acting(op.input_multipliers), _acting(op.recurrent_multipliers)
        assert len(w) == len(r) == 4
        return replace(op, input_multipliers=w, recurrent_multipliers=r)
    if isinstance(op, IntDense):
        return replace(op, multipliers=_acting(op.multipliers))
    return op
