"""What the agent's tests share: a connected session pair, and waits with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from doorstep.protocol.ids import SessionId
from doorstep.runtime import Role, Service, Session
from doorstep.transport.local import local_pair

DEADLINE = 20.0


@asynccontextmanager
async def connected(*services: Service) -> AsyncIterator[Session]:
    """Yield the client's end of a session whose agent offers ``services``."""
    named = {service.name: service for service in services}
    agent = Session(role=Role.AGENT, session_id=SessionId("test-session"), services=named)
    client = Session(role=Role.CLIENT, session_id=SessionId("test-session"))
    one, other = local_pair()
    async with asyncio.TaskGroup() as group:
        group.create_task(agent.start(one))
        group.create_task(client.start(other))
    try:
        yield client
    finally:
        await client.close()
        await agent.close()


async def until(check: Callable[[], bool]) -> None:
    """Wait until ``check`` is true; what it looks at (processes, descriptors) sends no events."""
    async with asyncio.timeout(DEADLINE):
        while not check():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.02)
