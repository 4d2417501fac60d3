"""From an integer network to a plan for C code: packed constants, buffers, and the order of kernel calls.

Everything that could overflow 32 bits on the device is decided here, for every possible int8 input, so that the kernels
need no check at run time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.quantization.integer import (
    IntActivation,
    IntDense,
    IntegerNetwork,
    IntLastStep,
    IntLstm,
    IntOp,
    IntReshape,
    Multiplier,
    Profile,
    QuantizedTensor,
)
from codesign.semantics import activation_table, softmax_parameters

Location = Literal["input", "output", "a", "b"]

# TFLM's softmax aborts when its sum of exponentials reaches 2^28 in Q12.19; each class adds at most 2^19.
MAX_CLASSES = 511
_INT32_MAX = 2**31 - 1
_UINT16_MAX = 2**16 - 1
# Room for the output zero point, added after the multiplication.
_HEADROOM = 256


@dataclass(frozen=True, eq=False)
class Constant:
    """A const array of the generated source: role (part of its C name) and values (int8, int32)."""

    role: str
    values: npt.NDArray[Any]

    @property
    def ctype(self) -> str:
        return {1: "int8_t", 4: "int32_t"}[self.values.dtype.itemsize]


@dataclass(frozen=True, eq=False)
class Step:
    """One kernel call. `source` + `offset` is where its input starts; `keep_sequence` matters to LSTMs only."""

    op: IntLstm | IntDense | IntActivation
    constants: tuple[Constant, ...]
    scales: tuple[Multiplier, ...]
    source: Location
    offset: int
    target: Location
    keep_sequence: bool = True
    lstm_layer: int = -1

    @property
    def kind(self) -> str:
        """'lstm', 'dense' or the activation's name."""
        if isinstance(self.op, IntLstm):
            return "lstm"
        return "dense" if isinstance(self.op, IntDense) else self.op.kind

    @property
    def macs(self) -> int:
        """Multiply-accumulates per inference."""
        if isinstance(self.op, IntLstm):
            return int(self.op.input.shape[0]) * (self.op.W.size + self.op.R.size)
        if isinstance(self.op, IntDense):
            return size_of(self.op.output) * int(self.op.W.shape[1])
        return 0


@dataclass(frozen=True, eq=False)
class Plan:
    """The steps in order, and static buffers: bytes of `a` and `b`, elements of the int16 cell.

    `final` and `final_offset` say where the result lies after the last step; anything but 'output' has to be copied.
    """

    network: IntegerNetwork
    steps: tuple[Step, ...]
    buffers: dict[Literal["a", "b"], int]
    cell_units: int
    final: Location
    final_offset: int

    @property
    def lstm_layers(self) -> int:
        return sum(step.kind == "lstm" for step in self.steps)


def size_of(tensor: QuantizedTensor) -> int:
    """Number of values of a tensor."""
    return math.prod(tensor.shape)


@dataclass
class _Builder:
    steps: list[Step] = field(default_factory=list)
    buffers: dict[Literal["a", "b"], int] = field(default_factory=lambda: {"a": 0, "b": 0})
    location: Location = "input"
    offset: int = 0
    cell_units: int = 0
    lstm_layers: int = 0

    def target(self, values: int, to_output: bool, in_place: bool) -> Location:
        """Where the next step's result goes; grows the buffer that it takes."""
        if to_output:
            return "output"
        if in_place and self.location in ("a", "b") and self.offset == 0:
            return self.location
        chosen: Literal["a", "b"] = "b" if self.location == "a" else "a"
        self.buffers[chosen] = max(self.buffers[chosen], values)
        return chosen


def make_plan(network: IntegerNetwork) -> Plan:
    """Checks the network and lays out its constants and buffers.

    Raises InputError where the generated code could not be exact: int16 activations, an accumulator that may overflow
    32 bits, a softmax over more than 511 classes, sizes above 65535.
    """
    _check_chain(network)
    builder = _Builder()
    ops = network.ops
    last_compute = max((i for i, op in enumerate(ops) if not isinstance(op, (IntReshape, IntLastStep))), default=-1)
    tail_is_plain = not any(isinstance(op, IntLastStep) for op in ops[last_compute + 1 :])
    for index, op in enumerate(ops):
        if isinstance(op, IntReshape):
            continue
        if isinstance(op, IntLastStep):
            # An LSTM that keeps no sequence has already left the offset at its last hidden state.
            if not (index and isinstance(ops[index - 1], IntLstm)):
                builder.offset += size_of(op.input) - size_of(op.output)
            continue
        to_output = index == last_compute and tail_is_plain
        _add_step(builder, op, network.profile, to_output, _followed_by_last_step(ops, index))
    return Plan(network, tuple(builder.steps), builder.buffers, builder.cell_units, builder.location, builder.offset)


def _followed_by_last_step(ops: tuple[IntOp, ...], index: int) -> bool:
    return index + 1 < len(ops) and isinstance(ops[index + 1], IntLastStep)


def _add_step(builder: _Builder, op: IntOp, profile: Profile, to_output: bool, last_only: bool) -> None:
    keep_sequence = True
    layer = -1
    scales: tuple[Multiplier, ...] = ()
    constants: tuple[Constant, ...]
    values = size_of(op.output)
    if isinstance(op, IntLstm):
        constants = _lstm_constants(op)
        keep_sequence = not last_only
        values = values if keep_sequence else 2 * op.units
        layer = builder.lstm_layers
        builder.lstm_layers += 1
        builder.cell_units = max(builder.cell_units, op.units)
    elif isinstance(op, IntDense):
        constants, scales = _dense_constants(op)
    elif isinstance(op, IntActivation):
        constants = _activation_constants(op, profile)
    else:
        raise InputError(f"operator {op.name!r} ({type(op).__name__}) has no C kernel")
    target = builder.target(values, to_output, in_place=isinstance(op, IntActivation))
    builder.steps.append(Step(op, constants, scales, builder.location, builder.offset, target, keep_sequence, layer))
    builder.location, builder.offset = target, 0
    if isinstance(op, IntLstm) and not keep_sequence:
        builder.offset = ((op.input.shape[0] - 1) & 1) * op.units


def _check_chain(network: IntegerNetwork) -> None:
    if not network.ops:
        raise InputError("the integer network has no operators: nothing to generate")
    if len(network.input.shape) != 2:
        raise InputError(f"the network's input has shape {network.input.shape}; (steps, features) is needed")
    expected = network.input
    for op in network.ops:
        for tensor in (op.input, op.output):
            if tensor.dtype != "int8":
                raise InputError(f"tensor {tensor.name!r} is {tensor.dtype}; C code is generated for int8 only")
            if any(n < 1 or n > _UINT16_MAX for n in tensor.shape):
                raise InputError(f"tensor {tensor.name!r} has shape {tensor.shape}; dimensions go from 1 to 65535")
        if size_of(op.input) != size_of(expected):
            raise InputError(
                f"operator {op.name!r} takes {size_of(op.input)} values but gets {size_of(expected)}: not a chain"
            )
        expected = op.output
    if size_of(expected) != size_of(network.output):
        raise InputError("the network's output is not the output of its last operator")


def _folded(
    name: str, weights: npt.NDArray[np.int8], bias: npt.NDArray[np.int32], zero_point: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """bias - zero_point * (row sums), and the largest |accumulator| of each row over all int8 inputs.

    weights is (..., N), bias (...). Raises InputError where a partial sum might leave 32 bits.
    """
    wide = weights.astype(np.int64)
    folded = bias.astype(np.int64) - zero_point * wide.sum(axis=-1)
    if np.any(np.abs(folded) + 128 * np.abs(wide).sum(axis=-1) > _INT32_MAX):
        raise InputError(f"operator {name!r}: a 32-bit accumulator may overflow; its biases are too large")
    top = folded + np.maximum(wide * 127, wide * -128).sum(axis=-1)
    bottom = folded + np.minimum(wide * 127, wide * -128).sum(axis=-1)
    return folded.astype(np.int32), np.maximum(np.abs(top), np.abs(bottom))


def _check_scale(name: str, scale: Multiplier, largest: int) -> None:
    if not (scale.m == 0 or 2**30 <= scale.m <= _INT32_MAX) or not -31 <= scale.e <= 30:
        raise InputError(f"operator {name!r}: multiplier ({scale.m}, {scale.e}) is out of range")
    if largest << max(scale.e, 0) > _INT32_MAX - _HEADROOM:
        raise InputError(
            f"operator {name!r}: rescaling by {scale.real:g} may overflow 32 bits; its quantization is unusable"
        )


def _lstm_constants(op: IntLstm) -> tuple[Constant, ...]:
    H, D = op.units, op.features
    fits = op.W.shape == (4, H, D) and op.R.shape == (4, H, H) and op.b.shape == (4, H)
    if not fits or op.input.shape[1:] != (D,) or op.output.shape != (op.input.shape[0], H):
        raise InputError(f"LSTM {op.name!r}: shapes {op.input.shape} and {op.output.shape} do not fit its weights")
    if not -40 <= op.cell_shift <= 2:
        raise InputError(f"LSTM {op.name!r}: cell scale 2^{op.cell_shift} is outside 2^-40 to 2^2")
    # Gate-major (4, H, N) becomes unit-major (H, 4, N): the kernel takes the four rows of one unit together.
    input_weights = np.ascontiguousarray(op.W.transpose(1, 0, 2))
    recurrent_weights = np.ascontiguousarray(op.R.transpose(1, 0, 2))
    bias = np.ascontiguousarray(op.b.T)
    input_bias, input_largest = _folded(op.name, input_weights, bias, op.input.zero_point)
    recurrent_bias, recurrent_largest = _folded(op.name, recurrent_weights, np.zeros_like(bias), op.output.zero_point)
    for gate in range(4):
        _check_scale(op.name, op.input_multipliers[gate], int(input_largest[:, gate].max()))
        _check_scale(op.name, op.recurrent_multipliers[gate], int(recurrent_largest[:, gate].max()))
    for scale in (op.forget_multiplier, op.input_gate_multiplier, op.hidden_multiplier):
        _check_scale(op.name, scale, 2**30)
    return (
        Constant("input_weights", input_weights.reshape(-1)),
        Constant("recurrent_weights", recurrent_weights.reshape(-1)),
        Constant("input_bias", input_bias.reshape(-1)),
        Constant("recurrent_bias", recurrent_bias.reshape(-1)),
    )


def _dense_constants(op: IntDense) -> tuple[tuple[Constant, ...], tuple[Multiplier, ...]]:
    outputs, inputs = op.W.shape
    rows = size_of(op.input) // inputs
    if (
        op.b.shape != (outputs,)
        or rows * inputs != size_of(op.input)
        or rows * outputs != size_of(op.output)
        or rows > _UINT16_MAX
    ):
        raise InputError(f"dense {op.name!r}: shapes {op.input.shape} and {op.output.shape} do not fit its weights")
    if len(op.multipliers) not in (1, outputs):
        raise InputError(f"dense {op.name!r}: {len(op.multipliers)} multipliers for {outputs} outputs")
    bias, largest = _folded(op.name, op.W, op.b, op.input.zero_point)
    for k in range(outputs):
        _check_scale(op.name, op.multipliers[k if len(op.multipliers) > 1 else 0], int(largest[k]))
    return (Constant("weights", op.W.reshape(-1)), Constant("bias", bias)), op.multipliers


def _activation_constants(op: IntActivation, profile: Profile) -> tuple[Constant, ...]:
    if op.kind != "softmax":
        return (Constant("table", activation_table(op, profile)),)
    if op.input.shape[-1] > MAX_CLASSES:
        raise InputError(f"softmax {op.name!r}: {op.input.shape[-1]} classes; at most {MAX_CLASSES} are supported")
    exponentials = softmax_parameters(op).exp_q0
    # The kernel takes differences past the end as 0; the first entry, exp(0), never is.
    used = int(np.flatnonzero(exponentials).max()) + 1
    return (Constant("exp_table", exponentials[:used]),)
