"""The tool that plants errors: which ones it plants, and that it tells tests that see one from tests that do not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import mutation_score as tool

SOURCE = '''"""Text."""
LIMIT: int = 3


def inside(x: float, low: float = 0.5) -> bool:
    demand(x > low)
    if not x < 2 * LIMIT and max(x, 1) == x:
        return True
    return -x in (1.5, x - 1)
'''


def changes() -> set[tuple[str, str]]:
    return {(m.old, m.new) for m in tool.mutants_of("a.py", SOURCE)}


@pytest.mark.parametrize(
    "change",
    [
        (">", ">="), ("<", "<="), ("==", "!="), ("in", "not in"), ("and", "or"), ("max", "min"), ("*", "/"), ("-", "+"),
        ("3", "4"), ("0.5", "(0.5 / 100)"), ("True", "False"), ("-x", "(x)"), ("not x < 2 * LIMIT", "True"),
        ("demand(x > low)", "None"), ("not x < 2 * LIMIT and max(x, 1) == x", "False"),
    ],
)  # fmt: skip
def test_each_kind_of_error_is_planted(change: tuple[str, str]) -> None:
    assert change in changes()


def test_every_mutant_differs_in_its_place_alone() -> None:
    for mutant in tool.mutants_of("a.py", SOURCE):
        text = tool.mutated(SOURCE, mutant)
        assert text != SOURCE
        assert text.startswith(SOURCE[: mutant.start])
        assert SOURCE.splitlines()[mutant.line - 1].count(mutant.old.splitlines()[0]) >= 1
        compile(text, "a.py", "exec")


def test_killed_survived_and_uncovered(tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text(
        "def f(x):\n    return x > 2\n\n\ndef g(x):\n    return x + 1\n\n\ndef h():\n    return 3\n"
    )
    tests = "from some import f, g\n\n\ndef test_f():\n    assert f(3) and not f(2)\n\n\ndef test_g():\n    g(1)\n"
    (tmp_path / "test_some.py").write_text(tests)
    told = tool.record(tmp_path, ["test_some.py"], ["some.py"])
    found = {m.old: m for m in tool.mutants_of("some.py", (tmp_path / "some.py").read_text())}
    results = {}
    for old in (">", "+", "3"):
        results[old] = tool.survives(tmp_path, found[old], tool.covering(found[old], told), 60.0)
    assert results == {">": "killed", "+": "survived", "3": "uncovered"}
    assert tool.covering(found[">"], told) == ["test_some.py::test_f"]


def test_a_recording_is_kept_until_a_source_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def record(*_: object) -> dict[str, dict[str, object]]:
        made.append(1)
        return {"test_a": {"seconds": float(len(made)), "calls": []}}

    monkeypatch.setattr(tool, "record", record)
    (tmp_path / "codesign").mkdir()
    (tmp_path / "codesign" / "a.py").write_text("A = 1\n")
    given = tmp_path, ["tests"], ["codesign/a.py"], tmp_path / "kept.json"
    assert tool.recorded(*given) == tool.recorded(*given) == {"test_a": {"seconds": 1.0, "calls": []}}
    (tmp_path / "codesign" / "a.py").write_text("A = 2\n")
    assert tool.recorded(*given)["test_a"]["seconds"] == 2.0
    assert tool.recorded(given[0], ["others"], *given[2:])["test_a"]["seconds"] == 3.0


def test_tests_that_look_for_a_text_in_the_source_kill_nothing() -> None:
    path = tool.ROOT / tool.PLANTS.partition("::")[0]
    tests = [line for line in path.read_text().splitlines() if line.startswith("def test_") and "monkeypatch" in line]
    assert len(tests) == path.read_text().count("    planted(monkeypatch, ") == 3
    assert all(line.startswith(f"def {tool.PLANTS.partition('::')[2]}") for line in tests)


def test_what_decides_is_in_its_list() -> None:
    names = set(tool.files(tool.PATHS))
    assert {"codesign/checker/claims.py", "codesign/domain_checker/check.py", "codesign/signoff/verdict.py"} <= names
