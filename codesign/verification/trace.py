"""What a checker needs to replay a run: the heuristic choices, and bounds with room for its own rounding.

The choices are the slopes of every plane and the units whose affine form was given up for an interval. Everything else
(boxes, residuals, roundings, symbols) a replay derives for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codesign.verification.affine import Array, Box
from codesign.verification.relaxation import RelaxationBatch

RELATIVE_ROOM, ABSOLUTE_ROOM = 1e-9, 1e-12
MARGIN_ROOM = 1e-8  # a margin that proves a class has to exceed this


@dataclass(frozen=True, eq=False)
class Trace:
    """Choices of one region. `steps` names the planes in order with their number of units: (kind, place, n)."""

    steps: tuple[tuple[str, str, int], ...]
    slopes: Array  # (S,), step after step, slope after slope
    resets: npt.NDArray[np.bool_]  # (R,), in the order of the replay


def traces(batches: Sequence[RelaxationBatch], resets: Sequence[npt.NDArray[np.bool_]], regions: int) -> list[Trace]:
    """One trace a region of the batch."""
    planes = [b for b in batches if b.kind != "square_difference"]
    steps = tuple((str(b.kind), b.place, b.lo.shape[1]) for b in planes)
    slopes = _joined([slope for b in planes for slope in b.slopes], regions)
    marks = _joined([mask.astype(np.float64) for mask in resets], regions) > 0
    return [Trace(steps, slopes[k].copy(), marks[k].copy()) for k in range(regions)]


def _joined(parts: Sequence[Array], regions: int) -> Array:
    return np.concatenate(parts, axis=1) if parts else np.zeros((regions, 0))


def published(box: Box) -> Box:
    """The box as a certificate states it: wider by what separates two correct ways to round."""
    return Box(
        box.lo - (RELATIVE_ROOM * np.abs(box.lo) + ABSOLUTE_ROOM),
        box.hi + (RELATIVE_ROOM * np.abs(box.hi) + ABSOLUTE_ROOM),
    )
