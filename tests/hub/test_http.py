"""What surrounds the interfaces: hosts, CORS, limits, the page and its orders to the browser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from doorstep.hub.assets import migrations, web_root
from doorstep.hub.security import allowed_hosts
from doorstep.testing.deadlines import SCALE
from doorstep.testing.hub import ThrowAwayHub, throw_away_hub
from doorstep.testing.raw_socket import raw_socket

pytestmark = pytest.mark.asyncio
DEADLINE = 20.0 * SCALE


async def test_health_and_config(hub: ThrowAwayHub, http: httpx.AsyncClient) -> None:
    assert (await http.get("/health")).json() == {"status": "ok"}
    answer = await http.get("/config.json")
    assert answer.json() == {"url": hub.url, "key": hub.anon_key}
    assert "access-control-allow-origin" not in answer.headers
    localhost = await http.get(
        "/config.json", headers={"Host": hub.url.replace("http://127.0.0.1", "localhost")}
    )
    assert localhost.json()["url"].startswith("http://localhost:")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.0.2.7", ""]
)
async def test_a_rebound_name_is_not_served(hub: ThrowAwayHub, http: httpx.AsyncClient, host: str) -> None:
    for path in ("/config.json", "/rest/v1/agents", "/auth/v1/health", "/"):
        assert (await http.get(path, headers={"Host": host})).status_code == 421
    address = f"{hub.url.replace('http', 'ws')}/realtime/v1/websocket?apikey={hub.anon_key}"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(address, additional_headers={"Host": host}, proxy=None):
            pass
    assert refused.value.response.status_code in (400, 421)


def _hosts(*arguments: Any) -> set[str]:
    return set(allowed_hosts(*arguments))


async def test_which_hosts_are_served() -> None:
    assert _hosts("127.0.0.1", None, ()) == {"localhost", "127.0.0.1", "[::1]"}
    assert _hosts("127.0.0.1", "https://Hub.Example:8443/x", ("Box.local",)) >= {"hub.example", "box.local"}
    assert "*" in _hosts("0.0.0.0", None, ())
    assert "[fe80::1]" in _hosts("fe80::1", None, ())


async def test_cors_is_for_the_interfaces_only(hub: ThrowAwayHub, http: httpx.AsyncClient) -> None:
    asked = {"Origin": "http://other.example", "Access-Control-Request-Headers": "apikey,x-client-info"}
    for path in ("/rest/v1/agents", "/auth/v1/token", "/realtime/v1/api/broadcast"):
        answer = await http.options(path, headers=asked)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-headers"] == "apikey,x-client-info"
    refused = await http.get("/rest/v1/agents")
    assert refused.headers["access-control-allow-origin"] == "*"
    assert "Content-Range" in refused.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in (await http.get("/", headers=asked)).headers


async def test_a_relay_elsewhere_is_named_and_allowed(tmp_path: Path) -> None:
    async with (
        throw_away_hub(tmp_path, relay_url="wss://relay.example:8788/relay/v1") as hub,
        httpx.AsyncClient(base_url=hub.url) as http,
    ):
        assert (await http.get("/config.json")).json()["relay"] == "wss://relay.example:8788/relay/v1"
        policy = (await http.get("/")).headers["content-security-policy"]
        orders = dict(order.split(" ", 1) for order in policy.split("; "))
        assert {"'self'", "wss://relay.example:8788", "https://relay.example:8788"} <= {
            *orders["connect-src"].split()
        }


async def test_the_page_and_its_policy(hub: ThrowAwayHub, http: httpx.AsyncClient) -> None:
    answer = await http.get("/")
    if web_root() is None:
        assert answer.status_code == 503
        assert "npm run build" in answer.text
    else:
        assert answer.status_code == 200
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["connect-src"] == f"'self' {hub.url.replace('http', 'ws')} {hub.url.replace('http', 'wss')}"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path", ["/..%2f..%2fpyproject.toml", "/%2e%2e/config.py", "/x.py", "/assets/../../keys.py"]
)
async def test_no_other_files_are_served(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code in (404, 503)


async def test_bodies_are_bounded(tmp_path: Path) -> None:
    async def chunks() -> Any:
        for _ in range(40):
            yield b"x" * 100

    async with throw_away_hub(tmp_path, body_bytes=1000) as hub, httpx.AsyncClient(base_url=hub.url) as http:
        for content in (b"x" * 1001, chunks()):
            answer = await http.post("/auth/v1/token?grant_type=password", content=content)
            assert answer.status_code == 413
        headers = {"apikey": hub.service_key}
        assert (await http.post("/rest/v1/agents", content=chunks(), headers=headers)).status_code == 413


Raw = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def raw_connection(
    hub: ThrowAwayHub,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    address = urlsplit(hub.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        async with asyncio.timeout(DEADLINE):
            yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


HEAD = b"POST /auth/v1/signup HTTP/1.1\r\nHost: 127.0.0.1\r\napikey: KEY\r\nContent-Length: 90000\r\n"


@pytest.mark.parametrize("begun", [b"", HEAD, HEAD + b"\r\n{"], ids=["nothing", "head", "body"])
async def test_a_request_that_never_comes_whole_has_an_end(tmp_path: Path, begun: bytes) -> None:
    async with throw_away_hub(tmp_path, request_seconds=0.3) as hub, raw_connection(hub) as (reader, writer):
        writer.write(begun.replace(b"KEY", hub.anon_key.encode()))
        ended = asyncio.create_task(reader.read())
        with suppress(ConnectionError):
            while begun and not ended.done():  # it goes on, slowly
                writer.write(b"x")
                await writer.drain()
                await asyncio.wait({ended}, timeout=0.02)
        with suppress(ConnectionError):
            assert await ended == b""


async def test_one_that_comes_in_time_is_answered_however_long_that_takes(tmp_path: Path) -> None:
    async with throw_away_hub(tmp_path, request_seconds=0.3) as hub, raw_connection(hub) as (reader, writer):
        writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 OK")
        async with raw_socket(hub.url, hub.anon_key) as socket:
            assert await reader.read() == b""  # no further one has come
            assert await socket.barrier() == []  # a request that has become a socket has come


async def test_an_endless_head_is_refused(hub: ThrowAwayHub) -> None:
    async with raw_connection(hub) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"a" * 200_000)
        with suppress(ConnectionError):
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")


async def test_broadcasts_by_http(hub: ThrowAwayHub, http: httpx.AsyncClient) -> None:
    user, other = await hub.user(), await hub.user()
    topic = f"user:{user.id}:agents"
    signed = {"apikey": hub.anon_key, "Authorization": f"Bearer {user.access_token}"}
    stranger = signed | {"Authorization": f"Bearer {other.access_token}"}
    message = {"topic": topic, "event": "ev", "payload": {"a": 1}, "private": True}
    async with raw_socket(hub.url, hub.anon_key) as socket:
        await socket.join(topic, private=True, token=user.access_token)
        for path in ("/realtime/v1/api/broadcast", "/api/broadcast"):
            answer = await http.post(path, json={"messages": [message]}, headers=signed)
            assert (answer.status_code, answer.content) == (202, b"")
            assert (await socket.receive()).payload == {
                "event": "ev",
                "payload": {"a": 1},
                "type": "broadcast",
            }
        assert (await http.post(path, json={"messages": [message]}, headers=stranger)).status_code == 202
        single = f"/api/broadcast/{topic}/events/sev?private=true"
        assert (await http.post(single, json={"n": 1}, headers=stranger)).status_code == 403
        assert (await http.post(single, json={"n": 1}, headers=signed)).status_code == 202
        assert (await socket.frame())[-10:] == b'sev{"n":1}'
        octets = signed | {"content-type": "application/octet-stream"}
        assert (await http.post(single, content=b"\x00", headers=octets)).status_code == 202
        assert (await socket.frame())[-4:] == b"sev\x00"
        assert await socket.barrier() == []
    assert (
        await http.post(single, content=b"x", headers=signed | {"content-type": "text/x"})
    ).status_code == 415
    assert (await http.post(single, content=b"{", headers=signed)).status_code == 422
    answer = await http.post("/api/broadcast", json={"messages": [message]})
    assert (answer.status_code, answer.json()) == (401, {"message": "Unauthorized"})
    for body, errors in (
        ({}, {"messages": ["can't be blank"]}),
        ({"messages": []}, {"messages": ["can't be blank"]}),
        ({"messages": [{"topic": "t", "event": "e"}]}, {"messages": [{"payload": ["can't be blank"]}]}),
    ):
        answer = await http.post("/api/broadcast", json=body, headers=signed)
        assert (answer.status_code, answer.json()) == (422, {"errors": errors})


async def test_the_migrations_are_found() -> None:
    assert [path.name[:4] for path in migrations()][:2] == ["0001", "0002"]
