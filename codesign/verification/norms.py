"""Norms of the output difference, and least margins of a class, from certified boxes and shared symbols.

Everything is rounded outward: sums of n non-negative terms are off by at most gamma(n) relatively.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from codesign.proof.exponentials import LARGEST_MARGIN, complement_range, odds_of
from codesign.quantization.integer import IntActivation
from codesign.verification import relaxation, rounding
from codesign.verification.affine import Array, Box, Form, gamma, up
from codesign.verification.head import Margins
from codesign.verification.relaxation import Recorder, noting
from codesign.verification.trace import ABSOLUTE_ROOM, RELATIVE_ROOM

MAX_SIGNED = 6  # outputs up to which the L1 norm is taken over all sign patterns of the affine forms
_ROOM = 1.0 + 1e-13


def sum_of_magnitudes(form: Form, box: Box) -> Array:
    """Upper bounds (B,) of sum_i |d_i|: of the box, or of the largest signed sum of the forms where that is less.

    sum_i |d_i| = max over signs s of sum_i s_i d_i; s @ (center + G eps) is at most |s @ center| + sum_k |(s @ G)_k|.
    """
    outputs = box.lo.shape[1]
    total = box.mag.sum(1) * (1 + gamma(outputs))
    if not 1 < outputs <= MAX_SIGNED:
        return up(total)
    signs = np.array([(1.0, *rest) for rest in product((1.0, -1.0), repeat=outputs - 1)])
    width = form.generators.shape[-1]
    lost = form.error.sum(1) + gamma(width + 2 * outputs) * form.magnitude.sum(1)
    best = np.zeros(len(total))
    for s in signs:
        value = np.abs(form.center @ s) + np.abs(np.einsum("i,bik->bk", s, form.generators)).sum(1)
        best = np.maximum(best, value)
    return up(np.minimum(total, up(best * (1 + gamma(width)) + lost)))


def probability_sum(difference: Box, softmax: IntActivation, probability: Box) -> Array:
    """Upper bounds (B,) of sum_i |q_i - p_i| for probabilities, (B, M) differences with all rounding included.

    Both real softmaxes sum to 1, so positive and negative parts differ by the roundings alone: the sum is at most twice
    either part, and those roundings. `probability` (B, M): of the integer network's logits.
    """
    outputs = difference.lo.shape[1]
    lost = rounding.softmax_error(softmax, probability)
    gains, losses = np.maximum(difference.hi, 0.0).sum(1), np.maximum(-difference.lo, 0.0).sum(1)
    lowest, highest = np.maximum(-lost.lo, 0.0).sum(1), np.maximum(lost.hi, 0.0).sum(1)
    room = 1 + 4 * gamma(outputs)
    return up(np.minimum(difference.mag.sum(1), np.minimum(2 * gains + lowest, 2 * losses + highest)) * room)


@dataclass(frozen=True)
class Norms:
    """Upper bounds of the norms of the difference over a whole output, all steps together."""

    linf: float
    l2: float
    l1: float

    @staticmethod
    def of(bound: Array, sums: Array) -> Norms:
        """From a bound per output (rows * M,) and on the sum of magnitudes per row (rows,).

        ||d||_2^2 is at most the sum of squared bounds, and at most ||d||_inf ||d||_1.
        """
        rows = bound.reshape(len(sums), -1)
        largest = rows.max(1)
        l1 = np.minimum(sums, rows.sum(1) * (1 + gamma(rows.shape[1])))
        n, scale = len(sums), float(bound.max()) or 1.0  # in units of the largest: squares do not underflow
        squares = np.minimum(((rows / scale) ** 2).sum(1), (largest / scale) * (l1 / scale))
        total = float(np.sqrt(squares.sum() * (1 + gamma(bound.size + n))))
        return Norms(float(bound.max()), float(up(np.array(scale * total))), float(up(l1.sum() * (1 + gamma(n)))))

    def least(self, other: Norms) -> Norms:
        """The smaller of two bounds of each norm."""
        return Norms(min(self.linf, other.linf), min(self.l2, other.l2), min(self.l1, other.l1))

    def to_json(self) -> dict[str, float]:
        return {"linf": self.linf, "l2": self.l2, "l1": self.l1}


def probability_margin(m: Box, i: int, place: str = "", recorder: Recorder | None = None) -> Array:
    """Lower bounds (B, M - 1) of p_i - p_j of the real softmax over all j other than i, from (B, M, M) of l_i - l_j.

    p_i - p_j = p_i (1 - exp(l_j - l_i)) = -p_j (1 - exp(l_i - l_j)).
    """
    # Cutting what is so large moves no probability that an end of these stands for: it is 0 or 1.
    lo, hi = (np.clip(end, -LARGEST_MARGIN, LARGEST_MARGIN) for end in (m.lo, m.hi))
    rest, note = np.flatnonzero(np.arange(lo.shape[1]) != i), noting(recorder, place)

    def probability(least: Array, most: Array) -> Box:
        return relaxation.image("sigmoid", Box(*odds_of(least, most, note)), place, recorder)

    margin = lo[:, i, rest]
    least, most = complement_range(np.abs(margin), np.abs(margin), note)
    lower = probability(lo[:, i, rest], hi[:, i, rest]).lo[:, None] * least / _ROOM
    behind = margin <= 0
    if behind.any():
        batch, j = np.nonzero(behind)[0], rest[np.nonzero(behind)[1]]
        others = j[:, None] != np.arange(lo.shape[1])
        above = probability(*(end[batch, j][others].reshape(len(j), -1) for end in (lo, hi))).hi
        lower[behind] = -np.minimum(above * most[behind] * _ROOM, 1.0)
    return np.asarray(lower - 1e-15)


def _roomy(lower: float) -> float:
    """A margin as it is stated, with room for a checker's rounding."""
    return float(lower - (RELATIVE_ROOM * abs(lower) + ABSOLUTE_ROOM))


def class_margins(
    rows: Sequence[Margins], outputs: Sequence[Box] | None, winners: npt.NDArray[np.intp], region: int,
    recorder: Recorder | None = None,
) -> tuple[dict[str, float | int], ...]:  # fmt: skip
    """For each row of a region, how far at least class `winners[row]` is above every other: logits and probabilities of
    the float and of the integer network. `outputs`: margins of the integer softmax's own output, roundings included.
    `recorder` takes the facts about exponentials that this rests on."""
    found: list[dict[str, float | int]] = []
    for row, (m, winner) in enumerate(zip(rows, map(int, winners), strict=True)):
        classes = m.value.lo.shape[1]
        if classes < 2:
            continue
        rest = np.arange(classes) != winner
        value, integer = (Box(b.lo[region : region + 1], b.hi[region : region + 1]) for b in (m.value, m.integer))
        place = f"softmax of output {row}"
        real = probability_margin(value, winner, place, recorder)
        if outputs is None:
            device = probability_margin(integer, winner, place, recorder)
        else:
            device = outputs[row].lo[region, winner, rest]
        least = {
            "float_logit": value.lo[0, winner, rest],
            "integer_logit": integer.lo[0, winner, rest],
            "float_probability": real,
            "integer_probability": device,
        }
        found.append({"class": winner, **{name: _roomy(lower.min()) for name, lower in least.items()}})
    return tuple(found)
