"""The checker stays small enough to be read: docs/soundness.md states these numbers."""

import ast
import io
import tokenize
from pathlib import Path

CHECKER = Path(__file__).parents[2] / "codesign" / "checker"
SOLVER_INTERFACE = "solver.py"
# Read only for certificates of these kinds: over a whole domain, and by quadratic zonotopes.
EXTENSIONS = {"domain.py": 130, "all_inputs.py": 70, "second_order.py": 80}
LIMIT = 800
_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(source):
    """Lines that hold code: not blank, not only a comment, not of a docstring."""
    documented = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                documented |= set(range(first.lineno, first.end_lineno + 1))
    used = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            used |= set(range(token.start[0], token.end[0] + 1))
    return len(used - documented)


def test_lines_are_counted_as_said():
    source = (
        '"""One.\n\nTwo."""\n\nx = 1  # one\n# none\n\n\ndef f(\n    a,\n):\n    """None."""\n    return """a\nb"""\n'
    )
    assert code_lines(source) == 6


def test_the_checker_is_under_800_lines():
    counts = {path.name: code_lines(path.read_text(encoding="utf-8")) for path in CHECKER.glob("*.py")}
    assert {SOLVER_INTERFACE, *EXTENSIONS} < set(counts)
    extra = {name: counts[name] for name in EXTENSIONS}
    assert all(extra[name] <= EXTENSIONS[name] for name in extra), extra
    core = sum(counts.values()) - counts[SOLVER_INTERFACE] - sum(extra.values())
    assert core < LIMIT, counts
