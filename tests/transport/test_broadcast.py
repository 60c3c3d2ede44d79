"""The broadcast wire over a bus that behaves: how two meet, and a session on it. On virtual time."""

from __future__ import annotations

import asyncio
import random
import secrets
from typing import Any

import pytest

from doorstep.protocol.errors import (
    DeadlineExceeded,
    PeerNotTrusted,
    SignalingLost,
    Unauthorized,
    WireClosed,
)
from doorstep.protocol.frame_types import Role
from doorstep.protocol.frames import Ping
from doorstep.protocol.ids import SessionId
from doorstep.protocol.lanes import Lane
from doorstep.protocol.proof import PrivateKey
from doorstep.protocol.trust import TranscriptProofs
from doorstep.runtime import Session
from doorstep.runtime.session import SessionState
from doorstep.testing.bus import MemoryBus
from doorstep.testing.echo import EchoService
from doorstep.testing.hostile import HostileBus, Said
from doorstep.transport.broadcast import BroadcastWire

from .broadcast_pair import (
    SESSION,
    TIMING,
    TOPIC,
    Inbox,
    bad_weather,
    close,
    now,
    on_virtual_time,
    pair,
    side,
)

# meeting


@pytest.mark.parametrize("first", Role)
@pytest.mark.parametrize("later", [0.0, 0.5, 7.3])
def test_they_meet_whoever_comes_first(first: Role, later: float) -> None:
    @on_virtual_time
    async def play() -> None:
        bus = MemoryBus()
        early = asyncio.create_task(side(bus, first))
        await asyncio.sleep(later)
        start = now()
        wires = await side(bus, next(role for role in Role if role is not first)), await early
        assert now() - start < 0.2
        inboxes = [Inbox(wire) for wire in wires]
        for wire in wires:
            wire.send(Lane.CONTROL, Ping(1))
        for inbox in inboxes:
            await inbox.until(1)
        assert wires[0].kind == "broadcast"
        await close(*wires)
        assert bus.members(TOPIC) == 0

    play()


@on_virtual_time
async def test_nobody_comes() -> None:
    bus = MemoryBus()
    start = now()
    with pytest.raises(DeadlineExceeded, match="broadcast_wait"):
        await side(bus, Role.CLIENT)
    assert now() - start == pytest.approx(TIMING.broadcast_wait, abs=0.5)
    assert bus.members(TOPIC) == 0


@on_virtual_time
async def test_one_who_gives_up_leaves_nothing() -> None:
    bus = MemoryBus()
    opening = asyncio.create_task(side(bus, Role.AGENT))
    await asyncio.sleep(3)
    assert bus.members(TOPIC) == 1
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert bus.members(TOPIC) == 0


@on_virtual_time
async def test_who_may_not_join_is_told_so() -> None:
    bus = MemoryBus()
    bus.allows = lambda user, topic: user == "owner"
    with pytest.raises(Unauthorized):
        await side(bus, Role.CLIENT, user="stranger")


@on_virtual_time
async def test_a_bus_that_is_down() -> None:
    bus = MemoryBus()
    bus.down = True
    with pytest.raises(SignalingLost):
        await side(bus, Role.CLIENT)


@on_virtual_time
async def test_the_handshake_has_a_limit_of_its_own() -> None:
    """The other side says hello and then nothing that makes a greeting."""
    bus = HostileBus()

    async def half(event: str, payload: dict[str, Any]) -> list[Said]:
        if payload["role"] == "agent":
            payload.pop("data", None)
            payload.pop("place", None)
        return [(event, payload)]

    bus.lie = half
    agent = asyncio.create_task(side(bus, Role.AGENT))
    with pytest.raises((DeadlineExceeded, WireClosed), match=r"broadcast_open|answer|says"):
        await side(bus, Role.CLIENT)
    with pytest.raises((DeadlineExceeded, WireClosed)):
        await agent
    await bus.close()


@on_virtual_time
async def test_the_agents_key_is_proved() -> None:
    bus = MemoryBus()
    key, mine = (PrivateKey(secrets.token_bytes(32)) for _ in range(2))
    ours, theirs = TranscriptProofs(mine, expected=key.public), TranscriptProofs(key, required=True)
    client, agent = await asyncio.gather(
        side(bus, Role.CLIENT, proofs=ours), side(bus, Role.AGENT, proofs=theirs)
    )
    assert theirs.shown == mine.public
    await close(client, agent)


@pytest.mark.parametrize("shown", [True, False], ids=["another key", "no key"])
def test_another_agent_is_not_trusted(shown: bool) -> None:
    @on_virtual_time
    async def play() -> None:
        bus = MemoryBus()
        ours = TranscriptProofs(None, expected=PrivateKey(secrets.token_bytes(32)).public)
        theirs = TranscriptProofs(PrivateKey(secrets.token_bytes(32)) if shown else None)
        results = await asyncio.gather(
            side(bus, Role.CLIENT, proofs=ours),
            side(bus, Role.AGENT, proofs=theirs),
            return_exceptions=True,
        )
        assert isinstance(results[0], PeerNotTrusted)
        if isinstance(results[1], BroadcastWire):
            assert "the peer says" in await results[1].wait_closed()

    play()


@on_virtual_time
async def test_several_sessions_and_an_old_wire_beside_a_new_one() -> None:
    bus = MemoryBus()
    old = await pair(bus)
    new = await pair(bus)
    other = await pair(bus, session=SessionId("session-0002"))
    for number, (client, agent) in enumerate((old, new, other)):
        inbox = Inbox(agent)
        client.send(Lane.CONTROL, Ping(number))
        await inbox.until(1)
        assert inbox.frames == [(Lane.CONTROL, Ping(number))]
    await close(*old)
    inbox = Inbox(new[0])
    new[1].send(Lane.CONTROL, Ping(9))
    await inbox.until(1)
    await close(*new, *other)


# sessions


@pytest.mark.parametrize("seed", range(3))
def test_a_session_over_bad_weather(seed: int) -> None:
    @on_virtual_time
    async def play() -> None:
        bus = MemoryBus()
        bus.arrivals = bad_weather(seed, 0.1)
        wires = await pair(bus)
        client = Session(role=Role.CLIENT, session_id=SESSION)
        echo = EchoService()
        agent = Session(role=Role.AGENT, session_id=SESSION, services={echo.name: echo})
        await asyncio.gather(client.start(wires[0]), agent.start(wires[1]))
        stream = await client.open("echo", "back", lane=Lane.TERMINAL_IO, timeout=60)
        content = random.Random(seed).randbytes(150_000)

        async def write() -> None:
            await stream.write(content)
            await stream.finish()

        writing = asyncio.create_task(write())
        received = b"".join([chunk async for chunk in stream])
        await writing
        assert received == content
        assert await client.call("echo.say", {"n": 1}, timeout=60) == {"n": 1}
        await client.close()
        await agent.close()

    play()


@on_virtual_time
async def test_an_idle_session_costs_little_and_lives() -> None:
    bus = HostileBus()
    wires = await pair(bus)
    client, agent = (Session(role=role, session_id=SESSION) for role in Role)
    await asyncio.gather(client.start(wires[0]), agent.start(wires[1]))
    await asyncio.sleep(5)
    before = len(bus.said)
    await asyncio.sleep(600)
    assert client.state is agent.state is SessionState.OPEN
    assert len(bus.said) - before <= 600 * 0.35
    await client.close()
    await agent.close()
