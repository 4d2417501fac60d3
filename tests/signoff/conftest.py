from __future__ import annotations

import pytest
from signoff_support import Evidence, make_evidence


@pytest.fixture(scope="session")
def original() -> Evidence:
    """Evidence of a deployment where all went well; not to be changed."""
    return make_evidence("tiny")


@pytest.fixture
def good(original: Evidence) -> Evidence:
    """The same; the test may change it."""
    return original.copy()
