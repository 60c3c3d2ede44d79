"""What a WebRTC peer refuses, what fails, how it closes, and what another may send it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from doorstep.protocol.errors import ConnectFailed, InvalidInput, WireClosed
from doorstep.protocol.frames import Data, Frame, Ping, encode
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import (
    DATA_CHUNK,
)
from doorstep.protocol.timing import Timing

from .webrtc_pair import CONNECT, SOON, Inbox, both, closed, nothing_remains, pair, peers, stock

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    async with nothing_remains():
        yield


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
