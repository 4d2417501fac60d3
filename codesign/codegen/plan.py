"""From an integer network to a plan for C code: packed constants, buffers, and the order of kernel calls.

Everything that could overflow on the device is decided here, for every possible input, so that the kernels need no
check at run time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.codegen.int16 import Scale64, activation16, dense_part, lstm_parts
from codesign.codegen.packing import Weights, pack_biases, pack_dense, pack_gates
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

Location = str  # "input", "output", buffers "a" and "b", and "hidden0", ...: the state of the operator of that number

# TFLM's softmax aborts when its sum of exponentials reaches 2^28 in Q12.19; each class adds at most 2^19.
MAX_CLASSES = 511
_INT32_MAX = 2**31 - 1
# Accumulators are doubled on the device.
_LARGEST = 2**30 - 1
_UINT16_MAX = 2**16 - 1


@dataclass(frozen=True, eq=False)
class Constant:
    """A const array of the generated source: role (part of its C name) and values (int8, int16, int32, uint64)."""

    role: str
    values: npt.NDArray[Any]

    @property
    def ctype(self) -> str:
        return {"i1": "int8_t", "i2": "int16_t", "i4": "int32_t", "u8": "uint64_t"}[self.values.dtype.str[1:]]


@dataclass(frozen=True, eq=False)
class Step:
    """One kernel call. `source` + `offset` is where its input starts; `keep_sequence` matters to LSTMs only.

    `wide` says for each weight array whether its layout is the int16 one, `deep` whether its accumulators have 64 bits
    (int16 activations only, as `scales64`: an LSTM's gates, or a dense layer's outputs). `rows` counts the rows (time
    steps) that a dense layer or a softmax is applied to.
    """

    op: IntLstm | IntDense | IntActivation
    constants: tuple[Constant, ...]
    scales: tuple[Multiplier, ...]
    source: Location
    offset: int
    target: Location
    rows: int
    wide: tuple[bool, ...] = ()
    keep_sequence: bool = True
    lstm_layer: int = -1
    deep: tuple[bool, ...] = ()
    scales64: tuple[Scale64, ...] = ()

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


@dataclass(frozen=True)
class StreamCall:
    """The call of step number `index` on one time step's row."""

    index: int
    source: Location
    target: Location


@dataclass(frozen=True, eq=False)
class Plan:
    """The steps in order, static buffers (values of `a` and `b`) and words of the layers' working memory.

    `final` and `final_offset` say where the result lies after the last step; anything but 'output' has to be copied.
    `stream` are the calls that consume one time step, and `stream_final` where their result lies; None where the
    network has a layer that needs the whole sequence at once, which `stream_obstacle` names.
    """

    network: IntegerNetwork
    steps: tuple[Step, ...]
    buffers: dict[str, int]
    wide_words: int
    final: Location
    final_offset: int
    stream: tuple[StreamCall, ...] | None
    stream_final: Location
    stream_obstacle: str

    @property
    def lstm_layers(self) -> int:
        return sum(step.kind == "lstm" for step in self.steps)

    @property
    def value_bytes(self) -> int:
        """Of an activation: 1 or 2."""
        return 2 if self.network.activations == "int16" else 1

    @property
    def segments(self) -> bool:
        """Whether a kernel uses the sigmoid's segments."""
        elementwise = ("sigmoid", "tanh") if self.value_bytes == 2 else ()
        return any(step.kind == "lstm" or step.kind in elementwise for step in self.steps)

    @property
    def state_bytes(self) -> int:
        """Of the saved state: hidden and int16 cell of every LSTM."""
        return sum((2 + self.value_bytes) * step.op.units for step in self.steps if isinstance(step.op, IntLstm))

    @property
    def step_outputs(self) -> int:
        """Values that one time step yields."""
        steps = self.network.input.shape[0]
        last_only = any(isinstance(op, IntLastStep) for op in self.network.ops)
        return size_of(self.network.output) // (1 if last_only else steps)


def size_of(tensor: QuantizedTensor) -> int:
    """Number of values of a tensor."""
    return math.prod(tensor.shape)


@dataclass
class _Builder:
    weights: Weights
    steps: list[Step] = field(default_factory=list)
    buffers: dict[str, int] = field(default_factory=lambda: {"a": 0, "b": 0})
    location: Location = "input"
    offset: int = 0
    wide_words: int = 0
    lstm_layers: int = 0

    def target(self, values: int, to_output: bool, in_place: bool) -> Location:
        """Where the next step's result goes; grows the buffer that it takes."""
        if to_output:
            return "output"
        if in_place and self.location in ("a", "b") and self.offset == 0:
            return self.location
        chosen = "b" if self.location == "a" else "a"
        self.buffers[chosen] = max(self.buffers[chosen], values)
        return chosen


def make_plan(network: IntegerNetwork, weights: Weights = "int8") -> Plan:
    """Checks the network and lays out its constants and buffers.

    `weights`: 'int8' packs them at one byte each, 'int16' at two, which takes fewer instructions. Raises InputError
    where the generated code could not be exact: an accumulator that may pass 2^30 (int16 activations: 2^47), an int8
    softmax over more than 511 classes, sizes above 65535.
    """
    if weights not in ("int8", "int16"):
        raise InputError(f"weights can be packed as int8 or int16, not {weights!r}")
    _check_chain(network)
    builder = _Builder(weights)
    ops = network.ops
    last_compute = max((i for i, op in enumerate(ops) if not isinstance(op, (IntReshape, IntLastStep))), default=-1)
    tail_is_plain = not any(isinstance(op, IntLastStep) for op in ops[last_compute + 1 :])
    for index, op in enumerate(ops):
        if isinstance(op, IntReshape):
            continue
        if isinstance(op, IntLastStep):
            # An LSTM that keeps no sequence has left only its last hidden state.
            if not (index and isinstance(ops[index - 1], IntLstm)):
                builder.offset += size_of(op.input) - size_of(op.output)
            continue
        to_output = index == last_compute and tail_is_plain
        _add_step(builder, op, network.profile, to_output, _followed_by_last_step(ops, index))
    final, final_offset = builder.location, builder.offset
    obstacle = _stream_obstacle(network)
    stream, stream_final = ([], "") if obstacle else _stream(network, builder)
    return Plan(
        network,
        tuple(builder.steps),
        builder.buffers,
        builder.wide_words,
        final,
        final_offset,
        None if obstacle else tuple(stream),
        stream_final,
        obstacle,
    )


def _followed_by_last_step(ops: tuple[IntOp, ...], index: int) -> bool:
    return index + 1 < len(ops) and isinstance(ops[index + 1], IntLastStep)


def _stream_obstacle(network: IntegerNetwork) -> str:
    """Name of the first operator that needs more than one time step at once; empty where there is none."""
    steps = network.input.shape[0]
    for op in network.ops:
        if isinstance(op, IntLastStep):
            return ""
        by_step = all(len(t.shape) == 2 and t.shape[0] == steps for t in (op.input, op.output))
        if isinstance(op, IntReshape):
            by_step = by_step and op.input.shape == op.output.shape
        if not by_step:
            return op.name
    return ""


def _stream(network: IntegerNetwork, builder: _Builder) -> tuple[list[StreamCall], Location]:
    """The calls for one time step. Sizes are at most those of the whole sequence, but buffers may be others."""
    steps = network.input.shape[0]
    builder.location, builder.offset = "input", 0
    calls = []
    for index, step in enumerate(builder.steps):
        if isinstance(step.op, IntLstm):
            target = f"hidden{index}"
        else:
            values = size_of(step.op.output) // (steps if len(step.op.output.shape) == 2 else 1)
            last = index == len(builder.steps) - 1
            target = builder.target(values, last, in_place=isinstance(step.op, IntActivation))
        calls.append(StreamCall(index, builder.location, target))
        builder.location = target
    return calls, builder.location


def _add_step(builder: _Builder, op: IntOp, profile: Profile, to_output: bool, last_only: bool) -> None:
    keep_sequence = True
    layer = -1
    rows = 1
    wide: tuple[bool, ...] = ()
    scales: tuple[Multiplier, ...] = ()
    deep: tuple[bool, ...] = ()
    scales64: tuple[Scale64, ...] = ()
    constants: tuple[Constant, ...]
    values = size_of(op.output)
    int16 = op.input.dtype == "int16"
    if isinstance(op, IntLstm):
        if int16:
            constants, wide, deep, scales64 = _lstm_constants16(op, builder.weights)
        else:
            constants, wide = _lstm_constants(op, builder.weights)
        keep_sequence = not last_only
        layer = builder.lstm_layers
        builder.lstm_layers += 1
        builder.wide_words = max(builder.wide_words, (op.features + 3) // 4 + (op.units + 3) // 4)
    elif isinstance(op, IntDense):
        if int16:
            constants, wide, deep, scales64 = _dense_constants16(op, builder.weights)
            builder.wide_words = max(builder.wide_words, (op.W.shape[1] + 3) // 4)
        else:
            constants, scales, wide = _dense_constants(op, builder.weights)
        rows = size_of(op.input) // op.W.shape[1]
    elif isinstance(op, IntActivation):
        if int16:
            constants = tuple(Constant(role, table) for role, table in activation16(op, profile).tables)
        else:
            constants = _activation_constants(op, profile)
        rows = values // op.input.shape[-1]
    else:
        raise InputError(f"operator {op.name!r} ({type(op).__name__}) has no C kernel")
    if keep_sequence:
        target = builder.target(values, to_output, in_place=isinstance(op, IntActivation))
    else:
        target = f"hidden{len(builder.steps)}"
    source, offset = builder.location, builder.offset
    step = Step(op, constants, scales, source, offset, target, rows, wide, keep_sequence, layer, deep, scales64)
    builder.steps.append(step)
    builder.location, builder.offset = target, 0


def _check_chain(network: IntegerNetwork) -> None:
    if not network.ops:
        raise InputError("the integer network has no operators: nothing to generate")
    if len(network.input.shape) != 2:
        raise InputError(f"the network's input has shape {network.input.shape}; (steps, features) is needed")
    expected = network.input
    for op in network.ops:
        for tensor in (op.input, op.output):
            if tensor.dtype != network.activations:
                raise InputError(
                    f"tensor {tensor.name!r} is {tensor.dtype}; activations have to be {network.activations} throughout"
                )
            if tensor.dtype == "int16" and tensor.zero_point != 0:
                raise InputError(f"tensor {tensor.name!r} is int16 with zero point {tensor.zero_point}; it has to be 0")
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

    weights is (..., N), bias (...). Raises InputError where an accumulator might pass 2^30.
    """
    wide = weights.astype(np.int64)
    folded = bias.astype(np.int64) - zero_point * wide.sum(axis=-1)
    if np.any(np.abs(folded) + 128 * np.abs(wide).sum(axis=-1) > _LARGEST):
        raise InputError(f"operator {name!r}: a 32-bit accumulator may overflow; its biases are too large")
    top = folded + np.maximum(wide * 127, wide * -128).sum(axis=-1)
    bottom = folded + np.minimum(wide * 127, wide * -128).sum(axis=-1)
    return folded.astype(np.int32), np.maximum(np.abs(top), np.abs(bottom))


def _check_scale(name: str, scale: Multiplier, largest: int) -> None:
    if not (scale.m == 0 or 2**30 <= scale.m <= _INT32_MAX) or not -31 <= scale.e <= 30:
        raise InputError(f"operator {name!r}: multiplier ({scale.m}, {scale.e}) is out of range")
    if largest << max(scale.e, 0) > _LARGEST:
        raise InputError(
            f"operator {name!r}: rescaling by {scale.real:g} may overflow 32 bits; its quantization is unusable"
        )


def _check_lstm(op: IntLstm) -> None:
    H, D = op.units, op.features
    fits = op.W.shape == (4, H, D) and op.R.shape == (4, H, H) and op.b.shape == (4, H)
    if not fits or op.input.shape[1:] != (D,) or op.output.shape != (op.input.shape[0], H):
        raise InputError(f"LSTM {op.name!r}: shapes {op.input.shape} and {op.output.shape} do not fit its weights")
    if not -40 <= op.cell_shift <= 2:
        raise InputError(f"LSTM {op.name!r}: cell scale 2^{op.cell_shift} is outside 2^-40 to 2^2")
    for scale in (op.forget_multiplier, op.input_gate_multiplier, op.hidden_multiplier):
        _check_scale(op.name, scale, 2**30 - 1)


def _lstm_constants(op: IntLstm, weights: Weights) -> tuple[tuple[Constant, ...], tuple[bool, ...]]:
    _check_lstm(op)
    # Gate-major (4, H, N) becomes unit-major (H, 4, N): the kernel takes the four rows of one unit together.
    input_rows, recurrent_rows, bias = op.W.transpose(1, 0, 2), op.R.transpose(1, 0, 2), np.ascontiguousarray(op.b.T)
    input_bias, input_largest = _folded(op.name, input_rows, bias, op.input.zero_point)
    recurrent_bias, recurrent_largest = _folded(op.name, recurrent_rows, np.zeros_like(bias), op.output.zero_point)
    for gate in range(4):
        _check_scale(op.name, op.input_multipliers[gate], int(input_largest[:, gate].max()))
        _check_scale(op.name, op.recurrent_multipliers[gate], int(recurrent_largest[:, gate].max()))
    input_weights, input_wide = pack_gates(input_rows, weights)
    recurrent_weights, recurrent_wide = pack_gates(recurrent_rows, weights)
    biases = pack_biases(input_bias), pack_biases(recurrent_bias)
    parts: list[npt.NDArray[Any]] = []
    for bias_words, words, wide in zip(
        biases, (input_weights, recurrent_weights), (input_wide, recurrent_wide), strict=True
    ):
        parts += [bias_words, words] if wide else [bias_words[:, :1], words, bias_words[:, 1:]]
    constants = (Constant("weights", np.concatenate(parts, axis=1).reshape(-1)),)
    return constants, (input_wide, recurrent_wide)


def _check_dense(op: IntDense) -> None:
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


def _lstm_constants16(
    op: IntLstm, weights: Weights
) -> tuple[tuple[Constant, ...], tuple[bool, ...], tuple[bool, ...], tuple[Scale64, ...]]:
    _check_lstm(op)
    own, recurrent, scales = lstm_parts(op, weights)
    words = np.concatenate([own.words, recurrent.words], axis=1).reshape(-1)
    return (Constant("weights", words),), (own.wide, recurrent.wide), (own.deep, recurrent.deep), scales


def _dense_constants16(
    op: IntDense, weights: Weights
) -> tuple[tuple[Constant, ...], tuple[bool, ...], tuple[bool, ...], tuple[Scale64, ...]]:
    _check_dense(op)
    part, scales = dense_part(op, weights)
    return (Constant("weights", part.words.reshape(-1)),), (part.wide,), (part.deep,), scales


def _dense_constants(
    op: IntDense, weights: Weights
) -> tuple[tuple[Constant, ...], tuple[Multiplier, ...], tuple[bool, ...]]:
    _check_dense(op)
    outputs = len(op.W)
    bias, largest = _folded(op.name, op.W, op.b, op.input.zero_point)
    for k in range(outputs):
        _check_scale(op.name, op.multipliers[k if len(op.multipliers) > 1 else 0], int(largest[k]))
    packed, wide = pack_dense(op.W, weights)
    return (Constant("weights", packed), Constant("bias", bias)), op.multipliers, (wide,)


def _activation_constants(op: IntActivation, profile: Profile) -> tuple[Constant, ...]:
    if op.kind != "softmax":
        return (Constant("table", activation_table(op, profile)),)
    if op.input.shape[-1] > MAX_CLASSES:
        raise InputError(f"softmax {op.name!r}: {op.input.shape[-1]} classes; at most {MAX_CLASSES} are supported")
    exponentials = softmax_parameters(op).exp_q0
    # The kernel takes differences past the end as 0; the first entry, exp(0), never is.
    used = int(np.flatnonzero(exponentials).max()) + 1
    return (Constant("exp_table", exponentials[:used]),)
