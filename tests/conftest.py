"""What all tests share: deadlines that stretch on slow machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from doorstep.testing.deadlines import SCALE


@pytest.fixture(autouse=True)
def state_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keys and known agents of a client that names no state directory: never those of the user who tests."""
    directory = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("DOORSTEP_STATE_DIR", str(directory))
    return directory


@pytest.fixture(scope="session")
def scale() -> float:
    """Factor for every deadline of a test."""
    return SCALE
