"""What all tests share: deadlines that stretch on slow machines; with CI=true a skipped test fails."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from doorstep.testing.deadlines import SCALE


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome, report.longrepr = "failed", f"nothing may be skipped here: {report.longrepr}"
    return report


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
