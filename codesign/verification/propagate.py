"""Runs the joint differential zonotope through a whole pair of networks, for a batch of regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from codesign.proof.ranges import Ranges, output_ranges
from codesign.quantization.align import DenseStage, LstmStage, ReshapeStage, Stage
from codesign.quantization.integer import IntActivation, IntDense, IntegerNetwork, IntLstm
from codesign.quantization.rescaling import effective_network
from codesign.verification import head
from codesign.verification.affine import Array, Box, Form, Pool
from codesign.verification.lstm import LstmPropagation, Pair
from codesign.verification.norms import probability_sum, sum_of_magnitudes
from codesign.verification.regions import Region, input_pairs
from codesign.verification.relaxation import Recorder
from codesign.verification.trace import MARGIN_ROOM


@dataclass(frozen=True, eq=False)
class Enclosure:
    """What holds for every input of each region; rows are outputs with at least two classes or single values.

    `logits`, `logit_difference`: (B, rows * M) boxes at the last layer before a final softmax (or the output itself).
    `output`, `output_difference`: the same at the network's output. `margins`: one per row.
    `sources`: share of each noise source in the widest logit difference, per region. `hidden`: for each LSTM, the
    largest bound (B, T) of its units at each step. `logit_sums`, `output_sums`: (B, rows) bounds on the L1 norm of each
    row's difference. `softmax`: the final softmax, if any.
    """

    logits: Box
    logit_difference: Box
    output: Box
    output_difference: Box
    margins: tuple[head.Margins, ...]
    output_margins: tuple[Box, ...] | None
    sources: tuple[dict[str, float], ...] = ()
    symbols: int = 0
    resets: tuple[npt.NDArray[np.bool_], ...] = ()
    hidden: tuple[Array, ...] = ()
    softmax: IntActivation | None = None
    logit_sums: Array | None = None
    output_sums: Array | None = None


def propagate(
    stages: Sequence[Stage],
    integer_network: IntegerNetwork,
    regions: Sequence[Region],
    recorder: Recorder | None = None,
    variants: Sequence[IntegerNetwork] = (),
) -> Enclosure:
    """Enclose both networks' outputs and their difference over each region (all of one shape)."""
    variants = [effective_network(variant) for variant in variants]
    pool = Pool()
    rows = input_pairs(regions, integer_network.input, pool)
    final_softmax: IntActivation | None = None
    hidden: list[Array] = []
    for stage in stages:
        if isinstance(stage, LstmStage):
            op = stage.int_op
            others = [v for net in variants for v in net.ops if isinstance(v, IntLstm) and v.name == op.name]
            layer = LstmPropagation(stage.float_layer, op, pool, recorder, others)
            rows = layer.run(rows, stage.last_only)
            hidden.append(layer.hidden)
        elif isinstance(stage, DenseStage):
            dense_op = stage.int_op
            others_d = [v for net in variants for v in net.ops if isinstance(v, IntDense) and v.name == dense_op.name]
            rows = [head.dense(stage, row, pool, others_d) for row in rows]
        elif isinstance(stage, ReshapeStage):
            rows = _reshape(rows, stage.shape)
        elif stage.kind == "softmax":
            final_softmax = stage.int_op
        else:
            place = stage.int_op.name
            rows = [head.elementwise(stage.int_op, row, pool, recorder, place) for row in rows]
    found = replace(_finish(rows, final_softmax, pool, recorder), hidden=tuple(hidden))
    return within_ranges(found, stages, integer_network)


def within_ranges(enclosure: Enclosure, stages: Sequence[Stage], network: IntegerNetwork) -> Enclosure:
    """The enclosure met with what the ranges of logits and outputs say of every input (`codesign.proof.ranges`)."""
    logits, outputs = output_ranges(stages, network)
    value, difference = _within(logits, enclosure.logits, enclosure.logit_difference)
    output, output_difference = _within(outputs, enclosure.output, enclosure.output_difference)
    return replace(
        enclosure, logits=value, logit_difference=difference, output=output, output_difference=output_difference
    )


def _within(ranges: Ranges, value: Box, difference: Box) -> tuple[Box, Box]:
    real, change = ranges.ends(value)
    return value.meet(*real), difference.meet(*change)


def _finish(
    rows: list[Pair], final_softmax: IntActivation | None, pool: Pool, recorder: Recorder | None = None
) -> Enclosure:
    enclosure = with_outputs(
        Box.joined([row.value_box for row in rows]),
        Box.joined([row.difference_box for row in rows]),
        tuple(head.margins(row) for row in rows),
        np.stack([sum_of_magnitudes(row.difference, row.difference_box) for row in rows], axis=1),
        final_softmax,
        recorder,
    )
    return replace(enclosure, sources=_sources(rows, pool), symbols=pool.size, resets=tuple(pool.resets))


def with_outputs(
    logits: Box,
    difference: Box,
    margins: tuple[head.Margins, ...],
    sums: Array,
    final_softmax: IntActivation | None,
    recorder: Recorder | None = None,
) -> Enclosure:
    """What follows for the outputs from bounds before a final softmax; `sums` (B, rows) of magnitudes."""
    output, output_difference, output_margins, output_sums = logits, difference, None, sums
    if final_softmax is not None:
        bounds = [head.softmax(final_softmax, m, recorder) for m in margins]
        output = Box.joined([b.value for b in bounds])
        output_difference = Box.joined([b.difference for b in bounds])
        integer = [head.probabilities(m.integer, final_softmax.name, recorder) for m in margins]
        pairs = list(zip(margins, integer, strict=True))
        output_margins = tuple(head.softmax_margins(final_softmax, m, recorder, p) for m, p in pairs)
        sums_of = [probability_sum(b.difference, final_softmax, p) for b, p in zip(bounds, integer, strict=True)]
        output_sums = np.stack(sums_of, axis=1)
    return Enclosure(
        logits,
        difference,
        output,
        output_difference,
        margins,
        output_margins,
        softmax=final_softmax,
        logit_sums=sums,
        output_sums=output_sums,
    )


def _sources(rows: list[Pair], pool: Pool) -> tuple[dict[str, float], ...]:
    result = []
    for region in range(rows[0].value.center.shape[0]):
        row = max(rows, key=lambda r: float(r.difference.radius[region].max()))
        unit = int(np.argmax(row.difference.radius[region]))
        parts = pool.contributions(row.difference.generators[region, unit], region)
        result.append({name: float(total) for name, total in parts.items() if total > 0})
    return tuple(result)


def _concatenate_forms(forms: Sequence[Form]) -> Form:
    width = max(f.generators.shape[-1] for f in forms)
    padded = [np.pad(f.generators, ((0, 0), (0, 0), (0, width - f.generators.shape[-1]))) for f in forms]
    return Form(
        np.concatenate([f.center for f in forms], axis=1),
        np.concatenate(padded, axis=1),
        np.concatenate([f.error for f in forms], axis=1),
    )


def _reshape(rows: list[Pair], shape: tuple[int, ...]) -> list[Pair]:
    """Row-major reshape: values of the last axis make one row."""
    width = shape[-1]
    count = int(np.prod(shape)) // width
    if len(rows) == count:
        return rows
    whole = Pair(
        _concatenate_forms([r.value for r in rows]),
        _concatenate_forms([r.difference for r in rows]),
        Box.joined([r.value_box for r in rows]),
        Box.joined([r.difference_box for r in rows]),
    )
    parts = [slice(k * width, (k + 1) * width) for k in range(count)]
    return [
        Pair(whole.value.rows(p), whole.difference.rows(p), whole.value_box.rows(p), whole.difference_box.rows(p))
        for p in parts
    ]


def top1_proved(enclosure: Enclosure) -> tuple[Array, Array]:
    """(proved, class): whether both networks are proved to choose that one class for every input, per region; never
    of one output.

    Shape (B,) bool and (B, rows) int. Needs, in every row, a class that beats all others by a positive margin in the
    float network and, on the int8 output itself, in the integer network.
    """
    winners, proved = [], []
    integer = enclosure.output_margins or tuple(m.integer for m in enclosure.margins)
    for m, q in zip(enclosure.margins, integer, strict=True):
        classes = m.value.lo.shape[1]
        others = ~np.eye(classes, dtype=bool)[None]
        worst = np.minimum(np.where(others, m.value.lo, np.inf).min(2), np.where(others, q.lo, np.inf).min(2))
        winner = np.argmax(worst, axis=1)
        winners.append(winner)
        if classes < 2:  # one output is no class
            worst[:] = -np.inf
        proved.append(np.take_along_axis(worst, winner[:, None], 1)[:, 0] > MARGIN_ROOM)
    return np.all(proved, axis=0), np.stack(winners, axis=1)


def in_float32(enclosure: Enclosure, error: Array) -> Enclosure:
    """With margins of a float32 evaluation of the float network; its logits are off by at most `error` (B, outputs)."""
    margins, start = [], 0
    for m in enclosure.margins:
        count = m.value.lo.shape[1]
        own, start = error[:, start : start + count], start + count
        slack = (own[:, :, None] + own[:, None, :]) * ~np.eye(count, dtype=bool) * (1 + 1e-9)
        margins.append(replace(m, value=m.value.widen(slack), difference=m.difference.widen(slack)))
    return replace(enclosure, margins=tuple(margins))
