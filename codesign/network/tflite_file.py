"""Reader of a float .tflite with fused UNIDIRECTIONAL_SEQUENCE_LSTM operators.

Operand and option meanings are those of TFLite's operator definitions (schema.fbs and
kernels/unidirectional_sequence_lstm.cc). The graph has to be one chain at batch 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from codesign.errors import InputError
from codesign.network.model import (
    Activation,
    ActivationKind,
    Dense,
    Float32Array,
    FloatNetwork,
    Layer,
    Lstm,
    Reshape,
)

SUPPORTED = (
    "supported operators are UNIDIRECTIONAL_SEQUENCE_LSTM, STRIDED_SLICE of the last step, FULLY_CONNECTED, "
    "SOFTMAX, LOGISTIC, TANH, RELU and RESHAPE"
)
MAX_ENTRIES = 10_000
MAX_VALUES = 1 << 26
ACTIVATIONS: dict[str, ActivationKind] = {
    "SOFTMAX": "softmax",
    "LOGISTIC": "sigmoid",
    "TANH": "tanh",
    "RELU": "relu",
}
OPTIONS = {
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTMOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "SOFTMAX": "SoftmaxOptions",
}
Shape = tuple[int, ...]


def read_tflite(content: bytes, name: str, sha256: str) -> FloatNetwork:
    """A float .tflite (float32 weights, batch 1). Raises InputError, which names the operator."""
    try:
        graph = _Graph(content)
        return _Reader(graph).network(name, sha256)
    except InputError:
        raise
    except Exception as error:  # flatbuffers raise many types on damaged files
        raise InputError("the file is damaged or truncated: its TFLite content cannot be read") from error


@dataclass(frozen=True)
class _Operator:
    kind: str
    name: str
    inputs: tuple[int, ...]  # tensor indices; -1: absent
    output: int
    options: Any


class _Graph:
    """Bounds-checked access to the one subgraph of a flatbuffer."""

    def __init__(self, content: bytes) -> None:
        import tflite

        self._names = {v: k for k, v in vars(tflite.BuiltinOperator).items() if isinstance(v, int)}
        self._model = tflite.Model.GetRootAsModel(content, 0)
        self._graph = self._model.Subgraphs(0)
        self.tensor_count = int(self._graph.TensorsLength())
        if max(self.tensor_count, self._graph.OperatorsLength(), self._model.BuffersLength()) > MAX_ENTRIES:
            raise InputError(f"it has more than {MAX_ENTRIES} tensors, operators or buffers, which is refused")
        self.inputs = _indices(self._graph.InputsAsNumpy())
        self.outputs = _indices(self._graph.OutputsAsNumpy())
        self.operators = [self._operator(index) for index in range(self._graph.OperatorsLength())]
        if self._model.SubgraphsLength() != 1:
            raise InputError(f"it has {self._model.SubgraphsLength()} subgraphs, but exactly one is supported")

    def _operator(self, index: int) -> _Operator:
        import tflite

        operator = self._graph.Operators(index)
        code = self._model.OperatorCodes(operator.OpcodeIndex())
        kind = self._names.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "unknown")
        if kind not in (*ACTIVATIONS, *OPTIONS, "RESHAPE"):
            raise InputError(f"operator {kind} is not supported in a float model; {SUPPORTED}")
        inputs, outputs = _indices(operator.InputsAsNumpy()), _indices(operator.OutputsAsNumpy())
        if len(outputs) != 1 or not all(-1 <= i < self.tensor_count for i in (*inputs, *outputs)) or outputs[0] < 0:
            raise InputError(f"operator {index} ({kind}) has operands that do not exist or several outputs")
        name = (self.tensor(outputs[0]).Name() or b"").decode("utf-8", "replace") or f"{kind.lower()}_{index}"
        options = None
        if kind in OPTIONS:
            if operator.BuiltinOptionsType() != getattr(tflite.BuiltinOptions, OPTIONS[kind]):
                raise InputError(f"{kind} {name!r} has no options: the file is damaged")
            options = getattr(tflite, OPTIONS[kind])()
            table = operator.BuiltinOptions()
            options.Init(table.Bytes, table.Pos)
        return _Operator(kind, name, inputs, outputs[0], options)

    def tensor(self, index: int) -> Any:
        if not 0 <= index < self.tensor_count:
            raise InputError("a tensor is referred to that does not exist: the file is damaged")
        return self._graph.Tensors(index)

    def shape(self, index: int) -> Shape:
        shape = _indices(self.tensor(index).ShapeAsNumpy())
        if any(size < 1 for size in shape) or math.prod(shape) > MAX_VALUES:
            raise InputError(f"a tensor has the shape {shape}, which is open, empty or too large")
        return shape

    def _data_length(self, index: int) -> int:
        return int(self._model.Buffers(self.tensor(index).Buffer()).DataLength())

    def constant(self, index: int, where: str, integer: bool = False) -> np.ndarray[Any, Any]:
        """The stored values of a constant tensor: float32, or int32 where `integer`."""
        import tflite

        tensor, shape = self.tensor(index), self.shape(index)
        wanted = tflite.TensorType.INT32 if integer else tflite.TensorType.FLOAT32
        if tensor.Type() != wanted:
            kinds = {v: k for k, v in vars(tflite.TensorType).items() if isinstance(v, int)}
            raise InputError(
                f"{where} has {kinds.get(tensor.Type(), 'unknown')} weights, but a float model with "
                "FLOAT32 weights is needed here"
            )
        if tensor.Sparsity() is not None:
            raise InputError(f"{where} has sparse weights, which are not supported")
        if self._data_length(index) != 4 * math.prod(shape):
            raise InputError(f"{where} has weights that are not stored in the file in full")
        raw = self._model.Buffers(tensor.Buffer()).DataAsNumpy().tobytes()
        values = np.frombuffer(raw, "<i4" if integer else "<f4").reshape(shape)
        if not np.isfinite(values).all():
            raise InputError(f"{where} has NaN or infinite weights; train or export it again")
        return values.astype(np.int32 if integer else np.float32)


class _Reader:
    """Walks the chain of operators; `shape` is the current activation's shape without batch."""

    def __init__(self, graph: _Graph) -> None:
        self.graph = graph
        self.layers: list[Layer] = []
        self.shape: Shape = ()

    def network(self, name: str, sha256: str) -> FloatNetwork:
        import tflite

        graph = self.graph
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise InputError(
                f"it has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, but one of each is supported"
            )
        current = graph.inputs[0]
        stored = graph.shape(current)
        if graph.tensor(current).Type() != tflite.TensorType.FLOAT32:
            raise InputError("its input is not FLOAT32: it is a quantized model, but the float model is needed here")
        if len(stored) != 3 or stored[0] != 1:
            raise InputError(f"its input has shape {stored}, but (1, T, D) is needed: batch 1, T steps of D features")
        self.shape = stored[1:]
        pending = list(graph.operators)
        while pending:
            readers = [op for op in pending if current in op.inputs]
            if len(readers) != 1 or readers[0].inputs.count(current) != 1:
                raise InputError("its operators do not form one chain from input to output, which is not supported")
            operator = readers[0]
            pending.remove(operator)
            self._apply(operator, current)
            current = operator.output
        if current != graph.outputs[0]:
            raise InputError("its operators do not form one chain from input to output, which is not supported")
        if not any(isinstance(layer, Lstm) for layer in self.layers):
            raise InputError("it has no UNIDIRECTIONAL_SEQUENCE_LSTM; only recurrent models are supported")
        return FloatNetwork(name, stored[1:], tuple(self.layers), sha256, "float-tflite")

    def _apply(self, op: _Operator, current: int) -> None:
        where = f"{op.kind} {op.name!r}"
        handlers = {
            "UNIDIRECTIONAL_SEQUENCE_LSTM": self._lstm,
            "STRIDED_SLICE": self._slice,
            "FULLY_CONNECTED": self._dense,
            "RESHAPE": self._reshape,
        }
        if op.kind in ACTIVATIONS:
            self._activation(op, where)
        else:
            if not op.inputs or op.inputs[0] != current:
                raise InputError(f"{where} takes the activation as another operand than its input")
            handlers[op.kind](op, where)
        stored = self.graph.shape(op.output)
        if math.prod(stored) != math.prod(self.shape) or stored[-1:] != self.shape[-1:]:
            raise InputError(f"{where} has the output shape {stored}, but {self.shape} follows from its operands")

    def _lstm(self, op: _Operator, where: str) -> None:
        import tflite

        operands = (*op.inputs, *([-1] * (24 - len(op.inputs))))
        for needed, what in (
            ((1, 5, 12), "a coupled input and forget gate (CIFG)"),
            ((6, 7, 8, 2, 3, 4, 13, 14, 15, 18, 19), "missing operands"),
        ):
            if any(operands[index] < 0 for index in needed):
                raise InputError(f"{where} has {what}, which is not supported")
        for unwanted, what in (
            ((9, 10, 11), "peephole connections"),
            ((16, 17), "a projection"),
            ((20, 21, 22, 23), "layer normalization"),
        ):
            if any(operands[index] >= 0 for index in unwanted):
                raise InputError(f"{where} has {what}, which is not supported")
        options = op.options
        if options.TimeMajor():
            raise InputError(f"{where} is time-major, but only batch-major LSTMs are supported")
        if options.FusedActivationFunction() != tflite.ActivationFunctionType.TANH:
            raise InputError(f"{where} has an activation other than tanh, which is not supported")
        clip = float(options.CellClip())
        if not (math.isfinite(clip) and clip >= 0):
            raise InputError(f"{where} has the cell clip {clip}, which is not supported")
        if getattr(options, "DiagonalRecurrentTensors", lambda: False)():
            raise InputError(f"{where} has diagonal recurrent weights, which is not supported")
        if not all(self.graph.tensor(operands[index]).IsVariable() for index in (18, 19)):
            raise InputError(f"{where} has a state that is not a variable tensor, which is not supported")
        if len(self.shape) != 2 or self.graph.shape(operands[0]) != (1, *self.shape):
            raise InputError(f"{where} has the input shape {self.graph.shape(operands[0])}, but needs (1, T, D)")
        units, features = self.graph.shape(operands[6])[0], self.shape[1]
        W, R, b = (
            np.stack([self._weights(operands[first + gate], shape, where) for gate in range(4)])
            for first, shape in ((1, (units, features)), (5, (units, units)), (12, (units,)))
        )
        self.layers.append(Lstm(op.name, W, R, b, True, clip))
        self.shape = (self.shape[0], units)

    def _slice(self, op: _Operator, where: str) -> None:
        last = self.layers[-1] if self.layers else None
        if not isinstance(last, Lstm) or not last.return_sequences or len(op.inputs) != 4:
            raise InputError(f"{where} does not follow an LSTM; {SUPPORTED}")
        options = op.options
        begin, end, strides = (
            tuple(int(v) for v in self.graph.constant(index, where, integer=True).ravel()) for index in op.inputs[1:]
        )
        indices = np.arange(math.prod(self.shape)).reshape(1, *self.shape)
        if options.EllipsisMask() or options.NewAxisMask() or not len(begin) == len(end) == len(strides) <= 3:
            raise InputError(f"{where} is a slice of a kind that is not supported; {SUPPORTED}")
        picks: list[int | slice] = []
        for axis, (first, stop, stride) in enumerate(zip(begin, end, strides, strict=True)):
            if options.ShrinkAxisMask() >> axis & 1:
                picks.append(first)
                continue
            low = None if options.BeginMask() >> axis & 1 else first
            high = None if options.EndMask() >> axis & 1 else stop
            picks.append(slice(low, high, stride))
        if not np.array_equal(indices[tuple(picks)].ravel(), indices[0, -1]):
            raise InputError(f"{where} keeps something other than the last time step; {SUPPORTED}")
        self.layers[-1] = replace(last, return_sequences=False)
        self.shape = (self.shape[1],)

    def _dense(self, op: _Operator, where: str) -> None:
        import tflite

        fused = {
            tflite.ActivationFunctionType.NONE: "linear",
            tflite.ActivationFunctionType.RELU: "relu",
            tflite.ActivationFunctionType.TANH: "tanh",
        }
        kind = fused.get(op.options.FusedActivationFunction())
        if kind is None:
            raise InputError(f"{where} has a fused activation other than RELU and TANH, which is not supported")
        if op.options.WeightsFormat() != tflite.FullyConnectedOptionsWeightsFormat.DEFAULT or len(op.inputs) < 2:
            raise InputError(f"{where} has shuffled or missing weights, which is not supported")
        shape = self.graph.shape(op.inputs[1])
        if len(shape) == 2 and shape[1] != self.shape[-1] and shape[1] == math.prod(self.shape):
            self.shape = (shape[1],)
            self.layers.append(Reshape(f"{op.name}/flatten", self.shape))
        if len(shape) != 2 or shape[1] != self.shape[-1]:
            raise InputError(f"{where} has weights of shape {shape}, which do not fit its input {self.shape}")
        W = self._weights(op.inputs[1], shape, where)
        absent = len(op.inputs) < 3 or op.inputs[2] < 0
        b = np.zeros(shape[0], np.float32) if absent else self._weights(op.inputs[2], shape[:1], where)
        self.layers.append(Dense(op.name, W, b, cast(ActivationKind, kind)))
        self.shape = (*self.shape[:-1], shape[0])

    def _activation(self, op: _Operator, where: str) -> None:
        kind = ACTIVATIONS[op.kind]
        if kind == "softmax" and op.options.Beta() != 1:
            raise InputError(f"{where} has beta {op.options.Beta()}, but only 1 is supported")
        last = self.layers[-1] if self.layers else None
        # The converter splits Dense(activation=...) in two; a network should be the same in every format.
        if isinstance(last, Dense) and last.activation == "linear":
            self.layers[-1] = replace(last, activation=kind)
        else:
            self.layers.append(Activation(op.name, kind))

    def _reshape(self, op: _Operator, where: str) -> None:
        stored = self.graph.shape(op.output)
        shape = stored[1:] if len(stored) > 1 and stored[0] == 1 else stored
        if not 1 <= len(shape) <= 2 or math.prod(shape) != math.prod(self.shape):
            raise InputError(f"{where} from {self.shape} to {stored} is not supported")
        if shape != self.shape:
            self.layers.append(Reshape(op.name, shape))
        self.shape = shape

    def _weights(self, index: int, shape: Shape, where: str) -> Float32Array:
        values = self.graph.constant(index, where)
        if values.shape != shape:
            raise InputError(f"{where} has weights of shape {values.shape} where {shape} is needed")
        return values


def _indices(values: Any) -> Shape:
    return tuple(int(value) for value in values) if isinstance(values, np.ndarray) else ()
