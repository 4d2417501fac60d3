"""Bounds without a proof effort, for regions that a time limit left out: what the networks' output ranges allow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codesign.quantization.align import ActivationStage, DenseStage, LstmStage, Stage
from codesign.quantization.integer import IntegerNetwork
from codesign.verification import rounding
from codesign.verification.affine import Array, Box, gamma, up
from codesign.verification.regions import FLOAT32_UNIT, Region


def output_ranges(stages: Sequence[Stage], network: IntegerNetwork, region: Region) -> tuple[Box, Box, Box]:
    """(difference, logit difference, float output), boxes (1, outputs): hidden states lie in [-1, 1].

    Holds for every semantics profile.
    """
    size: Array = up(np.maximum(np.abs(region.lo), np.abs(region.hi)).max(0) * (1 + 2 * FLOAT32_UNIT))
    low: Array = -size
    op = None
    logits: tuple[Box, Box] | None = None
    for stage in stages:
        if isinstance(stage, LstmStage):
            size = np.ones(stage.float_layer.units)
            low = -size
        elif isinstance(stage, DenseStage):
            layer = stage.float_layer
            total = np.abs(layer.W.astype(np.float64)) @ size + np.abs(layer.b.astype(np.float64))
            size = up(total * (1 + gamma(layer.W.shape[1] + 1)))
            low = np.zeros_like(size) if stage.relu else -size
        elif isinstance(stage, ActivationStage):
            if stage.kind == "softmax":
                assert op is not None
                logits = _difference(low, size, op, network)
            size = size if stage.kind == "relu" else np.ones_like(size)
            low = -size if stage.kind == "tanh" else np.zeros_like(size)
        else:
            size = np.full(stage.shape[-1], size.max())
            low = np.full(stage.shape[-1], low.min())
        op = getattr(stage, "int_op", op)
    outputs = int(np.prod(network.output.shape))
    difference, real = _difference(low, size, None, network)
    wide = difference if logits is None else logits[0]
    return tuple(_tiled(box, outputs) for box in (difference, wide, real))  # type: ignore[return-value]


def _difference(low: Array, high: Array, op: object, network: IntegerNetwork) -> tuple[Box, Box]:
    """(integer - float, float) from the float range and the integer tensor's own."""
    lo, hi = rounding.tensor_range(network.output if op is None else op.output)  # type: ignore[attr-defined]
    real = Box(low[None], high[None])
    return Box(np.full_like(real.lo, lo), np.full_like(real.hi, hi)) + Box(-real.hi, -real.lo), real


def _tiled(box: Box, outputs: int) -> Box:
    repeat = outputs // box.lo.shape[1]
    return Box(np.tile(box.lo, (1, repeat)), np.tile(box.hi, (1, repeat)))
