"""What the integer LSTM's arithmetic adds in one step, as intervals: rescalings and saturations, given boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codesign.network.model import Lstm
from codesign.quantization.integer import IntLstm
from codesign.verification import rounding
from codesign.verification.affine import UNIT, Array, Box
from codesign.verification.lstm import GATE_LIMIT, layer_weights


class LstmNoise:
    """The constants of one layer under every profile. Boxes are (B, n).

    Each part of a sum saturates alone (TFLM) or not at all (CMSIS-NN): every interval here holds 0, so covers both.
    """

    def __init__(self, layer: Lstm, op: IntLstm, variants: Sequence[IntLstm] = ()) -> None:
        self.layer, self.units = layer, layer.units
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

    def gates(self, x: Box, h: Box, total: Box) -> Box:
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

    def cell(self, parts: Sequence[Box]) -> tuple[Box, Box]:
        """(noise, reach) of the new cell from the exact products forget * cell and input * gate."""
        total = (parts[0] + parts[1]).widen(self.cell_rounding)
        clip = Box(np.zeros_like(total.lo), np.zeros_like(total.hi))
        for part in parts:
            clip = clip + rounding.saturation_error(part.widen(self.cell_rounding), *self.cell_limit)
        clip = clip + rounding.saturation_error(total + clip, *self.cell_limit)
        # a saturated part can leave the interval of the exact sum
        return clip.widen(self.cell_rounding), _clipped(total + clip, *self.cell_limit)

    def hidden(self, product: Box) -> tuple[Box, Box]:
        """(noise, reach) of the new hidden state from the exact product output * tanh."""
        total = product.widen(self.hidden_rounding)
        noise = rounding.saturation_error(total, *self.hidden_limit).widen(self.hidden_rounding)
        return noise, _clipped(total, *self.hidden_limit)


def _clipped(box: Box, lo: float | Array, hi: float | Array) -> Box:
    return Box(np.clip(box.lo, lo, hi), np.clip(box.hi, lo, hi))
