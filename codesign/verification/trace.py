"""What a checker needs to replay a run: the heuristic choices, and bounds with room for its own rounding.

The choices are the slopes of every plane and the units whose affine form was given up for an interval. Everything else
(boxes, residuals, roundings, symbols) a replay derives for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from codesign.verification.affine import Array, Box
from codesign.verification.relaxation import RelaxationBatch

RELATIVE_ROOM, ABSOLUTE_ROOM = 1e-9, 1e-12
CURVED = ("sigmoid_square", "tanh_square", "sigmoid_patch", "tanh_patch")
MARGIN_ROOM = 1e-8  # a margin that proves a class has to exceed this


@dataclass(frozen=True, eq=False)
class Trace:
    """Choices of one region. `steps` names the planes in order with their number of units: (kind, place, n).

    `states`: of a region that is a whole domain, what the comparison system's steps end in, layer after layer.
    """

    steps: tuple[tuple[str, str, int], ...]
    slopes: Array  # (S,), step after step, slope after slope
    resets: npt.NDArray[np.bool_]  # (R,), in the order of the replay
    states: Array = field(default_factory=lambda: np.zeros(0))  # (P,)

    def then(self, other: Trace) -> Trace:
        """Choices of two propagations, one after the other."""
        slopes, resets, states = (
            np.concatenate([getattr(self, name), getattr(other, name)]) for name in ("slopes", "resets", "states")
        )
        return Trace(self.steps + other.steps, slopes, resets, states)


def traces(batches: Sequence[RelaxationBatch], resets: Sequence[npt.NDArray[np.bool_]], regions: int) -> list[Trace]:
    """One trace a region of the batch."""
    planes = [b for b in batches if b.chosen and b.kind != "square_difference"]
    steps = tuple((str(b.kind), b.place, b.lo.shape[1]) for b in planes)
    slopes = _joined([choice for b in planes for choice in _choices(b)], regions)
    marks = _joined([mask.astype(np.float64) for mask in resets], regions) > 0
    return [Trace(steps, slopes[k].copy(), marks[k].copy()) for k in range(regions)]


def _choices(batch: RelaxationBatch) -> tuple[Array, ...]:
    """The coefficients of a relaxation; the last one of a curved relaxation is a variable that its box fixes."""
    return (*batch.slopes[:-1], batch.lower[-1]) if batch.kind in CURVED else batch.slopes


def _joined(parts: Sequence[Array], regions: int) -> Array:
    return np.concatenate(parts, axis=1) if parts else np.zeros((regions, 0))


def published(box: Box) -> Box:
    """The box as a certificate states it: wider by what separates two correct ways to round."""
    return Box(
        box.lo - (RELATIVE_ROOM * np.abs(box.lo) + ABSOLUTE_ROOM),
        box.hi + (RELATIVE_ROOM * np.abs(box.hi) + ABSOLUTE_ROOM),
    )
