"""Chains of operators: which tensor flows, its shape after each operator, and the options that say so.

Shared by the readers of float and of integer models, so that both sides mean the same by the same operator. Shapes as
stored have to be those that TensorFlow Lite computes: `dims` include the batch, which is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from codesign.flatfile.file import Operator, Tensor, TfliteFile

Shape = tuple[int, ...]
TANH = 4  # ActivationFunctionType
_LSTM_OPERANDS = 24
_FUSED: dict[int, Literal["linear", "relu"]] = {0: "linear", 1: "relu"}


def _logical_shape(dims: Shape) -> Shape:
    """Without the batch, which FULLY_CONNECTED folds into the rows and RESHAPE may leave out."""
    return dims[1:] if len(dims) > 1 and dims[0] == 1 else dims


def source(file: TfliteFile) -> Tensor:
    """The model's input, of shape [1, steps, features]."""
    tensor = file.tensor(file.input_index)
    if -1 in tensor.signature[1:]:
        raise file.refuse(f"input '{tensor.name}' has no fixed number of steps; convert with a fixed input shape.")
    if len(tensor.dims) != 3 or tensor.dims[0] != 1:
        raise file.refuse(
            f"input '{tensor.name}' has shape {list(tensor.dims)}; [1, steps, features] (batch 1) is supported."
        )
    file.check_activation(tensor)
    return tensor


def walk(file: TfliteFile, readers: Mapping[str, Callable[[Operator], Any]]) -> None:
    """Gives each operator to its reader, in the file's order: one chain from the input to the output.

    InputError where an operator takes or writes another tensor than the one that flows, where a state is used twice,
    and where an operator has an option that its reader did not read.
    """
    current = file.input_index
    flowed, states = {current}, set[int]()
    for op in file.operators:
        if op.inputs[:1] != (current,) or current in op.inputs[1:] or len(op.outputs) != 1:
            raise file.refuse(f"{op} does not follow the operator before it; one chain of operators is supported.")
        (output,) = op.outputs
        own = [i for i in op.inputs[1:] if i >= 0 and file.tensor(i).is_variable]
        for state in own:
            if state in states or state in flowed or own.count(state) > 1:
                raise file.refuse(f"{op}: state '{file.tensor(state).name}' is used twice.")
        states.update(own)
        if output in flowed or output in states or output in op.inputs:
            raise file.refuse(f"{op} writes a tensor that is already in use; one chain of operators is supported.")
        file.check_activation(file.tensor(output))
        readers[op.kind](op)
        if unread := op.options.unread():
            raise file.refuse(f"{op} has {unread[0]} {op.options[unread[0]]}, which is not supported.")
        current = output
        flowed.add(current)
    if current != file.output_index:
        raise file.refuse("the output is not the last operator's; one chain of operators is supported.")
    if states & flowed:
        raise file.refuse("an LSTM's state tensor is also an activation; that is not supported.")


def operand(file: TfliteFile, op: Operator, position: int, what: str) -> Tensor:
    if position >= len(op.inputs) or op.inputs[position] < 0:
        raise file.refuse(f"{op} lacks its {what} (operand {position}).")
    return file.tensor(op.inputs[position])


def inputs_exactly(file: TfliteFile, op: Operator, *counts: int) -> None:
    if len(op.inputs) not in counts:
        raise file.refuse(f"{op} has {len(op.inputs)} inputs, not {' or '.join(map(str, counts))}.")


def _shaped(file: TfliteFile, op: Operator, dims: Shape) -> None:
    stored = file.tensor(op.outputs[0]).dims
    if stored != dims:
        raise file.refuse(f"{op} has an output of shape {list(stored)}, but {list(dims)} follows from its operands.")


@dataclass(frozen=True)
class LstmParts:
    """An LSTM's states (hidden, cell), its number of units and its cell clip (0: none)."""

    hidden: Tensor
    cell: Tensor
    units: int
    cell_clip: float


def check_lstm(file: TfliteFile, op: Operator) -> LstmParts:
    """A plain LSTM over [1, T, D] that gives [1, T, H]."""
    inputs_exactly(file, op, _LSTM_OPERANDS)
    if op.options["fused_activation_function"] != TANH:
        raise file.refuse(f"{op} has another cell activation than tanh, which is not supported.")
    clip = float(op.options["cell_clip"])
    if not (math.isfinite(clip) and clip >= 0):
        raise file.refuse(f"{op} has the cell clip {clip}, not a finite number >= 0.")
    for what, positions in (
        ("peephole weights", range(9, 12)),
        ("a projection", range(16, 18)),
        ("layer normalisation", range(20, 24)),
    ):
        if any(op.inputs[p] >= 0 for p in positions):
            raise file.refuse(f"{op} has {what}, which is not supported.")
    if any(op.inputs[p] < 0 for p in (1, 5, 12)):
        raise file.refuse(f"{op} couples input and forget gates (CIFG), which is not supported.")
    dims = file.tensor(op.inputs[0]).dims
    if len(dims) != 3 or dims[0] != 1:
        raise file.refuse(f"{op} has an input of shape {list(dims)}; [1, steps, features] is supported.")
    hidden, cell = operand(file, op, 18, "hidden state"), operand(file, op, 19, "cell state")
    if len(hidden.dims) != 2 or hidden.dims[0] != 1 or hidden.dims[1] < 1 or cell.dims != hidden.dims:
        raise file.refuse(f"{op} has states of shape {list(hidden.dims)} and {list(cell.dims)}, not [1, units].")
    for state in (hidden, cell):
        if not state.is_variable or file.data_length(state):
            raise file.refuse(f"{op}: state '{state.name}' has to be a variable tensor without data.")
    _shaped(file, op, (1, dims[1], hidden.dims[1]))
    return LstmParts(hidden, cell, hidden.dims[1], clip)


@dataclass(frozen=True)
class DenseParts:
    """A FULLY_CONNECTED: weights (M, N), bias or None, fused activation; `flattens`: its input is taken as one row."""

    weights: Tensor
    bias: Tensor | None
    fused: Literal["linear", "relu"]
    flattens: bool
    bias_type: int  # of int16 activations' accumulators: a TensorType, 0 where it is not said


def parse_dense(file: TfliteFile, op: Operator) -> DenseParts:
    """A dense layer on the last axis, or on the flattened input where its weights have that many columns."""
    inputs_exactly(file, op, 2, 3)
    fused = _FUSED.get(op.options["fused_activation_function"])
    if fused is None:
        raise file.refuse(f"{op} has a fused activation other than ReLU, which is not supported.")
    weights, dims = operand(file, op, 1, "weights"), file.tensor(op.inputs[0]).dims
    if len(weights.dims) != 2 or min(weights.dims) < 1:
        raise file.refuse(f"{op} has weights of shape {list(weights.dims)}; [outputs, inputs] is supported.")
    units, columns = weights.dims
    keep = bool(op.options["keep_num_dims"])
    flattens = dims[-1] != columns
    if flattens and (math.prod(dims) != columns or keep):
        raise file.refuse(f"{op} has {columns} inputs a row but its input tensor has shape {list(dims)}.")
    _shaped(file, op, (*dims[:-1], units) if keep else (math.prod(dims) // columns, units))
    bias = file.tensor(op.inputs[2]) if len(op.inputs) == 3 and op.inputs[2] >= 0 else None
    return DenseParts(weights, bias, fused, flattens, int(op.options["quantized_bias_type"]))


def check_unary(file: TfliteFile, op: Operator) -> None:
    """SOFTMAX over the last axis, or an elementwise activation."""
    inputs_exactly(file, op, 1)
    if op.kind == "SOFTMAX" and op.options["beta"] != 1.0:
        raise file.refuse(f"{op} has beta {op.options['beta']}, which is not supported; 1.0 is.")
    _shaped(file, op, file.tensor(op.inputs[0]).dims)


def last_step(file: TfliteFile, op: Operator) -> None:
    """A STRIDED_SLICE of [1, T, N] that gives the last step, [1, N]."""
    inputs_exactly(file, op, 4)
    options, dims = op.options, file.tensor(op.inputs[0]).dims
    begin, end, strides = (
        file.constant(operand(file, op, p, "bounds"), "int32", (len(dims),)).tolist() for p in (1, 2, 3)
    )
    masks = [options[f"{name}_mask"] for name in ("begin", "end", "shrink_axis")]
    supported = len(dims) == 3 and dims[0] == 1 and masks[2] == 0b010 and strides == [1, 1, 1]
    if supported:
        taken = []
        for axis, size in enumerate(dims):
            start = None if masks[0] >> axis & 1 else begin[axis]
            stop = None if masks[1] >> axis & 1 else end[axis]
            if axis == 1:  # shrunk: begin names the one index
                start = 0 if start is None else start
                taken.append(range(size)[start : start + 1 or None] if -size <= start < size else range(0))
            else:
                taken.append(range(size)[start:stop])
        supported = taken == [range(1), range(dims[1] - 1, dims[1]), range(dims[2])]
    if not supported:
        raise file.refuse(f"{op} does something else than taking the last time step, which is not supported.")
    _shaped(file, op, (1, dims[2]))


def check_reshape(file: TfliteFile, op: Operator) -> Shape:
    """Row-major, to the shape that the operand or else the option gives; the new shape without the batch."""
    inputs_exactly(file, op, 1, 2)
    before, stored = file.tensor(op.inputs[0]).dims, file.tensor(op.outputs[0]).dims
    if math.prod(before) != math.prod(stored):
        raise file.refuse(f"{op} reshapes {list(before)} to {list(stored)}: sizes differ.")
    asked = [tuple(int(v) for v in op.options["new_shape"])]
    if len(op.inputs) == 2:
        tensor = operand(file, op, 1, "shape")
        if len(tensor.dims) != 1:
            raise file.refuse(f"{op} has a shape operand that is no vector, which is not supported.")
        asked.append(tuple(file.constant(tensor, "int32").tolist()))
    elif not asked[0]:
        raise file.refuse(f"{op} says no shape: neither an operand nor its options.")
    for shape in asked:
        fits = len(shape) == len(stored) and shape.count(-1) <= 1
        if shape and not (fits and all(a in (-1, b) for a, b in zip(shape, stored, strict=True))):
            raise file.refuse(f"{op} has an output of shape {list(stored)}, but {list(shape)} is asked for.")
    return _logical_shape(stored)
