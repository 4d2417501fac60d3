"""Conversion of a float model to int8 .tflite, and reading a .tflite back as an integer network."""

from codesign.quantization.calibration import Calibration, default_calibration_path, load_calibration
from codesign.quantization.convert import convert

__all__ = [
    "Calibration",
    "convert",
    "default_calibration_path",
    "load_calibration",
]
