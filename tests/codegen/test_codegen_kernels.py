"""The kernels' scalar functions against codesign.semantics, exhaustively where the domain is 16 bits."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from codegen_support import SANITIZERS, VARIANTS, WARNINGS

from codesign.quantization.integer import Multiplier
from codesign.resources import resource_dir
from codesign.semantics import sigmoid_table, tanh_table
from codesign.semantics.primitives import mbqm


@pytest.fixture(scope="module", params=VARIANTS)
def kernel_driver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    kernels = resource_dir("firmware") / "kernels"
    program = tmp_path_factory.mktemp("kernels") / "driver"
    here = Path(__file__).parent
    sources = [here / "kernel_driver.c", kernels / "cs_layers.c", kernels / "cs_tables.c"]
    flags = [*WARNINGS, *SANITIZERS, *VARIANTS[request.param], "-O1", "-I", kernels, "-I", here]
    subprocess.run([str(c) for c in ["gcc", *flags, *sources, "-o", program]], check=True)
    return program


def output(program: Path, *arguments: object, data: bytes = b"") -> np.ndarray:
    command = [str(program), *(str(a) for a in arguments)]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return np.frombuffer(done.stdout, np.int32)


def test_sigmoid_for_every_input(kernel_driver: Path) -> None:
    np.testing.assert_array_equal(output(kernel_driver, "sigmoid"), sigmoid_table())


@pytest.mark.parametrize("shift", [-40, -28, -17, -15, -14, -13, -12, -11, -9, -3, 0, 2])
def test_tanh_for_every_input(kernel_driver: Path, shift: int) -> None:
    np.testing.assert_array_equal(output(kernel_driver, "tanh", shift), tanh_table(shift))


@pytest.mark.parametrize("e", [-31, -30, -14, -1, 0, 1, 7])
@pytest.mark.parametrize("m", [0, 2**30, 2**30 + 1, 1518500249, 2**31 - 1])
def test_multiply(kernel_driver: Path, m: int, e: int) -> None:
    """Ties of both roundings included: small values, powers of two and their neighbours, both signs."""
    limit = (2**30 - 1) >> max(e, 0)
    powers = 2 ** np.arange(31, dtype=np.int64)
    near = np.concatenate([np.arange(600), *(powers + d for d in (-1, 0, 1)), *(3 * powers + d for d in (-1, 0, 1))])
    values = np.concatenate([near, np.random.default_rng(0).integers(0, limit, 3000), [limit]])
    values = values[values <= limit]
    values = np.concatenate([values, -values])
    got = output(kernel_driver, "multiply", m, e, data=values.astype(np.int32).tobytes())
    np.testing.assert_array_equal(got, mbqm(values, Multiplier(m, e)))


@pytest.mark.parametrize(
    ("m", "e"), [(2**30, -14), (2**30, -17), (2**30, -24), (2**30, -29), (1518500249, -22), (2**31 - 1, -3)]
)
def test_product(kernel_driver: Path, m: int, e: int) -> None:
    """Powers of two take a path of their own. Gate in Q0.15 (never negative, or of any sign) times an int16."""
    rng = np.random.default_rng(1)
    a = np.concatenate([rng.integers(0, 32768, 20000), np.repeat([0, 1, 2, 32767], 5000)])
    b = np.concatenate([rng.integers(-32768, 32768, 20000), rng.integers(-3, 4, 10000), np.tile([-32768, 32767], 5000)])
    got = output(kernel_driver, "product", m, e, data=np.stack([a, b], 1).astype(np.int32).tobytes())
    np.testing.assert_array_equal(got, mbqm(a * b, Multiplier(m, e)))
