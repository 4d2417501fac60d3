from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from toolchain_support import STUB

from codesign.toolchain import Build, build_project, generate_project, load_board


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "arm: needs arm-none-eabi-gcc and PlatformIO")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("arm") is None:
        return
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    for module in ("platformio", "SCons"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"the Python package {module} is not installed")


@pytest.fixture(scope="session")
def stub_build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Build]:
    """Builds the stub model for a board, once a session."""

    @cache
    def make(name: str) -> Build:
        board = load_board(name)
        project = generate_project(STUB, board, tmp_path_factory.mktemp("projects") / name)
        return build_project(project, "ab" * 32)

    return make


@pytest.fixture
def stub_sources(tmp_path: Path) -> Path:
    """A copy of the stub model's sources to change."""
    return Path(shutil.copytree(STUB, tmp_path / "stub"))
