"""Mutation score of what decides (checkers, statement, signing, verdict): plants errors, one at a time.

    tools/mutation_score.py --count 150 --seed 1 --journal mutants.jsonl     # a sample; goes on from the journal
    tools/mutation_score.py --count 0 --paths codesign/domain_checker        # every mutant of some files

A mutant changes an operator, a comparison, a constant, a minimum or maximum, or drops a condition or a demand. It is
killed where a test fails, or does not end in --seconds; a test runs if it calls the changed function (recorded once,
with its duration), fastest first. Survivors are printed with file, line and change. Exit code 1 where fewer than 95 %
are killed. Works on a copy of the repository.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis  # noqa: F401  (these and pytest once, before any process is forked)
import jsonschema  # noqa: F401
import numpy  # noqa: F401
import pytest

ROOT = Path(__file__).resolve().parents[1]
PATHS = (
    "codesign/checker", "codesign/domain_checker", "codesign/data_checker", "codesign/proof/statement.py",
    "codesign/signoff/signing.py", "codesign/signoff/verdict.py", "codesign/signoff/record.py",
    "codesign/signoff/folder.py", "codesign/signoff/domain.py", "codesign/signoff/evidence.py", "codesign/outcome.py",
)  # fmt: skip
TESTS = ("tests/checker", "tests/signoff", "tests/verification/test_criteria.py", "tests/test_outcome.py")
PLANTS = "tests/checker/test_planted_checker_errors.py::test_errors"  # change source by its text: not of behaviour
WANTED = 0.95
_COMPARE = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "in": "not in", "not in": "in",
            "is": "is not", "is not": "is"}  # fmt: skip
_COMPARE_OPS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.In: "in",
                ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not"}  # fmt: skip
_BINARY = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*"}
_CALLS = {"maximum": "minimum", "minimum": "maximum", "max": "min", "min": "max", "all": "any", "any": "all"}


@dataclass(frozen=True)
class Mutant:
    """`start`, `end`: byte offsets in the file that `new` replaces; `function`: the outermost one around it, or ''."""

    path: str
    line: int
    start: int
    end: int
    old: str
    new: str
    function: str

    @property
    def name(self) -> str:
        return f"{self.path}:{self.line}: {self.old!r} -> {self.new!r} @{self.start}"


class _Finder(ast.NodeVisitor):
    def __init__(self, path: str, source: str) -> None:
        self.path, self.content = path, source.encode()
        self.starts = [0]
        for line in self.content.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.function = ""
        self.found: list[Mutant] = []

    def span(self, node: ast.AST) -> tuple[int, int]:
        n: ast.expr = node  # type: ignore[assignment]
        assert n.end_lineno is not None
        assert n.end_col_offset is not None
        return self.starts[n.lineno - 1] + n.col_offset, self.starts[n.end_lineno - 1] + n.end_col_offset

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.content[start:end].decode()

    def put(self, node: ast.AST, start: int, end: int, new: str) -> None:
        old = self.content[start:end].decode()
        self.found.append(Mutant(self.path, node.lineno, start, end, old, new, self.function))  # type: ignore[attr-defined]

    def replace(self, node: ast.AST, new: str) -> None:
        self.put(node, *self.span(node), new)

    def between(self, before: ast.AST, after: ast.AST, old: str, new: str) -> None:
        """The operator between two operands."""
        start, end = self.span(before)[1], self.span(after)[0]
        at = self.content[start:end].decode().find(old)
        if at >= 0:
            self.put(before, start + at, start + at + len(old), new)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self.function = self.function, self.function or node.name
        for part in (*node.args.defaults, *node.body):
            self.visit(part)
        self.function = outer

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.replace(node.test, "False")
            self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.replace(node, "None")
            self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for k, op in enumerate(node.ops):
            old = _COMPARE_OPS[type(op)]
            self.between(operands[k], operands[k + 1], old, _COMPARE[old])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for before, after in zip(node.values, node.values[1:], strict=False):
            self.between(before, after, old, new)
        for value in node.values:
            self.replace(value, "True" if old == "and" else "False")  # the condition is dropped
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        new = _BINARY.get(type(node.op))
        texts = any(isinstance(side, (ast.JoinedStr, ast.List, ast.Tuple)) for side in (node.left, node.right))
        if new is not None and not texts:
            self.between(node.left, node.right, {"-": "+", "+": "-", "/": "*", "*": "/"}[new], new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub)):
            self.replace(node, f"({self.text(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.replace(node, str(not node.value))
        elif isinstance(node.value, int):
            self.replace(node, str(node.value + 1))
        elif isinstance(node.value, float):
            self.replace(node, f"({self.text(node)} / 100)" if node.value else "1.0")

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in _CALLS:
            _, end = self.span(node.func)
            self.put(node, end - len(name), end, _CALLS[name])
        self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Texts of messages: positions inside them are not kept by every Python."""


def mutants_of(path: str, source: str) -> list[Mutant]:
    """Every mutant of a file that is still Python."""
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    good = []
    for mutant in finder.found:
        try:
            compile(mutated(source, mutant), path, "exec")
        except SyntaxError:
            continue
        good.append(mutant)
    return good


def mutated(source: str, mutant: Mutant) -> str:
    content = source.encode()
    return (content[: mutant.start] + mutant.new.encode() + content[mutant.end :]).decode()


def files(paths: Sequence[str]) -> Iterator[str]:
    for name in paths:
        path = ROOT / name
        found = sorted(path.rglob("*.py")) if path.is_dir() else [path] * path.is_file()
        yield from (str(p.relative_to(ROOT)) for p in found)


RECORDER = """
import json, os, sys, time, pytest
ROOT = os.environ["MUTATION_ROOT"] + os.sep
FILES = set(json.loads(os.environ["MUTATION_FILES"]))
calls, told = set(), {}
def note(frame, event, _arg):
    if event == "call":
        name = frame.f_code.co_filename
        if name.startswith(ROOT):
            name = name[len(ROOT):]
            if name in FILES:
                calls.add((name, frame.f_code.co_qualname.split(".<")[0] if hasattr(frame.f_code, "co_qualname")
                           else frame.f_code.co_name))
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item, nextitem):
    calls.clear(); started = time.perf_counter(); sys.setprofile(note)
    yield
    sys.setprofile(None)
    told[item.nodeid] = {"seconds": time.perf_counter() - started, "calls": sorted(map(list, calls))}
def pytest_runtest_logreport(report):
    if report.failed: told.setdefault("failed", []).append(report.nodeid)
def pytest_sessionfinish(session):
    json.dump(told, open(os.environ["MUTATION_OUT"], "w"))
"""


def _environment(copy: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", **more}


def record(copy: Path, tests: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, object]]:
    """For every test its seconds and the functions of the files that it calls."""
    (copy / "mutation_recorder.py").write_text(RECORDER)
    out = copy / "recorded.json"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "mutation_recorder",
        "--deselect",
        PLANTS,
        *tests,
    ]
    more = {"MUTATION_ROOT": str(copy), "MUTATION_FILES": json.dumps(list(names)), "MUTATION_OUT": str(out)}
    subprocess.run(
        command, cwd=copy, env=_environment(copy, **more), stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False
    )
    told = json.loads(out.read_text())
    if told.pop("failed", None):
        sys.exit("tests fail without a planted error; mend them first")
    return told  # type: ignore[no-any-return]


def recorded(
    copy: Path, tests: Sequence[str], names: Sequence[str], cache: Path | None
) -> dict[str, dict[str, object]]:
    """`record`, or what a file keeps of it for the same sources and tests."""
    key = hashlib.sha256(json.dumps([list(tests), list(names)]).encode())
    for path in sorted(path for part in ("codesign", "tests", "tools") for path in (copy / part).rglob("*.py")):
        key.update(str(path.relative_to(copy)).encode() + path.read_bytes())
    if cache is not None and cache.is_file():
        kept: dict[str, Any] = json.loads(cache.read_text())
        if kept["key"] == key.hexdigest():
            return dict(kept["told"])
    told = record(copy, tests, names)
    if cache is not None:
        cache.write_text(json.dumps({"key": key.hexdigest(), "told": told}))
    return told


def covering(mutant: Mutant, told: dict[str, dict[str, object]]) -> list[str]:
    """Tests that call the function (any test of the file for what lies outside functions), the fastest first."""
    found = []
    for test, entry in told.items():
        calls = [tuple(c) for c in entry["calls"]]  # type: ignore[attr-defined]
        here = {name.split(".")[-1] for path, name in calls if path == mutant.path}
        here |= {part for path, name in calls if path == mutant.path for part in name.split(".")}
        if here and (not mutant.function or mutant.function in here):
            found.append((entry["seconds"], test))
    return [test for _, test in sorted(found)]


def survives(copy: Path, mutant: Mutant, tests: Sequence[str], seconds: float) -> str:
    """'killed', 'survived', 'time' (killed: it does not end) or 'uncovered'."""
    if not tests:
        return "uncovered"
    path = copy / mutant.path
    source, stat = path.read_text(encoding="utf-8"), path.stat()
    path.write_text(mutated(source, mutant), encoding="utf-8")
    os.utime(path, (stat.st_atime, stat.st_mtime + 1000))  # so that no cached bytecode is taken for it
    child = multiprocessing.get_context("fork").Process(target=_run_tests, args=(copy, list(tests)))
    try:
        child.start()
        child.join(seconds)
        if child.is_alive():
            os.killpg(child.pid or 0, signal.SIGKILL)
            child.join()
            return "time"
    finally:
        path.write_text(source, encoding="utf-8")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    if child.exitcode in (3, 4, 5, 70):  # pytest's own errors say nothing of the mutant
        sys.exit(f"pytest ended with {child.exitcode} on {mutant.name}")
    return "survived" if child.exitcode == 0 else "killed"


def _run_tests(copy: Path, tests: list[str]) -> None:
    """In a forked process: it has the libraries already, and reads the copy's own files afresh."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    for name in [n for n in sys.modules if n.partition(".")[0] == "codesign"]:
        del sys.modules[name]
    os.environ.update(_environment(copy))
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    sys.dont_write_bytecode = True
    code = 70
    try:
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
    finally:
        os._exit(code)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=150, help="mutants, drawn by --seed; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--paths", nargs="+", default=PATHS, help="files or folders to mutate")
    parser.add_argument("--tests", nargs="+", default=[t for t in TESTS if (ROOT / t).exists()])
    parser.add_argument("--most-tests", type=int, default=40, help="of those that cover a mutant, the fastest")
    parser.add_argument("--seconds", type=float, default=900.0, help="time for one mutant's tests")
    parser.add_argument("--journal", type=Path, help="results so far: the same command goes on from them")
    parser.add_argument("--recording", type=Path, help="keeps which test calls what, for as long as no source changes")
    given = parser.parse_args()
    names = list(files(given.paths))
    every = [m for name in names for m in mutants_of(name, (ROOT / name).read_text(encoding="utf-8"))]
    chosen = list(every)
    random.Random(given.seed).shuffle(chosen)
    chosen = chosen[: given.count or len(chosen)]
    print(f"{len(every)} mutants in {len(names)} files; {len(chosen)} are run", flush=True)
    known = {}
    if given.journal is not None and given.journal.is_file():
        known = dict(json.loads(line) for line in given.journal.read_text().splitlines())
    with tempfile.TemporaryDirectory(prefix="codesign-mutants-") as folder:
        copy = Path(folder) / "copy"
        skipped = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "*.deploy")
        shutil.copytree(ROOT, copy, ignore=skipped)
        told = recorded(copy, given.tests, names, given.recording)
        unchanged = Mutant(names[0], 0, 0, 0, "", "", "")
        some = sorted(told, key=lambda test: told[test]["seconds"])[:20]  # type: ignore[arg-type,return-value]
        if survives(copy, unchanged, some, given.seconds) != "survived":
            sys.exit("tests fail without a planted error where one process is forked from another")
        results = {}
        for k, mutant in enumerate(chosen):
            started = time.monotonic()
            result = known.get(mutant.name)
            if result is None:
                result = survives(copy, mutant, covering(mutant, told)[: given.most_tests], given.seconds)
                if given.journal is not None:
                    with given.journal.open("a") as stream:
                        stream.write(json.dumps([mutant.name, result]) + "\n")
            results[mutant] = result
            took = time.monotonic() - started
            print(f"{k + 1}/{len(chosen)} {result:<9} {took:5.0f} s  {mutant.name}", flush=True)
    killed = sum(result in ("killed", "time") for result in results.values())
    for mutant, result in results.items():
        if result in ("survived", "uncovered"):
            print(f"{result}: {mutant.name}")
    print(f"mutation score: {killed} of {len(results)} killed ({100 * killed / max(1, len(results)):.1f} %)")
    return 0 if killed >= WANTED * len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
