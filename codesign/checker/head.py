"""Replays what follows the LSTMs: dense layers, ReLU, softmax, and margins between outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codesign.checker.forms import UNIT, Array, Box, Flags, Form, Matrix, Pair, Symbols, affine, up
from codesign.checker.integer import acting, effective, softmax_error, tensor_range
from codesign.checker.result import demand
from codesign.network.model import Dense
from codesign.proof.bounds import sigmoid_diff_plane_residual, sigmoid_plane_residual
from codesign.quantization.integer import IntActivation, IntDense, IntegerNetwork, QuantizedTensor


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


def margins(x: Pair) -> Margins:
    both = affine([(1.0, x.value), (1.0, x.difference)], Box.full(0.0, 0.0, x.value.center.shape))
    return Margins(*(_pairwise(form) for form in (x.value, x.difference, both)))


def _pairwise(form: Form) -> Box:
    center, size, error = (
        a[:, :, None] + b[:, None, :]
        for a, b in ((form.center, -form.center), (form.mag, form.mag), (form.error, form.error))
    )
    g = form.generators
    spread = np.stack([np.abs(g - g[:, j : j + 1]).sum(-1) for j in range(center.shape[1])], axis=2)
    radius = up(spread + error + 4 * UNIT * (g.shape[-1] + 8) * size)
    return Box(center - radius, center + radius)


def softmax(op: IntActivation, m: Margins) -> tuple[Box, Box]:
    """(float probabilities, integer - float).

    p_j = sigmoid(odds), odds = -log sum_{i != j} exp(l_i - l_j); in the integer network the odds move by at most the
    extremes of d_j - d_i, so that the difference is D(odds, move) of the sigmoid.
    """
    odds, off, d = _log_odds(m.value), others(m.value), m.difference
    move = Box(np.where(off, d.lo, np.inf).min(2), np.where(off, d.hi, -np.inf).max(2))
    if d.lo.shape[1] == 1:
        move = Box.full(0.0, 0.0, odds.lo.shape)
    lo, hi = sigmoid_diff_plane_residual(odds.lo, odds.hi, move.lo, move.hi, 0.0, 0.0)
    return _sigmoid(odds), Box(lo, hi) + softmax_error(op, _sigmoid(odds + move))


def _sigmoid(odds: Box) -> Box:
    return Box(*sigmoid_plane_residual(odds.lo, odds.hi, 0.0)).clip(0.0, 1.0)


def softmax_margins(op: IntActivation, m: Margins) -> Array:
    """Lower bounds (B, M, M) of p_i - p_j on the integer output: p_i (1 - exp(l_j - l_i)) less both roundings."""
    probability = _sigmoid(_log_odds(m.integer))
    gap = 1.0 - np.exp(-np.clip(m.integer.lo, 0.0, 700.0))
    lost = softmax_error(op, probability)
    lower = probability.lo[:, :, None] * gap * (1 - 1e-12) + lost.lo[:, :, None] - lost.hi[:, None, :]
    return np.asarray(np.where(m.integer.lo > 0, lower, -1.0))


def others(margin: Box) -> Flags:
    """(1, M, M): where i is not j."""
    return ~np.eye(margin.lo.shape[1], dtype=bool)[None]


def _log_odds(margin: Box) -> Box:
    def odds(end: Array) -> Array:
        terms = np.where(others(margin), -np.clip(end, -1e6, 1e6), -np.inf)
        top = np.maximum(terms.max(2), -800.0)
        return np.asarray(-(top + np.log(np.maximum(np.exp(terms - top[:, :, None]).sum(2), 1e-300))))

    lo, hi = odds(margin.lo), odds(margin.hi)
    return Box(lo - 1e-12 * (1 + np.abs(lo)), hi + 1e-12 * (1 + np.abs(hi)))
