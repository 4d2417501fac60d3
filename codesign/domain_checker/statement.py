"""What a certificate over a whole domain states besides: its sentence, the margin that keeps a class, its samples."""

from __future__ import annotations

import numpy as np

from codesign.checker.claims import Claims, at_least, winner
from codesign.checker.forms import Array, Box
from codesign.checker.replay import Bounds
from codesign.checker.result import demand, same
from codesign.checker.solver import Facts, Margins
from codesign.network import evaluate
from codesign.network.model import Float32Array
from codesign.proof.ranges import says_nothing
from codesign.proof.statement import all_inputs_statement


def check_all_inputs(claims: Claims, b: Bounds, facts: Facts, samples: Float32Array | None) -> tuple[str, ...]:
    """Names of what was not derived: the share of covered samples, where `samples` (N, T, D) are none or others."""
    stated = claims.document["all_inputs"]
    at_least("all_inputs/logit_bound", stated["logit_bound"], b.logits.difference.mag[0])
    classes = b.logits.margins[0].value.lo.shape[1]
    same("all_inputs/vacuous", stated["vacuous"], says_nothing(stated, b.ranges[0], classes))
    same("all_inputs/statement", stated["statement"], all_inputs_statement(stated))
    if stated["same_class_margin"] is not None:
        # Above it, twice the bound is left, and behind a softmax enough for probabilities that stand out when rounded.
        lo = np.full((1, classes, classes), -1e5)
        lo[0, 0] = stated["same_class_margin"] - 2 * max(stated["total_logit_bound"]) * (1 + 1e-12)
        lo[0, range(classes), range(classes)] = 0.0
        box, good = Box(lo, -np.swapaxes(lo, 1, 2)), classes > 1 and bool((lo[0, 0] >= 0).all())
        if b.softmax is not None and good:
            good = bool((facts.output_margins(b.softmax, Margins(box, box, box))[0, 0, 1:] > 0).all())
        demand(good, "all_inputs/same_class_margin: does not keep the class")
    if stated["covered_samples"] is None:
        return ()
    found = 0 if stated["samples"] == 0 else stated["covered_samples"] / stated["samples"]
    same("all_inputs/covered_share", stated["covered_share"], found)
    if samples is None:
        return ("all_inputs/covered_share",)
    same("all_inputs/samples", stated["samples"], len(samples))
    inside, rows = ((claims.proof.lo[0] <= samples) & (samples <= claims.proof.hi[0])).all((1, 2)), b.logits.margins
    logits = evaluate(claims.network, samples, logits=True).reshape(len(samples), len(rows), -1)[inside]
    kept = [[winner(_at(row, m), b.softmax, facts) for row, m in zip(each, rows, strict=True)] for each in logits]
    count = sum(None not in classes for classes in kept)
    demand(count >= stated["covered_samples"], f"all_inputs/covered_samples: only {count} samples keep their class")
    return ()


def _at(logits: Array, m: Margins) -> Margins:
    """Margins at an input whose float logits (M,) are known."""
    gap = (logits[:, None] - logits[None, :])[None]
    value = Box(gap, gap).widen(1e-9 * (1 + np.abs(gap)))
    return Margins(value, m.difference, value + m.difference)
