"""System: what makes traffic, on both roads that packets can take: ours, and stock aiortc's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from hashlib import sha256

import pytest

from doorstep.client import Agent, Terminal, connect
from doorstep.testing.stack import Stack
from doorstep.transport.sctp.road import choose_road

pytestmark = pytest.mark.asyncio

LINES = 60_000
ROADS = [("direct", "stock"), ("stock", "direct"), ("stock", "stock")]
"""Client's and agent's. All other tests have ours at both ends, unless ``DOORSTEP_SCTP`` says otherwise."""


async def echoes(agent: Agent, within: float) -> None:
    async with agent.terminal(80, 24) as terminal:
        await terminal.write(b"echo six-$((2*3)):\n")
        await terminal.expect(r"six-6:", timeout=within)


async def transfers(agent: Agent, size: int) -> None:
    """A file there and back."""
    content = os.urandom(size)
    await agent.files.write("there", content)
    assert sha256(await agent.files.read("there", max_bytes=size)).digest() == sha256(content).digest()


async def counts(agent: Agent) -> None:
    """A command that says more than any window holds."""
    result = await agent.commands.run(f"seq {LINES}", timeout=None)
    assert result.stdout.split() == [str(number) for number in range(1, LINES + 1)]


@pytest.mark.parametrize(("client_road", "agent_road"), ROADS)
async def test_all_that_makes_traffic(
    running: Stack, monkeypatch: pytest.MonkeyPatch, client_road: str, agent_road: str
) -> None:
    monkeypatch.setenv("DOORSTEP_SCTP", client_road)
    assert choose_road().name == client_road
    user = await running.user()
    await running.agent(user, "box", environment={"DOORSTEP_SCTP": agent_road})
    async with connect("box", credentials=user.credentials, force="direct") as agent:
        await echoes(agent, 40 * running.scale)
        async with asyncio.TaskGroup() as together:
            together.create_task(transfers(agent, 1_000_000))
            together.create_task(counts(agent))
        counting = asyncio.create_task(counts(agent))
        await agent._session.wire.close("pulled the plug")
        await counting
        await transfers(agent, 100_000)
        assert agent.stats()["wires"] == 2


async def drained(terminal: Terminal) -> None:
    async for _ in terminal:
        pass


async def test_a_busy_loop_costs_throughput_never_the_association(running: Stack) -> None:
    """Three shells flood the agent's loop and ours, ours stands still now and then; a file comes whole."""
    user = await running.user()
    await running.agent(user, "box")
    async with (
        connect("box", credentials=user.credentials, force="direct") as agent,
        contextlib.AsyncExitStack() as shells,
    ):
        flooding: list[asyncio.Task[None]] = []
        for _ in range(3):
            terminal = await shells.enter_async_context(agent.terminal(80, 24))
            await terminal.write(b"yes flood\n")
            flooding.append(asyncio.create_task(drained(terminal)))
        transfer = asyncio.create_task(transfers(agent, 2_000_000))
        while not transfer.done():
            time.sleep(0.25)  # noqa: ASYNC251 - what somebody's own code does to a loop
            await asyncio.wait([transfer], timeout=0.5)
        await transfer
        for task in flooding:
            task.cancel()
        await asyncio.gather(*flooding, return_exceptions=True)
        await echoes(agent, 40 * running.scale)
        assert agent.stats()["wires"] == 1
