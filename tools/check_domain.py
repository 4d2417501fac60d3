"""Tries to break a certificate over all inputs: exact evaluations over the whole domain, corner- and gradient-guided.

    python tools/check_domain.py FLOAT INT8 --domain=0,1 --evaluations 1000000
    python tools/check_domain.py FLOAT INT8 --domain=0,1 --any-length --streams 100 --steps 100000

Recomputes the bounds and compares every output of every evaluation with them. Exit code 1 after a violation.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codesign.api import calibration, load, profile_variants, read
from codesign.network import evaluate
from codesign.network.model import FloatNetwork
from codesign.quantization import IntegerNetwork
from codesign.quantization.align import align
from codesign.quantization.rescaling import effective_network
from codesign.semantics import dequantize, quantize_input, simulate
from codesign.semantics.streams import float_stream, integer_stream
from codesign.verification import domain_region, input_domain
from codesign.verification.affine import Box
from codesign.verification.all_inputs import quantized_stream, stream_inputs
from codesign.verification.domain import enclose_domain
from codesign.verification.gradient import input_gradient
from codesign.verification.regions import Region
from codesign.verification.search import Search

FloatArray = npt.NDArray[np.float64]


def gaps(network: FloatNetwork, integer: IntegerNetwork, x: npt.NDArray[np.float32]) -> FloatArray:
    """integer - float (B, outputs), exactly simulated."""
    q = simulate(integer, quantize_input(integer, x))
    return (dequantize(integer.output, q) - evaluate(network, x)).reshape(len(x), -1)


def climb(
    network: FloatNetwork, run: Search, region: Region, rng: np.random.Generator, count: int
) -> npt.NDArray[np.float32]:
    """Inputs that follow the gradient of a random combination of logits, step by step to a corner."""
    x = run.region.uniform(count)
    weights = rng.normal(size=evaluate(network, x[:1], logits=True).shape[1:])[None] * rng.normal(size=(count, 1))
    out = []
    for size in (0.1, 0.2, 0.4, 1.0):
        grad = input_gradient(network, x.astype(np.float64), weights)
        x = run.region.clip(x + np.sign(grad) * size * (region.hi - region.lo))
        out.append(x)
    return np.concatenate(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float_model", type=Path)
    parser.add_argument("int8_model", type=Path)
    parser.add_argument("--domain", help="LO,HI of every feature [default: the calibration data's]")
    parser.add_argument("--evaluations", type=int, default=1_000_000)
    parser.add_argument("--any-length", action="store_true")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100_000, help="steps of every stream")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    network, integer = load(a.float_model), read(a.int8_model)
    limits = tuple(map(float, a.domain.split(","))) if a.domain else None
    data = calibration(a.float_model).x if limits is None else np.zeros((1, *network.input_shape), np.float32)
    domain = input_domain(data, limits)  # type: ignore[arg-type]
    region = domain_region(domain, network.input_shape[0])
    effective = effective_network(integer)
    others = [effective_network(v) for v in profile_variants(integer)]
    found = enclose_domain(align(network, effective), effective, region, others, a.any_length)
    e = found.enclosure
    lo, hi = e.output_difference.lo[0], e.output_difference.hi[0]
    rng = np.random.default_rng(a.seed)
    worst, count, started = np.zeros(len(lo)), 0, time.monotonic()
    violations = 0

    def judge(gap: FloatArray) -> None:
        nonlocal worst, count, violations
        violations += int(((gap < lo) | (gap > hi)).any(1).sum())
        worst, count = np.maximum(worst, np.abs(gap).max(0)), count + len(gap)

    while count < a.evaluations:
        run = Search(network, integer, region, rng)
        run.maximize_error(8000)
        violations += int((np.asarray(run.per_output) > np.maximum(-lo, hi)).any())
        worst, count = np.maximum(worst, np.asarray(run.per_output)), count + run.evaluations
        for x in (run.region.corners(4000), run.region.ties(4000), climb(network, run, region, rng, 1000)):
            judge(gaps(network, integer, x))
    print(f"{count} evaluations in {time.monotonic() - started:.0f} s: {violations} violations")
    if a.any_length:
        box, chunk = Box(region.lo[0], region.hi[0]), 20_000
        x = stream_inputs(box, a.streams, min(a.steps, chunk), rng)
        total = np.concatenate([x] * -(-a.steps // x.shape[1]), axis=1)[:, : a.steps]
        for start in range(0, a.streams, 4):
            part = total[start : start + 4]
            gap = dequantize(integer.output, integer_stream(integer, quantized_stream(integer, part)))
            judge((gap - float_stream(network, part)).reshape(-1, len(lo)))
        print(f"{a.streams} streams of {a.steps} steps: {violations} violations in all")
    bound = np.maximum(-lo, hi)
    print(
        f"largest certified {bound.max():.4g}, observed {worst.max():.4g}; smallest ratio {(bound / worst).min():.3g}"
    )
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
