from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # flatmodels, shared with tests/quantization

from semantics_support import FIXTURES, NAMES


@pytest.fixture(params=NAMES)
def fixture_path(request: pytest.FixtureRequest) -> Path:
    return FIXTURES / f"{request.param}.tflite"


@pytest.fixture(params=NAMES)
def int16_path(request: pytest.FixtureRequest) -> Path:
    return FIXTURES / f"{request.param}.int16.tflite"
