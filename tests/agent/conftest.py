"""Nothing is left behind by any test of the agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from doorstep.testing.leaks import no_leaks


@pytest_asyncio.fixture(autouse=True)
async def nothing_left(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    if request.node.get_closest_marker("asyncio") is None:
        yield
        return
    await asyncio.to_thread(lambda: None)  # the loop's own threads are not a leak
    async with no_leaks():
        yield
