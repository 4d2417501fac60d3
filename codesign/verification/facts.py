"""What a certificate tells about a region besides its bounds and verdicts: norms, class margins, bounds by step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from codesign.verification.affine import Array
from codesign.verification.norms import Norms
from codesign.verification.propagate import Enclosure
from codesign.verification.trace import ABSOLUTE_ROOM, RELATIVE_ROOM


@dataclass(frozen=True)
class Facts:
    """`norms`, `logit_norms`: of the difference over a whole output. `margins`: one a row, see `class_margins`.

    `step_bound`: for each LSTM, a bound on its hidden state's difference at each step. `output_step_bound`: the largest
    bound of each output row, where the network has several.
    """

    norms: Norms
    logit_norms: Norms
    margins: tuple[dict[str, float | int], ...] = ()
    step_bound: tuple[tuple[float, ...], ...] | None = None
    output_step_bound: tuple[float, ...] | None = None

    def to_json(self) -> dict[str, object]:
        steps, rows = self.step_bound, self.output_step_bound
        return {
            "norms": asdict(self.norms),
            "logit_norms": asdict(self.logit_norms),
            "margins": [dict(m) for m in self.margins],
            "step_bound": None if steps is None else [list(layer) for layer in steps],
            "output_step_bound": None if rows is None else list(rows),
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Facts:
        """The inverse of `to_json`, after a round trip through JSON."""
        steps, rows = data["step_bound"], data["output_step_bound"]
        return Facts(
            Norms(**data["norms"]),
            Norms(**data["logit_norms"]),
            tuple(data["margins"]),
            None if steps is None else tuple(tuple(layer) for layer in steps),
            None if rows is None else tuple(rows),
        )


def facts(
    enclosure: Enclosure, k: int, bound: Array, logit: Array, margins: tuple[dict[str, float | int], ...]
) -> Facts:
    """Of region `k`: `bound`, `logit` (outputs,) are its published bounds, `margins` what `class_margins` gives."""
    rows = len(enclosure.margins)
    size = len(bound) // rows

    def sums(values: Array | None) -> Array:
        if values is None:
            return np.full(rows, np.inf)
        return np.asarray(values[k] * (1 + RELATIVE_ROOM) + size * ABSOLUTE_ROOM)

    steps = tuple(tuple(map(float, h[k] * (1 + RELATIVE_ROOM) + ABSOLUTE_ROOM)) for h in enclosure.hidden)
    return Facts(
        Norms.of(bound, sums(enclosure.output_sums)),
        Norms.of(logit, sums(enclosure.logit_sums)),
        margins,
        steps or None,
        tuple(map(float, bound.reshape(rows, size).max(1))) if rows > 1 else None,
    )
