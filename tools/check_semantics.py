"""Compares the simulation with the TFLM interpreter on many inputs of given models; exit code 1 on any mismatch.

python tools/check_semantics.py tests/fixtures/tiny.tflite models/*.tflite --inputs 100000 --seed 0
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from codesign.errors import CodesignError
from codesign.quantization import read_integer_network
from codesign.semantics import TflmInterpreter, simulate

BATCH = 2000


def inputs(shape: tuple[int, ...], dtype: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """A quarter each: uniform, only the two extremes, near one value a feature, and smooth random walks."""
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    size = (high + 1) / 128
    kinds = [
        rng.integers(low, high + 1, (count, *shape)),
        np.where(rng.random((count, *shape)) < rng.random((count, 1, 1)), high, low),
        rng.integers(low, high + 1, (count, 1, shape[1])) + size * rng.normal(0, 10, (count, *shape)),
        size * (np.cumsum(rng.normal(0, 30, (count, *shape)), axis=1) + rng.integers(-100, 100, (count, 1, 1))),
    ]
    chosen = rng.integers(0, 4, count)
    q = np.choose(chosen.reshape(-1, 1, 1), [np.round(k) for k in kinds])
    return np.clip(q, low, high).astype(dtype)


def check(path: str, count: int, seed: int) -> int:
    """Prints one line; returns the number of inputs with any differing output."""
    network = read_integer_network(path)
    interpreter = TflmInterpreter(network.content)
    rng = np.random.default_rng(seed)
    mismatches, seen, started = 0, set(), time.perf_counter()
    for first in range(0, count, BATCH):
        n = min(BATCH, count - first)
        q = inputs(network.input.shape, network.activations, n, rng)
        ours = simulate(network, q)
        theirs = interpreter.run(q).reshape(ours.shape)
        rows = (ours != theirs).reshape(n, -1).any(1)
        mismatches += int(rows.sum())
        seen.update(np.unique(ours).tolist())
        if rows.any():
            print(f"{path}: first differing input of this batch: {q[rows.argmax()].tolist()}")
    seconds = time.perf_counter() - started
    print(f"{path}: {mismatches} mismatches in {count} inputs ({len(seen)} distinct output values, {seconds:.1f} s)")
    return mismatches


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="int8 or int16 .tflite files")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        return int(sum(check(path, arguments.inputs, arguments.seed) for path in arguments.models) > 0)
    except CodesignError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
