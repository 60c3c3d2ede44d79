"""The realtime socket frame by frame, where no official client can be made to send what is needed."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from doorstep.hub.config import RealtimeLimits
from doorstep.testing.hub import ThrowAwayHub, throw_away_hub
from doorstep.testing.raw_socket import raw_socket

pytestmark = pytest.mark.asyncio

T = "realtime:room"


@pytest.mark.parametrize("path", ["/realtime/v1/websocket", "/socket/websocket"])
@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
async def test_join_and_leave(hub: ThrowAwayHub, vsn: str, path: str) -> None:
    async with raw_socket(hub.url, hub.anon_key, vsn=vsn, path=path) as socket:
        reply = await socket.join("room", presence=True)
        assert (reply.event, reply.ref) == ("phx_reply", "1")
        assert reply.payload == {"status": "ok", "response": {"postgres_changes": []}}
        state = await socket.receive()
        assert (state.event, state.ref, state.payload) == ("presence_state", None, {})
        await socket.send("1", "2", T, "phx_leave")
        left, closed = await socket.receive(), await socket.receive()
        assert (left.ref, left.payload) == ("2", {"status": "ok", "response": {}})
        assert (closed.event, closed.ref, closed.payload) == ("phx_close", "1", {})
        if vsn == "1.0.0":
            assert reply.keys == state.keys == closed.keys == {"ref", "event", "payload", "topic"}
        else:
            assert reply.join_ref == state.join_ref == left.join_ref == closed.join_ref == "1"
        await socket.send("1", "3", T, "broadcast", {"event": "e"})
        gone = await socket.receive()
        assert gone.payload == {"status": "error", "response": {"reason": "unmatched topic"}}
        assert gone.join_ref is None


async def test_a_duplicate_join_replaces_the_channel(hub: ThrowAwayHub) -> None:
    async with raw_socket(hub.url, hub.anon_key) as socket, raw_socket(hub.url, hub.anon_key) as other:
        await other.join("room", presence=True)
        await other.receive()
        await socket.join("room", key="k", presence=True)
        await socket.receive()
        await socket.send("1", "2", T, "presence", {"event": "track", "payload": {"n": 1}})
        await socket.barrier()
        assert (await other.receive()).payload["joins"].keys() == {"k"}
        reply = await socket.join("room", "3")
        assert (reply.ref, reply.payload["status"]) == ("3", "ok")
        closed = await socket.receive()
        assert (closed.event, closed.join_ref, closed.ref) == ("phx_close", "1", "1")
        assert (await other.receive()).payload["leaves"].keys() == {"k"}
        await other.send("1", "2", T, "broadcast", {"event": "e"})
        assert (await socket.receive()).event == "broadcast"


async def test_topics_that_cannot_be_joined(hub: ThrowAwayHub) -> None:
    async with raw_socket(hub.url, hub.anon_key) as socket:
        empty = await socket.join("")
        assert empty.payload["response"] == {"reason": "TopicNameRequired: You must provide a topic name"}
        await socket.send("9", "9", "room:zzz", "phx_join", {})
        assert (await socket.receive()).payload["response"] == {"reason": "unmatched topic"}
        await socket.send("1", "1", T, "phx_join", "x")
        reason = (await socket.receive()).payload["response"]["reason"]
        assert reason == 'UnknownErrorOnChannel: expected params to be a :map, got: `"x"`'


async def test_odd_join_configurations_are_defaulted(hub: ThrowAwayHub) -> None:
    async with raw_socket(hub.url, hub.anon_key) as socket:
        configs: list[dict[str, Any]] = [
            {"presence": 5, "private": "maybe", "broadcast": []},
            {"postgres_changes": 7},
        ]
        for config in configs:
            await socket.send("7", "7", T, "phx_join", {"config": config})
            reply = await socket.receive()
            assert reply.payload == {"status": "ok", "response": {"postgres_changes": []}}
            await socket.send("7", "8", T, "phx_leave")
            await socket.barrier()
        config = {"presence": {"enabled": "TRUE"}, "broadcast": {"ack": "true"}, "private": "FALSE"}
        await socket.send(7, 7, T, "phx_join", {"config": config, "access_token": None})
        assert (await socket.receive()).ref == 7
        assert (await socket.receive()).event == "presence_state"
        await socket.send(7, 8, T, "broadcast", {"event": "e"})
        assert (await socket.receive()).payload["status"] == "ok"


async def test_postgres_changes_are_echoed_with_ids(hub: ThrowAwayHub) -> None:
    changes = [
        {"event": "*", "schema": "public", "table": "agents"},
        {"event": "INSERT", "schema": "public", "table": "agents", "filter": "status=eq.online"},
        {"event": "*", "schema": "public", "table": "agents"},
    ]
    async with raw_socket(hub.url, hub.anon_key) as socket:
        reply = await socket.join("room", changes=changes)
        echoed = reply.payload["response"]["postgres_changes"]
        ids = [each.pop("id") for each in echoed]
        assert echoed == changes
        assert all(isinstance(each, int) for each in ids)
        assert ids[0] == ids[2] != ids[1]
        live = await socket.receive()
        assert live.payload["extension"] == "postgres_changes"
        assert (live.payload["status"], live.payload["message"]) == ("ok", "Subscribed to PostgreSQL")


async def test_heartbeats_echo_any_ref(hub: ThrowAwayHub) -> None:
    for vsn in ("1.0.0", "2.0.0"):
        async with raw_socket(hub.url, hub.anon_key, vsn=vsn) as socket:
            for ref in ("5", None, 7):
                await socket.send(None, ref, "phoenix", "heartbeat")
                reply = await socket.receive()
                assert (reply.ref, reply.payload) == (ref, {"status": "ok", "response": {}})


async def test_what_makes_no_sense_is_dropped_or_unmatched(hub: ThrowAwayHub) -> None:
    for vsn in ("1.0.0", "2.0.0"):
        async with raw_socket(hub.url, hub.anon_key, vsn=vsn) as socket:
            await socket.join("room")
            for frame in (
                "hello",
                "5",
                "{}",
                "[]",
                '["1","1"]',
                '{"topic":"t"}',
                b"",
                b"\x09\x00",
                b"\x03\x01",
            ):
                await socket.connection.send(frame)
            await socket.send("1", "2", T, "frobnicate", {"a": 1})
            for topic, event in (
                ("realtime:never", "presence"),
                ("phoenix", "hello"),
                ("realtime:never", "access_token"),
            ):
                await socket.send(None, "3", topic, event, {})
                reply = await socket.receive()
                assert reply.payload == {"status": "error", "response": {"reason": "unmatched topic"}}
            await socket.send(None, "5", "realtime:never", "phx_leave")
            assert (await socket.receive()).payload == {"status": "ok", "response": {}}
            assert await socket.barrier() == []


async def test_broadcast_self_and_ack(hub: ThrowAwayHub) -> None:
    message = {"event": "e", "extra": [1], "payload": "żółw", "type": "other"}
    for own in (False, True):
        for ack in (False, True):
            async with raw_socket(hub.url, hub.anon_key) as a, raw_socket(hub.url, hub.anon_key) as b:
                await a.join("room", own=own, ack=ack)
                await b.join("room")
                for join_ref in ("1", None, "999"):
                    await a.send(join_ref, "2", T, "broadcast", message)
                    heard = [(m.event, m.payload) for m in await a.barrier()]
                    echo, reply = ("broadcast", message), ("phx_reply", {"status": "ok", "response": {}})
                    assert heard == [echo] * own + [reply] * ack
                    got = await b.receive()
                    assert (got.join_ref, got.ref, got.payload) == (None, None, message)


async def test_presence_oddities(hub: ThrowAwayHub) -> None:
    async with raw_socket(hub.url, hub.anon_key) as watcher, raw_socket(hub.url, hub.anon_key) as socket:
        await watcher.join("room", presence=True, key="w")
        await watcher.receive()
        await socket.join("room")

        async def call(sent: Any) -> dict[str, Any]:
            await socket.send("1", "2", T, "presence", sent)
            replies = [m for m in await socket.barrier() if m.event == "phx_reply"]
            assert len(replies) == 1
            payload: dict[str, Any] = replies[0].payload
            return payload

        ok: dict[str, Any] = {"status": "ok", "response": {}}
        assert await call({"event": "TRACK", "payload": {"n": 1}}) == ok
        key = next(iter((await watcher.receive()).payload["joins"]))
        assert len(key) == 36
        assert await call({"event": "track", "payload": {"n": 1}}) == ok
        assert await call({"type": "presence"}) == ok
        assert await call({"event": "frob"}) == {"status": "error", "response": {}}
        refused = await call({"event": "track", "payload": [1]})
        assert refused["response"] == {"reason": "Presence track payload must be a map"}
        assert await watcher.barrier() == []
        await socket.join("room", "3", key="k")
        await watcher.barrier()
        assert await call({"event": "track"}) == ok
        first = (await watcher.receive()).payload["joins"]["k"]["metas"][0]
        assert await call({"event": "track", "payload": {"a": {"b": [1, "x"]}}}) == ok
        diff = (await watcher.receive()).payload
        second = diff["joins"]["k"]["metas"][0]
        assert second.pop("phx_ref") != first["phx_ref"] == second.pop("phx_ref_prev")
        assert second == {"a": {"b": [1, "x"]}}
        assert diff["leaves"]["k"]["metas"] == [first]
        assert await call({"event": "untrack"}) == ok
        assert await call({"event": "Untrack"}) == ok
        assert [m.payload["leaves"].keys() for m in await watcher.barrier()] == [{"k"}]


async def test_the_sixth_presence_call_closes_the_channel(hub: ThrowAwayHub) -> None:
    async with raw_socket(hub.url, hub.anon_key) as watcher, raw_socket(hub.url, hub.anon_key) as socket:
        await watcher.join("room", presence=True)
        await watcher.receive()
        await socket.join("room", key="k")
        for number in range(5):
            await socket.send("1", "2", T, "presence", {"event": "track", "payload": {"n": number}})
        assert len(await socket.barrier()) == 10
        await socket.send("1", "3", T, "presence", {"event": "track", "payload": {"n": 6}})
        system, closed = await socket.barrier()
        assert system.payload["message"] == "Client presence rate limit exceeded"
        assert (closed.event, closed.ref) == ("phx_close", "1")
        assert (await watcher.barrier())[-1].payload["leaves"].keys() == {"k"}
        await socket.join("room", "4", key="k")
        await socket.send("4", "5", T, "presence", {"event": "track", "payload": {}})
        assert (await socket.receive()).payload["status"] == "ok"


@pytest.mark.parametrize("seconds", [2])
async def test_expiry_closes_the_channel_and_not_the_socket(hub: ThrowAwayHub, seconds: int) -> None:
    user = await hub.user(seconds=seconds)
    topic = f"user:{user.id}:agents"
    async with raw_socket(hub.url, hub.anon_key) as socket:
        await socket.join("room", "1")
        await socket.join(topic, "2", private=True, token=user.access_token)
        system = await socket.receive()
        assert system.payload["message"] == "Token has expired 0 seconds ago"
        assert (await socket.receive()).event == "phx_close"
        await socket.send("1", "3", T, "broadcast", {"event": "e"})
        assert await socket.barrier() == []
        late = await socket.join(topic, "4", private=True, token=user.access_token)
        assert late.payload["response"]["reason"].startswith("InvalidJWTToken: Token has expired ")


async def test_bad_tokens_in_a_join(hub: ThrowAwayHub) -> None:
    user = await hub.user()
    async with raw_socket(hub.url, hub.anon_key) as socket:
        for token, reason in (
            ("not-a-jwt", "MalformedJWT: The token provided is not a valid JWT"),
            (user.access_token[:-4] + "AAAA", "JwtSignatureError: Failed to validate JWT signature"),
        ):
            reply = await socket.join("tok", token=token)
            assert reply.payload == {"status": "error", "response": {"reason": reason}}
        assert (await socket.join("tok", token="sb_publishable_abc")).payload["status"] == "ok"


@pytest.mark.parametrize(
    ("query", "status", "body"),
    [
        ("vsn=1.0.0", 401, {"error": "API key is missing"}),
        ("apikey=garbage&vsn=1.0.0", 401, {"error": "The token provided is not a valid JWT"}),
        ("apikey={expired}", 401, {"error": "Token has expired"}),
        ("apikey={forged}", 401, {"error": "Failed to validate JWT signature"}),
        ("apikey=sb_publishable_wrong", 401, {"error": "Failed to validate JWT signature"}),
        ("apikey={anon}&vsn=3.0.0", 403, None),
    ],
)
async def test_refused_handshakes(hub: ThrowAwayHub, query: str, status: int, body: Any) -> None:
    user = await hub.user(seconds=-1)
    filled = query.format(
        expired=user.access_token, forged=user.access_token[:-4] + "AAAA", anon=hub.anon_key
    )
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"{hub.url.replace('http', 'ws')}/realtime/v1/websocket?{filled}", proxy=None):
            pass
    response = refused.value.response
    assert response.status_code == status
    assert (json.loads(response.body) if response.body else None) == body


async def test_a_refused_join_freezes_the_socket_when_configured(tmp_path: Path) -> None:
    limits = RealtimeLimits(join_error_delay=0.5)
    async with throw_away_hub(tmp_path, realtime=limits) as hub, raw_socket(hub.url, hub.anon_key) as other:
        await other.join("room")
        async with raw_socket(hub.url, hub.anon_key) as socket:
            await socket.join("room")
            began = time.monotonic()
            await socket.send("2", "2", "realtime:x", "phx_join", {"config": {"private": True}})
            await other.send("1", "2", T, "broadcast", {"event": "meanwhile"})
            first = await socket.receive()
            assert time.monotonic() - began >= 0.5
            assert first.payload["status"] == "error"
            assert (await socket.receive()).event == "broadcast"


async def test_limits_of_channels_connections_and_sizes(tmp_path: Path) -> None:
    limits = RealtimeLimits(channels_per_socket=2, connections=1, payload_bytes=1000, frame_bytes=5000)
    async with (
        throw_away_hub(tmp_path, realtime=limits) as hub,
        raw_socket(hub.url, hub.anon_key) as socket,
    ):
        await socket.join("a", "1", ack=True)
        await socket.join("b", "2")
        third = await socket.join("c", "3")
        assert third.payload["response"] == {"reason": "ChannelRateLimitReached: Too many channels"}
        with pytest.raises(InvalidStatus) as refused:
            async with raw_socket(hub.url, hub.anon_key):
                pass
        assert json.loads(refused.value.response.body) == {"error": "Too many connected users"}
        big = {"event": "e", "payload": "x" * 1200}
        await socket.send("1", "4", "realtime:a", "broadcast", big)
        too_big = (await socket.receive()).payload
        assert too_big == {"status": "error", "response": "payload_size_exceeded"}
        await socket.send("2", "5", "realtime:b", "broadcast", big)
        assert await socket.barrier() == []
        await socket.send(
            "2", "6", "realtime:b", "presence", {"event": "track", "payload": {"x": "y" * 1200}}
        )
        system, closed = await socket.barrier()
        assert system.payload["message"] == "Track message size exceeded"
        assert closed.event == "phx_close"
        await socket.send("1", "7", "realtime:a", "broadcast", {"x": "y" * 6000})
        assert await socket.closed() == 1009


async def test_an_idle_socket_is_closed_and_pings_keep_it_open(tmp_path: Path) -> None:
    async with (
        throw_away_hub(tmp_path, realtime=RealtimeLimits(idle=0.5)) as hub,
        raw_socket(hub.url, hub.anon_key) as idle,
        raw_socket(hub.url, hub.anon_key) as pinging,
    ):
        began = time.monotonic()
        task = asyncio.create_task(idle.closed())
        while not task.done():
            await (await pinging.connection.ping())
            await asyncio.wait([task], timeout=0.1)
        assert await task == 1000
        assert time.monotonic() - began >= 0.4
        assert await pinging.barrier() == []


async def test_a_slow_reader_is_dropped_and_the_others_are_not(tmp_path: Path) -> None:
    limits = RealtimeLimits(queue_frames=50, queue_bytes=1_000_000)
    async with (
        throw_away_hub(tmp_path, realtime=limits) as hub,
        raw_socket(hub.url, hub.anon_key) as sender,
        raw_socket(hub.url, hub.anon_key) as fast,
    ):
        await fast.join("room", presence=True)
        await fast.receive()
        async with raw_socket(hub.url, hub.anon_key) as slow:
            await slow.join("room", key="slow")
            await slow.send("1", "2", T, "presence", {"event": "track", "payload": {}})
            await slow.barrier()
            slow.connection.transport.pause_reading()
            await sender.join("room", ack=True)
            message = {"event": "e", "payload": "x" * 50_000}
            left = None
            assert "slow" in (await fast.receive()).payload["joins"]
            for _ in range(400):
                await sender.send("1", "2", T, "broadcast", message)
                await sender.receive()
                heard = await fast.receive()
                if heard.event == "presence_diff":
                    left = heard.payload["leaves"]
                    break
            assert left is not None
            assert "slow" in left
            slow.connection.transport.abort()
        assert (await fast.receive()).event == "broadcast"


async def test_stopping_the_hub_closes_with_1012(tmp_path: Path) -> None:
    async with throw_away_hub(tmp_path) as hub, raw_socket(hub.url, hub.anon_key) as socket:
        await socket.join("room")
        await hub.server.stop()
        assert await socket.closed() == 1012
