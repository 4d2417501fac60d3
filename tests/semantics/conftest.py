from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # flatmodels, shared with tests/quantization

FIXTURES = Path(__file__).parent.parent / "fixtures"
NAMES = ("tiny", "logits", "stacked", "sequence", "timedist", "acts")


@pytest.fixture(params=NAMES)
def fixture_path(request: pytest.FixtureRequest) -> Path:
    return FIXTURES / f"{request.param}.tflite"


def extreme_inputs(shape: tuple[int, int]) -> np.ndarray:
    """All -128, all 127, alternations along steps, features and both, steps up and down, single spikes."""
    T, D = shape
    t, d = np.indices((T, D))
    patterns = [np.full((T, D), v) for v in (-128, 127, 0, -1, 1)]
    for parity in (t % 2, d % 2, (t + d) % 2, t >= T // 2, d >= D // 2):
        patterns += [np.where(parity, 127, -128), np.where(parity, -128, 127)]
    for k in range(T * D):
        spike = np.full(T * D, -128)
        spike[k] = 127
        patterns += [spike.reshape(T, D), -1 - spike.reshape(T, D)]
    return np.stack(patterns).astype(np.int8)


def mixed_inputs(shape: tuple[int, int], count: int, seed: int) -> np.ndarray:
    """Extreme inputs, uniform ones, and ones near a constant; `count` in all."""
    rng = np.random.default_rng(seed)
    extreme = extreme_inputs(shape)
    n = max(count - len(extreme), 0)
    uniform = rng.integers(-128, 128, (n - n // 2, *shape))
    centre = rng.integers(-128, 128, (n // 2, 1, shape[1]))
    near = np.clip(np.round(centre + rng.normal(0, 12, (n // 2, *shape))), -128, 127)
    return np.concatenate([extreme, uniform.astype(np.int8), near.astype(np.int8)])[: max(count, len(extreme))]
