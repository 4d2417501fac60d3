from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hil_support import Model, built_once, load_model, need_toolchain

if TYPE_CHECKING:
    from codesign.toolchain import Build


@pytest.fixture(scope="session")
def tiny() -> Model:
    return load_model("tiny")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Build]:
    """Builds the firmware of a fixture or sample model for a board, once a run, however many processes test."""
    need_toolchain()
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "firmware"

    @cache
    def make(name: str, board: str) -> Build:
        return built_once(name, board, shared, tmp_path_factory.mktemp(f"{name}-{board}"))

    return make
