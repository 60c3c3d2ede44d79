"""System: what a session survives, and what is gone after an end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from doorstep.client import Agent, agents, connect
from doorstep.protocol.errors import DoorstepError
from doorstep.protocol.timing import Timing
from doorstep.testing.stack import Stack

POLL = 0.05


async def until(condition: Callable[[], bool], within: float) -> None:
    """Wait for something of another process, which sets no event of ours."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(POLL)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


async def echoes(agent: Agent, word: str) -> None:
    assert (await agent.commands.run(f"echo {word}")).stdout == f"{word}\n"


@pytest.mark.asyncio
async def test_a_killed_hub_disturbs_no_session_and_all_come_back(running: Stack) -> None:
    user = await running.user()
    program = await running.agent(user, "box")
    async with (
        connect("box", credentials=user.credentials, force="direct") as agent,
        agent.terminal(80, 24) as terminal,
    ):
        await running.hub.kill()
        await program.event("offline", within=20 * running.scale)
        await echoes(agent, "without-hub")
        await terminal.write(b"echo still-$((40 + 2))\n")
        await terminal.expect(r"still-42", timeout=10 * running.scale)
        program.lines.clear()
        await running.start_hub()
        await program.event("online", within=20 * running.scale)
        await echoes(agent, "hub-is-back")
        async with connect("box", credentials=user.credentials) as second:
            await echoes(second, "a-new-client-too")


@pytest.mark.asyncio
async def test_an_agent_that_starts_before_its_hub_comes_online(running: Stack) -> None:
    user = await running.user()
    await running.hub.kill()
    program = await running.agent(user, "box", online=False)
    await program.event("offline", within=30 * running.scale)
    await running.start_hub()
    await program.event("online", within=30 * running.scale)


@pytest.mark.asyncio
async def test_a_stopped_agent_leaves_nothing(running: Stack) -> None:
    """SIGTERM: row offline, presence gone, every child of every PTY gone, within Timing.shutdown."""
    user = await running.user()
    program = await running.agent(user, "box")
    agent = await connect("box", credentials=user.credentials)
    terminal = await agent.terminal(80, 24)
    await terminal.write(b"sleep 1000 & nohup sleep 1001 & echo pids:$$:$(jobs -p | tr '\\n' ':')end\n")
    told = await terminal.expect(r"pids:(\d+):(\d+):(\d+):end", timeout=10 * running.scale)
    pids = [int(group) for group in told.groups()]
    program.signal(signal.SIGTERM)
    assert await program.wait(10 * running.scale) == 0
    await until(lambda: all(gone(pid) for pid in pids), 5 * running.scale)
    found = await agents(credentials=user.credentials)
    assert [(row.name, row.online) for row in found] == [("box", False)]
    with pytest.raises(DoorstepError):
        await agent.commands.run("true")
    await agent.close()


@pytest.mark.asyncio
async def test_a_killed_agent_goes_offline_and_its_clients_notice(running: Stack) -> None:
    user = await running.user()
    program = await running.agent(user, "box")
    timing = Timing(keep=4 * running.scale)
    async with connect("box", credentials=user.credentials, timing=timing) as agent:
        command = await agent.commands.start("trap '' TERM HUP; sleep 1000 & sleep 1001")
        await program.kill()
        async with asyncio.timeout(30 * running.scale):
            while (await agents(credentials=user.credentials))[0].online:
                await asyncio.sleep(POLL)
        await until(lambda: gone(command.pid), 30 * running.scale)
        async with asyncio.timeout(30 * running.scale):
            with pytest.raises(DoorstepError):
                while True:
                    await agent.commands.run("true")


@pytest.mark.asyncio
async def test_one_clients_failure_disturbs_no_other(running: Stack) -> None:
    user = await running.user()
    program = await running.agent(user, "box")
    async with connect("box", credentials=user.credentials) as steady:
        doomed = await connect("box", credentials=user.credentials)
        command = await doomed.commands.start("sleep 1000")
        await doomed._session.close("gone")
        await until(lambda: len(program.events("session-ended")) == 1, 30 * running.scale)
        await until(lambda: gone(command.pid), 10 * running.scale)
        await echoes(steady, "undisturbed")
        await doomed.close()


@pytest.mark.parametrize("force", ["direct", "relay"])
@pytest.mark.asyncio
async def test_a_session_survives_the_loss_of_its_wire(
    running: Stack, force: Literal["direct", "relay"]
) -> None:
    user = await running.user()
    program = await running.agent(user, "box")
    states: list[str] = []
    async with (
        connect(
            "box", credentials=user.credentials, on_state=lambda step: states.append(step.state), force=force
        ) as agent,
        agent.terminal(80, 24) as terminal,
    ):
        first = list(states)
        await terminal.write(b"echo pid:$$:\n")
        pid = (await terminal.expect(r"pid:(\d+):", timeout=10 * running.scale)).group(1)
        for number in range(3):
            await agent._session.wire.close("pulled the plug")
            await terminal.write(b"echo again-%d:$$:\n" % number)
            await terminal.expect(rf"again-{number}:{pid}:", timeout=40 * running.scale)
        wires = agent._session.wires
        assert wires >= 4  # a machine that stands still for long loses more of them
        assert states == wires * first
    await until(lambda: len(program.events("session-ended")) == 1, 30 * running.scale)
    assert len(program.events("resumed")) >= 3


@pytest.mark.asyncio
async def test_an_agent_that_was_restarted_ends_its_sessions(running: Stack) -> None:
    user = await running.user()
    program = await running.agent(user, "box")
    async with connect("box", credentials=user.credentials) as agent:
        await program.kill()
        await program.start()
        async with asyncio.timeout(90 * running.scale):  # silence, and as many knocks as its start takes
            assert "does not know this session" in await agent.wait_closed()
