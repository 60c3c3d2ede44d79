"""Faults that must lose nothing: real processes, real peer connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from doorstep.testing.stack import Stack, stack


@pytest_asyncio.fixture
async def running(tmp_path: Path, scale: float) -> AsyncIterator[Stack]:
    async with stack(tmp_path, scale=scale) as found:
        yield found
