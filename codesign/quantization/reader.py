"""Reads a full-integer .tflite file into an IntegerNetwork.

Formulas: TensorFlow Lite Micro's Prepare functions (lstm_eval_common.cc, fully_connected_common.cc, softmax_common.cc,
logistic_common.cc, tanh.cc, activations_common.cc). What TFLM would refuse, compute with overflow, or compute with
another meaning than the file's scales say is refused here.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np

from codesign.errors import InputError
from codesign.flatfile import (
    Operator,
    Tensor,
    check_lstm,
    check_reshape,
    check_unary,
    last_step,
    operand,
    parse_dense,
    source,
    walk,
)
from codesign.quantization.flatfile import IntegerFile
from codesign.quantization.integer import (
    BiasArray,
    Int8Array,
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
from codesign.quantization.multipliers import (
    UNIT_SCALE,
    dense_multiplier,
    gate_multiplier,
    product_multiplier,
    quantize_multiplier,
    softmax_multiplier,
    table_multiplier,
)

INT32_MAX = (1 << 31) - 1
MAX_ACCUMULATOR_16 = (1 << 47) - 1  # TFLM's bound on int64 accumulators
CELL_SHIFTS = range(-20, 1)  # cell ranges from +-2^-5 to +-2^15; converters give about -15 to -9
MAX_SOFTMAX_DEPTH = 4095  # the Q12.19 sum of exponentials stays inside int32

_BIAS_TYPES = {"int8": (0, 2), "int16": (0, 4)}  # TensorType: not said, or int32 and int64


def read_integer_network(path: str | os.PathLike[str], profile: Profile = "tflm-double") -> IntegerNetwork:
    """The integer network in the .tflite file `path`, with effective multipliers for `profile`.

    The file has to be a chain of UNIDIRECTIONAL_SEQUENCE_LSTM, FULLY_CONNECTED, SOFTMAX, LOGISTIC, TANH, RELU,
    STRIDED_SLICE (the last time step) and RESHAPE at batch size 1, with int8 weights and either int8 or
    int16 activations throughout. Shapes in the result leave out the batch; FULLY_CONNECTED acts on the last axis
    whether or not the file keeps its dimensions.

    Raises InputError, naming the operator or tensor, for everything else and for damaged files.
    """
    if profile not in get_args(Profile):
        raise InputError(f"Unknown semantics profile '{profile}': use one of {', '.join(get_args(Profile))}.")
    file = IntegerFile(path)
    with file.guard():
        return _Chain(file, profile).read()


def with_profile(network: IntegerNetwork, profile: Profile) -> IntegerNetwork:
    """The same file read for another semantics profile."""
    return parse_integer_network(network.content, network.name, profile)


def parse_integer_network(content: bytes, name: str, profile: Profile = "tflm-double") -> IntegerNetwork:
    """As read_integer_network, from the bytes of a file."""
    file = IntegerFile(f"{name}.tflite", content)
    with file.guard():
        return _Chain(file, profile).read()


class _Chain:
    """Walks the operators, holding the tensor that flows along the chain."""

    def __init__(self, file: IntegerFile, profile: Profile) -> None:
        self.file = file
        self.profile = profile
        self.ops: list[IntOp] = []
        self.readers: dict[str, Callable[[Operator], list[IntOp]]] = {
            "UNIDIRECTIONAL_SEQUENCE_LSTM": self._lstm,
            "FULLY_CONNECTED": self._dense,
            "SOFTMAX": self._softmax,
            "LOGISTIC": self._logistic,
            "TANH": self._tanh,
            "RELU": self._relu,
            "STRIDED_SLICE": self._last_step,
            "RESHAPE": self._reshape,
        }

    def read(self) -> IntegerNetwork:
        file, given = self.file, source(self.file)
        self.current = network_input = file.activation(given, given.dims[1:])
        walk(file, {kind: self._reading(reader) for kind, reader in self.readers.items()})
        return IntegerNetwork(
            name=file.path.stem,
            input=network_input,
            output=self.current,
            ops=tuple(self.ops),
            sha256=hashlib.sha256(file.content).hexdigest(),
            profile=self.profile,
            content=file.content,
        )

    def _reading(self, reader: Callable[[Operator], list[IntOp]]) -> Callable[[Operator], None]:
        def read(op: Operator) -> None:
            self.ops.extend(reader(op))
            self.current = self.ops[-1].output

        return read

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _output(self, op: Operator, shape: tuple[int, ...]) -> QuantizedTensor:
        return self.file.activation(self.file.tensor(op.outputs[0]), shape, self.current.dtype)

    def _multiplier(self, op: Operator, make: Callable[[], Multiplier]) -> Multiplier:
        try:
            multiplier = make()
        except (ValueError, OverflowError, ZeroDivisionError) as error:
            raise self.file.refuse(f"{op} has scales whose ratio is not a usable number.") from error
        if multiplier.e > 30:
            raise self.file.refuse(f"{op} has an effective scale of {multiplier.real:g}, too large for int32.")
        return multiplier

    def _no_overflow(
        self, op: Operator, W: Int8Array, b: BiasArray | None, x: QuantizedTensor, multipliers: Sequence[Multiplier]
    ) -> None:
        """Refuses weights for which some input could overflow an accumulator or its rescaling, as TFLM computes them.

        int8: an int32 accumulator, shifted left. The bound also covers the sum taken as W q + (b - W z), so that
        generated code may fold the zero point. int16: 47 bits, TFLM's documented range, and an int32 result.
        """
        total = np.abs(W.astype(np.float64)).sum(-1) * (-x.q_min + abs(x.zero_point))
        if b is not None:
            total = total + np.abs(b.astype(np.float64))
        shifts = np.array([m.e for m in multipliers])
        if x.dtype == "int8":
            overflow = np.any(total * 2.0 ** np.maximum(shifts, 0) > INT32_MAX)
        else:
            rescaled = total * np.array([m.reduced_real for m in multipliers]) + 1
            overflow = np.any(total > MAX_ACCUMULATOR_16) or np.any(rescaled > INT32_MAX) or np.any(shifts > 7)
        if overflow:
            raise self.file.refuse(f"{op} can overflow its accumulators; its scales do not fit its weights.")

    # -- operators -------------------------------------------------------------------------------------------------

    def _lstm(self, op: Operator) -> list[IntOp]:
        file, x, parts = self.file, self.current, check_lstm(self.file, op)
        hidden, cell, units, clip = parts.hidden, parts.cell, parts.units, parts.cell_clip
        steps, features = x.shape
        for state, dtype in ((hidden, x.dtype), (cell, "int16")):
            if state.dtype != dtype:
                raise file.refuse(f"{op}: state '{state.name}' has to be a variable {dtype} tensor.")
        output = self._output(op, (steps, units))
        if hidden.scales != (output.scale,) or hidden.zero_points != (output.zero_point,):
            raise file.refuse(f"{op} has an output quantized otherwise than its hidden state.")
        cell_scale = file.symmetric_scale(cell)
        fraction, exponent = math.frexp(cell_scale)
        if fraction != 0.5 or exponent - 1 not in CELL_SHIFTS:
            raise file.refuse(f"{op} has the cell scale {cell_scale:g}, not a power of two that is supported.")
        clip_q = math.trunc(min(clip / cell_scale, 32767.0))
        if clip > 0 and clip_q == 0:
            raise file.refuse(f"{op} has a cell clip under one step of the cell state.")

        W, W_scale, input_multipliers = self._gates(op, 1, features, x, units)
        R, R_scale, recurrent_multipliers = self._gates(op, 5, units, output, units)
        biases = [self._bias(operand(file, op, 12 + g, "bias"), units) for g in range(4)]
        for g in range(4):
            self._no_overflow(op, W[g], biases[g], x, input_multipliers[g : g + 1])
            self._no_overflow(op, R[g], None, output, recurrent_multipliers[g : g + 1])
        hidden_multiplier = self._multiplier(op, lambda: product_multiplier(output.scale))
        if hidden_multiplier.e > 0:
            raise file.refuse(f"{op} has the hidden scale {output.scale:g}, too small for Q0.15 products.")
        return [
            IntLstm(
                name=output.name,
                input=x,
                output=output,
                W=W,
                R=R,
                b=np.stack(biases),
                W_scale=W_scale,
                R_scale=R_scale,
                cell_shift=exponent - 1,
                cell_clip_q=clip_q,
                input_multipliers=input_multipliers,
                recurrent_multipliers=recurrent_multipliers,
                forget_multiplier=product_multiplier(1.0, 1.0),
                input_gate_multiplier=product_multiplier(cell_scale),
                hidden_multiplier=hidden_multiplier,
            )
        ]

    def _gates(
        self, op: Operator, first: int, columns: int, x: QuantizedTensor, units: int
    ) -> tuple[Int8Array, tuple[float, float, float, float], tuple[Multiplier, Multiplier, Multiplier, Multiplier]]:
        """Four weight matrices of operands first..first + 3 with their scales and multipliers to Q3.12."""
        matrices, scales, multipliers = [], [], []
        for position in range(first, first + 4):
            tensor = operand(self.file, op, position, "weights")
            matrices.append(self.file.constant(tensor, "int8", (units, columns)))
            scale = self.file.symmetric_scale(tensor)
            scales.append(scale)
            multipliers.append(self._multiplier(op, lambda s=scale: gate_multiplier(x.scale, s, self.profile)))  # type: ignore[misc]
        return (
            np.stack(matrices),
            (scales[0], scales[1], scales[2], scales[3]),
            (multipliers[0], multipliers[1], multipliers[2], multipliers[3]),
        )

    def _bias(self, tensor: Tensor, units: int) -> BiasArray:
        return self.file.constant(tensor, "int32" if self.current.dtype == "int8" else "int64", (units,))

    def _dense(self, op: Operator) -> list[IntOp]:
        file, x, parts = self.file, self.current, parse_dense(self.file, op)
        if parts.bias_type not in _BIAS_TYPES[x.dtype]:
            raise file.refuse(f"{op} has quantized_bias_type {parts.bias_type} for {x.dtype} inputs: not supported.")
        weights, (rows, columns) = parts.weights, parts.weights.dims
        ops: list[IntOp] = []
        if parts.flattens:
            flat = QuantizedTensor(x.name, (columns,), x.dtype, x.scale, x.zero_point)
            ops.append(IntReshape(f"{x.name}/flatten", x, flat))
            x = flat
        output = self._output(op, (*x.shape[:-1], rows))
        W = file.constant(weights, "int8", (rows, columns))
        file.check_scales(weights)
        per_channel = len(weights.scales) > 1
        if per_channel and (len(weights.scales) != rows or weights.quantized_dimension != 0):
            raise file.refuse(f"{op} has {len(weights.scales)} weight scales for {rows} outputs.")
        if any(weights.zero_points):
            raise file.refuse(f"{op} has weights with a zero point other than 0.")
        b: BiasArray = np.zeros(rows, np.int32 if x.dtype == "int8" else np.int64)
        if parts.bias is not None:
            b = self._bias(parts.bias, rows)
            if not per_channel:
                self._bias_scale(op, x, weights, parts.bias, output)
        multipliers = tuple(
            self._multiplier(
                op,
                lambda s=s: dense_multiplier(x.scale, s, output.scale, per_channel, self.profile),  # type: ignore[misc]
            )
            for s in weights.scales
        )
        self._no_overflow(op, W, b, x, multipliers)
        act_min = output.zero_point if parts.fused == "relu" else output.q_min
        ops.append(IntDense(output.name, x, output, W, b, weights.scales, multipliers, act_min, output.q_max))
        return ops

    def _bias_scale(
        self, op: Operator, x: QuantizedTensor, weights: Tensor, bias: Tensor, output: QuantizedTensor
    ) -> None:
        """TFLM's own condition on a per-tensor bias: its scale is the product of the others, to 0.02 output steps."""
        self.file.check_scales(bias)
        if abs(x.scale * weights.scales[0] - bias.scales[0]) / output.scale > 0.02:
            raise self.file.refuse(f"{op} has a bias whose scale is not that of its accumulator.")

    def _unary(self, op: Operator, kind: Literal["softmax", "sigmoid", "tanh", "relu"]) -> IntActivation:
        check_unary(self.file, op)
        output = self._output(op, self.current.shape)
        return IntActivation(output.name, kind, self.current, output)

    def _fixed_output(self, op: Operator, activation: IntActivation, scale: float, zero_point: int) -> None:
        if activation.output.dtype == "int16":
            scale, zero_point = UNIT_SCALE, 0
        if activation.output.scale != scale or activation.output.zero_point != zero_point:
            raise self.file.refuse(
                f"{op} has an output quantized otherwise than scale {scale:g}, zero point {zero_point}."
            )

    def _softmax(self, op: Operator) -> list[IntOp]:
        activation = self._unary(op, "softmax")
        self._fixed_output(op, activation, 1 / 256, -128)
        real = activation.input.scale * 2.0**26
        in_range = 1.0 < real < 2.0**30
        if activation.input.dtype == "int16":  # 65535 steps shifted left stay inside int32
            multiplier = self._multiplier(op, lambda: softmax_multiplier(activation.input.scale, 1.0))
            in_range = multiplier.m > 0 and multiplier.e <= 15
        if not in_range:
            raise self.file.refuse(f"{op} has the input scale {activation.input.scale:g}, out of range.")
        if activation.input.shape[-1] > MAX_SOFTMAX_DEPTH:
            raise self.file.refuse(f"{op} has more than {MAX_SOFTMAX_DEPTH} classes.")
        return [activation]

    def _q4_input(self, op: Operator, activation: IntActivation) -> None:
        """Input scales for which TFLM's shift to Q4.27 (int16: to its table's steps) is well defined."""
        if activation.input.dtype == "int16":
            try:
                table_multiplier(activation.input.scale, "tanh" if activation.kind == "tanh" else "sigmoid")
            except ValueError as error:
                raise self.file.refuse(f"{op} has an input scale that cannot be used: {error}.") from error
        elif not 0 <= math.frexp(activation.input.scale * 2.0**27)[1] <= 30:
            raise self.file.refuse(f"{op} has the input scale {activation.input.scale:g}, out of range.")

    def _logistic(self, op: Operator) -> list[IntOp]:
        activation = self._unary(op, "sigmoid")
        self._fixed_output(op, activation, 1 / 256, -128)
        self._q4_input(op, activation)
        return [activation]

    def _tanh(self, op: Operator) -> list[IntOp]:
        activation = self._unary(op, "tanh")
        self._fixed_output(op, activation, 1 / 128, 0)
        self._q4_input(op, activation)
        return [activation]

    def _relu(self, op: Operator) -> list[IntOp]:
        activation = self._unary(op, "relu")
        ratio = activation.input.scale / activation.output.scale
        largest = 22 if activation.input.dtype == "int8" else 15  # 255 * 2^e, 32768 * 2^e stay inside int32
        if self._multiplier(op, lambda: quantize_multiplier(ratio)).e > largest:
            raise self.file.refuse(f"{op} has an output scale too small for its input's.")
        return [activation]

    def _same_quantization(self, op: Operator, output: QuantizedTensor) -> None:
        if (output.scale, output.zero_point) != (self.current.scale, self.current.zero_point):
            raise self.file.refuse(f"{op} copies data, but its output is quantized otherwise than its input.")

    def _last_step(self, op: Operator) -> list[IntOp]:
        last_step(self.file, op)
        output = self._output(op, (self.current.shape[1],))
        self._same_quantization(op, output)
        return [IntLastStep(output.name, self.current, output)]

    def _reshape(self, op: Operator) -> list[IntOp]:
        output = self._output(op, check_reshape(self.file, op))
        self._same_quantization(op, output)
        return [IntReshape(output.name, self.current, output)]
