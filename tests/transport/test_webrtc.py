"""The WebRTC peer against itself and against a stock aiortc peer connection, over real sockets."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from random import Random

import pytest
import pytest_asyncio
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from cffi import FFI  # type: ignore[import-untyped]

from doorstep.protocol.errors import InvalidInput, WireClosed
from doorstep.protocol.frames import Data, Frame, Ping, encode
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import (
    DATA_CHUNK,
    LANE_HIGH_WATER,
    LANE_LOW_WATER,
    MAX_FRAME,
)
from doorstep.testing.deadlines import SCALE
from doorstep.transport.sctp.dtls import DirectDtls
from doorstep.transport.webrtc import Peer
from doorstep.transport.wire_stats import FIELDS

from .webrtc_pair import CONNECT, SOON, Inbox, both, nothing_remains, pair, peers, stock

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    async with nothing_remains():
        yield


# connecting


async def test_frames_go_both_ways_on_every_lane() -> None:
    async with pair() as (near, far):
        inbox, outbox = Inbox(far), Inbox(near)
        for number, lane in enumerate(Lane):
            near.send(lane, Ping(number))
            assert await inbox.next() == (lane, Ping(number))
            far.send(lane, Ping(100 + number))
            assert await outbox.next() == (lane, Ping(100 + number))
        facts = near.stats()
        assert facts["kind"] == "webrtc"
        assert facts["state"] == "open"
        assert facts["framesOut"] == facts["framesIn"] == len(Lane)
        ends = facts["localCandidate"], facts["remoteCandidate"]
        for end in ends:
            assert isinstance(end, dict)
            assert end["type"] in ("host", "prflx")
            assert end["protocol"] == "udp"
            assert end["relayProtocol"] is None
            assert ipaddress.ip_address(end["address"])
            assert 0 < end["port"] < 65536
        sent, resent = facts["chunksOut"], facts["chunksResent"]
        assert isinstance(sent, int)
        assert isinstance(resent, int)
        assert sent > 0
        assert set(facts) <= {*FIELDS, "buffered", "connectMs"}


async def test_one_certificate_serves_all_peers() -> None:
    async with peers() as (near, far):
        prints = [re.findall("a=fingerprint:.*", await peer.create_offer()) for peer in (near, far)]
        assert prints[0] == prints[1] != []


async def test_twenty_peers_connect_in_one_process() -> None:
    async with peers(20) as made:

        async def join(near: Peer, far: Peer) -> None:
            await near.apply_answer(await far.accept_offer(await near.create_offer()))
            a, b = await both(near, far)
            inbox = Inbox(b)
            a.send(Lane.CONTROL, Ping(1))
            assert await inbox.next() == (Lane.CONTROL, Ping(1))

        await asyncio.gather(*(join(made[n], made[n + 1]) for n in range(0, 20, 2)))


async def test_a_stock_client_connects() -> None:
    async with stock() as (channels, far, _), asyncio.timeout(CONNECT):
        inbox = Inbox(await far.wire())
        channels["control"].send(encode(Ping(7)))
        assert await inbox.next() == (Lane.CONTROL, Ping(7))


async def test_a_stock_agent_connects() -> None:
    agent, near = RTCPeerConnection(RTCConfiguration(iceServers=[])), Peer([])
    arrived: asyncio.Queue[bytes] = asyncio.Queue()
    agent.on("datachannel", lambda channel: channel.on("message", arrived.put_nowait))
    try:
        await agent.setRemoteDescription(RTCSessionDescription(await near.create_offer(), "offer"))
        await agent.setLocalDescription(await agent.createAnswer())
        await near.apply_answer(agent.localDescription.sdp)
        async with asyncio.timeout(CONNECT):
            (await near.wire()).send(Lane.TERMINAL_IO, Ping(9))
            assert await arrived.get() == encode(Ping(9))
    finally:
        await near.close()
        await agent.close()


async def test_an_offer_may_ask_to_be_the_dtls_client() -> None:
    async with peers() as (near, far):
        offer = (await near.create_offer()).replace("setup:actpass", "setup:active")
        answer = await far.accept_offer(offer)
        assert "a=setup:passive" in answer
        await near.apply_answer(answer)
        await both(near, far)


# sending


async def test_the_peers_largest_message_is_respected() -> None:
    async with pair(lambda sdp: sdp.replace("max-message-size:262144", "max-message-size:20000")) as (
        near,
        far,
    ):
        assert near.max_frame == 20000
        assert far.max_frame == MAX_FRAME
        with pytest.raises(InvalidInput, match="20000"):
            near.send(Lane.CONTROL, Data(1, 0, bytes(20000)))
        inbox = Inbox(near)
        far.send(Lane.CONTROL, Data(1, 0, bytes(MAX_FRAME - 3)))
        assert await inbox.next() == (Lane.CONTROL, Data(1, 0, bytes(MAX_FRAME - 3)))


async def test_drained_waits_above_the_high_water_mark_for_the_low_one() -> None:
    async with pair() as (near, far):
        inbox = Inbox(far)
        offset = 0
        while near.buffered(Lane.FILE_TRANSFER) <= LANE_HIGH_WATER:
            await near.drained(Lane.FILE_TRANSFER)
            near.send(Lane.FILE_TRANSFER, Data(1, offset, bytes(DATA_CHUNK)))
            offset += DATA_CHUNK
        await near.drained(Lane.CONTROL)
        for _ in range(8):
            near.send(Lane.FILE_TRANSFER, Data(1, offset, bytes(DATA_CHUNK)))
            offset += DATA_CHUNK
        waiting = asyncio.create_task(near.drained(Lane.FILE_TRANSFER))
        await asyncio.sleep(0)
        assert not waiting.done()
        await asyncio.wait_for(waiting, 5 * SOON)
        assert near.buffered(Lane.FILE_TRANSFER) <= LANE_LOW_WATER
        for expected in range(0, offset, DATA_CHUNK):
            assert await inbox.next() == (Lane.FILE_TRANSFER, Data(1, expected, bytes(DATA_CHUNK)))


async def test_a_full_urgent_lane_holds_back_the_bulk_below_it() -> None:
    async with pair() as (near, far):
        while near.buffered(Lane.TERMINAL_IO) <= LANE_HIGH_WATER + 8 * DATA_CHUNK:
            near.send(Lane.TERMINAL_IO, Data(1, 0, bytes(DATA_CHUNK)))
        waiting = asyncio.create_task(near.drained(Lane.FILE_TRANSFER))
        await asyncio.sleep(0)
        assert not waiting.done()
        await asyncio.wait_for(near.drained(Lane.CONTROL), SOON)
        await far.close()
        with pytest.raises(WireClosed):
            await waiting


async def test_an_echo_goes_out_before_the_acknowledgement_of_its_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOORSTEP_SCTP", "stock")
    async with peers() as (near, far):
        await near.apply_answer(await far.accept_offer(await near.create_offer()))
        a, b = await both(near, far)
        async with asyncio.timeout(CONNECT):
            # What the channels said when they opened is acknowledged, and no timer for it is left.
            while near._sctp._flight_size or far._sctp._sack_timer is not None:
                await asyncio.sleep(0.005)
        far._sctp.sack_delay = CONNECT
        inbox = Inbox(a)

        def echo(lane: Lane, frame: Frame) -> None:
            asyncio.get_running_loop().call_soon(b.send, lane, frame)  # as a service would, in its own turn

        b.start(echo)
        a.send(Lane.TERMINAL_IO, Data(1, 0, b"k"))
        assert (await inbox.next())[1] == Data(1, 0, b"k")
        assert near._sctp._flight_size


async def test_bulk_does_not_delay_what_is_urgent() -> None:
    async with pair() as (near, far):
        far.start(lambda lane, frame: far.send(lane, frame) if lane is Lane.TERMINAL_IO else None)
        echo = Inbox(near)

        async def bulk() -> None:
            for offset in range(0, 6_000_000, DATA_CHUNK):
                near.send(Lane.FILE_TRANSFER, Data(1, offset, bytes(DATA_CHUNK)))
                await near.drained(Lane.FILE_TRANSFER)

        sending = asyncio.create_task(bulk())
        times: list[float] = []
        while not sending.done():
            began = time.monotonic()
            near.send(Lane.TERMINAL_IO, Data(2, 0, b"k"))
            await echo.next()
            times.append(time.monotonic() - began)
        await sending
        assert len(times) > 5
        assert sorted(times)[len(times) // 2] < 0.1 * SCALE


@pytest.mark.parametrize("road", ["direct", "stock"])
async def test_loss_repeats_and_disorder_cost_nothing_but_time(
    road: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOORSTEP_SCTP", road)
    async with peers() as (near, far):
        await near.apply_answer(await far.accept_offer(await near.create_offer()))
        wires = await both(near, far)
        for seed, peer in enumerate((near, far)):
            make_unreliable(peer, seed)
        boxes = [Inbox(wire) for wire in wires]
        chunks = 60
        for wire in wires:
            for number in range(chunks):
                wire.send(Lane.FILE_TRANSFER, Data(1, number, os.urandom(DATA_CHUNK)))
                wire.send(Lane.CONTROL, Ping(number))
        async with asyncio.timeout(30 * SCALE):
            for box in boxes:
                got = [await box.frames.get() for _ in range(2 * chunks)]
                offsets = [frame.offset for _, frame in got if isinstance(frame, Data)]
                pings = [frame.timestamp for _, frame in got if isinstance(frame, Ping)]
                assert offsets == pings == list(range(chunks))
        for wire in wires:
            sent, resent = wire.stats()["chunksOut"], wire.stats()["chunksResent"]
            assert isinstance(sent, int)
            assert isinstance(resent, int)
            assert 0 < resent < sent


def make_unreliable(peer: Peer, seed: int) -> None:
    """Between the sockets and DTLS."""
    dtls = peer._dtls
    if isinstance(dtls, DirectDtls):
        record = dtls._record
        lossy = Unreliable(lambda data: record(data, len(data)), seed)
        view = FFI().buffer
        dtls._record = lambda data, size: lossy(  # type: ignore[method-assign]
            data if isinstance(data, bytes) else view(data, size)[:]
        )
    else:
        peer._ice.divert(Unreliable(dtls._receive, seed))


class Unreliable:
    """Loses, repeats and delays some of the datagrams that come in."""

    def __init__(self, sink: Callable[[bytes], None], seed: int) -> None:
        self.sink = sink
        self.dice = Random(seed)
        self.held: list[bytes] = []

    def __call__(self, data: bytes) -> None:
        fate = self.dice.random()
        if fate < 0.02:
            return
        if fate < 0.04:
            self.held.append(data)
            return
        self.sink(data)
        if fate < 0.06:
            self.sink(data)
        while self.held and self.dice.random() < 0.3:
            self.sink(self.held.pop())
