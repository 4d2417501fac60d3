"""Elementwise comparison system for |integer - float| over a whole input domain.

The state is a box of the float values (h, c) and the largest magnitudes (dh, dc) of their differences in the integer
network. One step bounds the new differences by the mean value theorem along the straight path from the float to the
integer arguments. With i, f, o = sigmoid, g = tanh and t = tanh(c') at a point of that path,

    d(f c + i g) = f dc + [f (1 - f) c] dz_f + [i (1 - i) g] dz_i + [i (1 - g^2)] dz_g
    d(o t)       = [o (1 - t^2)] dc' + [o (1 - o) t] dz_o
    dz           = R^ dh + W^ dx + n          hats: the integer network's effective weights; |n| <= noise

so a row is a linear form in (dh, dx, n) whose coefficients range over a small planar set each. The bound is the largest
sum of magnitudes over the corners of polygons around these sets: gates that share inputs keep the signs of their
weights against each other, and i near 1 excludes i (1 - i) being large, as |g| near 1 excludes 1 - g^2 being so. Weight
differences, roundings, table errors over the reachable arguments and saturations enter as magnitudes.

Saturation of inputs and hidden values to a range that holds the float value cannot increase the difference: |clip(v) -
y| <= |v - y| for y inside; what the float value can exceed the range by is added. It scales differences, though, and so
would break the sharing of signs: cells are charged for all that saturation cuts off, and clipped gates for their slope
there.

Everything is float64 with margins: a sum of n products of magnitudes is off by at most gamma(n) relatively, signed sums
by that of their magnitudes; sigmoid and tanh are taken within 2^-46 (`relaxation.image`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from codesign.network.model import Lstm
from codesign.proof.slopes import Polygon, forget_polygon, gate_polygon
from codesign.quantization.integer import IntLstm
from codesign.verification import relaxation
from codesign.verification.affine import UNIT, Array, Box, Matrix, gamma, product_box, up
from codesign.verification.coefficients import table_error
from codesign.verification.lstm_noise import GATE_LIMIT, LstmNoise
from codesign.verification.relaxation import Function, Recorder, RelaxationBatch
from codesign.verification.trace import published

# More than f(z) - f(clip(z)) can be beyond the gates' range, f sigmoid or tanh: 1 - sigmoid(7.999) < 3.4e-4.
SATURATED = 3.4e-4


@dataclass(frozen=True, eq=False)
class State:
    """One layer's state: float boxes h, c and difference magnitudes dh, dc, each (H,)."""

    h: Box
    c: Box
    dh: Array
    dc: Array

    @staticmethod
    def reset(units: int) -> State:
        zero = np.zeros(units)
        return State(Box(zero, zero), Box(zero, zero), zero, zero)

    def roomy(self) -> State:
        """Wider by what separates two correct ways to round: a checker's step from the state before ends inside."""
        nothing = np.zeros_like(self.dh)
        dh, dc = (published(Box(nothing, d)).hi for d in (self.dh, self.dc))
        return State(published(self.h), published(self.c), dh, dc)

    def holds(self, other: State) -> bool:
        differences = (other.dh <= self.dh).all() and (other.dc <= self.dc).all()
        return bool(differences and inside(other.h, self.h) and inside(other.c, self.c))

    def flat(self) -> Array:
        """As a proof file records it: ends outward from 0, so that larger is wider everywhere."""
        return np.concatenate([-self.h.lo, self.h.hi, -self.c.lo, self.c.hi, self.dh, self.dc])


@dataclass(frozen=True, eq=False)
class StepTerms:
    """What a step's difference bounds are made of, for fixed state boxes: see `LayerComparison.terms`.

    The bounds are the largest of finitely many linear forms with non-negative coefficients in (dh, dx, noise), (dc):
    monotone, and homogeneous but for `cell_error`, `hidden_error` and the gates' `noise`.
    """

    cell_vertices: Array  # (V, H, 4): f of dc; coefficients of dz_i, dz_f, dz_g
    hidden_vertices: Array  # (K, H, 2): coefficients of dz_o and dc'
    noise: Array  # (4, H)
    cell_error: Array  # (H,)
    hidden_error: Array  # (H,)


Image = Callable[[Function, Box], Box]


def cell_corners(pairs: Array, forgets: Array) -> Array:
    """Corners (V, H, 4) of the coefficients of dc', f of dc and then of dz_i, dz_f, dz_g, from those of polygons."""
    K, L, H = len(pairs), len(forgets), pairs.shape[1]
    cell = np.empty((K, L, H, 4))
    cell[..., 0], cell[..., 2] = forgets[None, ..., 0], forgets[None, ..., 1]
    cell[..., 1], cell[..., 3] = pairs[:, None, :, 0], pairs[:, None, :, 1]
    return cell.reshape(K * L, H, 4)


def note_polygon(recorder: Recorder, place: str, polygon: Polygon) -> None:
    """Record the facts that a polygon rests on."""
    lower, upper = polygon.fact()
    zero = (np.zeros_like(polygon.support),) * 4
    recorder.add(RelaxationBatch(polygon.kind, place, lower, upper, zero, polygon.lower, polygon.support))


def safe(x: Array, terms: int) -> Array:
    """An upper bound of a computed sum of `terms` non-negative products."""
    return up(x * (1 + gamma(terms)))


def excess(box: Box, lo: float, hi: float) -> Array:
    """How far the box reaches beyond [lo, hi]."""
    over = np.maximum(np.maximum(box.hi - hi, lo - box.lo), 0.0)
    return np.where(over > 0, up(over + 4 * UNIT * box.mag), 0.0)


def affine_box(terms: Sequence[tuple[Matrix, Box]], constant: Array, slack: Array | float = 0.0) -> Box:
    """sum_i A_i x_i + constant over boxes."""
    mid, rad, size, count = constant.astype(np.float64), np.asarray(slack) + 0.0 * constant, np.abs(constant), 1
    for matrix, box in terms:
        mid = mid + matrix.value @ box.mid
        rad = rad + matrix.magnitude @ box.rad + matrix.slack @ box.mag
        size = size + matrix.magnitude @ box.mag
        count += matrix.value.shape[1]
    rad = safe(rad, count) + gamma(count) * size
    return Box(mid - up(rad), mid + up(rad))


@dataclass(frozen=True, eq=False)
class FloatLayer:
    """Interval arithmetic of one float LSTM layer."""

    layer: Lstm
    W: Matrix
    R: Matrix
    b: Array

    @staticmethod
    def of(layer: Lstm) -> FloatLayer:
        H = layer.units
        W, R = (Matrix.exact(v.reshape(4 * H, -1)) for v in (layer.W, layer.R))
        return FloatLayer(layer, W, R, layer.b.reshape(-1).astype(np.float64))

    def gates(self, x: Box, h: Box) -> Box:
        """Pre-activations, (4H,)."""
        return affine_box([(self.W, x), (self.R, h)], self.b)

    def step(self, z: Box, c: Box, image: Image = relaxation.image) -> tuple[Box, Box]:
        """The new h and c for these pre-activations. `image` gives a function's range over a box."""
        new = self.cell(z, c, image)
        if self.layer.cell_clip:
            clip = self.layer.cell_clip
            new = Box(*(np.clip(e, -clip, clip) for e in (new.lo, new.hi)))
        return product_box(image("sigmoid", rows(z, 3, self.layer.units)), image("tanh", new)), new

    def cell(self, z: Box, c: Box, image: Image = relaxation.image) -> Box:
        """The new c before the model's own clip, if it has one."""
        H = self.layer.units
        i, f = (image("sigmoid", rows(z, k, H)) for k in (0, 1))
        return product_box(f, c) + product_box(i, image("tanh", rows(z, 2, H)))

    def invariant(self, x: Box, limit: int = 5000) -> tuple[Box, Box]:
        """Boxes of h and c that hold the reset state and that no step with inputs from `x` leaves.

        ArithmeticError where iteration finds none.
        """
        zero = np.zeros(self.layer.units)
        h = c = Box(zero, zero)
        for _ in range(limit):
            wide_h, wide_c = (v.widen(1e-7 * (1e-3 + v.mag)) for v in (h, c))
            new_h, new_c = self.step(self.gates(x, wide_h), wide_c)
            if inside(published(new_h), wide_h) and inside(published(new_c), wide_c):
                return wide_h, wide_c
            h, c = hull(h, new_h), hull(c, new_c)
        raise ArithmeticError(
            f"the cell state of layer '{self.layer.name}' has no bounded range for any number of steps"
        )


def hull(a: Box, b: Box) -> Box:
    return Box(np.minimum(a.lo, b.lo), np.maximum(a.hi, b.hi))


def inside(a: Box, b: Box) -> bool:
    return bool((a.lo >= b.lo).all() and (a.hi <= b.hi).all())


class SignedSums:
    """Bounds of new differences that keep the signs of shared weights (4, H, H + D) of (dh, dx), gates i, f, g, o."""

    def __init__(self, shared: Array) -> None:
        self.shared = shared
        _, self.units, self.sources = shared.shape

    def _slack(self, terms: StepTerms, sources: Array) -> Array:
        """Covers the rounding of signed sums of weights: their magnitudes' sum times a few units."""
        total = np.abs(self.shared).reshape(4, self.units, -1) @ sources + terms.noise
        largest = 1 + float(np.abs(terms.cell_vertices).max())
        return np.asarray(1e-14 * largest * total.sum(0))

    def cell_difference(self, terms: StepTerms, dx: Array, dh: Array, dc: Array) -> Array:
        """Bound of |dc'|, (H,)."""
        sources = np.concatenate([dh, dx])
        v = terms.cell_vertices
        shared = np.abs(np.einsum("vhg,ghj->vhj", v[..., 1:], self.shared[:3])) @ sources
        own = np.maximum(v[..., 0], 0.0) * dc + (np.abs(v[..., 1:]) * terms.noise[:3].T).sum(-1)
        total = (shared + own).max(0) + self._slack(terms, sources)
        return safe(total + terms.cell_error, self.sources + 16)

    def hidden_difference(self, terms: StepTerms, dx: Array, dh: Array, dc: Array) -> Array:
        """Bound of |dh'|, (H,): every corner of the cell's polygons with every corner of the hidden product's."""
        sources = np.concatenate([dh, dx])
        v = terms.cell_vertices
        cell = np.einsum("vhg,ghj->vhj", v[..., 1:], self.shared[:3])
        own = np.maximum(v[..., 0], 0.0) * dc + (np.abs(v[..., 1:]) * terms.noise[:3].T).sum(-1) + terms.cell_error
        best = np.zeros(self.units)
        for corner in terms.hidden_vertices:
            a, b = corner[:, 0], np.abs(corner[:, 1])
            shared = np.abs(a[:, None] * self.shared[3] + corner[:, 1, None] * cell) @ sources
            best = np.maximum(best, (shared + b * own).max(0) + np.abs(a) * terms.noise[3])
        total = best + self._slack(terms, sources) * 2
        return safe(total + terms.hidden_error, self.sources + 24)


class LayerComparison(SignedSums):
    """The comparison system of one LSTM layer; all vectors are (n,), no batch."""

    def __init__(
        self, layer: Lstm, op: IntLstm, variants: Sequence[IntLstm] = (), recorder: Recorder | None = None
    ) -> None:
        model = LstmNoise(layer, op, variants)  # the rounding model of the joint zonotope
        self.recorder = recorder  # takes the nonlinear facts of every step while it is there
        self.layer, self.op, self.floats = layer, op, FloatLayer.of(layer)
        self.model, self.weights = model, model.weights
        shared = np.concatenate([self.weights.R_int.value, self.weights.W_int.value], axis=1)
        super().__init__(shared.reshape(4, layer.units, -1))

    def noise(self, x: Box, dx: Array, h: Box, dh: Array) -> Array:
        """Largest |dz - R^ dh - W^ dx|, (4H,): weight differences, rounding, saturation."""
        w = self.weights
        count = self.sources + 8
        total = w.W_gap.magnitude @ x.mag + w.W_int.slack @ dx + w.R_gap.magnitude @ h.mag + w.R_int.slack @ dh
        total = safe(total + np.abs(w.b_gap) + w.b_slack + w.rounding, count)
        # Each partial sum saturates alone (TFLM) or not at all (CMSIS-NN).
        input_part = affine_box([(w.W_int, x.widen(dx))], w.b_int, w.b_slack + w.rounding)
        reach = h.widen(dh)
        reach = Box(*(np.clip(e, *self.model.hidden_limit) for e in (reach.lo, reach.hi)))
        hidden_part = affine_box([(w.R_int, reach)], np.zeros_like(w.b_int), w.rounding)
        return up(total + excess(input_part, *GATE_LIMIT) + excess(hidden_part, *GATE_LIMIT))

    def gate_differences(self, dx: Array, dh: Array, noise: Array) -> Array:
        """|dz|, (4H,)."""
        sources = np.concatenate([dh, dx])
        return safe(np.abs(self.shared).reshape(4 * self.units, -1) @ sources + noise, self.sources + 1)

    def terms(self, x: Box, dx: Array, state: State) -> tuple[StepTerms, Box, Box]:
        """The step's terms for these float boxes and (at most) these differences; and the new boxes of h and c."""
        H, m, clip = self.units, self.model, self.layer.cell_clip
        z = self.floats.gates(x, state.h)
        noise = self.noise(x, dx, state.h, state.dh)
        dz = self.gate_differences(dx, state.dh, noise)
        h_box, c_box = self.floats.step(z, state.c, self._image)
        # The sum saturates as well: the path runs between clipped arguments, the rest is the function's change there.
        wide = Box(*(np.clip(e, *GATE_LIMIT) for e in (z.lo - dz, z.hi + dz)))
        # Where it may, slopes there are 0 in the integer network; the polygons below have them less than SATURATED off.
        beyond = ((z.lo - dz < GATE_LIMIT[0]) | (z.hi + dz > GATE_LIMIT[1])) * up(SATURATED * (1 + dz))
        i, f, o = (self._image("sigmoid", rows(wide, k, H)) for k in (0, 1, 3))
        g = self._image("tanh", rows(wide, 2, H))
        c_wide = state.c.widen(state.dc)
        e_i, e_f, e_o = (table_error("sigmoid", -12, rows(wide, k, H)) + beyond[k * H : (k + 1) * H] for k in (0, 1, 3))
        e_g = table_error("tanh", -12, rows(wide, 2, H)) + beyond[2 * H : 3 * H]
        cell_error = e_f * c_wide.mag + e_i * np.minimum(g.mag + e_g, 1.0) + i.hi * e_g + m.cell_rounding
        # The two products saturate, then their sum.
        forget = (f.hi + e_f) * c_wide.mag + m.cell_rounding
        write = np.minimum(i.hi + e_i, 1.0) * np.minimum(g.mag + e_g, 1.0) + m.cell_rounding
        for part in (forget, write, forget + write):
            cell_error = cell_error + excess(Box(-up(part), up(part)), *m.cell_limit)
        if clip:  # what a float model's own clip cuts off
            cell_error = cell_error + excess(self.floats.cell(z, state.c), -clip, clip)
        pairs = self._polygon(gate_polygon(i, g), "input and cell gate")
        forgets = self._polygon(forget_polygon(f, c_wide), "forget gate")
        corners = cell_corners(pairs, forgets)
        step = StepTerms(corners, np.empty((0, H, 2)), noise.reshape(4, H), up(cell_error), cell_error)
        dc = self.cell_difference(step, dx, state.dh, state.dc)
        c_new = c_box.widen(dc)
        t = self._image("tanh", c_new)
        e_t = table_error("tanh", self.op.cell_shift, c_new)
        hidden_error = e_o * np.minimum(t.mag + e_t, 1.0) + o.hi * e_t + m.hidden_rounding
        hidden_error = up(hidden_error) + excess(h_box, *m.hidden_limit)
        hidden = self._polygon(gate_polygon(o, t), "output gate and cell")
        return StepTerms(step.cell_vertices, hidden, step.noise, step.cell_error, hidden_error), h_box, c_box

    def _image(self, function: Function, z: Box) -> Box:
        return relaxation.image(function, z, f"{self.layer.name} {function}", self.recorder)

    def _polygon(self, polygon: Polygon, what: str) -> Array:
        if self.recorder is not None:
            note_polygon(self.recorder, f"{self.layer.name} slopes of the {what}", polygon)
        return polygon.vertices

    def step(self, x: Box, dx: Array, state: State) -> State:
        """One step; x (D,) the input's box and dx its difference's magnitude."""
        terms, h, c = self.terms(x, dx, state)
        dc = self.cell_difference(terms, dx, state.dh, state.dc)
        dh = self.hidden_difference(terms, dx, state.dh, state.dc)
        return State(h, c, *self._trivial(h, c, dh, dc))

    def _trivial(self, h: Box, c: Box, dh: Array, dc: Array) -> tuple[Array, Array]:
        """Both values lie in their own ranges: the difference cannot exceed the sum of their magnitudes."""
        limit = max(-self.model.cell_limit[0], self.model.cell_limit[1])
        hidden = max(-self.model.hidden_limit[0], self.model.hidden_limit[1])
        return np.minimum(dh, up(h.mag + hidden)), np.minimum(dc, up(c.mag + limit))


def rows(box: Box, gate: int, units: int) -> Box:
    part = slice(gate * units, (gate + 1) * units)
    return Box(box.lo[part], box.hi[part])
