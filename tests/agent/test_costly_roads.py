"""Roads that cost: taken when the others have failed or are late, left when one has not. On virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from doorstep.agent.events import EventKind
from doorstep.agent.meetings import Meetings
from doorstep.protocol.errors import ConnectFailed
from doorstep.protocol.frame_types import Role
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.proof import PrivateKey, PublicKey
from doorstep.protocol.timing import DEFAULT_TIMING as TIMING
from doorstep.protocol.trust import TranscriptProofs
from doorstep.runtime.tasks import TaskOwner
from doorstep.testing.clock import run_virtual
from doorstep.testing.place import Place
from doorstep.transport.road import Road
from doorstep.transport.wire import Wire

AGENT = AgentId("6f2c1e0a-0b5e-4c7e-9a51-3f1f5f4f9d10")
SESSION = SessionId("session-0001")
BOTH = ("relay", "broadcast")
A_LITTLE = 0.01


class House:
    """A door that takes every wire."""

    agent_id = AGENT
    key: PrivateKey | None = None
    require_proof = False

    def __init__(self) -> None:
        self.tasks = TaskOwner()
        self.carried: list[str] = []
        self.reasons: list[str] = []

    async def carry(self, session_id: SessionId | None, wire: Wire, client: PublicKey | None) -> bool:
        self.carried.append(wire.kind)
        return False

    def missed(self, session_id: SessionId, reason: str) -> None:
        self.reasons.append(reason)

    def tell(self, kind: EventKind, session_id: SessionId | None, **facts: Any) -> None:
        """Nobody listens."""


class World:
    """An agent that comes to a free and to a costly place."""

    def __init__(self) -> None:
        self.house = House()
        self.free, self.costly = Place("relay"), Place("broadcast")
        roads = (self.free.road, replace(self.costly.road, costly=True))
        self.meetings = Meetings(self.house, roads, TIMING)

    def knock(self, *capabilities: str) -> None:
        self.meetings.come(SESSION, capabilities or BOTH, None, 0.0)

    async def client_comes(self, road: Road) -> Wire:
        proofs = TranscriptProofs(None)
        return await road.meet(role=Role.CLIENT, session_id=SESSION, agent_id=AGENT, prover=proofs)


def play(story: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    async def main() -> None:
        world = World()
        await story(world)
        world.meetings.stop()
        await world.house.tasks.ended(1)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    def test() -> None:
        run_virtual(main())

    test.__name__ = story.__name__
    return test


@play
async def test_it_waits_for_a_relay_that_is_late_and_then_for_the_client(world: World) -> None:
    world.knock()
    await asyncio.sleep(TIMING.broadcast_pause + TIMING.broadcast_after - A_LITTLE)
    assert world.costly.came == []
    await asyncio.sleep(2 * A_LITTLE)
    assert world.costly.came == [(Role.AGENT, SESSION)]
    assert world.meetings.comes(SESSION, "broadcast")
    await world.client_comes(world.costly.road)
    await asyncio.sleep(A_LITTLE)
    assert world.house.carried == ["broadcast"]


@play
async def test_where_there_is_no_relay_the_others_get_a_moment_only(world: World) -> None:
    world.free.fails = ConnectFailed("no relay there")
    world.knock()
    await asyncio.sleep(TIMING.broadcast_pause - A_LITTLE)
    assert world.house.reasons == ["relay: no relay there"]
    assert world.costly.came == []
    await asyncio.sleep(2 * A_LITTLE)
    assert world.costly.came == [(Role.AGENT, SESSION)]


@play
async def test_a_relay_that_works_ends_it(world: World) -> None:
    world.knock()
    await world.client_comes(world.free.road)
    await asyncio.sleep(A_LITTLE)
    assert world.house.carried == ["relay"]
    assert not world.meetings.sessions
    await asyncio.sleep(60)
    assert world.costly.came == []


@play
async def test_a_relay_that_works_late_ends_it_too(world: World) -> None:
    world.knock()
    await asyncio.sleep(TIMING.broadcast_pause + TIMING.broadcast_after + A_LITTLE)
    assert world.costly.came == [(Role.AGENT, SESSION)]
    await world.client_comes(world.free.road)
    await asyncio.sleep(A_LITTLE)
    assert world.house.carried == ["relay"]
    assert not world.meetings.sessions


@play
async def test_the_best_wire_ends_it(world: World) -> None:
    world.knock()
    await asyncio.sleep(A_LITTLE)
    world.meetings.over(SESSION)
    await asyncio.sleep(60)
    assert world.costly.came == []
    assert [role for role, _ in world.free.came] == [Role.AGENT]


@play
async def test_a_client_that_comes_there_only(world: World) -> None:
    world.knock("broadcast")
    client = asyncio.create_task(world.client_comes(world.costly.road))
    await asyncio.sleep(TIMING.broadcast_pause + A_LITTLE)
    await client
    await asyncio.sleep(A_LITTLE)
    assert world.house.carried == ["broadcast"]
    assert world.free.came == []
