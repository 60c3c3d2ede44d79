"""How long a client waits for a command: the agent keeps the limit, the client only knows a dead agent.

On virtual time, against a service that does what a test says; the real one is in tests/agent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from doorstep.client import Agent
from doorstep.protocol.errors import DeadlineExceeded
from doorstep.protocol.timing import Timing
from doorstep.runtime import Stream, StreamRequest
from doorstep.testing.clock import run_virtual
from doorstep.testing.pair import SessionPair, session_pair
from doorstep.transport.local import local_pair

TIMING = Timing()
Play = Callable[[Stream], Coroutine[Any, Any, None]]


class Exec:
    """Satisfies Service: a program is what ``play`` does."""

    name = "exec"
    calls: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, play: Play) -> None:
        self._play = play
        self.streams = {"run": self._run}
        self.ended = asyncio.Event()

    async def _run(self, request: StreamRequest) -> None:
        try:
            stream = await request.accept({"pid": 1})
            await self._play(stream)
        finally:
            self.ended.set()


@asynccontextmanager
async def machine(play: Play) -> AsyncGenerator[tuple[Agent, SessionPair, Exec], None]:
    service = Exec(play)
    async with session_pair(service) as pair:
        yield Agent(pair.client), pair, service


async def never(_: Stream) -> None:
    await asyncio.Event().wait()


def test_an_agent_that_lives_and_forgets_the_limit_is_given_up() -> None:
    async def play() -> None:
        async with machine(never) as (agent, _, service):
            loop = asyncio.get_running_loop()
            start = loop.time()
            with pytest.raises(DeadlineExceeded):
                await agent.commands.run("true", timeout=10)
            assert loop.time() - start == pytest.approx(10 + TIMING.give_up)
            await service.ended.wait()

    run_virtual(play())


def test_time_without_a_wire_does_not_count() -> None:
    """The command ended in time, at the agent; its client hears of it when there is a wire again."""

    async def ends_at_its_limit(stream: Stream) -> None:
        await asyncio.sleep(10)
        await stream.write(b"\x01\x04said")
        await stream.finish({"exitCode": None, "signal": 15, "timedOut": True})

    async def play() -> None:
        async with machine(ends_at_its_limit) as (agent, pair, _):
            running = asyncio.create_task(agent.commands.run("true", timeout=10))
            await asyncio.sleep(1)
            pair.client_wire.lose("cut")
            pair.agent_wire.lose("cut")
            await asyncio.sleep(TIMING.keep - 1)
            assert not running.done()
            near, far = local_pair()
            await asyncio.gather(pair.agent.carry(far), pair.client.carry(near))
            result = await running
            assert (result.timed_out, result.stdout) == (True, "said")

    run_virtual(play())


def test_what_is_still_on_its_way_is_waited_for() -> None:
    """A slow link carries the end of the output for longer than the backstop: it is no dead agent's."""

    async def goes_on_for_a_minute(stream: Stream) -> None:
        for _ in range(6):
            await asyncio.sleep(TIMING.give_up - 1)
            await stream.write(b"\x01\x04slow")
        await stream.finish({"exitCode": 0, "signal": None, "timedOut": False})

    async def play() -> None:
        async with machine(goes_on_for_a_minute) as (agent, _, __):
            assert (await agent.commands.run("true", timeout=1)).stdout == 6 * "slow"

    run_virtual(play())


def test_a_callback_that_takes_its_time_is_not_the_agents() -> None:
    async def says_two_words(stream: Stream) -> None:
        await stream.write(b"\x01\x03one")
        await stream.write(b"\x01\x03two")
        await stream.finish({"exitCode": 0, "signal": None, "timedOut": False})

    async def think(_: str) -> None:
        await asyncio.sleep(1000)

    async def play() -> None:
        async with machine(says_two_words) as (agent, _, __):
            result = await agent.commands.run("true", timeout=1, on_stdout=think)
            assert result.stdout == "onetwo"

    run_virtual(play())


def test_reading_goes_on_where_it_was_left() -> None:
    """Leaving the loop in the middle of a chunk, or of a record, loses nothing."""

    async def says_much(stream: Stream) -> None:
        await stream.write(b"\x01\x03one\x02\x03two\x01\x05th")
        await asyncio.sleep(1)
        await stream.write(b"ree")
        await stream.finish({"exitCode": 0, "signal": None, "timedOut": False})

    async def play() -> None:
        async with machine(says_much) as (agent, _, __), agent.commands.start("true") as command:
            async for output in command:
                assert output.data == b"one"
                break
            result = await command.wait()
            assert (result.stdout, result.stderr) == ("three", "two")

    run_virtual(play())
