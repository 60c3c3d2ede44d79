"""How long an opener waits: of the time that it is given all counts, of the default only that with a wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from doorstep.protocol.errors import DeadlineExceeded, SessionClosed
from doorstep.protocol.ids import SessionId
from doorstep.protocol.lanes import Lane
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.runtime import Role, Session
from doorstep.runtime.services import CallHandler, StreamHandler, StreamRequest
from doorstep.runtime.streams import Stream
from doorstep.testing.clock import run_virtual
from doorstep.transport.local import LocalWire, local_pair

CALL = DEFAULT_TIMING.call


class Thoughtful:
    """Takes a stream when it is told to."""

    name = "thoughtful"

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.asked = 0
        self.calls: dict[str, CallHandler] = {}
        self.streams: dict[str, StreamHandler] = {"open": self._open}

    async def _open(self, request: StreamRequest) -> None:
        self.asked += 1
        await self.may.wait()
        await request.accept({})


class World:
    def __init__(self) -> None:
        own, timing = SessionId("session-limits"), Timing(keep=3600)
        self.service = Thoughtful()
        self.client = Session(role=Role.CLIENT, session_id=own, timing=timing)
        services = {"thoughtful": self.service}
        self.agent = Session(role=Role.AGENT, session_id=own, services=services, timing=timing)
        self._wire: LocalWire | None = None
        self._started = asyncio.get_running_loop().time()

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time() - self._started

    async def connect(self) -> None:
        near, far = local_pair()
        self._wire = near
        await asyncio.gather(self.client.carry(near), self.agent.carry(far))

    async def away(self, seconds: float) -> None:
        assert self._wire is not None
        self._wire.lose("cut")
        await asyncio.sleep(seconds)
        await self.connect()

    def opening(self, timeout: float | None = None) -> asyncio.Task[Stream]:
        opened = self.client.open("thoughtful", "open", lane=Lane.TERMINAL_IO, timeout=timeout)
        return asyncio.create_task(opened)


@asynccontextmanager
async def world() -> AsyncGenerator[World]:
    here = World()
    await here.connect()
    try:
        yield here
    finally:
        await here.client.close()
        await here.agent.close()


def play(story: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with world() as here:
            await story(here)

    run_virtual(main())


@pytest.mark.parametrize("gaps", [(100.0,), (1.0, 50.0, 200.0)])
def test_the_default_waits_meanwhile(gaps: tuple[float, ...]) -> None:
    async def story(here: World) -> None:
        opening = here.opening()
        await asyncio.sleep(10)
        for gap in gaps:
            await here.away(gap)
        with pytest.raises(DeadlineExceeded, match="30 s"):
            await opening
        assert here.now == pytest.approx(CALL + sum(gaps), abs=0.01)
        assert here.service.asked == 1

    play(story)


def test_the_default_with_a_wire_all_the_time() -> None:
    async def story(here: World) -> None:
        with pytest.raises(DeadlineExceeded, match=r"open thoughtful\.open"):
            await here.opening()
        assert here.now == pytest.approx(CALL, abs=0.01)

    play(story)


def test_what_is_opened_without_a_wire_has_all_of_its_time_with_one() -> None:
    async def story(here: World) -> None:
        gone = asyncio.create_task(here.away(100))
        await asyncio.sleep(1)
        opening = here.opening()
        await gone
        await asyncio.sleep(CALL - 1)
        here.service.may.set()
        stream = await opening
        await stream.reset("cancelled", "enough")

    play(story)


def test_a_limit_that_is_asked_for_is_kept() -> None:
    async def story(here: World) -> None:
        gone = asyncio.create_task(here.away(100))
        await asyncio.sleep(1)
        with pytest.raises(DeadlineExceeded, match="5 s"):
            await here.opening(timeout=5)
        assert here.now == pytest.approx(6, abs=0.01)
        await gone

    play(story)


def test_the_end_of_the_session_ends_the_wait() -> None:
    async def story(here: World) -> None:
        gone = asyncio.create_task(here.away(100))
        await asyncio.sleep(1)
        opening = here.opening()
        await asyncio.sleep(1)
        gone.cancel()
        await here.client.close("enough")
        with pytest.raises(SessionClosed):
            await opening

    play(story)
