"""Inputs and paths that the semantics tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parent.parent / "fixtures"
NAMES = ("tiny", "logits", "stacked", "sequence", "timedist", "acts", "flatten", "reshaped")


def extreme_inputs(shape: tuple[int, int], dtype: str = "int8") -> np.ndarray:
    """All lowest, all highest, alternations along steps, features and both, steps up and down, single spikes."""
    T, D = shape
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    t, d = np.indices((T, D))
    patterns = [np.full((T, D), v) for v in (low, high, 0, -1, 1)]
    for parity in (t % 2, d % 2, (t + d) % 2, t >= T // 2, d >= D // 2):
        patterns += [np.where(parity, high, low), np.where(parity, low, high)]
    for k in range(T * D):
        spike = np.full(T * D, low)
        spike[k] = high
        patterns += [spike.reshape(T, D), -1 - spike.reshape(T, D)]
    return np.stack(patterns).astype(dtype)


def mixed_inputs(shape: tuple[int, int], count: int, seed: int, dtype: str = "int8") -> np.ndarray:
    """Extreme inputs, uniform ones, and ones near a constant; `count` in all."""
    rng = np.random.default_rng(seed)
    extreme = extreme_inputs(shape, dtype)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    n = max(count - len(extreme), 0)
    uniform = rng.integers(low, high + 1, (n - n // 2, *shape))
    centre = rng.integers(low, high + 1, (n // 2, 1, shape[1]))
    near = np.clip(np.round(centre + (high + 1) / 128 * rng.normal(0, 12, (n // 2, *shape))), low, high)
    return np.concatenate([extreme, uniform.astype(dtype), near.astype(dtype)])[: max(count, len(extreme))]
