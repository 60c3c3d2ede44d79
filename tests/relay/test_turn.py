"""TURN: the hub's credentials, and a real coturn that believes them."""

from __future__ import annotations

import asyncio
import base64
import hmac
import time
from pathlib import Path

import httpx
import msgspec
import pytest

from doorstep.hub.relay_limits import TurnConfig
from doorstep.hub.turn import ice_servers
from doorstep.protocol.errors import ConnectFailed
from doorstep.protocol.frames import Ping
from doorstep.protocol.lanes import Lane
from doorstep.protocol.signaling import IceServer
from doorstep.protocol.timing import Timing
from doorstep.testing.coturn import coturn, turnserver
from doorstep.testing.hub import throw_away_hub
from doorstep.transport.webrtc import Peer

from .support import DEADLINE

pytestmark = pytest.mark.asyncio
needs_coturn = pytest.mark.skipif(turnserver() is None, reason="turnserver is not installed (Debian: coturn)")

SECRET = "north"
TURN = TurnConfig(urls=("turn:127.0.0.1:3478?transport=udp",), secret=SECRET, seconds=600)


async def test_credentials_are_of_the_coturn_form() -> None:
    answer = ice_servers(TURN, "6f2c1e0a", 1_000_000.9)
    assert answer == {
        "iceServers": [
            {
                "urls": ["turn:127.0.0.1:3478?transport=udp"],
                "username": "1000600:6f2c1e0a",
                "credential": base64.b64encode(hmac.digest(b"north", b"1000600:6f2c1e0a", "sha1")).decode(),
            }
        ],
        "expiresIn": 600,
    }


async def test_only_who_is_signed_in_gets_credentials(tmp_path: Path) -> None:
    async with throw_away_hub(tmp_path, turn=TURN) as hub, httpx.AsyncClient(base_url=hub.url) as http:
        user = await hub.user()
        address = "/relay/v1/ice-servers"
        for token, status in (
            (None, 401),
            ("nonsense", 401),
            (await hub.token(user, seconds=-1), 401),
            (hub.anon_key, 403),
            (user.access_token, 200),
        ):
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            answer = await http.get(address, headers=headers)
            assert answer.status_code == status, token
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["access-control-allow-origin"] == "*"
        body = answer.json()
        expiry, _, who = body["iceServers"][0]["username"].partition(":")
        assert who == user.id
        assert abs(int(expiry) - time.time() - 600) < 60
        assert SECRET not in answer.text
        assert (await http.get(f"{address}?apikey={hub.anon_key}")).status_code == 401


async def test_a_hub_without_turn_says_so(tmp_path: Path) -> None:
    async with throw_away_hub(tmp_path) as hub, httpx.AsyncClient(base_url=hub.url) as http:
        user = await hub.user()
        headers = {"Authorization": f"Bearer {user.access_token}"}
        answer = await http.get("/relay/v1/ice-servers", headers=headers)
        assert answer.json() == {"iceServers": [], "expiresIn": 3600}


@needs_coturn
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("other", ["relay", "all"])
async def test_relay_only_peers_connect_through_a_real_coturn(
    tmp_path: Path, transport: str, other: str
) -> None:
    async with coturn(tmp_path) as server:
        turn = TurnConfig(urls=server.urls(transport), secret=server.secret)
        told = ice_servers(turn, "somebody", time.time())["iceServers"]
        servers = msgspec.convert(told, tuple[IceServer, ...])
        offering = Peer(servers, policy="relay")
        answering = Peer(servers if other == "relay" else (), policy="relay" if other == "relay" else "all")
        try:
            offer = await offering.create_offer()
            assert " typ host" not in offer
            assert " typ srflx" not in offer
            assert offer.count(" typ relay") == 1
            assert "raddr 0.0.0.0" in offer
            async with asyncio.timeout(DEADLINE):
                await offering.apply_answer(await answering.accept_offer(offer))
                one, far = await offering.wire(), await answering.wire()
                got: asyncio.Queue[object] = asyncio.Queue()
                far.start(lambda _, frame: got.put_nowait(frame))
                one.send(Lane.CONTROL, Ping(7))
                assert await got.get() == Ping(7)
            local = one.stats()["localCandidate"]
            assert isinstance(local, dict)
            assert local["type"] == "relay"
        finally:
            await offering.close()
            await answering.close()


@needs_coturn
@pytest.mark.parametrize("fault", ["expired", "forged"])
async def test_coturn_refuses_other_credentials(tmp_path: Path, fault: str) -> None:
    async with coturn(tmp_path) as server:
        secret = "another secret" if fault == "forged" else server.secret
        turn = TurnConfig(urls=server.urls("udp"), secret=secret)
        now = time.time() - (2 * turn.seconds if fault == "expired" else 0)
        servers = msgspec.convert(ice_servers(turn, "somebody", now)["iceServers"], tuple[IceServer, ...])
        peer, other = Peer(servers, policy="relay", timing=Timing(ice=3)), Peer(())
        try:
            offer = await peer.create_offer()
            assert " typ relay" not in offer
            await peer.apply_answer(await other.accept_offer(offer))
            with pytest.raises(ConnectFailed):
                await peer.wire()
        finally:
            await peer.close()
            await other.close()
