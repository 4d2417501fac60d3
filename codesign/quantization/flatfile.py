"""A full-integer .tflite file: its tensors with their quantization, or one InputError."""

from __future__ import annotations

import math
import os
from pathlib import Path

from codesign.errors import InputError
from codesign.flatfile import MAX_FILE_BYTES, Tensor, TfliteFile
from codesign.quantization.integer import Activations, QuantizedTensor


def read_content(path: Path) -> bytes:
    """The file's bytes. InputError where it cannot be read, is too large, or is no .tflite file."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB: not a microcontroller's model.")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(content) < 8 or content[4:8] != b"TFL3":
        raise InputError(f"{path} is not a .tflite file: make one with 'codesign convert'.")
    return content


class IntegerFile(TfliteFile):
    """A .tflite file whose tensors are quantized. Every method raises InputError, with the file's name, alone."""

    def __init__(self, path: str | os.PathLike[str], content: bytes | None = None) -> None:
        self.path = Path(path)
        super().__init__(read_content(self.path) if content is None else content, str(self.path))

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
        self.check_activation(tensor)
        if tensor.size != math.prod(shape):
            raise self.refuse(f"tensor '{tensor.name}' has shape {list(tensor.dims)} where {list(shape)} was expected.")
        return QuantizedTensor(tensor.name, shape, kind, tensor.scales[0], tensor.zero_points[0])
