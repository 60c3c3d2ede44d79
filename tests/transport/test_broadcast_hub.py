"""The broadcast wire over a real hub, its limits those of a Supabase project: a shell, a flood, strangers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from doorstep.agent.terminal import TerminalService
from doorstep.hub.config import RealtimeLimits
from doorstep.protocol.errors import SignalingLost, Unauthorized
from doorstep.protocol.frame_types import Role
from doorstep.protocol.ids import AgentId, SessionId, signaling_topic, wire_topic
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import BROADCAST_RATE
from doorstep.protocol.timing import DEFAULT_TIMING
from doorstep.protocol.trust import TranscriptProofs
from doorstep.runtime import Session
from doorstep.testing.hub import HubUser, ThrowAwayHub, throw_away_hub
from doorstep.testing.leaks import no_leaks
from doorstep.transport.broadcast import BroadcastWire, open_broadcast
from doorstep.transport.realtime import RealtimeSignaling
from doorstep.transport.signaling import ChannelSpec

pytestmark = pytest.mark.asyncio

SESSION = SessionId("session-0001")
PATIENCE = 40.0
TIMING = replace(DEFAULT_TIMING, reconnect_first=0.2, reconnect_cap=0.5)
"""A closed channel is joined again soon, however often."""


@dataclass
class House:
    """A hub, the owner of one agent in it, and a stranger with an account."""

    hub: ThrowAwayHub
    owner: HubUser
    stranger: HubUser
    agent: AgentId

    def signaling(self, user: HubUser | None = None) -> RealtimeSignaling:
        async def token() -> str:
            return (user or self.owner).access_token

        return RealtimeSignaling(self.hub.url, self.hub.anon_key, token, TIMING)

    async def side(self, role: Role, session: SessionId = SESSION) -> BroadcastWire:
        return await open_broadcast(
            self.signaling(),
            role=role,
            session_id=session,
            agent_id=self.agent,
            prover=TranscriptProofs(None),
        )

    async def sessions(self, session: SessionId = SESSION) -> tuple[Session, Session]:
        mine, theirs = await asyncio.gather(self.side(Role.CLIENT, session), self.side(Role.AGENT, session))
        terminal = TerminalService(DEFAULT_TIMING)
        client = Session(role=Role.CLIENT, session_id=session)
        agent = Session(role=Role.AGENT, session_id=session, services={terminal.name: terminal})
        await asyncio.gather(agent.start(theirs), client.start(mine))
        return client, agent


@asynccontextmanager
async def open_house(directory: Path, **changes: Any) -> AsyncGenerator[House, None]:
    async with no_leaks(), throw_away_hub(directory, **changes) as hub:
        owner, stranger = await hub.user(), await hub.user()
        agent = AgentId(str(uuid.uuid4()))
        headers = {"apikey": hub.anon_key, "Authorization": f"Bearer {owner.access_token}"}
        async with httpx.AsyncClient(base_url=hub.url, headers=headers) as http:
            row = {"id": agent, "owner_id": owner.id, "name": "box"}
            (await http.post("/rest/v1/agents", json=row)).raise_for_status()
        yield House(hub, owner, stranger, agent)


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House, None]:
    async with open_house(tmp_path) as opened:
        yield opened


SHELL = {"cols": 80, "rows": 24, "command": ["/bin/sh"]}


async def test_a_shell_and_a_flood_below_the_quota(house: House) -> None:
    client, agent = await house.sessions()
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(PATIENCE):
            shell = await client.open("terminal", "open", SHELL, lane=Lane.TERMINAL_IO)
            await shell.write(b"stty -echo -opost; PS1=; echo be\\gin\n")
            seen = b""
            while b"begin\n" not in seen:
                seen += await shell.read()
            start = loop.time()
            await shell.write(b"seq 1 20000; echo e\\nd; exit 3\n")
            seen = b"".join([chunk async for chunk in shell])
        seconds = loop.time() - start
        assert seen.partition(b"end\n")[0].split() == [b"%d" % number for number in range(1, 20_001)]
        assert shell.trailer is not None
        assert shell.trailer["exitCode"] == 3
        sent = [session.wire.stats()["chunksOut"] for session in (client, agent)]
        events = 2 * sum(int(str(count)) for count in sent)  # each as one sent and one received
        assert events < RealtimeLimits().events_per_second * (seconds + 5)
        assert client.wire.stats()["losses"] == agent.wire.stats()["losses"] == 0
    finally:
        await client.close()
        await agent.close()


async def test_the_pace_of_two_sessions_at_once_is_below_the_limit_of_a_project() -> None:
    """Each message counts as one sent and one received; acknowledgements are messages too."""
    flood = BROADCAST_RATE + 1 / DEFAULT_TIMING.broadcast_acknowledge
    assert 2 * 2 * flood < RealtimeLimits().events_per_second


async def test_where_less_is_allowed_less_is_said(tmp_path: Path) -> None:
    """The hub closes the channel of who receives too much; the flood is whole all the same, on one wire."""
    tight = RealtimeLimits(events_per_second=12, rate_tick=0.5, rate_buckets=4)
    async with open_house(tmp_path, realtime=tight) as house:
        client, agent = await house.sessions()
        try:
            async with asyncio.timeout(2 * PATIENCE):
                shell = await client.open("terminal", "open", SHELL, lane=Lane.TERMINAL_IO)
                await shell.write(b"stty -echo -opost; PS1=; echo be\\gin; seq 1 24000; echo e\\nd; exit\n")
                seen = b"".join([chunk async for chunk in shell])
            numbers = seen.rpartition(b"begin\n")[2].partition(b"end\n")[0].split()
            assert numbers == [b"%d" % number for number in range(1, 24_001)]
            assert client.wires == 1
        finally:
            await client.close()
            await agent.close()


async def test_the_hub_does_not_see_what_is_typed(house: House) -> None:
    heard: list[str] = []
    listening = house.signaling()
    topic = wire_topic(house.agent, SESSION)
    await listening.join(
        ChannelSpec(topic=topic, on_message=lambda _, payload: heard.append(str(payload))), timeout=PATIENCE
    )
    client, agent = await house.sessions()
    try:
        async with asyncio.timeout(PATIENCE):
            shell = await client.open("terminal", "open", SHELL, lane=Lane.TERMINAL_IO)
            await shell.write(b"echo a-secret-$((6*7)); exit\n")
            assert b"a-secret-42" in b"".join([chunk async for chunk in shell])
    finally:
        await client.close()
        await agent.close()
        await listening.close()
    assert heard
    assert "a-secret" not in "".join(heard)


async def test_a_stranger_cannot_come(house: House) -> None:
    with pytest.raises(Unauthorized):
        await open_broadcast(
            house.signaling(house.stranger),
            role=Role.CLIENT,
            session_id=SESSION,
            agent_id=house.agent,
            prover=TranscriptProofs(None),
        )


async def test_several_clients_at_once_hear_only_their_own(house: House) -> None:
    names = [SessionId(f"session-000{number}") for number in (1, 2, 3)]
    pairs = await asyncio.gather(*(house.sessions(name) for name in names))
    try:
        async with asyncio.timeout(PATIENCE):
            for client, _ in pairs:
                shell = await client.open("terminal", "open", SHELL, lane=Lane.TERMINAL_IO)
                await shell.write(f"echo this-is-{client.id}; exit\n".encode())
                seen = b"".join([chunk async for chunk in shell])
                assert f"this-is-{client.id}\r\n".encode() in seen
        topics = {topic.name for topic in house.hub.server.services.bus.topics()}
        assert topics == {wire_topic(house.agent, name) for name in names}
    finally:
        await asyncio.gather(*(session.close() for pair in pairs for session in pair))


async def test_a_channel_that_is_closed_by_the_server_is_joined_again(house: House) -> None:
    client, agent = await house.sessions()
    bus = house.hub.server.services.bus
    try:
        async with asyncio.timeout(PATIENCE):
            shell = await client.open("terminal", "open", SHELL, lane=Lane.TERMINAL_IO)
            for number in range(3):
                (room,) = bus._rooms.values()
                for member in list(room.members):
                    member.fail("Too many messages per second")
                await shell.write(b"echo count-$((%d + 1))\n" % number)
                seen = b""
                while b"count-%d\r\n" % (number + 1) not in seen:
                    seen += await shell.read()
        assert int(str(client.wire.stats()["losses"])) >= 1
    finally:
        await client.close()
        await agent.close()


async def test_without_the_policies_it_is_refused_like_any_channel(house: House) -> None:
    """A project without the last migration: a clear refusal, and nothing else suffers."""
    other = AgentId(str(uuid.uuid4()))
    shared = house.signaling()
    channel = await shared.join(
        ChannelSpec(topic=signaling_topic(house.agent), on_message=lambda *_: None), timeout=PATIENCE
    )
    with pytest.raises((Unauthorized, SignalingLost)):
        await open_broadcast(
            house.signaling(),
            role=Role.AGENT,
            session_id=SESSION,
            agent_id=other,
            prover=TranscriptProofs(None),
        )
    await channel.send("x", {})
    await shared.close()
