"""The network laboratory needs root and programs of Debian; in CI it must run."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from doorstep.testing.deadlines import SCALE
from doorstep.testing.lab import Lab, lab, lacking


@pytest.fixture(scope="session", autouse=True)
def _able() -> None:
    if missing := lacking():
        assert os.environ.get("CI") != "true", missing
        pytest.skip(missing)


QUICK = {"DOORSTEP_TIMING_SILENCE": "1", "DOORSTEP_TIMING_GIVE_UP": "4"}
"""A lost wire is given up soon, so that the tests do not wait."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    """A laboratory for the tests of one module."""
    async with lab(tmp_path_factory.mktemp("lab"), environment=QUICK, scale=SCALE) as found:
        yield found
