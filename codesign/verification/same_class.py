"""How far apart the float network's logits have to be for a bound over all inputs to prove the class equal."""

from __future__ import annotations

import numpy as np

from codesign.quantization.integer import IntActivation
from codesign.verification import head
from codesign.verification.affine import Array, Box, up
from codesign.verification.domain import DomainEnclosure
from codesign.verification.relaxation import Recorder
from codesign.verification.trace import MARGIN_ROOM

_LARGEST_MARGIN = 50.0  # of logits, beyond which a softmax gives 0 and 1


def same_class_margin(domain: DomainEnclosure, bound: Array, recorder: Recorder | None = None) -> float:
    """A margin of the float logits above which the integer network's class is the same; inf where none is enough.

    `bound` (outputs,): of the logits' difference, float32 included.

    Twice the largest bound keeps the order of the logits. Behind a softmax, whose rounded probabilities may be equal
    where logits are not, as much more is needed as makes the integer network's largest probability stand out.
    `recorder` takes the facts that this rests on.
    """
    twice = float(up(np.asarray(2 * bound.max())))
    if domain.softmax is None:
        return twice
    classes = domain.enclosure.margins[0].value.lo.shape[1]
    if classes < 2 or not _stands_out(domain.softmax, classes, _LARGEST_MARGIN):
        return np.inf
    low, high = 0.0, _LARGEST_MARGIN
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if _stands_out(domain.softmax, classes, middle) else (middle, high)
    _stands_out(domain.softmax, classes, high, recorder)
    return float(up(np.asarray(twice + high)))


def _stands_out(softmax: IntActivation, classes: int, margin: float, recorder: Recorder | None = None) -> bool:
    """Whether the probability of a logit that is `margin` above all others is above the others after rounding."""
    lo = np.full((1, classes, classes), -1e5)
    lo[0, 0, :] = margin
    hi = np.full_like(lo, 1e5)
    hi[0, :, 0] = -margin
    lo[0, range(classes), range(classes)] = hi[0, range(classes), range(classes)] = 0.0
    box = Box(lo, hi)
    least = head.softmax_margins(softmax, head.Margins(box, box, box), recorder).lo[0, 0, 1:]
    return bool((least > MARGIN_ROOM).all())
