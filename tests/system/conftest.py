"""System tests: real processes and real peers; a hub in this process only where a test looks inside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from doorstep.testing.stack import Stack, stack

QUICK = {
    "DOORSTEP_TIMING_SIGNALING_LINGER": "2",
    "DOORSTEP_TIMING_RECONNECT_FIRST": "0.1",
    "DOORSTEP_TIMING_RECONNECT_CAP": "0.5",
}


@pytest_asyncio.fixture
async def running(tmp_path: Path, scale: float) -> AsyncIterator[Stack]:
    """A hub process; its agents clean up after 2 s and reconnect quickly."""
    async with stack(tmp_path, environment=QUICK, scale=scale) as found:
        yield found
