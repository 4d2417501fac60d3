"""Propagates the joint differential zonotope through dense layers and activations, and bounds softmax outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

import numpy as np

from codesign.proof import exponentials
from codesign.quantization.align import DenseStage
from codesign.quantization.integer import IntActivation, IntDense, Profile
from codesign.verification import relaxation, rounding
from codesign.verification.affine import UNIT, Array, Box, Form, Matrix, Pool, combine, linear, up
from codesign.verification.lstm import Pair
from codesign.verification.relaxation import Function, Recorder


def effective_dense(op: IntDense, variants: Sequence[IntDense] = ()) -> tuple[Matrix, Array, Array, Array]:
    """Real weights and bias of the integer operator, their slack, and the requantization error per output."""
    outputs = op.W.shape[0]
    scale = np.broadcast_to([m.real * op.output.scale for m in op.multipliers], (outputs,))
    spread = np.zeros(outputs)
    for variant in variants:
        other = np.broadcast_to([m.real * op.output.scale for m in variant.multipliers], (outputs,))
        spread = np.maximum(spread, np.abs(other / scale - 1.0) * 1.001)
    spread = spread + 8 * UNIT
    W = op.W * (scale / op.input.scale)[:, None]
    b = op.b * scale
    worst = [
        max(rounding.requantization_error(v.multipliers[k]) for v in (op, *variants))
        for k in range(len(op.multipliers))
    ]
    noise = np.broadcast_to(np.asarray(worst) * op.output.scale, (outputs,))
    return Matrix(W, up(np.abs(W) * spread[:, None])), b, up(np.abs(b) * spread), up(noise.astype(np.float64))


def dense(stage: DenseStage, x: Pair, pool: Pool, variants: Sequence[IntDense] = ()) -> Pair:
    """W x + b and its difference; the integer operator's rounding, output clipping and fused ReLU included."""
    layer, op = stage.float_layer, stage.int_op
    W, b = Matrix.exact(layer.W), layer.b.astype(np.float64)
    W_int, b_int, b_slack, noise_radius = effective_dense(op, variants)
    value = linear([(W, x.value)], b)
    gap = linear([(W_int.minus(W), x.value), (W_int, x.difference)], b_int - b, b_slack + 2 * UNIT * np.abs(b_int - b))
    noise = Box(-noise_radius + np.zeros_like(value.center), noise_radius + np.zeros_like(value.center))
    if stage.relu:
        return _relu(value, combine([(1.0, gap)], 0.0, noise.rad, pool, "rounding: dense"), op, pool)
    scale, zero = op.output.scale, op.output.zero_point
    limits = scale * (op.act_min - zero), scale * (op.act_max - zero)
    noise = noise + rounding.saturation_error(value.box + gap.box + noise, *limits)
    return Pair.of(value, combine([(1.0, gap)], noise.mid, noise.rad, pool, "rounding: dense"))


@dataclass(frozen=True, eq=False)
class Relu:
    """max(0, v) = slope v + [0, top], and max(0, v + d) - max(0, v) = kept d + noise, kept 0 or 1; arrays (B, n)."""

    slope: Array
    top: Array
    kept: Array
    noise: Box


def relu_parts(v: Box, d: Box, op: IntDense | IntActivation) -> Relu:
    """A ReLU over boxes of v and d; the top of the integer output's range saturates.

    The difference lies between 0 and d, whatever v; where both sides are known to be active or inactive it is exact.
    """
    active, dead = v.lo >= 0, v.hi <= 0
    mixed = ~(active | dead)
    slope = np.where(active, 1.0, np.where(mixed, np.clip(v.hi / np.where(mixed, v.hi - v.lo, 1.0), 0, 1), 0.0))
    # relu(v) - slope v over [lo, hi] is convex: maximal at the ends, minimal (0) at v = 0.
    top = np.where(mixed, up(np.maximum(v.hi * (1 - slope), -v.lo * slope) * (1 + 8 * UNIT)), 0.0)
    total = v + d
    both_on, both_off = active & (total.lo >= 0), dead & (total.hi <= 0)
    other = ~(both_on | both_off)
    reach = Box(np.minimum(d.lo, 0.0), np.maximum(d.hi, 0.0))
    ceiling = rounding.tensor_range(op.output)[1]
    top_clip = rounding.saturation_error(Box(np.zeros_like(total.lo), np.maximum(total.hi, 0.0)), -1.0, ceiling)
    noise = Box(np.where(other, reach.lo, 0.0), np.where(other, reach.hi, 0.0)) + top_clip
    return Relu(slope, top, np.where(both_on, 1.0, 0.0), noise)


def _relu(value: Form, gap: Form, op: IntDense | IntActivation, pool: Pool) -> Pair:
    v = value.box
    parts = relu_parts(v, gap.box, op)
    half = 0.5 * parts.top
    out = combine([(parts.slope, value)], half, up(half), pool, "relaxation: relu")
    noise = parts.noise
    d_out = combine([(parts.kept, gap)], noise.mid, noise.rad, pool, "relu difference")
    return Pair(out, d_out, out.box.meet(0.0, np.maximum(v.hi, 0.0)), d_out.box)


@lru_cache(maxsize=64)
def table_error(op: IntActivation) -> tuple[float, float]:
    """Range of (dequantized integer output) - function(dequantized input), all inputs and profiles enumerated."""
    from codesign.semantics import activation_table

    q = np.arange(op.input.q_min, op.input.q_max + 1, dtype=np.float64)
    x = op.input.scale * (q - op.input.zero_point)
    exact = np.maximum(x, 0.0) if op.kind == "relu" else relaxation.value(op.kind, x)  # type: ignore[arg-type]
    tables = [activation_table(op, profile).astype(np.float64) for profile in get_args(Profile)]
    errors = np.stack([op.output.scale * (table - op.output.zero_point) - exact for table in tables])
    slack = 1e-13 * (1.0 + float(np.abs(x).max()))
    return float(errors.min()) - slack, float(errors.max()) + slack


def elementwise(op: IntActivation, x: Pair, pool: Pool, recorder: Recorder | None, place: str) -> Pair:
    """sigmoid, tanh or relu as an operator of its own."""
    table = Box(*(np.full_like(x.value_box.lo, end) for end in table_error(op)))
    if op.kind == "relu":
        out = _relu(x.value, x.difference, op, pool)
        return Pair.of(out.value, combine([(1.0, out.difference)], table.mid, table.rad, pool, "table"))
    function: Function = "sigmoid" if op.kind == "sigmoid" else "tanh"
    plane = relaxation.relax(function, x.value_box, place, recorder)
    diff = relaxation.relax_difference(function, x.value_box, x.difference_box, place, recorder)
    merged = Box(diff.mid - diff.rad, diff.mid + diff.rad).widen(4 * UNIT) + table
    value = combine([(plane.slope, x.value)], plane.mid, plane.rad, pool, f"relaxation: {op.kind}")
    difference = combine(
        [(diff.slope_z, x.value), (diff.slope_d, x.difference)], merged.mid, merged.rad, pool, f"{op.kind} difference"
    )
    image = relaxation.image(function, x.value_box, place, recorder)
    d_image = relaxation.difference_image(function, x.value_box, x.difference_box, place, recorder) + table
    return Pair(value, difference, value.box.meet(image.lo, image.hi), difference.box.meet(d_image.lo, d_image.hi))


@dataclass(frozen=True, eq=False)
class Margins:
    """Pairwise ranges over classes, each (B, M, M): entry (i, j) is about class i minus class j."""

    value: Box  # float logits
    difference: Box  # logit differences
    integer: Box  # integer logits, from the form value + difference


def margins(x: Pair) -> Margins:
    """Ranges of l_i - l_j, d_i - d_j and their sum, from forms with shared symbols."""
    return Margins(
        *(_pairwise(form) for form in (x.value, x.difference, combine([(1.0, x.value), (1.0, x.difference)])))
    )


def _pairwise(form: Form) -> Box:
    center = form.center[:, :, None] - form.center[:, None, :]
    size = form.magnitude[:, :, None] + form.magnitude[:, None, :]
    radius = np.empty_like(center)
    for j in range(form.center.shape[1]):
        radius[:, :, j] = np.abs(form.generators - form.generators[:, j : j + 1]).sum(-1)
    radius = up(
        radius + form.error[:, :, None] + form.error[:, None, :] + 4 * UNIT * (form.generators.shape[-1] + 8) * size
    )
    return Box(center - radius, center + radius)


@dataclass(frozen=True, eq=False)
class SoftmaxBounds:
    """Bounds on probabilities, (B, M) boxes: the float network's, and integer - float (rounding included)."""

    value: Box
    difference: Box


def softmax(op: IntActivation, m: Margins, recorder: Recorder | None = None) -> SoftmaxBounds:
    """Bound softmax and its difference from pairwise logit ranges.

    p_j = 1 / (1 + u) with u = sum_{i != j} exp(l_i - l_j), so log-odds of class j are -log u; in the integer network
    each term is multiplied by exp(d_i - d_j), hence the log-odds move by at most the extremes of d_i - d_j. The
    difference of probabilities is then D(z, e) of the sigmoid with z the log-odds and e that move.
    """
    odds, shift = _log_odds(m.value, op.name, recorder), _log_odds_shift(m.difference)
    value = relaxation.image("sigmoid", odds, op.name, recorder)
    difference = relaxation.difference_image("sigmoid", odds, shift, op.name, recorder)
    integer = relaxation.image("sigmoid", odds + shift, op.name, recorder)
    return SoftmaxBounds(value, difference + rounding.softmax_error(op, integer))


def probabilities(m: Box, place: str, recorder: Recorder | None = None) -> Box:
    """Ranges (B, M) of the real softmax, from ranges (B, M, M) of l_i - l_j."""
    return relaxation.image("sigmoid", _log_odds(m, place, recorder), place, recorder)


def softmax_margins(
    op: IntActivation, m: Margins, recorder: Recorder | None = None, probability: Box | None = None
) -> Box:
    """Ranges (B, M, M) of p_i - p_j on the integer network's int8 output, from its logit margins.

    p_i - p_j = p_i (1 - exp(-(l_i - l_j))) is positive as l_i - l_j is, and then at least the least p_i times the
    rest; both outputs carry the rounding of the integer softmax. Only the lower ends are tight. `probability` (B, M):
    of the integer network's logits, if it is known.
    """
    if probability is None:
        probability = probabilities(m.integer, op.name, recorder)
    above = m.integer.lo > 0
    gap, note = np.zeros_like(m.integer.lo), relaxation.noting(recorder, op.name)
    gap[above] = exponentials.complement_range(m.integer.lo[above], m.integer.lo[above], note)[0]
    lost = rounding.softmax_error(op, probability)
    lower = probability.lo[:, :, None] * gap * (1 - 1e-12)
    lower = np.where(above, lower + lost.lo[:, :, None] - lost.hi[:, None, :], -1.0)
    return Box(lower, np.ones_like(lower))


def _log_odds(margin: Box, place: str, recorder: Recorder | None) -> Box:
    return Box(*exponentials.log_odds(margin.lo, margin.hi, relaxation.noting(recorder, place)))


def _log_odds_shift(difference: Box) -> Box:
    """How far the log-odds of class i can move: the extremes of d_i - d_j over j != i, (B, M)."""
    off = ~np.eye(difference.lo.shape[1], dtype=bool)[None]
    lo = np.where(off, difference.lo, np.inf).min(2)
    hi = np.where(off, difference.hi, -np.inf).max(2)
    single = difference.lo.shape[1] == 1
    return Box(np.zeros_like(lo), np.zeros_like(hi)) if single else Box(lo, hi)
