"""Two broadcast wires on one bus, on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from typing import Any

from doorstep.protocol.frame_types import Role
from doorstep.protocol.frames import Data, Frame
from doorstep.protocol.ids import AgentId, SessionId, wire_topic
from doorstep.protocol.lanes import Lane
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.protocol.trust import TranscriptProofs
from doorstep.testing.bus import MemoryBus
from doorstep.testing.clock import run_virtual
from doorstep.transport.broadcast import BroadcastWire, open_broadcast

AGENT = AgentId("6f2c1e0a-0b5e-4c7e-9a51-3f1f5f4f9d10")
SESSION = SessionId("session-0001")
TOPIC = wire_topic(AGENT, SESSION)
TIMING = DEFAULT_TIMING


def on_virtual_time(play: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run on a loop of its own; at the end nothing of the wires is left."""

    async def whole() -> None:
        await play()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left

    @wraps(play)
    def test() -> None:
        run_virtual(whole())

    return test


async def side(
    bus: MemoryBus,
    role: Role,
    *,
    user: str = "owner",
    session: SessionId = SESSION,
    proofs: TranscriptProofs | None = None,
    timing: Timing = TIMING,
) -> BroadcastWire:
    return await open_broadcast(
        bus.signaling(user, timing),
        role=role,
        session_id=session,
        agent_id=AGENT,
        prover=proofs or TranscriptProofs(None),
        timing=timing,
    )


async def pair(bus: MemoryBus, **more: Any) -> tuple[BroadcastWire, BroadcastWire]:
    client, agent = await asyncio.gather(*(side(bus, role, **more) for role in Role))
    return client, agent


async def close(*wires: BroadcastWire) -> None:
    await asyncio.gather(*(wire.close() for wire in wires))


class Inbox:
    """What came over a wire."""

    def __init__(self, wire: BroadcastWire) -> None:
        self.frames: list[tuple[Lane, Frame]] = []
        self._news = asyncio.Event()
        wire.start(self._receive)

    def _receive(self, lane: Lane, frame: Frame) -> None:
        self.frames.append((lane, frame))
        self._news.set()

    @property
    def data(self) -> bytes:
        return b"".join(frame.payload for _, frame in self.frames if isinstance(frame, Data))

    async def until(self, count: int) -> None:
        async with asyncio.timeout(600):
            while len(self.frames) < count:
                self._news.clear()
                await self._news.wait()


def now() -> float:
    return asyncio.get_running_loop().time()


def bad_weather(seed: int, loss: float) -> Callable[[], Iterator[float]]:
    """Some are lost, some come twice, all come late and out of order."""
    chance = random.Random(seed)

    def arrivals() -> Iterator[float]:
        if chance.random() >= loss:
            yield chance.uniform(0.01, 0.4)
            if chance.random() < 0.2:
                yield chance.uniform(0.01, 1.0)

    return arrivals
