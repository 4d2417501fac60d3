"""Obligations as SMT-LIB 2 text that a stock dReal 4 reads, and dReal's answers read back."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from codesign.errors import InputError
from codesign.proof.obligation import Obligation

PRECISION = 0.001
"""dReal's delta in the exported files (also its default)."""

_OPTIONS = f"(set-option :precision {PRECISION})\n(set-option :polytope true)"
"""dReal's own options. Linear relaxations are what decides planes close to the function; IBEX verifies the linear
programs' results in interval arithmetic (Neumaier and Shcherbina, Math. Program. 99, 2004)."""

_FUNCTIONS = {
    "sigmoid": "(/ 1 (+ 1 (exp (- z))))",
    "tanh": "(tanh z)",
    "exp": "(exp z)",
    "sigmoid_diff": "(- (/ 1 (+ 1 (exp (- (+ z d))))) (/ 1 (+ 1 (exp (- z)))))",
    "tanh_diff": "(- (tanh (+ z d)) (tanh z))",
    "product": "(* x y)",
    "square_difference": "(/ (- (* p p) (* q q)) 4)",
    "sigmoid_square": "(- (/ 1 (+ 1 (exp (- z)))) (* p (* z z)))",
    "tanh_square": "(- (tanh z) (* p (* z z)))",
    "sigmoid_patch": "(- (- (/ 1 (+ 1 (exp (- (+ z d))))) (/ 1 (+ 1 (exp (- z))))) (* g (* z d)))",
    "tanh_patch": "(- (- (tanh (+ z d)) (tanh z)) (* g (* z d)))",
    "gate_slopes": "(+ (* p (* s (* (- 1 s) t))) (* q (* s (- 1 (* t t)))))",
    "forget_slopes": "(+ (* p s) (* q (* s (* (- 1 s) t))))",
}


def scale_exponent(obligation: Obligation, gap: float | None = None) -> int:
    """k such that, with both sides multiplied by 2^k, dReal's delta is at most half the gap.

    `gap` is the distance from [lo, hi] to the range of the residual (`closed_form.gap` computes it). Without
    one, a thousandth of hi - lo is taken: the answer stays true either way (delta only weakens the formula
    that has to be unsatisfiable), but a smaller gap then ends in delta-sat. dReal multiplies constants in binary64:
    exact for powers of two, as long as nothing overflows, which limits k.
    """
    if gap is None or not gap > 0:
        gap = 1e-3 * (obligation.hi - obligation.lo)
    if not gap > 0:
        return 0
    wanted = math.ceil(math.log2(2 * PRECISION) - math.log2(min(gap, 1.0)))
    return max(min(wanted, _room(obligation)), 0)


def _room(obligation: Obligation) -> int:
    """k such that 2^k times any number of the formula, and of its value, stays below 2^1000."""
    if obligation.kind != "exp":
        return 1000 - 120  # terms multiply at most four numbers of at most 1e9
    largest = max(1.0, abs(obligation.lo), abs(obligation.hi), math.exp(obligation.box[0][1]))
    slope = math.log2(max(1.0, abs(obligation.slopes[0]))) + 10  # times a z of at most 700
    return 1000 - math.ceil(max(math.log2(largest), slope))


def to_smt2(obligation: Obligation, gap: float | None = None) -> str:
    """The negation of `obligation` as an SMT-LIB 2 script: the obligation holds if the answer is unsat.

    Logic QF_NRA with exp, tanh and two options, as dReal 4 extends it. Constants are the exact decimal expansions of
    the binary64 numbers, so that the file states the obligation itself, not a rounding of it.
    """
    names = obligation.variables
    comment = re.sub(r"[^\x20-\x7e]", "?", obligation.tag)
    lines = [f"; {comment}"] if comment else []
    lines += ["(set-logic QF_NRA)", _OPTIONS]
    lines += [f"(declare-fun {name} () Real)" for name in names]
    for name, (lower, upper) in zip(names, obligation.box, strict=True):
        lines += [f"(assert (<= {decimal(lower)} {name}))", f"(assert (<= {name} {decimal(upper)}))"]
    terms = [f"(* {decimal(slope)} {name})" for name, slope in zip(names, obligation.slopes, strict=True) if slope]
    residual = _FUNCTIONS[obligation.kind]
    for term in terms:
        residual = f"(- {residual} {term})"
    scale = decimal(2.0 ** scale_exponent(obligation, gap))
    below = f"(< (* {scale} (- {residual} {decimal(obligation.lo)})) 0)"
    above = f"(> (* {scale} (- {residual} {decimal(obligation.hi)})) 0)"
    lines += [f"(assert (or {below} {above}))", "(check-sat)", "(exit)", ""]
    return "\n".join(lines)


def decimal(value: float) -> str:
    """The exact decimal expansion of a binary64 number, as an SMT-LIB term."""
    text = format(Decimal(abs(value)), "f")
    if "." not in text:
        text += ".0"
    return f"(- {text})" if value < 0 else text


@dataclass(frozen=True)
class DrealAnswer:
    """`verdict` is 'unsat' or 'delta-sat'; `box` the solution box of a delta-sat answer that printed one."""

    verdict: Literal["unsat", "delta-sat"]
    box: dict[str, tuple[float, float]]


_MODEL_LINE = re.compile(r"^\s*(\w+)\s*:\s*\[\s*([^,\s]+)\s*,\s*([^\]\s]+)\s*\]\s*$")


def read_answer(text: str) -> DrealAnswer:
    """Read what dReal 4 prints for one check-sat.

    Exactly one answer must be present: 'unsat' on a line of its own, or 'delta-sat with delta = ...' with
    optional model lines 'z : [0.25, 0.5]'. InputError for anything else (error messages, an empty or cut
    answer), so that no accident is ever taken for unsat.
    """
    answers = [line.strip() for line in text.splitlines() if re.match(r"\s*(delta-)?(un)?sat\b", line)]
    if len(answers) != 1:
        raise InputError(f"dReal gave {len(answers)} answers where one was expected: {text.strip()[:200]!r}")
    if answers[0] == "unsat":
        if text.strip() != "unsat":
            raise InputError(f"dReal's answer has more than 'unsat': {text.strip()[:200]!r}")
        return DrealAnswer("unsat", {})
    if not answers[0].startswith("delta-sat"):
        raise InputError(f"dReal's answer is neither unsat nor delta-sat: {answers[0][:200]!r}")
    box = {}
    for line in text.splitlines():
        match = _MODEL_LINE.match(line)
        if match:
            try:
                box[match[1]] = (float(match[2]), float(match[3]))
            except ValueError:
                continue
    return DrealAnswer("delta-sat", box)
