"""Replays both networks over some regions with the recorded choices: every bound is derived here again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np

from codesign.checker.forms import UNIT, Array, Box, Flags, Form, Symbols, affine, gamma, join, up
from codesign.checker.integer import effective, tensor_range
from codesign.checker.lstm import LstmReplay, Pair, relaxed
from codesign.checker.result import demand
from codesign.checker.solver import Facts, Margins
from codesign.network.model import Dense
from codesign.proof.arithmetic import activation_range
from codesign.proof.ranges import Ranges, output_ranges
from codesign.quantization.align import ActivationStage, DenseStage, LstmStage, ReshapeStage, Stage
from codesign.quantization.integer import IntActivation, IntDense, IntegerNetwork, QuantizedTensor

FLOAT32 = 2.0**-24
MAX_SIGNED = 6  # outputs up to which an L1 norm is taken over all patterns of signs


class Logits(NamedTuple):
    """Derived for B regions before a final softmax, boxes (B, outputs).

    `margins`: one a row of outputs. `sums`: of magnitudes of each row's difference (B, rows). `hidden`: for each LSTM
    the largest difference of its units at each step, (B, steps).
    """

    value: Box
    difference: Box
    margins: tuple[Margins, ...]
    sums: Box
    hidden: tuple[Box, ...]


class Bounds(NamedTuple):
    """Of B regions. `sums` of magnitudes of each row's output difference (B, rows). `ranges`: of logits, of outputs."""

    logits: Logits
    output: Box
    difference: Box
    sums: Box
    softmax: IntActivation | None
    ranges: tuple[Ranges, Ranges]


def each(function: Callable[..., Box], *parts: Any) -> Any:
    """The function of all boxes in the same place of some structures."""
    if isinstance(parts[0], Box):
        return function(*parts)
    if not isinstance(parts[0], tuple):
        return parts[0]
    made = [each(function, *ps) for ps in zip(*parts, strict=True)]
    return type(parts[0])(*made) if hasattr(parts[0], "_fields") else tuple(made)


def input_pairs(network: IntegerNetwork, lo: Array, hi: Array, on_grid: Flags, symbols: Symbols) -> list[Pair]:
    """The inputs (B, D) at every step: the float network's, and how far the quantized ones are from them.

    `on_grid` (B,): regions of dequantized inputs only, which the float network sees rounded to float32 at worst.
    """
    (batch, count, features), tensor, ends = lo.shape, network.input, tensor_range(network.input)
    x, on_grid = Box(lo.reshape(batch, -1), hi.reshape(batch, -1)), on_grid.reshape(batch, 1)
    single = np.where(on_grid, up(FLOAT32 * x.mag * (1 + 1e-9)), 0.0)
    x = Box(np.where(on_grid, x.lo - single, x.lo), np.where(on_grid, x.hi + single, x.hi))
    steps, zero = x.mag / tensor.scale, tensor.zero_point
    slack = (1 + steps) * 2.0**-23  # of the single-precision division, several times over
    q_lo = np.clip(np.ceil(x.lo / tensor.scale - 0.5 - slack) + zero, tensor.q_min, tensor.q_max)
    q_hi = np.clip(np.floor(x.hi / tensor.scale + 0.5 + slack) + zero, tensor.q_min, tensor.q_max)
    first, last = tensor.scale * (q_lo - zero), tensor.scale * (q_hi - zero)
    grid = Box(first - 4 * UNIT * np.abs(first), last + 4 * UNIT * np.abs(last))
    half = up(tensor.scale * (0.5 + 2.0**-22 * (1 + steps)))
    rounding = Box(-half, half) + (x + Box(-half, half)).saturation(*ends)
    near = up(half + x.saturation(*ends).mag)  # clipping to the tensor's range moves no value away from one inside it
    gap = Box(grid.lo - x.hi, grid.hi - x.lo).widen(4 * UNIT * (grid.mag + x.mag)).meet(Box(-near, near))
    single = up(FLOAT32 * x.mag)
    rounding = Box(np.where(on_grid, -single, rounding.lo), np.where(on_grid, single, rounding.hi))
    # Either rounding alone, or where few values are reached and that is less, one of these minus x.
    by_grid = (grid.rad < rounding.rad) & ~on_grid
    noise = Box(np.where(by_grid, grid.lo, rounding.lo), np.where(by_grid, grid.hi, rounding.hi))
    form = symbols.of_input(x).within(x)
    dx = affine([(np.where(by_grid, -1.0, 0.0), form), noise], symbols, paired=True).meet(gap)
    symbols.born[symbols.inputs :] = np.repeat(np.arange(count), features)
    return [Pair(form, dx).part(slice(t * features, (t + 1) * features)) for t in range(count)]


def forward(
    chains: Sequence[Sequence[Stage]], rows: list[Pair], facts: Facts, symbols: Symbols,
    kind: Callable[..., LstmReplay] = LstmReplay,
) -> tuple[list[Pair], tuple[Box, ...]]:  # fmt: skip
    """The last layer's rows before a softmax, and `Logits.hidden`. `chains`: the paired layers under every profile."""
    hidden: list[Box] = []
    for stages in zip(*chains, strict=True):
        stage = stages[0]
        if isinstance(stage, LstmStage):
            ops = [s.int_op for s in stages if isinstance(s, LstmStage)]
            rows = kind(stage.float_layer, ops, facts, symbols).run(rows)
            largest = np.stack([row.difference.mag.max(1) for row in rows], axis=1)
            hidden.append(Box(-largest, largest))
            rows = rows[-1:] if stage.last_only else rows
        elif isinstance(stage, DenseStage):
            dense = [s.int_op for s in stages if isinstance(s, DenseStage)]
            rows = [_dense(stage.float_layer, dense, stage.relu, row, symbols) for row in rows]
        elif isinstance(stage, ReshapeStage):
            whole = Pair(join([row.value for row in rows]), join([row.difference for row in rows]))
            width, same_rows = stage.shape[-1], stage.shape[-1] == rows[0].value.lo.shape[1]
            demand(same_rows or whole.value.lo.shape[1] == np.prod(stage.shape), "a reshape that joins other steps")
            rows = [whole.part(slice(k, k + width)) for k in range(0, whole.value.lo.shape[1], width)]
        elif stage.kind != "softmax":
            rows = [_elementwise(stage.int_op, row, facts, symbols) for row in rows]
    return rows, tuple(hidden)


def _elementwise(op: IntActivation, x: Pair, facts: Facts, symbols: Symbols) -> Pair:
    """sigmoid, tanh or relu as an operator of its own; its table against the real function, all inputs enumerated."""
    table, still = activation_range(op), Box.full(0.0, 0.0, x.value.lo.shape)
    if op.kind == "sigmoid" or op.kind == "tanh":
        return relaxed(op.kind, op.name, x, still, table, facts, symbols)
    out = _rectified(x, op.output, symbols)
    return Pair(out.value, affine([(1.0, out.difference), Box.full(*table, still.lo.shape)], symbols))


def _dense(layer: Dense, ops: Sequence[IntDense], relu: bool, x: Pair, symbols: Symbols) -> Pair:
    """W x + b and the integer operator's difference: its rounding, saturation and fused ReLU included."""
    op, shape = ops[0], (len(x.value.lo), len(layer.b))
    W, b = Box(*[layer.W.astype(np.float64)] * 2), layer.b.astype(np.float64)
    W_int, scale, slack, rounding = effective(op.W, op.input.scale, [o.multipliers for o in ops], op.output.scale)
    value = affine([(W, x.value), Box.full(b, b, shape)])
    constant = Box.around(np.broadcast_to(op.b * scale - b, shape), np.abs(op.b * scale) * slack)
    gap, noise = affine([(W_int - W, x.value), (W_int, x.difference), constant]), Box.full(-rounding, rounding, shape)
    if relu:
        return _rectified(Pair(value, affine([(1.0, gap), noise], symbols)), op.output, symbols)
    lo, hi = (op.output.scale * (q - op.output.zero_point) for q in (op.act_min, op.act_max))
    noise = noise + (value + gap + noise).saturation(lo, hi)
    return Pair(value, affine([(1.0, gap), noise], symbols))


def _rectified(x: Pair, output: QuantizedTensor, symbols: Symbols) -> Pair:
    """max(0, v), and max(0, v + d) - max(0, v): exact where both are on or off, else between 0 and d."""
    v, d, total = x.value, x.difference, x.integer
    on, off, zero = v.lo >= 0, v.hi <= 0, np.zeros_like(v.lo)
    mixed = ~(on | off)
    slope = np.where(on, 1.0, np.where(mixed, np.clip(v.hi / np.where(mixed, v.hi - v.lo, 1.0), 0, 1), 0.0))
    # relu(v) - slope v is convex: 0 at v = 0, largest at an end.
    top = np.where(mixed, up(np.maximum(v.hi * (1 - slope), -v.lo * slope) * (1 + 8 * UNIT)), 0.0)
    out = affine([(slope, v), Box(zero, top)], symbols).meet(Box(zero, np.maximum(v.hi, 0.0)))
    both_on = on & (total.lo >= 0)
    free = ~both_on & ~(off & (total.hi <= 0))
    noise = Box(np.where(free, np.minimum(d.lo, 0.0), 0.0), np.where(free, np.maximum(d.hi, 0.0), 0.0))
    noise = noise + Box(zero, np.maximum(total.hi, 0.0)).saturation(-1.0, tensor_range(output)[1])
    return Pair(out, affine([(np.where(both_on, 1.0, 0.0), d), noise], symbols))


def read_off(rows: Sequence[Pair], hidden: tuple[Box, ...], symbols: Symbols) -> Logits:
    """Boxes, margins and sums of the last layer's forms."""
    value, difference = (
        join([_tight_box(getattr(row, name), symbols) for row in rows]) for name in ("value", "difference")
    )
    sums = np.stack([_magnitudes(row.difference, symbols) for row in rows], axis=1)
    return Logits(value, difference, tuple(_margins(row, symbols) for row in rows), Box(-sums, sums), hidden)


def outputs(passes: Sequence[Logits], chain: Sequence[Stage], network: IntegerNetwork, facts: Facts) -> Bounds:
    """What follows at the networks' outputs, which lie in their ranges."""
    logits: Logits = reduce(partial(each, Box.meet), passes)
    softmax = chain[-1].int_op if isinstance(chain[-1], ActivationStage) and chain[-1].kind == "softmax" else None
    ranges = output_ranges(chain, network)
    value, difference = _ranged(ranges[0], logits.value, logits.difference)
    logits = logits._replace(value=value, difference=difference)
    if softmax is None:
        return Bounds(logits, value, difference, logits.sums, None, ranges)
    parts = [facts.softmax(softmax, m) for m in logits.margins]
    output, moved = join([part[0] for part in parts]), np.stack([part[2] for part in parts], axis=1)
    output, change = _ranged(ranges[1], output, join([part[1] for part in parts]))
    return Bounds(logits, output, change, Box(-moved, moved), softmax, ranges)


def _ranged(ranges: Ranges, *boxes: Box) -> list[Box]:
    """The float value and the difference, within their ranges."""
    return [box.meet(Box(*ends)) for box, ends in zip(boxes, ranges.ends(boxes[0]), strict=True)]


def _margins(x: Pair, symbols: Symbols) -> Margins:
    """Of a row of outputs."""
    both = affine([(1.0, x.value), (1.0, x.difference), Box.full(0.0, 0.0, x.value.lo.shape)])
    return Margins(*(_pairwise(form, symbols) for form in (x.value, x.difference, both)))


def _pairwise(form: Form, symbols: Symbols) -> Box:
    """Ranges (B, M, M) of value i less value j."""
    batch, count = form.lo.shape
    pairs, lo, hi = list(combinations(range(count), 2)), *np.zeros((2, batch, count, count))
    if pairs:
        unit = np.eye(count)
        box = _lines(np.array([unit[i] - unit[j] for i, j in pairs]), form, symbols)
        first, second = zip(*pairs, strict=True)
        lo[:, first, second], hi[:, first, second] = box.lo, box.hi
        lo[:, second, first], hi[:, second, first] = -box.hi, -box.lo
    return Box(lo, hi)


def _magnitudes(x: Form, symbols: Symbols) -> Array:
    """Above sum_i |x_i|, (B,): of the box, or for few values the largest sum with signs."""
    count = x.lo.shape[1]
    total = up(x.mag.sum(1) * (1 + gamma(count)))
    if not 1 < count <= MAX_SIGNED:
        return total
    signs = np.array([(1.0, *rest) for rest in product((1.0, -1.0), repeat=count - 1)])
    return np.minimum(total, _lines(signs, x, symbols).mag.max(1))


def _lines(weights: Array, form: Form, symbols: Symbols) -> Box:
    """Ranges (B, m) of sums of the values (B, n) with weights (m, n)."""
    zero = Box.full(0.0, 0.0, (len(form.lo), len(weights)))
    return _tight_box(affine([(Box(weights, weights), form), zero]), symbols)


def _tight_box(form: Form, symbols: Symbols) -> Box:
    """The form's box; with products of symbols the better of that and one that lets the input's cancel.

    At an input x the other symbols reach sum_k |l_k + m_k x|, m_k the products with x; and |y| <= t/2 + y^2 / (2 t) for
    any t > 0: a quadratic form in x, whose coefficients add up with signs.
    """
    radius = form.radius.copy()
    if symbols.spans:
        for at in np.ndindex(*radius.shape):
            own = form.generators[at], form.products[at], float(form.error[at])
            radius[at] = min(radius[at], _squared(*own, symbols))
    return Box.around(form.center, radius + 2 * UNIT * form.size).meet(form)


def _squared(g: Array, products: Array, error: float, symbols: Symbols) -> float:
    X, rest, size = symbols.inputs, np.abs(g), np.abs(g).sum() + np.abs(products).sum() + error
    square = np.resize(products[: X * X], (X, X)) if products.size else np.zeros((X, X))
    m = products[X * X :].reshape(-1, X)
    paired = np.concatenate([np.arange(*span) for span in symbols.spans])[X : X + len(m)]
    own = g[paired]
    rest[:X] = rest[paired] = 0.0
    t = np.sqrt(own**2 + np.square(m).sum(1)) + 1e-290
    slope, bend = (own / t) @ m, 0.5 * m.T @ (m / t[:, None])
    reach = max(np.abs(slope + s * g[:X]).sum() + np.abs(bend + s * square).sum() for s in (1.0, -1.0))
    columns = np.abs(m).sum(1)
    size += (t + columns + columns**2 / t).sum()
    terms = 3 * (len(g) + len(products)) + X * X
    return float(up(0.5 * (t + own * (own / t)).sum() + reach + rest.sum() + error + gamma(terms) * size))
