"""``Way``: the road over broadcasts, for want of another: when it is taken and left. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from doorstep.protocol.attempt import AttemptState as S
from doorstep.protocol.errors import ConnectFailed
from doorstep.protocol.ids import wire_topic
from doorstep.protocol.lanes import Lane
from doorstep.protocol.signaling import ConnectionReady, ConnectionRequest, dump
from doorstep.protocol.timing import DEFAULT_TIMING as TIMING
from doorstep.protocol.trust import TranscriptProofs
from doorstep.runtime import Role, Session
from doorstep.testing.bus import MemoryBus
from doorstep.testing.clock import run_virtual
from doorstep.testing.echo import EchoService
from doorstep.testing.place import Place
from doorstep.transport.road import Road, broadcast_road

from .door import AGENT
from .way import KEY, Machine, World, live

A_LITTLE = 0.5
"""Two joins, a handshake and a greeting over the bus."""


class Comer(Machine):
    """Comes by every road it is asked to, at once; or promises so."""

    stays_away_from = ""

    def __init__(self, place: Place, bus: MemoryBus) -> None:
        super().__init__(place)
        self.roads = (place.road, broadcast_road(lambda: bus.signaling("agent"), TIMING))

    async def _answer(self, request: ConnectionRequest) -> None:
        asked = [road for road in self.roads if road.kind in request.capabilities]
        for road in asked:
            if road.kind == self.stays_away_from:
                continue
            self._tasks.spawn(self._come_by(road, request), road.kind)
        kinds = tuple(road.kind for road in asked)
        ready = ConnectionReady(agent_id=AGENT, session_id=request.session_id, capabilities=kinds)
        await self._agents.send(*dump(ready))

    async def _come_by(self, road: Road, request: ConnectionRequest) -> None:
        assert request.session_id is not None
        proofs = TranscriptProofs(KEY)
        try:
            wire = await road.meet(
                role=Role.AGENT, session_id=request.session_id, agent_id=AGENT, prover=proofs
            )
        except ConnectFailed:
            return
        if self._living is None:
            echo = EchoService()
            services = {echo.name: echo}
            self._living = Session(role=Role.AGENT, session_id=request.session_id, services=services)
            self.sessions.append(self._living)
        await self._living.carry(wire)


class SlowWorld(World):
    """A client that has both roads."""

    def __init__(self, machine: Comer, place: Place, bus: MemoryBus, force: Any) -> None:
        roads = {
            "relay": lambda _: place.road,
            "broadcast": lambda host: broadcast_road(host.separate_signaling, TIMING),
        }
        super().__init__(machine, place, bus, TIMING, roads=roads, force=force)
        self.comer, self.bus = machine, bus

    @property
    def clients_came(self) -> int:
        """Joins of the session's topic, less the agent's own."""
        agents = sum("broadcast" in capabilities for _, capabilities in self.machine.knocks)
        return self.bus.joins.count(wire_topic(AGENT, self.session.id)) - agents

    async def open(self) -> float:
        """Seconds until a wire carries the session."""
        started = asyncio.get_running_loop().time()
        await self.way.open()
        return asyncio.get_running_loop().time() - started


def play(story: Callable[[SlowWorld], Coroutine[Any, Any, None]], force: str | None = None) -> None:
    async def main() -> None:
        bus, place = MemoryBus(), Place()
        comer = Comer(place, bus)
        await live(comer, bus, lambda: SlowWorld(comer, place, bus, force), story)

    run_virtual(main())


def test_without_a_relay_it_carries_after_a_moment() -> None:
    async def story(world: SlowWorld) -> None:
        world.place.fails = ConnectFailed("no relay there")
        assert TIMING.broadcast_pause <= await world.open() <= TIMING.broadcast_pause + A_LITTLE
        assert (world.states[-1], world.reports[-1].reason) == (S.CONNECTED, "broadcast")
        assert "broadcast" in world.machine.knocks[0][1]
        shell = await world.session.open("echo", "back", lane=Lane.TERMINAL_IO)
        await shell.write(b"ls\n")
        assert await shell.read() == b"ls\n"
        assert world.session.stats()["relayReason"] == "webrtc is being tried"

    play(story)


def test_a_relay_that_is_late_is_not_waited_for_for_ever() -> None:
    async def story(world: SlowWorld) -> None:
        world.comer.stays_away_from = "relay"
        patience = TIMING.broadcast_pause + TIMING.broadcast_after
        assert patience <= await world.open() <= patience + A_LITTLE
        assert world.reports[-1].reason == "broadcast"

    play(story)


def test_with_a_relay_that_works_nobody_goes_there() -> None:
    async def story(world: SlowWorld) -> None:
        assert await world.open() < TIMING.broadcast_pause
        assert world.reports[-1].reason == "relay"
        await asyncio.sleep(30)
        assert world.clients_came == 0

    play(story)


def test_forced_it_is_taken_at_once() -> None:
    async def story(world: SlowWorld) -> None:
        assert await world.open() < A_LITTLE
        assert world.session.stats()["relayReason"] == "forced"
        assert world.machine.knocks[0][1] == ("broadcast",)
        assert world.place.came == []

    play(story, force="broadcast")


def test_a_relay_that_comes_back_takes_over() -> None:
    async def story(world: SlowWorld) -> None:
        world.place.fails = ConnectFailed("no relay there")
        await world.open()
        shell = await world.session.open("echo", "back", lane=Lane.TERMINAL_IO)
        world.place.fails = None
        async with asyncio.timeout(600):
            while world.session.stats()["wire"] != "relay":
                await asyncio.sleep(1)
        await shell.write(b"still\n")
        assert await shell.read() == b"still\n"
        async with asyncio.timeout(60):
            while world.bus.members(wire_topic(AGENT, world.session.id)) > 1:  # an agent may wait for a while
                await asyncio.sleep(1)

    play(story)
