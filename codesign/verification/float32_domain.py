"""Float32 errors of an LSTM over a whole domain, where ranges are wide: by the corners of polygons of coefficients.

As `codesign.verification.float32_budget`, with the bounds of the comparison system (`codesign.verification.comparison`)
in place of a zonotope: by the mean value theorem along the straight path from the real to the computed arguments, gates
near 0 or 1 exclude large derivatives, and gates that share inputs keep the signs of their weights. It is the system
that models of any number of steps are trained to contract in.
"""

from __future__ import annotations

import numpy as np

from codesign.network.model import FloatNetwork, Lstm
from codesign.proof.float32 import FLUSHED, SIGMOID, TANH, UNIT
from codesign.proof.slopes import Polygon, forget_polygon, gate_polygon
from codesign.verification import relaxation
from codesign.verification.affine import Array
from codesign.verification.comparison import SignedSums, StepTerms, cell_corners, note_polygon
from codesign.verification.float32_budget import (
    Budget,
    Errors,
    LayerErrors,
    StepRange,
    Values,
    budget,
    gamma,
    interval_ranges,
    part,
)
from codesign.verification.relaxation import Recorder


class DomainErrors(LayerErrors):
    """One layer over one domain. `recorder` takes the polygons' facts, for any length of the settled step only."""

    def __init__(self, layer: Lstm, recorder: Recorder | None = None, any_length: bool = False) -> None:
        super().__init__(layer)
        self.noted = recorder
        self.recorder = None if any_length else recorder
        self.sums = SignedSums(np.concatenate([self.R, self.W], axis=1).reshape(4, layer.units, -1))

    def step(self, x: Values, before: Errors, known: StepRange, h_size: Array) -> Errors:
        H, error = self.units, before.magnitude
        h, c = error[:, :H], error[:, H:]
        noise = self.gate_rounding(x, h_size, h)
        wide = known.z.widen(h @ np.abs(self.R).T + x.error @ np.abs(self.W).T + noise)
        i, f, o = (relaxation.image("sigmoid", part(wide, k, H)) for k in (0, 1, 3))
        g, cell = relaxation.image("tanh", part(wide, 2, H)), known.before.widen(c)
        s, t = SIGMOID * UNIT, TANH * UNIT
        local = s * cell.mag + s * (g.mag + t) + i.mag * t
        local = local + gamma(2) * ((f.mag + s) * cell.mag + (i.mag + s) * (g.mag + t)) + 8 * FLUSHED
        corners = cell_corners(
            self._corners(gate_polygon(i, g), "input and cell gate"),
            self._corners(forget_polygon(f, cell), "forget gate"),
        )
        terms = StepTerms(corners, np.empty((0, H, 2)), noise.reshape(4, H), local[0], local[0])
        dx, dh, dc = x.error[0], h[0], c[0]
        new_c = self.sums.cell_difference(terms, dx, dh, dc)
        squashed = relaxation.image("tanh", known.c.widen(new_c[None]))
        late = s * (squashed.mag + t) + o.mag * t + gamma(1) * (o.mag + s) * (squashed.mag + t) + 4 * FLUSHED
        hidden = self._corners(gate_polygon(o, squashed), "output gate and cell")
        if self.layer.cell_clip:  # behind it a change of the cell is any share of what it was
            hidden = np.concatenate([hidden, hidden * (1.0, 0.0)])
        terms = StepTerms(corners, hidden, terms.noise, terms.cell_error, late[0])
        new_h = self.sums.hidden_difference(terms, dx, dh, dc)
        return Errors.of(np.concatenate([new_h, new_c])[None] * (1 + 1e-9))

    def settled(self, x: Values, before: Errors, known: StepRange, h_size: Array) -> None:
        self.recorder = self.noted
        self.step(x, before, known, h_size)

    def _corners(self, polygon: Polygon, what: str) -> Array:
        if self.recorder is not None:
            note_polygon(self.recorder, f"{self.layer.name} float32 slopes of the {what}", polygon)
        return polygon.vertices[:, 0]


def domain_budget(
    network: FloatNetwork, lo: Array, hi: Array, any_length: bool, recorder: Recorder | None = None
) -> Budget:
    """Of one box of inputs (T, D); `recorder` takes the facts that it rests on. Errors of `budget`."""
    try:
        ranges = interval_ranges(network, lo, hi, any_length)
    except ArithmeticError:
        ranges = None
    size = np.maximum(np.abs(lo), np.abs(hi))[None]

    def kind(layer: Lstm) -> DomainErrors:
        return DomainErrors(layer, recorder, any_length)

    return budget(network, size[:, :1] if any_length else size, ranges, kind, any_length)
