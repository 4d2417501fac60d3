"""Bit-exact simulation of an IntegerNetwork over a batch of inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.quantization.integer import (
    Int8Array,
    IntActivation,
    IntDense,
    IntegerNetwork,
    IntLastStep,
    IntLstm,
    IntOp,
    IntReshape,
    Multiplier,
)
from codesign.semantics.activations import activation_table, softmax
from codesign.semantics.primitives import INT16_MAX, INT16_MIN, Int64Array, mbqm
from codesign.semantics.tables import sigmoid_table, tanh_table

Int16Array = npt.NDArray[np.int16]

CHUNK = 512  # sequences at a time: their state stays in the processor's cache


@dataclass(frozen=True, eq=False)
class Trace:
    """What every operator gave: `outputs[k]` int8 [B, ...] of `network.ops[k]`; `cells` int16 [B, T, H] a LSTM."""

    outputs: tuple[Int8Array, ...]
    cells: tuple[Int16Array, ...]


def simulate(network: IntegerNetwork, q: npt.ArrayLike) -> Int8Array:
    """The network's int8 outputs [B, ...] for int8 inputs [B, T, D], every sequence from the reset state.

    InputError unless `q` is an int8 array of that shape.
    """
    x = _check(network, q)
    parts = [_run(network, x[i : i + CHUNK], None)[-1] for i in range(0, len(x), CHUNK)]
    return np.concatenate(parts) if parts else np.zeros((0, *network.output.shape), np.int8)


def simulate_trace(network: IntegerNetwork, q: npt.ArrayLike) -> Trace:
    """As `simulate`, with every operator's output and every LSTM's cell states."""
    x = _check(network, q)
    lstms = [op for op in network.ops if isinstance(op, IntLstm)]
    outputs: list[list[Int8Array]] = [[np.zeros((0, *op.output.shape), np.int8)] for op in network.ops]
    cells: list[list[Int16Array]] = [[np.zeros((0, *op.output.shape), np.int16)] for op in lstms]
    for i in range(0, len(x), CHUNK):
        states: list[Int16Array] = []
        for collected, part in zip(outputs, _run(network, x[i : i + CHUNK], states), strict=True):
            collected.append(part)
        for kept, cell in zip(cells, states, strict=True):
            kept.append(cell)
    return Trace(tuple(np.concatenate(o) for o in outputs), tuple(np.concatenate(c) for c in cells))


def run_operator(op: IntOp, q: Int8Array, network: IntegerNetwork) -> Int8Array:
    """One operator's int8 output [B, ...] for its int8 input [B, *op.input.shape]."""
    return _operator(op, q, network, None)


def _check(network: IntegerNetwork, q: npt.ArrayLike) -> Int8Array:
    x = np.asarray(q)
    if x.dtype != np.int8 or x.ndim != 3 or x.shape[1:] != network.input.shape:
        raise InputError(
            f"Inputs have to be int8 of shape [batch, {', '.join(map(str, network.input.shape))}], "
            f"not {x.dtype} of shape {list(x.shape)}."
        )
    return x


def _run(network: IntegerNetwork, x: Int8Array, cells: list[Int16Array] | None) -> list[Int8Array]:
    outputs = []
    for op in network.ops:
        x = _operator(op, x, network, cells)
        outputs.append(x)
    return outputs


def _operator(op: IntOp, x: Int8Array, network: IntegerNetwork, cells: list[Int16Array] | None) -> Int8Array:
    if isinstance(op, IntLstm):
        return lstm(op, x, cells)
    if isinstance(op, IntDense):
        return dense(op, x)
    if isinstance(op, IntActivation):
        if op.kind == "softmax":
            return softmax(op, x)
        result: Int8Array = activation_table(op, network.profile)[x.astype(np.int64) + 128]
        return result
    if isinstance(op, IntLastStep):
        return x[:, -1]
    if isinstance(op, IntReshape):
        return x.reshape(len(x), *op.output.shape)
    raise TypeError(f"unknown operator {op!r}")


def _accumulate(x: npt.NDArray[Any], W: npt.NDArray[Any], zero_point: int) -> Int64Array:
    """sum_j W[k, j] (x[..., j] - zero_point), exactly.

    In float64, because BLAS has no integer product: the factors are integers under 2^8 and 2^9, every partial sum
    is one under 2^31 (the reader refuses larger ones), so each is exact in a 53-bit significand, in any order.
    """
    product: npt.NDArray[np.float64] = (x.astype(np.float64) - zero_point) @ W.T.astype(np.float64)
    return product.astype(np.int64)


def dense(op: IntDense, x: Int8Array) -> Int8Array:
    """FULLY_CONNECTED: int8 [..., N] -> int8 [..., M]."""
    acc = _accumulate(x, op.W, op.input.zero_point) + op.b
    repeat = 1 if len(op.multipliers) == len(op.b) else len(op.b)
    out = _mbqm_rows(acc, op.multipliers, repeat)
    return np.clip(out + op.output.zero_point, op.act_min, op.act_max).astype(np.int8)


def _mbqm_rows(acc: Int64Array, multipliers: Sequence[Multiplier], repeat: int = 1) -> Int64Array:
    """MBQM along the last axis with a multiplier for each `repeat` entries, in as few passes as there is."""
    m = np.repeat(np.array([v.m for v in multipliers], np.int64), repeat)
    e = np.repeat(np.array([v.e for v in multipliers], np.int64), repeat)
    left, right = np.maximum(e, 0), np.maximum(-e, 0)
    if left.any():
        acc = acc << left
    high = acc * m
    high += 1 << 30
    high >>= 31
    # RDBP; where right is 0 the half is 0 and the sign term must not count
    sign = high >> 63
    sign *= right > 0
    high += sign
    high += (np.int64(1) << right) >> 1
    high >>= right
    return high


def _clip16(v: Int64Array) -> Int64Array:
    np.minimum(v, INT16_MAX, out=v)
    return np.maximum(v, INT16_MIN, out=v)


def lstm(op: IntLstm, x: Int8Array, cells: list[Int16Array] | None = None) -> Int8Array:
    """UNIDIRECTIONAL_SEQUENCE_LSTM: int8 [B, T, D] -> the hidden sequence, int8 [B, T, H].

    Appends the cell states, int16 [B, T, H], to `cells`. Steps and names as in docs/semantics.md.
    """
    batch, steps, _ = x.shape
    H = op.units
    sigma, tau_gate, tau_cell = sigmoid_table(), tanh_table(-12), tanh_table(op.cell_shift)
    z_h = op.output.zero_point
    # All steps' input parts at once: they do not depend on the state.
    acc = _accumulate(x, op.W.reshape(4 * H, -1), op.input.zero_point) + op.b.reshape(-1).astype(np.int64)
    A = _clip16(_mbqm_rows(acc, op.input_multipliers, H))
    R = op.R.reshape(4 * H, H)
    h = np.full((batch, H), z_h, np.int64)
    c = np.zeros((batch, H), np.int64)
    hidden = np.empty((batch, steps, H), np.int8)
    kept = np.empty((batch, steps, H), np.int16) if cells is not None else None
    for t in range(steps):
        a = _clip16(_mbqm_rows(_accumulate(h, R, z_h), op.recurrent_multipliers, H))
        a += A[:, t]
        a = _clip16(a)
        a += 1 << 15
        i, f = sigma[a[:, :H]].astype(np.int64), sigma[a[:, H : 2 * H]].astype(np.int64)
        g, o = tau_gate[a[:, 2 * H : 3 * H]].astype(np.int64), sigma[a[:, 3 * H :]].astype(np.int64)
        c = _clip16(mbqm(f * c, op.forget_multiplier))
        c += _clip16(mbqm(i * g, op.input_gate_multiplier))
        c = _clip16(c)
        if op.cell_clip_q > 0:
            c = np.clip(c, -op.cell_clip_q, op.cell_clip_q)
        h = mbqm(tau_cell[c + (1 << 15)] * o, op.hidden_multiplier) + z_h
        h = np.clip(h, -128, 127)
        hidden[:, t] = h
        if kept is not None:
            kept[:, t] = c
    if cells is not None and kept is not None:
        cells.append(kept)
    return hidden
