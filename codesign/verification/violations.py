"""Searches for inputs that refute an order criterion or a threshold, on the exact integer simulation.

A violation counts only with a clear float side (`CLEAR`): the float evaluation's own rounding cannot have made it up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codesign.network import evaluate, without_final_softmax
from codesign.network.evaluation import activate
from codesign.network.model import FloatNetwork
from codesign.proof.thresholds import CLEAR, Threshold, chosen, opposite
from codesign.verification.affine import Array
from codesign.verification.criteria import Criteria, Flags
from codesign.verification.gradient import input_gradient

if TYPE_CHECKING:
    from codesign.verification.search import Search

Float32Array = npt.NDArray[np.float32]
# (float outputs, integer outputs), (N, rows, M) each -> (violated (N,), score (N,): the larger, the nearer to it)
Judge = Callable[[Array, Array], tuple[Flags, Array]]


@dataclass(frozen=True, eq=False)
class Boundary:
    """Where the float network decides: level(logits (N, M)) = 0, (N,). `weights` (M,): about the level's gradient."""

    weights: Array
    level: Callable[[Array], Array]

    @staticmethod
    def between(first: int, second: int, outputs: int) -> Boundary:
        """Where two outputs are equal."""
        weights = np.zeros(outputs)
        weights[first], weights[second] = 1.0, -1.0
        return Boundary(weights, lambda logits: np.asarray(logits @ weights))


@dataclass(eq=False)
class Watch:
    """One criterion: judges every evaluation, keeps the first input that violates it."""

    name: str
    judge: Judge
    boundaries: Callable[[Array], list[Boundary]]  # those that matter, from the center's logits (M,)
    violation: Float32Array | None = None
    scores: Array = field(default_factory=lambda: np.zeros(0))

    def observe(self, x: Float32Array, exact: Array, integer: Array) -> None:
        shape = (len(x), -1, exact.shape[-1])
        violated, self.scores = self.judge(exact.reshape(shape), integer.reshape(shape))
        if self.violation is None and violated.any():
            self.violation = x[int(np.argmax(violated))].copy()


def ends_in_softmax(network: FloatNetwork) -> bool:
    """Whether the outputs are probabilities already."""
    layers = without_final_softmax(network)
    return len(layers) != len(network.layers) or any(a is not b for a, b in zip(network.layers, layers, strict=True))


def watches(criteria: Criteria, network: FloatNetwork) -> list[Watch]:
    """One for each order criterion and threshold asked for."""
    found = []
    if criteria.top1_above is not None:
        found.append(Watch("top1_above", _top1_above(criteria.top1_above, ends_in_softmax(network)), _rivals))
    if criteria.topk is not None:
        count = criteria.topk
        found.append(Watch("topk", _topk(count), lambda logits: _neighbours(logits, count)))
    if criteria.ranking is not None:
        pair = criteria.ranking
        found.append(Watch("ranking", _ranking(*pair), lambda logits: [Boundary.between(*pair, len(logits))]))
    softmax = ends_in_softmax(network)
    for name, threshold in criteria.limits().items():
        found.append(Watch(name, _sides(threshold), partial(_crossings, threshold, softmax)))
    return found


def _rivals(logits: Array) -> list[Boundary]:
    winner = int(logits.argmax())
    return [Boundary.between(winner, k, len(logits)) for k in range(len(logits)) if k != winner]


def _neighbours(logits: Array, count: int) -> list[Boundary]:
    order = np.argsort(-logits, kind="stable")
    return [Boundary.between(int(order[count - 1]), int(k), len(logits)) for k in order[count:]]


def _crossings(threshold: Threshold, softmax: bool, logits: Array) -> list[Boundary]:
    """Where a float output, or behind a softmax its log-odds, crosses the threshold."""
    places = chosen(threshold.to_json(), np.arange(len(logits)), len(logits)).astype(int)
    if not softmax:
        return [Boundary(np.eye(len(logits))[k], partial(_excess, threshold.value, k)) for k in places]
    if not 0 < threshold.value < 1 or len(logits) < 2:
        return []
    found = []
    for k in places:
        rest = np.where(np.arange(len(logits)) == k, -np.inf, logits)
        found.append(Boundary(np.eye(len(logits))[k] - activate("softmax", rest), partial(_odds, threshold.value, k)))
    return found


def _excess(value: float, k: int, outputs: Array) -> Array:
    return np.asarray(outputs[:, k] - value)


def _odds(value: float, k: int, logits: Array) -> Array:
    p = activate("softmax", logits)[:, k]
    return np.asarray(p - value)


def _sides(threshold: Threshold) -> Judge:
    asked = threshold.to_json()

    def judge(exact: Array, integer: Array) -> tuple[Flags, Array]:
        width = exact.shape[-1]
        real, device = (chosen(asked, v, width) - threshold.value for v in (exact, integer))
        near = np.maximum(np.maximum(device, -real) * -1, np.maximum(-device, real) * -1)
        return opposite(asked, exact, integer).any((1, 2)), near.max((1, 2))

    return judge


def _top1_above(delta: float, probabilities: bool) -> Judge:
    def judge(exact: Array, integer: Array) -> tuple[Flags, Array]:
        p = exact if probabilities else activate("softmax", exact)
        ordered = np.sort(exact, axis=-1)
        clear = ordered[..., -1] - ordered[..., -2] > CLEAR
        top = exact.argmax(-1)
        confidence = p.max(-1) - delta
        wrong = clear & (confidence > CLEAR) & (integer.argmax(-1) != top)
        chosen = np.take_along_axis(integer, top[..., None], -1)[..., 0]
        rest = np.where(np.arange(exact.shape[-1]) == top[..., None], -np.inf, integer).max(-1)
        return wrong.any(1), -np.maximum(chosen - rest, -confidence).min(1)

    return judge


def _topk(count: int) -> Judge:
    def judge(exact: Array, integer: Array) -> tuple[Flags, Array]:
        # Ties go to the lower index, as argmax does.
        real, device = (np.argsort(-v, axis=-1, kind="stable") for v in (exact, integer))
        ordered = np.take_along_axis(exact, real, -1)
        clear = ordered[..., count - 1] - ordered[..., count] > CLEAR
        wrong = clear & (np.sort(real[..., :count], -1) != np.sort(device[..., :count], -1)).any(-1)
        by_float = np.take_along_axis(integer, real, -1)
        gap = by_float[..., :count].min(-1) - by_float[..., count:].max(-1)
        return wrong.any(1), -gap.min(1)

    return judge


def _ranking(above: int, below: int) -> Judge:
    def judge(exact: Array, integer: Array) -> tuple[Flags, Array]:
        real, device = (v[..., above] - v[..., below] for v in (exact, integer))
        return ((real > CLEAR) & (device <= 0)).any(1), -np.maximum(device, -real).min(1)

    return judge


def hunt(run: Search, watch: Watch, evaluations: int) -> None:
    """Spend about `evaluations` on a violation: along the float network's order boundaries, then by evolution."""
    region = run.region
    if watch.violation is not None:
        return
    run.watches = [watch]
    logits = evaluate(run.float_network, region.center[None], logits=True)
    if logits.ndim == 2 and (region.hi > region.lo).any():
        for boundary in watch.boundaries(logits[0])[:8]:
            _approach(run, watch, boundary)
            if watch.violation is not None:
                return
    population = 64
    x = np.concatenate([region.corners(24), region.uniform(24), region.ties(16)])
    run.evaluate(x)
    fitness, spent = watch.scores, len(x)
    while watch.violation is None and spent < evaluations:
        keep = np.argsort(-fitness, kind="stable")[:8]
        children = region.mutate(x[keep], population)
        run.evaluate(children)
        spent += population
        x, fitness = np.concatenate([x[keep], children]), np.concatenate([fitness[keep], watch.scores])


def _approach(run: Search, watch: Watch, boundary: Boundary, steps: int = 6) -> None:
    """Projected sign-gradient steps until the float network crosses a boundary; then points around the crossing."""
    region, network = run.region, run.float_network

    def level(x: Float32Array) -> Array:
        return boundary.level(evaluate(network, x, logits=True))

    x = before = region.center[None]
    side = float(np.sign(level(x)[0]) or 1.0)
    size = (region.hi - region.lo).astype(np.float64)
    for _ in range(steps):
        grad = side * input_gradient(network, x.astype(np.float64), boundary.weights[None])
        before, x = x, region.clip(x - np.sign(grad) * size * 0.3)
        run.evaluate(x)
        if watch.violation is not None:
            return
        if side * level(x)[0] <= 0:
            break
    else:
        return
    low, high = 0.0, 1.0
    for _ in range(4):
        at = np.linspace(low, high, 33)
        points = region.clip(before[0] + at[:, None, None] * (x[0] - before[0]))
        run.evaluate(points)
        if watch.violation is not None:
            return
        flipped = side * level(points) <= 0
        change = int(np.argmax(flipped))
        if change == 0:
            return
        low, high = float(at[change - 1]), float(at[change])
