"""Pairs the layers of a float network with the operators of an integer one, stage by stage.

Both sides of a stage are the same function up to quantization: the same operator, on values of the same shape, with the
same activation. The readers see to everything else that an operator has (`codesign.flatfile`): what they let through is
in the networks' data, and all of it is compared here or bounded by the verifier (scales, zero points, clips).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar, Union

from codesign.errors import InputError
from codesign.network.evaluation import layer_shapes
from codesign.network.model import Activation, ActivationKind, Dense, FloatNetwork, Lstm, Reshape
from codesign.quantization.integer import (
    IntActivation,
    IntDense,
    IntegerNetwork,
    IntLastStep,
    IntLstm,
    IntOp,
    IntReshape,
)
from codesign.quantization.rescaling import effective_network


@dataclass(frozen=True, eq=False)
class LstmStage:
    float_layer: Lstm
    int_op: IntLstm
    last_only: bool  # the float layer gives the last step only; the integer one is followed by a slice


@dataclass(frozen=True, eq=False)
class DenseStage:
    float_layer: Dense
    int_op: IntDense
    relu: bool


@dataclass(frozen=True, eq=False)
class ActivationStage:
    kind: ActivationKind
    int_op: IntActivation


@dataclass(frozen=True)
class ReshapeStage:
    shape: tuple[int, ...]


_Op = TypeVar("_Op", IntLstm, IntDense, IntActivation, IntLastStep)
Stage = Union[LstmStage, DenseStage, ActivationStage, ReshapeStage]


Shape = tuple[int, ...]


def _same_rows(a: Shape, b: Shape) -> bool:
    """Whether an operator on the last axis sees the same rows; leading axes may be split otherwise: (1, N) or (N,)."""
    return a[-1] == b[-1] and math.prod(a) == math.prod(b)


def _fits(op: IntOp, shape: Shape) -> bool:
    """Whether the operator takes its input for what the float layer does, whose input has this shape."""
    given = op.input.shape
    if isinstance(op, (IntLstm, IntLastStep)):
        return given == shape
    if isinstance(op, IntDense) or (isinstance(op, IntActivation) and op.kind == "softmax"):
        return _same_rows(given, shape)
    return math.prod(given) == math.prod(shape)  # elementwise


class _Operators:
    """The integer operators in order. Reshapes move no data, but what follows has to see the float layer's shape."""

    def __init__(self, network: IntegerNetwork) -> None:
        self._ops: list[IntOp] = [op for op in network.ops if not isinstance(op, IntReshape)]
        self._next, previous, self._output = 0, network.input, network.output
        for op in network.ops:
            if (op.input.scale, op.input.zero_point) != (previous.scale, previous.zero_point):
                raise InputError(
                    f"the int8 model's operator '{op.name}' reads its input in other units than it was written in; "
                    "convert the float model again"
                )
            if op.input.shape != previous.shape:
                raise _other_shape(op.name, previous.shape, op.input.shape)
            previous = op.output

    def peek(self) -> IntOp | None:
        return self._ops[self._next] if self._next < len(self._ops) else None

    def take(self, kind: type[_Op], layer: str, shape: Shape) -> _Op:
        """The next operator, for a layer whose input has this shape."""
        op = self.peek()
        if not isinstance(op, kind):
            found = "nothing" if op is None else type(op).__name__.removeprefix("Int")
            raise InputError(
                f"the int8 model does not belong to the float model: for layer '{layer}' it has {found}; "
                "convert the same float model, or give the float model it was made from"
            )
        if not _fits(op, shape):
            raise _other_shape(layer, shape, op.input.shape)
        self._next += 1
        return op

    def finish(self, shape: Shape) -> None:
        op = self.peek()
        if op is not None:
            raise InputError(
                f"the int8 model does not belong to the float model: it goes on with operator '{op.name}' "
                "after the float model's last layer"
            )
        if not _same_rows(self._output.shape, shape):
            raise _other_shape("output", shape, self._output.shape)


def _other_shape(layer: str, float_shape: Shape, int_shape: Shape) -> InputError:
    return InputError(
        f"the int8 model does not belong to the float model: what '{layer}' takes has shape {float_shape} in the float "
        f"model and {int_shape} in the int8 model"
    )


def _mismatch(layer: str, float_shape: tuple[int, ...], int_shape: tuple[int, ...]) -> InputError:
    return InputError(
        f"the int8 model does not belong to the float model: layer '{layer}' has weights of shape "
        f"{float_shape} in the float model and {int_shape} in the int8 model"
    )


def _activation(kind: ActivationKind, name: str, shape: Shape, ops: _Operators, out: list[Stage]) -> None:
    if kind == "linear":
        return
    op = ops.take(IntActivation, name, shape)
    if op.kind != kind or op.beta != 1.0:
        raise InputError(
            f"the int8 model does not belong to the float model: layer '{name}' is {kind} in the float model "
            f"and {op.kind}{f' of beta {op.beta}' if op.beta != 1.0 else ''} in the int8 model"
        )
    out.append(ActivationStage(kind, op))


def _dense(layer: Dense, shape: Shape, ops: _Operators, out: list[Stage]) -> None:
    op = ops.take(IntDense, layer.name, shape)
    if layer.W.shape != op.W.shape:
        raise _mismatch(layer.name, layer.W.shape, op.W.shape)
    following = ops.peek()
    separate = isinstance(following, IntActivation) and following.kind == "relu"
    clamps = op.act_min > op.output.q_min  # where the zero point is the type's least, ReLU and none are the same
    relu = layer.activation == "relu" and op.act_min == op.output.zero_point and (clamps or not separate)
    out.append(DenseStage(layer, op, relu))
    if not relu:
        _activation(layer.activation, layer.name, (*shape[:-1], len(layer.b)), ops, out)


def _require_ranges(stages: list[Stage]) -> None:
    """No dense operator has a range of outputs that its float layer has not."""
    for stage in stages:
        if isinstance(stage, DenseStage):
            op = stage.int_op
            if op.act_max != op.output.q_max or (op.act_min > op.output.q_min and not stage.relu):
                raise InputError(
                    f"the int8 model does not belong to the float model: layer '{stage.float_layer.name}' clamps its "
                    "outputs (a fused activation) in the int8 model alone"
                )


def align(float_network: FloatNetwork, integer_network: IntegerNetwork) -> tuple[Stage, ...]:
    """Pair both chains, int16 multipliers as they act; InputError where they are not the same function.

    The same function, that is, of whatever weights: whether the int8 ones are the float ones, rounded, is for
    `codesign.quantization.roundings`.
    """
    shape: Shape = tuple(float_network.input_shape)
    if shape != tuple(integer_network.input.shape):
        raise InputError(
            f"the float model takes inputs of shape {shape} and the int8 model "
            f"of shape {tuple(integer_network.input.shape)}; give two models of the same network"
        )
    ops = _Operators(effective_network(integer_network))
    stages: list[Stage] = []
    for layer, after in zip(float_network.layers, layer_shapes(float_network), strict=True):
        if isinstance(layer, Lstm):
            op = ops.take(IntLstm, layer.name, shape)
            if layer.W.shape != op.W.shape or layer.R.shape != op.R.shape:
                raise _mismatch(layer.name, layer.W.shape, op.W.shape)
            if not layer.return_sequences:
                ops.take(IntLastStep, layer.name, (shape[0], layer.units))
            stages.append(LstmStage(layer, op, not layer.return_sequences))
        elif isinstance(layer, Dense):
            _dense(layer, shape, ops, stages)
        elif isinstance(layer, Activation):
            previous = stages[-1] if stages else None
            if (
                layer.kind == "relu"
                and isinstance(previous, DenseStage)
                and previous.float_layer.activation in ("linear", "relu")
                and not isinstance(ops.peek(), IntActivation)
                and previous.int_op.act_min == previous.int_op.output.zero_point
            ):
                stages[-1] = DenseStage(previous.float_layer, previous.int_op, True)
            else:
                _activation(layer.kind, layer.name, shape, ops, stages)
        elif isinstance(layer, Reshape):
            stages.append(ReshapeStage(layer.shape))
        shape = after
    ops.finish(shape)
    _require_ranges(stages)
    if any(isinstance(stage, ActivationStage) and stage.kind == "softmax" for stage in stages[:-1]):
        raise InputError("softmax is supported as the last layer only; move it to the end of the model")
    return tuple(stages)
