"""Testing: two sessions in one process, greeted and ready, over a ``LocalWire`` pair."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from doorstep.protocol.ids import SessionId
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.runtime import Role, Service, Session
from doorstep.transport.local import LocalWire, local_pair

__all__ = ["SessionPair", "session_pair"]


@dataclass(frozen=True, slots=True)
class SessionPair:
    """Both ends, and the wire of each: ``hold()``, ``release()`` and ``lose()`` make the weather."""

    client: Session
    agent: Session
    client_wire: LocalWire
    agent_wire: LocalWire


@asynccontextmanager
async def session_pair(
    *services: Service,
    client_services: Iterable[Service] = (),
    timing: Timing = DEFAULT_TIMING,
    rate: float | None = None,
    session_id: str = "session-pair",
    resume: bool = True,
) -> AsyncGenerator[SessionPair, None]:
    """Yield two open sessions, the agent's with ``services``; close both on the way out.

    Without ``resume`` they end with their wires.

    ``rate`` is that of :func:`~doorstep.transport.local.local_pair`.
    """
    client_wire, agent_wire = local_pair(rate=rate)
    own = SessionId(session_id)
    client = Session(
        role=Role.CLIENT, session_id=own, services=_named(client_services), timing=timing, resume=resume
    )
    agent = Session(role=Role.AGENT, session_id=own, services=_named(services), timing=timing, resume=resume)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(agent.start(agent_wire))
            group.create_task(client.start(client_wire))
        yield SessionPair(client, agent, client_wire, agent_wire)
    finally:
        await client.close()
        await agent.close()


def _named(services: Iterable[Service]) -> dict[str, Service]:
    return {service.name: service for service in services}
