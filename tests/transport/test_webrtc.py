"""The WebRTC peer against itself and against a stock aiortc peer connection, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import pytest_asyncio
from aioice import stun
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from cffi import FFI  # type: ignore[import-untyped]

from doorstep.protocol.errors import ConnectFailed, InvalidInput, WireClosed
from doorstep.protocol.frames import Data, Frame, Ping, encode
from doorstep.protocol.lanes import REQUIRED_LANES, Lane
from doorstep.protocol.limits import (
    CANDIDATES_PER_SESSION,
    DATA_CHUNK,
    LANE_HIGH_WATER,
    LANE_LOW_WATER,
    MAX_FRAME,
)
from doorstep.protocol.signaling import Candidate, IceServer
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.testing.deadlines import SCALE
from doorstep.transport.sctp.dtls import DirectDtls
from doorstep.transport.webrtc import Peer, WebRtcWire
from doorstep.transport.wire_stats import FIELDS

pytestmark = pytest.mark.asyncio

SOON = 4.0 * SCALE  # less than what aiortc alone waits for a silent server
CONNECT = 10.0 * SCALE
CANDIDATE_LINE = re.compile(r"a=(candidate:.*)\r\n")


@pytest_asyncio.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """No task, timer, descriptor or complaint of the loop is left after the test."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    tasks, files = asyncio.all_tasks(), set(os.listdir("/dev/fd"))
    yield
    gc.collect()
    assert asyncio.all_tasks() - tasks - {asyncio.current_task()} == set()
    timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
    assert timers == []
    assert complaints == []
    assert set(os.listdir("/dev/fd")) <= files


class Inbox:
    """What a wire has received, and a way to wait for it."""

    def __init__(self, wire: WebRtcWire) -> None:
        self.frames: asyncio.Queue[tuple[Lane, Frame]] = asyncio.Queue()
        wire.start(lambda lane, frame: self.frames.put_nowait((lane, frame)))

    async def next(self) -> tuple[Lane, Frame]:
        async with asyncio.timeout(SOON * 5):
            return await self.frames.get()


async def both(near: Peer, far: Peer) -> tuple[WebRtcWire, WebRtcWire]:
    async with asyncio.timeout(CONNECT):
        a, b = await asyncio.gather(near.wire(), far.wire())
    return a, b


@asynccontextmanager
async def peers(count: int = 2, timing: Timing = DEFAULT_TIMING) -> AsyncIterator[list[Peer]]:
    made = [Peer([], timing=timing) for _ in range(count)]
    try:
        yield made
    finally:
        for peer in made:
            await peer.close()


@asynccontextmanager
async def pair(change: Callable[[str], str] = str) -> AsyncIterator[tuple[WebRtcWire, WebRtcWire]]:
    """Two wires of one connection; ``change`` edits the answer on its way."""
    async with peers() as (near, far):
        answer = await far.accept_offer(await near.create_offer())
        await near.apply_answer(change(answer))
        yield await both(near, far)


@asynccontextmanager
async def stock(
    labels: dict[str, dict[str, Any]] | None = None, extra: tuple[str, ...] = ()
) -> AsyncIterator[tuple[dict[str, RTCDataChannel], Peer, RTCPeerConnection]]:
    """A stock aiortc client with all lanes (and more) before our peer."""
    client, far = RTCPeerConnection(RTCConfiguration(iceServers=[])), Peer([])
    options = labels or {}
    channels = {
        label: client.createDataChannel(label, **options.get(label, {}))
        for label in (*REQUIRED_LANES, *extra)
    }
    opened = [asyncio.Event() for _ in channels]
    for channel, event in zip(channels.values(), opened, strict=True):
        channel.on("open", event.set)
    try:
        await client.setLocalDescription(await client.createOffer())
        answer = await far.accept_offer(client.localDescription.sdp)
        await client.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        async with asyncio.timeout(CONNECT):
            await asyncio.gather(*(event.wait() for event in opened))
        yield channels, far, client
    finally:
        await far.close()
        await client.close()


async def closed(wire: WebRtcWire) -> str:
    async with asyncio.timeout(SOON):
        return await wire.wait_closed()


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


# candidates


def cut(sdp: str) -> tuple[str, list[Candidate]]:
    """Take the candidates out of a description."""
    bare = CANDIDATE_LINE.sub("", sdp).replace("a=end-of-candidates\r\n", "")
    return bare, [Candidate(candidate=line, sdp_mid="0") for line in CANDIDATE_LINE.findall(sdp)]


async def test_candidates_before_the_description_are_kept() -> None:
    async with peers() as (near, far):
        offer, _ = cut(await near.create_offer())
        answer, candidates = cut(await far.accept_offer(offer))
        assert candidates
        for candidate in candidates:
            await near.add_candidate(candidate)
        await near.apply_answer(answer)
        await both(near, far)


async def test_candidates_trickle_after_the_description() -> None:
    async with peers() as (near, far):
        offer, ours = cut(await near.create_offer())
        answer, theirs = cut(await far.accept_offer(offer))
        await near.apply_answer(answer)
        await near.add_candidate(
            Candidate(candidate="candidate:1 1 udp 1 x.local 9 typ host", sdp_mid="0", more=tuple(theirs))
        )
        await near.add_candidate(Candidate(candidate="", sdp_mid="0"))
        for candidate in ours:
            await far.add_candidate(candidate)
        await both(near, far)


async def test_a_peer_whose_only_candidates_are_mdns_connects_by_what_it_sends() -> None:
    async with peers() as (near, far):
        offer = re.sub("192[.]0[.]2[.]2|(?<= )[0-9.]+(?= [0-9]+ typ)", "x.local", await near.create_offer())
        offer = re.sub("(?<= )[0-9a-f:]+:[0-9a-f:]+(?= [0-9]+ typ)", "x.local", offer)
        assert "x.local" in offer
        assert "end-of-candidates" in offer
        await near.apply_answer(await far.accept_offer(offer))
        wire, _ = await both(far, near)
        assert wire.stats()["remoteCandidate"]["type"] == "prflx"  # type: ignore[index]


async def test_no_candidates_at_all_fails_at_once() -> None:
    async with peers() as (near, far):
        bare, _ = cut(await far.accept_offer(cut(await near.create_offer())[0]))
        await near.apply_answer(bare + "a=end-of-candidates\r\n")
        async with asyncio.timeout(SOON):
            with pytest.raises(ConnectFailed, match="no pair of ICE candidates"):
                await near.wire()


@pytest.mark.parametrize(
    "text",
    [
        "candidate:1 1 tcp 1 192.0.2.1 9 typ host tcptype active",
        "candidate:1 1 udp 1 5c9f7d0e.local 5000 typ host",
        "candidate:1 2 udp 1 192.0.2.1 5000 typ host",
        "candidate:1 1 udp 1 224.0.0.1 5000 typ host",
        "candidate:1 1 udp 1 0.0.0.0 5000 typ host",
        "candidate:1 1 udp 1 192.0.2.1 99999 typ host",
        "candidate:1 1 udp 1 192.0.2.1 5000 typ odd",
        "candidate:x",
        "candidate:1 one udp 1 192.0.2.1 5000 typ host",
        "nonsense",
    ],
)
async def test_useless_candidates_are_skipped(text: str) -> None:
    async with peers() as (near, far):
        await near.apply_answer(await far.accept_offer(await near.create_offer()))
        await far.add_candidate(Candidate(candidate=text, sdp_mid="0"))
        await both(near, far)


async def test_early_candidates_are_bounded() -> None:
    async with peers(1) as (near,):
        for number in range(CANDIDATES_PER_SESSION + 10):
            line = f"candidate:1 1 udp 1 192.0.2.{number} 5000 typ host"
            await near.add_candidate(Candidate(candidate=line, sdp_mid="0"))
        assert len(near._early) == CANDIDATES_PER_SESSION


@asynccontextmanager
async def stun_server(answers: asyncio.Event) -> AsyncIterator[IceServer]:
    """A STUN server that says nothing before ``answers`` is set."""

    class Server(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.asked: list[tuple[bytes, Any]] = []

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.asked.append((data, addr))
            if answers.is_set():
                self.answer()

        def answer(self) -> None:
            for data, addr in self.asked:
                request = stun.parse_message(data)
                reply = stun.Message(request.message_method, stun.Class.RESPONSE, request.transaction_id)
                reply.attributes["XOR-MAPPED-ADDRESS"] = ("198.51.100.7", addr[1])
                transport.sendto(bytes(reply), addr)
            self.asked.clear()

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Server, local_addr=("0.0.0.0", 0))
    try:
        yield IceServer(urls=(f"stun:127.0.0.1:{transport.get_extra_info('sockname')[1]}",))
    finally:
        transport.close()
        await asyncio.sleep(0)


async def test_a_silent_stun_server_holds_nothing_up_and_its_candidate_trickles() -> None:
    answers = asyncio.Event()
    async with stun_server(answers) as server:
        near = Peer([server], timing=Timing(gather=0.2))
        late: asyncio.Queue[Candidate] = asyncio.Queue()
        near.on_candidate = late.put_nowait
        try:
            offer = await near.create_offer()
            assert not near._ice.gathered  # the server is still being asked
            assert "srflx" not in offer
            assert "end-of-candidates" not in offer
            answers.set()
            async with asyncio.timeout(40):  # the request is repeated at growing intervals
                candidate = await late.get()
            assert "typ srflx" in candidate.candidate
            assert "198.51.100.7" in candidate.candidate
            assert candidate.sdp_mid == "0"
        finally:
            await near.close()


async def test_an_answering_stun_server_is_in_the_description() -> None:
    answers = asyncio.Event()
    answers.set()
    async with stun_server(answers) as server:
        near = Peer([server], timing=Timing(gather=60))
        try:
            async with asyncio.timeout(40):
                offer = await near.create_offer()
            assert "198.51.100.7" in offer
        finally:
            await near.close()


async def test_a_dead_turn_server_delays_neither_offer_nor_close() -> None:
    async with stun_server(asyncio.Event()) as dead:
        turn = IceServer(urls=(dead.urls[0].replace("stun", "turn"),), username="u", credential="c")
        near = Peer([turn], timing=Timing(gather=0.1))
        began = time.monotonic()
        await near.create_offer()
        await near.close()
        assert time.monotonic() - began < SOON


async def test_a_malformed_ice_server_is_named() -> None:
    with pytest.raises(InvalidInput, match="iceServers"):
        Peer([IceServer(urls=("http://127.0.0.1",))])


# refusals


@pytest.mark.parametrize(
    "change",
    [
        lambda sdp: "",
        lambda sdp: "hello",
        lambda sdp: "v=0\r\n",
        lambda sdp: sdp.replace("webrtc-datachannel", "webrtc"),
        lambda sdp: sdp.replace("m=application", "m=audio"),
        lambda sdp: sdp.replace("m=application 9", "m=application 0"),
        lambda sdp: re.sub("a=ice-ufrag:.*\r\n", "", sdp),
        lambda sdp: re.sub("a=fingerprint:.*\r\n", "", sdp),
        lambda sdp: re.sub("a=fingerprint:.*\r\n", "a=fingerprint:md5 AA:BB\r\n", sdp),
        lambda sdp: re.sub("a=setup:.*\r\n", "", sdp),
        lambda sdp: sdp.replace("sctp-port:5000", "sctp-port:x"),
        lambda sdp: sdp + "x" * 70000,
        lambda sdp: sdp + "m=audio 9 X 0\r\n" * 30,
    ],
)
async def test_a_bad_description_is_invalid_input(change: Callable[[str], str]) -> None:
    async with peers() as (near, far):
        offer = await near.create_offer()
        with pytest.raises(InvalidInput, match="sdp"):
            await far.accept_offer(change(offer))
        answer = await far.accept_offer(offer)
        with pytest.raises(InvalidInput, match="sdp"):
            await near.apply_answer(change(answer))
        await near.apply_answer(answer)
        await both(near, far)


async def test_sections_beside_the_data_channels_are_rejected() -> None:
    async with peers() as (near, far):
        offer = await near.create_offer()
        head, data = offer.split("m=application", 1)
        audio = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:7\r\n"
        answer = await far.accept_offer(f"{head}{audio}m=application{data}")
        assert "m=audio 0 UDP/TLS/RTP/SAVPF 111\r\n" in answer
        assert answer.index("m=audio") < answer.index("m=application")
        assert "a=group:BUNDLE 0\r\n" in answer


async def test_foreign_channels_are_closed_and_the_wire_lives() -> None:
    async with stock(extra=("evil", "other")) as (channels, far, _), asyncio.timeout(CONNECT):
        gone = {label: asyncio.Event() for label in ("evil", "other")}
        for label, event in gone.items():
            channels[label].on("close", event.set)
        inbox = Inbox(await far.wire())
        for event in gone.values():
            await event.wait()
        channels["control"].send(encode(Ping(1)))
        assert await inbox.next() == (Lane.CONTROL, Ping(1))


async def test_channels_without_end_end_the_connection() -> None:
    async with stock(extra=tuple(f"evil-{n}" for n in range(20))) as (_, far, _), asyncio.timeout(CONNECT):
        assert "without end" in await (await far.wire()).wait_closed()


@pytest.mark.parametrize("how", [{"ordered": False}, {"maxRetransmits": 3}, {"maxPacketLifeTime": 100}])
async def test_an_unreliable_lane_is_refused(how: dict[str, Any]) -> None:
    async with stock({"control": how}) as (_, far, _), asyncio.timeout(CONNECT):
        with pytest.raises(ConnectFailed, match="lane control unordered or unreliable"):
            await far.wire()


# failures of connecting


async def test_a_wrong_fingerprint_fails_in_dtls() -> None:
    async with peers() as (near, far):
        answer = await far.accept_offer(await near.create_offer())
        await near.apply_answer(re.sub("sha-256 ..:..", "sha-256 00:00", answer))
        async with asyncio.timeout(CONNECT):
            with pytest.raises(ConnectFailed, match="DTLS"):
                await near.wire()


async def test_a_wrong_password_fails_in_ice() -> None:
    async with peers(timing=Timing(ice=1.0)) as (near, far):
        answer = await far.accept_offer(await near.create_offer())
        await near.apply_answer(re.sub("a=ice-pwd:.*\r\n", f"a=ice-pwd:{'x' * 22}\r\n", answer))
        async with asyncio.timeout(CONNECT):
            with pytest.raises(ConnectFailed, match="ICE"):
                await near.wire()


async def test_a_peer_that_never_comes_fails_at_the_limit() -> None:
    async with peers(timing=Timing(ice=0.3)) as (near, far):
        answer = await far.accept_offer(await near.create_offer())
        await far.close()
        began = time.monotonic()
        await near.apply_answer(answer)
        with pytest.raises(ConnectFailed, match=r"within 0\.3 s: still waiting for ICE"):
            await near.wire()
        assert 0.25 < time.monotonic() - began < 0.3 + SOON


async def test_wire_fails_when_the_peer_is_closed_instead() -> None:
    async with peers(1) as (near,):
        await near.create_offer()
        waiting = asyncio.create_task(near.wire())
        await asyncio.sleep(0)
        await near.close()
        with pytest.raises(ConnectFailed, match="closed"):
            await waiting
        with pytest.raises(ConnectFailed):
            await near.wire()


# closing


async def test_a_peer_closes_at_every_stage() -> None:
    async with peers(4) as (fresh, offering, answering, connecting):
        await fresh.close()
        offer = await offering.create_offer()
        answer = await answering.accept_offer(offer)
        await connecting.create_offer()
        await asyncio.gather(offering.apply_answer(answer), connecting.close(), connecting.close())
        await offering.close()
        await answering.close()
        with pytest.raises(ConnectFailed):
            await fresh.create_offer()


@pytest.mark.parametrize("first", [0, 1])
async def test_the_other_side_notices_a_close_at_once(first: int) -> None:
    async with pair() as wires:
        began = time.monotonic()
        await wires[first].close("enough")
        assert await closed(wires[1 - first]) == "the peer closed the connection"
        assert time.monotonic() - began < SOON
        assert await closed(wires[first]) == "enough"
        for wire in wires:
            with pytest.raises(WireClosed):
                wire.send(Lane.CONTROL, Ping(1))
            with pytest.raises(WireClosed):
                await wire.drained(Lane.CONTROL)
        await asyncio.gather(wires[0].close(), wires[0].close(), wires[1].close())


async def test_the_last_frame_before_a_close_arrives() -> None:
    async with pair() as (near, far):
        inbox = Inbox(far)
        near.send(Lane.FILE_TRANSFER, Data(1, 0, bytes(DATA_CHUNK)))
        near.send(Lane.CONTROL, Ping(1))
        await near.close()
        frames = {type(frame) for _, frame in (await inbox.next(), await inbox.next())}
        assert frames == {Ping, Data}


async def test_a_stock_peer_that_closes_is_noticed() -> None:
    async with stock() as (_, far, client), asyncio.timeout(CONNECT):
        wire = await far.wire()
        await client.close()
        assert await closed(wire) == "the peer closed the connection"


async def test_a_lane_closed_by_the_peer_ends_the_wire() -> None:
    async with stock() as (channels, far, _), asyncio.timeout(CONNECT):
        wire = await far.wire()
        channels["terminal-io"].close()
        assert await closed(wire) == "the peer closed the connection"


# what a peer may send


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("text", "text message"),
        (b"", "empty frame"),
        (b"\x7f\x00", "unknown kind"),
        (b"\x05\xff\xff\xff\xff\xff\xff\xff\xff\xff", "number"),
        (b"\x01[]", "JSON"),
    ],
)
async def test_garbage_ends_the_wire_with_a_reason(message: bytes | str, reason: str) -> None:
    async with stock() as (channels, far, _), asyncio.timeout(CONNECT):
        wire = await far.wire()
        inbox = Inbox(wire)
        channels["control"].send(message)
        ended = await closed(wire)
        assert ended.startswith("protocol error: ")
        assert reason in ended
        assert inbox.frames.empty()


async def test_unknown_kinds_with_the_high_bit_are_skipped() -> None:
    async with stock() as (channels, far, _), asyncio.timeout(CONNECT):
        inbox = Inbox(await far.wire())
        channels["control"].send(b"\xf0 from the future")
        channels["control"].send(encode(Ping(1)))
        assert await inbox.next() == (Lane.CONTROL, Ping(1))


async def test_broken_channel_messages_end_the_connection_quietly() -> None:
    async with stock() as (channels, far, client), asyncio.timeout(CONNECT):
        wire = await far.wire()
        assert client.sctp is not None
        reopen = b"\x03\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00hi"
        await client.sctp._send(channels["control"].id or 0, 50, reopen)
        # Stock SCTP takes it for a fault of the association; RFC 8832 section 6 only closes the channel.
        assert await closed(wire) in ("the peer broke the SCTP protocol", "the peer closed the connection")


async def test_frames_before_start_are_kept_in_order() -> None:
    async with pair() as (near, far):
        for number in range(5):
            near.send(Lane.CONTROL, Ping(number))
        near.send(Lane.TERMINAL_IO, Ping(99))
        async with asyncio.timeout(SOON):
            while far.stats()["framesIn"] != 6:
                await asyncio.sleep(0.001)
        inbox = Inbox(far)
        got = [(await inbox.next())[1] for _ in range(6)]
        assert Ping(99) in got
        assert [frame for frame in got if frame != Ping(99)] == [Ping(number) for number in range(5)]


async def test_too_much_before_start_ends_the_wire() -> None:
    async with pair() as (near, far):
        for number in range(100):
            near.send(Lane.FILE_TRANSFER, Data(1, number * DATA_CHUNK, bytes(DATA_CHUNK)))
        async with asyncio.timeout(5 * SOON):
            assert "before the greeting" in await far.wait_closed()


async def test_a_receiver_that_raises_ends_the_wire(caplog: pytest.LogCaptureFixture) -> None:
    async with pair() as (near, far):

        def receive(lane: Lane, frame: Frame) -> None:
            raise ZeroDivisionError

        far.start(receive)
        near.send(Lane.CONTROL, Ping(1))
        assert await closed(far) == "internal error"
        assert "ZeroDivisionError" in caplog.text


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
