"""Cross-checks over a serial link with seeded faults: never a PASS that a clean line would not give, never a hang.

Usage: python tools/fault_runs.py [--runs 2000] [--seed 0] [--jobs 8]
The device is the tests' fake one, which runs the exact simulation; every third computes one output wrongly.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "hil"))

from fault_support import Tally, clean_samples, fault_run
from hil_support import load_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=8)
    arguments = parser.parse_args()
    models = [load_model(name) for name in ("tiny", "stacked")]
    clean = [clean_samples(model) for model in models]
    tally = Tally()
    begun = time.monotonic()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        seeds = range(arguments.seed, arguments.seed + arguments.runs)
        for outcome in pool.map(lambda s: fault_run(models[s % 2], s, clean[s % 2]), seeds):
            tally.add(outcome)
            if tally.runs % 100 == 0:
                print(f"{tally.runs} runs, {time.monotonic() - begun:.0f} s", file=sys.stderr)
    print(
        f"{tally.runs} runs in {time.monotonic() - begun:.0f} s: faults struck in {tally.struck}, {tally.passed} PASS, "
        f"{tally.recovered} recovered a lost device, longest {tally.longest:.1f} s, "
        f"{tally.stalled} without a fault stalled by this machine"
    )
    print("runs by kind of fault: " + ", ".join(f"{kind} {count}" for kind, count in sorted(tally.by_kind.items())))
    for problem in tally.problems:
        print(f"PROBLEM {problem}")
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
