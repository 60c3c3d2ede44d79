"""``connect()`` and ``agents()`` with a real hub, a real agent and real WebRTC."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from doorstep import client
from doorstep.agent.agent import Agent
from doorstep.agent.identity import load_identity
from doorstep.client import sync
from doorstep.client.attempts import AttemptState as S
from doorstep.client.known import KnownAgents
from doorstep.protocol.errors import AgentNotFound, AgentUnreachable, NotSignedIn, PeerNotTrusted
from doorstep.protocol.timing import Timing
from doorstep.testing.deadlines import SCALE
from doorstep.testing.hub import ThrowAwayHub, throw_away_hub
from doorstep.transport.backend import AgentRecord
from doorstep.transport.credentials import Credentials
from doorstep.transport.keys import AGENT_KEY, load_key

from .box import box_online

pytestmark = pytest.mark.asyncio
GOOD = [S.REQUESTING, S.WAITING_READY, S.CREATING_OFFER, S.WAITING_ANSWER, S.CONNECTING, S.CONNECTED]


@pytest_asyncio.fixture
async def hub(tmp_path: Path, nothing_left: None) -> AsyncIterator[ThrowAwayHub]:
    async with throw_away_hub(tmp_path / "hub") as hub:
        yield hub


@pytest_asyncio.fixture
async def login(hub: ThrowAwayHub) -> Credentials:
    user = await hub.user()
    return Credentials(hub.url, hub.anon_key, user.email, user.password)


@pytest_asyncio.fixture
async def machine(login: Credentials, tmp_path: Path) -> AsyncIterator[Agent]:
    """An agent called box, online."""
    async with box_online(login, tmp_path / "agent") as (agent, _):
        yield agent


async def test_connect_by_name_and_id(machine: Agent, login: Credentials, hub: ThrowAwayHub) -> None:
    (row,) = await client.agents(credentials=login)
    for known_as in ("box", row.id):
        reports: list[client.AttemptReport] = []
        async with client.connect(known_as, credentials=login, on_state=reports.append) as agent:
            assert [report.state for report in reports] == GOOD
            assert agent.name == "box"
            assert (await agent.commands.run("echo hi")).stdout == "hi\n"
            assert agent.stats()["wire"] == "webrtc"


async def test_a_hub_that_names_another_key(hub: ThrowAwayHub, login: Credentials, tmp_path: Path) -> None:
    """The key comes by the row at the first contact; from then on the row is not believed."""
    key, other = (load_key(tmp_path / "agent", name) for name in (AGENT_KEY, "other.key"))
    state = tmp_path / "client"
    identity = load_identity(tmp_path / "agent", "box")
    record = AgentRecord(id=identity.id, name="box", platform="test", version="0")
    async with box_online(login, tmp_path / "agent", key=key) as (_, backend):
        assert (await backend.find_agent("box")).public_key == str(key.public)
        for _ in range(2):
            async with client.connect("box", credentials=login, state_dir=state) as box:
                assert (await box.commands.run("echo hi")).stdout == "hi\n"
            await backend.register_agent(record)  # the row names no key
        assert [pin.key for pin in KnownAgents(state).all()] == [str(key.public)]
        await backend.register_agent(dataclasses.replace(record, public_key=str(other.public)))
        with pytest.raises(PeerNotTrusted, match="the key of box has changed"):
            await client.connect("box", credentials=login, state_dir=state)
        with pytest.raises(PeerNotTrusted, match="another key than the back end says"):
            await client.connect("box", credentials=login, state_dir=tmp_path / "stranger")


async def test_eight_at_once(machine: Agent, login: Credentials) -> None:
    """Each has a session of its own; none hears another's answer."""

    async def one(number: int) -> str:
        async with client.connect("box", credentials=login) as agent:
            return (await agent.commands.run(f"echo {number}")).stdout

    said = await asyncio.gather(*(one(number) for number in range(8)))
    assert said == [f"{number}\n" for number in range(8)]


async def test_agents_and_the_watch(machine: Agent, login: Credentials) -> None:
    async with asyncio.timeout(20 * SCALE), aclosing(client.watch_agents(credentials=login)) as watch:
        async for rows in watch:
            if rows and rows[0].online:
                break
        await machine.stop("it leaves")
        async for rows in watch:
            if not rows[0].online:
                break
    (row,) = await client.agents(credentials=login)
    assert (row.name, row.online) == ("box", False)
    assert row.last_seen is not None
    assert row.to_json()["state"] == "offline"


async def test_an_agent_that_is_not_there(machine: Agent, login: Credentials) -> None:
    await machine.stop("it leaves")
    fast = Timing(ready=0.1, retry_pause=0.05)
    with pytest.raises(AgentUnreachable, match="agent offline or not responding"):
        await client.connect("box", credentials=login, timing=fast)


async def test_an_unknown_name(machine: Agent, login: Credentials) -> None:
    with pytest.raises(AgentNotFound, match="box"):
        await client.connect("bax", credentials=login)


async def test_another_users_agent_does_not_exist(
    machine: Agent, login: Credentials, hub: ThrowAwayHub
) -> None:
    stranger = await hub.user()
    other = Credentials(hub.url, hub.anon_key, stranger.email, stranger.password)
    (row,) = await client.agents(credentials=login)
    with pytest.raises(AgentNotFound):
        await client.connect(row.id, credentials=other)
    assert await client.agents(credentials=other) == []


async def test_a_wrong_password(login: Credentials) -> None:
    wrong = dataclasses.replace(login, password="wrong")
    with pytest.raises(NotSignedIn):
        await client.connect("box", credentials=wrong)


async def test_a_cancelled_connect_leaves_nothing(machine: Agent, login: Credentials) -> None:
    for wait in (0.0, 0.05, 0.1, 0.2):
        task = asyncio.ensure_future(_connect(login))
        await asyncio.sleep(wait)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    # that nothing is left is what the fixture asserts


async def _connect(login: Credentials) -> None:
    async with client.connect("box", credentials=login):
        await asyncio.sleep(60)


async def test_a_script_without_async(machine: Agent, login: Credentials) -> None:
    def script() -> tuple[str, list[str]]:
        with sync.connect("box", credentials=login) as agent:
            said = agent.commands.run("echo hi").stdout
        return said, [row.name for row in sync.agents(credentials=login)]

    assert await asyncio.to_thread(script) == ("hi\n", ["box"])
