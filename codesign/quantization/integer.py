"""The integer network as plain, frozen data: the single source for simulation, verification and C code.

Read back from a full-integer .tflite. A real value is scale * (q - zero_point). Scales are the file's float32 values,
held as Python floats. Gate order is i, f, c, o. Shapes leave out the batch.

Activations are int8 throughout, with any zero point and int32 biases, or int16 throughout, with zero point 0 and int64
biases; weights are int8 and cells int16 in both. int16 accumulators are rescaled by MBQM64 (`Multiplier.reduced`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Union

import numpy as np
import numpy.typing as npt

Int8Array = npt.NDArray[np.int8]
ActivationArray = npt.NDArray[Any]  # int8 or int16, as the network's activations are
BiasArray = npt.NDArray[Any]  # int32 where activations are int8, int64 where they are int16
Activations = Literal["int8", "int16"]
Profile = Literal["tflm-double", "tflm-float", "cmsis-nn-double", "cmsis-nn-float"]


@dataclass(frozen=True)
class QuantizedTensor:
    """An activation tensor: name, shape without batch, integer type and affine quantization."""

    name: str
    shape: tuple[int, ...]
    dtype: Activations
    scale: float
    zero_point: int

    @property
    def q_min(self) -> int:
        """The smallest value of its type."""
        return -128 if self.dtype == "int8" else -32768

    @property
    def q_max(self) -> int:
        """The largest value of its type."""
        return 127 if self.dtype == "int8" else 32767


@dataclass(frozen=True)
class Multiplier:
    """Fixed-point effective scale m * 2^(e - 31), as TFLM's QuantizeMultiplier gives it (m in [2^30, 2^31) or 0)."""

    m: int
    e: int

    @property
    def real(self) -> float:
        """The exact value represented."""
        return float(self.m) * 2.0 ** (self.e - 31)

    @property
    def reduced(self) -> int:
        """m in 16 bits, as the int64 accumulators of int16 activations are rescaled: r with value r * 2^(e - 15)."""
        return (self.m + (1 << 15)) >> 16 if self.m < 0x7FFF0000 else 0x7FFF

    @property
    def reduced_real(self) -> float:
        """The exact value of r * 2^(e - 15); relative distance from `real` at most 2^-15."""
        return float(self.reduced) * 2.0 ** (self.e - 15)


@dataclass(frozen=True, eq=False)
class IntLstm:
    """UNIDIRECTIONAL_SEQUENCE_LSTM, int8 weights, int16 cell. Always yields the whole sequence."""

    name: str
    input: QuantizedTensor  # (T, D)
    output: QuantizedTensor  # (T, H); also the hidden state's quantization
    W: Int8Array  # (4, H, D)
    R: Int8Array  # (4, H, H)
    b: BiasArray  # (4, H), at scale input.scale * W_scale[g]
    W_scale: tuple[float, float, float, float]
    R_scale: tuple[float, float, float, float]
    cell_shift: int  # p: the cell scale is 2^p
    cell_clip_q: int  # 0: no clipping
    input_multipliers: tuple[Multiplier, Multiplier, Multiplier, Multiplier]  # to Q3.12
    recurrent_multipliers: tuple[Multiplier, Multiplier, Multiplier, Multiplier]  # to Q3.12
    forget_multiplier: Multiplier  # f * c -> cell
    input_gate_multiplier: Multiplier  # i * g -> cell
    hidden_multiplier: Multiplier  # o * tanh(c) -> hidden

    @property
    def units(self) -> int:
        return int(self.W.shape[1])

    @property
    def features(self) -> int:
        return int(self.W.shape[2])


@dataclass(frozen=True, eq=False)
class IntDense:
    """FULLY_CONNECTED on the last axis; fused ReLU shows as act_min = output zero point."""

    name: str
    input: QuantizedTensor
    output: QuantizedTensor
    W: Int8Array  # (M, N)
    b: BiasArray  # (M,), zeros where the file has none
    W_scale: tuple[float, ...]  # length 1 (per tensor) or M (per channel)
    multipliers: tuple[Multiplier, ...]  # same length as W_scale
    act_min: int
    act_max: int


@dataclass(frozen=True)
class IntActivation:
    """SOFTMAX, LOGISTIC, TANH or RELU."""

    name: str
    kind: Literal["softmax", "sigmoid", "tanh", "relu"]
    input: QuantizedTensor
    output: QuantizedTensor
    beta: float = 1.0


@dataclass(frozen=True)
class IntLastStep:
    """STRIDED_SLICE (or equivalent) that keeps the last time step: (T, N) -> (N,)."""

    name: str
    input: QuantizedTensor
    output: QuantizedTensor


@dataclass(frozen=True)
class IntReshape:
    """RESHAPE; data and quantization unchanged."""

    name: str
    input: QuantizedTensor
    output: QuantizedTensor


IntOp = Union[IntLstm, IntDense, IntActivation, IntLastStep, IntReshape]


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A chain of integer operators. `sha256` is the .tflite file's hex digest; `content` its bytes.

    `profile` is the semantics (see docs/semantics.md): 'tflm-...' that of TFLM's reference kernels, 'cmsis-nn-...' that
    of TFLM with CMSIS-NN; '...-double' takes scale products as the host TFLM interpreter does, '...-float' as TFLM's
    sources of August 2026 do.
    """

    name: str
    input: QuantizedTensor  # (T, D)
    output: QuantizedTensor
    ops: tuple[IntOp, ...]
    sha256: str
    profile: Profile
    content: bytes

    @property
    def activations(self) -> Activations:
        """The integer type of the input, the output and everything between operators."""
        return self.input.dtype
