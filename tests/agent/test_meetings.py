"""Where an agent goes when a knock says that the client comes there too; the place is in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from doorstep.protocol.errors import ConnectFailed, WireClosed
from doorstep.protocol.ids import SessionId, agents_topic
from doorstep.protocol.timing import Timing
from doorstep.protocol.trust import TranscriptProofs
from doorstep.runtime import Role, Session
from doorstep.testing.bus import MemoryBus
from doorstep.testing.place import Place
from doorstep.transport.local import local_pair
from doorstep.transport.wire import Wire

from .support import DEADLINE, until
from .test_agent import OWNER, TIMING, Client, House, client, echo, house

pytestmark = pytest.mark.asyncio

SESSION = "session-by-relay"


@asynccontextmanager
async def by_relay(timing: Timing = TIMING, **more: Any) -> AsyncGenerator[tuple[House, Place], None]:
    place = Place(timing=Timing(relay_wait=DEADLINE))
    async with house(MemoryBus(), timing, roads=(place.road,), **more) as here:
        yield here, place


async def knock(caller: Client, *capabilities: str, agent: str | None = None) -> None:
    topic = agents_topic(OWNER)
    channel = caller.channels.get(topic) or await caller.join(topic)
    said = {"agentId": agent or caller.agent, "capabilities": list(capabilities), **caller.own}
    await channel.send("connection-request", said)


async def meet(of: House, place: Place, session: str = SESSION) -> Wire:
    async with asyncio.timeout(DEADLINE):
        return await place.road.meet(
            role=Role.CLIENT,
            session_id=SessionId(session),
            agent_id=of.agent.identity.id,
            prover=TranscriptProofs(None),
        )


async def test_a_session_begins_there() -> None:
    async with by_relay() as (here, place), client(here, SESSION) as caller:
        await knock(caller, "relay", "files")
        session = Session(role=Role.CLIENT, session_id=SessionId(SESSION), timing=TIMING)
        await session.start(await meet(here, place))
        await caller.hear("connection-ready")
        await echo(session, "hello")
        await until(lambda: "connected" in here.kinds())
        assert here.events[-1].wire == "relay"
        assert here.agent.sessions == 1
        await session.close()
        await until(lambda: here.kinds()[-1] == "session-ended")
    assert "failed" not in here.kinds()  # that no offer came is no news


async def test_webrtc_takes_over() -> None:
    async with by_relay() as (here, place), client(here, SESSION) as caller:
        await knock(caller, "relay")
        await caller.session.start(await meet(here, place))
        await caller.hear("connection-ready")
        offer = await caller.peer.create_offer()
        await caller.channels[agents_topic(OWNER)].send(
            "connection-request", {"agentId": caller.agent, "offer": offer, **caller.own}
        )
        answered = await caller.hear("connection-ready")
        assert "capabilities" not in answered  # this knock did not ask
        await caller.peer.apply_answer(answered["answer"])
        await caller.session.carry(await caller.peer.wire())
        await echo(caller.session, "hello")
        await until(lambda: "resumed" in here.kinds())
        told = [event for event in here.events if event.kind.value in ("connected", "resumed")]
        assert [(event.kind.value, event.wire) for event in told] == [
            ("connected", "relay"),
            ("resumed", "webrtc"),
        ]
        assert len(place.came) == 2


async def test_it_goes_nowhere_unasked() -> None:
    async with by_relay() as (here, place), client(here, SESSION) as caller, client(here) as anonymous:
        await knock(caller, "files")
        assert "capabilities" not in await caller.hear("connection-ready")
        await knock(anonymous, "relay")  # without a sessionId there is nothing to meet for
        assert "capabilities" not in await anonymous.hear("connection-ready")
        other = "00000000-0000-4000-8000-000000000000"
        await knock(caller, "relay", agent=other)
        await knock(caller, "files")
        await caller.hear("connection-ready")
        assert place.came == []


async def test_what_has_failed_is_not_promised() -> None:
    async with by_relay() as (here, place), client(here, SESSION) as caller:
        place.fails = ConnectFailed("404")
        await knock(caller, "relay")
        assert "capabilities" not in await caller.hear("connection-ready")
        assert [role for role, _ in place.came] == [Role.AGENT]


async def test_who_knocks_again_is_waited_for_once() -> None:
    async with by_relay() as (here, place), client(here, SESSION) as caller:
        for _ in range(3):
            await knock(caller, "relay")
            assert (await caller.hear("connection-ready"))["capabilities"] == ["relay"]
        assert [role for role, _ in place.came] == [Role.AGENT]


async def test_a_session_on_webrtc_is_not_waited_for() -> None:
    async with by_relay() as (here, _), client(here, SESSION) as caller:
        await knock(caller, "relay")
        await caller.hear("connection-ready")
        offer = await caller.peer.create_offer()
        await caller.channels[agents_topic(OWNER)].send(
            "connection-request", {"agentId": caller.agent, "offer": offer, **caller.own}
        )
        await caller.peer.apply_answer((await caller.hear("connection-ready"))["answer"])
        await caller.greet()
        await until(lambda: here.agent._door.meetings.sessions == set())
        assert here.agent.sessions == 1


async def test_who_is_waited_for_counts() -> None:
    async with (
        by_relay(limit=1) as (here, _),
        client(here, SESSION) as one,
        client(here, "session-two") as two,
    ):
        await knock(one, "relay")
        await one.hear("connection-ready")
        await knock(two, "relay")
        assert (await two.hear("connection-refused"))["code"] == "busy"
        assert here.agent.sessions == 1


async def test_who_is_waited_for_may_knock_again_at_a_full_agent() -> None:
    timing = Timing(total=0.5, reconnect_first=0.05)
    async with by_relay(timing, limit=1) as (here, place), client(here, SESSION) as caller:
        await knock(caller, "relay")
        await caller.hear("connection-ready")
        await until(lambda: here.agent._door._callers == {})  # its peer connection came to nothing
        await knock(caller, "relay")
        await caller.hear("connection-ready")
        session = Session(role=Role.CLIENT, session_id=SessionId(SESSION), timing=TIMING)
        await session.start(await meet(here, place))
        await session.close()


async def test_a_client_that_does_not_come_is_news() -> None:
    timing = Timing(total=0.5, reconnect_first=0.05)
    place = Place(timing=Timing(relay_wait=1))
    async with house(MemoryBus(), timing, roads=(place.road,)) as here, client(here, SESSION) as caller:
        await knock(caller, "relay")
        await until(lambda: "failed" in here.kinds())
        assert here.kinds().count("failed") == 1
        assert here.agent.sessions == 0


async def test_an_agent_that_stops_waits_for_nobody() -> None:
    async with by_relay() as (here, place), client(here, SESSION) as caller:
        await knock(caller, "relay")
        await caller.hear("connection-ready")
        await here.agent.stop()
        assert here.agent._door.meetings.sessions == set()
        assert place._waiting == {}


async def test_a_wire_that_comes_while_the_agent_stops_is_closed() -> None:
    async with by_relay() as (here, _):
        door = here.agent._door
        near, far = local_pair()
        door._stopped = True
        with pytest.raises(WireClosed, match="the agent stops"):
            await door.carry(SessionId(SESSION), far, None)
        assert "the agent stops" in await near.wait_closed()
        assert here.agent.sessions == 0
