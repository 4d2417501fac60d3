"""Constants of layers with int16 activations: records of four rows, and the rescaling of their sums.

The kernels are in firmware/kernels/cs_int16.h. Zero points are 0 there; biases are int64 in the network. An accumulator
that fits 32 bits for every int16 input is computed in 32 bits, another in 64 ('deep').
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.codegen.packing import Weights, WordArray
from codesign.errors import InputError
from codesign.quantization.integer import Int8Array, IntActivation, IntDense, IntLstm, Multiplier, Profile
from codesign.quantization.multipliers import softmax_multiplier, table_multiplier
from codesign.semantics import relu_multiplier
from codesign.semantics.activations16 import exp_lut, reciprocal_lut

_INT32_MAX = 2**31 - 1
_INT64_SAFE = 2**47  # times a multiplier of 15 bits: below 2^62
_CHECKED_32 = 2**30 - 1  # arguments of the 32-bit rescaling are doubled on the device
_SMALLEST_EXPONENT = -31


@dataclass(frozen=True)
class Scale64:
    """(v m + 2^(shift - 1)) >> shift."""

    m: int
    shift: int


@dataclass(frozen=True, eq=False)
class Part16:
    """Packed weights and biases (records, words a record) of a layer's part, and the scale of each row of a record."""

    words: WordArray
    columns: int
    wide: bool
    deep: bool


def pack_records(name: str, rows: Int8Array, bias: npt.NDArray[np.int64], weights: Weights) -> Part16:
    """rows (records, 4, N) and their biases (records, 4) as cs_int16.h reads them.

    InputError where an accumulator may pass 2^47, beyond which its rescaling would overflow 64 bits.
    """
    values = rows.astype(np.int64)
    largest = _largest(values, bias)
    if largest >= _INT64_SAFE:
        raise InputError(f"operator {name!r}: an accumulator may pass 2^47; its biases are too large")
    deep = largest > _INT32_MAX
    count, _, columns = rows.shape
    even = np.pad(values, ((0, 0), (0, 0), (0, columns % 2)))
    pairs = even.reshape(count, 4, -1, 2)
    if weights == "int16":
        halves = pairs.transpose(0, 2, 1, 3).reshape(count, -1, 4) & 0xFFFF
        packed = _words(halves, 16)
    else:
        # Bytes: rows 0, 1 of the first column, of the second, then rows 2, 3.
        octets = pairs.reshape(count, 2, 2, -1, 2).transpose(0, 3, 1, 4, 2).reshape(count, -1, 8) & 0xFF
        packed = _words(octets, 8)
    if deep:
        head = bias.astype(np.int64).view(np.uint64)
    else:
        head = _words((bias[:, [0, 2, 1, 3]] & 0xFFFF_FFFF).reshape(count, 2, 2), 32)
    return Part16(np.concatenate([head, packed], axis=1), columns, weights == "int16", deep)


def _largest(rows: npt.NDArray[np.int64], bias: npt.NDArray[np.int64]) -> int:
    """The largest |row . x + bias| over all int16 x; Python's integers, since biases are arbitrary int64."""
    top: list[int] = np.maximum(rows * 32767, rows * -32768).sum(axis=-1).reshape(-1).tolist()
    bottom: list[int] = np.minimum(rows * 32767, rows * -32768).sum(axis=-1).reshape(-1).tolist()
    flat: list[int] = bias.reshape(-1).tolist()
    return max((max(abs(high + b), abs(low + b)) for high, low, b in zip(top, bottom, flat, strict=True)), default=0)


def _words(parts: npt.NDArray[np.int64], bits: int) -> WordArray:
    """(..., 64 / bits) non-negative parts to words, low parts first."""
    words = np.zeros(parts.shape[:-1], np.uint64)
    for index in range(parts.shape[-1]):
        words |= parts[..., index].astype(np.uint64) << np.uint64(bits * index)
    return words


def scale64(name: str, multiplier: Multiplier, deep: bool, largest: int) -> Scale64:
    """The multiplier in 16 bits, shifted up where one instruction then does it. InputError beyond 32-bit results."""
    r, e = multiplier.reduced, multiplier.e
    if not _SMALLEST_EXPONENT <= e <= 14 or (largest * r >> (15 - e)) >= _INT32_MAX:
        raise InputError(f"operator {name!r}: rescaling by {multiplier.real:g} may overflow 32 bits")
    if not deep and -17 <= e <= -1:
        return Scale64(r << (17 + e), 32)
    return Scale64(r, 15 - e)


def lstm_parts(op: IntLstm, weights: Weights) -> tuple[Part16, Part16, tuple[Scale64, ...]]:
    """Input and recurrent part (a record a unit), and the scales of their gates: i, f, c, o, twice."""
    rows, recurrent = op.W.transpose(1, 0, 2), op.R.transpose(1, 0, 2)
    bias = np.ascontiguousarray(op.b.T).astype(np.int64)
    parts = (
        pack_records(op.name, rows, bias, weights),
        pack_records(op.name, recurrent, np.zeros_like(bias), weights),
    )
    scales: list[Scale64] = []
    for part, values, biases, multipliers in (
        (parts[0], rows, bias, op.input_multipliers),
        (parts[1], recurrent, np.zeros_like(bias), op.recurrent_multipliers),
    ):
        for gate in range(4):
            largest = _largest(values[:, gate].astype(np.int64), biases[:, gate])
            scales.append(scale64(op.name, multipliers[gate], part.deep, largest))
    return parts[0], parts[1], tuple(scales)


def dense_part(op: IntDense, weights: Weights) -> tuple[Part16, tuple[Scale64, ...]]:
    """Rows in records of four, the last filled up with zeros, and one scale or one an output."""
    outputs, inputs = op.W.shape
    rows = np.pad(op.W, ((0, -outputs % 4), (0, 0))).reshape(-1, 4, inputs)
    bias = np.pad(op.b.astype(np.int64), (0, -outputs % 4)).reshape(-1, 4)
    part = pack_records(op.name, rows, bias, weights)
    scales = []
    for k, multiplier in enumerate(op.multipliers):
        chosen = slice(k, k + 1) if len(op.multipliers) > 1 else slice(None)
        largest = _largest(op.W[chosen].astype(np.int64), op.b[chosen].astype(np.int64))
        scales.append(scale64(op.name, multiplier, part.deep, largest))
    return part, tuple(scales)


@dataclass(frozen=True, eq=False)
class Activation16:
    """What an int16 activation's kernel takes: a rescaling (SOFTMAX, RELU) or an argument (m, shift), and tables."""

    multiplier: Multiplier | None
    argument: tuple[int, int] | None
    tables: tuple[tuple[str, npt.NDArray[Any]], ...]


def activation16(op: IntActivation, profile: Profile) -> Activation16:
    """The constants of SOFTMAX, LOGISTIC, TANH or RELU. InputError where a rescaling could overflow 32 bits."""
    if op.kind in ("sigmoid", "tanh"):
        return Activation16(None, table_multiplier(op.input.scale, "sigmoid" if op.kind == "sigmoid" else "tanh"), ())
    if op.kind == "softmax":
        multiplier, largest = softmax_multiplier(op.input.scale, op.beta), 65535
        tables: tuple[tuple[str, npt.NDArray[Any]], ...] = (
            ("exp_table", exp_lut()),
            ("reciprocal_table", reciprocal_lut()),
        )
    else:
        multiplier, largest, tables = relu_multiplier(op, profile), 32768, ()
    if not _SMALLEST_EXPONENT <= multiplier.e <= 30 or largest << max(multiplier.e, 0) > _CHECKED_32:
        raise InputError(f"{op.kind} {op.name!r}: its input scale {op.input.scale:g} is too large for 32-bit rescaling")
    return Activation16(multiplier, None, tables)
