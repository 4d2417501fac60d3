"""Bounds |integer - float| over a whole input domain: the comparison system in the LSTMs, affine forms in the head.

For a fixed number of steps the system is stepped from the reset state. For any number of steps (`any_length`), boxes
that no step leaves hold the float state, and differences u with F(u) <= u bound the difference for ever
(`codesign.verification.invariant`); the head sees the state after whatever step. Dense layers and activations get one
fresh noise symbol a value and a difference, so that margins between outputs keep what they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.quantization.align import ActivationStage, DenseStage, LstmStage, ReshapeStage, Stage
from codesign.quantization.integer import IntActivation, IntDense, IntegerNetwork, IntLstm
from codesign.verification import head, rounding
from codesign.verification.affine import Array, Box, Form, Pool, up
from codesign.verification.comparison import LayerComparison, State, excess
from codesign.verification.invariant import Contraction, invariant_state
from codesign.verification.lstm import Pair
from codesign.verification.propagate import Enclosure, _finish, _reshape, top1_proved, within_ranges
from codesign.verification.regions import Region, input_pairs
from codesign.verification.relaxation import Recorder, RelaxationBatch


@dataclass(frozen=True, eq=False)
class Row:
    """A vector at one time step: box of the float values (n,) and largest difference (n,)."""

    value: Box
    difference: Array


@dataclass(frozen=True, eq=False)
class DomainEnclosure:
    """What holds for every input of the domain.

    `enclosure` has one region; `softmax` is the final softmax operator, if any; `contractions`: one an LSTM, for any
    length. For a checker: `states`, what every step of every LSTM ends in, or for any length what no step leaves, and
    `planes`, the relaxations behind the LSTMs.
    """

    enclosure: Enclosure
    softmax: IntActivation | None
    contractions: tuple[Contraction, ...]
    states: Array
    planes: tuple[RelaxationBatch, ...]

    @property
    def logit_bound(self) -> Array:
        d = self.enclosure.logit_difference
        return np.asarray(np.maximum(-d.lo[0], d.hi[0]))


def enclose_domain(
    stages: Sequence[Stage],
    network: IntegerNetwork,
    region: Region,
    variants: Sequence[IntegerNetwork] = (),
    any_length: bool = False,
    recorder: Recorder | None = None,
) -> DomainEnclosure:
    """Enclose both networks' outputs and their difference over `region`, one box of inputs.

    `network` and `variants` are effective ones (`codesign.quantization.rescaling`), as `stages` was aligned with.
    `recorder` takes the nonlinear facts that the bounds rest on. For any length every output row gets the one bound.
    InputError where a layer is not supported; CodesignError where no bound exists for any number of steps.
    """
    rows = _input_rows(network, region)
    if any_length:
        _require_steps_apart(stages, network)
        rows = [_same_at_every_step(region, rows)]
    pool = Pool()
    pairs: list[Pair] | None = None
    softmax: IntActivation | None = None
    contractions: list[Contraction] = []
    states: list[State] = []
    planes = Recorder()
    for stage in stages:
        if isinstance(stage, LstmStage):
            if pairs is not None:
                rows, pairs = [_row(p) for p in pairs], None
            others = [v for net in variants for v in net.ops if isinstance(v, IntLstm) and v.name == stage.int_op.name]
            comparison = LayerComparison(stage.float_layer, stage.int_op, others)
            if any_length:
                state, contraction = invariant_state(comparison, rows[0].value, rows[0].difference)
                contractions.append(contraction)
                reached = [state]
                comparison.recorder = recorder
                comparison.terms(rows[0].value, rows[0].difference, state)
            else:
                comparison.recorder = recorder
                reached = run_layer(comparison, rows)
            states += reached
            rows = [Row(state.h, state.dh) for state in (reached[-1:] if stage.last_only else reached)]
            continue
        if pairs is None:
            pairs = [_pair(row, pool) for row in rows]
        if isinstance(stage, ActivationStage) and stage.kind == "softmax":
            softmax = stage.int_op
        elif isinstance(stage, ReshapeStage):
            pairs = pairs if any_length else _reshape(pairs, stage.shape)
        else:
            pairs = [_apply(stage, pair, pool, planes, variants) for pair in pairs]
    if pairs is None:
        pairs = [_pair(row, pool) for row in rows]
    if any_length:
        pairs = pairs * (int(np.prod(network.output.shape)) // pairs[0].value.center.shape[1])
    flat = np.concatenate([state.flat() for state in states]) if states else np.zeros(0)
    if recorder is not None:
        recorder.batches += planes.batches
    found = within_ranges(_finish(pairs, softmax, pool, recorder), stages, network)
    return DomainEnclosure(found, softmax, tuple(contractions), flat, tuple(planes.batches))


def _apply(
    stage: DenseStage | ActivationStage,
    pair: Pair,
    pool: Pool,
    planes: Recorder,
    variants: Sequence[IntegerNetwork],
) -> Pair:
    if isinstance(stage, DenseStage):
        name = stage.int_op.name
        others = [v for net in variants for v in net.ops if isinstance(v, IntDense) and v.name == name]
        return head.dense(stage, pair, pool, others)
    return head.elementwise(stage.int_op, pair, pool, planes, stage.int_op.name)


def run_layer(comparison: LayerComparison, rows: Sequence[Row]) -> list[State]:
    """What each step ends in, from the reset state; with room, as it is recorded and what the next step starts from."""
    state = State.reset(comparison.units)
    result = []
    for row in rows:
        state = comparison.step(row.value, row.difference, state).roomy()
        result.append(state)
    return result


def _row(pair: Pair) -> Row:
    value, d = pair.value_box, pair.difference_box
    return Row(Box(value.lo[0], value.hi[0]), np.maximum(-d.lo[0], d.hi[0]))


def _pair(row: Row, pool: Pool) -> Pair:
    value, difference = Box(row.value.lo[None], row.value.hi[None]), Box(-row.difference[None], row.difference[None])
    forms = Form.from_box(value, pool, "float state"), Form.from_box(difference, pool, "hidden state difference")
    return Pair(*forms, value, difference)


def _input_rows(network: IntegerNetwork, region: Region) -> list[Row]:
    """Inputs and how far their dequantized values can be from them: half a step, and what the range cuts off.

    Clipping to a range that holds x does not move a value away from x, so only x's own excess counts.
    """
    tensor = network.input
    lo, hi = rounding.tensor_range(tensor)
    rows = []
    for pair in input_pairs([region], tensor, Pool()):
        row = _row(pair)
        half = up(np.asarray(tensor.scale * (0.5 + 2.0**-22 * (1 + row.value.mag / tensor.scale))))
        rows.append(Row(row.value, np.minimum(row.difference, up(half + excess(row.value, lo, hi)))))
    return rows


def _require_steps_apart(stages: Sequence[Stage], network: IntegerNetwork) -> None:
    width = network.input.shape[-1]
    for stage in stages:
        if isinstance(stage, LstmStage):
            width = stage.float_layer.units
        elif isinstance(stage, DenseStage):
            width = len(stage.float_layer.b)
        elif isinstance(stage, ReshapeStage) and stage.shape[-1] != width:
            raise InputError(
                "a certificate for any number of steps needs layers that act on one step; this model reshapes "
                f"{network.input.shape[0]} steps into rows of {stage.shape[-1]} values"
            )


def _same_at_every_step(region: Region, rows: Sequence[Row]) -> Row:
    if (region.lo != region.lo[0]).any() or (region.hi != region.hi[0]).any():
        raise InputError("for any number of steps the domain has to be the same at every step")
    return rows[0]


def covered(domain: DomainEnclosure, logits: Array) -> npt.NDArray[np.bool_]:
    """For float logits (N, outputs) of single inputs: whether the bound proves the same top-1 class there, (N,)."""
    e = domain.enclosure
    result = np.ones(len(logits), bool)
    start = 0
    for margins in e.margins:
        width = margins.value.lo.shape[1]
        z = logits[:, start : start + width]
        start += width
        gap = z[:, :, None] - z[:, None, :]
        slack = 1e-9 * (1 + np.abs(gap))
        value = Box(gap - slack, gap + slack)
        m = head.Margins(value, margins.difference, value + margins.difference)
        output = None if domain.softmax is None else (head.softmax_margins(domain.softmax, m),)
        result &= top1_proved(replace(e, margins=(m,), output_margins=output))[0].astype(bool)
    return result
