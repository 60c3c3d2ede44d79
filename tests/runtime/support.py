"""What the runtime's tests share: services made of functions, and a peer that speaks raw frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from doorstep.protocol.frames import Accept, Frame, Hello, Open, Role, Welcome
from doorstep.protocol.ids import SessionId
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import MAX_FRAME
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.runtime import Service, Session
from doorstep.runtime.services import CallHandler, StreamHandler
from doorstep.transport.local import LocalWire, local_pair

DEADLINE = 10.0
ID = SessionId("test-session")
HELLO = Hello(1, "test-session", Role.CLIENT, [], MAX_FRAME, {"name": "raw"})
WELCOME = Welcome(1, "test-session", Role.AGENT, [], MAX_FRAME, {"name": "raw"})

_F = TypeVar("_F")


class Functions:
    """A service made of plain functions."""

    def __init__(
        self,
        name: str = "test",
        *,
        calls: Mapping[str, CallHandler] | None = None,
        streams: Mapping[str, StreamHandler] | None = None,
    ) -> None:
        self.name = name
        self.calls = calls or {}
        self.streams = streams or {}


class RawPeer:
    """The other end of a session under test, frame by frame."""

    def __init__(self, wire: LocalWire) -> None:
        self.wire = wire
        self.frames: asyncio.Queue[tuple[Lane, Frame]] = asyncio.Queue()
        wire.start(lambda lane, frame: self.frames.put_nowait((lane, frame)))

    def send(self, frame: Frame, lane: Lane = Lane.CONTROL) -> None:
        self.wire.send(lane, frame)

    async def expect(self, kind: type[_F]) -> _F:
        """Return the next frame, which must be of this kind."""
        async with asyncio.timeout(DEADLINE):
            _, frame = await self.frames.get()
        assert isinstance(frame, kind), frame
        return frame

    async def open(
        self, stream_id: int, method: str, *, window: int = 1000, lane: Lane = Lane.FILE_TRANSFER
    ) -> Accept:
        self.send(Open(stream_id, "test", method, {}, lane, window), lane)
        return await self.expect(Accept)


@asynccontextmanager
async def raw_client(
    *services: Service, timing: Timing = DEFAULT_TIMING
) -> AsyncGenerator[tuple[RawPeer, Session], None]:
    """Yield (raw client, agent session under test), greeted."""
    near, far = local_pair()
    session = Session(
        role=Role.AGENT,
        session_id=ID,
        services={service.name: service for service in services},
        timing=timing,
    )
    peer = RawPeer(near)
    peer.send(HELLO)
    try:
        await session.start(far)
        await peer.expect(Welcome)
        yield peer, session
    finally:
        await session.close()
        await near.close()


@asynccontextmanager
async def raw_agent(*, timing: Timing = DEFAULT_TIMING) -> AsyncGenerator[tuple[RawPeer, Session], None]:
    """Yield (raw agent, client session under test), greeted."""
    near, far = local_pair()
    session = Session(role=Role.CLIENT, session_id=ID, timing=timing)
    peer = RawPeer(near)
    peer.send(WELCOME)
    try:
        await session.start(far)
        await peer.expect(Hello)
        yield peer, session
    finally:
        await session.close()
        await near.close()


async def soon(work: Any) -> Any:
    """Await ``work`` within the tests' deadline."""
    async with asyncio.timeout(DEADLINE):
        return await work


async def ended(session: Session) -> str:
    """Wait for the session's end and return its reason."""
    async with asyncio.timeout(DEADLINE):
        return await session.wait_closed()


async def until(check: Callable[[], bool]) -> None:
    """Let the event loop turn until ``check`` is true: over a ``LocalWire`` nothing else has to happen."""
    async with asyncio.timeout(DEADLINE):
        while not check():
            await asyncio.sleep(0)


async def turns(count: int = 50) -> None:
    """Let everything happen that needs no time."""
    for _ in range(count):
        await asyncio.sleep(0)
