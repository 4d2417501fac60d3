"""Bounds the difference of two whole networks over one region with quadratic zonotopes, where they fit.

The networks are LSTM layers followed by dense layers and ReLUs, and a softmax if any. The time and memory of a
region grow with (inputs free in the region) x (noise symbols) x (units): fine for short sequences, refused for long
ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.quantization.align import ActivationStage, DenseStage, LstmStage, ReshapeStage, Stage
from codesign.quantization.integer import IntActivation, IntDense, IntegerNetwork, IntLstm
from codesign.quantization.rescaling import effective_network
from codesign.verification import head, rounding
from codesign.verification.affine import UNIT, Array, Box, Form, Matrix, Pool, gamma, up
from codesign.verification.lstm import Pair
from codesign.verification.lstm_noise import LstmNoise
from codesign.verification.propagate import Enclosure, with_outputs, within_ranges
from codesign.verification.quadratic_forms import QuadraticForm, Symbols, combine, linear_map, with_noise
from codesign.verification.quadratic_lstm import QuadraticLstm, QuadraticPair
from codesign.verification.regions import Region, input_pairs
from codesign.verification.relaxation import Recorder, RelaxationBatch
from codesign.verification.trace import Trace, traces

MAX_BYTES = 2 << 30
_SYMBOLS = 14  # new symbols a unit and step
_LIVE = 14  # matrices of products a unit that are alive at once


@dataclass(frozen=True, eq=False)
class QuadraticBounds:
    """Of one region, at the last layer before a final softmax: boxes (1, rows * M) and margins, one a row.

    `sources` decomposes the widest difference; `resets` as `Pool.resets`; `hidden`: (T,) largest bound of a unit's
    difference at each step, one array an LSTM.
    """

    logits: Box
    difference: Box
    margins: tuple[head.Margins, ...]
    sources: dict[str, float]
    resets: tuple[npt.NDArray[np.bool_], ...]
    hidden: tuple[Array, ...]


def refusal(stages: Sequence[Stage], steps: int, free_inputs: int, inputs: int) -> str | None:
    """Why quadratic zonotopes do not apply to these networks and regions; None where they do.

    `free_inputs`: how many input values are free in a region, of `inputs`.
    """
    for stage in stages:
        if isinstance(stage, ActivationStage) and stage.kind not in ("softmax", "relu"):
            return f"there is a {stage.kind} layer after the LSTMs"
    units = [stage.float_layer.units for stage in stages if isinstance(stage, LstmStage)]
    if not units:
        return "there is no LSTM layer"
    symbols = 2 * inputs + _SYMBOLS * steps * sum(units)
    needed = 8 * free_inputs * symbols * (_LIVE * max(units) + steps * max(units) * (len(units) > 1))
    if needed > MAX_BYTES:
        return (
            f"{free_inputs} free inputs, {symbols} symbols and {max(units)} units need {needed / 2**30:.1f} GiB a "
            f"region, over the limit of {MAX_BYTES / 2**30:.0f} GiB"
        )
    return None


def quadratic_bounds(
    stages: Sequence[Stage],
    network: IntegerNetwork,
    region: Region,
    recorder: Recorder | None = None,
    variants: Sequence[IntegerNetwork] = (),
) -> QuadraticBounds:
    """Enclose both networks' logits and their difference over the region; call `refusal` first."""
    symbols = Symbols()
    rows = _inputs(region, network, symbols.noise)
    hidden: list[Array] = []
    for stage in stages:
        if isinstance(stage, LstmStage):
            op = stage.int_op
            others = [v for net in variants for v in net.ops if isinstance(v, IntLstm) and v.name == op.name]
            rows = QuadraticLstm(LstmNoise(stage.float_layer, op, others), symbols, recorder).run(rows)
            hidden.append(np.array([row.difference_box.mag.max() for row in rows]))
            rows = rows[-1:] if stage.last_only else rows
        elif isinstance(stage, DenseStage):
            dense_op = stage.int_op
            others_d = [v for net in variants for v in net.ops if isinstance(v, IntDense) and v.name == dense_op.name]
            rows = [_dense(stage, row, symbols, others_d) for row in rows]
        elif isinstance(stage, ActivationStage) and stage.kind == "relu":
            rows = [_relu(stage.int_op, row, symbols, head.table_error(stage.int_op)) for row in rows]
        elif isinstance(stage, ReshapeStage):
            rows = _reshape(rows, stage.shape)
    margins = tuple(_margins(row) for row in rows)
    difference = [row.difference.tight_box.meet(row.difference_box.lo, row.difference_box.hi) for row in rows]
    return QuadraticBounds(
        Box.joined([row.value_box for row in rows]),
        Box.joined(difference),
        margins,
        _sources(rows, symbols),
        tuple(symbols.resets),
        tuple(hidden),
    )


_FIXED = 1e-280  # radii up to it are those of values that are fixed


def _input_columns(pairs: Sequence[Pair], size: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Columns of the symbols of free input values, and of those that only the difference has."""
    used = np.zeros((2, size), dtype=bool)
    for pair in pairs:
        for k, form in enumerate((pair.value, pair.difference)):
            used[k, : form.generators.shape[2]] |= (np.abs(form.generators[0]) > _FIXED).any(0)
    return np.flatnonzero(used[0]), np.flatnonzero(used[1] & ~used[0])


def _inputs(region: Region, network: IntegerNetwork, pool: Pool) -> list[QuadraticPair]:
    """The inputs of every step; the symbols of the region's box come first, those of values that are fixed left out."""
    draft = Pool()
    pairs = input_pairs([region], network.input, draft)
    first, second = _input_columns(pairs, draft.size)
    order = np.concatenate([first, second])
    pool.allocate(len(first), "input")
    pool.allocate(len(second), "rounding: input")

    def converted(affine: Form) -> QuadraticForm:
        full = np.zeros((affine.center.shape[1], draft.size))
        full[:, : affine.generators.shape[2]] = affine.generators[0]
        none, linear = np.zeros((len(full), len(first), 0)), full[:, order]
        full[:, order] = 0.0
        error = up(affine.error[0] + np.abs(full).sum(1))
        return QuadraticForm(affine.center[0], linear, none, np.zeros((len(full), 0)), error)

    return [QuadraticPair(converted(p.value), converted(p.difference), p.value_box, p.difference_box) for p in pairs]


def _dense(stage: DenseStage, x: QuadraticPair, symbols: Symbols, variants: Sequence[IntDense]) -> QuadraticPair:
    layer, op = stage.float_layer, stage.int_op
    W, b = Matrix.exact(layer.W), layer.b.astype(np.float64)
    W_int, b_int, b_slack, radius = head.effective_dense(op, variants)
    value = linear_map([(W, x.value)], b)
    slack = b_slack + 2 * UNIT * np.abs(b_int - b)
    gap = linear_map([(W_int.minus(W), x.value), (W_int, x.difference)], b_int - b, slack)
    noise = Box(-radius[None], radius[None])
    if stage.relu:
        return _relu(
            op, QuadraticPair.of(value, with_noise(gap, noise, symbols, "rounding: dense")), symbols, (0.0, 0.0)
        )
    scale, zero = op.output.scale, op.output.zero_point
    limits = scale * (op.act_min - zero), scale * (op.act_max - zero)
    noise = noise + rounding.saturation_error(value.box + gap.box + noise, *limits)
    return QuadraticPair.of(value, with_noise(gap, noise, symbols, "rounding: dense"))


def _relu(
    op: IntDense | IntActivation, x: QuadraticPair, symbols: Symbols, table: tuple[float, float]
) -> QuadraticPair:
    """max(0, v) and its difference, with the error of the operator's table."""
    parts = head.relu_parts(x.value_box, x.difference_box, op)
    top = Box(np.zeros_like(parts.top), parts.top)
    value = combine([(parts.slope[0], x.value)], [], top, symbols, "relaxation: relu", slack=True)
    noise = parts.noise + Box(np.full_like(parts.top, table[0]), np.full_like(parts.top, table[1]))
    difference = combine([(parts.kept[0], x.difference)], [], noise, symbols, "relu difference", slack=False)
    box = value.box.meet(0.0, np.maximum(x.value_box.hi, 0.0))
    return QuadraticPair(value, difference, box, difference.box)


def _reshape(rows: list[QuadraticPair], shape: tuple[int, ...]) -> list[QuadraticPair]:
    """Row-major reshape: values of the last axis make one row."""
    width = shape[-1]
    count = int(np.prod(shape)) // width
    if len(rows) == count:
        return rows
    whole = QuadraticPair.joined(rows)
    return [whole.rows(slice(k * width, (k + 1) * width)) for k in range(count)]


def _margins(x: QuadraticPair) -> head.Margins:
    one = Matrix.exact(np.eye(len(x.value.center)))
    integer = linear_map([(one, x.value), (one, x.difference)], np.zeros(len(one.value)))
    return head.Margins(*(_pairwise(form) for form in (x.value, x.difference, integer)))


def _pairwise(form: QuadraticForm) -> Box:
    """Ranges (1, M, M) of value i minus value j."""
    n = len(form.center)
    lo, hi = np.zeros((n, n)), np.zeros((n, n))
    for i in range(n):
        rest = np.arange(i + 1, n)
        if not len(rest):
            continue
        select = np.zeros((len(rest), n))
        select[:, i] = 1.0
        select[np.arange(len(rest)), rest] = -1.0
        box = linear_map([(Matrix.exact(select), form)], np.zeros(len(rest))).tight_box
        lo[i, rest], hi[i, rest] = box.lo[0], box.hi[0]
        lo[rest, i], hi[rest, i] = -box.hi[0], -box.lo[0]
    return Box(lo[None], hi[None])


def _sources(rows: Sequence[QuadraticPair], symbols: Symbols) -> dict[str, float]:
    """Of the widest difference: its linear part by source, and all products together."""
    row = max(rows, key=lambda r: float(r.difference.radius.max()))
    unit = int(np.argmax(row.difference.radius))
    form = row.difference.rows(slice(unit, unit + 1))
    products = float(form.beyond(form.linear.shape[1])[0] - np.abs(form.extra).sum())
    parts: dict[str, float] = {"second order: input times noise": products}
    for pool, weights in ((symbols.noise, form.linear[0]), (symbols.slack, form.extra[0])):
        for name, total in pool.contributions(weights, 0).items():
            parts[name] = parts.get(name, 0.0) + float(total)
    return {name: total for name, total in parts.items() if total > 0}


def require_quadratic(stages: Sequence[Stage], network: IntegerNetwork, regions: Sequence[Region]) -> None:
    """InputError where quadratic zonotopes do not apply."""
    free = 0
    for region in regions:
        pool = Pool()
        free = max(free, len(_input_columns(input_pairs([region], network.input, pool), pool.size)[0]))
    why = refusal(stages, regions[0].lo.shape[0], free, regions[0].lo.size)
    if why is not None:
        raise InputError(f"the method 'quadratic' does not apply here: {why}; use --method zonotope")


def sharpened(
    enclosure: Enclosure,
    stages: Sequence[Stage],
    network: IntegerNetwork,
    regions: Sequence[Region],
    variants: Sequence[IntegerNetwork] = (),
) -> tuple[Enclosure, list[RelaxationBatch], list[Trace]]:
    """The better of a zonotope's enclosure and quadratic zonotopes', their relaxations, and each region's choices."""
    variants = [effective_network(variant) for variant in variants]
    found, batches, choices = [], [], []
    for region in regions:
        recorder = Recorder()
        bounds = quadratic_bounds(stages, network, region, recorder, variants)
        choices += traces(recorder.batches, bounds.resets, 1)
        batches += recorder.batches
        found.append(bounds)
    logits, difference = (
        _better(getattr(enclosure, a), [getattr(b, b_name) for b in found])
        for a, b_name in (("logits", "logits"), ("logit_difference", "difference"))
    )
    margins = tuple(
        head.Margins(
            *(
                _better(getattr(m, name), [getattr(b.margins[row], name) for b in found])
                for name in ("value", "difference", "integer")
            )
        )
        for row, m in enumerate(enclosure.margins)
    )
    rows = len(margins)
    sizes = difference.mag.reshape(len(regions), rows, -1)
    sums = up(sizes.sum(2) * (1 + gamma(sizes.shape[2])))
    if enclosure.logit_sums is not None:
        sums = np.minimum(sums, enclosure.logit_sums)
    narrower = [
        float(b.difference.rad.max()) < float(enclosure.logit_difference.rad[k].max()) for k, b in enumerate(found)
    ]
    outputs = Recorder()
    best = within_ranges(with_outputs(logits, difference, margins, sums, enclosure.softmax, outputs), stages, network)
    batches += outputs.batches
    return (
        replace(
            best,
            sources=tuple(b.sources if n else s for b, s, n in zip(found, enclosure.sources, narrower, strict=True)),
            symbols=enclosure.symbols,
            resets=enclosure.resets,
            hidden=tuple(
                np.minimum(h, np.stack([b.hidden[layer] for b in found])) for layer, h in enumerate(enclosure.hidden)
            ),
        ),
        batches,
        choices,
    )


def _better(boxes: Box, others: Sequence[Box]) -> Box:
    """(B, ...) boxes met with one of (1, ...) a region."""
    return boxes.meet(np.concatenate([b.lo for b in others]), np.concatenate([b.hi for b in others]))
