"""Alarms: what was observed has to lie within what is about to be told as proved. NaN on either side never does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import SoundnessAlarm

Evidence = Callable[[], Mapping[str, Any]]  # what shows it, made where it is needed


def require_within(what: str, observed: npt.ArrayLike, bound: npt.ArrayLike, evidence: Evidence) -> None:
    """SoundnessAlarm unless every observed value is at most its bound; arrays that broadcast. `what` was observed."""
    seen, allowed = np.asarray(observed, np.float64), np.asarray(bound, np.float64)
    beaten = ~(seen <= allowed)
    if beaten.any():
        index = int(np.argmax(beaten))
        value, limit = (float(np.broadcast_to(v, beaten.shape).reshape(-1)[index]) for v in (seen, allowed))
        raise SoundnessAlarm(
            f"{what} is {value:.6g}, above the derived bound {limit:.6g}",
            {"what": what, "observed": observed, "bound": bound, **evidence()},
        )


def require_never(what: str, happened: bool, evidence: Evidence) -> None:
    """SoundnessAlarm where something happened that was derived to be impossible. `what` is a sentence about it."""
    if happened:
        raise SoundnessAlarm(what, {"what": what, **evidence()})
