"""Writes a .tflite file: one subgraph, a chain of operators, tensors with their quantization."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

DATA_ALIGNMENT = 16  # the schema's force_align of buffers


@dataclass(frozen=True, eq=False)
class _Tensor:
    name: str
    dims: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...]
    data: npt.NDArray[Any] | None
    variable: bool


@dataclass(frozen=True)
class _Operator:
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: tuple[str, tuple[tuple[str, Any], ...]] | None


class ModelWriter:
    """Collects tensors and operators; `write` gives the file's bytes. Every zero point is 0, tensor 0 the input."""

    def __init__(self) -> None:
        self._tensors: list[_Tensor] = []
        self._operators: list[_Operator] = []

    def tensor(
        self, name: str, dims: Sequence[int], dtype: str, scales: Sequence[float] = (), variable: bool = False
    ) -> int:
        """An activation or a state, `dims` with the batch; gives its index."""
        self._tensors.append(_Tensor(name, tuple(dims), dtype, tuple(scales), None, variable))
        return len(self._tensors) - 1

    def constant(self, name: str, data: npt.NDArray[Any], scales: Sequence[float] = ()) -> int:
        """A constant of data's shape and type; several scales are along dimension 0. Gives its index."""
        self._tensors.append(_Tensor(name, data.shape, data.dtype.name, tuple(scales), data, False))
        return len(self._tensors) - 1

    def operator(
        self,
        kind: str,
        inputs: Sequence[int],
        output: int,
        options: str | None = None,
        **values: Any,
    ) -> None:
        """A built-in operator by its TFLite name; `values` are the fields of its `options` table, as in the schema."""
        given = (options, tuple(values.items())) if options is not None else None
        self._operators.append(_Operator(kind, tuple(inputs), (output,), given))

    def write(self, output: int, description: str) -> bytes:
        """The file, with tensor 0 as input."""
        import flatbuffers
        import tflite

        b = flatbuffers.Builder(1 << 16)
        buffers = [_buffer(b, None)]
        tensors = []
        for t in self._tensors:
            number = 0
            if t.data is not None:
                number = len(buffers)
                buffers.append(_buffer(b, t.data.astype(t.data.dtype.newbyteorder("<")).tobytes()))
            tensors.append(_tensor(b, t, number))
        kinds = sorted({op.kind for op in self._operators})
        codes = []
        for kind in kinds:
            number = getattr(tflite.BuiltinOperator, kind)
            tflite.OperatorCodeStart(b)
            tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(number, 127))  # for readers older than the wider field
            tflite.OperatorCodeAddBuiltinCode(b, number)
            tflite.OperatorCodeAddVersion(b, 1)
            codes.append(tflite.OperatorCodeEnd(b))
        operators = [_operator(b, op, kinds.index(op.kind)) for op in self._operators]
        vectors = (
            _vector(b, tflite.SubGraphStartTensorsVector, tensors, b.PrependUOffsetTRelative),
            _vector(b, tflite.SubGraphStartInputsVector, [0], b.PrependInt32),
            _vector(b, tflite.SubGraphStartOutputsVector, [output], b.PrependInt32),
            _vector(b, tflite.SubGraphStartOperatorsVector, operators, b.PrependUOffsetTRelative),
        )
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, vectors[0])
        tflite.SubGraphAddInputs(b, vectors[1])
        tflite.SubGraphAddOutputs(b, vectors[2])
        tflite.SubGraphAddOperators(b, vectors[3])
        graph = tflite.SubGraphEnd(b)
        text = b.CreateString(description)
        graphs = _vector(b, tflite.ModelStartSubgraphsVector, [graph], b.PrependUOffsetTRelative)
        buffer_vector = _vector(b, tflite.ModelStartBuffersVector, buffers, b.PrependUOffsetTRelative)
        code_vector = _vector(b, tflite.ModelStartOperatorCodesVector, codes, b.PrependUOffsetTRelative)
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, 3)
        tflite.ModelAddOperatorCodes(b, code_vector)
        tflite.ModelAddSubgraphs(b, graphs)
        tflite.ModelAddDescription(b, text)
        tflite.ModelAddBuffers(b, buffer_vector)
        b.Finish(tflite.ModelEnd(b), file_identifier=b"TFL3")
        return bytes(b.Output())


def _vector(b: Any, start: Callable[..., Any], values: Sequence[Any], prepend: Callable[[Any], Any]) -> Any:
    start(b, len(values))
    for value in reversed(values):
        prepend(value)
    return b.EndVector()


def _buffer(b: Any, data: bytes | None) -> Any:
    import tflite

    vector = None
    if data is not None:
        b.StartVector(1, len(data), DATA_ALIGNMENT)
        b.head -= len(data)
        b.Bytes[b.head : b.head + len(data)] = data
        vector = b.EndVector()
    tflite.BufferStart(b)
    if vector is not None:
        tflite.BufferAddData(b, vector)
    return tflite.BufferEnd(b)


def _tensor(b: Any, t: _Tensor, buffer: int) -> Any:
    import tflite

    name = b.CreateString(t.name)
    shape = _vector(b, tflite.TensorStartShapeVector, t.dims, b.PrependInt32)
    quantization = None
    if t.scales:
        zeros = [0] * len(t.scales)
        scales = _vector(b, tflite.QuantizationParametersStartScaleVector, t.scales, b.PrependFloat32)
        zero_points = _vector(b, tflite.QuantizationParametersStartZeroPointVector, zeros, b.PrependInt64)
        tflite.QuantizationParametersStart(b)
        tflite.QuantizationParametersAddScale(b, scales)
        tflite.QuantizationParametersAddZeroPoint(b, zero_points)
        quantization = tflite.QuantizationParametersEnd(b)
    tflite.TensorStart(b)
    tflite.TensorAddShape(b, shape)
    tflite.TensorAddType(b, getattr(tflite.TensorType, t.dtype.upper()))
    tflite.TensorAddBuffer(b, buffer)
    tflite.TensorAddName(b, name)
    if quantization is not None:
        tflite.TensorAddQuantization(b, quantization)
    if t.variable:
        tflite.TensorAddIsVariable(b, True)
    return tflite.TensorEnd(b)


def _operator(b: Any, op: _Operator, code: int) -> Any:
    import tflite

    table = None
    if op.options is not None:
        kind, values = op.options
        getattr(tflite, f"{kind}Start")(b)
        for field, value in values:
            getattr(tflite, f"{kind}Add{field}")(b, value)
        table = getattr(tflite, f"{kind}End")(b)
    inputs = _vector(b, tflite.OperatorStartInputsVector, op.inputs, b.PrependInt32)
    outputs = _vector(b, tflite.OperatorStartOutputsVector, op.outputs, b.PrependInt32)
    tflite.OperatorStart(b)
    tflite.OperatorAddOpcodeIndex(b, code)
    tflite.OperatorAddInputs(b, inputs)
    tflite.OperatorAddOutputs(b, outputs)
    if table is not None:
        tflite.OperatorAddBuiltinOptionsType(b, getattr(tflite.BuiltinOptions, op.options[0]))  # type: ignore[index]
        tflite.OperatorAddBuiltinOptions(b, table)
    return tflite.OperatorEnd(b)
