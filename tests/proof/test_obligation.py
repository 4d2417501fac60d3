"""Obligations: validation, JSON, and SMT-LIB export with the reader of dReal's answers."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.proof import Obligation, from_planes, read_answer, to_smt2
from codesign.proof.corpus import make_corpus
from codesign.proof.obligation import VARIABLES
from codesign.proof.smtlib import PRECISION, scale_exponent

EXAMPLE = Obligation("sigmoid_diff", ((-1.0, 0.1), (0.0, 1.5)), (0.0625, 0.2), -0.125, 0.3, "l0 t3 gate f 7")


def test_json_round_trip_is_exact():
    for obligation, _ in make_corpus(60, np.random.default_rng(0)):
        assert Obligation.from_json(json.loads(json.dumps(obligation.to_json()))) == obligation


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "relu"},
        {"box": ((0.0, 1.0),)},
        {"slopes": (0.0,)},
        {"box": ((1.0, 0.0), (0.0, 1.0))},
        {"lo": math.nan},
        {"hi": math.inf},
        {"slopes": (1e10, 0.0)},
    ],
)
def test_senseless_obligations_are_refused(change):
    fields = {**EXAMPLE.__dict__, **change}
    with pytest.raises(InputError):
        Obligation(**fields)


@pytest.mark.parametrize(
    "change",
    [
        {"box": [[0, 1], [0]]},
        {"box": 3},
        {"slopes": ["0", 1]},
        {"lo": True},
        {"tag": None},
        {"kind": 7},
        {"extra": 1},
    ],
)
def test_malformed_json_is_refused(change):
    with pytest.raises(InputError):
        Obligation.from_json({**EXAMPLE.to_json(), **change})
    with pytest.raises(InputError):
        Obligation.from_json([1, 2])


def test_from_planes():
    made = from_planes(
        "sigmoid_diff",
        np.array([[-1.0, 0.0]]),
        np.array([[0.1, 1.5]]),
        np.array([[0.0625, 0.2]]),
        [-0.125],
        [0.3],
        ["x"],
    )
    assert made == [Obligation("sigmoid_diff", EXAMPLE.box, EXAMPLE.slopes, -0.125, 0.3, "x")]


def evaluate(expression: str, values: dict[str, Fraction]) -> object:
    """A tiny evaluator of the exported terms (rational except exp and tanh), independent of the exporter."""
    tokens = re.findall(r"[()]|[^\s()]+", expression)

    def parse() -> object:
        token = tokens.pop(0)
        if token != "(":
            return values[token] if token in values else Fraction(token)
        operator = tokens.pop(0)
        operands = []
        while tokens[0] != ")":
            operands.append(parse())
        tokens.pop(0)
        if operator == "-" and len(operands) == 1:
            return -operands[0]
        if operator in ("exp", "tanh"):
            return Fraction(getattr(math, operator)(float(operands[0])))
        if operator == "or":
            return any(operands)
        first, second = operands
        return {
            "+": lambda: first + second,
            "-": lambda: first - second,
            "*": lambda: first * second,
            "/": lambda: first / second,
            "<": lambda: first < second,
            ">": lambda: first > second,
            "<=": lambda: first <= second,
        }[operator]()

    return parse()


def sigmoid(t):
    return 1 / (1 + math.exp(-t))


FUNCTIONS = {
    "sigmoid": sigmoid,
    "tanh": math.tanh,
    "exp": math.exp,
    "sigmoid_diff": lambda z, d: sigmoid(z + d) - sigmoid(z),
    "tanh_diff": lambda z, d: math.tanh(z + d) - math.tanh(z),
    "product": lambda x, y: x * y,
    "square_difference": lambda p, q: (p + q) / 2 * ((p - q) / 2),
    "sigmoid_square": lambda z, p: sigmoid(z) - p * z * z,
    "tanh_square": lambda z, p: math.tanh(z) - p * z * z,
    "sigmoid_patch": lambda z, d, g: sigmoid(z + d) - sigmoid(z) - g * z * d,
    "tanh_patch": lambda z, d, g: math.tanh(z + d) - math.tanh(z) - g * z * d,
    "gate_slopes": lambda s, t, p, q: p * (s * (1 - s) * t) + q * (s * (1 - t * t)),
    "forget_slopes": lambda s, t, p, q: p * s + q * (s * (1 - s) * t),
}


def test_smt2_states_the_negation_exactly():
    rng = np.random.default_rng(4)
    seen = set()
    for obligation, _ in make_corpus(120, rng):
        seen.add(obligation.kind)
        text = to_smt2(obligation)
        assertions = re.findall(r"^\(assert (.*)\)$", text, flags=re.MULTILINE)
        constants = {Fraction(t) for t in re.findall(r"\d+\.\d+", " ".join(assertions))}
        for number in [*(e for side in obligation.box for e in side), *obligation.slopes, obligation.lo, obligation.hi]:
            assert number == 0 or abs(Fraction(number)) in constants
        for _ in range(5):
            point = [lower + (upper - lower) * rng.uniform() for lower, upper in obligation.box]
            values = {n: Fraction(x) for n, x in zip(obligation.variables, point, strict=True)}
            *sides, negation = assertions
            assert all(evaluate(side, values) for side in sides)
            value = FUNCTIONS[obligation.kind](*point)
            value -= sum(s * x for s, x in zip(obligation.slopes, point, strict=True))
            margin = min(value - obligation.lo, obligation.hi - value)
            if abs(margin) > 1e-11 * max(1, abs(value)):
                assert evaluate(negation, values) == (margin < 0)
    assert seen == set(VARIABLES)


def test_scale_puts_delta_below_the_gap():
    for gap in (1.0, 1e-3, 1e-9):
        assert PRECISION / 2.0 ** scale_exponent(EXAMPLE, gap) <= gap / 2
    assert scale_exponent(EXAMPLE, -1.0) >= 0
    assert "(set-option :precision 0.001)" in to_smt2(EXAMPLE)


def test_tag_cannot_break_out_of_its_comment():
    text = to_smt2(Obligation("tanh", ((0.0, 1.0),), (0.5,), -1.0, 1.0, "x\n(assert false)\r\n"))
    assert not re.search(r"^\(assert false\)", text, flags=re.MULTILINE)


def test_answers_are_read():
    assert read_answer("unsat\n").verdict == "unsat"
    answer = read_answer("delta-sat with delta = 0.001\nz : [-0.25, 0.5]\nd : [ 1e-3 , 2 ]\n")
    assert answer.verdict == "delta-sat"
    assert answer.box == {"z": (-0.25, 0.5), "d": (0.001, 2.0)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "error: unsat core not available",
        "unsat\nunsat\n",
        "unsat\nsegmentation fault",
        "unknown",
        "sat\n",
        "unsatisfied",
    ],
)
def test_strange_answers_are_never_unsat(text):
    with pytest.raises(InputError):
        read_answer(text)
