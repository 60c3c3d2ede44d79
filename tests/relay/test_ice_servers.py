"""Fetching ICE servers: cached, fetched again before they end, and never in the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from doorstep.hub.relay_limits import TurnConfig
from doorstep.protocol.errors import NotSignedIn
from doorstep.protocol.signaling import IceServer
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.testing.hub import throw_away_hub
from doorstep.transport.ice_servers import IceServers
from doorstep.transport.relay import relay_url

pytestmark = pytest.mark.asyncio

DEADLINE = 30.0
STUN = IceServer(urls=("stun:127.0.0.1:3478",))


class Asked:
    """Gives a token and counts."""

    def __init__(self, http: httpx.AsyncClient, token: str | None = "token") -> None:
        self.http, self.token, self.times = http, token, 0
        self.again = asyncio.Event()

    async def access_token(self) -> str:
        self.times += 1
        if self.times > 1:
            self.again.set()
        if self.token is None:
            raise NotSignedIn("gone")
        return self.token


@pytest_asyncio.fixture
async def http() -> AsyncGenerator[httpx.AsyncClient, None]:
    async with httpx.AsyncClient(timeout=DEADLINE) as client:
        yield client


async def test_they_are_fetched_once_while_they_hold(tmp_path: Path, http: httpx.AsyncClient) -> None:
    turn = TurnConfig(urls=("turn:127.0.0.1:3478",), secret="north", seconds=600)
    async with throw_away_hub(tmp_path, turn=turn) as hub:
        user = Asked(http, (await hub.user()).access_token)
        servers = IceServers(relay_url(hub.url), configured=[STUN])
        assert servers.known == (STUN,)
        found = await asyncio.gather(*(servers.current(user) for _ in range(5)))
        assert user.times == 1
        assert all(one == found[0] == servers.known for one in found)
        assert found[0][0] == STUN
        assert found[0][1].urls == turn.urls
        assert found[0][1].credential


async def test_they_are_fetched_again_before_they_end(tmp_path: Path, http: httpx.AsyncClient) -> None:
    turn = TurnConfig(urls=("turn:127.0.0.1:3478",), secret="north", seconds=2)
    async with throw_away_hub(tmp_path, turn=turn) as hub:
        user = Asked(http, (await hub.user()).access_token)
        servers = IceServers(relay_url(hub.url))
        keeping = asyncio.create_task(servers.keep(user))
        seen: set[str | None] = set()
        async with asyncio.timeout(DEADLINE):
            while len(seen) < 3:
                seen |= {server.username for server in servers.known}
                await asyncio.sleep(0.02)
        keeping.cancel()
        await asyncio.wait({keeping})


async def test_what_ended_while_the_machine_slept_is_not_used(
    tmp_path: Path, http: httpx.AsyncClient
) -> None:
    slept = 0.0
    turn = TurnConfig(urls=("turn:127.0.0.1:3478",), secret="north", seconds=600)
    async with throw_away_hub(tmp_path, turn=turn) as hub:
        user = Asked(http, (await hub.user()).access_token)
        servers = IceServers(relay_url(hub.url), calendar=lambda: time.time() + slept)
        assert len(await servers.current(user)) == 1
        slept = 601.0
        assert servers.known == ()
        assert len(await servers.current(user)) == 1
        assert user.times == 2


async def test_who_needs_them_soon_waits_for_a_limited_time(http: httpx.AsyncClient) -> None:
    async with answering(None) as relay:
        servers = IceServers(relay, configured=[STUN], timing=Timing(ice_servers=0.05))
        async with servers.asked_beside(Asked(http)) as soon:
            assert await soon() == (STUN,)
    body = b'{"iceServers":[{"urls":"stun:127.0.0.1:9"}],"expiresIn":60}'
    async with answering(body) as relay:
        servers = IceServers(relay, configured=[STUN], timing=Timing(ice_servers=DEADLINE))
        async with servers.asked_beside(Asked(http)) as soon:
            found = await soon()
            assert [server.urls for server in found] == [STUN.urls, ("stun:127.0.0.1:9",)]
            assert await soon() == found


async def test_what_comes_late_is_for_the_next_attempt(http: httpx.AsyncClient) -> None:
    come = asyncio.Event()
    body = b'{"iceServers":[{"urls":"stun:127.0.0.1:9"}],"expiresIn":600}'
    async with answering(body, come) as relay:
        servers = IceServers(relay, configured=[STUN], timing=Timing(ice_servers=0.05, relay_open=DEADLINE))
        async with servers.asked_beside(Asked(http)) as soon:
            assert await soon() == (STUN,)
            come.set()
            async with asyncio.timeout(DEADLINE):
                while len(await soon()) < 2:
                    pass
        assert len(servers.known) == 2


async def test_one_that_nobody_can_ask_does_not_spoil_the_others(http: httpx.AsyncClient) -> None:
    body = b'{"iceServers":[{"urls":"http://a.test"},{"urls":"stun:127.0.0.1:9"}],"expiresIn":60}'
    async with answering(body) as relay:
        (found,) = await IceServers(relay).current(Asked(http))
        assert found.urls == ("stun:127.0.0.1:9",)


async def test_a_back_end_without_them_is_no_error(tmp_path: Path, http: httpx.AsyncClient) -> None:
    async with throw_away_hub(tmp_path) as hub:
        user, url = Asked(http, (await hub.user()).access_token), relay_url(hub.url)
        servers = IceServers(relay_url(hub.url, "/somewhere"), configured=[STUN])
        assert await servers.current(user) == await servers.current(user) == (STUN,)
        assert user.times == 1
    assert await IceServers(url, configured=[STUN]).current(user) == (STUN,)
    assert await IceServers(None, configured=[STUN]).current(user) == (STUN,)


async def test_a_sign_in_that_fails_is_no_error(http: httpx.AsyncClient) -> None:
    assert await IceServers("ws://127.0.0.1:9/relay/v1").current(Asked(http, None)) == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"iceServers":1,"expiresIn":1}',
        b'{"iceServers":[{}],"expiresIn":1}',
        b'{"iceServers":[{"urls":[1]}],"expiresIn":1}',
        b'{"iceServers":[{"urls":"turn:' + b"x" * 2000 + b'"}],"expiresIn":1}',
        b'{"iceServers":[],"expiresIn":"soon"}',
        b"x" * 100_000,
        None,
    ],
)
async def test_nonsense_is_no_error(body: bytes | None, http: httpx.AsyncClient) -> None:
    """``None``: a server that never answers."""
    async with answering(body) as relay:
        timing = Timing(relay_open=0.3) if body is None else DEFAULT_TIMING
        servers = IceServers(relay, configured=[STUN], timing=timing)
        assert await servers.current(Asked(http)) == (STUN,)


async def test_one_url_may_be_a_text(http: httpx.AsyncClient) -> None:
    async with answering(b'{"iceServers":[{"urls":"stun:127.0.0.1:3478"}],"expiresIn":60}') as relay:
        assert await IceServers(relay).current(Asked(http)) == (STUN,)


@asynccontextmanager
async def answering(body: bytes | None, when: asyncio.Event | None = None) -> AsyncGenerator[str, None]:
    """A back end that says ``body`` to everything, not before ``when`` is set; yields its relay's URL."""
    answering: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        answering.add(task)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            if when is not None:
                await when.wait()
            if body is not None:
                length = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
                writer.write(length + body)
            else:
                await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/relay/v1"
    server.close()
    if answering:
        await asyncio.wait(answering)
    await server.wait_closed()
