"""Bounds on |integer - float| of an LSTM layer for any number of steps.

Let S be boxes of (h, c) that hold the reset state and that no step leaves, and F(u) the comparison system's bound of
the differences after a step from differences of at most u, the float state anywhere in S. F is monotone and differences
start at 0; so F(u) <= u bounds them after every number of steps, by induction. F(u) is the largest of finitely many A_k
u + eps_k with non-negative A_k. Where a positive v has A_k v <= rho v with rho < 1 for all k, any two runs forget their
difference at the rate rho (incremental input-to-state stability; for LSTMs: Bonassi, Terzi, Farina and Scattolini,
2020), and such a u exists once the errors are small enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from codesign.errors import CodesignError
from codesign.verification.affine import Array, Box
from codesign.verification.comparison import LayerComparison, State, StepTerms
from codesign.verification.trace import ABSOLUTE_ROOM, RELATIVE_ROOM

_ITERATIONS = 3000
_GATES = ("input", "forget", "cell", "output")


@dataclass(frozen=True, eq=False)
class Contraction:
    """Proof data of one layer: F(u) <= u, u = (hidden, cell); the linear part maps `weights` v to at most rate v."""

    layer: str
    hidden: Array
    cell: Array
    weights: Array  # (2H,) v > 0: hidden, then cell
    rate: float

    def to_json(self) -> dict[str, object]:
        return {
            "layer": self.layer, "hidden": self.hidden.tolist(), "cell": self.cell.tolist(),
            "weights": self.weights.tolist(), "rate": self.rate,
        }  # fmt: skip


def apply(comparison: LayerComparison, dx: Array, state: State, x: Box) -> tuple[Array, Array, StepTerms]:
    """F at the state's differences: (dh', dc') and the step's terms."""
    terms, _, _ = comparison.terms(x, dx, state)
    cell = comparison.cell_difference(terms, dx, state.dh, state.dc)
    return comparison.hidden_difference(terms, dx, state.dh, state.dc), cell, terms


def invariant_state(comparison: LayerComparison, x: Box, dx: Array) -> tuple[State, Contraction]:
    """Float boxes and differences that hold after every step, for inputs from `x` with differences of at most `dx`.

    CodesignError, naming units and gates, where iteration finds none.
    """
    name = comparison.layer.name
    try:
        h, c = comparison.floats.invariant(x)
    except ArithmeticError as error:
        raise CodesignError(f"no bound for any number of steps: {error}") from None
    zero = np.zeros(comparison.units)
    u = np.zeros(2 * comparison.units)  # hidden, then cell: grows to the least fixed point
    before, last_step = u, u
    for iteration in range(_ITERATIONS):
        ahead = u * (1 + 1e-4) + 1e-9
        if iteration % 8 == 7:
            # Any candidate will do: guess where the increments, shrinking geometrically, lead.
            step = u - before
            ratio = min(float((step / np.maximum(last_step, 1e-300)).max()), 0.995)
            ahead = (u + step * (ratio / (1 - ratio))) * (1 + 1e-3) + 1e-9
        state = State(h, c, ahead[: comparison.units], ahead[comparison.units :])
        new_h, new_c, terms = apply(comparison, dx, state, x)
        image = np.concatenate([new_h, new_c])
        if (image * (1 + RELATIVE_ROOM) + ABSOLUTE_ROOM <= ahead).all():
            weights, rate = contraction(comparison, terms)
            return state, Contraction(name, state.dh, state.dc, weights, rate * (1 + RELATIVE_ROOM))
        if iteration % 8 == 7:
            continue
        last_step = u - before
        before, u = u, np.maximum(u, image)
        if u[: comparison.units].max() > 2.0 or not np.isfinite(u).all():
            break
    raise CodesignError(_refusal(comparison, State(h, c, zero, zero), x, dx))


def _linear(comparison: LayerComparison, terms: StepTerms, v: Array) -> Array:
    """The linear part of F on v = (hidden, cell): no errors, no noise, no input difference."""
    H = comparison.units
    nothing = StepTerms(
        terms.cell_vertices, terms.hidden_vertices, 0 * terms.noise, 0 * terms.cell_error, 0 * terms.hidden_error
    )
    dx = np.zeros(comparison.sources - H)
    cell = comparison.cell_difference(nothing, dx, v[:H], v[H:])
    return np.concatenate([comparison.hidden_difference(nothing, dx, v[:H], v[H:]), cell])


def contraction(comparison: LayerComparison, terms: StepTerms, iterations: int = 60) -> tuple[Array, float]:
    """A positive v and the smallest rate found with F_linear(v) <= rate v (the Collatz-Wielandt bound)."""
    v = np.ones(2 * comparison.units)
    best, rate = v, np.inf
    for _ in range(iterations):
        image = _linear(comparison, terms, v)
        now = float((image / v).max()) * (1 + 1e-12)
        if now < rate:
            best, rate = v, now
        v = np.maximum(0.5 * v + 0.5 * image / max(float(image.max()), 1e-300), 1e-9)
        v = v / v.max()
    return best, rate


def _refusal(comparison: LayerComparison, state: State, x: Box, dx: Array) -> str:
    """One sentence that says what breaks a bound for any number of steps."""
    terms, _, _ = comparison.terms(x, dx, state)
    v, _ = contraction(comparison, terms)
    H = comparison.units
    image = _linear(comparison, terms, v)
    growth = image / v
    rate = float(growth.max())
    worst = sorted({int(k) % H for k in np.argsort(-image)[:8]} or {0}, key=lambda k: -max(image[k], image[H + k]))[:3]
    gates = ", ".join(f"{k} ({_GATES[_gate(comparison, terms, v, k)]} gate)" for k in worst)
    reason = (
        f"differences grow by up to {rate:.3g} a step"
        if rate >= 1
        else f"each step shrinks differences to {rate:.3g} at first, but rounding drives them to where they grow"
    )
    return (
        f"layer '{comparison.layer.name}' has no bound for any number of steps: {reason}, most in units {gates}; "
        "train the model for its bound (docs/all-inputs.md), or certify a fixed number of steps"
    )


def _gate(comparison: LayerComparison, terms: StepTerms, v: Array, unit: int) -> int:
    """Which gate carries most of the growth of a unit: by the largest coefficients times the weights at v."""
    H = comparison.units
    coefficient = np.abs(terms.cell_vertices[:, unit, 1:]).max(0)  # i, f, c
    output = float(np.abs(terms.hidden_vertices[:, unit, 0]).max())
    reach = np.abs(comparison.shared[:, unit, :H]) @ v[:H]
    parts = np.append(coefficient, output) * reach
    parts[1] += float(terms.cell_vertices[:, unit, 0].max()) * v[H + unit]
    return int(np.argmax(parts))


def residual(comparison: LayerComparison, x: Box, dx: Array, state: State) -> float:
    """Largest ratio F(u) / u: at most 1 where u is a bound for ever. For checks."""
    new_h, new_c, _ = apply(comparison, dx, state, x)
    return float(max((new_h / state.dh).max(), (new_c / state.dc).max()))
