"""Replays what follows the LSTMs: dense layers, ReLU, softmax, and margins between outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from codesign.checker.integer import acting, effective, tensor_range
from codesign.checker.result import demand
from codesign.checker.second_order import pairwise
from codesign.checker.solver import Facts
from codesign.network.model import Dense
from codesign.proof.arithmetic import softmax_range
from codesign.proof.forms import UNIT, Array, Box, Form, Matrix, Pair, Symbols, affine, gamma, up
from codesign.quantization.integer import IntActivation, IntDense, IntegerNetwork, QuantizedTensor

MAX_SIGNED = 6  # outputs up to which an L1 norm is taken over all patterns of signs


def dense(layer: Dense, ops: Sequence[tuple[IntDense, IntegerNetwork]], relu: bool, x: Pair, symbols: Symbols) -> Pair:
    """W x + b and the integer operator's difference: its rounding, saturation and fused ReLU included."""
    op = ops[0][0]
    demand(layer.W.shape == op.W.shape, f"layer '{layer.name}' has weights of another shape in the int8 model")
    shape = (x.value.center.shape[0], len(layer.b))
    W, b = Matrix(layer.W.astype(np.float64)), layer.b.astype(np.float64)
    multipliers = [[acting(m, net) for m in o.multipliers] for o, net in ops]
    W_int, scale, slack, rounding = effective(op.W, op.input.scale, multipliers, op.output.scale)
    value = affine([(W, x.value)], Box.full(b, b, shape))
    constant = Box.around(np.broadcast_to(op.b * scale - b, shape), np.abs(op.b * scale) * slack)
    gap = affine([(W_int - W, x.value), (W_int, x.difference)], constant)
    noise = Box.full(-rounding, rounding, shape)
    if relu:
        return rectified(Pair.of(value, affine([(1.0, gap)], noise, symbols)), op.output, symbols)
    lo, hi = (op.output.scale * (q - op.output.zero_point) for q in (op.act_min, op.act_max))
    noise = noise + (value.box + gap.box + noise).saturation(lo, hi)
    return Pair.of(value, affine([(1.0, gap)], noise, symbols))


def rectified(x: Pair, output: QuantizedTensor, symbols: Symbols) -> Pair:
    """max(0, v), and max(0, v + d) - max(0, v): exact where both are on or off, else between 0 and d."""
    v, d = x.value.box, x.difference.box
    on, off = v.lo >= 0, v.hi <= 0
    mixed = ~(on | off)
    slope = np.where(on, 1.0, np.where(mixed, np.clip(v.hi / np.where(mixed, v.hi - v.lo, 1.0), 0, 1), 0.0))
    # relu(v) - slope v is convex: 0 at v = 0, largest at an end.
    top = np.where(mixed, up(np.maximum(v.hi * (1 - slope), -v.lo * slope) * (1 + 8 * UNIT)), 0.0)
    out = affine([(slope, x.value)], Box(np.zeros_like(top), top), symbols)
    total = v + d
    both_on = on & (total.lo >= 0)
    free = ~both_on & ~(off & (total.hi <= 0))
    noise = Box(np.where(free, np.minimum(d.lo, 0.0), 0.0), np.where(free, np.maximum(d.hi, 0.0), 0.0))
    reach = Box(np.zeros_like(total.lo), np.maximum(total.hi, 0.0))
    noise = noise + reach.saturation(-1.0, tensor_range(output)[1])
    d_out = affine([(np.where(both_on, 1.0, 0.0), x.difference)], noise, symbols)
    return Pair(out, d_out, out.box.meet(Box(np.zeros_like(v.lo), np.maximum(v.hi, 0.0))), d_out.box)


@dataclass(frozen=True, eq=False)
class Margins:
    """Ranges (B, M, M) of class i minus class j: float logits, logit differences, integer logits."""

    value: Box
    difference: Box
    integer: Box

    def meet(self, other: Margins) -> Margins:
        boxes = ((self.value, other.value), (self.difference, other.difference), (self.integer, other.integer))
        return Margins(*(a.meet(b) for a, b in boxes))

    def region(self, k: int) -> Margins:
        return Margins(*(Box(b.lo[k : k + 1], b.hi[k : k + 1]) for b in (self.value, self.difference, self.integer)))


def margins(x: Pair, symbols: Symbols) -> Margins:
    both = affine([(1.0, x.value), (1.0, x.difference)], Box.full(0.0, 0.0, x.value.center.shape))
    return Margins(*(pairwise(form, symbols) for form in (x.value, x.difference, both)))


def magnitudes(x: Form, box: Box) -> Array:
    """Above sum_i |d_i|, (B,): of the box, or for few outputs the largest signed sum of the forms."""
    total, outputs = box.mag.sum(1) * (1 + gamma(box.lo.shape[1])), box.lo.shape[1]
    if not 1 < outputs <= MAX_SIGNED:
        return up(total)
    width, best = x.generators.shape[-1], np.zeros(len(total))
    for rest in product((1.0, -1.0), repeat=outputs - 1):
        s = np.array([1.0, *rest])
        best = np.maximum(best, np.abs(x.center @ s) + np.abs(np.einsum("i,bik->bk", s, x.generators)).sum(1))
    lost = x.error.sum(1) + gamma(width + 2 * outputs) * x.mag.sum(1)
    return np.minimum(up(total), up(best * (1 + gamma(width)) + lost))


def softmax(op: IntActivation, m: Margins, facts: Facts) -> tuple[Box, Box, Array]:
    """(float probabilities, integer - float, above the sum of its magnitudes (B,)).

    Both real softmaxes sum to 1: all gains are all losses, but for the roundings.
    """
    move = facts.probability_difference(op.name, m.value, m.difference)
    rounding = Box(*softmax_range(op, facts.probability(op.name, m.integer).hi))
    change = move + rounding
    gains, losses = np.maximum(change.hi, 0.0).sum(1), np.maximum(-change.lo, 0.0).sum(1)
    lowest, highest = np.maximum(-rounding.lo, 0.0).sum(1), np.maximum(rounding.hi, 0.0).sum(1)
    total = np.minimum(change.mag.sum(1), np.minimum(2 * gains + lowest, 2 * losses + highest))
    return facts.probability(op.name, m.value), change, up(total * (1 + 4 * gamma(change.lo.shape[1])))


def output_margins(op: IntActivation | None, m: Margins, facts: Facts) -> Array:
    """Lower bounds (B, M, M) of the integer output's i minus j: p_i (1 - exp(l_j - l_i)) less both roundings."""
    if op is None:
        return m.integer.lo
    probability = facts.probability(op.name, m.integer)
    gap = 1.0 - np.exp(-np.clip(m.integer.lo, 0.0, 700.0))
    lo, hi = softmax_range(op, probability.hi)
    lower = probability.lo[:, :, None] * gap * (1 - 1e-12) + lo[:, :, None] - hi[:, None, :]
    return np.asarray(np.where(m.integer.lo > 0, lower, -1.0))


def probability_margins(m: Box, facts: Facts) -> Array:
    """Lower bounds (B, M, M) of the real softmax's p_i - p_j = p_i (1 - exp(l_j - l_i)) = -p_j (1 - exp(l_i - l_j))."""
    p = facts.probability("real softmax", m)
    above = p.lo[:, :, None] * -np.expm1(-np.clip(m.lo, 0.0, 700.0)) * (1 - 1e-13)
    below = p.hi[:, None, :] * -np.expm1(np.clip(m.lo, -700.0, 0.0)) * (1 + 1e-13)
    return np.asarray(np.where(m.lo > 0, above, -np.minimum(below, 1.0)) - 1e-15)
