"""Affine forms inside one LSTM step, where every unit is on its own, and the rows of generators that they stand on.

After the matrix products of a step, whatever follows acts on one unit at a time: its gates, its cell and its hidden
state are combinations of the unit's own ten rows of generators (four gate inputs, their four differences, the old cell
and its difference) and of symbols that are new in this step. A `UnitForm` holds these few coefficients. A sum over
thousands of noise symbols is taken only where a range is needed, by `UnitRows.sums`: one small matrix product a unit,
whose result stays in cache.

Two kinds of symbols are kept apart, so that the float network's rows have no columns for the second: those of the float
network (inputs, its relaxations), and those of the difference alone (roundings, relaxations of differences). A new
symbol of the difference occurs in one row only, or in two rows in a fixed proportion; all of these in a unit become one
symbol, which changes no range that can be read off later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codesign.verification.affine import TINY, UNIT, Array, Box, Form, Pool, gamma, up

# Rows of a unit, and behind them the step's new symbols: four gates and so on are consecutive.
GATE, D_GATE, CELL, D_CELL, ROWS = 0, 4, 8, 9, 10
NEW_GATE, NEW_CELL, NEW_TANH, NEW_HIDDEN = 10, 14, 15, 16
NEW_D_GATE, NEW_D_CELL, NEW_D_TANH, NEW_D_HIDDEN, WIDTH = 17, 21, 22, 23, 24
VALUE_SYMBOLS = (
    (NEW_GATE, "relaxation: gates"),
    (NEW_GATE + 1, "relaxation: gates"),
    (NEW_GATE + 2, "relaxation: gates"),
    (NEW_GATE + 3, "relaxation: gates"),
    (NEW_CELL, "relaxation: cell product"),
    (NEW_TANH, "relaxation: cell tanh"),
    (NEW_HIDDEN, "relaxation: hidden product"),
)
_DIFFERENCE_ROWS = np.array([4, 5, 6, 7, 9])  # the rows in which symbols of the difference occur
_CHUNK = 1 << 16  # numbers of a partial result: 512 KiB
_OWN_TERMS = ROWS + WIDTH
_ALWAYS = 1 << 60


@dataclass(frozen=True, eq=False)
class UnitForm:
    """center + weights . (rows, new symbols) +- error, elementwise: (..., H), weights (..., H, WIDTH).

    `size` is at least |center| plus the magnitudes of all rows and symbols times their weights, before any of them
    cancel: what rounding errors are proportional to.
    """

    center: Array
    weights: Array
    error: Array
    size: Array

    def __getitem__(self, part: int | slice) -> UnitForm:
        """Of a stack (B, m, H)."""
        return UnitForm(self.center[:, part], self.weights[:, part], self.error[:, part], self.size[:, part])

    @staticmethod
    def of_rows(first: int, center: Array, error: Array, size: Array) -> UnitForm:
        """The rows `first`, `first` + 1, ... themselves, (B, m, H)."""
        weights = np.zeros((*center.shape, WIDTH))
        for k in range(center.shape[1]):
            weights[:, k, :, first + k] = 1.0
        return UnitForm(center, weights, error, size)

    def with_symbol(self, slots: int | Sequence[int], radius: Array) -> UnitForm:
        """Plus a symbol of that radius. A slot in use keeps one symbol for both: it must occur nowhere else yet."""
        weights = self.weights.copy()
        for k, slot in enumerate([slots] if isinstance(slots, int) else slots):
            at = (..., slot) if isinstance(slots, int) else (slice(None), k, slice(None), slot)
            own = radius if isinstance(slots, int) else radius[:, k]
            weights[at] = np.where(weights[at] == 0.0, own, up(np.abs(weights[at]) + own))
        return UnitForm(self.center, weights, self.error, up(self.size + radius))

    def merged(self, slots: Sequence[int], into: int) -> UnitForm:
        """One symbol for those in `slots`, which occur in no other form from here on."""
        weights = self.weights.copy()
        total = up(np.abs(weights[..., list(slots)]).sum(-1))
        weights[..., list(slots)] = 0.0
        weights[..., into] = total
        return UnitForm(self.center, weights, self.error, self.size)

    def replaced(self, chosen: npt.NDArray[np.bool_], box: Box, slot: int) -> UnitForm:
        """Where `chosen`, a symbol over the box instead."""
        weights = np.where(chosen[..., None], 0.0, self.weights)
        weights[..., slot] = np.where(chosen, box.rad, weights[..., slot])
        return UnitForm(
            np.where(chosen, box.mid, self.center),
            weights,
            np.where(chosen, TINY, self.error),
            np.where(chosen, up(np.abs(box.mid) + box.rad), self.size),
        )


def stacked(forms: Sequence[UnitForm]) -> UnitForm:
    """(B, H) forms as one (B, m, H)."""
    return UnitForm(*(np.stack([getattr(f, n) for f in forms], axis=1) for n in ("center", "weights", "error", "size")))


def joined(forms: Sequence[UnitForm]) -> UnitForm:
    """(B, m, H) forms one after the other."""
    return UnitForm(
        *(np.concatenate([getattr(f, n) for f in forms], axis=1) for n in ("center", "weights", "error", "size"))
    )


def combined(terms: Sequence[tuple[Array | float, UnitForm]], constant: Array | float = 0.0) -> UnitForm:
    """sum_i a_i X_i + constant with exact a_i."""
    first_a, first = terms[0]
    center, weights = first_a * first.center, np.asarray(first_a)[..., None] * first.weights
    magnitude = np.abs(first_a)
    error, size = magnitude * first.error, magnitude * first.size
    for a, form in terms[1:]:
        center = center + a * form.center
        weights += np.asarray(a)[..., None] * form.weights
        magnitude = np.abs(a)
        error = error + magnitude * form.error
        size = size + magnitude * form.size
    return _finished(center + constant, weights, error, size + np.abs(constant), len(terms))


def summed(form: UnitForm) -> UnitForm:
    """The sum over a stack: (B, m, H) -> (B, H)."""
    if form.center.shape[1] == 1:
        return form[0]
    center, weights, error, size = (part.sum(1) for part in (form.center, form.weights, form.error, form.size))
    return _finished(center, weights, error, size, form.center.shape[1])


def _finished(center: Array, weights: Array, error: Array, size: Array, terms: int) -> UnitForm:
    """Charges the rounding of a sum of `terms` products."""
    size = up(size)
    return UnitForm(center, weights, up(error * (1 + gamma(terms)) + gamma(terms + 1) * size), size)


class UnitRows:
    """The rows of all units of one layer, over the columns (symbols) that have occurred so far.

    `values` (B, 10, H, columns of the float network), `differences` (B, 5, H, columns of the difference alone), and
    the hidden and cell state with their differences between two steps. Arrays have room to grow.
    """

    def __init__(
        self, batch: int, units: int, pool: Pool, steps: int = 0, inputs: int = 0, limit: int = 1 << 62
    ) -> None:
        """`steps`, `inputs` (symbols of all of them) and `limit` (of `fold`): what to expect, so that arrays fit."""
        self.batch, self.units, self.pool = batch, units, pool
        self.kv = self.kd = 0
        self.value_columns: list[npt.NDArray[np.intp]] = []  # places in the pool, in order
        self.difference_columns: list[npt.NDArray[np.intp]] = []
        self._value_ages: list[npt.NDArray[np.int64]] = []  # the step that a column's symbol was made in
        self._difference_ages: list[npt.NDArray[np.int64]] = []
        self.inputs = sum(block[2] for block in pool.blocks[:1] if block[0] == ("input region",))
        most = limit + 16 * units + inputs // max(steps, 1)
        room_v, room_d = (_room(min(inputs + steps * units * n, most)) for n in (len(VALUE_SYMBOLS), 2))
        self.values, self.differences = np.empty((batch, ROWS, units, room_v)), np.empty((batch, 5, units, room_d))
        self.state_v, self.state_d = np.empty((batch, 4, units, room_v)), np.empty((batch, 2, units, room_d))
        self._scratch = np.empty(0)

    def _widen(self, kv: int, kd: int) -> None:
        """Columns of zeros up to these widths."""
        if kv > self.values.shape[-1]:
            self.values, self.state_v = (_grown(a, self.kv, kv) for a in (self.values, self.state_v))
        if kd > self.differences.shape[-1]:
            self.differences, self.state_d = (_grown(a, self.kd, kd) for a in (self.differences, self.state_d))
        self.values[..., self.kv : kv] = 0.0
        self.state_v[..., self.kv : kv] = 0.0
        self.differences[..., self.kd : kd] = 0.0
        self.state_d[..., self.kd : kd] = 0.0
        self.kv, self.kd = kv, kd

    def begin(self, x: Form, dx: Form, W: Array, R: Array, gap: tuple[Array, Array], hat: tuple[Array, Array]) -> None:
        """Rows of the gate inputs W x + R h and of their differences, gap and hat being the pairs (W, R) of weight
        differences and of the integer network's weights; cell rows stay."""
        batch, units = self.batch, self.units
        kv, kd = self.kv, self.kd
        value, difference = self._place(x.generators, dx.generators)
        z, dz, dz_d = self.values[:, :4], self.values[:, 4:8], self.differences[:, :4]
        z, dz, dz_d = (a.reshape(batch, 4 * units, -1) for a in (z, dz, dz_d))
        np.matmul(R, self.state_v[:, 0, :, :kv], out=z[:, :, :kv])
        both = self.state_v[:, :2].reshape(batch, 2 * units, -1)[:, :, :kv]
        np.matmul(np.concatenate([gap[1], hat[1]], axis=1), both, out=dz[:, :, :kv])
        np.matmul(hat[1], self.state_d[:, 0, :, :kd], out=dz_d[:, :, :kd])
        at, gx, gdx = value
        z[:, :, at] += np.matmul(W, gx)
        dz[:, :, at] += np.matmul(gap[0], gx) + np.matmul(hat[0], gdx)
        at, _, gdx = difference
        dz_d[:, :, at] += np.matmul(hat[0], gdx)
        self.values[:, 8:, :, : self.kv] = self.state_v[:, 2:, :, : self.kv]
        self.differences[:, 4, :, : self.kd] = self.state_d[:, 1, :, : self.kd]

    def _place(self, x: Array, dx: Array) -> list[tuple[slice | npt.NDArray[np.intp], Array, Array]]:
        """Columns for the input's symbols: for either kind, where they are, and the generators of x and of dx there."""
        width = max(x.shape[-1], dx.shape[-1])
        used = np.zeros((2, width), bool)
        used[0, : x.shape[-1]], used[1, : dx.shape[-1]] = x.any((0, 1)), dx.any((0, 1))
        kinds = (self.value_columns, self.difference_columns)
        places = []
        taken = np.zeros(width, bool)
        for kind, columns in enumerate(kinds):
            position = np.full(width, -1)
            known = np.concatenate(columns) if columns else np.zeros(0, np.intp)
            inside = known < width
            position[known[inside]] = np.flatnonzero(inside)
            wanted = used[1] & ~taken if kind else used[0] | ((position >= 0) & used[1])
            fresh = np.flatnonzero(wanted & (position < 0))
            if fresh.size:
                columns.append(fresh)
                position[fresh] = len(known) + np.arange(len(fresh))
            taken |= wanted
            chosen = np.flatnonzero(wanted)
            at = position[chosen]
            run = at.size > 0 and bool((np.diff(at) == 1).all())
            places.append((slice(at[0], at[-1] + 1) if run else at, _columns(x, chosen), _columns(dx, chosen)))
        self._widen(sum(map(len, self.value_columns)), sum(map(len, self.difference_columns)))
        return places

    def row_sums(self) -> tuple[Array, Array, Array]:
        """sum |generators| of the gate inputs, of their differences, and of the latter's own symbols: (B, 4, H)."""
        return tuple(  # type: ignore[return-value]
            self._plain(rows, width)
            for rows, width in (
                (self.values[:, :4], self.kv),
                (self.values[:, 4:8], self.kv),
                (self.differences[:, :4], self.kd),
            )
        )

    def _plain(self, rows: Array, width: int) -> Array:
        total = np.zeros(rows.shape[:3])
        some = rows.shape[1] if rows.shape[1] * self.units * width <= 2 * _CHUNK else 1
        for b in range(self.batch):
            for k in range(0, rows.shape[1], some):
                part = self._buffer(some, self.units, width)
                np.abs(rows[b, k : k + some, :, :width], out=part)
                np.add.reduce(part, axis=-1, out=total[b, k : k + some])
        return total

    def _buffer(self, first: int, second: int, third: int) -> Array:
        count = first * second * third
        if count > self._scratch.size:
            self._scratch = np.empty(count)
        return self._scratch[:count].reshape(first, second, third)

    def sums(self, weights: Array, difference: bool = True) -> Array:
        """sum over all columns of |weights . rows|, (..., H) for weights (..., H, WIDTH); rounded to nearest."""
        shape = weights.shape[:-1]
        w = weights.reshape(self.batch, -1, self.units, WIDTH).transpose(0, 2, 1, 3)
        total = np.zeros((self.batch, self.units, w.shape[2]))
        kinds = [(self.values, self.kv, w[..., :ROWS])]
        if difference:
            kinds.append((self.differences, self.kd, w[..., _DIFFERENCE_ROWS]))
        m = w.shape[2]
        for rows, columns, coefficients in kinds:
            wide = max(1, min(columns, _CHUNK // m))
            some = max(1, _CHUNK // (m * wide))
            for b in range(self.batch):
                of_unit = rows[b].transpose(1, 0, 2)
                for u in range(0, self.units, some):
                    for k in range(0, columns, wide):
                        last = min(k + wide, columns)
                        chosen = coefficients[b, u : u + some]
                        part = self._buffer(len(chosen), m, last - k)
                        np.matmul(chosen, of_unit[u : u + some, :, k:last], out=part)
                        np.abs(part, out=part)
                        total[b, u : u + some] += np.add.reduce(part, axis=-1)
        return total.transpose(0, 2, 1).reshape(shape)

    def radius(self, form: UnitForm, sums: Array) -> Array:
        """Upper bound of the deviation from the center; `sums` are those of its rows."""
        total = sums + np.abs(form.weights[..., ROWS:]).sum(-1) + form.error
        return up(total * (1.0 + gamma(self.kv + self.kd + _OWN_TERMS)) + gamma(_OWN_TERMS) * form.size)

    def box(self, form: UnitForm, sums: Array) -> Box:
        """Its range, (..., H)."""
        radius = self.radius(form, sums)
        radius = radius + up(2 * UNIT * (np.abs(form.center) + radius))
        return Box(form.center - radius, form.center + radius)

    def base(self, first: int, center: Array, error: Array, sums: Array) -> tuple[UnitForm, Box]:
        """The rows `first` to `first` + 3 as forms, with their ranges, (B, 4, H); `sums` of their generators."""
        radius = up((sums + error) * (1.0 + gamma(self.kv + self.kd)))
        size = up(np.abs(center) + radius)
        radius = radius + up(2 * UNIT * size)
        return UnitForm.of_rows(first, center, error, size), Box(center - radius, center + radius)

    def sum_and_difference(
        self, x: UnitForm, x0: Array, rx: Array, y: UnitForm, y0: Array, ry: Array
    ) -> tuple[Box, Box]:
        """`affine.sum_and_difference` of stacks: ranges of u + v and u - v, u = (x - x0) / rx, v = (y - y0) / ry."""
        wx, wy = x.weights / rx[..., None], y.weights / ry[..., None]
        weights = np.concatenate([wx + wy, wx - wy], axis=1)
        spread = self.sums(weights) + np.abs(weights[..., ROWS:]).sum(-1)
        size = (x.size + np.abs(x0)) / rx + (y.size + np.abs(y0)) / ry
        lost = gamma(self.kv + self.kd + 3 * _OWN_TERMS) * size + x.error / rx + y.error / ry
        a, b = (x.center - x0) / rx, (y.center - y0) / ry
        count = x.center.shape[1]
        boxes = []
        for middle, part in ((a + b, slice(0, count)), (a - b, slice(count, None))):
            radius = up(spread[:, part] + lost)
            lo, hi = np.maximum(middle - radius, -2.0), np.minimum(middle + radius, 2.0)
            boxes.append(Box(np.minimum(lo, 2.0), np.maximum(hi, -2.0)))
        return boxes[0], boxes[1]

    def finish(self, state: UnitForm, shares: Array) -> None:
        """The next hidden state, its difference, cell, and its difference (B, 4, H) as rows; new symbols get columns.

        `shares` (B, H, 9): parts of the two symbols of the difference, as `DIFFERENCE_SOURCES` names them.
        """
        for rows, width, out, part in (
            (self.values, self.kv, self.state_v, state.weights[..., :ROWS]),
            (self.differences, self.kd, self.state_d, state.weights[:, 1::2][..., _DIFFERENCE_ROWS]),
        ):
            for b in range(self.batch):
                target = out[b].transpose(1, 0, 2)[:, :, :width]
                np.matmul(part[b].transpose(1, 0, 2), rows[b].transpose(1, 0, 2)[:, :, :width], out=target)
        kv, kd, units = self.kv, self.kd, self.units
        for _, source in VALUE_SYMBOLS:
            start = self.pool.allocate(units, source)
            self.value_columns.append(np.arange(start, start + units))
        for names, part in ((_CELL_SOURCES, shares[..., :5]), (_HIDDEN_SOURCES, shares[..., 5:])):
            start = self.pool.allocate(units, names, part)
            self.difference_columns.append(np.arange(start, start + units))
        self._widen(kv + units * len(VALUE_SYMBOLS), kd + 2 * units)
        unit = np.arange(units)
        for k, (slot, _) in enumerate(VALUE_SYMBOLS):
            self.state_v[:, :, unit, kv + k * units + unit] = state.weights[..., slot]
        for k, slot in enumerate((NEW_D_CELL, NEW_D_HIDDEN)):
            self.state_d[:, :, unit, kd + k * units + unit] = state.weights[:, 1::2][..., slot]

    def fold(self, step: int, limit: int) -> int | None:
        """Where there are more than `limit` columns after `step`: one symbol a unit and row for the oldest.

        Symbols of the network's input are kept. At most three quarters of `limit` are left where whole steps allow it.
        What it loses is how the rows depend on each other through these symbols; their ranges stay. Gives the first
        step whose symbols are kept, or None.
        """
        self._ages()
        if self.kv + self.kd <= limit:
            return None
        value, difference = (np.concatenate(ages) for ages in (self._value_ages, self._difference_ages))
        for first in range(step + 2):
            old_v, old_d = value < first, difference < first
            left = np.count_nonzero(~old_v) + np.count_nonzero(~old_d) + 4 * self.units
            if left <= limit * 3 // 4:
                break
        spread = np.abs(self.state_v[..., : self.kv][..., old_v]).sum(-1)
        spread[:, 1::2] += np.abs(self.state_d[..., : self.kd][..., old_d]).sum(-1)
        spread = up(spread * (1 + gamma(self.kv + self.kd)))
        kept_v, kept_d = self.state_v[..., : self.kv][..., ~old_v], self.state_d[..., : self.kd][..., ~old_d]
        self.value_columns = [np.concatenate(self.value_columns)[~old_v]]
        self.difference_columns = [np.concatenate(self.difference_columns)[~old_d]]
        self._value_ages, self._difference_ages = [value[~old_v]], [difference[~old_d]]
        kv, kd, new = kept_v.shape[-1], kept_d.shape[-1], 2 * self.units
        self.state_v[..., :kv], self.state_d[..., :kd] = kept_v, kept_d
        self.kv, self.kd = kv, kd
        self._widen(kv + new, kd + new)
        unit = np.arange(self.units)
        for k, row in enumerate((0, 2)):  # hidden state and cell; then their differences
            for columns in (self.value_columns, self.difference_columns):
                start = self.pool.allocate(self.units, "symbol reduction")
                columns.append(np.arange(start, start + self.units))
            self.state_v[:, row, unit, kv + k * self.units + unit] = spread[:, row]
            self.state_d[:, k, unit, kd + k * self.units + unit] = spread[:, row + 1]
        self._ages()
        return first

    def _ages(self) -> None:
        """New columns are of the step that their symbols were made in; those of the network's input are never old."""
        for ages, columns in (
            (self._value_ages, self.value_columns),
            (self._difference_ages, self.difference_columns),
        ):
            fresh = np.concatenate(columns)[sum(map(len, ages)) :]
            ages.append(np.where(fresh < self.inputs, _ALWAYS, self.pool.born[fresh]))

    def form(self, center: Array, error: Array, difference: bool) -> Form:
        """The hidden state, or its difference, as a form over the pool's symbols."""
        generators = np.zeros((self.batch, self.units, self.pool.size))
        if self.value_columns:
            generators[:, :, np.concatenate(self.value_columns)] = self.state_v[:, int(difference), :, : self.kv]
        if difference and self.difference_columns:
            # A symbol of the difference alone may become one of the float network at a later step: then it is in both.
            generators[:, :, np.concatenate(self.difference_columns)] += self.state_d[:, 0, :, : self.kd]
        return Form(center, generators, error)


_D_GATES = "gate differences: relaxation, rounding, tables"
_CELL_SOURCES = (_D_GATES, _D_GATES, _D_GATES, "cell difference: products, rounding", "reset")
_HIDDEN_SOURCES = (
    _D_GATES,
    "tanh difference: relaxation, table",
    "relaxation: hidden product difference",
    "rounding: hidden state",
    "reset",
)
DIFFERENCE_SOURCES = _CELL_SOURCES + _HIDDEN_SOURCES


def _columns(generators: Array, chosen: npt.NDArray[np.intp]) -> Array:
    """Columns `chosen`, zeros where there are fewer."""
    out = np.zeros((*generators.shape[:2], len(chosen)))
    inside = chosen < generators.shape[-1]
    out[:, :, inside] = generators[:, :, chosen[inside]]
    return out


def _room(columns: int) -> int:
    """An odd multiple of 8 at least that large: rows of such a width do not share cache sets."""
    return columns // 16 * 16 + 24


def _grown(array: Array, used: int, needed: int) -> Array:
    out = np.empty((*array.shape[:-1], _room(needed + needed // 2)))
    out[..., :used] = array[..., :used]
    return out
