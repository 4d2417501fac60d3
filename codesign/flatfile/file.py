"""Guarded access to an untrusted .tflite file: its operators and its tensors, or one InputError."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.flatfile.decode import Decoder, Fields, defaults
from codesign.flatfile.schema import HARMLESS_METADATA, MAX_ELEMENTS, OPERATORS

MAX_FILE_BYTES = 64 << 20
_DTYPES = {"float32": "<f4", "int8": "i1", "int32": "<i4", "int64": "<i8"}
# What a wrong offset or length in a file raises.
_ACCESS_ERRORS = (struct.error, IndexError, ValueError, TypeError, KeyError, OverflowError, MemoryError)


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


class Options:
    """An operator's options by the schema's names. What differs from its default has to be read: see `unread`."""

    def __init__(self, values: Fields, defaults: Fields) -> None:
        self._values, self._waiting = values, {k for k, v in values.items() if not np.array_equal(v, defaults[k])}

    def __getitem__(self, name: str) -> Any:
        self._waiting.discard(name)
        return self._values[name]

    def unread(self) -> list[str]:
        """The options that were never read and are not at their defaults."""
        return sorted(self._waiting)


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator: its TFLite name, tensor indices (-1: left out) and its options."""

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    intermediates: tuple[int, ...]
    options: Options

    def __str__(self) -> str:
        return f"operator {self.index} ({self.kind})"


@cache
def _names(enumeration: str) -> dict[int, str]:
    import tflite

    return {v: k for k, v in vars(getattr(tflite, enumeration)).items() if isinstance(v, int)}


def _plain(text: bytes) -> str:
    """A name from the file that is safe in messages, reports and C comments: one short line of plain characters."""
    return re.sub(r"[^A-Za-z0-9_./:; -]", "_", text[:100].decode("ascii", "replace"))


def _indices(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


class TfliteFile:
    """The one subgraph of a .tflite file. Every method raises InputError, which starts with `label`, and nothing else.

    The whole file is decoded at once, by `codesign.flatfile.schema`: native interpreters read it all, and trust it.
    """

    def __init__(self, content: bytes, label: str = "") -> None:
        self.content, self._label = content, label
        with self.guard():
            self._parse()

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Turns whatever a damaged file raises into one InputError."""
        try:
            yield
        except _ACCESS_ERRORS as error:
            raise self.refuse("damaged or truncated (not a well-formed flatbuffer): make it again.") from error

    def refuse(self, what: str) -> InputError:
        """An InputError that starts with the file's label."""
        return InputError(f"{self._label}: {what}" if self._label else what)

    def _parse(self) -> None:
        self._decoder = Decoder(self.content, self.refuse)
        model = self._model = self._decoder.root("Model", "the model")
        if len(model["subgraphs"]) != 1:
            raise self.refuse(
                f"it has {len(model['subgraphs'])} subgraphs; one is supported, a chain of operators, in which "
                "LSTM layers are fused UNIDIRECTIONAL_SEQUENCE_LSTM operators."
            )
        graph = self._graph = model["subgraphs"][0]
        inputs, outputs = _indices(graph["inputs"]), _indices(graph["outputs"])
        if len(inputs) != 1 or len(outputs) != 1:
            raise self.refuse(f"it has {len(inputs)} inputs and {len(outputs)} outputs; one of each is supported.")
        self.tensor_count = len(graph["tensors"])
        self.input_index, self.output_index = inputs[0], outputs[0]
        self._named: set[str] = set()
        self.tensors = tuple(self._tensor(i, raw) for i, raw in enumerate(graph["tensors"]))
        if not graph["operators"]:
            raise self.refuse("the model has no operators.")
        self.operators = tuple(self._operator(i, raw) for i, raw in enumerate(graph["operators"]))
        self._check_around(model)

    def _check_around(self, model: Fields) -> None:
        """Metadata and signatures: nothing in them may change what is computed, or name what is not there."""
        for entry in model["metadata"]:
            if entry["name"].decode("ascii", "replace") not in HARMLESS_METADATA:
                what = "compressed tensors" if entry["name"] == b"COMPRESSION_METADATA" else "it is"
                raise self.refuse(f"metadata '{_plain(entry['name'])}' ({what} not supported); make it without.")
            if entry["buffer"] >= len(model["buffers"]):
                raise self.refuse("a metadata entry names no buffer: the file is damaged.")
        for signature in model["signature_defs"]:
            for entries, index in ((signature["inputs"], self.input_index), (signature["outputs"], self.output_index)):
                if [entry["tensor_index"] for entry in entries] != [index]:
                    raise self.refuse("a signature has other inputs or outputs than the graph, which is not supported.")

    def _operator(self, index: int, raw: Fields) -> Operator:
        codes = self._model["operator_codes"]
        if raw["opcode_index"] >= len(codes):
            raise self.refuse(f"operator {index} names no operator code: the file is damaged.")
        code = codes[raw["opcode_index"]]
        number = max(code["builtin_code"], code["deprecated_builtin_code"])  # as interpreters read it
        kind = _names("BuiltinOperator").get(number, f"code {number}")
        if kind == "CUSTOM":
            kind = f"CUSTOM {_plain(code['custom_code'])}"
        if kind not in OPERATORS:
            raise self.refuse(
                f"operator {index} ({kind}) is not supported; supported operators are {', '.join(sorted(OPERATORS))}, "
                "with STRIDED_SLICE for the last time step."
            )
        inputs, outputs, intermediates = (_indices(raw[part]) for part in ("inputs", "outputs", "intermediates"))
        for part, lowest in ((inputs, -1), (outputs, 0), (intermediates, 0)):
            for tensor in part:
                if not lowest <= tensor < self.tensor_count:
                    raise self.refuse(f"operator {index} ({kind}): tensor {tensor} does not exist: file damaged.")
        if any(self.tensors[i].dims != (0,) for i in intermediates):  # what TFLM insists on; it does not use them
            raise self.refuse(f"operator {index} has an intermediate tensor that is not empty: not supported.")
        options = self._options(f"operator {index} ({kind})", kind, raw)
        return Operator(index, kind, inputs, outputs, intermediates, options)

    def _options(self, where: str, kind: str, raw: Fields) -> Options:
        table, found = OPERATORS[kind], _names("BuiltinOptions").get(raw["builtin_options_type"], "unknown")
        at = raw["builtin_options"]
        if (found == "NONE") != (at is None) or (at is not None and found != table):
            raise self.refuse(f"{where} has options of type {found}, not {table or 'NONE'}: the file is damaged.")
        if table is None:
            return Options({}, {})
        values = self._decoder.left_out(table, where) if at is None else self._decoder.table(table, at, where)
        return Options(values, defaults(table))

    def tensor(self, index: int) -> Tensor:
        """The record of tensor `index`."""
        if not 0 <= index < self.tensor_count:
            raise self.refuse(f"tensor {index} does not exist: the file is damaged.")
        return self.tensors[index]

    def _tensor(self, index: int, raw: Fields) -> Tensor:
        name = _plain(raw["name"]) or f"tensor {index}"
        if name in self._named:  # operators and layers are told apart by their outputs' names
            name = f"{name}:{index}"
        self._named.add(name)
        types = _names("TensorType")
        if raw["type"] not in types:
            raise self.refuse(f"tensor '{name}' has the unknown type {raw['type']}.")
        dims, signature = _indices(raw["shape"]), _indices(raw["shape_signature"])
        if signature and (
            len(signature) != len(dims) or any(s not in (-1, d) for s, d in zip(signature, dims, strict=True))
        ):
            raise self.refuse(f"tensor '{name}' has the shape {list(dims)} but the signature {list(signature)}.")
        if raw["buffer"] >= len(self._model["buffers"]):
            raise self.refuse(f"tensor '{name}' names no buffer: the file is damaged.")
        quantization = raw["quantization"] or {"scale": (), "zero_point": (), "quantized_dimension": 0}
        return Tensor(
            index=index,
            name=name,
            dims=dims,
            signature=signature,
            dtype=types[raw["type"]].lower(),
            scales=tuple(float(v) for v in quantization["scale"]),
            zero_points=_indices(quantization["zero_point"]),
            quantized_dimension=quantization["quantized_dimension"],
            buffer=raw["buffer"],
            is_variable=raw["is_variable"],
        )

    def data_length(self, tensor: Tensor) -> int:
        """Bytes of constant data the file holds for `tensor`."""
        return len(self._model["buffers"][tensor.buffer]["data"])

    def constant(self, tensor: Tensor, dtype: str, shape: tuple[int, ...] | None = None) -> npt.NDArray[Any]:
        """A constant's values, after checking type, shape (None: any) and byte count."""
        if tensor.dtype != dtype:
            raise self.refuse(f"tensor '{tensor.name}' is {tensor.dtype.upper()} where {dtype.upper()} is needed.")
        if shape is not None and tensor.dims != shape:
            raise self.refuse(f"tensor '{tensor.name}' has shape {list(tensor.dims)} where {list(shape)} is needed.")
        if tensor.is_variable:
            raise self.refuse(f"tensor '{tensor.name}' is variable where a constant is needed.")
        kind = np.dtype(_DTYPES[dtype])
        positive = all(d > 0 for d in tensor.dims) and tensor.size <= MAX_ELEMENTS
        # Buffer 0 is 'no data' by the schema, whatever is in it.
        if not positive or tensor.buffer == 0 or self.data_length(tensor) != tensor.size * kind.itemsize:
            raise self.refuse(
                f"tensor '{tensor.name}' of shape {list(tensor.dims)} holds {self.data_length(tensor)} bytes of data "
                f"in buffer {tensor.buffer}, not {max(tensor.size, 0) * kind.itemsize}."
            )
        raw = self._model["buffers"][tensor.buffer]["data"].tobytes()
        return np.frombuffer(raw, kind).astype(kind.newbyteorder("=")).reshape(tensor.dims)

    def check_activation(self, tensor: Tensor) -> None:
        """A tensor that operators write and read: of a fixed shape, without data, not a variable."""
        if not tensor.dims or any(d < 1 for d in tensor.dims) or not 0 < tensor.size <= MAX_ELEMENTS:
            raise self.refuse(f"tensor '{tensor.name}' has the shape {list(tensor.dims)}; a fixed shape is needed.")
        if tensor.is_variable or self.data_length(tensor):
            raise self.refuse(f"tensor '{tensor.name}' is a constant or a variable where an activation is needed.")
