"""Conversion of a float model to an integer .tflite (int8 or int16 activations), and reading one back."""

from codesign.quantization.calibration import Calibration, default_calibration_path, load_calibration
from codesign.quantization.convert import convert
from codesign.quantization.int16 import to_int16
from codesign.quantization.integer import (
    Activations,
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
from codesign.quantization.reader import parse_integer_network, read_integer_network, with_profile
from codesign.quantization.roundings import pair_facts, require_one_model

__all__ = [
    "Activations",
    "Calibration",
    "IntActivation",
    "IntDense",
    "IntLastStep",
    "IntLstm",
    "IntOp",
    "IntReshape",
    "IntegerNetwork",
    "Multiplier",
    "Profile",
    "QuantizedTensor",
    "convert",
    "default_calibration_path",
    "load_calibration",
    "pair_facts",
    "parse_integer_network",
    "read_integer_network",
    "require_one_model",
    "to_int16",
    "with_profile",
]
