"""HTTP from a back end that sends without end, packs much into little, or never comes to the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from doorstep.protocol.errors import LinkError
from doorstep.protocol.timing import Timing
from doorstep.testing.deadlines import SCALE
from doorstep.testing.leaks import no_leaks
from doorstep.testing.stranger import TOO_MUCH, Says, Stranger, bomb, endless, stranger, trickle
from doorstep.transport.backend import Backend
from doorstep.transport.bounded_http import BoundedClient
from doorstep.transport.credentials import Credentials
from doorstep.transport.ice_servers import IceServers

pytestmark = pytest.mark.asyncio
LIMIT = 20.0 * SCALE
KINDS = pytest.mark.parametrize("says", [endless, bomb, trickle])


@pytest_asyncio.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    async with no_leaks():
        yield


class User:
    """Satisfies ``SignedIn`` with a client that has no limits of its own."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def access_token(self) -> str:
        return "token"


async def test_an_endless_answer_is_read_to_the_limit() -> None:
    async with stranger(endless) as back_end, BoundedClient(LIMIT, most_bytes=1 << 20) as http:
        with pytest.raises(httpx.RemoteProtocolError, match="more than 1048576 bytes"):
            await http.get(back_end.url)
    assert back_end.sent < TOO_MUCH


async def test_a_packed_answer_is_neither_wanted_nor_taken() -> None:
    async with stranger(bomb) as back_end, BoundedClient(LIMIT) as http:
        with pytest.raises(httpx.RemoteProtocolError, match="packed"):
            await http.get(back_end.url, headers={"Accept-Encoding": "gzip"})
    assert b"accept-encoding: identity\r\n" in back_end.asked[0].lower()


async def test_an_answer_without_end_in_time() -> None:
    async with stranger(trickle) as back_end, BoundedClient(0.3) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.get(back_end.url)


async def test_an_answer_is_as_it_was_sent() -> None:
    async def says(_: Stranger, writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.1 201 Made\r\nX-Mark: 7\r\nContent-Length: 8\r\n\r\n{"a": 1}')

    async with stranger(says) as back_end, BoundedClient(LIMIT, most_bytes=8) as http:
        answer = await http.get(back_end.url)
        assert (answer.status_code, answer.json(), answer.headers["x-mark"]) == (201, {"a": 1}, "7")
        assert answer.request.url == back_end.url


@KINDS
async def test_the_back_end_at_sign_in(says: Says) -> None:
    """The official library asks, and gets no more to read than that."""
    who = {"key": "k.e.y", "email": "a@b.c", "password": "pass"}
    timing = Timing(request=0.3 if says is trickle else LIMIT)
    async with stranger(says) as back_end:
        with pytest.raises(LinkError, match=r"more than|packed|no whole answer"):
            await Backend.sign_in(Credentials(back_end.url, **who), timing)


@KINDS
async def test_the_list_of_ice_servers(says: Says, caplog: pytest.LogCaptureFixture) -> None:
    """Bounded by who asks, whatever client it asks with."""
    caplog.set_level("INFO", "doorstep.transport")
    async with stranger(says) as back_end, httpx.AsyncClient(timeout=LIMIT) as http:
        relay = back_end.url.replace("http", "ws", 1) + "/relay/v1"
        timing = Timing(relay_open=0.3 if says is trickle else LIMIT)
        assert await IceServers(relay, timing=timing).current(User(http)) == ()
    reason = {endless: "more than 65536 bytes", bomb: "packed", trickle: "TimeoutError"}[says]
    assert reason in caplog.text
    assert back_end.sent < TOO_MUCH
