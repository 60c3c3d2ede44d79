"""Clients that do what no client should: the hub refuses or drops it, logs no traceback, and forgets it."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket as plain_sockets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed, InvalidStatus

from doorstep.hub.bus import Topic
from doorstep.hub.channel import Channel
from doorstep.hub.config import RealtimeLimits
from doorstep.hub.connection import HubWebSocket
from doorstep.hub.realtime_socket import RealtimeSocket
from doorstep.testing.hub import ThrowAwayHub, throw_away_hub
from doorstep.testing.raw_socket import RawSocket, join_payload, raw_socket

pytestmark = pytest.mark.asyncio

T = "realtime:room"
MANY = 10**6
OPEN = RealtimeLimits(
    connections=MANY,
    sockets=MANY,
    joins_per_second=MANY,
    events_per_second=MANY,
    channels_per_socket=MANY,
    queue_frames=MANY,
)
DEEP = 100_000


@pytest_asyncio.fixture(autouse=True)
async def nothing_wrong(caplog: pytest.LogCaptureFixture) -> AsyncGenerator[None, None]:
    """No test here may make the hub log a traceback, or an error at all."""
    with caplog.at_level(logging.INFO):
        yield
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR] == []


@asynccontextmanager
async def crowd(hub: ThrowAwayHub, count: int) -> AsyncGenerator[list[RawSocket], None]:
    async with AsyncExitStack() as stack:
        sockets: list[RawSocket] = []
        while len(sockets) < count:
            some = (stack.enter_async_context(raw_socket(hub.url, hub.anon_key)) for _ in range(50))
            sockets += await asyncio.gather(*some)
        yield sockets


async def settled(hub: ThrowAwayHub, *, sockets: int = 0, topics: int = 0) -> None:
    """Wait until the hub has forgotten whoever is gone."""
    services = hub.server.services
    async with asyncio.timeout(10):
        while len(services.sockets) > sockets or len(services.bus) > topics:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    gc.collect()
    kinds = (RealtimeSocket, Channel, HubWebSocket)
    counts = [sum(isinstance(each, kind) for each in gc.get_objects()) for kind in kinds]
    assert counts == [sockets, topics, sockets], "of sockets, channels and connections"


async def test_frames_around_the_limit(hub: ThrowAwayHub) -> None:
    async with raw_socket(hub.url, hub.anon_key) as other:
        await other.join("room")
        for size, code in ((5_000_000, None), (5_000_001, 1009)):
            async with raw_socket(hub.url, hub.anon_key) as socket:
                await socket.join("room")
                head = '["1","2","realtime:room","broadcast",{"x":"'
                with suppress(ConnectionClosed):  # before all of it was sent
                    await socket.connection.send(head + "x" * (size - len(head) - 3) + '"}]')
                if code is None:
                    assert await socket.barrier() == []  # over the payload's limit: dropped
                else:
                    assert await socket.closed() == code
        assert await other.barrier() == []
    await settled(hub)


async def test_ten_thousand_topics(tmp_path: Path) -> None:
    async with throw_away_hub(tmp_path, realtime=OPEN) as hub:
        async with raw_socket(hub.url, hub.anon_key) as socket:
            payload = {"config": {}}
            joins = [
                json.dumps([None, str(number), f"realtime:t{number}", "phx_join", payload])
                for number in range(10_000)
            ]

            async def send() -> None:
                for join in joins:
                    await socket.connection.send(join)

            sending = asyncio.create_task(send())
            for number in range(10_000):
                reply = await socket.receive()
                assert (reply.ref, reply.payload["status"]) == (str(number), "ok")
            await sending
            assert len(hub.server.services.bus) == 10_000
        await settled(hub)


async def test_the_hundred_and_first_topic_is_refused_and_the_others_live(hub: ThrowAwayHub) -> None:
    async with raw_socket(hub.url, hub.anon_key) as socket:
        for number in range(100):
            assert (await socket.join(f"t{number}", str(number))).payload["status"] == "ok"
        for number in range(100, 120):
            reply = await socket.join(f"t{number}", str(number))
            assert reply.payload["response"] == {"reason": "ChannelRateLimitReached: Too many channels"}
        await socket.send("5", "x", "realtime:t5", "phx_leave")
        await socket.barrier()
        assert (await socket.join("t100", "100")).payload["status"] == "ok"
    await settled(hub)


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
async def test_deep_json(hub: ThrowAwayHub, vsn: str) -> None:
    async with raw_socket(hub.url, hub.anon_key, vsn=vsn) as socket:
        await socket.join("room", ack=True)
        for deep in ("[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "[" * DEEP):
            for event, payload in (
                ("broadcast", f'{{"event":"e","payload":{deep}}}'),
                ("presence", f'{{"event":"track","payload":{{"a":{deep}}}}}'),
                ("access_token", f'{{"access_token":{deep}}}'),
                ("phx_join", f'{{"config":{{"postgres_changes":[{{"a":{deep}}}]}}}}'),
                ("phx_join", deep),
                ("frob", deep),
            ):
                names = ("join_ref", "ref", "topic", "event")
                values = ("1", "2", T, event)
                if vsn == "2.0.0":
                    frame = f"{json.dumps(values)[:-1]},{payload}]"
                else:
                    frame = f'{json.dumps(dict(zip(names, values, strict=True)))[:-1]},"payload":{payload}}}'
                await socket.connection.send(frame)
                await socket.barrier()


WRONG: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1e300, 2**70, "", "x" * 1000, "\ud800", [], [[]], {}, {"a": {}}, "\0", "TRUE",
)  # fmt: skip


def mutations(value: Any) -> list[Any]:
    """The value with each of its parts, at any depth, replaced by each wrong one."""
    found: list[Any] = list(WRONG)
    if isinstance(value, dict):
        for key, part in value.items():
            found += [value | {key: wrong} for wrong in mutations(part)]
            found.append({other: each for other, each in value.items() if other != key})
    elif isinstance(value, list):
        for index, part in enumerate(value):
            found += [[*value[:index], wrong, *value[index + 1 :]] for wrong in mutations(part)]
    return found


async def test_wrong_types_in_every_field(tmp_path: Path) -> None:
    changes = [{"event": "*", "schema": "public", "table": "agents", "filter": "name=eq.x"}]
    join = join_payload(key="k", presence=True, ack=True, own=True, changes=changes, token="sb_x")
    join["config"]["broadcast"]["replay"] = {"since": 0, "limit": 5}
    broadcast = {"type": "broadcast", "event": "e", "payload": {"a": 1}, "meta": {"id": "x"}}
    track = {"type": "presence", "event": "track", "payload": {"a": 1}}
    frames: list[Any] = [
        ["1", "2", T, event, payload]
        for event, original in (
            ("phx_join", join),
            ("broadcast", broadcast),
            ("presence", track),
            ("access_token", {"access_token": "sb_x"}),
            ("phx_leave", {}),
            ("heartbeat", {}),
        )
        for payload in mutations(original)
    ]
    for place in range(4):
        whole = ["1", "2", T, "broadcast", broadcast]
        frames += [[*whole[:place], wrong, *whole[place + 1 :]] for wrong in WRONG]
    frames += [["1", "2", T, "broadcast", broadcast][:length] for length in range(5)]
    limits = RealtimeLimits(joins_per_second=MANY, events_per_second=MANY, presence_calls=MANY)
    async with throw_away_hub(tmp_path, realtime=limits) as hub:
        for vsn in ("1.0.0", "2.0.0"):
            async with raw_socket(hub.url, hub.anon_key, vsn=vsn) as socket:
                names = ("join_ref", "ref", "topic", "event", "payload")
                for number, frame in enumerate(frames):
                    given: Any = frame if vsn == "2.0.0" else dict(zip(names, frame, strict=False))
                    await socket.connection.send(json.dumps(given))
                    if number % 50 == 0:
                        await socket.barrier()
                await socket.barrier()
        await settled(hub)


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, 9, 255])
async def test_broken_binary_frames(hub: ThrowAwayHub, kind: int) -> None:
    good = bytes([3, 1, 1, 13, 1, 2, 1]) + b"12" + T.encode() + b"e" + b"{}" + b'{"a":1}'
    async with raw_socket(hub.url, hub.anon_key) as socket, raw_socket(hub.url, hub.anon_key) as other:
        await socket.join("room")
        await other.join("room")
        for length in range(len(good) + 1):
            await socket.connection.send(bytes([kind]) + good[1:length])
        for place in range(1, len(good)):
            await socket.connection.send(bytes([kind]) + good[1:place] + b"\xff" + good[place + 1 :])
        await socket.connection.send(b"")
        await socket.barrier()
        for frame in await drained(other):
            assert isinstance(frame, bytes)
            assert frame[0] == 4


async def drained(socket: RawSocket) -> list[str | bytes]:
    await socket.send(None, "barrier", "phoenix", "heartbeat")
    frames: list[str | bytes] = []
    while isinstance(frame := await socket.frame(), bytes) or '"barrier"' not in frame:
        frames.append(frame)
    return frames


async def test_text_that_is_not_utf8_closes_with_1007(hub: ThrowAwayHub) -> None:
    for broken in (b"\xff\xfe", b'["1","2","realtime:room","phx_join",{"x":"\xc3"}]'):
        async with raw_socket(hub.url, hub.anon_key) as socket:
            await socket.connection.send(broken, text=True)
            assert await socket.closed() == 1007
    await settled(hub)


async def test_a_message_in_a_hundred_thousand_pieces(hub: ThrowAwayHub) -> None:
    async with raw_socket(hub.url, hub.anon_key) as socket:

        async def pieces() -> AsyncGenerator[str, None]:
            yield '["1","1","realtime:room","phx_join",{"config":{'
            for _ in range(20_000):
                yield ""
            yield "}}]"

        await socket.connection.send(pieces())
        assert (await socket.receive()).payload["status"] == "ok"


async def test_a_slow_reader_is_told_why_if_it_ever_reads_again(tmp_path: Path) -> None:
    limits = RealtimeLimits(queue_frames=50, events_per_second=MANY)
    async with throw_away_hub(tmp_path, realtime=limits) as hub, raw_socket(hub.url, hub.anon_key) as slow:
        await slow.join("room")
        slow.connection.transport.pause_reading()
        async with raw_socket(hub.url, hub.anon_key) as sender:
            await sender.join("room", ack=True)
            while len(hub.server.services.sockets) == 2:
                await sender.send("1", "2", T, "broadcast", {"event": "e", "payload": "x" * 50_000})
                assert (await sender.receive()).payload["status"] == "ok"
        slow.connection.transport.resume_reading()
        reading = asyncio.create_task(read_all(slow))
        assert await slow.closed() == 1008
        assert slow.connection.close_reason == "reads too slowly"
        assert await reading > 0
        await settled(hub)


async def read_all(socket: RawSocket) -> int:
    count = 0
    with suppress(ConnectionClosed):
        while await socket.connection.recv():
            count += 1
    return count


async def test_a_reader_that_never_reads_is_gone_in_seconds(tmp_path: Path) -> None:
    limits = RealtimeLimits(queue_frames=50, events_per_second=MANY)
    async with throw_away_hub(tmp_path, realtime=limits) as hub:
        async with raw_socket(hub.url, hub.anon_key) as slow, raw_socket(hub.url, hub.anon_key) as sender:
            await slow.join("room")
            await sender.join("room", ack=True)
            slow.connection.transport.pause_reading()
            waits: list[float] = []
            clock = asyncio.get_running_loop().time
            while len(hub.server.services.sockets) == 2:
                began = clock()
                await sender.send("1", "2", T, "broadcast", {"event": "e", "payload": "x" * 50_000})
                await sender.receive()
                waits.append(clock() - began)
            assert max(waits) < 1, "it slowed the sender down"
            sender_only = {"room"}
            assert {topic.name for topic in hub.server.services.bus.topics()} == sender_only
            slow.connection.transport.abort()
        await settled(hub)


async def test_floods_of_heartbeats_and_pings_from_one_who_does_not_read(tmp_path: Path) -> None:
    async with throw_away_hub(tmp_path, realtime=RealtimeLimits(queue_frames=500)) as hub:
        async with raw_socket(hub.url, hub.anon_key) as socket:
            transport = socket.connection.transport
            transport.pause_reading()
            heartbeat = json.dumps([None, "x" * 1000, "phoenix", "heartbeat", {}])
            async with asyncio.timeout(20):
                while hub.server.services.sockets:
                    transport.write(b"".join(masked(0x89, b"p" * 125) for _ in range(50)))
                    transport.write(masked(0x81, heartbeat.encode()))
                    await asyncio.sleep(0)
            transport.abort()
        await settled(hub)


def masked(kind: int, payload: bytes) -> bytes:
    """A client's frame; its mask is zero."""
    length = len(payload)
    head = bytes([kind, 0x80 | length]) if length < 126 else bytes([kind, 0xFE]) + length.to_bytes(2, "big")
    return head + bytes(4) + payload


async def test_a_half_open_peer_is_noticed(tmp_path: Path) -> None:
    """The peer's machine is gone: nothing comes, not even an end. Its presence leaves, its place is free."""
    async with (
        throw_away_hub(tmp_path, realtime=RealtimeLimits(idle=0.6)) as hub,
        raw_socket(hub.url, hub.anon_key) as watcher,
    ):
        await watcher.join("room", presence=True)
        await watcher.receive()
        lost = await asyncio.to_thread(half_open, hub)
        try:
            joins = await watcher.receive()
            assert joins.payload["joins"].keys() == {"lost"}
            async with asyncio.timeout(5):
                while True:
                    await watcher.send(None, "h", "phoenix", "heartbeat")
                    message = await watcher.receive()
                    if message.event == "presence_diff":
                        assert message.payload["leaves"].keys() == {"lost"}
                        break
                    await asyncio.sleep(0.1)
        finally:
            lost.close()


def half_open(hub: ThrowAwayHub) -> plain_sockets.socket:
    """A socket that joins, tracks and is never touched again."""
    host, port = hub.url.removeprefix("http://").split(":")
    raw = plain_sockets.create_connection((host, int(port)))
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13"
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    path = f"/realtime/v1/websocket?apikey={hub.anon_key}&vsn=2.0.0"
    raw.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{upgrade}\r\n{key}\r\n\r\n".encode())
    raw.recv(4096)
    track = {"event": "track", "payload": {}}
    for event, payload in (("phx_join", join_payload(key="lost")), ("presence", track)):
        raw.sendall(masked(0x81, json.dumps(["1", "1", T, event, payload]).encode()))
    return raw


async def test_a_thousand_idle_sockets(tmp_path: Path) -> None:
    async with throw_away_hub(tmp_path, realtime=OPEN) as hub:
        async with crowd(hub, 1000) as sockets:
            joins = (each.join(f"room{number % 10}") for number, each in enumerate(sockets))
            replies = await asyncio.gather(*joins)
            assert all(reply.payload["status"] == "ok" for reply in replies)
            await sockets[0].send("1", "2", "realtime:room0", "broadcast", {"event": "e"})
            for each in sockets[10::10]:
                assert (await each.receive()).event == "broadcast"
            assert (
                len(asyncio.all_tasks()) < 3000
            )  # one for each of the clients here, none for the hub's ends
        await settled(hub)


async def test_a_storm_of_connections_beyond_the_limit(tmp_path: Path) -> None:
    async with throw_away_hub(tmp_path, realtime=RealtimeLimits(sockets=20, connect_error_delay=0.1)) as hub:

        async def attempt(stack: AsyncExitStack) -> int:
            try:
                await stack.enter_async_context(raw_socket(hub.url, hub.anon_key))
            except InvalidStatus as error:
                return error.response.status_code
            return 101

        async with AsyncExitStack() as stack:
            outcomes = await asyncio.gather(*(attempt(stack) for _ in range(100)))
            assert sorted(outcomes) == [101] * 20 + [429] * 80
        await settled(hub)


async def test_leaving_while_a_join_is_decided(tmp_path: Path) -> None:
    async with throw_away_hub(tmp_path, realtime=RealtimeLimits(join_error_delay=1.0)) as hub:
        for _ in range(20):
            async with raw_socket(hub.url, hub.anon_key) as socket:
                await socket.send("1", "1", T, "phx_join", {"config": {"private": True}})
                await socket.send("2", "2", "realtime:x", "phx_join", {"config": {}})
                socket.connection.transport.abort()
        await settled(hub)
        assert hub.server.services.bus.topics() == ()
        assert Topic("x", False) not in hub.server.services.bus.topics()


async def test_what_waits_behind_a_refused_join_is_bounded(tmp_path: Path) -> None:
    limits = RealtimeLimits(join_error_delay=60.0, queue_frames=100, events_per_second=MANY)
    async with throw_away_hub(tmp_path, realtime=limits) as hub, raw_socket(hub.url, hub.anon_key) as frozen:
        await frozen.join("room")
        await frozen.send("2", "2", "realtime:x", "phx_join", {"config": {"private": True}})
        async with raw_socket(hub.url, hub.anon_key) as sender:
            await sender.join("room", ack=True)
            for _ in range(102):
                await sender.send("1", "2", T, "broadcast", {"event": "e"})
                await sender.receive()
        assert await frozen.closed() == 1008
        await settled(hub)
