"""Guarded access to an untrusted .tflite file: a chain of operators and its tensors, or one InputError.

The `tflite` package's generated accessors follow offsets without checking them. Python's buffers make that harmless,
but what comes out is an exception of any kind or a wild number; here every count is bounded and every exception
translated.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.quantization.integer import Activations, QuantizedTensor

MAX_FILE_BYTES = 64 << 20
MAX_TENSORS = 4096
MAX_OPERATORS = 512
MAX_RANK = 6
MAX_ELEMENTS = 1 << 24

_DTYPES: dict[str, Any] = {"int8": np.dtype("i1"), "int32": np.dtype("<i4"), "int64": np.dtype("<i8")}
# What the accessors raise when an offset or a length in the file is wrong.
_ACCESS_ERRORS = (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)


@dataclass(frozen=True)
class Tensor:
    """A tensor's record; `dims` with the batch, `dtype` TFLite's name for it in lower case."""

    index: int
    name: str
    dims: tuple[int, ...]
    signature: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    quantized_dimension: int
    buffer: int
    is_variable: bool

    @property
    def size(self) -> int:
        return math.prod(self.dims)


@dataclass(frozen=True)
class Operator:
    """One operator: its TFLite name, tensor indices (-1: left out) and its raw options table (or None)."""

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options_kind: str
    options: Any

    def __str__(self) -> str:
        return f"operator {self.index} ({self.kind})"


@cache
def _names(enumeration: str) -> dict[int, str]:
    import tflite

    return {v: k for k, v in vars(getattr(tflite, enumeration)).items() if isinstance(v, int)}


def _touch(table: Any) -> None:
    """Calls every accessor of a generated table that takes no index; they raise where the file is damaged."""
    for name in _plain_accessors(table.__class__):
        getattr(table, name)()


@cache
def _plain_accessors(kind: type) -> tuple[str, ...]:
    members = inspect.getmembers(kind, inspect.isfunction)
    return tuple(
        n
        for n, f in members
        if not n.startswith("_") and f.__code__.co_varnames[:1] == ("self",) and f.__code__.co_argcount == 1
    )


def _builtin_code(code: Any) -> int:
    """The greater of the two fields, as TFLM reads it. The package's own accessor may give the lesser one."""
    from flatbuffers.number_types import Int32Flags

    offset = code._tab.Offset(10)  # builtin_code, the table's field 3
    wide = code._tab.Get(Int32Flags, offset + code._tab.Pos) if offset else 0
    return int(max(wide, code.DeprecatedBuiltinCode()))


def _plain(text: bytes | None) -> str:
    """A name from the file that is safe in messages, reports and C comments: one short line of plain characters."""
    return re.sub(r"[^A-Za-z0-9_./:; -]", "_", (text or b"")[:100].decode("ascii", "replace"))


class TfliteFile:
    """The one subgraph of a .tflite file. Every method raises InputError, with the file's name, and nothing else."""

    def __init__(self, path: str | os.PathLike[str], content: bytes | None = None) -> None:
        self.path = Path(path)
        self.content = self._read() if content is None else content
        with self.guard():
            self._parse()

    def _read(self) -> bytes:
        try:
            if self.path.stat().st_size > MAX_FILE_BYTES:
                raise InputError(
                    f"{self.path} is larger than {MAX_FILE_BYTES >> 20} MiB: not a microcontroller's model."
                )
            content = self.path.read_bytes()
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        if len(content) < 8 or content[4:8] != b"TFL3":
            raise InputError(f"{self.path} is not a .tflite file: make one with 'codesign convert'.")
        return content

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Turns whatever a damaged file makes the accessors raise into one InputError."""
        try:
            yield
        except _ACCESS_ERRORS as error:
            raise InputError(f"{self.path} is damaged (not a well-formed flatbuffer): make it again.") from error

    def refuse(self, what: str) -> InputError:
        """An InputError that starts with the file's name."""
        return InputError(f"{self.path}: {what}")

    def _parse(self) -> None:
        import tflite

        model = tflite.Model.GetRootAsModel(self.content, 0)
        if model.Version() != 3:
            raise self.refuse(f"schema version {model.Version()} is not supported; version 3 is.")
        if model.SubgraphsLength() != 1:
            raise self.refuse(
                f"{model.SubgraphsLength()} subgraphs; a chain of operators in one subgraph is supported."
            )
        graph = model.Subgraphs(0)
        if graph.InputsLength() != 1 or graph.OutputsLength() != 1:
            raise self.refuse(
                f"{graph.InputsLength()} inputs and {graph.OutputsLength()} outputs; one of each is supported."
            )
        self._model, self._graph = model, graph
        self.tensor_count = self._bounded(graph.TensorsLength(), MAX_TENSORS, "tensors")
        self.input_index, self.output_index = int(graph.Inputs(0)), int(graph.Outputs(0))
        count = self._bounded(graph.OperatorsLength(), MAX_OPERATORS, "operators")
        if count == 0:
            raise self.refuse("the model has no operators.")
        self.operators = tuple(self._operator(i) for i in range(count))
        self._walk()

    def _walk(self) -> None:
        """Visits everything else in the file: native interpreters read it all, and trust it."""
        import tflite

        model, graph = self._model, self._graph
        _touch(model)
        _touch(graph)
        for i in range(self._bounded(model.BuffersLength(), MAX_TENSORS, "buffers")):
            _touch(model.Buffers(i))
        for i in range(self.tensor_count):
            self.data_length(self.tensor(i))
            _touch(graph.Tensors(i))
            if graph.Tensors(i).Quantization() is not None:
                _touch(graph.Tensors(i).Quantization())
        for op in self.operators:
            _touch(graph.Operators(op.index))
            if hasattr(tflite, op.options_kind) and op.options is not None:
                _touch(self.options(op, op.options_kind))
        for i in range(self._bounded(model.MetadataLength(), MAX_OPERATORS, "metadata entries")):
            entry = model.Metadata(i)
            _touch(entry)
            if entry.Name() == b"COMPRESSION_METADATA":
                raise self.refuse("compressed tensors are not supported; convert without compression.")
            if not 0 <= entry.Buffer() < model.BuffersLength():
                raise self.refuse("a metadata entry names no buffer: the file is damaged.")
        for i in range(self._bounded(model.MetadataBufferLength(), MAX_TENSORS, "metadata buffers")):
            _ = model.MetadataBuffer(i)
        for i in range(self._bounded(model.OperatorCodesLength(), MAX_OPERATORS, "operator codes")):
            _touch(model.OperatorCodes(i))
        for i in range(self._bounded(model.SignatureDefsLength(), 8, "signatures")):
            signature = model.SignatureDefs(i)
            _touch(signature)
            maps = [signature.Inputs(k) for k in range(self._bounded(signature.InputsLength(), 64, "signature inputs"))]
            count = self._bounded(signature.OutputsLength(), 64, "signature outputs")
            maps += [signature.Outputs(k) for k in range(count)]
            for entry in maps:
                _touch(entry)
                if not 0 <= entry.TensorIndex() < self.tensor_count:
                    raise self.refuse("a signature names no tensor: the file is damaged.")
            if signature.SubgraphIndex() != 0:
                raise self.refuse("a signature names no subgraph: the file is damaged.")

    def _bounded(self, count: int, limit: int, what: str) -> int:
        if not 0 <= count <= limit:
            raise self.refuse(f"{count} {what}, more than the {limit} supported, or a damaged file.")
        return count

    def _operator(self, index: int) -> Operator:
        raw = self._graph.Operators(index)
        if not 0 <= raw.OpcodeIndex() < self._model.OperatorCodesLength():
            raise self.refuse(f"operator {index} names no operator code: the file is damaged.")
        code = self._model.OperatorCodes(raw.OpcodeIndex())
        number = _builtin_code(code)
        kind = _names("BuiltinOperator").get(number, f"code {number}")
        if kind == "CUSTOM":
            kind = f"CUSTOM {_plain(code.CustomCode())}"
        inputs = [
            int(raw.Inputs(i)) for i in range(self._bounded(raw.InputsLength(), 64, f"inputs of operator {index}"))
        ]
        outputs = [
            int(raw.Outputs(i)) for i in range(self._bounded(raw.OutputsLength(), 8, f"outputs of operator {index}"))
        ]
        for i in range(self._bounded(raw.IntermediatesLength(), 16, f"intermediate tensors of operator {index}")):
            if not 0 <= raw.Intermediates(i) < self.tensor_count:
                raise self.refuse(f"operator {index} names an intermediate tensor that is not there: damaged.")
            if self.tensor(raw.Intermediates(i)).dims != (0,):  # what TFLM insists on; it does not use them
                raise self.refuse(f"operator {index} has an intermediate tensor that is not empty: not supported.")
        if raw.CustomOptionsLength() or raw.MutatingVariableInputsLength():
            raise self.refuse(f"operator {index} ({kind}) has custom options, which are not supported.")
        options_kind = _names("BuiltinOptions").get(raw.BuiltinOptionsType(), "unknown")
        return Operator(index, kind, tuple(inputs), tuple(outputs), options_kind, raw.BuiltinOptions())

    def options(self, op: Operator, kind: str) -> Any:
        """The operator's options as the generated class tflite.`kind`; None where the operator has none."""
        import tflite

        if op.options is None or op.options_kind == "NONE":
            return None
        if op.options_kind != kind:
            raise self.refuse(f"{op} has options of type {op.options_kind}, not {kind}: the file is damaged.")
        table = getattr(tflite, kind)()
        table.Init(op.options.Bytes, op.options.Pos)
        return table

    def tensor(self, index: int) -> Tensor:
        """The record of tensor `index`, with every count bounded."""
        with self.guard():
            if not 0 <= index < self.tensor_count:
                raise self.refuse(f"tensor {index} does not exist: the file is damaged.")
            raw = self._graph.Tensors(index)
            name = _plain(raw.Name()) or f"tensor {index}"
            if raw.Type() not in _names("TensorType"):
                raise self.refuse(f"tensor '{name}' has the unknown type {raw.Type()}.")
            if raw.VariantTensorsLength():
                raise self.refuse(f"tensor '{name}' is a variant, which is not supported.")
            rank = self._bounded(raw.ShapeLength(), MAX_RANK, f"dimensions of tensor '{name}'")
            if raw.Sparsity() is not None:
                raise self.refuse(f"tensor '{name}' is sparse, which is not supported.")
            dims = tuple(int(raw.Shape(i)) for i in range(rank))
            signature_rank = self._bounded(raw.ShapeSignatureLength(), MAX_RANK, f"dimensions of tensor '{name}'")
            scales: tuple[float, ...] = ()
            zero_points: tuple[int, ...] = ()
            dimension = 0
            quantization = raw.Quantization()
            if quantization is not None:
                n = self._bounded(quantization.ScaleLength(), MAX_ELEMENTS, f"scales of tensor '{name}'")
                k = self._bounded(quantization.ZeroPointLength(), MAX_ELEMENTS, f"zero points of tensor '{name}'")
                scales = tuple(float(v) for v in quantization.ScaleAsNumpy()) if n else ()
                # Without zero points TFLM takes the tensor as not quantized: check_scales refuses that.
                zero_points = tuple(int(v) for v in quantization.ZeroPointAsNumpy()) if k else ()
                dimension = int(quantization.QuantizedDimension())
                if quantization.DetailsType() != 0:
                    raise self.refuse(f"tensor '{name}' has a custom quantization, which is not supported.")
            return Tensor(
                index=index,
                name=name,
                dims=dims,
                signature=tuple(int(raw.ShapeSignature(i)) for i in range(signature_rank)),
                dtype=_names("TensorType")[raw.Type()].lower(),
                scales=scales,
                zero_points=zero_points,
                quantized_dimension=dimension,
                buffer=int(raw.Buffer()),
                is_variable=bool(raw.IsVariable()),
            )

    def data_length(self, tensor: Tensor) -> int:
        """Bytes of constant data the file holds for `tensor`."""
        with self.guard():
            if not 0 <= tensor.buffer < self._model.BuffersLength():
                raise self.refuse(f"tensor '{tensor.name}' names no buffer: the file is damaged.")
            buffer = self._model.Buffers(tensor.buffer)
            if buffer.Offset() > 1:
                raise self.refuse(f"tensor '{tensor.name}' keeps its data outside the flatbuffer: not supported.")
            return int(buffer.DataLength())

    def constant(self, tensor: Tensor, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """A constant's values, after checking type, shape and byte count."""
        if tensor.dtype != dtype:
            raise self.refuse(f"tensor '{tensor.name}' is {tensor.dtype} where {dtype} is needed.")
        if tensor.dims != shape:
            raise self.refuse(f"tensor '{tensor.name}' has shape {list(tensor.dims)} where {list(shape)} is needed.")
        if tensor.is_variable:
            raise self.refuse(f"tensor '{tensor.name}' is variable where a constant is needed.")
        kind = _DTYPES[dtype]
        if not 0 < tensor.size <= MAX_ELEMENTS or self.data_length(tensor) != tensor.size * kind.itemsize:
            raise self.refuse(
                f"tensor '{tensor.name}' of shape {list(shape)} holds {self.data_length(tensor)} bytes of data, "
                f"not {tensor.size * kind.itemsize}."
            )
        with self.guard():
            raw = self._model.Buffers(tensor.buffer).DataAsNumpy()
            return np.frombuffer(raw.tobytes(), kind).astype(kind.newbyteorder("=")).reshape(shape)

    def check_scales(self, tensor: Tensor) -> None:
        """Every scale finite and positive (a normal float32), as many zero points as scales."""
        if not tensor.scales:
            raise self.refuse(f"tensor '{tensor.name}' is not quantized; a full-integer int8 model is needed.")
        if len(tensor.zero_points) != len(tensor.scales):
            raise self.refuse(
                f"tensor '{tensor.name}' has {len(tensor.zero_points)} zero points for {len(tensor.scales)} scales."
            )
        for scale in tensor.scales:
            if not (math.isfinite(scale) and scale >= 2.0**-126):
                raise self.refuse(f"tensor '{tensor.name}' has the scale {scale}, not a finite positive number.")

    def symmetric_scale(self, tensor: Tensor) -> float:
        """The one scale of a symmetric, per-tensor quantized tensor."""
        self.check_scales(tensor)
        if len(tensor.scales) != 1 or tensor.zero_points[0] != 0:
            raise self.refuse(f"tensor '{tensor.name}' has to be quantized per tensor with zero point 0.")
        return tensor.scales[0]

    def activation(self, tensor: Tensor, shape: tuple[int, ...], dtype: Activations | None = None) -> QuantizedTensor:
        """An activation as data, of logical `shape` (no batch); its element count and `dtype` have to agree."""
        kind: Activations = "int16" if tensor.dtype == "int16" else "int8"
        if tensor.dtype != kind:
            raise self.refuse(
                f"tensor '{tensor.name}' is {tensor.dtype}; only full-integer models with int8 input, output and "
                "activations, or with int16 ones, are supported: convert with 'codesign convert'."
            )
        if dtype not in (None, kind):
            raise self.refuse(f"tensor '{tensor.name}' is {kind}, but activations before it are {dtype}.")
        self.check_scales(tensor)
        if len(tensor.scales) != 1:
            raise self.refuse(f"activation '{tensor.name}' has {len(tensor.scales)} scales; one is supported.")
        if kind == "int8" and not -128 <= tensor.zero_points[0] <= 127:
            raise self.refuse(f"tensor '{tensor.name}' has the zero point {tensor.zero_points[0]}, outside int8.")
        if kind == "int16" and tensor.zero_points[0] != 0:
            raise self.refuse(f"tensor '{tensor.name}' has the zero point {tensor.zero_points[0]}; int16 ones need 0.")
        if any(d < 1 for d in tensor.dims) or not 0 < tensor.size <= MAX_ELEMENTS:
            raise self.refuse(f"tensor '{tensor.name}' has the shape {list(tensor.dims)}; a fixed shape is needed.")
        if tensor.size != math.prod(shape):
            raise self.refuse(f"tensor '{tensor.name}' has shape {list(tensor.dims)} where {list(shape)} was expected.")
        if tensor.is_variable or self.data_length(tensor):
            raise self.refuse(f"tensor '{tensor.name}' is a constant or a variable where an activation is needed.")
        return QuantizedTensor(tensor.name, shape, kind, tensor.scales[0], tensor.zero_points[0])
