"""After every test of the runtime nothing is left: no task, timer, descriptor or child."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from doorstep.testing.leaks import no_leaks


@pytest_asyncio.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    async with no_leaks():
        yield
