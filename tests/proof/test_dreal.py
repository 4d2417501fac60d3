"""dReal's code paths with a stand-in executable and a stand-in module; the real one where it loads."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from codesign import doctor
from codesign.errors import MissingToolError
from codesign.proof import Obligation, availability, dreal_solver, prove

TRUE = Obligation("sigmoid_diff", ((-1.0, 1.0), (0.0, 1.0)), (0.0, 0.2), -0.5, 0.5)
FALSE = Obligation("sigmoid_diff", ((-1.0, 1.0), (0.0, 1.0)), (0.0, 0.2), -0.5, -0.1)


def no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dreal_solver, "_import_problem", lambda python, path: "the Python package dreal is absent")


def executable(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Path:
    """A `dreal` on the PATH that says a version, or records its input file and then runs `body` (shell)."""
    no_module(monkeypatch)
    path = folder / "dreal"
    version = 'test "$1" = --version && echo "dReal v4.21.06.2 (Release Build)" && exit 0'
    path.write_text(f'#!/bin/sh\n{version}\ncp "$2" "{folder}/seen.smt2"\necho "$1" > "{folder}/option"\n{body}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder / "seen.smt2"


def test_unsat_proves(tmp_path, monkeypatch):
    seen = executable(tmp_path, monkeypatch, "echo unsat")
    result = prove([TRUE], "dreal", timeout_s=20)[0]
    assert (result.status, result.prover, result.detail) == ("proved", "dreal", "unsat")
    assert "(check-sat)" in seen.read_text()
    assert (tmp_path / "option").read_text().strip() == "--model"


def test_delta_sat_never_proves_and_refutes_only_with_a_rigorous_point(tmp_path, monkeypatch):
    body = "printf 'delta-sat with delta = 0.001\\nz : [0.1, 0.2]\\nd : [0.5, 0.6]\\n'"
    executable(tmp_path, monkeypatch, body)
    right, wrong = prove([TRUE, FALSE], "dreal", timeout_s=20)
    assert (right.status, right.detail, right.counterexample) == ("unknown", "delta-sat", None)
    assert wrong.status == "refuted"
    assert wrong.counterexample == pytest.approx((0.15, 0.55))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo unsat; exit 1", "exit code 1"),
        ("echo unsat; kill -SEGV $$", "exit code -11"),
        ("echo 'parse error' >&2; exit 2", "parse error"),
        ("true", "exit code 0, ''"),
        ("echo 'obligation.smt2:10.298 : syntax error, unexpected end of file' >&2", "syntax error"),
        ("echo 'No function definition for exq.' >&2; kill -ABRT $$", "No function definition"),
        ("echo unsat; echo unsat", "2 answers"),
        ("echo 'error: unsat'", "0 answers"),
        ("exec sleep 30", "no answer in"),
    ],
)
def test_accidents_are_unknown(tmp_path, monkeypatch, body, said):
    executable(tmp_path, monkeypatch, body)
    result = prove([TRUE], "dreal", timeout_s=0.5)[0]
    assert result.status == "unknown"
    assert said in result.detail


FAKE_MODULE = '''
import os, sys, time

class E:
    def __init__(self, text): self.text = text
    def __neg__(self): return E(f"(-{self.text})")
def _op(symbol, swap=False):
    def f(self, other):
        a, b = str(getattr(self, "text", self)), str(getattr(other, "text", other))
        return E(f"({b} {symbol} {a})" if swap else f"({a} {symbol} {b})")
    return f
for name, symbol in (("add", "+"), ("sub", "-"), ("mul", "*"), ("truediv", "/")):
    setattr(E, f"__{name}__", _op(symbol)); setattr(E, f"__r{name}__", _op(symbol, True))
for name, symbol in (("lt", "<"), ("gt", ">"), ("le", "<="), ("ge", ">=")):
    setattr(E, f"__{name}__", _op(symbol))
def Variable(name): return E(name)
def exp(t): return E(f"exp({t.text})")
def tanh(t): return E(f"tanh({t.text})")
def And(*parts): return E(" and ".join(p.text for p in parts))
def Or(*parts): return E("(" + " or ".join(p.text for p in parts) + ")")
class Config: pass
def CheckSatisfiability(formula, config):
    """A grid search: not dReal, but it answers by what the formula says."""
    from math import exp, tanh
    assert config.precision == 0.001 and config.use_polytope
    if "9.25" in formula.text: os._exit(7)
    if "8.25" in formula.text: time.sleep(60)
    grid = [k / 8 for k in range(-16, 17)]
    for z in grid:
        for d in grid:
            if eval(formula.text, {"exp": exp, "tanh": tanh, "z": z, "d": d, "x": z, "y": d}):
                return Box(z, d)
    return None
class Side:
    def __init__(self, x): self.x = x
    def lb(self): return self.x
    def ub(self): return self.x
class Box:
    def __init__(self, z, d): self.z, self.d = z, d
    def __getitem__(self, variable): return Side(self.z if variable.text in "zx" else self.d)
'''


@pytest.fixture
def fake_module(tmp_path, monkeypatch):
    (tmp_path / "dreal.py").write_text(FAKE_MODULE)
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{root}")
    dreal_solver._import_problem.cache_clear()
    yield
    dreal_solver._import_problem.cache_clear()


def test_module_path(fake_module):
    statements = [
        TRUE,
        FALSE,
        Obligation("product", ((-1.0, 2.0), (0.0, 1.0)), (0.5, 0.0), -2.0, 2.0),
        Obligation("tanh_diff", ((-1.0, 1.0), (0.0, 1.0)), (0.0, 0.0), -0.5, 0.1),
        Obligation("tanh", ((-1.0, 1.0),), (0.5,), -1.0, 1.0),
        Obligation("exp", ((-1.0, 1.0),), (0.5,), 0.0, 3.0),
    ]
    results = prove(statements, "dreal", timeout_s=20)
    assert [r.status for r in results] == ["proved", "refuted", "proved", "refuted", "proved", "proved"]


def test_module_crash_and_time_out_are_unknown_and_leave_the_rest_alone(fake_module):
    crash = Obligation("tanh", ((0.0, 1.0),), (0.0,), -9.25, 2.0)
    slow = Obligation("tanh", ((0.0, 1.0),), (0.0,), -8.25, 2.0)
    fine = Obligation("tanh", ((0.0, 1.0),), (0.0,), -1.0, 2.0)
    results = prove([fine, crash, fine, slow, fine], "dreal", timeout_s=6.0)
    assert [r.status for r in results] == ["proved", "unknown", "proved", "unknown", "proved"]
    assert "ended with code 7" in results[1].detail
    assert "no answer in 6 s" in results[3].detail


def test_absence_is_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(
        dreal_solver, "_import_problem", lambda p, q: "the Python package dreal lacks the shared libraries libibex.so"
    )
    state = availability()[-1]
    assert not state.available
    assert "libibex.so" in state.reason
    assert state.fix
    with pytest.raises(MissingToolError, match="libibex"):
        prove([TRUE], "dreal")
    assert prove([TRUE], "auto")[0].status == "proved"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo 'dReal v3.16.08 (commit 1234)'", "is not a dReal 4 (its --version says 'dReal v3.16.08"),
        ("echo 'error while loading shared libraries: libibex.so' >&2; exit 127", "libibex.so"),
        ("echo 'dReal v4.21.06.2 (Release Build)'; exit 1", "is not a dReal 4"),
    ],
)
def test_an_executable_that_is_no_dreal_4_is_not_used(tmp_path, monkeypatch, body, said):
    executable(tmp_path, monkeypatch, "echo unsat")
    (tmp_path / "dreal").write_text(f"#!/bin/sh\n{body}\n")
    state = availability()[-1]
    assert not state.available
    assert said in state.reason
    with pytest.raises(MissingToolError, match="dReal cannot be used"):
        prove([TRUE], "dreal")


def test_doctor_names_the_version_of_the_executable(tmp_path, monkeypatch):
    executable(tmp_path, monkeypatch, "echo unsat")
    assert dreal_solver.find_dreal().version == "4.21.06.2"
    check = next(c for c in doctor._provers() if c.name == "dReal")
    assert (check.status, check.detail) == ("ok", f"4.21.06.2, the executable {tmp_path / 'dreal'}")


LACKS = "the Python package dreal lacks the shared libraries libibex.so"
NO_WHEEL = "the Python package dreal has no build for Python 3.12 or newer"
DOCKER = "docker run --rm -v /tmp:/tmp dreal/dreal4"


@pytest.mark.parametrize(
    ("system", "problem", "expected", "not_told"),
    [
        ({"ID": "ubuntu", "VERSION_ID": "20.04"}, LACKS, ["ppa:dreal/dreal", "libibex-dev"], "docker"),
        ({"ID": "ubuntu", "VERSION_ID": "22.04"}, LACKS, ["ppa:dreal/dreal", "libibex-dev"], "pip install"),
        ({"ID": "ubuntu", "VERSION_ID": "24.04"}, LACKS, [DOCKER, "20.04 and 22.04 only, not for 24.04"], "apt-get"),
        ({"ID": "ubuntu", "VERSION_ID": "22.04"}, NO_WHEEL, ["Python 3.11 or older", DOCKER], "ppa"),
        ({"ID": "debian", "VERSION_ID": "12"}, LACKS, ["copy libibex.so", "dpkg-deb -x", DOCKER], "add-apt-repository"),
        ({"ID": "fedora", "VERSION_ID": "40"}, LACKS, [DOCKER], "apt-get"),
        (None, LACKS, [DOCKER], "apt-get"),
        ("darwin", LACKS, ["brew install ibex@2.7.4"], "docker"),
    ],
)
def test_the_hint_is_right_for_the_system(monkeypatch, system, problem, expected, not_told):
    def told():
        if system is None:
            raise OSError("no os-release here")
        return {} if system == "darwin" else system

    monkeypatch.setattr(sys, "platform", "darwin" if system == "darwin" else "linux")
    monkeypatch.setattr(dreal_solver.platform, "freedesktop_os_release", told)
    hint = dreal_solver._fix(problem)
    assert all(words in hint for words in expected)
    assert not_told not in hint
    if "Docker" not in hint or "libibex" in hint:
        assert "pip install 'codesign[dreal]'" in dreal_solver._fix("the Python package dreal is not installed")


def test_doctor_tells_the_hint_of_the_system(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(dreal_solver, "_import_problem", lambda *_: LACKS)
    for release, expected in (("22.04", "add-apt-repository ppa:dreal/dreal"), ("24.04", DOCKER)):
        system = {"ID": "ubuntu", "VERSION_ID": release}
        monkeypatch.setattr(dreal_solver.platform, "freedesktop_os_release", lambda told=system: told)
        check = next(c for c in doctor._provers() if c.name == "dReal")
        assert check.status == "warning"
        assert expected in check.fix


def test_real_dreal():
    state = availability()[-1]
    if not state.available:
        pytest.skip(state.reason)
    right, wrong = prove([TRUE, FALSE], "dreal", timeout_s=60)
    assert right.status == "proved"
    assert wrong.status != "proved"
