"""Candidates of a WebRTC peer: early, late, useless, many; STUN and TURN servers that are silent or dead."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from aioice import stun

from doorstep.protocol.errors import ConnectFailed, InvalidInput
from doorstep.protocol.limits import (
    CANDIDATES_PER_SESSION,
)
from doorstep.protocol.signaling import Candidate, IceServer
from doorstep.protocol.timing import Timing
from doorstep.transport.webrtc import Peer

from .webrtc_pair import SOON, both, nothing_remains, peers

pytestmark = pytest.mark.asyncio
CANDIDATE_LINE = re.compile(r"a=(candidate:.*)\r\n")


@pytest_asyncio.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    async with nothing_remains():
        yield


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
