"""A hundred clients in one second, under the limits of a free project: all of them are in before the end.

In virtual time, over a bus that counts messages and closes receivers as the hub does, which has it from a
real server; the machine takes five clients a second, as one of two processors may.
"""

from __future__ import annotations

import asyncio

from doorstep.hub.config import RealtimeLimits
from doorstep.hub.rate import Rate
from doorstep.protocol.errors import DoorstepError
from doorstep.protocol.ids import agents_topic
from doorstep.protocol.signaling import ConnectionRequest
from doorstep.protocol.timing import DEFAULT_TIMING
from doorstep.protocol.trust import TranscriptProofs
from doorstep.runtime import Role, Session
from doorstep.testing.bus import MemoryBus
from doorstep.testing.clock import run_virtual
from doorstep.testing.place import Place

from .door import AGENT, USER
from .way import KEY, Machine, World, play

CLIENTS = 100
WITHIN = 1.0
SERVES = 0.2
"""Seconds that the machine takes for one."""


class LimitedBus(MemoryBus):
    """Each broadcast counts once as sent and once per receiver; too many close their receivers."""

    def __init__(self, limits: RealtimeLimits) -> None:
        super().__init__()
        now = asyncio.get_running_loop().time()
        self._events = Rate(
            limits.events_per_second, tick=limits.rate_tick, buckets=limits.rate_buckets, now=now
        )
        self.closed = 0

    def broadcast(self, sender: object, event: str, text: str) -> None:
        loop = asyncio.get_running_loop()
        hearers = [one for one in self._members.get(sender.topic, ()) if one is not sender]  # type: ignore[attr-defined]
        self._events.add(1 + len(hearers))
        super().broadcast(sender, event, text)  # type: ignore[arg-type]
        if self._events.exceeded(loop.time()):
            self.closed += len(hearers)
            for one in hearers:
                loop.call_soon(one.end, "Too many messages per second")


class Busy(Machine):
    """Takes one client after the other, each into a session of its own."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._turn = asyncio.Lock()
        self._by_id: dict[str, Session] = {}

    async def _answer(self, request: ConnectionRequest) -> None:
        async with self._turn:
            await asyncio.sleep(SERVES)
        try:
            await super()._answer(request)
        except DoorstepError:
            return  # its own channel was closed

    async def _come(self, request: ConnectionRequest) -> None:
        assert request.session_id is not None
        try:
            wire = await self._place.road.meet(
                role=Role.AGENT, session_id=request.session_id, agent_id=AGENT, prover=TranscriptProofs(KEY)
            )
            if (session := self._by_id.get(request.session_id)) is None:
                session = self._by_id[request.session_id] = Session(
                    role=Role.AGENT, session_id=request.session_id, about={"name": "box"}
                )
                self.sessions.append(session)
            await session.carry(wire)
        except DoorstepError:
            return  # it had come more than once, for as many knocks


async def storm(bus: LimitedBus, place: Place, machine: Busy) -> list[float]:
    """Seconds that each of them took."""
    loop = asyncio.get_running_loop()
    worlds = [World(machine, place, bus, DEFAULT_TIMING) for _ in range(CLIENTS)]

    async def visit(number: int) -> float:
        await asyncio.sleep(WITHIN * number / CLIENTS)
        began = loop.time()
        await worlds[number].way.open()
        return loop.time() - began

    try:
        return await asyncio.gather(*map(visit, range(CLIENTS)))
    finally:
        for world in worlds:
            await world.session.close()
            await world.way.close()


def test_a_hundred_clients_in_one_second() -> None:
    async def main() -> None:
        bus, place = LimitedBus(RealtimeLimits()), Place()
        machine = Busy(place)
        async with machine.open(bus):
            took = await storm(bus, place, machine)
        assert max(took) < DEFAULT_TIMING.total
        assert bus.closed > 0, "the limit was not reached: this is no storm"
        assert len(machine.sessions) == CLIENTS

    run_virtual(main())


def close_all(bus: MemoryBus) -> None:
    for one in list(bus._members.get(agents_topic(USER), ())):
        one.end("Too many messages per second")


def test_who_has_a_wire_does_not_knock_into_the_limit() -> None:
    """WebRTC is tried again at the pool's pace, not at that of one who has nothing."""

    async def story(world: World) -> None:
        await world.way.open()
        before = len(world.machine.knocks)
        close_all(world.host._bus)
        await asyncio.sleep(DEFAULT_TIMING.improve_first - 1)
        assert world.session.wire.kind == "relay"
        assert "Too many messages" in world.way.pool.reason
        assert len(world.machine.knocks) == before
        await asyncio.sleep(2)
        assert len(world.machine.knocks) > before

    play(story)
