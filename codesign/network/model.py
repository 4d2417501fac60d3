"""The float network as plain, frozen data.

Shapes leave out the batch. H is the number of units, D the number of input features, T the number of steps.
Gate order is everywhere i, f, c, o (TFLite's operand order of UNIDIRECTIONAL_SEQUENCE_LSTM).
Weights are float32 exactly as stored in the model file; the network they define is a function over the reals, and every
consumer computes with them in float64 or wider. (What float32 programs add: `codesign.proof.float32`.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Union

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
ActivationKind = Literal["linear", "relu", "tanh", "sigmoid", "softmax"]

GATES = ("i", "f", "c", "o")


@dataclass(frozen=True, eq=False)
class Lstm:
    """LSTM: z_g = W_g x + R_g h + b_g; i, f, o = sigmoid(z); c' = f c + i tanh(z_c); h' = o tanh(c')."""

    name: str
    W: Float32Array  # (4, H, D)
    R: Float32Array  # (4, H, H)
    b: Float32Array  # (4, H)
    return_sequences: bool
    cell_clip: float = 0.0  # c' is clamped to [-cell_clip, cell_clip]; 0: it is not (always so in Keras files)

    def acting_clip(self, steps: int) -> float:
        """The cell clip where it can act within `steps` steps from the reset state, else 0.

        |c'| <= f |c| + i |tanh(z_c)| < |c| + 1 over the reals, so that |c| < t after t steps.
        """
        return self.cell_clip if self.cell_clip < steps else 0.0

    @property
    def units(self) -> int:
        return int(self.W.shape[1])

    @property
    def features(self) -> int:
        return int(self.W.shape[2])


@dataclass(frozen=True, eq=False)
class Dense:
    """y = activation(W x + b) on the last axis; on a (T, N) input it is Keras' TimeDistributed(Dense)."""

    name: str
    W: Float32Array  # (M, N)
    b: Float32Array  # (M,)
    activation: ActivationKind


@dataclass(frozen=True)
class Activation:
    """Elementwise activation, or softmax over the last axis."""

    name: str
    kind: ActivationKind


@dataclass(frozen=True)
class Reshape:
    """Row-major reshape to `shape` (without batch); Flatten is one of these."""

    name: str
    shape: tuple[int, ...]


Layer = Union[Lstm, Dense, Activation, Reshape]


@dataclass(frozen=True, eq=False)
class FloatNetwork:
    """A chain of layers, read from one file.

    `sha256` is the hex digest of that file; `source` names its format, such as 'keras2-h5'.
    """

    name: str
    input_shape: tuple[int, int]  # (T, D)
    layers: tuple[Layer, ...]
    sha256: str
    source: str
