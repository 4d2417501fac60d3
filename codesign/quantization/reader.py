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
from codesign.quantization.flatfile import Operator, Tensor, TfliteFile
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

_FUSED_NONE, _FUSED_RELU, _FUSED_TANH = 0, 1, 4
_INT32 = 2  # TensorType


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
    file = TfliteFile(path)
    with file.guard():
        return _Chain(file, profile).read()


def with_profile(network: IntegerNetwork, profile: Profile) -> IntegerNetwork:
    """The same file read for another semantics profile."""
    return parse_integer_network(network.content, network.name, profile)


def parse_integer_network(content: bytes, name: str, profile: Profile = "tflm-double") -> IntegerNetwork:
    """As read_integer_network, from the bytes of a file."""
    file = TfliteFile(f"{name}.tflite", content)
    with file.guard():
        return _Chain(file, profile).read()


class _Chain:
    """Walks the operators, holding the tensor that flows along the chain."""

    def __init__(self, file: TfliteFile, profile: Profile) -> None:
        self.file = file
        self.profile = profile
        self.states: set[int] = set()
        self.produced: set[int] = set()
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
        file = self.file
        source = file.tensor(file.input_index)
        if -1 in source.signature[1:]:
            raise file.refuse(f"input '{source.name}' has no fixed number of steps; convert with a fixed input shape.")
        if len(source.dims) != 3 or source.dims[0] != 1:
            raise file.refuse(
                f"input '{source.name}' has shape {list(source.dims)}; [1, steps, features] is supported."
            )
        self.current = file.activation(source, source.dims[1:])
        self.current_index = file.input_index
        self.produced.add(file.input_index)
        network_input = self.current
        ops: list[IntOp] = []
        for op in file.operators:
            reader = self.readers.get(op.kind)
            if reader is None:
                raise file.refuse(f"{op} is not supported; supported are {', '.join(sorted(self.readers))}.")
            if not op.inputs or op.inputs[0] != self.current_index or len(op.outputs) != 1:
                raise file.refuse(f"{op} does not follow the operator before it; one chain of operators is supported.")
            if op.outputs[0] in self.produced or op.outputs[0] in self.states:
                raise file.refuse(f"{op} writes a tensor that is already in use; one chain of operators is supported.")
            ops.extend(reader(op))
            self.current = ops[-1].output
            self.current_index = op.outputs[0]
            self.produced.add(self.current_index)
        if self.current_index != file.output_index:
            raise file.refuse("the output is not the last operator's; one chain of operators is supported.")
        if self.states & self.produced:
            raise file.refuse("an LSTM's state tensor is also an activation; that is not supported.")
        return IntegerNetwork(
            name=file.path.stem,
            input=network_input,
            output=self.current,
            ops=tuple(ops),
            sha256=hashlib.sha256(file.content).hexdigest(),
            profile=self.profile,
            content=file.content,
        )

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _operand(self, op: Operator, position: int, what: str) -> Tensor:
        if position >= len(op.inputs) or op.inputs[position] < 0:
            raise self.file.refuse(f"{op} lacks its {what}.")
        return self.file.tensor(op.inputs[position])

    def _output(self, op: Operator, shape: tuple[int, ...]) -> QuantizedTensor:
        return self.file.activation(self.file.tensor(op.outputs[0]), shape, self.current.dtype)

    def _inputs_exactly(self, op: Operator, *counts: int) -> None:
        if len(op.inputs) not in counts:
            raise self.file.refuse(f"{op} has {len(op.inputs)} inputs, not {' or '.join(map(str, counts))}.")

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

    def _lstm_options(self, op: Operator) -> float:
        """Checks the options and gives the cell clip."""
        options = self.file.options(op, "UnidirectionalSequenceLSTMOptions")
        if options is None:
            raise self.file.refuse(f"{op} has no options: the file is damaged.")
        if options.TimeMajor():
            raise self.file.refuse(f"{op} is time-major, which is not supported.")
        if options.FusedActivationFunction() != _FUSED_TANH:
            raise self.file.refuse(f"{op} has another cell activation than tanh, which is not supported.")
        if options.DiagonalRecurrentTensors():
            raise self.file.refuse(f"{op} has diagonal recurrent weights, which are not supported.")
        if options.ProjClip() != 0:
            raise self.file.refuse(f"{op} has a projection clip, which is not supported.")
        clip = float(options.CellClip())
        if not (math.isfinite(clip) and clip >= 0):
            raise self.file.refuse(f"{op} has the cell clip {clip}, not a finite number >= 0.")
        return clip

    def _lstm(self, op: Operator) -> list[IntOp]:
        file = self.file
        self._inputs_exactly(op, 24)
        clip = self._lstm_options(op)
        for what, positions in (
            ("peephole weights", range(9, 12)),
            ("a projection", range(16, 18)),
            ("layer normalisation", range(20, 24)),
        ):
            if any(op.inputs[p] >= 0 for p in positions):
                raise file.refuse(f"{op} has {what}, which is not supported.")
        if op.inputs[1] < 0 or op.inputs[5] < 0:
            raise file.refuse(f"{op} couples input and forget gates (CIFG), which is not supported.")

        x = self.current
        raw_input = file.tensor(op.inputs[0])
        if len(x.shape) != 2 or raw_input.dims != (1, *x.shape):
            raise file.refuse(f"{op} has an input of shape {list(raw_input.dims)}; [1, steps, features] is supported.")
        steps, features = x.shape
        hidden, cell = self._operand(op, 18, "hidden state"), self._operand(op, 19, "cell state")
        if len(hidden.dims) != 2 or hidden.dims[0] != 1 or hidden.dims[1] < 1 or cell.size != hidden.dims[1]:
            raise file.refuse(f"{op} has states of shape {list(hidden.dims)} and {list(cell.dims)}, not [1, units].")
        units = hidden.dims[1]
        for state, dtype in ((hidden, x.dtype), (cell, "int16")):
            if state.dtype != dtype or not state.is_variable or file.data_length(state):
                raise file.refuse(f"{op}: state '{state.name}' has to be a variable {dtype} tensor.")
            if state.index in self.states or state.index in self.produced:
                raise file.refuse(f"{op}: state '{state.name}' is used twice.")
            self.states.add(state.index)
        output = self._output(op, (steps, units))
        if file.tensor(op.outputs[0]).dims != (1, steps, units):
            raise file.refuse(f"{op} has an output that is not of shape {[1, steps, units]}.")
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
        biases = [self._bias(op, 12 + g, units) for g in range(4)]
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
            tensor = self._operand(op, position, "weights")
            matrices.append(self.file.constant(tensor, "int8", (units, columns)))
            scale = self.file.symmetric_scale(tensor)
            scales.append(scale)
            multipliers.append(self._multiplier(op, lambda s=scale: gate_multiplier(x.scale, s, self.profile)))  # type: ignore[misc]
        return (
            np.stack(matrices),
            (scales[0], scales[1], scales[2], scales[3]),
            (multipliers[0], multipliers[1], multipliers[2], multipliers[3]),
        )

    def _bias(self, op: Operator, position: int, units: int) -> BiasArray:
        dtype = "int32" if self.current.dtype == "int8" else "int64"
        return self.file.constant(self._operand(op, position, "bias"), dtype, (units,))

    def _dense(self, op: Operator) -> list[IntOp]:
        file = self.file
        self._inputs_exactly(op, 2, 3)
        options = file.options(op, "FullyConnectedOptions")
        fused = options.FusedActivationFunction() if options is not None else _FUSED_NONE
        if fused not in (_FUSED_NONE, _FUSED_RELU):
            raise file.refuse(f"{op} has a fused activation other than ReLU, which is not supported.")
        if options is not None and options.WeightsFormat() != 0:
            raise file.refuse(f"{op} has shuffled weights, which are not supported.")
        weights = self._operand(op, 1, "weights")
        if len(weights.dims) != 2 or min(weights.dims) < 1:
            raise file.refuse(f"{op} has weights of shape {list(weights.dims)}; [outputs, inputs] is supported.")
        rows, columns = weights.dims
        ops: list[IntOp] = []
        x = self.current
        if x.shape[-1] != columns and math.prod(x.shape) == columns:  # FULLY_CONNECTED flattens by itself
            flat = QuantizedTensor(x.name, (columns,), x.dtype, x.scale, x.zero_point)
            ops.append(IntReshape(f"{x.name}/flatten", x, flat))
            x = flat
        if x.shape[-1] != columns:
            raise file.refuse(f"{op} has {columns} inputs a row but its input tensor has shape {list(x.shape)}.")
        output = self._output(op, (*x.shape[:-1], rows))
        W = file.constant(weights, "int8", (rows, columns))
        file.check_scales(weights)
        per_channel = len(weights.scales) > 1
        if per_channel and (len(weights.scales) != rows or weights.quantized_dimension != 0):
            raise file.refuse(f"{op} has {len(weights.scales)} weight scales for {rows} outputs.")
        if any(weights.zero_points):
            raise file.refuse(f"{op} has weights with a zero point other than 0.")
        b: BiasArray = np.zeros(rows, np.int32 if x.dtype == "int8" else np.int64)
        if len(op.inputs) == 3 and op.inputs[2] >= 0:
            b = self._bias(op, 2, rows)
            if not per_channel:
                self._bias_scale(op, x, weights, output)
        elif x.dtype == "int16" and options is not None and options.QuantizedBiasType() == _INT32:
            raise file.refuse(f"{op} asks for 32-bit accumulators of int16 inputs, which is not supported.")
        multipliers = tuple(
            self._multiplier(
                op,
                lambda s=s: dense_multiplier(x.scale, s, output.scale, per_channel, self.profile),  # type: ignore[misc]
            )
            for s in weights.scales
        )
        self._no_overflow(op, W, b, x, multipliers)
        act_min = output.zero_point if fused == _FUSED_RELU else output.q_min
        ops.append(IntDense(output.name, x, output, W, b, weights.scales, multipliers, act_min, output.q_max))
        return ops

    def _bias_scale(self, op: Operator, x: QuantizedTensor, weights: Tensor, output: QuantizedTensor) -> None:
        """TFLM's own condition on a per-tensor bias: its scale is the product of the others, to 0.02 output steps."""
        bias = self.file.tensor(op.inputs[2])
        self.file.check_scales(bias)
        if abs(x.scale * weights.scales[0] - bias.scales[0]) / output.scale > 0.02:
            raise self.file.refuse(f"{op} has a bias whose scale is not that of its accumulator.")

    def _unary(
        self, op: Operator, kind: Literal["softmax", "sigmoid", "tanh", "relu"], beta: float = 1.0
    ) -> IntActivation:
        self._inputs_exactly(op, 1)
        output = self._output(op, self.current.shape)
        return IntActivation(output.name, kind, self.current, output, beta)

    def _fixed_output(self, op: Operator, activation: IntActivation, scale: float, zero_point: int) -> None:
        if activation.output.dtype == "int16":
            scale, zero_point = UNIT_SCALE, 0
        if activation.output.scale != scale or activation.output.zero_point != zero_point:
            raise self.file.refuse(
                f"{op} has an output quantized otherwise than scale {scale:g}, zero point {zero_point}."
            )

    def _softmax(self, op: Operator) -> list[IntOp]:
        options = self.file.options(op, "SoftmaxOptions")
        beta = float(options.Beta()) if options is not None else 0.0
        activation = self._unary(op, "softmax", beta)
        self._fixed_output(op, activation, 1 / 256, -128)
        real = beta * activation.input.scale * 2.0**26
        in_range = 1.0 < real < 2.0**30
        if activation.input.dtype == "int16":  # 65535 steps shifted left stay inside int32
            multiplier = self._multiplier(op, lambda: softmax_multiplier(activation.input.scale, beta))
            in_range = multiplier.m > 0 and multiplier.e <= 15
        if not in_range:
            raise self.file.refuse(f"{op} has beta {beta:g} and input scale {activation.input.scale:g}, out of range.")
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
        file = self.file
        self._inputs_exactly(op, 4)
        options = file.options(op, "StridedSliceOptions")
        dims = file.tensor(op.inputs[0]).dims
        begin, end, strides = (
            file.constant(self._operand(op, p, "bounds"), "int32", (len(dims),)).tolist() for p in (1, 2, 3)
        )
        supported = (
            options is not None
            and not (options.EllipsisMask() or options.NewAxisMask() or getattr(options, "Offset", bool)())
            and len(dims) == 3
            and dims == (1, *self.current.shape)
            and options.ShrinkAxisMask() == 0b010
            and strides == [1, 1, 1]
        )
        if supported:
            taken = []
            for axis, size in enumerate(dims):
                start = None if options.BeginMask() >> axis & 1 else begin[axis]
                stop = None if options.EndMask() >> axis & 1 else end[axis]
                if axis == 1:  # shrunk: begin names the one index
                    start = 0 if start is None else start
                    taken.append(range(size)[start : start + 1 or None] if -size <= start < size else range(0))
                else:
                    taken.append(range(size)[start:stop])
            supported = taken == [range(1), range(dims[1] - 1, dims[1]), range(dims[2])]
        if not supported:
            raise file.refuse(f"{op} does something else than taking the last time step, which is not supported.")
        output = self._output(op, (self.current.shape[1],))
        self._same_quantization(op, output)
        return [IntLastStep(output.name, self.current, output)]

    def _reshape(self, op: Operator) -> list[IntOp]:
        self._inputs_exactly(op, 1, 2)
        raw = self.file.tensor(op.outputs[0])
        dims = raw.dims
        shape = dims[1:] if len(dims) > 1 and dims[0] == 1 else dims
        output = self.file.activation(raw, shape, self.current.dtype)
        if not shape or (output.shape and math.prod(shape) != math.prod(self.current.shape)):
            raise self.file.refuse(f"{op} reshapes {list(self.current.shape)} to {list(dims)}: sizes differ.")
        self._same_quantization(op, output)
        return [IntReshape(output.name, self.current, output)]
