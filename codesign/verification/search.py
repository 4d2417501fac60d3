"""Adversarial search on the exact integer simulation: the worst input of a region that can be found.

What it finds is real: a float32 input, the exact int8 output of the device, and the float network's output. It gives
the observed error beside every bound, and the counterexample that turns 'unknown' into 'refuted'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from codesign.network import evaluate
from codesign.network.model import FloatNetwork
from codesign.quantization.integer import IntActivation, IntegerNetwork, IntReshape
from codesign.semantics import dequantize, quantize_input, simulate, simulate_trace
from codesign.verification.affine import Array
from codesign.verification.gradient import input_gradient
from codesign.verification.regions import Region
from codesign.verification.violations import Watch, hunt

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The worst input found in one region.

    `error`: largest |integer - float| over all outputs, at `worst` (T, D). `per_output`: largest for each output.
    `disagreement`: an input on which both networks choose another class, if one was found. `evaluations`: exact ones.
    `logit_error`: |integer - float| before a final softmax at `worst` and at the center. `violations`: an input for
    each order criterion and threshold that was violated. `float_range`: smallest and largest of each float output, (2,
    outputs).
    """

    error: float
    per_output: Array
    worst: Float32Array
    disagreement: Float32Array | None
    evaluations: int
    logit_error: float = 0.0
    violations: dict[str, Float32Array] = field(default_factory=dict)
    float_range: Array | None = None


class _Region:
    """Draws float32 inputs that lie inside a region; of a grid region, dequantized inputs (rounded to float32) only."""

    def __init__(self, region: Region, step: float, rng: np.random.Generator) -> None:
        self.on_grid = region.kind == "grid"
        # float32 values inside the real box: round the ends inward.
        lo, hi = region.lo.astype(np.float32), region.hi.astype(np.float32)
        if not self.on_grid:
            lo = np.where(lo < region.lo, np.nextafter(lo, np.float32(np.inf)), lo)
            hi = np.where(hi > region.hi, np.nextafter(hi, np.float32(-np.inf)), hi)
        center = np.asarray(region.center, dtype=np.float32)
        self.lo, self.hi = np.minimum(lo, hi), np.maximum(lo, hi)
        pinched = lo > hi
        self.lo = np.where(pinched, center, self.lo).astype(np.float32)
        self.hi = np.where(pinched, center, self.hi).astype(np.float32)
        self.center = np.clip(center, self.lo, self.hi)
        self.step, self.rng = step, rng

    def clip(self, x: Float32Array | Array) -> Float32Array:
        if self.on_grid:
            x = np.rint(x.astype(np.float64) / self.step) * self.step
        return np.clip(x.astype(np.float32), self.lo, self.hi)

    def corners(self, count: int) -> Float32Array:
        return np.where(self.rng.random((count, *self.lo.shape)) < 0.5, self.lo, self.hi)

    def uniform(self, count: int) -> Float32Array:
        return self.clip(self.lo + (self.hi - self.lo) * self.rng.random((count, *self.lo.shape)))

    def ties(self, count: int) -> Float32Array:
        """Values beside the quantiser's decision thresholds, where the input rounding is largest."""
        x = self.uniform(count).astype(np.float64) / self.step
        side = np.where(self.rng.random(x.shape) < 0.5, -1e-3, 1e-3)
        return self.clip((np.floor(x) + 0.5 + side) * self.step)

    def mutate(self, parents: Float32Array, count: int) -> Float32Array:
        chosen = parents[self.rng.integers(len(parents), size=count)]
        fresh = np.concatenate(
            [self.corners(count // 3), self.uniform(count // 3), self.ties(count - 2 * (count // 3))]
        )
        share = self.rng.choice([0.03, 0.1, 0.3], size=(count, 1, 1))
        return np.where(self.rng.random(chosen.shape) < share, fresh, chosen)


class Search:
    """Evaluates both networks and keeps the worst found, within one region."""

    def __init__(
        self, float_network: FloatNetwork, integer_network: IntegerNetwork, region: Region, rng: np.random.Generator
    ) -> None:
        self.float_network, self.integer_network = float_network, integer_network
        self.region = _Region(region, integer_network.input.scale, rng)
        self.rng = rng
        self.evaluations = 0
        self.worst = self.region.center
        self.error = -1.0
        self.per_output: Array | None = None
        self.float_range: Array | None = None
        self.disagreement: Float32Array | None = None
        self.watches: Sequence[Watch] = ()

    def evaluate(self, x: Float32Array) -> tuple[Array, Array]:
        """(errors, float outputs), each (B, outputs); records the worst."""
        exact = evaluate(self.float_network, x)
        q = simulate(self.integer_network, quantize_input(self.integer_network, x))
        integer = dequantize(self.integer_network.output, q)
        errors = np.abs(integer - exact).reshape(len(x), -1)
        self.evaluations += len(x)
        self._record(x, errors, exact, integer)
        return errors, exact

    def _record(self, x: Float32Array, errors: Array, exact: Array, integer: Array) -> None:
        top = errors.max(1)
        best = int(np.argmax(top))
        if top[best] > self.error:
            self.error, self.worst = float(top[best]), x[best]
        worst = errors.max(0)
        self.per_output = worst if self.per_output is None else np.maximum(self.per_output, worst)
        rows = exact.reshape(len(x), -1)
        ends = np.stack([rows.min(0), rows.max(0)])
        if self.float_range is not None:
            ends = np.stack([np.minimum(ends[0], self.float_range[0]), np.maximum(ends[1], self.float_range[1])])
        self.float_range = ends
        if self.disagreement is None:
            differ = (exact.argmax(-1) != integer.argmax(-1)).reshape(len(x), -1).any(1)
            if differ.any():
                self.disagreement = x[int(np.argmax(differ))]
        for watch in self.watches:
            watch.observe(x, exact, integer)

    def maximize_error(self, evaluations: int, population: int = 128) -> None:
        """Evolutionary hill climbing from the center, corners, uniform points and quantiser thresholds."""
        region = self.region
        seeds = [region.center[None], region.corners(population // 2), region.uniform(population // 4)]
        x = np.concatenate([*seeds, region.ties(population // 4)])
        errors, _ = self.evaluate(x)
        fitness = errors.max(1)
        spent = len(x)
        while spent < evaluations:
            keep = np.argsort(-fitness)[: max(4, population // 8)]
            parents, parent_fitness = x[keep], fitness[keep]
            children = region.mutate(parents, population)
            errors, _ = self.evaluate(children)
            x, fitness = np.concatenate([parents, children]), np.concatenate([parent_fitness, errors.max(1)])
            spent += len(children)

    def follow_gradient(self, steps: int = 8) -> None:
        """Projected sign-gradient descent on the float margin of the center's class against each other one.

        Both networks are evaluated on the way; where the float class flips between two iterates, the segment between
        them crosses the decision boundary, and points near the crossing are tried.
        """
        center = self.region.center[None]
        logits = evaluate(self.float_network, center, logits=True)
        if logits.ndim != 2 or logits.shape[1] < 2 or not (self.region.hi > self.region.lo).any():
            return
        classes = logits.shape[1]
        winner = int(logits[0].argmax())
        rivals = [k for k in range(classes) if k != winner]
        weights = np.zeros((len(rivals), classes))
        weights[:, winner] = 1.0
        weights[np.arange(len(rivals)), rivals] = -1.0
        x = np.repeat(center, len(rivals), axis=0)
        size = (self.region.hi - self.region.lo).astype(np.float64)
        before = x
        for _ in range(steps):
            grad = input_gradient(self.float_network, x.astype(np.float64), weights)
            before, x = x, self.region.clip(x - np.sign(grad) * size * 0.3)
            _, exact = self.evaluate(x)
            flipped = exact.argmax(-1) != winner
            if flipped.any():
                self._cross(before[flipped][0], x[flipped][0])
                return

    def _cross(self, inside: Float32Array, outside: Float32Array, rounds: int = 4) -> None:
        low, high = 0.0, 1.0
        for _ in range(rounds):
            at = np.linspace(low, high, 33)
            x = self.region.clip(inside + at[:, None, None] * (outside - inside))
            _, exact = self.evaluate(x)
            if self.disagreement is not None:
                return
            classes = exact.argmax(-1)
            change = int(np.argmax(classes != classes[0]))
            if change == 0:
                return
            low, high = float(at[change - 1]), float(at[change])

    def result(self, watches: Sequence[Watch] = ()) -> SearchResult:
        assert self.per_output is not None
        violations = {w.name: w.violation for w in watches if w.violation is not None}
        return SearchResult(
            self.error,
            self.per_output,
            self.worst,
            self.disagreement,
            self.evaluations,
            self._logit_error(),
            violations,
            self.float_range,
        )

    def _logit_error(self) -> float:
        """Before a final softmax, at the worst input and the center."""
        x = np.stack([self.worst, self.region.center])
        exact = evaluate(self.float_network, x, logits=True)
        outputs = simulate_trace(self.integer_network, quantize_input(self.integer_network, x)).outputs
        ops = self.integer_network.ops
        last = max(k for k, op in enumerate(ops) if not isinstance(op, IntReshape))
        final = ops[last]
        last -= isinstance(final, IntActivation) and final.kind == "softmax"
        integer = dequantize(ops[last].output, outputs[last])
        return float(np.abs(integer.reshape(2, -1) - exact.reshape(2, -1)).max())


def search(
    float_network: FloatNetwork,
    integer_network: IntegerNetwork,
    region: Region,
    rng: np.random.Generator,
    evaluations: int,
    gradient: bool = True,
    watches: Sequence[Watch] = (),
) -> SearchResult:
    """Spend about `evaluations` exact evaluations on the largest error and, by gradient, on a class disagreement.

    Each of `watches` judges these, and gets a third as many of its own where they do not violate it.
    """
    run = Search(float_network, integer_network, region, rng)
    run.watches = watches
    if gradient:
        run.follow_gradient()
    run.maximize_error(evaluations)
    for watch in watches:
        hunt(run, watch, evaluations // 3)
    return run.result(watches)
