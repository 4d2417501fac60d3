"""The checker stays small enough to be read: docs/soundness.md states these numbers."""

import ast
import io
import tokenize
from pathlib import Path

PACKAGES = Path(__file__).parents[2] / "codesign"
SOLVER_INTERFACE = "solver.py"
LIMITS = {
    "checker": 800, "domain_checker": 220, "data_checker": 60, "input_checker": 80, "float32_checker": 350,
    "deployment_checker": 460,
}  # fmt: skip
SIGNED_WITH = {"codegen", "deployment_checker", "recheck", "samples", "signoff", "toolchain"}  # what is compared with
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


def test_the_checkers_are_small_with_their_arithmetic():
    for package, limit in LIMITS.items():
        files = list((PACKAGES / package).rglob("*.py"))
        counts = {path.name: code_lines(path.read_text(encoding="utf-8")) for path in files}
        assert len(counts) == len(files)
        assert sum(counts.values()) - counts.get(SOLVER_INTERFACE, 0) < limit, counts


def test_nothing_else_of_the_project_computes_for_them():
    """The rest that they import are readers, formats, facts, and the exact simulation; docs/soundness.md lists them."""
    allowed = {
        "checker", "data_checker", "domain_checker", "errors", "float32_checker", "input_checker", "network",
        "processes", "proof", "quantization", "semantics",
    }  # fmt: skip
    for package in LIMITS:
        for path in (PACKAGES / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [node.module] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                own = [name.split(".") for name in names if name and name.startswith("codesign.")]
                more = SIGNED_WITH if package == "deployment_checker" else set()
                assert {parts[1] for parts in own} <= allowed | more, path
