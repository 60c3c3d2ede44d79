"""What the agent's tests share: a connected session pair, and waits with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from doorstep.runtime import Service, Session
from doorstep.testing.deadlines import SCALE
from doorstep.testing.pair import session_pair

DEADLINE = 40.0 * SCALE


@asynccontextmanager
async def connected(*services: Service) -> AsyncGenerator[Session, None]:
    """Yield the client's end of a session whose agent offers ``services``."""
    async with session_pair(*services) as pair:
        yield pair.client


async def until(check: Callable[[], bool]) -> None:
    """Wait until ``check`` is true; what it looks at (processes, descriptors) sends no events."""
    async with asyncio.timeout(DEADLINE):
        while not check():
            await asyncio.sleep(0.02)
