"""System: client and agent by TURN servers alone, with credentials that the hub makes and that end."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import cast

import pytest
import pytest_asyncio

from doorstep.agent.run import run as run_agent
from doorstep.agent.settings import Settings
from doorstep.client import Agent, AttemptReport, connect
from doorstep.client.attempts import Connector, Target
from doorstep.hub.relay_limits import TurnConfig
from doorstep.protocol.errors import ConnectFailed, InvalidInput
from doorstep.protocol.timing import Timing
from doorstep.testing.coturn import Coturn, coturn, turnserver
from doorstep.testing.hub import throw_away_hub
from doorstep.testing.leaks import no_leaks
from doorstep.testing.stack import stack
from doorstep.transport.backend import Backend
from doorstep.transport.credentials import Credentials, save
from doorstep.transport.ice_servers import IceServers
from doorstep.transport.relay_socket import relay_url

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(turnserver() is None, reason="turnserver is not installed (Debian: coturn)"),
]
RELAY_ONLY = {"DOORSTEP_ICE_POLICY": "relay"}


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Coturn]:
    directory = tmp_path / "turn"
    directory.mkdir()
    async with coturn(directory) as found:
        yield found


def ends(agent: Agent) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """Both candidates of the pair in use."""
    stats = agent.stats()
    assert stats["wire"] == "webrtc"
    transport = cast("Mapping[str, Mapping[str, object]]", stats["transport"])
    return transport["localCandidate"], transport["remoteCandidate"]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_both_sides_by_turn_alone(tmp_path: Path, server: Coturn, transport: str, scale: float) -> None:
    secret = tmp_path / "secret"
    secret.write_text(server.secret)
    options = ["--turn-secret-file", str(secret), "--turn-url", *server.urls(transport)]
    async with stack(tmp_path, scale=scale, hub_options=options) as running:
        user = await running.user()
        await running.agent(user, "box", environment=RELAY_ONLY)
        async with no_leaks(), connect("box", credentials=user.credentials, force="turn") as agent:
            local, remote = ends(agent)
            assert (local["type"], local["relayProtocol"]) == ("relay", transport)
            assert remote["type"] == "relay"
            assert (await agent.commands.run("echo hi")).stdout == "hi\n"
            keys = agent.stats()["agentKey"], agent.stats()["clientKey"]
            assert all(re.fullmatch("[0-9a-f]{4}( [0-9a-f]{4}){7}", str(key)) for key in keys), keys
            steps = cast("Mapping[str, float]", agent.stats()["connectMs"])
            assert {"sign-in", "requesting", "connecting"} <= steps.keys()


async def test_candidates_that_come_late_are_enough(tmp_path: Path, server: Coturn, scale: float) -> None:
    """Neither description waits for the TURN server: what is not in it trickles."""
    secret = tmp_path / "secret"
    secret.write_text(server.secret)
    options = ["--turn-secret-file", str(secret), "--turn-url", *server.urls("udp")]
    async with stack(tmp_path, scale=scale, hub_options=options) as running:
        user = await running.user()
        await running.agent(user, "box", environment=RELAY_ONLY | {"DOORSTEP_TIMING_GATHER": "0.0001"})
        timing = Timing(gather=0.0001)
        seen: list[AttemptReport] = []
        connecting = connect(
            "box", credentials=user.credentials, force="turn", timing=timing, on_state=seen.append
        )
        async with connecting as agent:
            assert [end["type"] for end in ends(agent)] == ["relay", "relay"]
        assert {report.attempt for report in seen} == {1}


async def test_credentials_that_end_are_replaced(tmp_path: Path, server: Coturn, scale: float) -> None:
    """The agent runs for longer than its first ones hold; the next client is answered with others."""
    seconds = round(8 * scale)
    turn = TurnConfig(urls=server.urls("udp"), secret=server.secret, seconds=seconds)
    timing = Timing(total=60 * scale)
    async with no_leaks(), throw_away_hub(tmp_path / "hub", turn=turn) as hub:
        user = await hub.user()
        login = Credentials(hub.url, hub.anon_key, user.email, user.password)
        save(tmp_path / "agent", login)
        online = asyncio.Event()
        settings = Settings(state_dir=tmp_path / "agent", name="box", ice_policy="relay", timing=timing)
        running = asyncio.create_task(run_agent(settings, lambda _: online.set()))
        try:
            async with asyncio.timeout(40 * scale):
                await online.wait()
            began = time.time()
            while time.time() < began + seconds + 1:
                await asyncio.sleep(0.1)
            async with connect("box", credentials=login, force="turn", timing=timing) as agent:
                assert [end["type"] for end in ends(agent)] == ["relay", "relay"]
        finally:
            running.cancel()
            await asyncio.wait({running})


async def test_a_client_has_them_by_the_time_of_its_offer(tmp_path: Path, server: Coturn) -> None:
    turn = TurnConfig(urls=server.urls("udp"), secret=server.secret)
    async with no_leaks(), throw_away_hub(tmp_path / "hub", turn=turn) as hub:
        user = await hub.user()
        login = Credentials(hub.url, hub.anon_key, user.email, user.password)
        async with await Backend.sign_in(login) as backend:
            servers = IceServers(relay_url(hub.url), timing=Timing(ice_servers=30))
            async with servers.asked_beside(backend) as soon:
                (found,) = await soon()
    assert found.urls == turn.urls
    assert found.credential


async def test_a_plain_client_uses_those_that_the_agent_names(
    tmp_path: Path, server: Coturn, scale: float
) -> None:
    """``connection-ready`` has them for a client that knows nothing of the back end's."""
    secret = tmp_path / "secret"
    secret.write_text(server.secret)
    options = ["--turn-secret-file", str(secret), "--turn-url", *server.urls("udp")]
    async with stack(tmp_path, scale=scale, hub_options=options) as running:
        user = await running.user()
        await running.agent(user, "box", environment=RELAY_ONLY)
        async with no_leaks(), await Backend.sign_in(user.credentials) as backend:
            row = await backend.find_agent("box")
            target = Target(user_id=backend.user_id, agent_id=row.id, session_id=None)
            session = await Connector(target, backend.signaling(), express=False, force="turn").connect()
            stats = session.stats()["transport"]
            await session.close()
    assert isinstance(stats, dict)
    assert [stats[end]["type"] for end in ("localCandidate", "remoteCandidate")] == ["relay", "relay"]


async def test_an_explicit_list_is_all_there_is(tmp_path: Path, server: Coturn, scale: float) -> None:
    """Also an empty one: the back end's TURN server is not asked, and nothing else is left."""
    turn = TurnConfig(urls=server.urls("udp"), secret=server.secret)
    timing = Timing(retry_pause=0.05, ice=5 * scale)
    async with throw_away_hub(tmp_path / "hub", turn=turn) as hub:
        user = await hub.user()
        login = Credentials(hub.url, hub.anon_key, user.email, user.password)
        save(tmp_path / "agent", login)
        online = asyncio.Event()
        settings = Settings(state_dir=tmp_path / "agent", name="box", timing=timing)
        running = asyncio.create_task(run_agent(settings, lambda _: online.set()))
        try:
            async with asyncio.timeout(40 * scale):
                await online.wait()
            with pytest.raises(ConnectFailed):
                await connect("box", credentials=login, force="turn", ice_servers=[], timing=timing)
        finally:
            running.cancel()
            await asyncio.wait({running})


async def test_a_setting_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOORSTEP_ICE_SERVERS", "turn:example.test")
    with pytest.raises(InvalidInput, match="DOORSTEP_ICE_SERVERS"):
        await connect("box", credentials=Credentials("http://127.0.0.1:9", "key", "a@b.test", "password"))
