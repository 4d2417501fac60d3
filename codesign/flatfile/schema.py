"""The tables of a .tflite file (TensorFlow Lite's schema.fbs, version 3), and which values of their fields are read.

Slots are in the schema's order. A field that is not declared here, at whatever table of a file, is refused by its slot,
and one with another value than those of `only` by its name: what is not modelled cannot pass unseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

MAX_TENSORS = 4096
MAX_OPERATORS = 512
MAX_RANK = 6
MAX_ELEMENTS = 1 << 24
_ANY_LENGTH = 1 << 30  # of what no reader looks at


@dataclass(frozen=True)
class Field:
    """One slot of a table.

    `code`: the scalar's, or a vector's elements', struct code; the table's name for tables. `only`: the values that are
    supported (None: the readers decide). `limit`: most elements. 'absent': the field must not be there.
    """

    name: str
    kind: Literal["scalar", "vector", "text", "table", "tables", "union", "absent"] = "scalar"
    code: str = "i"
    default: Any = 0
    only: tuple[Any, ...] | None = None
    limit: int = _ANY_LENGTH


def _vector(name: str, code: str, limit: int = _ANY_LENGTH) -> Field:
    return Field(name, "vector", code, limit=limit)


def _off(name: str) -> Field:
    return Field(name, code="?", default=False, only=(False,))


_TYPE = Field("builtin_options_type", code="B")

TABLES: dict[str, tuple[Field, ...]] = {
    "Model": (
        Field("version", code="I", only=(3,)),
        Field("operator_codes", "tables", "OperatorCode", limit=MAX_OPERATORS),
        Field("subgraphs", "tables", "SubGraph", limit=64),
        Field("description", "text"),
        Field("buffers", "tables", "Buffer", limit=MAX_TENSORS),
        _vector("metadata_buffer", "i"),
        Field("metadata", "tables", "Metadata", limit=MAX_OPERATORS),
        Field("signature_defs", "tables", "SignatureDef", limit=8),
    ),
    "OperatorCode": (
        Field("deprecated_builtin_code", code="b"),
        Field("custom_code", "text"),
        Field("version", default=1),
        Field("builtin_code"),
    ),
    "SubGraph": (
        Field("tensors", "tables", "Tensor", limit=MAX_TENSORS),
        _vector("inputs", "i", 64),
        _vector("outputs", "i", 64),
        Field("operators", "tables", "Operator", limit=MAX_OPERATORS),
        Field("name", "text"),
        Field("debug_metadata_index", default=-1),
    ),
    "Tensor": (
        _vector("shape", "i", MAX_RANK),
        Field("type", code="b"),
        Field("buffer", code="I"),
        Field("name", "text"),
        Field("quantization", "table", "QuantizationParameters"),
        Field("is_variable", code="?", default=False),
        Field("sparsity", "absent"),
        _vector("shape_signature", "i", MAX_RANK),
        Field("has_rank", code="?", default=False),
        Field("variant_tensors", "absent"),
    ),
    "QuantizationParameters": (
        _vector("min", "f", MAX_ELEMENTS),  # statistics of the converter's
        _vector("max", "f", MAX_ELEMENTS),
        _vector("scale", "f", MAX_ELEMENTS),
        _vector("zero_point", "q", MAX_ELEMENTS),
        Field("details_type", code="B", only=(0,)),
        Field("details", "absent"),
        Field("quantized_dimension"),
    ),
    "Operator": (
        Field("opcode_index", code="I"),
        _vector("inputs", "i", 64),
        _vector("outputs", "i", 8),
        _TYPE,
        Field("builtin_options", "union"),
        _vector("custom_options", "B", 0),
        Field("custom_options_format", code="b", only=(0,)),
        _vector("mutating_variable_inputs", "B", 0),
        _vector("intermediates", "i", 16),
        Field("large_custom_options_offset", code="Q", only=(0,)),
        Field("large_custom_options_size", code="Q", only=(0,)),
        Field("builtin_options_2_type", code="B", only=(0,)),
        Field("builtin_options_2", "absent"),
        Field("debug_metadata_index", default=-1),
    ),
    # An offset of 0 or 1 stands for data inside the flatbuffer.
    "Buffer": (
        _vector("data", "B"),
        Field("offset", code="Q", only=(0, 1)),
        Field("size", code="Q", only=(0, 1)),
    ),
    "Metadata": (Field("name", "text"), Field("buffer", code="I")),
    "SignatureDef": (
        Field("inputs", "tables", "TensorMap", limit=64),
        Field("outputs", "tables", "TensorMap", limit=64),
        Field("signature_key", "text"),
        Field("deprecated_tag", "absent"),
        Field("subgraph_index", code="I", only=(0,)),
    ),
    "TensorMap": (Field("name", "text"), Field("tensor_index", code="I")),
    "UnidirectionalSequenceLSTMOptions": (
        Field("fused_activation_function", code="b"),
        Field("cell_clip", code="f", default=0.0),
        Field("proj_clip", code="f", default=0.0, only=(0.0,)),
        _off("time_major"),
        _off("asymmetric_quantize_inputs"),
        _off("diagonal_recurrent_tensors"),
    ),
    "FullyConnectedOptions": (
        Field("fused_activation_function", code="b"),
        Field("weights_format", code="b", only=(0,)),
        Field("keep_num_dims", code="?", default=False),
        _off("asymmetric_quantize_inputs"),
        Field("quantized_bias_type", code="b"),
    ),
    "SoftmaxOptions": (Field("beta", code="f", default=0.0, only=(1.0,)),),
    "StridedSliceOptions": (
        Field("begin_mask"),
        Field("end_mask"),
        Field("ellipsis_mask", only=(0,)),
        Field("new_axis_mask", only=(0,)),
        Field("shrink_axis_mask"),
        _off("offset"),
    ),
    "ReshapeOptions": (_vector("new_shape", "i", MAX_RANK),),
}

# The operators that are read, and the options table of each; None: it has none.
OPERATORS: dict[str, str | None] = {
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTMOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "SOFTMAX": "SoftmaxOptions",
    "LOGISTIC": None,
    "TANH": None,
    "RELU": None,
    "RESHAPE": "ReshapeOptions",
}

# Metadata that says nothing about what is computed. TFLM also reads a memory plan and compression from metadata.
HARMLESS_METADATA = frozenset({"min_runtime_version", "CONVERSION_METADATA", "TFLITE_METADATA"})
