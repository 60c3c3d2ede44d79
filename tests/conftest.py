"""What all tests share: deadlines that stretch on slow machines."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def scale() -> float:
    """Factor for every deadline of a test: DOORSTEP_TEST_SCALE, 1 by default."""
    return float(os.environ.get("DOORSTEP_TEST_SCALE", "1"))
