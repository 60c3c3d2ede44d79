"""System: many clients, strangers, an agent that is away."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from doorstep.client import AttemptReport, agents, connect
from doorstep.protocol.errors import AgentNotFound, AgentUnreachable, NotSignedIn, Unauthorized
from doorstep.protocol.ids import agents_topic, signaling_topic
from doorstep.protocol.timing import Timing
from doorstep.testing.leaks import no_leaks
from doorstep.testing.stack import Stack
from doorstep.transport.backend import Backend
from doorstep.transport.signaling import ChannelSpec

NORMAL = [
    "requesting",
    "waiting-ready",
    "creating-offer",
    "waiting-answer",
    "connecting",
    "connected",
]


@pytest.mark.asyncio
async def test_a_script_gets_a_command_a_file_and_a_shell(running: Stack) -> None:
    user = await running.user()
    await running.agent(user, "box")
    reports: list[AttemptReport] = []
    async with no_leaks(), connect("box", credentials=user.credentials, on_state=reports.append) as agent:
        assert [str(report.state) for report in reports if report.state != "idle"] == NORMAL
        result = await agent.commands.run("printf out; printf err >&2; exit 3")
        assert (result.exit_code, result.stdout, result.stderr) == (3, "out", "err")
        async with agent.terminal(100, 30) as terminal:
            await terminal.write(b"stty size\n")
            await terminal.expect(r"30 100", timeout=10 * running.scale)


@pytest.mark.asyncio
async def test_twenty_knock_at_once_and_all_get_their_own_shell(running: Stack) -> None:
    user = await running.user()
    await running.agent(user, "box")
    all_here = asyncio.Barrier(20)

    async def visit(number: int) -> str:
        async with (
            connect("box", credentials=user.credentials) as agent,
            agent.terminal(80, 24) as terminal,
        ):
            await terminal.write(f"echo me-$(({number} * 1000)); tty\n".encode())
            await terminal.expect(f"me-{number * 1000}\r", timeout=60 * running.scale)
            tty = (await terminal.expect(r"/dev/\S+", timeout=60 * running.scale)).group()
            await all_here.wait()
            return tty

    async with asyncio.timeout(90 * running.scale):
        ttys = await asyncio.gather(*(visit(number) for number in range(1, 21)))
    assert len(set(ttys)) == 20


@pytest.mark.asyncio
async def test_strangers_get_nothing_of_each_others(running: Stack) -> None:
    """Two users, both directions: no row, no name, no presence channel, no signaling channel."""
    users = [await running.user(), await running.user()]
    for user, name in zip(users, ("one", "two"), strict=True):
        await running.agent(user, name)
    for user, other, name in ((users[0], users[1], "two"), (users[1], users[0], "one")):
        found = await agents(credentials=user.credentials)
        assert [(agent.name, agent.online) for agent in found] == [("one" if name == "two" else "two", True)]
        with pytest.raises(AgentNotFound):
            await connect(name, credentials=user.credentials)
        theirs = (await agents(credentials=other.credentials))[0]
        async with await Backend.sign_in(user.credentials) as backend:
            assert [row.name for row in await backend.list_agents()] == [found[0].name]
            for topic in (agents_topic(other.id), signaling_topic(theirs.id)):  # type: ignore[arg-type]
                with pytest.raises(Unauthorized):
                    await backend.separate_signaling().join(
                        ChannelSpec(topic=topic, on_message=lambda *_: None), timeout=10 * running.scale
                    )


@pytest.mark.asyncio
async def test_the_public_key_alone_opens_nothing(running: Stack) -> None:
    """The anon key and somebody's user id: no channel, no row, no session."""
    from doorstep.transport.realtime import RealtimeSignaling

    user = await running.user()
    await running.agent(user, "box")

    async def anonymous() -> str:
        return running.anon_key

    signaling = RealtimeSignaling(running.url, running.anon_key, anonymous, Timing())
    try:
        with pytest.raises(Unauthorized):
            spec = ChannelSpec(topic=agents_topic(user.id), on_message=lambda *_: None)  # type: ignore[arg-type]
            await signaling.join(spec, timeout=10 * running.scale)
    finally:
        await signaling.close()
    with pytest.raises(NotSignedIn):
        await connect("box", credentials=replace(user.credentials, password="guessed"))


@pytest.mark.asyncio
async def test_an_agent_that_is_away_is_unreachable_after_all_attempts(running: Stack) -> None:
    user = await running.user()
    agent = await running.agent(user, "box")
    await agent.close()
    timing = Timing(ready=0.5, retry_pause=0.3, total=3.0)
    reports: list[AttemptReport] = []
    loop = asyncio.get_running_loop()
    async with no_leaks():
        start = loop.time()
        with pytest.raises(AgentUnreachable):
            await connect("box", credentials=user.credentials, on_state=reports.append, timing=timing)
        took = loop.time() - start
    once = ["requesting", "waiting-ready", "failed"]
    states = [str(report.state) for report in reports if report.state != "idle"]
    assert states == [*once, "retrying", *once, "retrying", *once, "retrying", *once]
    assert took >= 4 * 0.5 + 3 * 0.3  # 29 s with the waits as they are in real use


@pytest.mark.asyncio
async def test_two_agents_of_one_owner_never_merge(running: Stack) -> None:
    user = await running.user()
    first = await running.agent(user, "twin")
    second = await running.agent(user, "twin")
    found = await agents(credentials=user.credentials)
    assert sorted(agent.name for agent in found) == ["twin", "twin-2"]
    assert all(agent.online for agent in found)
    ids = {(await program.event("online", within=5))["agentId"] for program in (first, second)}
    assert ids == {agent.id for agent in found}
    await first.close()
    await first.start()
    again = await first.event("online", within=30 * running.scale)
    assert again["agentId"] in ids
    assert len(await agents(credentials=user.credentials)) == 2
