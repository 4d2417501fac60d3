"""Propagates the joint differential zonotope through one LSTM layer.

One pool of noise symbols carries affine forms of the float state (h, c) and of the difference integer - float (dh, dc):

    z  = W x + R h + b
    dz = (W^ - W) x + W^ dx + (R^ - R) h + R^ dh + (b^ - b) + e_z        hats: the integer network's effective weights
    d(s c) = (s + ds/2) dc + ds (c + dc/2)                               exact, two bilinear terms

The integer side's roundings, table errors and saturations enter as intervals (`codesign.verification.rounding`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codesign.network.model import Lstm
from codesign.quantization.integer import IntLstm
from codesign.verification import relaxation, rounding
from codesign.verification.affine import (
    UNIT,
    Array,
    Box,
    Form,
    Matrix,
    Pool,
    combine,
    linear,
    product_box,
    reset_wide,
    up,
)
from codesign.verification.relaxation import Recorder

GATE_LIMIT = (-8.0, 8.0 - rounding.GATE_STEP)
_GATE_NAMES = ("input gate", "forget gate", "cell gate", "output gate")


@dataclass(frozen=True, eq=False)
class Pair:
    """A vector of the float network and its difference in the integer network: forms and enclosing boxes."""

    value: Form
    difference: Form
    value_box: Box
    difference_box: Box

    @staticmethod
    def of(value: Form, difference: Form) -> Pair:
        return Pair(value, difference, value.box, difference.box)

    @property
    def integer_box(self) -> Box:
        """Where the integer network's dequantized value lies."""
        return self.value_box + self.difference_box


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


class LstmPropagation:
    """Runs one layer over a sequence; `steps` gives the pairs of hidden states."""

    def __init__(
        self,
        layer: Lstm,
        op: IntLstm,
        pool: Pool,
        recorder: Recorder | None = None,
        variants: Sequence[IntLstm] = (),
    ) -> None:
        self.layer, self.op, self.pool, self.recorder = layer, op, pool, recorder
        self.units = layer.units
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

    def run(self, inputs: Sequence[Pair]) -> list[Pair]:
        batch = inputs[0].value.center.shape[0]
        zero = np.zeros((batch, self.units))
        hidden = Pair.of(Form.constant(zero), Form.constant(zero))
        cell = hidden
        outputs = []
        for step, x in enumerate(inputs):
            hidden, cell = self._step(x, hidden, cell, f"{self.layer.name}[{step}]")
            outputs.append(hidden)
        return outputs

    def _step(self, x: Pair, h: Pair, c: Pair, place: str) -> tuple[Pair, Pair]:
        H = self.units
        gates, gate_boxes, d_gates, d_gate_boxes = self._gates(x, h, place)
        i, f, g, o = (gates.rows(slice(k * H, (k + 1) * H)) for k in range(4))
        i_box, f_box, g_box, o_box = (gate_boxes.rows(slice(k * H, (k + 1) * H)) for k in range(4))
        di, df, dg, do = (d_gates.rows(slice(k * H, (k + 1) * H)) for k in range(4))
        di_box, df_box, dg_box, do_box = (d_gate_boxes.rows(slice(k * H, (k + 1) * H)) for k in range(4))
        gate = [Pair(i, di, i_box, di_box), Pair(f, df, f_box, df_box), Pair(g, dg, g_box, dg_box)]
        cell = self._cell(gate[0], gate[1], gate[2], c, place)
        squashed = self._squash(cell, place)
        return self._hidden(Pair(o, do, o_box, do_box), squashed, place), cell

    def _gates(self, x: Pair, h: Pair, place: str) -> tuple[Form, Box, Form, Box]:
        w = self.weights
        H = self.units
        z = linear([(w.W, x.value), (w.R, h.value)], w.b)
        dz = linear(
            [(w.W_gap, x.value), (w.W_int, x.difference), (w.R_gap, h.value), (w.R_int, h.difference)],
            w.b_gap,
            w.b_slack,
        )
        noise = self._gate_noise(x, h, z.box, dz.box)
        z_box = z.box
        d_box = dz.box + noise
        d_box = d_box.meet(GATE_LIMIT[0] - z_box.hi - UNIT * 64, GATE_LIMIT[1] - z_box.lo + UNIT * 64)
        parts: list[tuple[relaxation.Plane, relaxation.DifferencePlane, Box, Box]] = []
        pieces = (
            ("sigmoid", slice(0, 2 * H), self.sigmoid_error, "input and forget gate"),
            ("tanh", slice(2 * H, 3 * H), self.tanh_error, _GATE_NAMES[2]),
            ("sigmoid", slice(3 * H, 4 * H), self.sigmoid_error, _GATE_NAMES[3]),
        )
        for function, part, table, name in pieces:
            zb, db = z_box.rows(part), d_box.rows(part)
            where = f"{place} {name}"
            plane = relaxation.relax(function, zb, where, self.recorder)  # type: ignore[arg-type]
            diff = relaxation.relax_difference(function, zb, db, where, self.recorder)  # type: ignore[arg-type]
            # The form of d leaves out the rounding noise of this place: charge it through the slope.
            lost = Box(*np.broadcast_arrays(noise.lo[:, part], noise.hi[:, part]))
            scaled = product_box(Box(diff.slope_d, diff.slope_d), lost)
            shift = Box(diff.mid - diff.rad + table[0], diff.mid + diff.rad + table[1])
            merged = scaled + Box(
                shift.lo - up(4 * UNIT * np.abs(shift.lo)), shift.hi + up(4 * UNIT * np.abs(shift.hi))
            )
            diff = relaxation.DifferencePlane(diff.slope_z, diff.slope_d, merged.mid, merged.rad)
            d_image = relaxation.difference_image(function, zb, db)  # type: ignore[arg-type]
            d_image = d_image + Box(np.full_like(zb.lo, table[0]), np.full_like(zb.lo, table[1]))
            parts.append((plane, diff, relaxation.image(function, zb), d_image))  # type: ignore[arg-type]
        slope = np.concatenate([p[0].slope for p in parts], axis=1)
        mid = np.concatenate([p[0].mid for p in parts], axis=1)
        rad = np.concatenate([p[0].rad for p in parts], axis=1)
        gates = combine([(slope, z)], mid, rad, self.pool, "relaxation: gates")
        d_slope_z = np.concatenate([p[1].slope_z for p in parts], axis=1)
        d_slope_d = np.concatenate([p[1].slope_d for p in parts], axis=1)
        d_mid = np.concatenate([p[1].mid for p in parts], axis=1)
        d_rad = np.concatenate([p[1].rad for p in parts], axis=1)
        d_gates = combine(
            [(d_slope_z, z), (d_slope_d, dz)],
            d_mid,
            d_rad,
            self.pool,
            "gate differences: relaxation, rounding, tables",
        )
        image, d_image = Box.joined([p[2] for p in parts]), Box.joined([p[3] for p in parts])
        gate_box = gates.box.meet(image.lo, image.hi)
        d_gate_box = d_gates.box.meet(d_image.lo, d_image.hi)
        return gates, gate_box, d_gates, d_gate_box

    def _gate_noise(self, x: Pair, h: Pair, z: Box, dz: Box) -> Box:
        """Requantization of both accumulators and every saturation on the way, as an interval per gate."""
        w = self.weights
        radius = np.broadcast_to(w.rounding, z.lo.shape)
        noise = Box(-radius, radius)
        # Each partial sum saturates alone (TFLM) or not at all (CMSIS-NN); the interval holds 0, so covers both.
        limit = min(-GATE_LIMIT[0], GATE_LIMIT[1])
        input_size = x.integer_box.mag @ w.W_int.magnitude.T + np.abs(w.b_int) + w.b_slack + w.rounding
        hidden_size = h.integer_box.mag @ w.R_int.magnitude.T + w.rounding
        for size in (input_size, hidden_size):
            size = size * (1 + 1e-9)
            if (size > limit).any():
                noise = noise + rounding.saturation_error(Box(-size, size), *GATE_LIMIT)
        total = z + dz + noise
        if (total.mag > limit).any():
            noise = noise + rounding.saturation_error(total, *GATE_LIMIT)
        return noise

    def _cell(self, i: Pair, f: Pair, g: Pair, c: Pair, place: str) -> Pair:
        forget = _Product(f, c, f"{place} forget * cell", self.recorder)
        write = _Product(i, g, f"{place} input * gate", self.recorder)
        terms = forget.value_terms + write.value_terms
        constant = forget.value_constant + write.value_constant
        new = combine(
            terms, constant,
            up(forget.value_noise + write.value_noise + _sum_slack(forget, write)),
            self.pool, "relaxation: cell product",
        )  # fmt: skip
        exact_box = forget.value_box + write.value_box
        box = new.box.meet(exact_box.lo, exact_box.hi)
        float_clip = self._float_clip(box)
        if float_clip is not None:
            new = combine([(1.0, new)], float_clip.mid, float_clip.rad, self.pool, "float cell clip")
            box = (box + float_clip).meet(-self.layer.cell_clip, self.layer.cell_clip)
        new = reset_wide(new, box, self.pool, "reset")
        integer_box = (forget.integer_box + write.integer_box).widen(self.cell_rounding)
        clip = Box(np.zeros_like(box.lo), np.zeros_like(box.hi))
        for part in (forget, write):
            clip = clip + rounding.saturation_error(part.integer_box.widen(self.cell_rounding), *self.cell_limit)
        clip = clip + rounding.saturation_error(integer_box + clip, *self.cell_limit)
        noise = clip.widen(self.cell_rounding)
        if float_clip is not None:
            noise = noise + Box(-float_clip.hi, -float_clip.lo)
        lost = _sum_slack(forget, write) + 2 * UNIT * np.abs(noise.mid)
        difference = combine(
            forget.difference_terms + write.difference_terms,
            forget.difference_constant + write.difference_constant + noise.mid,
            up(forget.difference_noise + write.difference_noise + noise.rad + lost),
            self.pool, "cell difference: products, rounding",
        )  # fmt: skip
        integer_box = integer_box + clip  # a saturated part can leave the interval of the exact sum
        reach = Box(np.maximum(integer_box.lo, self.cell_limit[0]), np.minimum(integer_box.hi, self.cell_limit[1]))
        reach = Box(np.minimum(reach.lo, self.cell_limit[1]), np.maximum(reach.hi, self.cell_limit[0]))
        gap = reach + Box(-box.hi, -box.lo)
        d_box = difference.box.meet(gap.lo, gap.hi)
        difference = reset_wide(difference, d_box, self.pool, "reset")
        return Pair(new, difference, box, d_box)

    def _float_clip(self, box: Box) -> Box | None:
        """What a float model's own cell clipping changes, where it can act at all."""
        limit = self.layer.cell_clip
        if not limit or not (box.mag > limit).any():
            return None
        return rounding.saturation_error(box, -limit, limit)

    def _squash(self, cell: Pair, place: str) -> Pair:
        where = f"{place} cell tanh"
        plane = relaxation.relax("tanh", cell.value_box, where, self.recorder)
        diff = relaxation.relax_difference("tanh", cell.value_box, cell.difference_box, where, self.recorder)
        table = Box(np.full_like(plane.mid, self.cell_tanh_error[0]), np.full_like(plane.mid, self.cell_tanh_error[1]))
        merged = Box(diff.mid - diff.rad, diff.mid + diff.rad).widen(4 * UNIT) + table
        value = combine([(plane.slope, cell.value)], plane.mid, plane.rad, self.pool, "relaxation: cell tanh")
        difference = combine(
            [(diff.slope_z, cell.value), (diff.slope_d, cell.difference)],
            merged.mid, merged.rad, self.pool, "tanh difference: relaxation, table",
        )  # fmt: skip
        image = relaxation.image("tanh", cell.value_box)
        d_image = relaxation.difference_image("tanh", cell.value_box, cell.difference_box) + table
        return Pair(value, difference, value.box.meet(image.lo, image.hi), difference.box.meet(d_image.lo, d_image.hi))

    def _hidden(self, o: Pair, t: Pair, place: str) -> Pair:
        product = _Product(o, t, f"{place} output * tanh", self.recorder)
        value = combine(
            product.value_terms, product.value_constant, up(product.value_noise + _sum_slack(product)),
            self.pool, "relaxation: hidden product",
        )  # fmt: skip
        box = value.box.meet(product.value_box.lo, product.value_box.hi)
        value = reset_wide(value, box, self.pool, "reset")
        integer_box = product.integer_box.widen(self.hidden_rounding)
        noise = rounding.saturation_error(integer_box, *self.hidden_limit).widen(self.hidden_rounding)
        difference = combine(
            product.difference_terms, product.difference_constant,
            up(product.difference_noise + _sum_slack(product)), self.pool, "relaxation: hidden product difference",
        )  # fmt: skip
        difference = combine([(1.0, difference)], noise.mid, noise.rad, self.pool, "rounding: hidden state")
        reach = Box(np.clip(integer_box.lo, *self.hidden_limit), np.clip(integer_box.hi, *self.hidden_limit))
        gap = reach + Box(-box.hi, -box.lo)
        d_box = difference.box.meet(gap.lo, gap.hi)
        difference = reset_wide(difference, d_box, self.pool, "reset")
        return Pair(value, difference, box, d_box)


class _Product:
    """Linear relaxation of x y and of its difference, for two pairs."""

    def __init__(self, x: Pair, y: Pair, place: str, recorder: Recorder | None) -> None:
        xb, yb, dx, dy = x.value_box, y.value_box, x.difference_box, y.difference_box
        x0, y0 = xb.mid, yb.mid
        spread = relaxation.product_residual(x.value, xb, y.value, yb, place, recorder)
        self.value_terms: list[tuple[Array | float, Form]] = [(x0, y.value), (y0, x.value)]
        self.value_constant: Array = np.asarray(spread.mid - x0 * y0)
        self.value_noise = spread.rad
        self.value_box = product_box(xb, yb)
        # midpoints x~ = x + dx/2, y~ = y + dy/2:  d(xy) = x~ dy + dx y~
        xt, yt = (p.value_box + Box(0.5 * p.difference_box.lo, 0.5 * p.difference_box.hi) for p in (x, y))
        x_mid, y_mid = (combine([(1.0, p.value), (0.5, p.difference)]) for p in (x, y))
        where = f"{place} difference"
        first = relaxation.product_residual(x_mid, xt, y.difference, dy, where, recorder)
        second = relaxation.product_residual(x.difference, dx, y_mid, yt, where, recorder)
        dx0, dy0 = dx.mid, dy.mid
        self.difference_terms: list[tuple[Array | float, Form]] = [
            (xt.mid, y.difference),
            (dy0, x_mid),
            (yt.mid, x.difference),
            (dx0, y_mid),
        ]
        self.difference_constant: Array = np.asarray(first.mid + second.mid - xt.mid * dy0 - dx0 * yt.mid)
        self.difference_noise = first.rad + second.rad
        self.integer_box = product_box(xb + dx, yb + dy)
        self.size = np.abs(x0 * y0) + np.abs(xt.mid * dy0) + np.abs(dx0 * yt.mid) + spread.mag + first.mag + second.mag


def _sum_slack(*products: _Product) -> Array:
    """Covers the rounding of the constants that are added before `combine` sees them."""
    return np.asarray(16 * UNIT * sum(p.size for p in products))
