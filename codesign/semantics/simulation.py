"""Bit-exact simulation of an IntegerNetwork over a batch of inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.quantization.integer import (
    ActivationArray,
    IntActivation,
    IntDense,
    IntegerNetwork,
    IntLastStep,
    IntLstm,
    IntOp,
    IntReshape,
    Multiplier,
    QuantizedTensor,
)
from codesign.semantics.activations import activation_table, softmax
from codesign.semantics.primitives import INT16_MAX, INT16_MIN, Int64Array, mbqm
from codesign.semantics.tables import sigmoid_table, tanh_table

Int16Array = npt.NDArray[np.int16]

CHUNK = 512  # sequences at a time: their state stays in the processor's cache


@dataclass(frozen=True, eq=False)
class Trace:
    """What every operator gave: `outputs[k]` [B, ...] of `network.ops[k]`; `cells` int16 [B, T, H] a LSTM."""

    outputs: tuple[ActivationArray, ...]
    cells: tuple[Int16Array, ...]


def simulate(network: IntegerNetwork, q: npt.ArrayLike) -> ActivationArray:
    """The network's outputs [B, ...] for inputs [B, T, D], every sequence from the reset state.

    Both are int8 or both int16: `network.activations`. InputError unless `q` is an array of that type and shape.
    """
    x = _check(network, q)
    parts = [_run(network, x[i : i + CHUNK], None)[-1] for i in range(0, len(x), CHUNK)]
    return np.concatenate(parts) if parts else np.zeros((0, *network.output.shape), network.activations)


def simulate_trace(network: IntegerNetwork, q: npt.ArrayLike) -> Trace:
    """As `simulate`, with every operator's output and every LSTM's cell states."""
    x = _check(network, q)
    lstms = [op for op in network.ops if isinstance(op, IntLstm)]
    outputs: list[list[ActivationArray]] = [[np.zeros((0, *op.output.shape), op.output.dtype)] for op in network.ops]
    cells: list[list[Int16Array]] = [[np.zeros((0, *op.output.shape), np.int16)] for op in lstms]
    for i in range(0, len(x), CHUNK):
        states: list[Int16Array] = []
        for collected, part in zip(outputs, _run(network, x[i : i + CHUNK], states), strict=True):
            collected.append(part)
        for kept, cell in zip(cells, states, strict=True):
            kept.append(cell)
    return Trace(tuple(np.concatenate(o) for o in outputs), tuple(np.concatenate(c) for c in cells))


def run_operator(op: IntOp, q: ActivationArray, network: IntegerNetwork) -> ActivationArray:
    """One operator's output [B, ...] for its input [B, *op.input.shape]."""
    return _operator(op, q, network, None)


def _check(network: IntegerNetwork, q: npt.ArrayLike) -> ActivationArray:
    x = np.asarray(q)
    if x.dtype != network.activations or x.ndim != 3 or x.shape[1:] != network.input.shape:
        raise InputError(
            f"Inputs have to be {network.activations} of shape [batch, {', '.join(map(str, network.input.shape))}], "
            f"not {x.dtype} of shape {list(x.shape)}."
        )
    return x


def _run(network: IntegerNetwork, x: ActivationArray, cells: list[Int16Array] | None) -> list[ActivationArray]:
    outputs = []
    for op in network.ops:
        x = _operator(op, x, network, cells)
        outputs.append(x)
    return outputs


def _operator(
    op: IntOp, x: ActivationArray, network: IntegerNetwork, cells: list[Int16Array] | None
) -> ActivationArray:
    if isinstance(op, IntLstm):
        return lstm(op, x, cells, network.profile.startswith("cmsis-nn"))
    if isinstance(op, IntDense):
        return dense(op, x)
    if isinstance(op, IntActivation):
        if op.kind == "softmax":
            return softmax(op, x)
        result: ActivationArray = activation_table(op, network.profile)[x.astype(np.int64) - op.input.q_min]
        return result
    if isinstance(op, IntLastStep):
        return x[:, -1]
    if isinstance(op, IntReshape):
        return x.reshape(len(x), *op.output.shape)
    raise TypeError(f"unknown operator {op!r}")


def _accumulate(x: npt.NDArray[Any], W: npt.NDArray[Any], zero_point: int) -> Int64Array:
    """sum_j W[k, j] (x[..., j] - zero_point), exactly.

    In float64, because BLAS has no integer product: the factors are integers, every partial sum is one under 2^31
    (int8) or 2^47 (int16; the reader refuses larger ones), so each is exact in a 53-bit significand, in any order.
    """
    product: npt.NDArray[np.float64] = (x.astype(np.float64) - zero_point) @ W.T.astype(np.float64)
    return product.astype(np.int64)


def dense(op: IntDense, x: ActivationArray) -> ActivationArray:
    """FULLY_CONNECTED: [..., N] -> [..., M]."""
    acc = _accumulate(x, op.W, op.input.zero_point) + op.b
    repeat = 1 if len(op.multipliers) == len(op.b) else len(op.b)
    out = _rescale(acc, op.input, op.multipliers, repeat)
    clipped: ActivationArray = np.clip(out + op.output.zero_point, op.act_min, op.act_max).astype(op.output.dtype)
    return clipped


def _rescale(acc: Int64Array, x: QuantizedTensor, multipliers: Sequence[Multiplier], repeat: int) -> Int64Array:
    """MBQM (int8 inputs x) or MBQM64 (int16) along the last axis with a multiplier for each `repeat` entries."""
    if x.dtype == "int8":
        return _mbqm_rows(acc, multipliers, repeat)
    shift = 15 - np.repeat(np.array([v.e for v in multipliers], np.int64), repeat)
    acc = acc * np.repeat(np.array([v.reduced for v in multipliers], np.int64), repeat)
    acc += np.int64(1) << (shift - 1)
    acc >>= shift
    return acc


def _mbqm_rows(acc: Int64Array, multipliers: Sequence[Multiplier], repeat: int) -> Int64Array:
    """MBQM along the last axis, in as few passes as there is."""
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


def lstm(
    op: IntLstm, x: ActivationArray, cells: list[Int16Array] | None = None, cmsis_nn: bool = False
) -> ActivationArray:
    """UNIDIRECTIONAL_SEQUENCE_LSTM: [B, T, D] -> the hidden sequence [B, T, H], of the same type.

    Appends the cell states, int16 [B, T, H], to `cells`. Steps and names as in docs/semantics.md. `cmsis_nn`: without
    the saturations of the recurrent part and of i g, as arm_nn_vec_mat_mul_result_acc_s8_s16 and
    arm_elementwise_mul_acc_s16 do.
    """
    clip_part = (lambda v: v) if cmsis_nn else _clip16
    batch, steps, _ = x.shape
    H = op.units
    sigma, tau_gate, tau_cell = sigmoid_table(), tanh_table(-12), tanh_table(op.cell_shift)
    z_h = op.output.zero_point
    # All steps' input parts at once: they do not depend on the state.
    acc = _accumulate(x, op.W.reshape(4 * H, -1), op.input.zero_point) + op.b.reshape(-1).astype(np.int64)
    A = _clip16(_rescale(acc, op.input, op.input_multipliers, H))
    R = op.R.reshape(4 * H, H)
    h = np.full((batch, H), z_h, np.int64)
    c = np.zeros((batch, H), np.int64)
    hidden = np.empty((batch, steps, H), op.output.dtype)
    kept = np.empty((batch, steps, H), np.int16) if cells is not None else None
    for t in range(steps):
        a = clip_part(_rescale(_accumulate(h, R, z_h), op.output, op.recurrent_multipliers, H))
        a += A[:, t]
        a = _clip16(a)
        a += 1 << 15
        i, f = sigma[a[:, :H]].astype(np.int64), sigma[a[:, H : 2 * H]].astype(np.int64)
        g, o = tau_gate[a[:, 2 * H : 3 * H]].astype(np.int64), sigma[a[:, 3 * H :]].astype(np.int64)
        c = _clip16(mbqm(f * c, op.forget_multiplier))
        c += clip_part(mbqm(i * g, op.input_gate_multiplier))
        c = _clip16(c)
        if op.cell_clip_q > 0:
            c = np.clip(c, -op.cell_clip_q, op.cell_clip_q)
        h = mbqm(tau_cell[c + (1 << 15)] * o, op.hidden_multiplier) + z_h
        h = np.clip(h, op.output.q_min, op.output.q_max)
        hidden[:, t] = h
        if kept is not None:
            kept[:, t] = c
    if cells is not None and kept is not None:
        cells.append(kept)
    return hidden
