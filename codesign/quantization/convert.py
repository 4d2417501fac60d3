"""Conversion of a float model to a full-integer int8 .tflite."""

from __future__ import annotations

from pathlib import Path


def convert(
    model_path: str | Path, output_path: str | Path, calibration_path: str | Path | None = None
) -> Path:
    raise NotImplementedError
