"""System: the relay in every connect: it carries first or alone, WebRTC takes over, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from doorstep.client import Agent, AttemptReport, connect
from doorstep.client.attempts import AttemptState as S
from doorstep.protocol.errors import AgentUnreachable
from doorstep.protocol.timing import Timing
from doorstep.testing.stack import AgentProgram, Program, Stack, free_port, stack

pytestmark = pytest.mark.asyncio

GOOD = [S.REQUESTING, S.WAITING_READY, S.CREATING_OFFER, S.WAITING_ANSWER, S.CONNECTING, S.CONNECTED]
PATIENCE = 40.0


async def until_on(agent: Agent, wire: str, within: float) -> None:
    """Wait for a state of another process, which sets no event of ours."""
    async with asyncio.timeout(within):
        while agent.stats()["wire"] != wire:
            await asyncio.sleep(0.05)


async def count(agent: Agent, lines: int) -> None:
    """A slow count: it has to come whole and in order whatever happens to the wires."""
    text = (
        await agent.commands.run(f"for i in $(seq {lines}); do echo $i; sleep 0.01; done", timeout=None)
    ).stdout
    assert text.split() == [str(number) for number in range(1, lines + 1)]


async def test_only_the_relay(running: Stack) -> None:
    user = await running.user()
    program = await running.agent(user, "box")
    reports: list[AttemptReport] = []
    async with connect("box", credentials=user.credentials, force="relay", on_state=reports.append) as agent:
        assert [report.state for report in reports] == GOOD
        assert reports[-1].reason == "relay"
        connected = await program.event("connected", within=PATIENCE * running.scale)
        assert (connected["wire"], bool(connected["clientKey"])) == ("relay", True)
        stats = agent.stats()
        assert (stats["wire"], stats["relayReason"]) == ("relay", "forced")
        await count(agent, 20)
        await agent.files.write("file", b"x" * 300_000)
        assert await agent.files.read("file") == b"x" * 300_000
    ended = await program.event("session-ended", within=PATIENCE * running.scale)
    assert ended["sessionId"] == connected["sessionId"]


async def test_webrtc_takes_over_and_nothing_is_lost(running: Stack) -> None:
    """Whichever comes first carries; in the end it is WebRTC, and the count is whole."""
    user = await running.user()
    program = await running.agent(user, "box")
    reports: list[AttemptReport] = []
    async with connect("box", credentials=user.credentials, on_state=reports.append) as agent:
        counting = asyncio.create_task(count(agent, 100))
        await until_on(agent, "webrtc", PATIENCE * running.scale)
        assert agent.stats()["relayReason"] == ""
        await counting
        assert [report.state for report in reports][: len(GOOD)] == GOOD
        assert reports[len(GOOD) - 1].reason in ("relay", "webrtc")
    told = [*program.events("connected"), *program.events("resumed")]
    assert told[-1]["wire"] == "webrtc"
    assert program.events("failed") == []


async def test_the_hub_dies_under_a_session_on_its_relay(running: Stack) -> None:
    user = await running.user()
    program = await running.agent(user, "box")
    async with (
        connect("box", credentials=user.credentials, force="relay") as agent,
        agent.terminal(80, 24) as terminal,
    ):
        await terminal.write(b"echo pid:$$:\n")
        pid = (await terminal.expect(r"pid:(\d+):", timeout=PATIENCE * running.scale)).group(1)
        counter = await agent.commands.start("for i in $(seq 300); do echo $i; sleep 0.01; done")
        await running.hub.kill()
        async with asyncio.timeout(PATIENCE * running.scale):
            await agent._session.wait_away()
        program.lines.clear()
        await running.start_hub()
        await program.event("online", within=PATIENCE * running.scale)
        await terminal.write(b"echo after:$$:\n")
        await terminal.expect(rf"after:{pid}:", timeout=PATIENCE * running.scale)
        counted = await counter.wait()
        assert counted.stdout.split() == [str(number) for number in range(1, 301)]
        assert agent.stats()["wire"] == "relay"


async def test_an_offline_agent_is_unreachable_by_all_roads(running: Stack) -> None:
    user = await running.user()
    program = await running.agent(user, "box")
    await program.close()
    fast = Timing(ready=0.1, retry_pause=0.05)
    for force in (None, "relay"):
        async with asyncio.timeout(10 * running.scale):  # less than Timing.relay_wait
            with pytest.raises(AgentUnreachable, match="agent offline or not responding"):
                await connect("box", credentials=user.credentials, timing=fast, force=force)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def relay_alone(running: Stack) -> AsyncIterator[str]:
    """``doorstep relay`` for the users of this hub; yields its URL."""
    port = free_port()
    keys = f"{running.url}/auth/v1/.well-known/jwks.json"
    log = running.directory / "relay.log"
    relay = Program("relay", ["relay", "--port", str(port), "--jwks", keys], {}, log)
    await relay.start()
    try:
        await relay.line("the relay listens at", within=PATIENCE * running.scale)
        yield f"http://127.0.0.1:{port}"
    finally:
        await relay.close()


@pytest_asyncio.fixture
async def plain(tmp_path: Path, scale: float) -> AsyncIterator[Stack]:
    """A back end without a relay."""
    async with stack(tmp_path, scale=scale, hub_options=["--no-relay"]) as found:
        yield found


async def test_a_relay_elsewhere(plain: Stack) -> None:
    user = await plain.user()
    async with relay_alone(plain) as url:
        program: AgentProgram = await plain.agent(user, "box", environment={"DOORSTEP_RELAY_URL": url})
        async with connect("box", credentials=user.credentials, force="relay", relay=url) as agent:
            await count(agent, 10)
            assert agent.stats()["wire"] == "relay"
        connected = await program.event("connected", within=PATIENCE * plain.scale)
        assert connected["wire"] == "relay"
