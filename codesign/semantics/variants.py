"""The known variants of the int8 LSTM's semantics, as data (docs/semantics.md explains them)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from codesign.quantization.integer import Profile


@dataclass(frozen=True)
class Variant:
    """One runtime's way of computing an int8 LSTM network.

    `profile`: the simulation that is exact for it, None where there is none.
    `scale_products`: how products (and RELU's ratio) of two float32 scales are taken.
    `gate_sum`: 'saturate-parts': sat16(sat16(input part) + sat16(recurrent part)); 'accumulate': sat16(sat16(input
    part) + recurrent part).
    `cell_sum`: 'saturate-parts': sat16(sat16(f c) + sat16(i g)); 'saturate-forget': sat16(sat16(f c) + i g);
    'saturate-sum': sat16(f c + i g).
    `tables`: 'knots' (16-bit interpolation table) or 'gemmlowp' (fixed-point polynomials).
    `keeps_state`: whether h and c survive from one invocation to the next until a reset.
    """

    name: str
    runtime: str
    profile: Profile | None
    scale_products: Literal["double", "float32"]
    gate_sum: Literal["saturate-parts", "accumulate"]
    cell_sum: Literal["saturate-parts", "saturate-forget", "saturate-sum"]
    tables: Literal["knots", "gemmlowp"]
    keeps_state: bool


def variants() -> tuple[Variant, ...]:
    """All known variants; those with a `profile` can be simulated."""
    return (
        Variant(
            "tflm-double",
            "TFLM reference kernels, package tflite-micro 0.dev20261023182759",
            "tflm-double",
            "double",
            "saturate-parts",
            "saturate-parts",
            "knots",
            True,
        ),
        Variant(
            "tflm-float",
            "TFLM reference kernels, sources of August 2026",
            "tflm-float",
            "float32",
            "saturate-parts",
            "saturate-parts",
            "knots",
            True,
        ),
        Variant(
            "cmsis-nn-double",
            "TFLM with CMSIS-NN kernels, scale products as in later sources",
            "cmsis-nn-double",
            "double",
            "accumulate",
            "saturate-forget",
            "knots",
            False,
        ),
        Variant(
            "cmsis-nn-float",
            "TFLM with CMSIS-NN kernels, sources of August 2026",
            "cmsis-nn-float",
            "float32",
            "accumulate",
            "saturate-forget",
            "knots",
            False,
        ),
        Variant(
            "tflite",
            "TensorFlow Lite interpreter (reference and optimised kernels)",
            None,
            "float32",
            "accumulate",
            "saturate-sum",
            "gemmlowp",
            True,
        ),
    )
