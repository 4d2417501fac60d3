"""Tries to break certified bounds: millions of exact evaluations of both networks, each compared with every bound.

    python tools/check_bounds.py [--method zonotope] [--regions 8] [--evaluations 500000] FLOAT INTEGER RADII ...

Three arguments a model: the float model, its integer .tflite and radii of the regions, in input steps, by commas. Every
region is an L-inf ball around a sample of the calibration data, every third one on the quantization grid. A fifth of
the evaluations each: uniform inputs and values beside the quantiser's thresholds; corners; sign-gradient ascent of the
float network's and of the difference to the network of the integer weights; evolutionary search; and hill climbing on
the integer simulation that moves single inputs by one quantisation step, or within a step, and keeps what raises the
error of one output.

Checked at every input: integer - float in its certified range, the float output in its range, |integer - float| before
a final softmax in its bound, and one class in both networks wherever that was proved. One line a model and radius; exit
code 1 after a violation.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from codesign.api import calibration, load, profile_variants, read
from codesign.network import evaluate
from codesign.network.model import FloatNetwork
from codesign.quantization import IntegerNetwork
from codesign.quantization.integer import IntActivation
from codesign.semantics import dequantize, quantize_input, simulate_trace
from codesign.verification import Options, RegionResult, ball, certify, grid_ball, input_domain
from codesign.verification.gradient import input_gradient
from codesign.verification.robust import float_twin
from codesign.verification.search import Search

Inputs = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]
KINDS = ("random", "corners", "gradient", "evolution", "bit-level")
_BATCH = 2048
_CHAINS = 256


class Judge:
    """Compares evaluations with the bounds of one region."""

    def __init__(self, network: FloatNetwork, integer: IntegerNetwork, result: RegionResult) -> None:
        self.network, self.integer, self.result = network, integer, result
        final = integer.ops[-1]
        self.softmax = isinstance(final, IntActivation) and final.kind == "softmax"
        self.counts = dict.fromkeys(KINDS, 0)
        self.violations = 0
        self.worst = np.zeros(len(result.lower))

    def __call__(self, x: Inputs, kind: str) -> tuple[FloatArray, FloatArray]:
        """(integer - float, float outputs) at the inputs, flat."""
        exact = evaluate(self.network, x)
        outputs = simulate_trace(self.integer, quantize_input(self.integer, x)).outputs
        integer = dequantize(self.integer.output, outputs[-1])
        flat = exact.reshape(len(x), -1)
        gap = integer.reshape(len(x), -1) - flat
        r = self.result
        bad = (gap < r.lower) | (gap > r.upper) | (flat < r.output_lo) | (flat > r.output_hi)
        if self.softmax:
            logits = dequantize(self.integer.ops[-2].output, outputs[-2])
            off = np.abs(logits - evaluate(self.network, x, logits=True)).reshape(len(x), -1)
            bad = bad | (off > r.logit_bound)
        wrong = bad.any(1)
        if r.top1 == "proved":
            wrong |= (exact.argmax(-1) != integer.argmax(-1)).reshape(len(x), -1).any(1)
        self.violations += int(wrong.sum())
        self.counts[kind] += len(x)
        self.worst = np.maximum(self.worst, np.abs(gap).max(0))
        return gap, exact


def guided(judge: Judge, run: Search, twin: FloatNetwork, rng: np.random.Generator, count: int) -> Iterator[Inputs]:
    """Inputs along the gradient of a random combination of outputs, of the float network or of the difference."""
    size = run.region.hi.astype(np.float64) - run.region.lo
    shape = evaluate(judge.network, run.region.center[None], logits=True).shape[1:]
    while True:
        x = run.region.uniform(count)
        weights = rng.normal(size=(count, *shape))
        difference = rng.random((count, 1, 1)) < 0.75
        for part in (0.1, 0.2, 0.4, 1.0):
            grad = input_gradient(judge.network, x.astype(np.float64), weights)
            other = input_gradient(twin, x.astype(np.float64), weights)
            x = run.region.clip(x + np.sign(np.where(difference, other - grad, grad)) * part * size)
            yield x


def climb(judge: Judge, run: Search, rng: np.random.Generator, evaluations: int) -> None:
    """Chains that move single inputs by a quantisation step, or inside one; what raises an output's error is kept."""
    step = judge.integer.input.scale
    region, spent = run.region, 0
    while spent < evaluations:
        x = np.concatenate([region.corners(_CHAINS // 2), region.uniform(_CHAINS - _CHAINS // 2)])
        gap, _ = judge(x, "bit-level")
        output, sign = rng.integers(0, gap.shape[1], len(x)), np.where(rng.random(len(x)) < 0.5, -1.0, 1.0)
        chain = np.arange(len(x))
        best = sign * gap[chain, output]
        for _ in range(100):
            t, d = (rng.integers(0, n, (2, len(x))) for n in x.shape[1:])
            moved = x.copy()
            for k in range(2):  # one input, and half of the time another one
                q = np.rint(moved[chain, t[k], d[k]].astype(np.float64) / step) + rng.integers(-1, 2, len(x))
                inside = rng.choice([-0.4999, 0.0, 0.4999], len(x))
                at = slice(0, len(x) if k == 0 else len(x) // 2)
                moved[chain[at], t[k][at], d[k][at]] = ((q + inside) * step)[at]
            moved = region.clip(moved)
            gap, _ = judge(moved, "bit-level")
            value = sign * gap[chain, output]
            better = value > best
            x[better], best[better] = moved[better], value[better]
        spent += 101 * len(x)


def attack(judge: Judge, evaluations: int, twin: FloatNetwork, rng: np.random.Generator) -> None:
    """A fifth of the evaluations of every kind."""
    share = evaluations // len(KINDS)
    run = Search(judge.network, judge.integer, judge.result.region, rng)
    while judge.counts["random"] < share:
        judge(run.region.uniform(_BATCH // 2), "random")
        judge(run.region.ties(_BATCH // 2), "random")
    while judge.counts["corners"] < share:
        judge(run.region.corners(_BATCH), "corners")
    for x in guided(judge, run, twin, rng, _BATCH):
        judge(x, "gradient")
        if judge.counts["gradient"] >= share:
            break
    population = run.region.uniform(64)
    while judge.counts["evolution"] < share:
        output, sign = rng.integers(0, len(judge.worst)), rng.choice([-1.0, 1.0])
        x = population
        for _ in range(20):
            x = np.concatenate([x[:64], run.region.mutate(x[:64], 448)])
            gap, _ = judge(x, "evolution")
            x = x[np.argsort(-sign * gap[:, output], kind="stable")]
    climb(judge, run, rng, share)


def check(arguments: argparse.Namespace, float_path: str, integer_path: str, radius: float) -> tuple[int, int]:
    network, integer = load(float_path), read(integer_path)
    data = calibration(float_path)
    domain, step = input_domain(data.x), integer.input.scale
    regions = [
        grid_ball(f"{k}", data.x[k], max(1, int(radius)), integer.input)
        if k % 3 == 2
        else ball(f"{k}", data.x[k], radius * step, domain)
        for k in range(min(arguments.regions, len(data.x)))
    ]
    options = Options(evaluations=64, proof="none", method=arguments.method)
    started = time.monotonic()
    results = certify(network, integer, regions, options, variants=profile_variants(integer)).regions
    twin, rng = float_twin(integer), np.random.default_rng(arguments.seed)
    counts, violations, ratios, proved = dict.fromkeys(KINDS, 0), 0, [], 0
    for result in results:
        judge = Judge(network, integer, result)
        attack(judge, arguments.evaluations // len(results), twin, rng)
        counts = {kind: counts[kind] + judge.counts[kind] for kind in KINDS}
        violations += judge.violations
        ratios.append(float(result.bound.max() / judge.worst.max()))
        proved += result.top1 == "proved"
    total = sum(counts.values())
    name = f"{float_path.split('/')[-1].rsplit('.', 1)[0]} {integer.activations}"
    print(
        f"| {name} | {arguments.method} | {radius:g} | {len(results)} | {proved} | {total} | "
        f"{' / '.join(str(n) for n in counts.values())} | {min(ratios):.2f} | {violations} | "
        f"{time.monotonic() - started:.0f} |",
        flush=True,
    )
    return total, violations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="FLOAT INTEGER RADII")
    parser.add_argument("--method", choices=["zonotope", "quadratic"], default="zonotope")
    parser.add_argument("--regions", type=int, default=8)
    parser.add_argument("--evaluations", type=int, default=500_000, help="of every model and radius")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if len(arguments.models) % 3:
        parser.error("give three arguments a model: FLOAT INTEGER RADII")
    columns = "model,method,steps,regions,top-1 proved,evaluations,by kind,least bound / observed,violations,s"
    print(f"| {columns.replace(',', ' | ')} |\n|{'---|' * 10}", flush=True)
    total = violations = 0
    with threadpool_limits(1):
        for k in range(0, len(arguments.models), 3):
            float_path, integer_path, radii = arguments.models[k : k + 3]
            for radius in radii.split(","):
                spent, found = check(arguments, float_path, integer_path, float(radius))
                total, violations = total + spent, violations + found
    print(f"{total} evaluations, {violations} violations; by kind: {', '.join(KINDS)}")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
