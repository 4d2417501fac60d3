"""Replays one LSTM layer over a whole domain: checks that every step ends in the recorded state.

A state is (6, H), ends outward: -lo, hi of the float h; -lo, hi of the float c; largest differences of h and of c. For
a fixed number of steps each starts from the state before; for any number, no step may leave the one state. The bounds
of a step are those of docs/soundness.md, lemmas 12 and 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.checker.forms import Array, Box, affine, gamma, up
from codesign.checker.integer import GATE_HI, GATE_LO
from codesign.checker.lstm import LstmReplay, Pair
from codesign.checker.result import demand, same
from codesign.proof.arithmetic import lstm_table_error
from codesign.proof.slopes import forget_polygon, gate_polygon

SATURATED = 3.4e-4  # above 1 - sigmoid(8 - 2^-12): what a clipped gate's function and its slope can be off
_GATES = ("sigmoid", "sigmoid", "tanh", "sigmoid")  # i, f, g, o


class DomainReplay(LstmReplay):
    """One layer over one region. `contraction`: what is stated of any number of steps; None for a fixed number."""

    contraction: dict[str, Any] | None = None

    def run(self, inputs: Sequence[Pair]) -> list[Pair]:
        state, outputs, stated = np.zeros((6, self.units)), [], self.contraction
        self.shared = np.concatenate([self.R_int.mid, self.W_int.mid], axis=1)
        for step, x in enumerate(inputs):
            end = self.facts.choices.state(self.units)
            place = f"{self.layer.name}[{step}]" if stated is None else self.layer.name
            held = stated is None or bool((end >= 0).all())
            demand(held, f"the proof's state of {place} does not hold the reset state")
            found = self._step(x.value, x.difference.mag, state if stated is None else end, place)
            demand(bool((found <= end).all()), f"the proof's state of {place} does not hold what the step ends in")
            state = end
            boxes = Box(-end[:1], end[1:2]), Box(-end[4:5], end[4:5])
            outputs.append(Pair(*(affine([box], self.symbols) for box in boxes)))
        if stated is not None:
            self._check_rate(stated, state)
        return outputs

    def _step(self, x: Box, dx: Array, state: Array, place: str) -> Array:
        H, clip = self.units, self.layer.cell_clip
        h, c, dh, dc = Box(-state[:1], state[1:2]), Box(-state[2:3], state[3:4]), state[4:5], state[5:]
        z = affine([(self.W, affine([x])), (self.R, affine([h])), Box.full(self.b, self.b, (1, 4 * H))])
        sources, noise = np.concatenate([dh, dx], axis=1)[0], self._noise(x, dx, h, dh)
        dz = up((np.abs(self.shared) @ sources + noise) * (1 + gamma(len(sources))))
        reach = z.widen(dz)
        wide, clipped = reach.clip(GATE_LO, GATE_HI), (reach.lo < GATE_LO) | (reach.hi > GATE_HI)
        beyond = np.where(clipped, up(SATURATED * (1 + dz)), 0.0)
        gates = [(name, slice(k * H, (k + 1) * H)) for k, name in enumerate(_GATES)]
        fi, ff, fg, fo = (self._image(name, place, z.part(p)) for name, p in gates)
        i, f, g, o = (self._image(name, place, wide.part(p)) for name, p in gates)
        ei, ef, eg, eo = (
            lstm_table_error(name, -12, wide.part(p).lo, wide.part(p).hi) + beyond[:, p] for name, p in gates
        )
        exact = ff * c + fi * fg
        new = exact.clip(-clip, clip) if clip else exact
        hidden, reached = fo * self._image("tanh", place, new), c.widen(dc)
        g_size = np.minimum(g.mag + eg, 1.0)
        lost = ef * reached.mag + ei * g_size + i.hi * eg + self.cell_rounding
        forget = (f.hi + ef) * reached.mag + self.cell_rounding
        write = np.minimum(i.hi + ei, 1.0) * g_size + self.cell_rounding
        for size in (forget, write, forget + write):
            lost = lost + Box(-up(size), up(size)).saturation(*self.cell_range).mag
        lost = up(lost + exact.saturation(-clip, clip).mag if clip else lost)
        pairs = self.facts.polygon(f"{place} slopes of input and cell gate", gate_polygon(i, g))
        forgets = self.facts.polygon(f"{place} slopes of the forget gate", forget_polygon(f, reached))
        cell = np.array([[(p[:, 0], q[:, 1], p[:, 1], q[:, 0]) for q in forgets] for p in pairs])
        self.cell = np.moveaxis(cell.reshape(-1, 4, H), 1, 2)  # (V, H, 4): of dz_i, dz_f, dz_g, dc
        self.corners = np.zeros((0, H, 2))
        c_new = new.widen(self._bounds(sources, dc[0], noise[0], lost[0])[1])
        t, et = self._image("tanh", place, c_new), lstm_table_error("tanh", self.cell_shift, c_new.lo, c_new.hi)
        late = up(eo * np.minimum(t.mag + et, 1.0) + o.hi * et + self.hidden_rounding)
        late = up(late + hidden.saturation(*self.hidden_range).mag)
        self.corners = self.facts.polygon(f"{place} slopes of output gate and cell", gate_polygon(o, t))
        ends = (hidden, self.hidden_range), (new, self.cell_range)  # both values lie in their ranges
        changes = [
            np.minimum(d, up(box.mag[0] + max(map(abs, end))))
            for d, (box, end) in zip(self._bounds(sources, dc[0], noise[0], lost[0], late[0]), ends, strict=True)
        ]
        return np.stack([-hidden.lo[0], hidden.hi[0], -new.lo[0], new.hi[0], *changes])

    def _image(self, function: Any, place: str, z: Box) -> Box:
        return self.facts.image(function, f"{place} {function}", z)

    def _noise(self, x: Box, dx: Array, h: Box, dh: Array) -> Array:
        """Largest |dz - R^ dh - W^ dx|, (1, 4H): weight differences, rounding, and what partial sums lose by clips."""
        shape = (1, 4 * self.units)
        bias = Box.around(np.broadcast_to(self.b_int, shape), self.b_slack)
        total = np.abs(self.b_int - self.b) + self.b_slack + self.rounding
        for box, d, gap, known in ((x, dx, self.W_gap, self.W_int), (h, dh, self.R_gap, self.R_int)):
            total = total + box.mag @ gap.mag.T + d @ np.asarray(known.rad).T
        total = total * (1 + gamma(x.lo.shape[1] + self.units))
        reach, none = h.widen(dh).clip(*self.hidden_range), Box.full(0.0, 0.0, shape)
        for matrix, box, constant in ((self.W_int, x.widen(dx), bias), (self.R_int, reach, none)):
            part = affine([(matrix, affine([box])), constant])
            total = total + part.widen(self.rounding).saturation(GATE_LO, GATE_HI).mag
        return up(total)

    def _bounds(
        self, sources: Array, dc: Array, noise: Array, lost: Array, late: Array | float = 0.0
    ) -> tuple[Array, Array]:
        """Largest (|dh'|, |dc'|), each (H,), over the corners: sums of magnitudes, convex in the coefficients."""
        shared, noise = self.shared.reshape(4, self.units, -1), noise.reshape(4, -1)
        v = self.cell
        cell = np.einsum("vhg,ghj->vhj", v[..., :3], shared[:3])
        own = np.maximum(v[..., 3], 0.0) * dc + (np.abs(v[..., :3]) * noise[:3].T).sum(-1) + lost
        # Signed sums are off by their magnitudes' sum times a few units.
        slack = 1e-14 * (1 + np.abs(v).max()) * ((np.abs(shared) @ sources).sum(0) + noise.sum(0))
        best, room = np.zeros(self.units), 1 + gamma(len(sources) + 16)
        for a, b in np.moveaxis(self.corners, 2, 1):
            both = np.abs(a[:, None] * shared[3] + b[:, None] * cell) @ sources + np.abs(b) * own
            best = np.maximum(best, both.max(0) + np.abs(a) * noise[3])
        new_cell = ((np.abs(cell) @ sources + own).max(0) + slack) * room
        return up((best + 2 * slack) * room + late), up(new_cell)

    def _check_rate(self, stated: dict[str, Any], state: Array) -> None:
        """The linear part of the bounds maps the stated weights, all positive, to at most the stated rate of them."""
        name = f"all_inputs/contraction of layer '{self.layer.name}'"
        for key, values in (("layer", self.layer.name), ("hidden", state[4].tolist()), ("cell", state[5].tolist())):
            same(f"{name}/{key}", stated[key], values)
        v, H = np.asarray(stated["weights"], dtype=np.float64), self.units
        demand(v.shape == (2 * H,) and bool((v > 0).all()), f"{name}/weights: has to be {2 * H} positive numbers")
        sources = np.zeros(self.shared.shape[1])
        sources[:H] = v[:H]
        image = np.concatenate(self._bounds(sources, v[H:], np.zeros(4 * H), np.zeros(H)))
        demand(bool((image <= stated["rate"] * v).all()), f"{name}/rate: does not follow")
