"""What a certificate over a whole domain states besides: its sentence, the margin that keeps a class, its samples."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from codesign.checker.claims import at_least
from codesign.checker.criteria import above, winner
from codesign.checker.document import Claims
from codesign.checker.head import Margins, output_margins
from codesign.checker.replay import Bounds
from codesign.checker.result import demand, same
from codesign.checker.solver import Facts
from codesign.network import evaluate
from codesign.proof.forms import Box
from codesign.proof.statement import all_inputs_statement
from codesign.quantization import load_calibration


def check_all_inputs(claims: Claims, bounds: Bounds, facts: Facts, data: Path | None) -> tuple[str, ...]:
    """Names of what was not derived: the share of covered samples, where `data` is not the file with the samples."""
    stated, logit = claims.document["all_inputs"], bounds.logit_difference
    at_least("all_inputs/logit_bound", stated["logit_bound"], np.maximum(-logit.lo[0], logit.hi[0]))
    same("all_inputs/statement", stated["statement"], all_inputs_statement(stated))
    if stated["same_class_margin"] is not None:
        _check_margin(stated, bounds, facts)
    if stated["samples"] is None:
        return ()
    found = 0 if stated["samples"] == 0 else stated["covered_samples"] / stated["samples"]
    same("all_inputs/covered_share", stated["covered_share"], found)
    return () if data is not None and _check_covered(claims, bounds, facts, data) else ("all_inputs/covered_share",)


def _check_margin(stated: dict[str, Any], bounds: Bounds, facts: Facts) -> None:
    """Above it, twice the bound is left, and behind a softmax enough for probabilities that stand out when rounded."""
    left = stated["same_class_margin"] - 2 * max(stated["logit_bound"]) * (1 + 1e-12)
    shape = bounds.margins[0].value.lo.shape[1:]
    good = left >= 0
    if bounds.softmax is not None and good:
        lo = np.full((1, *shape), -1e5)
        lo[0, 0], lo[0, range(len(lo[0])), range(len(lo[0]))] = left, 0.0
        box = Box(lo, -np.swapaxes(lo, 1, 2))
        good = bool((output_margins(bounds.softmax, Margins(box, box, box), facts)[0, 0, 1:] > 0).all())
    demand(good and shape[0] > 1, "all_inputs/same_class_margin: does not keep the class")


def _check_covered(claims: Claims, bounds: Bounds, facts: Facts, data: Path) -> bool:
    """Whether `data` has the samples; then at least as many as stated keep their class by the derived differences."""
    stated, x = claims.document["all_inputs"], load_calibration(data, claims.network.input_shape).x
    if hashlib.sha256(np.ascontiguousarray(x, "<f4").tobytes()).hexdigest() != stated["samples_sha256"]:
        return False
    same("all_inputs/samples", stated["samples"], len(x))
    logits = evaluate(claims.network, x, logits=True).reshape(len(x), len(bounds.margins), -1)
    count = 0
    for values, sample in zip(logits, x, strict=True):
        rows = [_margins_at(row, m) for row, m in zip(values, bounds.margins, strict=True)]
        inside = ((claims.proof.lo[0] <= sample) & (sample <= claims.proof.hi[0])).all()
        count += bool(inside and all(winner(above(m, bounds.softmax, facts)) is not None for m in rows))
    demand(count >= stated["covered_samples"], f"all_inputs/covered_samples: only {count} samples keep their class")
    return True


def _margins_at(logits: np.ndarray[Any, Any], m: Margins) -> Margins:
    """Margins at an input whose float logits (M,) are known."""
    gap = (logits[:, None] - logits[None, :])[None]
    value = Box(gap, gap).widen(1e-9 * (1 + np.abs(gap)))
    return Margins(value, m.difference, value + m.difference)
