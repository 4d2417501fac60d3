"""Conversion of a float model to int8 .tflite, and reading a .tflite back as an integer network."""

from codesign.quantization.calibration import Calibration, default_calibration_path, load_calibration
from codesign.quantization.convert import convert
from codesign.quantization.integer import (
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
from codesign.quantization.reader import read_integer_network, with_profile

__all__ = [
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
    "read_integer_network",
    "with_profile",
]
