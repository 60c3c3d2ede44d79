"""A hundred clients knock at once: each gets a shell of its own, and none is let in above the limit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from doorstep.agent.process import session_members
from doorstep.protocol.ids import AgentId, SessionId, agents_topic
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import SESSIONS_PER_AGENT
from doorstep.protocol.signaling import RELAY
from doorstep.runtime import Role, Session
from doorstep.testing.bus import MemoryBus
from doorstep.transport.local import LocalWire, local_pair
from doorstep.transport.road import Road
from doorstep.transport.signaling import ChannelSpec
from doorstep.transport.wire import Wire

from .support import DEADLINE, until
from .test_agent import OWNER, house

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(240)]
MANY = 100


class Place:
    """A relay in memory: a hundred peer connections would be a test of the processor."""

    def __init__(self) -> None:
        self._left: dict[SessionId, asyncio.Future[LocalWire]] = {}

    async def meet(self, *, role: Role, session_id: SessionId, agent_id: AgentId, prover: Any = None) -> Wire:
        if (other := self._left.pop(session_id, None)) is not None:
            near, far = local_pair()
            other.set_result(far)
            return near
        self._left[session_id] = asyncio.get_running_loop().create_future()
        return await self._left[session_id]


async def test_a_hundred_at_once_and_not_one_above_the_limit() -> None:
    place = Place()
    async with house(MemoryBus(), roads=(Road(RELAY, place.meet),)) as here:
        heard: list[tuple[str, dict[str, Any]]] = []
        spec = ChannelSpec(
            topic=agents_topic(OWNER), on_message=lambda event, payload: heard.append((event, payload))
        )
        signaling = here.bus.signaling("owner", here.agent._timing)
        channel = await signaling.join(spec, timeout=DEADLINE)

        async def knock(number: int) -> None:
            own = {"agentId": here.agent.identity.id, "sessionId": f"session-{number}"}
            await channel.send("connection-request", {**own, "capabilities": [RELAY]})

        sessions = [Session(role=Role.CLIENT, session_id=SessionId(f"session-{n}")) for n in range(MANY)]

        async def visit(number: int) -> tuple[str, int]:
            await knock(number)
            session = sessions[number]
            agent_id = here.agent.identity.id
            await session.start(await place.meet(role=Role.CLIENT, session_id=session.id, agent_id=agent_id))
            command = ["/bin/sh", "-c", "tty; exec cat"]
            stream = await session.open(
                "terminal", "open", {"command": command}, lane=Lane.TERMINAL_IO, timeout=DEADLINE
            )
            await stream.write(b"me-%d\n" % number)
            said = b""
            while said.count(b"me-%d\r\n" % number) < 2:  # the terminal's echo, and cat's
                said += await stream.read()
            tty = next(line for line in said.decode().splitlines() if line.startswith("/dev/"))
            return tty, int(stream.result["pid"])

        try:
            async with asyncio.timeout(4 * DEADLINE):
                found = await asyncio.gather(*(visit(number) for number in range(MANY)))
                assert len({tty for tty, _ in found}) == len({pid for _, pid in found}) == MANY
                assert here.agent.sessions == MANY
                await asyncio.gather(*(knock(MANY + number) for number in range(MANY)))
                refused = 2 * MANY - SESSIONS_PER_AGENT
                await until(
                    lambda: len([1 for event, _ in heard if event == "connection-refused"]) == refused
                )
            assert {told["code"] for event, told in heard if event == "connection-refused"} == {"busy"}
            assert here.agent.sessions == SESSIONS_PER_AGENT
        finally:
            await asyncio.gather(*(session.close() for session in sessions))
            await signaling.close()
    await until(lambda: not any(session_members(pid) for _, pid in found))
