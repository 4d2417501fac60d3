"""An LSTM layer of both networks in real units, and what the integer one's arithmetic adds in a step, as intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codesign.network.model import Lstm
from codesign.quantization.integer import IntLstm
from codesign.verification import rounding
from codesign.verification.affine import UNIT, Array, Box, Matrix, up

GATE_LIMIT = (-8.0, 8.0 - rounding.GATE_STEP)


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """The layer's matrices in real units: float, effective integer, their difference, and the rounding of a gate."""

    W: Matrix
    R: Matrix
    b: Array
    W_int: Matrix
    R_int: Matrix
    W_gap: Matrix
    R_gap: Matrix
    b_gap: Array
    b_slack: Array
    b_int: Array
    rounding: Array  # (4H,): largest error of both requantizations, real units


def _effective(op: IntLstm, units: int, variants: Sequence[IntLstm]) -> tuple[Matrix, Matrix, Array, Array, Array]:
    """Effective real weights of the integer gates; profiles that differ in a multiplier widen the slack."""
    W, W_slack, R, R_slack, b, b_slack, noise = [], [], [], [], [], [], []
    for gate in range(4):
        scale_w = op.input_multipliers[gate].real * rounding.GATE_STEP
        scale_r = op.recurrent_multipliers[gate].real * rounding.GATE_STEP
        spread_w = max(
            (abs(v.input_multipliers[gate].real * rounding.GATE_STEP / scale_w - 1.0) for v in variants),
            default=0.0,
        )
        spread_r = max(
            (abs(v.recurrent_multipliers[gate].real * rounding.GATE_STEP / scale_r - 1.0) for v in variants),
            default=0.0,
        )
        w = op.W[gate] * (scale_w / op.input.scale)
        r = op.R[gate] * (scale_r / op.output.scale)
        W.append(w)
        R.append(r)
        W_slack.append(np.abs(w) * (spread_w * 1.001 + 8 * UNIT))
        R_slack.append(np.abs(r) * (spread_r * 1.001 + 8 * UNIT))
        bias = op.b[gate] * scale_w
        b.append(bias)
        b_slack.append(np.abs(bias) * (spread_w * 1.001 + 8 * UNIT))
        worst = max(
            rounding.requantization_error(v.input_multipliers[gate])
            + rounding.requantization_error(v.recurrent_multipliers[gate])
            for v in (op, *variants)
        )
        noise.append(np.full(units, worst * rounding.GATE_STEP))
    return (
        Matrix(np.concatenate(W), up(np.concatenate(W_slack))),
        Matrix(np.concatenate(R), up(np.concatenate(R_slack))),
        np.concatenate(b),
        up(np.concatenate(b_slack)),
        np.concatenate(noise),
    )


def layer_weights(layer: Lstm, op: IntLstm, variants: Sequence[IntLstm] = ()) -> LayerWeights:
    """Both networks' matrices of one layer in real units."""
    units = layer.units
    W = Matrix.exact(layer.W.reshape(4 * units, -1))
    R = Matrix.exact(layer.R.reshape(4 * units, -1))
    b = layer.b.reshape(-1).astype(np.float64)
    W_int, R_int, b_int, b_slack, noise = _effective(op, units, variants)
    return LayerWeights(
        W, R, b, W_int, R_int, W_int.minus(W), R_int.minus(R),
        b_int - b, up(b_slack + 2 * UNIT * np.abs(b_int - b)), b_int, noise,
    )  # fmt: skip


class LstmNoise:
    """The constants of one layer under every profile. Boxes are (B, n).

    Each part of a sum saturates alone (TFLM) or not at all (CMSIS-NN): every interval here holds 0, so covers both.
    """

    def __init__(self, layer: Lstm, op: IntLstm, variants: Sequence[IntLstm] = ()) -> None:
        self.layer, self.op, self.units = layer, op, layer.units
        self.weights = layer_weights(layer, op, variants)
        cell_step = 2.0**op.cell_shift
        self.cell_limit = (-32768 * cell_step, 32767 * cell_step)
        if op.cell_clip_q:
            clip = op.cell_clip_q * cell_step
            self.cell_limit = (max(-clip, self.cell_limit[0]), min(clip, self.cell_limit[1]))
        self.cell_rounding = cell_step * (
            rounding.requantization_error(op.forget_multiplier)
            + rounding.requantization_error(op.input_gate_multiplier)
        )
        hidden = [v.hidden_multiplier for v in (op, *variants)]
        gain = max(abs(m.real * 2.0**30 * op.output.scale - 1.0) for m in hidden) + 8 * UNIT
        self.hidden_rounding = (op.output.scale * max(rounding.requantization_error(m) for m in hidden) + gain) * (
            1 + 16 * UNIT
        )
        self.hidden_limit = rounding.tensor_range(op.output)
        self.sigmoid_error = rounding.table_error("sigmoid")
        self.tanh_error = rounding.table_error("tanh", -12)
        self.cell_tanh_error = rounding.table_error("tanh", op.cell_shift)

    def gate_noise(self, x: Box, h: Box, total: Box) -> Box:
        """Of the gates' sums, (B, 4H): `x`, `h` hold the integer network's input and hidden state, `total` its sums."""
        w = self.weights
        radius = np.broadcast_to(w.rounding, total.lo.shape)
        noise = Box(-radius, radius)
        limit = min(-GATE_LIMIT[0], GATE_LIMIT[1])
        from_input = x.mag @ w.W_int.magnitude.T + np.abs(w.b_int) + w.b_slack + w.rounding
        from_hidden = h.mag @ w.R_int.magnitude.T + w.rounding
        for size in (from_input * (1 + 1e-9), from_hidden * (1 + 1e-9)):
            if (size > limit).any():
                noise = noise + rounding.saturation_error(Box(-size, size), *GATE_LIMIT)
        total = total + noise
        if (total.mag > limit).any():
            noise = noise + rounding.saturation_error(total, *GATE_LIMIT)
        return noise

    def cell_noise(self, parts: Sequence[Box]) -> tuple[Box, Box]:
        """(noise, reach) of the new cell from the exact products forget * cell and input * gate."""
        total = (parts[0] + parts[1]).widen(self.cell_rounding)
        clip = Box(np.zeros_like(total.lo), np.zeros_like(total.hi))
        for part in parts:
            clip = clip + rounding.saturation_error(part.widen(self.cell_rounding), *self.cell_limit)
        clip = clip + rounding.saturation_error(total + clip, *self.cell_limit)
        # a saturated part can leave the interval of the exact sum
        return clip.widen(self.cell_rounding), _clipped(total + clip, *self.cell_limit)

    def float_clip(self, cell: Box) -> Box | None:
        """What the float model's own cell clip changes of the new cell, where it can act at all."""
        limit = self.layer.cell_clip
        if not limit or not (cell.mag > limit).any():
            return None
        return rounding.saturation_error(cell, -limit, limit)

    def hidden_noise(self, product: Box) -> tuple[Box, Box]:
        """(noise, reach) of the new hidden state from the exact product output * tanh."""
        total = product.widen(self.hidden_rounding)
        noise = rounding.saturation_error(total, *self.hidden_limit).widen(self.hidden_rounding)
        return noise, _clipped(total, *self.hidden_limit)


def _clipped(box: Box, lo: float | Array, hi: float | Array) -> Box:
    return Box(np.clip(box.lo, lo, hi), np.clip(box.hi, lo, hi))
