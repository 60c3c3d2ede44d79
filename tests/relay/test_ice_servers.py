"""Fetching ICE servers: cached, fetched again before they end, and never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from doorstep.hub.relay_limits import TurnConfig
from doorstep.protocol.errors import NotSignedIn
from doorstep.protocol.signaling import IceServer
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.testing.hub import HubUser, throw_away_hub
from doorstep.transport.ice_servers import IceServers
from doorstep.transport.relay import relay_url

pytestmark = pytest.mark.asyncio

STUN = IceServer(urls=("stun:127.0.0.1:3478",))


class Asked:
    """Gives a user's token and counts."""

    def __init__(self, user: HubUser) -> None:
        self.user, self.times = user, 0
        self.again = asyncio.Event()

    async def __call__(self) -> str:
        self.times += 1
        if self.times > 1:
            self.again.set()
        return self.user.access_token


async def test_they_are_fetched_once_while_they_hold(tmp_path: Path) -> None:
    turn = TurnConfig(urls=("turn:127.0.0.1:3478",), secret="north", seconds=600)
    async with throw_away_hub(tmp_path, turn=turn) as hub:
        token = Asked(await hub.user())
        servers = IceServers(relay_url(hub.url), token, configured=[STUN])
        assert servers.known == (STUN,)
        found = await asyncio.gather(*(servers.current() for _ in range(5)))
        assert token.times == 1
        assert all(one == found[0] == servers.known for one in found)
        assert found[0][0] == STUN
        assert found[0][1].urls == turn.urls
        assert found[0][1].credential


async def test_they_are_fetched_again_before_they_end(tmp_path: Path) -> None:
    turn = TurnConfig(urls=("turn:127.0.0.1:3478",), secret="north", seconds=2)
    async with throw_away_hub(tmp_path, turn=turn) as hub:
        token = Asked(await hub.user())
        servers = IceServers(relay_url(hub.url), token)
        keeping = asyncio.create_task(servers.keep())
        async with asyncio.timeout(10):
            await token.again.wait()
        assert len(servers.known) == 1
        keeping.cancel()
        await asyncio.wait({keeping})


async def test_a_back_end_without_them_is_no_error(tmp_path: Path) -> None:
    async with throw_away_hub(tmp_path) as hub:
        token, url = Asked(await hub.user()), relay_url(hub.url)
        servers = IceServers(relay_url(hub.url, "/somewhere"), token, configured=[STUN])
        assert await servers.current() == await servers.current() == (STUN,)
        assert token.times == 1
    away = IceServers(url, token, configured=[STUN])
    assert await away.current() == (STUN,)
    assert await IceServers(None, token, configured=[STUN]).current() == (STUN,)


async def test_a_sign_in_that_fails_is_no_error() -> None:
    async def token() -> str:
        raise NotSignedIn("gone")

    assert await IceServers("ws://127.0.0.1:9/relay/v1", token).current() == ()


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
async def test_nonsense_is_no_error(body: bytes | None) -> None:
    """``None``: a server that never answers."""
    async with answering(body) as relay:
        timing = Timing(relay_open=0.3) if body is None else DEFAULT_TIMING
        servers = IceServers(relay, plain_token, configured=[STUN], timing=timing)
        assert await servers.current() == (STUN,)


async def test_one_url_may_be_a_text() -> None:
    async with answering(b'{"iceServers":[{"urls":"stun:127.0.0.1:3478"}],"expiresIn":60}') as relay:
        assert await IceServers(relay, plain_token).current() == (STUN,)


async def plain_token() -> str:
    return "token"


@asynccontextmanager
async def answering(body: bytes | None) -> AsyncGenerator[str, None]:
    """A back end that says ``body`` to everything; yields its relay's URL."""
    answering: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        answering.add(task)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            if body is not None:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
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
