"""Replays what follows the LSTMs: dense layers, activations, softmax, and margins between outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codesign.checker import integer
from codesign.checker.facts import Facts
from codesign.checker.forms import UNIT, Array, Box, Form, Matrix, Pair, Symbols, affine, points, up
from codesign.network.model import Dense
from codesign.proof.bounds import sigmoid_diff_plane_residual, sigmoid_plane_residual
from codesign.quantization.integer import IntActivation, IntDense, IntegerNetwork


def dense(layer: Dense, ops: Sequence[tuple[IntDense, IntegerNetwork]], relu: bool, x: Pair, symbols: Symbols) -> Pair:
    """W x + b and the integer operator's difference: its rounding, saturation and fused ReLU included."""
    op = ops[0][0]
    shape = (x.value.center.shape[0], len(layer.b))
    W, b = Matrix.exact(layer.W), layer.b.astype(np.float64)
    W_int, b_int, slack, rounding = integer.effective_dense(ops)
    value = affine([(W, x.value)], points(b, shape))
    constant = Box.around(np.broadcast_to(b_int - b, shape), slack)
    gap = affine([(W_int - W, x.value), (W_int, x.difference)], constant)
    radius = np.broadcast_to(rounding, shape)
    noise = Box(-radius, radius)
    if relu:
        return _relu(value, affine([(1.0, gap)], noise, symbols), op, symbols)
    zero = op.output.zero_point
    lo, hi = op.output.scale * (op.act_min - zero), op.output.scale * (op.act_max - zero)
    noise = noise + integer.saturation(value.box + gap.box + noise, lo, hi)
    return Pair.of(value, affine([(1.0, gap)], noise, symbols))


def _relu(value: Form, gap: Form, op: IntDense | IntActivation, symbols: Symbols) -> Pair:
    """max(0, v), and max(0, v + d) - max(0, v): exact where both are on or off, else between 0 and d."""
    v, d = value.box, gap.box
    on, off = v.lo >= 0, v.hi <= 0
    mixed = ~(on | off)
    slope = np.where(on, 1.0, np.where(mixed, np.clip(v.hi / np.where(mixed, v.hi - v.lo, 1.0), 0, 1), 0.0))
    # relu(v) - slope v is convex: 0 at v = 0, largest at an end.
    top = up(np.where(mixed, np.maximum(v.hi * (1 - slope), -v.lo * slope), 0.0) * (1 + 8 * UNIT))
    out = affine([(slope, value)], Box(np.zeros_like(top), np.where(mixed, top, 0.0)), symbols)
    total = v + d
    both_on, both_off = on & (total.lo >= 0), off & (total.hi <= 0)
    free = ~(both_on | both_off)
    noise = Box(np.where(free, np.minimum(d.lo, 0.0), 0.0), np.where(free, np.maximum(d.hi, 0.0), 0.0))
    ceiling = integer.tensor_range(op.output)[1]
    noise = noise + integer.saturation(Box(np.zeros_like(total.lo), np.maximum(total.hi, 0.0)), -1.0, ceiling)
    d_out = affine([(np.where(both_on, 1.0, 0.0), gap)], noise, symbols)
    reach = Box(np.zeros_like(v.lo), np.maximum(v.hi, 0.0))
    return Pair(out, d_out, out.box.meet(reach), d_out.box)


def elementwise(op: IntActivation, x: Pair, facts: Facts, symbols: Symbols) -> Pair:
    """sigmoid, tanh or relu as an operator of its own; its table against the real function, all inputs enumerated."""
    ends = integer.activation_error(op)
    table = Box(np.full_like(x.value_box.lo, ends[0]), np.full_like(x.value_box.lo, ends[1]))
    if op.kind == "relu":
        out = _relu(x.value, x.difference, op, symbols)
        return Pair.of(out.value, affine([(1.0, out.difference)], table, symbols))
    function = "sigmoid" if op.kind == "sigmoid" else "tanh"
    slope, residual, image = facts.plane(function, op.name, x.value_box)  # type: ignore[arg-type]
    alpha, beta, d_residual, d_image = facts.difference(function, op.name, x.value_box, x.difference_box)  # type: ignore[arg-type]
    value = affine([(slope, x.value)], residual, symbols)
    difference = affine([(alpha, x.value), (beta, x.difference)], d_residual + table, symbols)
    return Pair(value, difference, value.box.meet(image), difference.box.meet(d_image + table))


@dataclass(frozen=True, eq=False)
class Margins:
    """Ranges (B, M, M) of class i minus class j: float logits, logit differences, integer logits."""

    value: Box
    difference: Box
    integer: Box


def margins(x: Pair) -> Margins:
    both = affine([(1.0, x.value), (1.0, x.difference)], points(0.0, x.value.center.shape))
    return Margins(_pairwise(x.value), _pairwise(x.difference), _pairwise(both))


def _pairwise(form: Form) -> Box:
    center = form.center[:, :, None] - form.center[:, None, :]
    size = form.mag[:, :, None] + form.mag[:, None, :]
    spread = np.stack(
        [np.abs(form.generators - form.generators[:, j : j + 1]).sum(-1) for j in range(center.shape[1])], axis=2
    )
    error = form.error[:, :, None] + form.error[:, None, :]
    radius = up(spread + error + 4 * UNIT * (form.generators.shape[-1] + 8) * size)
    return Box(center - radius, center + radius)


def softmax(op: IntActivation, m: Margins) -> tuple[Box, Box]:
    """(float probabilities, integer - float).

    p_j = sigmoid(odds), odds = -log sum_{i != j} exp(l_i - l_j); in the integer network the odds move by at most the
    extremes of d_j - d_i, so that the difference is D(odds, move) of the sigmoid.
    """
    odds, move = _log_odds(m.value), _move(m.difference)
    lo, hi = sigmoid_diff_plane_residual(odds.lo, odds.hi, move.lo, move.hi, 0.0, 0.0)
    return _sigmoid(odds), Box(lo, hi) + integer.softmax_error(op, _sigmoid(odds + move))


def _sigmoid(odds: Box) -> Box:
    lo, hi = sigmoid_plane_residual(odds.lo, odds.hi, 0.0)
    return Box(np.maximum(lo, 0.0), np.minimum(hi, 1.0))


def softmax_margins(op: IntActivation, m: Margins) -> Array:
    """Lower bounds (B, M, M) of p_i - p_j on the integer output: p_i (1 - exp(l_j - l_i)) less both roundings."""
    probability = _sigmoid(_log_odds(m.integer))
    gap = 1.0 - np.exp(-np.clip(m.integer.lo, 0.0, 700.0))
    lost = integer.softmax_error(op, probability)
    lower = probability.lo[:, :, None] * gap * (1 - 1e-12) + lost.lo[:, :, None] - lost.hi[:, None, :]
    return np.asarray(np.where(m.integer.lo > 0, lower, -1.0))


def others(count: int) -> npt.NDArray[np.bool_]:
    return ~np.eye(count, dtype=bool)[None]


def _log_odds(margin: Box) -> Box:
    off = others(margin.lo.shape[1])

    def odds(end: Array) -> Array:
        terms = np.where(off, -np.clip(end, -1e6, 1e6), -np.inf)
        top = np.maximum(terms.max(2), -800.0)
        return np.asarray(-(top + np.log(np.maximum(np.exp(terms - top[:, :, None]).sum(2), 1e-300))))

    lo, hi = odds(margin.lo), odds(margin.hi)
    return Box(lo - 1e-12 * (1 + np.abs(lo)), hi + 1e-12 * (1 + np.abs(hi)))


def _move(difference: Box) -> Box:
    count = difference.lo.shape[1]
    if count == 1:
        return points(0.0, difference.lo.shape[:2])
    off = others(count)
    return Box(np.where(off, difference.lo, np.inf).min(2), np.where(off, difference.hi, -np.inf).max(2))
