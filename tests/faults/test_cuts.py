"""Cuts at random moments while lines are printed, keys echoed, files moved: nothing lost or repeated."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from doorstep.client import Agent, connect
from doorstep.testing.faults import cut_often, working
from doorstep.testing.stack import Stack

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(300)]
MIB = 1 << 20
EVERYWHERE = {"DOORSTEP_FILE_ROOT": "/"}


async def until(check: Callable[[], bool]) -> None:
    """Wait for what the load has done so far."""
    async with asyncio.timeout(60):
        while not check():
            await asyncio.sleep(0.02)


async def cut(agent: Agent) -> None:
    await agent._session.wire.close("cut")


async def test_cuts_at_random_moments(running: Stack, tmp_path: Path) -> None:
    user = await running.user()
    await running.agent(user, "box", environment=EVERYWHERE)
    async with connect("box", credentials=user.credentials) as agent:
        async with working(agent, tmp_path, 8 * MIB) as load:
            await cut_often(agent, load, 20, random.Random(1), cut)
            await until(lambda: load.lines > 1000)
        assert agent._session.wires >= 21  # one by the relay may have come before that of a peer connection
    assert load.transfers >= 2


async def test_a_suspended_agent_and_a_killed_hub(running: Stack, tmp_path: Path) -> None:
    user = await running.user()
    program = await running.agent(user, "box", environment=EVERYWHERE)
    async with (
        connect("box", credentials=user.credentials) as agent,
        working(agent, tmp_path, 4 * MIB) as load,
    ):
        await until(lambda: load.lines > 1000 and load.keys > 10)
        program.signal(signal.SIGSTOP)
        async with asyncio.timeout(60 * running.scale):
            await agent._session.wait_away()  # the silence was noticed
        await running.hub.kill()
        program.signal(signal.SIGCONT)
        await running.start_hub()
        await agent.call("terminal.list", timeout=120)
        await cut_often(agent, load, 2, random.Random(2), cut)
        lines, keys = load.lines, load.keys
        await until(lambda: load.lines > lines and load.keys > keys)  # all of it goes on
    assert load.transfers >= 2
