"""Searches for inputs that refute an order criterion, on the exact integer simulation.

A violation counts only with a clear float side (`CLEAR`): the float evaluation's own rounding cannot have made it up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codesign.network import evaluate, without_final_softmax
from codesign.network.evaluation import activate
from codesign.network.model import FloatNetwork
from codesign.verification.affine import Array
from codesign.verification.criteria import Criteria, Flags
from codesign.verification.gradient import input_gradient

if TYPE_CHECKING:
    from codesign.verification.search import Search

Float32Array = npt.NDArray[np.float32]
CLEAR = 1e-9
# (float outputs, integer outputs), (N, rows, M) each -> (violated (N,), score (N,): the larger, the nearer to it)
Judge = Callable[[Array, Array], tuple[Flags, Array]]


@dataclass(eq=False)
class Watch:
    """One criterion: judges every evaluation, keeps the first input that violates it."""

    name: str
    judge: Judge
    pairs: Callable[[Array], list[tuple[int, int]]]  # outputs whose order matters, from the center's logits (M,)
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
    """One for each order criterion asked for."""
    found = []
    if criteria.top1_above is not None:
        found.append(Watch("top1_above", _top1_above(criteria.top1_above, ends_in_softmax(network)), _rivals))
    if criteria.topk is not None:
        count = criteria.topk
        found.append(Watch("topk", _topk(count), lambda logits: _neighbours(logits, count)))
    if criteria.ranking is not None:
        pair = criteria.ranking
        found.append(Watch("ranking", _ranking(*pair), lambda logits: [pair]))
    return found


def _rivals(logits: Array) -> list[tuple[int, int]]:
    winner = int(logits.argmax())
    return [(winner, k) for k in range(len(logits)) if k != winner]


def _neighbours(logits: Array, count: int) -> list[tuple[int, int]]:
    order = np.argsort(-logits, kind="stable")
    return [(int(order[count - 1]), int(k)) for k in order[count:]]


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
        for pair in watch.pairs(logits[0])[:8]:
            _approach(run, watch, logits, pair)
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


def _approach(run: Search, watch: Watch, logits: Array, pair: tuple[int, int], steps: int = 6) -> None:
    """Projected sign-gradient steps until the order of two float outputs flips; then points around the crossing."""
    region = run.region
    weights = np.zeros_like(logits)
    weights[0, pair[0]], weights[0, pair[1]] = 1.0, -1.0
    side = np.sign((weights * logits).sum()) or 1.0
    size = (region.hi - region.lo).astype(np.float64)
    x = before = region.center[None]
    for _ in range(steps):
        grad = side * input_gradient(run.float_network, x.astype(np.float64), weights)
        before, x = x, region.clip(x - np.sign(grad) * size * 0.3)
        run.evaluate(x)
        if watch.violation is not None:
            return
        if side * (weights * evaluate(run.float_network, x, logits=True)).sum() <= 0:
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
        flipped = side * (weights * evaluate(run.float_network, points, logits=True)).sum(1) <= 0
        change = int(np.argmax(flipped))
        if change == 0:
            return
        low, high = float(at[change - 1]), float(at[change])
