"""Weights as the kernels read them: two int16 to each half of a 64-bit word, rows in pairs (int8) or single (int16).

Paired: an int16 is a + 256 b for rows a and b of one column; a sum over a + 256 b minus the sum over a is 256 times
the sum over b, so that one word serves four multiply-accumulates at one byte a weight. Wide: an int16 is one weight.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Weights = Literal["int8", "int16"]
Int8Array = npt.NDArray[np.int8]
WordArray = npt.NDArray[np.uint64]


def pack_gates(rows: Int8Array, weights: Weights) -> tuple[WordArray, bool]:
    """rows (H, 4, N) to 64-bit words (H, words a unit), and whether they are wide."""
    columns = np.pad(rows.astype(np.int64), ((0, 0), (0, 0), (0, rows.shape[-1] % 2)))
    by_pairs = columns.reshape(rows.shape[0], 4, -1, 2).transpose(0, 2, 1, 3)  # (H, pairs, gate, column)
    words, wide = _pack(by_pairs, weights)
    return words.reshape(rows.shape[0], -1), wide


def pack_dense(rows: Int8Array, weights: Weights) -> tuple[WordArray, bool]:
    """rows (M, N) to words: blocks of four rows, then at most one of two; columns by fours, as 0 2 and 1 3."""
    M, N = rows.shape
    padded = np.pad(rows.astype(np.int64), ((0, -M % 2), (0, -N % 4)))
    fours = (
        padded.reshape(len(padded), -1, 2, 2).transpose(0, 1, 3, 2).reshape(len(padded), -1, 2)
    )  # (M, pairs, column)
    blocks = [fours[first : first + 4].transpose(1, 0, 2) for first in range(0, len(fours), 4)]
    wide = weights == "int16" or not all(_pairable(block) for block in blocks)
    packed = [_pack(block, "int16" if wide else "int8")[0] for block in blocks]
    return np.concatenate(packed), wide


def pack_biases(biases: npt.NDArray[np.int32]) -> WordArray:
    """(H, 4) to (H, 2) words: gates i and c, gates f and o; doubled."""
    halves = (2 * biases.astype(np.int64)) & 0xFFFF_FFFF
    return (halves[:, [0, 1]] | halves[:, [2, 3]] << 32).astype(np.uint64)


def _pairable(values: npt.NDArray[Any]) -> bool:
    """Whether every a + 256 b fits 16 bits: not so where b = -128 and a < 0 (TFLite's weights stop at -127)."""
    return not np.any((values[..., 1::2, :] == -128) & (values[..., 0::2, :] < 0))


def _pack(values: npt.NDArray[Any], weights: Weights) -> tuple[WordArray, bool]:
    """values (..., row, column) with two columns to words, flat."""
    wide = weights == "int16" or not _pairable(values)
    halves = values if wide else values[..., 0::2, :] + 256 * values[..., 1::2, :]
    assert -(2**15) <= halves.min() <= halves.max() < 2**15
    words = (halves[..., 0] & 0xFFFF) | ((halves[..., 1] & 0xFFFF) << 16)
    words = words.reshape(-1, 2).astype(np.uint64)
    return (words[:, 0] | words[:, 1] << np.uint64(32)).astype(np.uint64), wide
