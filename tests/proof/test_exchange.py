"""Obligations out as SMT-LIB 2 files, dReal's answers in."""

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.proof.corpus import make_corpus
from codesign.proof.exchange import read_answers, write_folder


@pytest.fixture
def folder(tmp_path):
    obligations = [o for o, truth in make_corpus(12, np.random.default_rng(3)) if truth]
    write_folder(obligations, tmp_path / "out")
    return tmp_path / "out"


def test_only_unsat_proves(folder):
    names = sorted(path.stem for path in folder.glob("*.smt2"))
    assert len(names) == 6
    assert read_answers(folder)["missing"] == names
    answers = ["unsat\n", "delta-sat with delta = 0.001\nz : [0.25, 0.5]\n", "", "unsat\nunsat\n", "error: timeout\n"]
    for name, answer in zip(names, answers, strict=False):
        (folder / f"{name}.out").write_text(answer)
    result = read_answers(folder)
    assert result == {
        "proved": names[:1],
        "delta-sat": names[1:2],
        "unreadable": names[2:5],
        "missing": names[5:],
    }


def test_an_answer_to_another_formula_does_not_count(folder):
    first = folder / "000000.smt2"
    first.write_text(first.read_text().replace("(check-sat)", "(assert false)\n(check-sat)"))
    (folder / "000000.out").write_text("unsat\n")
    assert "000000" in read_answers(folder)["unreadable"]


def test_bad_folders(folder, tmp_path):
    with pytest.raises(InputError, match="cannot be made"):
        write_folder([], folder)
    with pytest.raises(InputError, match=r"obligations\.json"):
        read_answers(tmp_path)
    (folder / "obligations.json").write_text('{"000000": 3}')
    with pytest.raises(InputError, match=r"obligations\.json"):
        read_answers(folder)
