"""The thin parts, for real: sockets with and without segments, the choice of the road, bufferedAmount."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from doorstep.testing.deadlines import SCALE
from doorstep.transport.sctp import road, versions
from doorstep.transport.webrtc_udp import UdpTransport, open_udp

from .peers import plain

LIMIT = 20.0 * SCALE


class Inbox(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.got.put_nowait(data)


@pytest.mark.asyncio
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_segments_arrive_as_the_datagrams_they_are(host: str) -> None:
    inbox, outbox = Inbox(), Inbox()
    near, far = open_udp(host, outbox), open_udp(host, inbox)
    try:
        parts = [bytes((n,)) * 1000 for n in range(20)] + [b"last"]
        near.send_segments(b"".join(parts), far.get_extra_info("sockname"), 1000)
        async with asyncio.timeout(LIMIT):
            assert [await inbox.got.get() for _ in parts] == parts
    finally:
        near.close()
        far.close()
        await asyncio.sleep(0)


@pytest.mark.asyncio
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a datagram came")
async def test_the_kernel_says_how_long_a_datagram_has_waited() -> None:
    inbox, outbox = Inbox(), Inbox()
    near, far = open_udp("127.0.0.1", outbox), open_udp("127.0.0.1", inbox)
    try:
        near.sendto(b"early", far.get_extra_info("sockname"))
        time.sleep(0.1)  # noqa: ASYNC251 - a loop that is late
        async with asyncio.timeout(LIMIT):
            assert await inbox.got.get() == b"early"
        assert far.waited >= 0.09
    finally:
        near.close()
        far.close()
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_a_network_that_refuses_segments_gets_one_datagram_per_call() -> None:
    inbox, outbox = Inbox(), Inbox()
    near, far = open_udp("127.0.0.1", outbox), open_udp("127.0.0.1", inbox)

    class Refusing:
        def __init__(self, sock: Any) -> None:
            self.sock = sock

        def sendmsg(self, *_: object) -> int:
            raise OSError(5, "EIO")

        def __getattr__(self, name: str) -> Any:
            return getattr(self.sock, name)

    real, near._sock = near._sock, Refusing(near._sock)  # type: ignore[assignment]
    try:
        near.send_segments(b"aabbc", far.get_extra_info("sockname"), 2)
        async with asyncio.timeout(LIMIT):
            assert [await inbox.got.get() for _ in range(3)] == [b"aa", b"bb", b"c"]
        assert near.segments is False
        assert UdpTransport.segments is (sys.platform == "linux")
    finally:
        near._sock = real
        near.close()
        far.close()
        await asyncio.sleep(0)


def test_another_release_of_a_library_means_the_stock_road(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(versions, "version", lambda name: "1.17.0" if name == "aiortc" else "0.13.0")
    road._road.cache_clear()
    try:
        with caplog.at_level(logging.INFO, "doorstep.transport"):
            assert road.choose_road().name == "stock"
            assert road.choose_road().name == "stock"
        assert [record.message for record in caplog.records] == [
            "packets take the stock aiortc road: aiortc is 1.17.0, not 1.16"
        ]
    finally:
        road._road.cache_clear()


def test_one_setting_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOORSTEP_SCTP", "stock")
    assert road.choose_road().name == "stock"
    monkeypatch.delenv("DOORSTEP_SCTP")
    assert road.choose_road().name == "direct"


@asynccontextmanager
async def joined(near: Any, far: Any, *labels: str) -> AsyncIterator[list[Any]]:
    try:
        channels = [near.open(label) for label in labels]
        opened = [asyncio.Event() for _ in labels]
        for channel, event in zip(channels, opened, strict=True):
            channel.on("open", event.set)
        await near.apply_answer(await far.accept_offer(await near.create_offer()))
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(*(event.wait() for event in opened))
        yield channels
    finally:
        await near.close()
        await far.close()


@pytest.mark.asyncio
async def test_buffered_amount_falls_as_bytes_leave_and_never_within_the_call() -> None:
    """W3C WebRTC section 6.2: it grows in send(), and falls in a task of its own."""
    async with joined(plain.OpenPeer(), plain.OpenPeer(), "sink") as (channel,):
        lows: list[int] = []
        done = asyncio.Event()
        channel.bufferedAmountLowThreshold = 100_000
        channel.on("bufferedamountlow", lambda: lows.append(channel.bufferedAmount))
        channel.on("message", lambda _: done.set())
        for n in range(1, 11):
            channel.send(bytes(50_000))
            assert channel.bufferedAmount == n * 50_000
        channel.send("count")
        async with asyncio.timeout(LIMIT):
            await done.wait()
        assert channel.bufferedAmount == 0
        assert len(lows) == 1
        assert lows[0] <= 100_000


@pytest.mark.asyncio
async def test_an_urgent_message_leaves_within_the_call_and_more_of_them_together() -> None:
    near: Any = plain.OpenPeer()
    async with joined(near, plain.OpenPeer(), "terminal-io", "file-transfer") as (urgent, bulk):
        waiting = near._sctp.association.outbound.scheduler
        bulk.send(b"bulk")
        assert waiting.waiting(bulk.id)
        urgent.send(b"key")
        assert not waiting.waiting(urgent.id)
        assert urgent.bufferedAmount == 3
        urgent.send(b"more")
        assert waiting.waiting(urgent.id)
        assert urgent.bufferedAmount == 7


@pytest.mark.asyncio
async def test_who_reads_an_urgent_message_has_the_first_turn() -> None:
    far: Any = plain.OpenPeer()
    loop = asyncio.get_running_loop()
    turns: list[str] = []
    done = asyncio.Event()

    def serve(channel: Any) -> None:
        channel.on("message", lambda _: loop.call_soon(read, channel.label))

    def read(label: str) -> None:
        turns.append(label)
        done.set()

    far.on_channel = serve
    async with joined(plain.OpenPeer(), far, "terminal-io", "file-transfer") as channels:
        far._sctp.on_room = lambda: turns.append("room")
        for channel in channels:
            turns.clear()
            done.clear()
            channel.send(b"x")
            async with asyncio.timeout(LIMIT):
                await done.wait()
            first = turns[:1]
            assert first == ["terminal-io" if channel is channels[0] else "room"]


@pytest.mark.asyncio
async def test_keystrokes_calm_both_ends_and_bulk_with_its_own_words_does_not() -> None:
    near: Any = plain.OpenPeer()
    far: Any = plain.OpenPeer()
    came = asyncio.Event()
    far.on_channel = lambda channel: channel.on("message", lambda _: came.set())
    async with joined(near, far, "control", "file-transfer", "terminal-io") as channels:
        for channel in channels:
            came.clear()
            channel.send(b"x")
            async with asyncio.timeout(LIMIT):
                await came.wait()
            typed = channel.label == "terminal-io"
            assert [end._sctp._calm_until > 0 for end in (near, far)] == [typed, typed]


@pytest.mark.asyncio
async def test_what_a_handler_raises_is_reported_and_hurts_nobody_else() -> None:
    loop = asyncio.get_running_loop()
    complaints: list[Any] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context["exception"]))
    async with joined(plain.OpenPeer(), plain.OpenPeer(), "echo-1", "echo-2") as (one, two):
        done = asyncio.Event()
        one.on("message", lambda _: 1 / 0)
        two.on("message", lambda _: done.set())
        one.send(b"x")
        two.send(b"x")
        async with asyncio.timeout(LIMIT):
            await done.wait()
    assert [type(error) for error in complaints] == [ZeroDivisionError]


@pytest.mark.asyncio
async def test_a_hundred_peer_connections_in_one_process() -> None:
    peers = [plain.OpenPeer() for _ in range(100)]

    async def join(near: Any, far: Any) -> bytes:
        async with joined(near, far, "echo") as (channel,):
            got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            channel.on("message", lambda data: got.done() or got.set_result(data))
            channel.send(b"hello")
            async with asyncio.timeout(LIMIT):
                return await got

    answers = await asyncio.gather(*(join(peers[n], peers[n + 1]) for n in range(0, 100, 2)))
    assert answers == [b"hello"] * 50


@pytest.mark.asyncio
async def test_other_users_of_aiortc_keep_its_own_transports() -> None:
    from aiortc.rtcdtlstransport import RTCDtlsTransport
    from aiortc.rtcsctptransport import RTCSctpTransport

    far = plain.StockPeer()
    async with joined(plain.OpenPeer(), far, "echo"):
        assert type(far._pc.sctp) is RTCSctpTransport
        assert type(far._pc.sctp.transport) is RTCDtlsTransport
