"""The relay wire as sessions use it: real hub, real sockets, real services."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from doorstep.agent.files import FilesService
from doorstep.agent.terminal import TerminalService
from doorstep.protocol.errors import (
    ConnectFailed,
    DeadlineExceeded,
    InvalidInput,
    ProtocolError,
    RemoteError,
    Unauthorized,
    WireClosed,
)
from doorstep.protocol.frame_types import Role
from doorstep.protocol.frames import Data, Ping, Tell
from doorstep.protocol.ids import SessionId
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import LANE_LIMIT, MAX_FRAME
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.runtime import Session
from doorstep.testing.echo import EchoService
from doorstep.transport.relay import RelayWire, relay_url

from .conftest import Open
from .support import DEADLINE, House, both, relay_memory

pytestmark = pytest.mark.asyncio


async def sessions(house: House, *services: Any) -> tuple[Session, Session]:
    client_wire, agent_wire = await house.pair()
    client = Session(role=Role.CLIENT, session_id=house.session)
    agent = Session(
        role=Role.AGENT, session_id=house.session, services={service.name: service for service in services}
    )
    await asyncio.gather(agent.start(agent_wire), client.start(client_wire))
    return client, agent


async def test_a_session_with_a_terminal_and_a_file(house: House, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    content = os.urandom(3_000_000)
    (root / "big").write_bytes(content)
    files = FilesService(root)
    client, agent = await sessions(house, TerminalService(DEFAULT_TIMING), files)
    try:
        async with asyncio.timeout(DEADLINE):
            reading = await client.open("files", "read", {"path": "big"}, lane=Lane.FILE_TRANSFER)
            terminal = await client.open(
                "terminal",
                "open",
                {"cols": 80, "rows": 24, "command": ["/bin/sh"]},
                lane=Lane.TERMINAL_IO,
            )
            await terminal.write(b"echo $((6*7))-through-the-relay; exit 3\n")
            seen = b"".join([chunk async for chunk in terminal])
            received = b"".join([chunk async for chunk in reading])
        assert b"42-through-the-relay" in seen
        assert terminal.trailer is not None
        assert terminal.trailer["exitCode"] == 3
        assert received == content
        assert reading.trailer is not None
        assert reading.trailer["sha256"] == hashlib.sha256(content).hexdigest()
        assert client.wire.kind == agent.wire.kind == "relay"
    finally:
        await client.close()
        await agent.close()
        files.close()


async def test_calls_and_stats(house: House) -> None:
    client, agent = await sessions(house, EchoService())
    assert await client.call("echo.say", {"text": "grüße"}) == {"text": "grüße"}
    with pytest.raises(RemoteError):
        await client.call("echo.shout")
    stats = client.wire.stats()
    assert (stats["kind"], stats["state"], stats["relay"]) == ("relay", "open", house.url)
    assert stats["framesIn"] == stats["framesOut"] == 3
    await client.close()
    async with asyncio.timeout(DEADLINE):
        assert "closed by the peer" in await agent.wait_closed()
    assert client.wire.stats()["state"] == "closed"


async def test_a_keystroke_overtakes_a_file(house: House) -> None:
    client, agent = await house.pair()
    arrived: asyncio.Queue[tuple[Lane, float]] = asyncio.Queue()
    agent.start(lambda lane, frame: arrived.put_nowait((lane, time.perf_counter())))
    chunk = bytes(16 * 1024)
    for number in range(500):
        client.send(Lane.FILE_TRANSFER, Data(1, number * len(chunk), chunk))
    sent = time.perf_counter()
    client.send(Lane.TERMINAL_IO, Data(3, 0, b"k"))
    before = 0
    async with asyncio.timeout(DEADLINE):
        while (got := await arrived.get())[0] is not Lane.TERMINAL_IO:
            before += 1
    assert before < 250
    assert got[1] - sent < 5
    await client.close()
    await agent.close()


async def test_order_per_lane_and_largest_frame(house: House) -> None:
    client, agent = await house.pair()
    got: dict[Lane, list[int]] = {lane: [] for lane in Lane}
    done = asyncio.Event()

    def receive(lane: Lane, frame: Any) -> None:
        got[lane].append(frame.offset)
        if sum(map(len, got.values())) == 400:
            done.set()

    agent.start(receive)
    client.start(lambda *_: None)
    biggest = bytes(MAX_FRAME - 32)
    for number in range(100):
        for lane in Lane:
            client.send(lane, Data(1, number, biggest if number == 50 else b"x"))
    async with asyncio.timeout(DEADLINE):
        await done.wait()
    assert all(offsets == list(range(100)) for offsets in got.values())
    with pytest.raises(InvalidInput):
        client.send(Lane.CONTROL, Data(1, 0, bytes(MAX_FRAME)))
    await client.close()
    await agent.close()


async def test_a_reader_that_does_not_read_stops_the_sender(house: House) -> None:
    """Back pressure goes through the relay: what the sockets' buffers do not take stays with the sender."""
    client, agent = await house.pair()
    client.start(lambda *_: None)
    chunk = bytes(64 * 1024)
    sent = 0

    async def pour() -> None:
        nonlocal sent
        while True:
            client.send(Lane.FILE_TRANSFER, Data(1, sent, chunk))
            sent += len(chunk)
            await client.drained(Lane.FILE_TRANSFER)

    pouring = asyncio.create_task(pour())
    before = -1
    while before != sent:
        before = sent
        await asyncio.wait({pouring}, timeout=0.3)
    assert not pouring.done()
    relay = relay_memory(house)
    assert relay < 2 * 2**20, relay
    assert client.buffered(Lane.FILE_TRANSFER) > 0
    received = 0

    def receive(_: Lane, frame: Any) -> None:
        nonlocal received
        received += len(frame.payload)

    agent.start(receive)
    async with asyncio.timeout(DEADLINE):
        while received <= before:
            await asyncio.sleep(0.01)
    pouring.cancel()
    await asyncio.wait({pouring})
    await client.close()
    await agent.close()


async def test_too_much_for_a_lane_ends_the_wire(house: House) -> None:
    client, agent = await house.pair()
    chunk = bytes(MAX_FRAME - 64)
    with pytest.raises(WireClosed, match="wait on the lane"):
        for number in range(LANE_LIMIT // len(chunk) + 2):
            client.send(Lane.FILE_TRANSFER, Data(1, number, chunk))
    async with asyncio.timeout(DEADLINE):
        assert "wait on the lane" in await client.wait_closed()
        assert "the peer closed the connection" in await agent.wait_closed()


async def test_close_sends_what_waits_and_is_idempotent(house: House) -> None:
    client, agent = await house.pair()
    got: list[Any] = []
    agent.start(lambda _, frame: got.append(frame))
    for number in range(50):
        client.send(Lane.CONTROL, Ping(number))
    await asyncio.gather(client.close("enough"), client.close())
    await client.close()
    assert await client.wait_closed() == "enough"
    async with asyncio.timeout(DEADLINE):
        await agent.wait_closed()
    assert got == [Ping(number) for number in range(50)]
    with pytest.raises(WireClosed, match="enough"):
        client.send(Lane.CONTROL, Ping(1))
    with pytest.raises(WireClosed, match="enough"):
        await client.drained(Lane.CONTROL)


async def test_the_relay_stops(house: House) -> None:
    client, agent = await house.pair()
    client.start(lambda *_: None)
    await house.hub.server.stop()
    async with asyncio.timeout(DEADLINE):
        for wire in (client, agent):
            assert await wire.wait_closed() in ("the relay stops", "the connection to the relay was lost")


async def test_a_waiting_drain_hears_of_the_end(house: House) -> None:
    client, agent = await house.pair()
    for number in range(60):
        client.send(Lane.FILE_TRANSFER, Data(1, number, bytes(MAX_FRAME - 64)))
    waiting = asyncio.create_task(client.drained(Lane.FILE_TRANSFER))
    await asyncio.sleep(0)
    await client.close("gone")
    with pytest.raises(WireClosed, match="gone"):
        await waiting
    await agent.close()


async def test_what_is_no_frame_ends_the_wire(house: House) -> None:
    client, agent = await house.pair()
    agent.start(lambda *_: None)
    await client._socket.send(client._channel.seal(Lane.CONTROL, b"\x7f no frame"))
    async with asyncio.timeout(DEADLINE):
        assert "protocol error" in await agent.wait_closed()
    await client.close()


@pytest.mark.parametrize("harm", ["change", "repeat", "leave out", "cut"])
async def test_a_relay_that_does_harm_ends_the_wire(house: House, harm: str) -> None:
    """Harm done at the sending socket is for the receiver the same as done by the relay."""
    client, agent = await house.pair()
    got: list[Any] = []
    agent.start(lambda _, frame: got.append(frame))
    message = client._channel.seal(Lane.CONTROL, b"\x0b\x02{}{}")
    first = {
        "change": message[:-1] + bytes((message[-1] ^ 1,)),
        "repeat": client._channel.seal(Lane.CONTROL, b"\x0d\x01"),
        "leave out": client._channel.seal(Lane.CONTROL, b"\x0d\x01"),
        "cut": message[:-3],
    }[harm]
    await client._socket.send(first)
    async with asyncio.timeout(DEADLINE):
        assert "protocol error: sealed frame" in await agent.wait_closed()
    assert not any(isinstance(frame, Tell) for frame in got)
    await client.close()


class Key:
    """A prover with a secret word."""

    def __init__(self, word: bytes, believes: bytes) -> None:
        self.word, self.believes = word, believes

    def sign(self, transcript: bytes) -> bytes:
        return self.word + hashlib.sha256(transcript).digest()

    def verify(self, transcript: bytes, proof: bytes) -> None:
        if proof != self.believes + hashlib.sha256(transcript).digest():
            raise Unauthorized("not the peer that was expected")


async def test_both_prove_who_they_are(house: House) -> None:
    client, agent = await house.pair(Key(b"c", b"a"), Key(b"a", b"c"))
    await client.close()
    await agent.close()


async def test_a_peer_that_is_not_believed_gets_nothing(house: House) -> None:
    with pytest.raises(Unauthorized, match="not the peer"):
        await house.pair(Key(b"c", b"a"), Key(b"m", b"c"))


async def test_nobody_comes(house: House) -> None:
    with pytest.raises(DeadlineExceeded, match="relay_wait"):
        await house.side(Role.CLIENT, timing=Timing(relay_wait=0.1))


async def test_a_relay_with_less_patience_says_the_same(limited: Open) -> None:
    house = await limited(wait=0.2)
    with pytest.raises(DeadlineExceeded, match="relay_wait"):
        await house.side(Role.CLIENT)


async def test_a_close_that_is_cancelled_closes_nevertheless(house: House) -> None:
    client, agent = await house.pair()
    chunk = bytes(MAX_FRAME - 64)
    for number in range(LANE_LIMIT // len(chunk) - 1):  # nobody reads, so the last words cannot leave
        client.send(Lane.FILE_TRANSFER, Data(1, number, chunk))
    closing = asyncio.create_task(client.close("enough"))
    await asyncio.sleep(0)
    closing.cancel()
    async with asyncio.timeout(DEADLINE):
        assert await client.wait_closed() == "enough"
        await agent.close()


async def test_a_stranger_is_refused(house: House) -> None:
    with pytest.raises(Unauthorized, match="not yours"):
        await house.side(Role.CLIENT, user=house.stranger)
    with pytest.raises(Unauthorized):
        await house.side(Role.CLIENT, token="no token")
    with pytest.raises(Unauthorized):
        await house.side(Role.CLIENT, token=house.hub.anon_key)


async def test_two_sessions_do_not_meet(house: House) -> None:
    one, other = SessionId("session-0001"), SessionId("session-0002")
    timing = Timing(relay_wait=0.3)
    with pytest.raises(DeadlineExceeded):
        await both(
            house.side(Role.CLIENT, session=one, timing=timing),
            house.side(Role.AGENT, session=other, timing=timing),
        )


async def test_a_new_pair_takes_the_place_of_the_old_one(house: House) -> None:
    old_client, old_agent = await house.pair()
    client, agent = await house.pair()
    async with asyncio.timeout(DEADLINE):
        for wire in (old_client, old_agent):
            assert "newer connection" in await wire.wait_closed()
    client.send(Lane.CONTROL, Ping(1))
    got: asyncio.Queue[Any] = asyncio.Queue()
    agent.start(lambda _, frame: got.put_nowait(frame))
    async with asyncio.timeout(DEADLINE):
        assert await got.get() == Ping(1)
    await client.close()
    await agent.close()


async def test_many_sessions_at_once(house: House) -> None:
    pairs = await asyncio.gather(*(house.pair(session=SessionId(f"session-{n:04}")) for n in range(20)))
    wires: list[RelayWire] = [wire for pair in pairs for wire in pair]
    assert len(wires) == 40
    await asyncio.gather(*(wire.close() for wire in wires))


async def test_there_is_no_relay(house: House) -> None:
    await house.hub.server.stop()
    with pytest.raises(ConnectFailed, match="no relay at"):
        await house.side(Role.CLIENT)


async def test_the_other_side_breaks_the_handshake(house: House) -> None:
    opening = asyncio.create_task(house.side(Role.CLIENT))
    raw = await house.raw(Role.AGENT)
    await raw.recv()
    await raw.send(b"not a greeting")
    with pytest.raises(ProtocolError, match="not a greeting"):
        await opening
    await raw.close()


@pytest.mark.parametrize(
    ("backend", "relay", "url"),
    [
        ("http://127.0.0.1:8787", "/relay/v1", "ws://127.0.0.1:8787/relay/v1"),
        ("https://hub.example/", "/relay/v1", "wss://hub.example/relay/v1"),
        ("https://hub.example", "wss://relay.example:9000", "wss://relay.example:9000/relay/v1"),
        ("https://hub.example", "https://relay.example/here", "wss://relay.example/here"),
    ],
)
async def test_relay_urls(backend: str, relay: str, url: str) -> None:
    assert relay_url(backend, relay) == url


@pytest.mark.parametrize(
    "relay", ["ftp://x", "relay", "", "wss://", "wss://u:p@x", "wss://x?token=1", "wss://x#f"]
)
async def test_urls_that_are_refused(relay: str) -> None:
    with pytest.raises(InvalidInput):
        relay_url("https://hub.example", relay)
