"""Mutants of model files are refused, or certificates hold on the interpreters; holes that are planted are found."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "check_pairs.py"


@pytest.fixture(scope="module", autouse=True)
def _interpreters():
    for name in ("tflite_micro", "tflite_runtime"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


def run(*arguments, code=None):
    """The tool, or code that uses it, in a process of its own: interpreters share native symbols with TensorFlow."""
    command = [sys.executable, str(TOOL), *arguments] if code is None else [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=TOOL.parent, timeout=1200)


def test_every_mutant_is_refused_or_its_certificate_holds():
    """Hundreds; `tools/check_pairs.py` by itself judges thousands."""
    done = run("--mutants", "320", "--inputs", "150", "--jobs", "1", "--seed", "3", "tiny", "timedist")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["mutants"] > 250
    assert result["violated"] == 0
    for side, found in result["by_side"].items():
        assert found["refused"] > 10, side
        assert found["held"] > 10, side
    assert result["stands_in"] < 0.2 * result["held"]


HOLES = {
    "shapes are not compared": (
        "timedist",
        "int8",
        "RESHAPE inserted behind operator 1, flattening",
        "from codesign.quantization import align as a; a._fits = lambda *_: True; a._same_rows = lambda *_: True",
    ),
    "a float clip is dropped": (
        "tiny",
        "float",
        "subgraphs[0]/operators[0]/builtinOptions/cellClip = 0.3",
        "from dataclasses import replace; from codesign.network import tflite_file as t; f = t.check_lstm; "
        "t.check_lstm = lambda *v: replace(f(*v), cell_clip=0.0)",
    ),
    "any beta is taken": (
        "tiny",
        "int8",
        "subgraphs[0]/operators[3]/builtinOptions/beta = 4.0",
        "from dataclasses import replace; from codesign.flatfile import schema as s; from codesign.quantization import "
        "reader as r; s.TABLES['SoftmaxOptions'] = tuple(replace(f, only=None) for f in s.TABLES['SoftmaxOptions']); "
        "r.check_unary = lambda file, op: op.options['beta'] if op.kind == 'SOFTMAX' else None",
    ),
}


@pytest.mark.parametrize("hole", HOLES)
def test_planted_holes_are_found(hole):
    """Each mutant is refused or held as things are, and violated where the reader or the pairing has the hole."""
    name, side, what, plant = HOLES[hole]
    code = (
        "import sys, numpy as np; sys.path.insert(0, '.')\n"
        "from check_pairs import FIXTURES, Judge\n"
        "from pair_mutants import pack, single, structural, unpack\n"
        f"name, side, what = {name!r}, {side!r}, {what!r}\n"
        "real, integer = ((FIXTURES / f'{name}{s}').read_bytes() for s in ('.float.tflite', '.tflite'))\n"
        "content = real if side == 'float' else integer\n"
        "(change,) = [c for t, c in [*single(content, np.random.default_rng(0)), *structural(content)] if t == what]\n"
        "model = unpack(content); change(model); mutant = pack(model)\n"
        "case = (what, mutant, integer, name) if side == 'float' else (what, real, mutant, name)\n"
        "print(Judge(200)(case)[0])\n"
        f"{plant}\n"
        "print(Judge(200)(case)[0])\n"
    )
    done = run(code=code)
    assert done.returncode == 0, done.stderr[-2000:]
    sound, holed = done.stdout.split()
    assert sound in ("refused", "held")
    assert holed == "violated"
