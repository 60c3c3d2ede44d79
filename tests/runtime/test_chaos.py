"""Many streams and calls, given up at random moments: every byte that arrives is right, nothing is left."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest

from doorstep.protocol.errors import DeadlineExceeded, RemoteError, SessionClosed, StreamClosed
from doorstep.protocol.lanes import Lane
from doorstep.runtime import Session
from doorstep.runtime.session import SessionState
from doorstep.testing.echo import EchoService
from doorstep.testing.pair import session_pair

from .support import turns, until

pytestmark = pytest.mark.asyncio
LANES = list(Lane)


def pattern(start: int, size: int) -> bytes:
    return bytes((start + index) % 251 for index in range(size))


async def converse(session: Session, chance: random.Random) -> None:
    """Talk to an echo for a while; end in one of many ways."""
    with suppress(RemoteError, StreamClosed, DeadlineExceeded):
        stream = await session.open(
            "echo", "back", lane=chance.choice(LANES), window=chance.choice([10, 1000, None]), timeout=5
        )

        async def write() -> None:
            for _ in range(chance.randrange(6)):
                await stream.write(pattern(stream.sent, chance.choice([1, 100, 5000, 40_000])))
            await stream.finish({"sent": stream.sent})

        writing = asyncio.create_task(write())
        try:
            read = 0
            while chunk := await stream.read(chance.choice([1000, 65536])):
                assert chunk == pattern(read, len(chunk))
                read += len(chunk)
                if chance.random() < 0.02:
                    await stream.reset("cancelled", "chance")
            assert stream.trailer == {"sent": read}
        finally:
            writing.cancel()
            await asyncio.wait([writing])
            await stream.reset("cancelled", "done")


async def call(session: Session, chance: random.Random) -> None:
    number = chance.randrange(1000)
    assert await session.call("echo.say", {"n": number}, timeout=5) == {"n": number}


async def worker(session: Session, chance: random.Random) -> None:
    for _ in range(8):
        task = asyncio.create_task(chance.choice([converse, converse, call])(session, chance))
        if chance.random() < 0.3:
            await turns(chance.randrange(30))
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is not None:
            raise task.exception() or AssertionError


@pytest.mark.parametrize("seed", range(6))
async def test_chaos_leaves_nothing(seed: int) -> None:
    services = [EchoService()]
    async with session_pair(*services, client_services=services) as pair:
        ends = (pair.client, pair.agent)
        async with asyncio.TaskGroup() as group:
            for number in range(24):
                group.create_task(worker(ends[number % 2], random.Random(seed * 100 + number)))
        assert all(end.state is SessionState.OPEN for end in ends)
        for end in ends:
            await until(lambda end=end: len(end._streams._streams) == end._streams._served == 0)  # type: ignore[misc]
            assert end._streams._windows == 0
            assert len(end._outgoing) == 0
            assert len(end._tasks) == 1  # the one that watches the wire


@pytest.mark.parametrize("seed", range(6))
async def test_the_end_in_the_middle_of_chaos(seed: int) -> None:
    chance = random.Random(seed)
    async with session_pair(EchoService(), client_services=[EchoService()], resume=False) as pair:
        workers = [
            asyncio.create_task(
                worker((pair.client, pair.agent)[number % 2], random.Random(seed * 100 + number))
            )
            for number in range(24)
        ]
        await turns(chance.randrange(400))
        if chance.random() < 0.5:
            pair.client_wire.lose("cut")
            pair.agent_wire.lose("cut")
        else:
            await pair.client.close("enough")
        results = await asyncio.gather(*workers, return_exceptions=True)
        assert all(result is None or isinstance(result, SessionClosed) for result in results), results
        await pair.agent.wait_closed()
