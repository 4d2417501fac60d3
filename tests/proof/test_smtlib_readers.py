"""Readers that are not ours read the exported files: cvc5's parser takes all of them, z3 decides the polynomial ones.

dReal's own options are taken out for both. exp is cvc5's own, tanh a definition by it.
"""

import re

import numpy as np
import pytest

from codesign.proof import Obligation, from_planes, prove, to_smt2
from codesign.proof.corpus import make_corpus
from codesign.proof.obligation import VARIABLES
from codesign.proof.slopes import forget_polygon, gate_polygon

POLYNOMIAL = ("product", "square_difference", "gate_slopes", "forget_slopes")
OPTIONS = re.compile(r"\(set-option :precision [0-9.]+\)\n\(set-option :polytope true\)\n")


class Side:
    def __init__(self, lo, hi):
        self.lo, self.hi = np.array([lo]), np.array([hi])


def sides(inward=0.0):
    """Sides of polygons as obligations; moved inward, false ones."""
    found = []
    for polygon in (gate_polygon(Side(0.2, 0.7), Side(-0.4, 0.8)), forget_polygon(Side(0.1, 0.9), Side(-1.0, 2.0))):
        lower, upper = (np.stack([np.ravel(a) for a in ends], axis=1) for ends in polygon.fact())
        size = np.abs(polygon.directions).sum(-1).ravel()
        hi = polygon.support.ravel() - inward * size
        found += from_planes(
            polygon.kind, lower, upper, np.zeros_like(lower), polygon.lower.ravel(), hi, ["a side"] * len(lower)
        )
    return found


@pytest.fixture(scope="module")
def corpus():
    every = [
        Obligation(kind, ((0.0, 0.5),) * len(names), (0.1,) * len(names), -9.0, 9.0)
        for kind, names in VARIABLES.items()
    ]
    return [o for o, _ in make_corpus(60, np.random.default_rng(4))] + sides() + every


def read(text, logic="QF_NRA"):
    """The commands that cvc5 finds. RuntimeError for what it cannot read."""
    cvc5 = pytest.importorskip("cvc5", reason="cvc5 is not installed (pip install cvc5)")
    solver = cvc5.Solver()
    parser = cvc5.InputParser(solver)
    parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, OPTIONS.sub("", text), "obligation.smt2")
    symbols, commands = parser.getSymbolManager(), []
    while True:
        command = parser.nextCommand()
        if command.isNull():
            return commands
        commands.append(command.getCommandName())
        if commands[-1] in ("set-logic", "declare-fun", "declare-const", "define-fun", "assert"):
            command.invoke(solver, symbols)


def prepared(obligation):
    text = to_smt2(obligation)
    assert OPTIONS.search(text)
    text = text.replace("(set-logic QF_NRA)", "(set-logic QF_NRAT)")
    tanh = "(define-fun tanh ((x Real)) Real (- 1 (/ 2 (+ 1 (exp (* 2 x))))))\n"
    return text.replace("(declare-fun", tanh + "(declare-fun", 1)


def test_cvc5_reads_every_kind(corpus):
    kinds = set()
    for obligation in corpus:
        commands = read(prepared(obligation))
        names = len(obligation.box)
        assert commands.count("declare-fun") + commands.count("declare-const") == names
        assert commands.count("assert") == 2 * names + 1
        assert commands[-2:] == ["check-sat", "exit"]
        kinds.add(obligation.kind)
    assert kinds == set(VARIABLES)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(assert", "assert"),
        ("(> (*", "(> (* ("),
        ("Real)", "Reel)"),
        ("(<= ", "(<= 1.0e5 "),
        ("(exp (- z))", "(exq z)"),
    ],
)
def test_cvc5_refuses_what_is_damaged(old, new):
    text = prepared(Obligation("sigmoid", ((-1.0, 2.0),), (0.25,), 0.2, 0.8))
    assert read(text)
    at = text.index(old, text.index("declare-fun z"))
    with pytest.raises((RuntimeError, ValueError), match=r"\w"):
        read(text[:at] + text[at:].replace(old, new, 1))


def test_z3_decides_the_polynomial_ones_as_our_provers_do(corpus):
    """z3 is complete for them: its answers on the files as they are, constants exact, are ours."""
    z3 = pytest.importorskip("z3", reason="z3 is not installed (pip install z3-solver)")
    chosen = [o for o in corpus if o.kind in POLYNOMIAL][:40] + sides(inward=4e-6)[::3]
    answers = []
    for obligation, ours in zip(chosen, prove(chosen, "auto"), strict=True):
        solver = z3.Solver()
        solver.set("timeout", 20_000)
        solver.from_string(OPTIONS.sub("", to_smt2(obligation)))
        answers.append((str(solver.check()), ours.status))
    assert set(answers) == {("unsat", "proved"), ("sat", "refuted")}
