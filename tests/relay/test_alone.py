"""The relay alone: whose tokens it believes, and the command line that starts it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from websockets.asyncio.client import connect

from doorstep.hub.relay_limits import TurnConfig
from doorstep.hub.relay_server import RelayConfig, RelayServer
from doorstep.protocol.errors import DeadlineExceeded, Unauthorized
from doorstep.protocol.frame_types import Role
from doorstep.protocol.frames import Ping
from doorstep.protocol.ids import AgentId
from doorstep.protocol.lanes import Lane
from doorstep.protocol.timing import Timing
from doorstep.protocol.trust import TranscriptProofs
from doorstep.testing.hub import throw_away_hub
from doorstep.testing.stranger import TOO_MUCH, Says, Stranger, bomb, endless, stranger
from doorstep.transport.relay import RelayWire, open_relay, relay_url

from .support import SESSION, both

pytestmark = pytest.mark.asyncio

SECRET = "a secret of at least thirty-two characters"
AGENT = AgentId("6f2c1e0a-0b5e-4c7e-9a51-3f1f5f4f9d10")
ALICE, BOB = str(uuid.uuid4()), str(uuid.uuid4())


def token(sub: str | None, *, secret: str = SECRET, role: str = "authenticated", seconds: float = 600) -> str:
    claims: dict[str, Any] = {"role": role, "exp": time.time() + seconds, "aud": "authenticated"}
    return jwt.encode(claims if sub is None else claims | {"sub": sub}, secret, algorithm="HS256")


async def nested(_: Stranger, writer: asyncio.StreamWriter) -> None:
    body = b"[" * 100_000
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()


async def side(url: str, role: Role, text: str, timing: Timing | None = None) -> RelayWire:
    async def access_token() -> str:
        return text

    return await open_relay(
        relay_url(url),
        role=role,
        session_id=SESSION,
        agent_id=AGENT,
        token=access_token,
        prover=TranscriptProofs(None),
        timing=timing or Timing(),
    )


async def meet(url: str, client: str, agent: str) -> None:
    one, other = await both(side(url, Role.CLIENT, client), side(url, Role.AGENT, agent))
    got: asyncio.Queue[object] = asyncio.Queue()
    other.start(lambda _, frame: got.put_nowait(frame))
    one.send(Lane.CONTROL, Ping(1))
    assert await got.get() == Ping(1)
    await one.close()
    await other.close()


async def test_users_of_the_secrets_back_end_meet_themselves_only() -> None:
    server = RelayServer(RelayConfig(port=0, jwt_secret=SECRET))
    await server.start()
    try:
        await meet(server.url, token(ALICE), token(ALICE))
        with pytest.raises(DeadlineExceeded):
            await both(
                side(server.url, Role.CLIENT, token(ALICE), Timing(relay_wait=0.3)),
                side(server.url, Role.AGENT, token(BOB), Timing(relay_wait=0.3)),
            )
        for refused in (
            token(ALICE, secret=SECRET[::-1]),
            token(ALICE, seconds=-1),
            token(None),
            token(ALICE, role="anon"),
            token(ALICE, role="service_role"),
            jwt.encode({"sub": ALICE}, SECRET, algorithm="HS256"),
            jwt.encode({"sub": ALICE, "role": "authenticated", "exp": 2**40}, None, algorithm="none"),
            "nonsense",
            "",
        ):
            with pytest.raises(Unauthorized):
                await side(server.url, Role.CLIENT, refused)
    finally:
        await server.stop()
        await server.stop()


async def test_the_keys_are_those_that_a_back_end_publishes(tmp_path: Path) -> None:
    async with throw_away_hub(tmp_path) as hub:
        user = await hub.user()
        where = f"{hub.url}/auth/v1/.well-known/jwks.json"
        turn = TurnConfig(urls=("turn:127.0.0.1:3478",), secret="north")
        server = RelayServer(RelayConfig(port=0, jwks_url=where, turn=turn))
        await server.start()
        try:
            await meet(server.url, user.access_token, await hub.token(user))
            with pytest.raises(Unauthorized):
                await side(server.url, Role.CLIENT, token(user.id))  # HMAC, where only public keys are known
            async with httpx.AsyncClient(base_url=server.url) as http:
                headers = {"Authorization": f"Bearer {user.access_token}"}
                answer = await http.get("/relay/v1/ice-servers", headers=headers)
                assert answer.json()["iceServers"][0]["username"].endswith(user.id)
                assert (await http.get("/")).text == "doorstep relay\n"
                refused = await http.get("/", headers={"Host": "rebound.example"})
                assert refused.status_code == 421
        finally:
            await server.stop()


@pytest.mark.parametrize(
    ("says", "error"),
    [(endless, "more than 262144 bytes"), (bomb, "codec can't decode"), (nested, "too deep")],
)
async def test_keys_that_nobody_can_read(says: Says, error: str) -> None:
    """Neither does a relay without keys start, nor does it read without end."""
    async with stranger(says) as issuer:
        with pytest.raises(ValueError, match=error):
            await RelayServer(RelayConfig(port=0, jwks_url=issuer.url)).start()
    assert issuer.sent < TOO_MUCH


async def test_the_keys_can_be_a_file(tmp_path: Path) -> None:
    async with throw_away_hub(tmp_path) as hub:
        user = await hub.user()
        server = RelayServer(RelayConfig(port=0, jwks=hub.server.keys.jwks()))
        await server.start()
        try:
            await meet(server.url, user.access_token, user.access_token)
        finally:
            await server.stop()


async def test_a_taken_port_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        await RelayServer(RelayConfig(port=taken.getsockname()[1], jwt_secret=SECRET)).start()


async def program(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "doorstep.cli.main",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


async def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    running = await program("relay", "--port", "0", "--jwt-secret-file", str(tmp_path / "secret"))
    assert running.stdout is not None
    line = (await running.stdout.readline()).decode()
    assert line.startswith("the relay listens at http://127.0.0.1:")
    await meet(line.split()[-1], token(ALICE), token(ALICE))
    running.send_signal(signal.SIGTERM)
    _, errors = await running.communicate()
    assert (running.returncode, errors) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "say by --jwks or --jwt-secret-file"),
        (["--jwt-secret-file", "{empty}"], "is empty"),
        (["--jwks", "{empty}"], "is not JSON"),
        (["--jwks", "{list}"], "is not a JSON Web Key Set"),
        (["--jwks", "{keyless}"], "key 1 has no kid"),
        (["--jwt-secret-file", "{list}", "--turn-url", "turn:x"], "belong together"),
        (
            ["--jwt-secret-file", "{list}", "--turn-url", "stun:x", "--turn-secret-file", "{list}"],
            "turn: or turns:",
        ),
    ],
)
async def test_orders_that_are_refused(tmp_path: Path, arguments: list[str], says: str) -> None:
    contents = {"empty": "", "list": "[]", "keyless": json.dumps({"keys": [{"kty": "oct"}]})}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    paths = {name: str(tmp_path / name) for name in contents}
    running = await program("relay", "--port", "0", *(argument.format(**paths) for argument in arguments))
    _, errors = await running.communicate()
    assert running.returncode
    assert says in errors.decode()


async def test_no_token_stands_in_a_url_or_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    server = RelayServer(RelayConfig(port=0, jwt_secret=SECRET))
    await server.start()
    secret = token(ALICE)
    try:
        await meet(server.url, secret, secret)
        connection = await connect(relay_url(server.url))
        await connection.send(json.dumps({"event": "join", "token": secret}))
        await connection.wait_closed()
    finally:
        await server.stop()
    ours = [record for record in caplog.records if record.name.startswith(("doorstep", "uvicorn"))]
    assert all(secret not in record.getMessage() for record in ours)
