"""Time certifying and checking, in turn in one process: regions around samples, a whole domain, and any length.

python tools/bench_checker.py FLOAT INT8 [--samples 24] [--radius 1lsb] [--method quadratic]
                              [--domain LO HI] [--any-length] [--prover NAME]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from codesign import api
from codesign.recheck import check
from codesign.verification import Options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("float_model", type=Path)
    parser.add_argument("int8_model", type=Path)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--radius", default="1lsb")
    parser.add_argument("--method", choices=["zonotope", "quadratic"], default="zonotope")
    parser.add_argument("--domain", type=float, nargs=2)
    parser.add_argument("--any-length", action="store_true")
    parser.add_argument("--prover")
    a = parser.parse_args()
    network, integer, data = api.load(a.float_model), api.read(a.int8_model), api.calibration(a.float_model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "certificate.json"
        wall, cpu = time.perf_counter(), time.process_time()
        api.certify(
            network, integer, data, a.radius, a.samples, region="domain" if a.domain else "ball",
            domain=tuple(a.domain) if a.domain else None, any_length=a.any_length, options=Options(method=a.method),
            output=path,
        )  # fmt: skip
        print(f"certify: {time.process_time() - cpu:.2f} s CPU, {time.perf_counter() - wall:.2f} s", flush=True)
        wall, cpu = time.perf_counter(), time.process_time()
        result = check(path, a.float_model, a.int8_model, a.prover)
        spent = f"{time.process_time() - cpu:.2f} s CPU, {time.perf_counter() - wall:.2f} s"
        print(f"check: {spent}; {result.verdict} {result.item}, {result.regions} regions, {result.facts} facts")


if __name__ == "__main__":
    main()
