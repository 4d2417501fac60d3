"""What a stock dReal 4 prints, recorded from dReal 4.21.06.2, and that program itself where it is on the PATH."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.proof import Obligation, dreal_solver, prove, read_answer, to_smt2
from codesign.proof.closed_form import gap
from codesign.proof.corpus import make_corpus
from codesign.proof.exchange import read_answers, write_folder
from codesign.proof.functions import violates
from codesign.proof.obligation import VARIABLES
from codesign.proof.smtlib import PRECISION, scale_exponent

FALSE = Obligation("sigmoid_diff", ((-1.0, 1.0), (0.0, 1.0)), (0.0, 0.2), -0.5, -0.1)
POINT = Obligation("sigmoid_diff", ((-1.0, -1.0), (0.0, 0.0)), (0.0, 0.2), -0.5, -0.1)
CURVE = Obligation("tanh_square", ((-0.4, 1.3), (0.2, 0.2)), (0.6, 0.0), -0.7, 0.0)
RECORDED = [  # of which statement, and dReal's standard output
    (FALSE, "delta-sat with delta = 0.001\nz : [-0.063, -0.062]\nd : [0.1245, 0.1255]\n"),
    (POINT, "delta-sat with delta = 0.001\nz : [-1, -1]\nd : [0, 0]\n"),
    (CURVE, "delta-sat with delta = 0.001\nz : [0.31893359147610706, 0.31993359147610706]\n"
     "p : [0.20000000000000001, 0.20000000000000001]\n"),
]  # fmt: skip
DAMAGED = {  # what is put in place of a part of the file, and what dReal says on standard error (no answer at all)
    " 0)))\n(check-sat)\n(exit)\n": ("", "syntax error, unexpected end of file"),
    "(exp (- z))": ("(exq z)", "No function definition for exq."),
    "(declare-fun z () Real)": ("", "z is an undeclared variable."),
}


@pytest.mark.parametrize(("statement", "text"), RECORDED)
def test_recorded_boxes_are_read(statement, text):
    answer = read_answer(text)
    assert answer.verdict == "delta-sat"
    assert set(answer.box) == set(statement.variables)
    centre = [sum(answer.box[name]) / 2 for name in statement.variables]
    assert violates(statement, centre)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("unsat\n", "unsat"),
        ("delta-sat with delta = 0.001\n", "delta-sat"),
        ("delta-sat\n", "delta-sat"),  # --smtlib2-compliant
        ("delta-sat with delta = 1e-06\nz : [ ENTIRE ]\n", "delta-sat"),
    ],
)
def test_recorded_answers_without_a_box(text, verdict):
    assert (read_answer(text).verdict, read_answer(text).box) == (verdict, {})


@pytest.mark.parametrize(
    "text",
    [
        "",  # a syntax error: exit code 0
        '(error "model is not available")\n',
        "File not found: nosuch.smt2\n\ndReal v4.21.06.2 (Release Build) : delta-complete SMT solver\n\nUSAGE: dreal\n",
        "terminate called after throwing an instance of 'std::runtime_error'\n  what():  set-logic(unsat) is\n",
    ],
)
def test_recorded_failures_are_no_answer(text):
    with pytest.raises(InputError):
        read_answer(text)


def test_scale_of_the_smallest_gaps_and_largest_numbers():
    """A fact that touches 0 and is rounded outward has a gap of 5e-324."""
    tiny = Obligation("tanh", ((0.0, 0.0),), (0.0,), -5e-324, 5e-324)
    assert gap(tiny) == 5e-324
    assert scale_exponent(tiny, gap(tiny)) == scale_exponent(tiny, 1e-300) == 880
    assert PRECISION / 2.0 ** scale_exponent(tiny, 1e-260) <= 0.5e-260
    assert "(check-sat)" in to_smt2(tiny, gap(tiny))
    big = Obligation("exp", ((600.0, 700.0),), (1e300,), 1e-300, 1e305)
    scale = 2.0 ** scale_exponent(big, 1e-300)
    assert all(math.isfinite(scale * number) for number in (1e305, 700 * 1e300, math.exp(700.0)))
    assert scale_exponent(Obligation("exp", ((0.0, 1.0),), (0.0,), -1e308, 1e308)) == 0


def real() -> str:
    path = shutil.which("dreal")
    version, problem = dreal_solver._executable_version(path) if path else ("", "is not on the PATH")
    if not path or not version:
        pytest.skip(f"dreal {path or ''} {problem}")
    return path


def ask(path, *arguments):
    return subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_dreal_reads_and_decides_exported_files_of_every_kind(tmp_path):
    """Three of each kind and truth, the true ones with room of 1e-11 or more; no false one is ever unsat."""
    path, seen, chosen = real(), Counter(), []
    for obligation, truth in make_corpus(900, np.random.default_rng(5)):
        key = obligation.kind, truth
        if seen[key] < 3 and (not truth or gap(obligation) > 1e-11):
            seen[key] += 1
            chosen.append((obligation, truth))
    assert {kind for kind, truth in seen if truth} == {kind for kind, truth in seen if not truth} == set(VARIABLES)
    write_folder([o for o, _ in chosen], tmp_path / "out")
    for file in sorted((tmp_path / "out").glob("*.smt2")):
        run = ask(path, file)
        assert (run.returncode, run.stderr) == (0, "")
        file.with_suffix(".out").write_text(run.stdout)
    result = read_answers(tmp_path / "out")
    truths = {f"{k:06d}": truth for k, (_, truth) in enumerate(chosen)}
    assert result["proved"] == [name for name, truth in truths.items() if truth]
    assert result["delta-sat"] == [name for name, truth in truths.items() if not truth]


def test_dreal_prints_what_was_recorded(tmp_path):
    path = real()
    file = tmp_path / "it.smt2"
    file.write_text(to_smt2(FALSE, gap(FALSE)))
    without, model, strict = (ask(path, *o, file).stdout for o in ((), ("--model",), ("--smtlib2-compliant",)))
    assert re.fullmatch(r"delta-sat with delta = 0\.001\n", without)
    assert set(read_answer(model).box) == {"z", "d"}
    assert strict == "delta-sat\n"
    assert prove([FALSE], "dreal", timeout_s=60)[0].status == "refuted"


@pytest.mark.parametrize("old", DAMAGED)
def test_dreal_refuses_what_is_damaged(tmp_path, old):
    path = real()
    new, said = DAMAGED[old]
    text = to_smt2(Obligation("sigmoid", ((-1.0, 2.0),), (0.25,), -1.0, 2.0))
    assert old in text
    (tmp_path / "it.smt2").write_text(text.replace(old, new))
    run = ask(path, tmp_path / "it.smt2")
    assert said in run.stderr
    assert "unsat" not in run.stdout
