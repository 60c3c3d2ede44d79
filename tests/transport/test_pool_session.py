"""The wire pool and real sessions, in virtual time: greetings that are given up, and what is left of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from doorstep.protocol.errors import DoorstepError
from doorstep.protocol.ids import SessionId
from doorstep.protocol.timing import DEFAULT_TIMING
from doorstep.runtime import Role, Session
from doorstep.runtime.tasks import TaskOwner
from doorstep.testing.clock import run_virtual
from doorstep.testing.echo import EchoService
from doorstep.transport.local import LocalWire, local_pair
from doorstep.transport.pool import Carry, Opener, WirePool


class World:
    """Two roads to an agent; ``relay`` is silent for ``silent``: whoever sends on it."""

    def __init__(self, silent: Role | None) -> None:
        own = SessionId("session-pool")
        self.client = Session(role=Role.CLIENT, session_id=own)
        self.agent = Session(role=Role.AGENT, session_id=own, services={"echo": EchoService()})
        self.pool = WirePool(
            [Opener("webrtc", self._webrtc), Opener("relay", self._relay)], self.client.carry
        )
        self.silent = silent
        self.ready = asyncio.Event()
        self.wires: list[LocalWire] = []
        self._tasks = TaskOwner()

    async def _relay(self, carry: Carry) -> None:
        client, agent = local_pair()
        if self.silent is not None:
            (client if self.silent is Role.CLIENT else agent).hold()
        await self._carry((client, agent), carry)

    async def _webrtc(self, carry: Carry) -> None:
        await self.ready.wait()
        await self._carry(local_pair(), carry)

    async def _carry(self, pair: tuple[LocalWire, LocalWire], carry: Carry) -> None:
        self.wires += pair
        self._tasks.spawn(self._come(pair[1]), "come")
        await carry(pair[0])

    async def _come(self, wire: LocalWire) -> None:
        try:
            await self.agent.carry(wire)
        except DoorstepError as error:  # the client has left it
            await wire.close(str(error))

    async def close(self) -> None:
        await self.client.close()
        await self.pool.close()
        await self.agent.close()
        self._tasks.cancel()
        await self._tasks.ended(1)


@asynccontextmanager
async def world(silent: Role | None) -> AsyncGenerator[World]:
    here = World(silent)
    try:
        yield here
    finally:
        await here.close()
        assert [wire for wire in here.wires if wire._reason is None] == []
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert [task.get_name() for task in left if task is not None] == []


async def works(here: World) -> bool:
    return await here.client.call("echo.say", {"n": 1}) == {"n": 1}


@pytest.mark.parametrize("silent", list(Role))
def test_a_silent_relay_does_not_hold_the_better_one_back(silent: Role) -> None:
    """HELLO or WELCOME is lost on it; the session begins on the other all the same."""

    async def story() -> None:
        async with world(silent) as here:
            opening = asyncio.create_task(here.pool.open())
            await asyncio.sleep(1)
            assert not opening.done()
            here.ready.set()
            began = asyncio.get_running_loop().time()
            await opening
            assert asyncio.get_running_loop().time() - began < DEFAULT_TIMING.ice / 2
            assert here.client.wire is here.wires[2]
            assert here.pool.reason == ""
            assert await works(here)

    run_virtual(story())


def test_a_wire_that_lost_is_closed_at_both_ends_while_the_session_goes_on() -> None:
    async def story() -> None:
        async with world(None) as here:
            await here.pool.open()
            assert await works(here)
            here.ready.set()
            await asyncio.sleep(10)
            assert here.client.wire is here.wires[2]
            assert all(wire._reason is not None for wire in here.wires[:2])
            assert await works(here)

    run_virtual(story())


@pytest.mark.parametrize("rounds", range(12))
def test_an_end_at_any_moment_of_a_takeover(rounds: int) -> None:
    async def story() -> None:
        async with world(None) as here:
            await here.pool.open()
            here.ready.set()
            for _ in range(rounds):
                await asyncio.sleep(0)

    run_virtual(story())
