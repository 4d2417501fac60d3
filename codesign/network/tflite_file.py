"""Reader of a float .tflite with fused UNIDIRECTIONAL_SEQUENCE_LSTM operators.

What the operators mean is in `codesign.flatfile.chain`, which the reader of integer models uses as well. The graph has
to be one chain at batch 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from codesign.errors import InputError
from codesign.flatfile import (
    Operator,
    Tensor,
    TfliteFile,
    check_lstm,
    check_reshape,
    check_unary,
    last_step,
    operand,
    parse_dense,
    source,
    walk,
)
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

ACTIVATIONS: dict[str, ActivationKind] = {
    "SOFTMAX": "softmax",
    "LOGISTIC": "sigmoid",
    "TANH": "tanh",
    "RELU": "relu",
}
Shape = tuple[int, ...]


def read_tflite(content: bytes, name: str, sha256: str) -> FloatNetwork:
    """A float .tflite (float32 weights, batch 1). Raises InputError, which names the operator or tensor."""
    file = TfliteFile(content)
    with file.guard():
        return _Reader(file).network(name, sha256)


class _Reader:
    """Walks the chain of operators; `shape` is the current activation's shape without batch."""

    def __init__(self, file: TfliteFile) -> None:
        self.file = file
        self.layers: list[Layer] = []
        self.shape: Shape = ()

    def network(self, name: str, sha256: str) -> FloatNetwork:
        given = source(self.file)
        if given.dtype != "float32":
            raise self.file.refuse(
                f"its input is {given.dtype.upper()}, not FLOAT32: it is a quantized model, but the float model is "
                "needed here"
            )
        steps, features = given.dims[1:]
        self.shape = (steps, features)
        readers: dict[str, Callable[[Operator], None]] = {
            "UNIDIRECTIONAL_SEQUENCE_LSTM": self._lstm,
            "STRIDED_SLICE": self._slice,
            "FULLY_CONNECTED": self._dense,
            "RESHAPE": self._reshape,
            **dict.fromkeys(ACTIVATIONS, self._activation),
        }
        walk(self.file, {kind: self._of_floats(reader) for kind, reader in readers.items()})
        if not any(isinstance(layer, Lstm) for layer in self.layers):
            raise InputError("it has no UNIDIRECTIONAL_SEQUENCE_LSTM; only recurrent models are supported")
        return FloatNetwork(name, (steps, features), tuple(self.layers), sha256, "float-tflite")

    def _of_floats(self, reader: Callable[[Operator], None]) -> Callable[[Operator], None]:
        def read(op: Operator) -> None:
            for index in (op.inputs[0], op.outputs[0]):
                self._float(self.file.tensor(index))
            if op.intermediates:
                raise self.file.refuse(f"{op} has intermediate tensors, which a float operator does not take.")
            reader(op)

        return read

    def _float(self, tensor: Tensor) -> None:
        if tensor.dtype != "float32" or tensor.scales:
            raise self.file.refuse(
                f"tensor '{tensor.name}' is {tensor.dtype.upper()}{' with scales' if tensor.scales else ''}, but a "
                "float model with FLOAT32 tensors is needed here"
            )

    def _name(self, op: Operator) -> str:
        return self.file.tensor(op.outputs[0]).name

    def _lstm(self, op: Operator) -> None:
        parts, (steps, features) = check_lstm(self.file, op), self.shape
        for state in (parts.hidden, parts.cell):
            self._float(state)
        units = parts.units
        W, R, b = (
            np.stack([self._weights(operand(self.file, op, first + gate, what), shape) for gate in range(4)])
            for first, shape, what in (
                (1, (units, features), "weights"),
                (5, (units, units), "weights"),
                (12, (units,), "bias"),
            )
        )
        self.layers.append(Lstm(self._name(op), W, R, b, True, parts.cell_clip))
        self.shape = (steps, units)

    def _slice(self, op: Operator) -> None:
        last_step(self.file, op)
        last = self.layers[-1] if self.layers else None
        if not isinstance(last, Lstm) or not last.return_sequences:
            raise self.file.refuse(f"{op} does not follow an LSTM, which is not supported.")
        self.layers[-1] = replace(last, return_sequences=False)
        self.shape = self.shape[1:]

    def _dense(self, op: Operator) -> None:
        parts = parse_dense(self.file, op)
        units, columns = parts.weights.dims
        if parts.bias_type != 0:
            raise self.file.refuse(f"{op} has quantized_bias_type {parts.bias_type}, which a float operator has not.")
        if parts.flattens:
            self.shape = (columns,)
            self.layers.append(Reshape(f"{self._name(op)}/flatten", self.shape))
        W = self._weights(parts.weights, (units, columns))
        b = np.zeros(units, np.float32) if parts.bias is None else self._weights(parts.bias, (units,))
        self.layers.append(Dense(self._name(op), W, b, parts.fused))
        self.shape = (*self.shape[:-1], units)

    def _activation(self, op: Operator) -> None:
        check_unary(self.file, op)
        kind = ACTIVATIONS[op.kind]
        last = self.layers[-1] if self.layers else None
        # The converter splits Dense(activation=...) in two; a network should be the same in every format.
        if isinstance(last, Dense) and last.activation == "linear":
            self.layers[-1] = replace(last, activation=kind)
        else:
            self.layers.append(Activation(self._name(op), kind))

    def _reshape(self, op: Operator) -> None:
        shape = check_reshape(self.file, op)
        if not 1 <= len(shape) <= 2:
            raise self.file.refuse(f"{op} to {list(shape)} is not supported; (N,) and (T, N) are.")
        if shape != self.shape:
            self.layers.append(Reshape(self._name(op), shape))
        self.shape = shape

    def _weights(self, tensor: Tensor, shape: Shape) -> Float32Array:
        self._float(tensor)
        values: Float32Array = self.file.constant(tensor, "float32", shape)
        if not np.isfinite(values).all():
            raise self.file.refuse(f"tensor '{tensor.name}' has NaN or infinite weights; train or export it again")
        return values
