"""A hub with two users and an agent, and the two sides of a session that meet at its relay."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest_asyncio

from doorstep.hub.relay_limits import RelayLimits
from doorstep.testing.hub import throw_away_hub
from doorstep.testing.leaks import no_leaks

from .support import House, move_in

Open = Callable[..., Awaitable[House]]


@pytest_asyncio.fixture(autouse=True)
async def nothing_left() -> AsyncGenerator[None, None]:
    async with no_leaks():
        yield


@pytest_asyncio.fixture
async def house(tmp_path: Path, nothing_left: None) -> AsyncGenerator[House, None]:
    async with throw_away_hub(tmp_path) as hub:
        yield await move_in(hub)


@pytest_asyncio.fixture
async def limited(tmp_path: Path, nothing_left: None) -> AsyncGenerator[Open, None]:
    """Open a house whose relay has other limits: ``await limited(idle=0.2)``."""
    async with AsyncExitStack() as stack:

        async def make(**limits: float) -> House:
            relay = RelayLimits(**limits)  # type: ignore[arg-type]
            return await move_in(await stack.enter_async_context(throw_away_hub(tmp_path, relay=relay)))

        yield make
