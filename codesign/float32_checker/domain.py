"""Errors of a float32 evaluation over a whole domain: the corners of polygons around an LSTM step's coefficients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from codesign.checker import Claims
from codesign.checker.forms import Array, Box, affine
from codesign.checker.result import demand
from codesign.checker.solver import Facts
from codesign.domain_checker.lstm import DomainReplay
from codesign.float32_checker.errors import HIDDEN, LOST, LstmErrors, Step, Vector, hidden_size, image, single
from codesign.network.model import Dense, Lstm, Reshape
from codesign.proof.float32 import FLUSHED, SIGMOID, TANH, UNIT
from codesign.proof.slopes import forget_polygon, gate_polygon
from codesign.quantization.align import LstmStage


class PolygonErrors(DomainReplay):
    """One layer. Its bounds are those of lemma 13, with the float network's own weights in place of the integer's."""

    def prepare(self) -> None:
        self.shared = np.concatenate([self.R.mid, self.W.mid], axis=1)
        self.plain = LstmErrors(self.layer)

    def advance(self, x: Vector, step: Step, size: Array, error: Array) -> Array:
        """(2, H): errors of h and c after the step, from those before it."""
        s, t, (h, c) = SIGMOID * UNIT, TANH * UNIT, error[:, None]
        noise = self.plain.loss(x, size, h)
        dz = h @ np.abs(self.plain.R).T + x.error @ np.abs(self.plain.W).T + noise
        parts = [slice(k * self.units, (k + 1) * self.units) for k in range(4)]
        wide = [z.widen(dz[:, p] * (1 + 1e-12)) for z, p in zip(step.gates, parts, strict=True)]
        i, f, g, o = (image("tanh" if k == 2 else "sigmoid", z) for k, z in enumerate(wide))
        cell, place = step.before.widen(c), f"{self.layer.name} float32"
        local = s * cell.mag + s * (g.mag + t) + t * i.mag + 6 * FLUSHED
        local = local + single(2) * ((f.mag + s) * cell.mag + (i.mag + s) * (g.mag + t))
        pairs = self.facts.polygon(f"{place} slopes of input and cell gate", gate_polygon(i, g))
        forgets = self.facts.polygon(f"{place} slopes of the forget gate", forget_polygon(f, cell))
        corners = np.array([[(p[:, 0], q[:, 1], p[:, 1], q[:, 0]) for q in forgets] for p in pairs])
        self.cell, self.corners = np.moveaxis(corners.reshape(-1, 4, self.units), 1, 2), np.zeros((0, self.units, 2))
        sources, given = np.concatenate([h, x.error], axis=1)[0], (c[0], noise[0], local[0])
        new = self._bounds(sources, *given)[1]
        tanh = image("tanh", step.after.widen(new[None]))
        late = s * (tanh.mag + t) + t * o.mag + single(1) * (o.mag + s) * (tanh.mag + t) + 3 * FLUSHED
        self.corners = self.facts.polygon(f"{place} slopes of output gate and cell", gate_polygon(o, tanh))
        if self.layer.cell_clip:  # any share of the cell's change is left
            self.corners = np.concatenate([self.corners, self.corners * (1.0, 0.0)])
        return np.stack(self._bounds(sources, *given, late[0])) * (1 + 1e-10)


class DomainErrors:
    """Layer after layer over the domain of a certificate, given the states that a check has found to hold."""

    def __init__(self, claims: Claims, facts: Facts) -> None:
        whole = claims.document["all_inputs"]
        self.any_length, self.facts, self.states = whole["any_length"], facts, claims.proof.states[0]
        self.stated: Iterator[Any] = iter(whole["float32_states"])
        stages = [[s for s in chain if isinstance(s, LstmStage)] for chain in claims.chains]
        self.ops = {id(group[0].float_layer): [s.int_op for s in group] for group in zip(*stages, strict=True)}
        lo, hi = claims.proof.lo[0], claims.proof.hi[0]
        self.boxes = [Box(a[None], b[None]) for a, b in zip(lo, hi, strict=True)][: 1 if self.any_length else None]

    def lstm(self, layer: Lstm, inputs: Sequence[Vector], symbols: Any) -> list[Vector]:
        """The hidden state's errors after every step, and the boxes that it leaves behind."""
        errors = PolygonErrors(layer, self.ops[id(layer)], self.facts, symbols)
        errors.prepare()
        steps, hidden = self._steps(errors)
        self.boxes = hidden if layer.return_sequences or self.any_length else hidden[-1:]
        one = np.ones((1, layer.units))
        size, error, outputs = 0.0 * one, np.zeros((2, layer.units)), []
        if self.any_length:
            found = next(self.stated, None)
            if found is None:
                return [Vector(one, HIDDEN * one)]
            size, error = hidden_size(steps[0]), np.asarray(found, dtype=np.float64).reshape(2, -1)
            held = error.shape == (2, layer.units) and bool((error >= 0).all())
            held = held and bool((errors.advance(inputs[0], steps[0], size, error) <= error).all())
            demand(held, f"all_inputs/float32_states of layer '{layer.name}': a step leaves them")
            return [Vector(size, np.minimum(error[:1], HIDDEN))]
        for x, step in zip(inputs, steps, strict=True):
            error = errors.advance(x, step, size, error)
            if not bool((error[0] < LOST).all() and (error[1] < 1e7).all()):
                break
            size = hidden_size(step)
            outputs.append(Vector(size, error[:1]))
        return outputs + [Vector(one, HIDDEN * one)] * (len(inputs) - len(outputs))

    def _steps(self, errors: PolygonErrors) -> tuple[list[Step], list[Box]]:
        """Ranges of the steps, and of the hidden state after them."""
        H, still = errors.units, Box.full(0.0, 0.0, (1, errors.units))
        h = before = still
        steps, hidden = [], []
        for x in self.boxes:
            state, self.states = self.states[: 6 * H].reshape(6, H), self.states[6 * H :]
            after_h, after = Box(-state[:1], state[1:2]), Box(-state[2:3], state[3:4])
            if self.any_length:
                h, before = after_h, after
            bias = Box.full(errors.b, errors.b, (1, 4 * H))
            z = affine([(errors.W, affine([x])), (errors.R, affine([h])), bias])
            i, f, g, o = (Box(z.lo, z.hi).part(slice(k * H, (k + 1) * H)) for k in range(4))
            steps.append(Step((i, f, g, o), before, after))
            h, before = after_h, after
            hidden.append(h)
        return steps, hidden

    def follow(self, layer: Any) -> None:
        """The boxes behind a layer that is no LSTM."""
        if isinstance(layer, Dense):
            W, b = layer.W.astype(np.float64), layer.b.astype(np.float64)
            forms = [affine([(Box(W, W), affine([x])), Box.full(b, b, (1, len(b)))]) for x in self.boxes]
            self.boxes = [self._image(layer.activation, Box(x.lo, x.hi)) for x in forms]
        elif not isinstance(layer, Reshape):
            self.boxes = [self._image(layer.kind, x) for x in self.boxes]
        elif not self.any_length:
            lo, hi = (np.concatenate([getattr(x, end) for x in self.boxes], axis=1) for end in ("lo", "hi"))
            width = layer.shape[-1]
            self.boxes = [Box(lo, hi).part(slice(k, k + width)) for k in range(0, lo.shape[1], width)]

    def _image(self, kind: str, x: Box) -> Box:
        if kind == "relu":
            return Box(np.maximum(x.lo, 0.0), np.maximum(x.hi, 0.0))
        return image(kind, x) if kind in ("sigmoid", "tanh") else x
