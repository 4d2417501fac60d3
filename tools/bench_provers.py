"""Time the provers: milliseconds an obligation on the shared corpus, and microseconds a plane of the array bounds.

python tools/bench_provers.py [--count 2000] [--seed 1] [--workers 2]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import numpy as np

from codesign.proof import availability, bounds, prove
from codesign.proof.corpus import make_corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    corpus = make_corpus(options.count, np.random.default_rng(options.seed))
    obligations = [obligation for obligation, _ in corpus]
    print(f"{'prover':12s} {'kind':13s} {'true':>5s} {'median':>8s} {'p90':>8s} {'p99':>8s} {'max':>8s}  (ms)")
    for state in availability():
        if not state.available:
            print(f"{state.prover:12s} not available: {state.reason}")
            continue
        results = prove(obligations, state.prover, timeout_s=options.timeout)
        for kind in (*sorted({obligation.kind for obligation in obligations}), "all"):
            for wanted in (True, False):
                times = [
                    1e3 * result.seconds
                    for (obligation, truth), result in zip(corpus, results, strict=True)
                    if truth == wanted and kind in (obligation.kind, "all")
                ]
                if times:
                    columns = " ".join(f"{q:8.3f}" for q in np.quantile(times, [0.5, 0.9, 0.99, 1.0]))
                    print(f"{state.prover:12s} {kind:13s} {wanted!s:>5s} {columns}")
        outcome = Counter(
            ("true" if truth else "false", result.status) for (_, truth), result in zip(corpus, results, strict=True)
        )
        print(f"{state.prover:12s}", ", ".join(f"{a} {b}: {n}" for (a, b), n in sorted(outcome.items())))
    for prover in ("auto", "icp"):
        start = time.perf_counter()
        prove(obligations, prover, timeout_s=options.timeout, workers=options.workers)
        seconds = time.perf_counter() - start
        print(f"{prover}, {options.workers} workers: {len(obligations)} obligations in {seconds:.2f} s")

    rng = np.random.default_rng(options.seed)
    count = 4000
    z, d = rng.normal(size=count) * 2, rng.normal(size=count) * 0.2
    rz, rd = (np.exp(rng.uniform(-6, 0.5, count)) for _ in range(2))
    alpha, beta = rng.normal(size=count) * 0.005, rng.uniform(0.02, 0.25, count)
    best = min(_timed(z - rz, z + rz, d - rd, d + rd, alpha, beta) for _ in range(5))
    print(f"sigmoid_diff_plane_residual: {1e6 * best / count:.2f} us a plane ({count} at once)")


def _timed(*arrays: bounds.Array) -> float:
    start = time.perf_counter()
    bounds.sigmoid_diff_plane_residual(*arrays)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
