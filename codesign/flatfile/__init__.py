"""Reading .tflite files, float or integer: a declared schema, a checked decoder, and chains of operators."""

from codesign.flatfile.chain import (
    DenseParts,
    LstmParts,
    check_lstm,
    check_reshape,
    check_unary,
    last_step,
    operand,
    parse_dense,
    source,
    walk,
)
from codesign.flatfile.file import MAX_FILE_BYTES, Operator, Options, Tensor, TfliteFile
from codesign.flatfile.schema import MAX_ELEMENTS, MAX_OPERATORS, MAX_TENSORS, OPERATORS

__all__ = [
    "MAX_ELEMENTS",
    "MAX_FILE_BYTES",
    "MAX_OPERATORS",
    "MAX_TENSORS",
    "OPERATORS",
    "DenseParts",
    "LstmParts",
    "Operator",
    "Options",
    "Tensor",
    "TfliteFile",
    "check_lstm",
    "check_reshape",
    "check_unary",
    "last_step",
    "operand",
    "parse_dense",
    "source",
    "walk",
]
