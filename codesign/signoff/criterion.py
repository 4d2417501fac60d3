"""A criterion that a deployment was asked for, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from codesign.signoff.evidence import Status
from codesign.signoff.wording import number
from codesign.text import upward

CriterionName = Literal["epsilon", "top1_share", "top1_above", "topk", "ranking", "thresholds"]


@dataclass(frozen=True)
class CriterionResult:
    """A criterion asked for: what is `wanted`, the figure `reached` (None: cannot be told) and its status.

    `reached` is the largest bound for 'epsilon', else the share of regions with a proof. Several thresholds are several
    criteria of that name; `hysteresis`: where the float output is farther than that from it, the sides agree.
    """

    name: CriterionName
    wanted: float | list[int] | dict[str, float | int | None]
    reached: float | None
    status: Status
    hysteresis: float | None = None

    @property
    def sentence(self) -> str:
        reached = "none" if self.reached is None else number(self.reached)
        if isinstance(self.wanted, dict):
            place = self.wanted["output"]
            which = "every output" if place is None else f"output {place}"
            what = f"{which} on the same side of {number(self.wanted['value'] or 0.0)} as the float model's"
            band = "" if self.hysteresis is None else f"; always so farther than {upward(self.hysteresis)} from it"
            return f"{what} is {self.status} (share of regions proved: {reached}{band})"
        wanted = " above ".join(map(str, self.wanted)) if isinstance(self.wanted, list) else number(self.wanted)
        if self.name == "epsilon":
            return (
                f"|integer - float| <= {wanted} on every output and region is {self.status} "
                f"(largest certified bound: {'none' if self.reached is None else upward(self.reached)})"
            )
        what = {
            "top1_share": f"the same top-1 class on a share of at least {wanted} of the regions",
            "top1_above": f"the same top-1 class wherever the float model's probability exceeds {wanted}",
            "topk": f"the same set of the {wanted} largest outputs",
            "ranking": f"output {wanted} wherever it is so in the float model",
        }[self.name]
        return f"{what} is {self.status} (share of regions proved: {reached})"
