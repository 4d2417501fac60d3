"""Pairs the layers of a float network with the operators of an integer one, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, Union

from codesign.errors import InputError
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


class _Operators:
    """The integer operators in order, reshapes skipped: they move no data in a row-major chain."""

    def __init__(self, network: IntegerNetwork) -> None:
        self._ops: list[IntOp] = [op for op in network.ops if not isinstance(op, IntReshape)]
        self._next, previous = 0, network.input
        for op in network.ops:
            if (op.input.scale, op.input.zero_point) != (previous.scale, previous.zero_point):
                raise InputError(
                    f"the int8 model's operator '{op.name}' reads its input in other units than it was written in; "
                    "convert the float model again"
                )
            previous = op.output

    def peek(self) -> IntOp | None:
        return self._ops[self._next] if self._next < len(self._ops) else None

    def take(self, kind: type[_Op], layer: str) -> _Op:
        op = self.peek()
        if not isinstance(op, kind):
            found = "nothing" if op is None else type(op).__name__.removeprefix("Int")
            raise InputError(
                f"the int8 model does not belong to the float model: for layer '{layer}' it has {found}; "
                "convert the same float model, or give the float model it was made from"
            )
        self._next += 1
        return op

    def finish(self) -> None:
        op = self.peek()
        if op is not None:
            raise InputError(
                f"the int8 model does not belong to the float model: it goes on with operator '{op.name}' "
                "after the float model's last layer"
            )


def _mismatch(layer: str, float_shape: tuple[int, ...], int_shape: tuple[int, ...]) -> InputError:
    return InputError(
        f"the int8 model does not belong to the float model: layer '{layer}' has weights of shape "
        f"{float_shape} in the float model and {int_shape} in the int8 model"
    )


def _activation(kind: ActivationKind, name: str, ops: _Operators, out: list[Stage]) -> None:
    if kind == "linear":
        return
    op = ops.take(IntActivation, name)
    if op.kind != kind:
        raise InputError(
            f"the int8 model does not belong to the float model: layer '{name}' is {kind} in the float model "
            f"and {op.kind} in the int8 model"
        )
    out.append(ActivationStage(kind, op))


def align(float_network: FloatNetwork, integer_network: IntegerNetwork) -> tuple[Stage, ...]:
    """Pair both chains, int16 multipliers as they act; InputError where they are not of the same architecture."""
    if tuple(float_network.input_shape) != tuple(integer_network.input.shape):
        raise InputError(
            f"the float model takes inputs of shape {tuple(float_network.input_shape)} and the int8 model "
            f"of shape {tuple(integer_network.input.shape)}; give two models of the same network"
        )
    ops = _Operators(effective_network(integer_network))
    stages: list[Stage] = []
    for layer in float_network.layers:
        if isinstance(layer, Lstm):
            op = ops.take(IntLstm, layer.name)
            if layer.W.shape != op.W.shape or layer.R.shape != op.R.shape:
                raise _mismatch(layer.name, layer.W.shape, op.W.shape)
            if not layer.return_sequences:
                ops.take(IntLastStep, layer.name)
            stages.append(LstmStage(layer, op, not layer.return_sequences))
        elif isinstance(layer, Dense):
            dense = ops.take(IntDense, layer.name)
            if layer.W.shape != dense.W.shape:
                raise _mismatch(layer.name, layer.W.shape, dense.W.shape)
            following = ops.peek()
            fused = dense.act_min == dense.output.zero_point and not (
                isinstance(following, IntActivation) and following.kind == "relu"
            )
            relu = layer.activation == "relu" and fused
            stages.append(DenseStage(layer, dense, relu))
            if not relu:
                _activation(layer.activation, layer.name, ops, stages)
        elif isinstance(layer, Activation):
            previous = stages[-1] if stages else None
            if (
                layer.kind == "relu"
                and isinstance(previous, DenseStage)
                and not isinstance(ops.peek(), IntActivation)
                and previous.int_op.act_min == previous.int_op.output.zero_point
            ):
                stages[-1] = DenseStage(previous.float_layer, previous.int_op, True)
            else:
                _activation(layer.kind, layer.name, ops, stages)
        elif isinstance(layer, Reshape):
            stages.append(ReshapeStage(layer.shape))
    ops.finish()
    if any(isinstance(stage, ActivationStage) and stage.kind == "softmax" for stage in stages[:-1]):
        raise InputError("softmax is supported as the last layer only; move it to the end of the model")
    return tuple(stages)
