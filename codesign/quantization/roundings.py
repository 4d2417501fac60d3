"""Whether an int8 model's weights are the float model's, rounded: whether a pair is one model, or two.

A quantizer writes q = round(w / s) for a weight w at scale s, so that |w - s q| <= s / 2; biases alike, at the scale of
their accumulator. A bound on |integer - float| holds for any pair of networks of one architecture, but who certifies a
pair by mistake should hear of it. A statement about two files: no bound rests on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.network.model import GATES, FloatNetwork
from codesign.quantization.align import DenseStage, LstmStage, Stage, align
from codesign.quantization.integer import IntegerNetwork

# In steps: half of one for the rounding, the rest for quantizers that divide by the scale in float32.
HALF_STEP = 0.51
# Of a value's size: an accumulator's scale is stored rounded to float32, which counts for biases of many steps.
RELATIVE = 2.0**-22

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NotRounded:
    """Of `values` weights and biases, `count` are no roundings; the farthest, by `steps`, is one of `where`."""

    count: int
    values: int
    steps: float
    where: str

    def __str__(self) -> str:
        return (
            f"{self.count} of {self.values} weights and biases of the int8 model are not the float model's, rounded to "
            f"the nearest step (the farthest, in {self.where}, is {self.steps:.3g} steps away)"
        )


def not_rounded(stages: Sequence[Stage]) -> NotRounded | None:
    """The int8 weights of paired layers that are no roundings of the float ones; None where all are."""
    count, values, worst, where = 0, 0, 0.0, ""
    for name, real, q, step in _parameters(stages):
        distance = np.abs(real - q * step)
        wrong = distance > HALF_STEP * step + RELATIVE * np.abs(real)
        count, values = count + int(wrong.sum()), values + wrong.size
        farthest = float(np.where(wrong, distance / step, 0.0).max(initial=0.0))
        if farthest > worst:
            worst, where = farthest, name
    return NotRounded(count, values, worst, where) if count else None


def pair_facts(stages: Sequence[Stage]) -> dict[str, bool]:
    """What a certificate states of its pair: whether it is of two different models, by their weights."""
    return {"different_models": not_rounded(stages) is not None}


def require_one_model(real: FloatNetwork, integer: IntegerNetwork, different: bool = False) -> bool:
    """Whether the two are different models. InputError where they are and `different` does not allow for it, and where
    they are not the same function whatever the weights (`align`)."""
    found = not_rounded(align(real, integer))
    if found is not None and not different:
        raise InputError(
            f"these look like two different models, {real.name} and {integer.name}: {found}; give the float model that "
            "the int8 one was made from, or --different-models if you mean to compare two"
        )
    return found is not None


def _parameters(stages: Sequence[Stage]) -> Iterator[tuple[str, Array, Array, Array]]:
    """(name, float values, integers, their steps), broadcastable, of every tensor with weights."""
    for stage in stages:
        if isinstance(stage, LstmStage):
            layer, op = stage.float_layer, stage.int_op
            W, R = np.array(op.W_scale), np.array(op.R_scale)
            for what, real, q, steps in (
                ("input weights", layer.W, op.W, W),
                ("recurrent weights", layer.R, op.R, R),
                ("biases", layer.b, op.b, op.input.scale * W),
            ):
                for gate, w, v, step in zip(GATES, real, q, steps, strict=True):
                    yield f"the {what} of gate {gate} of '{layer.name}'", _wide(w), _wide(v), step
        elif isinstance(stage, DenseStage):
            dense, fc = stage.float_layer, stage.int_op
            scales = np.array(fc.W_scale)
            yield f"the weights of '{dense.name}'", _wide(dense.W), _wide(fc.W), scales[:, None]
            yield f"the biases of '{dense.name}'", _wide(dense.b), _wide(fc.b), fc.input.scale * scales


def _wide(values: npt.NDArray[Any]) -> Array:
    return values.astype(np.float64)
