from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hil_support import Model, load_model, need_toolchain

if TYPE_CHECKING:
    from codesign.toolchain import Build


@pytest.fixture(scope="session")
def tiny() -> Model:
    return load_model("tiny")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Build]:
    """Builds the firmware of a fixture for a board, once a session."""
    need_toolchain()
    from codesign.toolchain import build, load_board

    done: dict[tuple[str, str], Build] = {}

    def make(name: str, board: str) -> Build:
        if (name, board) not in done:
            folder = tmp_path_factory.mktemp(f"{name}-{board}")
            done[name, board] = build(load_model(name).integer, load_board(board), folder)
        return done[name, board]

    return make
