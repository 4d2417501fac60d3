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
from codesign.verification import relaxation
from codesign.verification.affine import RESET, UNIT, Array, Box, Form, Matrix, Pool, gamma, product_box, up
from codesign.verification.lstm_noise import GATE_LIMIT, LstmNoise
from codesign.verification.relaxation import Recorder
from codesign.verification.unit_forms import (
    CELL,
    D_CELL,
    D_GATE,
    GATE,
    NEW_CELL,
    NEW_D_CELL,
    NEW_D_GATE,
    NEW_D_HIDDEN,
    NEW_D_TANH,
    NEW_GATE,
    NEW_HIDDEN,
    NEW_TANH,
    ROWS,
    UnitForm,
    UnitRows,
    combined,
    joined,
    stacked,
    summed,
)

# The rows of a region take at most this many bytes; what they hold beyond is folded (`UnitRows.fold`).
ROWS_BYTES = 1 << 27


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
class _UnitPair:
    """`Pair` within a step: a stack (B, m, H) or a single value a unit (B, H)."""

    value: UnitForm
    difference: UnitForm
    value_box: Box
    difference_box: Box

    def __getitem__(self, k: int) -> _UnitPair:
        return _UnitPair(self.value[k], self.difference[k], self.value_box.rows(k), self.difference_box.rows(k))

    @property
    def integer_box(self) -> Box:
        return self.value_box + self.difference_box


def _stack(pairs: Sequence[_UnitPair]) -> _UnitPair:
    return _UnitPair(
        stacked([p.value for p in pairs]),
        stacked([p.difference for p in pairs]),
        _stacked_box([p.value_box for p in pairs]),
        _stacked_box([p.difference_box for p in pairs]),
    )


def _stacked_box(boxes: Sequence[Box]) -> Box:
    return Box(np.stack([b.lo for b in boxes], axis=1), np.stack([b.hi for b in boxes], axis=1))


class LstmPropagation(LstmNoise):
    """Runs one layer over a sequence. `hidden` (B, T): the largest difference of a unit after each step."""

    def __init__(
        self,
        layer: Lstm,
        op: IntLstm,
        pool: Pool,
        recorder: Recorder | None = None,
        variants: Sequence[IntLstm] = (),
    ) -> None:
        super().__init__(layer, op, variants)
        self.pool, self.recorder = pool, recorder
        self.limit = ROWS_BYTES // (8 * ROWS * self.units)

    def run(self, inputs: Sequence[Pair], last_only: bool = False) -> list[Pair]:
        """The hidden states after every step, or after the last one only."""
        batch = inputs[0].value.center.shape[0]
        features = sum(x.value.center.shape[1] for x in inputs)
        rows = UnitRows(batch, self.units, self.pool, len(inputs), features, self.limit)
        zero = np.zeros((batch, 1, self.units))
        nothing = UnitForm.of_rows(CELL, zero, zero, zero)[0]
        hidden = cell = _UnitPair(nothing, nothing, Box(zero[:, 0], zero[:, 0]), Box(zero[:, 0], zero[:, 0]))
        outputs, largest = [], []
        for step, x in enumerate(inputs):
            self.pool.step = step
            hidden, cell = self._step(rows, x, hidden, cell, f"{self.layer.name}[{step}]")
            kept_from = rows.fold(step, self.limit)
            if kept_from is not None and self.recorder is not None:
                self.recorder.fold(f"{self.layer.name}[{step}]", kept_from, batch)
            largest.append(hidden.difference_box.mag.max(1))
            if not last_only or step == len(inputs) - 1:
                forms = [rows.form(f.center, f.error, d) for f, d in ((hidden.value, False), (hidden.difference, True))]
                outputs.append(Pair(forms[0], forms[1], hidden.value_box, hidden.difference_box))
        self.hidden = np.stack(largest, axis=1)
        return outputs

    def _step(self, rows: UnitRows, x: Pair, h: _UnitPair, c: _UnitPair, place: str) -> tuple[_UnitPair, _UnitPair]:
        gates = self._gates(rows, x, h, place)
        cell, cell_sizes, cell_shares = self._cell(rows, gates, c, place)
        squashed = self._squash(rows, cell, place)
        hidden, hidden_sizes, hidden_shares = self._hidden(rows, gates[3], squashed, place)
        state = stacked([hidden.value, hidden.difference, cell.value, cell.difference])
        rows.finish(state, np.stack([*cell_shares, *hidden_shares], axis=-1))
        return _rebased(hidden, hidden_sizes), _rebased(cell, cell_sizes)

    def _gates(self, rows: UnitRows, x: Pair, h: _UnitPair, place: str) -> _UnitPair:
        """The four gates and their differences, (B, 4, H)."""
        w, H = self.weights, self.units
        gap, hat = (w.W_gap.value, w.R_gap.value), (w.W_int.value, w.R_int.value)
        rows.begin(x.value, x.difference, w.W.value, w.R.value, gap, hat)
        z_center, z_error = _mapped([(w.W, x.value), (w.R, h.value)], w.b, 0.0)
        terms: list[tuple[Matrix, Form | UnitForm]] = [(w.W_gap, x.value), (w.W_int, x.difference)]
        terms += [(w.R_gap, h.value), (w.R_int, h.difference)]
        d_center, d_error = _mapped(terms, w.b_gap, w.b_slack)
        shape = (z_center.shape[0], 4, H)
        z_sums, d_sums, own_sums = rows.row_sums()
        z, z_box = rows.base(GATE, z_center.reshape(shape), z_error.reshape(shape), z_sums)
        dz, d_box = rows.base(D_GATE, d_center.reshape(shape), d_error.reshape(shape), d_sums + own_sums)
        z_box, d_box = (Box(b.lo.reshape(-1, 4 * H), b.hi.reshape(-1, 4 * H)) for b in (z_box, d_box))
        noise = self.gate_noise(x.integer_box, h.integer_box, z_box + d_box)
        d_box = d_box + noise
        room = 4 * UNIT * (16 + z_box.mag)
        d_box = d_box.meet(GATE_LIMIT[0] - z_box.hi - room, GATE_LIMIT[1] - z_box.lo + room)
        facts = self._relaxed_gates(z_box, d_box, noise, place)
        slope, mid, rad, slope_z, slope_d, d_mid, d_rad, lo, hi, d_lo, d_hi = (a.reshape(shape) for a in facts)
        value = combined([(slope, z)], mid).with_symbol(range(NEW_GATE, NEW_GATE + 4), rad)
        difference = combined([(slope_z, z), (slope_d, dz)], d_mid)
        difference = difference.with_symbol(range(NEW_D_GATE, NEW_D_GATE + 4), d_rad)
        box = rows.box(value, np.abs(slope) * z_sums).meet(lo, hi)
        both = rows.sums(difference.weights, difference=False) + np.abs(slope_d) * own_sums
        return _UnitPair(value, difference, box, rows.box(difference, both).meet(d_lo, d_hi))

    def _relaxed_gates(self, z: Box, d: Box, noise: Box, place: str) -> list[Array]:
        """(B, 4H) each: slope, middle and radius of the gates' planes; slopes in z and d, middle and radius of the
        differences', rounding and tables included; then ends of both ranges."""
        H = self.units
        recorders = None if self.recorder is None else (Recorder(), Recorder())
        parts: list[list[Array]] = []
        names = ((slice(0, 2 * H), "input and forget gate"), (slice(2 * H, 3 * H), "output gate"))
        for k, (function, table) in enumerate((("sigmoid", self.sigmoid_error), ("tanh", self.tanh_error))):
            pick = _not_third if function == "sigmoid" else _third
            zb, db, lost = (Box(pick(b.lo, H), pick(b.hi, H)) for b in (z, d, noise))
            own = None if recorders is None else recorders[k]
            plane = relaxation.relax(function, zb, "", own)  # type: ignore[arg-type]
            diff = relaxation.relax_difference(function, zb, db, "", own)  # type: ignore[arg-type]
            # The form of d leaves out the rounding noise of this place: charge it through the slope.
            scaled = product_box(Box(diff.slope_d, diff.slope_d), lost)
            shift = Box(diff.mid - diff.rad + table[0], diff.mid + diff.rad + table[1])
            merged = scaled + Box(
                shift.lo - up(4 * UNIT * np.abs(shift.lo)), shift.hi + up(4 * UNIT * np.abs(shift.hi))
            )
            where = f"{place} {'gates' if function == 'sigmoid' else 'cell gate'}"
            image = relaxation.image(function, zb, where, self.recorder)  # type: ignore[arg-type]
            d_image = relaxation.difference_image(function, zb, db, where, self.recorder)  # type: ignore[arg-type]
            d_image = d_image + Box(np.full_like(zb.lo, table[0]), np.full_like(zb.lo, table[1]))
            ends = (image.lo, image.hi, d_image.lo, d_image.hi)
            parts.append([plane.slope, plane.mid, plane.rad, diff.slope_z, diff.slope_d, merged.mid, merged.rad, *ends])
        if self.recorder is not None and recorders is not None:
            (s, s_diff), (t, t_diff) = (own.batches for own in recorders)
            everything = slice(None)
            for batch, name, part in (
                (s, names[0][1], names[0][0]), (s_diff, names[0][1], names[0][0]),
                (t, "cell gate", everything), (t_diff, "cell gate", everything),
                (s, names[1][1], names[1][0]), (s_diff, names[1][1], names[1][0]),
            ):  # fmt: skip
                self.recorder.add(batch.part(f"{place} {name}", (everything, part)))
        return [np.concatenate([a[:, : 2 * H], b, a[:, 2 * H :]], axis=1) for a, b in zip(*parts, strict=True)]

    def _cell(
        self, rows: UnitRows, gates: _UnitPair, c: _UnitPair, place: str
    ) -> tuple[_UnitPair, list[Array], list[Array]]:
        """The new cell with its difference; the size of either form; shares of the difference's symbol by source."""
        i, f, g = gates[0], gates[1], gates[2]
        names = (f"{place} forget * cell", f"{place} input * gate")
        product = _Products(rows, _stack([f, i]), _stack([c, g]), names, self.recorder)
        new, moved = summed(product.value), summed(product.difference)
        sums = rows.sums(np.stack([new.weights, moved.weights], axis=1))
        new = new.with_symbol(NEW_CELL, up(product.value_noise.sum(1) + product.slack))
        both = product.value_box.rows(0) + product.value_box.rows(1)
        own = rows.box(new, sums[:, 0])
        box = own.meet(both.lo, both.hi)
        float_clip = self.float_clip(box)
        if float_clip is not None:
            new = combined([(1.0, new)], float_clip.mid).with_symbol(NEW_CELL, float_clip.rad)
            own = rows.box(new, sums[:, 0])
            box = (box + float_clip).meet(-self.layer.cell_clip, self.layer.cell_clip)
        new, size = self._kept(new, own, box, NEW_CELL)
        parts = [product.integer_box.rows(k) for k in range(2)]
        noise, reach = self.cell_noise(parts)
        if float_clip is not None:
            noise = noise + Box(-float_clip.hi, -float_clip.lo)
        lost = product.slack + 2 * UNIT * np.abs(noise.mid)
        difference = combined([(1.0, moved)], noise.mid)
        difference = difference.with_symbol(NEW_D_CELL, up(product.difference_noise.sum(1) + noise.rad + lost))
        slots = [*range(NEW_D_GATE, NEW_D_GATE + 3), NEW_D_CELL]
        shares = [np.abs(difference.weights[..., slot]) for slot in slots]
        difference = difference.merged(slots, NEW_D_CELL)
        difference, d_box, d_size, shares = self._met(
            rows.box(difference, sums[:, 1]), difference, reach + Box(-box.hi, -box.lo), NEW_D_CELL, shares
        )
        return _UnitPair(new, difference, box, d_box), [size, d_size], shares

    def _met(
        self, own: Box, form: UnitForm, limit: Box, slot: int, shares: list[Array]
    ) -> tuple[UnitForm, Box, Array, list[Array]]:
        """A difference of range `own` with its box, given another interval of it; given up where it is much wider."""
        box = own.meet(limit.lo, limit.hi)
        kept, size = self._kept(form, own, box, slot)
        wide = self.pool.resets[-1]
        return kept, box, size, [*(np.where(wide, 0.0, share) for share in shares), wide.astype(np.float64)]

    def _kept(self, form: UnitForm, own: Box, box: Box, slot: int) -> tuple[UnitForm, Array]:
        """The form, whose range is `own`, or where that is much wider than `box` a symbol over that; and its size.

        A replay has to give up the same units, so the pool remembers them.
        """
        wide = own.rad > RESET * box.rad
        self.pool.resets.append(wide)
        size = up(np.where(wide, box.mag, own.mag) + 8 * UNIT * (np.abs(form.center) + box.mag))
        return form.replaced(wide, box, slot) if wide.any() else form, size

    def _squash(self, rows: UnitRows, cell: _UnitPair, place: str) -> _UnitPair:
        """tanh of the cell and its difference."""
        where = f"{place} cell tanh"
        plane = relaxation.relax("tanh", cell.value_box, where, self.recorder)
        diff = relaxation.relax_difference("tanh", cell.value_box, cell.difference_box, where, self.recorder)
        table = Box(np.full_like(plane.mid, self.cell_tanh_error[0]), np.full_like(plane.mid, self.cell_tanh_error[1]))
        merged = Box(diff.mid - diff.rad, diff.mid + diff.rad).widen(4 * UNIT) + table
        value = combined([(plane.slope, cell.value)], plane.mid).with_symbol(NEW_TANH, plane.rad)
        difference = combined([(diff.slope_z, cell.value), (diff.slope_d, cell.difference)], merged.mid)
        difference = difference.with_symbol(NEW_D_TANH, merged.rad)
        image = relaxation.image("tanh", cell.value_box, where, self.recorder)
        moved = relaxation.difference_image("tanh", cell.value_box, cell.difference_box, where, self.recorder)
        d_image = moved + table
        sums = rows.sums(np.stack([value.weights, difference.weights], axis=1))
        box = rows.box(value, sums[:, 0]).meet(image.lo, image.hi)
        return _UnitPair(value, difference, box, rows.box(difference, sums[:, 1]).meet(d_image.lo, d_image.hi))

    def _hidden(
        self, rows: UnitRows, o: _UnitPair, t: _UnitPair, place: str
    ) -> tuple[_UnitPair, list[Array], list[Array]]:
        """As `_cell`, of the hidden state."""
        product = _Products(rows, _stack([o]), _stack([t]), (f"{place} output * tanh",), self.recorder)
        value, moved = summed(product.value), summed(product.difference)
        sums = rows.sums(np.stack([value.weights, moved.weights], axis=1))
        value = value.with_symbol(NEW_HIDDEN, up(product.value_noise[:, 0] + product.slack))
        own = rows.box(value, sums[:, 0])
        box = own.meet(product.value_box.lo[:, 0], product.value_box.hi[:, 0])
        value, size = self._kept(value, own, box, NEW_HIDDEN)
        noise, reach = self.hidden_noise(product.integer_box.rows(0))
        radius = up(product.difference_noise[:, 0] + product.slack)
        difference = combined([(1.0, moved)], noise.mid).with_symbol(NEW_D_HIDDEN, radius)
        slots = [NEW_D_GATE + 3, NEW_D_TANH, NEW_D_HIDDEN]
        shares = [*(np.abs(difference.weights[..., slot]) for slot in slots), noise.rad]
        difference = difference.with_symbol(NEW_D_HIDDEN, noise.rad).merged(slots, NEW_D_HIDDEN)
        gap = reach + Box(-box.hi, -box.lo)
        difference, d_box, d_size, shares = self._met(
            rows.box(difference, sums[:, 1]), difference, gap, NEW_D_HIDDEN, shares
        )
        return _UnitPair(value, difference, box, d_box), [size, d_size], shares


def _third(a: Array, units: int) -> Array:
    return a[:, 2 * units : 3 * units]


def _not_third(a: Array, units: int) -> Array:
    return np.concatenate([a[:, : 2 * units], a[:, 3 * units :]], axis=1)


def _rebased(pair: _UnitPair, sizes: Sequence[Array]) -> _UnitPair:
    """A new state as the next step sees it: rows of its own, whose size is what they add up to (hidden: no weights)."""
    value, difference = (
        UnitForm.of_rows(row, form.center[:, None], form.error[:, None], size[:, None])[0]
        for row, form, size in ((CELL, pair.value, sizes[0]), (D_CELL, pair.difference, sizes[1]))
    )
    return _UnitPair(value, difference, pair.value_box, pair.difference_box)


def _mapped(
    terms: Sequence[tuple[Matrix, Form | UnitForm]], constant: Array, slack: Array | float
) -> tuple[Array, Array]:
    """Center and error (B, m) of sum_i A_i X_i + constant, the rounding of the generators' sums included."""
    batch = terms[0][1].center.shape[0]
    center = np.broadcast_to(constant, (batch, len(constant))).copy()
    error = np.broadcast_to(np.asarray(slack, dtype=np.float64), center.shape).copy()
    size, count = np.abs(center), 1
    for matrix, form in terms:
        magnitude = form.magnitude if isinstance(form, Form) else form.size
        center += form.center @ matrix.value.T
        error += form.error @ matrix.magnitude.T + magnitude @ matrix.slack.T
        size += magnitude @ matrix.magnitude.T
        count += matrix.value.shape[1]
    return center, up(error * (1 + gamma(count)) + gamma(count) * size)


class _Products:
    """Linear relaxation of x_m y_m and of its difference, for stacks (B, m, H) of pairs; radii of what is left."""

    def __init__(
        self, rows: UnitRows, x: _UnitPair, y: _UnitPair, places: Sequence[str], recorder: Recorder | None
    ) -> None:
        xb, yb, dx, dy = x.value_box, y.value_box, x.difference_box, y.difference_box
        x0, y0 = xb.mid, yb.mid
        # midpoints x~ = x + dx/2, y~ = y + dy/2:  d(xy) = x~ dy + dx y~
        xt, yt = (p.value_box + Box(0.5 * p.difference_box.lo, 0.5 * p.difference_box.hi) for p in (x, y))
        x_mid, y_mid = (combined([(1.0, p.value), (0.5, p.difference)]) for p in (x, y))
        count = len(places)
        record = None if recorder is None else Recorder()
        residual = _residual(
            rows,
            joined([x.value, x_mid, x.difference]), Box.joined([xb, xt, dx]),
            joined([y.value, y.difference, y_mid]), Box.joined([yb, dy, yt]),
            record,
        )  # fmt: skip
        spread, first, second = (residual.rows(slice(k * count, (k + 1) * count)) for k in range(3))
        self.value = combined([(x0, y.value), (y0, x.value)], np.asarray(spread.mid - x0 * y0))
        self.value_noise = spread.rad
        self.value_box = product_box(xb, yb)
        dx0, dy0 = dx.mid, dy.mid
        self.difference = combined(
            [(xt.mid, y.difference), (dy0, x_mid), (yt.mid, x.difference), (dx0, y_mid)],
            np.asarray(first.mid + second.mid - xt.mid * dy0 - dx0 * yt.mid),
        )
        self.difference_noise = first.rad + second.rad
        self.integer_box = product_box(xb + dx, yb + dy)
        size = np.abs(x0 * y0) + np.abs(xt.mid * dy0) + np.abs(dx0 * yt.mid) + spread.mag + first.mag + second.mag
        self.slack: Array = 16 * UNIT * size.sum(1)  # rounding of the constants that `combined` does not see
        if recorder is not None and record is not None:
            for k, place in enumerate(places):
                for m, name in enumerate((place, f"{place} difference", f"{place} difference")):
                    recorder.add(record.batches[0].part(name, (slice(None), m * count + k)))


def _residual(rows: UnitRows, x: UnitForm, xb: Box, y: UnitForm, yb: Box, recorder: Recorder | None) -> Box:
    rx, ry = relaxation.scales(xb), relaxation.scales(yb)
    p, q = rows.sum_and_difference(x, xb.mid, rx, y, yb.mid, ry)
    return relaxation.square_residual(p, q, rx, ry, "", recorder)
