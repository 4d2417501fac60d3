"""Exact integer semantics: what a TFLM device computes, bit for bit, and the interpreters it is checked against."""

from codesign.semantics.activations import (
    SoftmaxParameters,
    activation_table,
    relu_multiplier,
    softmax_parameters,
)
from codesign.semantics.activations16 import (
    Softmax16Parameters,
    exp_lut,
    reciprocal_lut,
    reciprocal_table,
    softmax16_parameters,
)
from codesign.semantics.compare import compare_interpreters
from codesign.semantics.inputs import dequantize, quantize, quantize_input
from codesign.semantics.interpreters import TfliteInterpreter, TflmInterpreter
from codesign.semantics.simulation import Trace, run_operator, simulate, simulate_trace
from codesign.semantics.tables import sigmoid_table, tanh_table
from codesign.semantics.variants import Variant, variants

__all__ = [
    "Softmax16Parameters",
    "SoftmaxParameters",
    "TfliteInterpreter",
    "TflmInterpreter",
    "Trace",
    "Variant",
    "activation_table",
    "compare_interpreters",
    "dequantize",
    "exp_lut",
    "quantize",
    "quantize_input",
    "reciprocal_lut",
    "reciprocal_table",
    "relu_multiplier",
    "run_operator",
    "sigmoid_table",
    "simulate",
    "simulate_trace",
    "softmax16_parameters",
    "softmax_parameters",
    "tanh_table",
    "variants",
]
