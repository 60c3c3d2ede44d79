"""The WebRTC peer as the agent of a real Chromium."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Page, async_playwright

from doorstep.protocol.frames import Data, Frame, Ping
from doorstep.protocol.lanes import REQUIRED_LANES, Lane
from doorstep.protocol.signaling import Candidate
from doorstep.transport.webrtc import Peer

CHROMIUM = os.environ.get("DOORSTEP_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

OFFER = """async labels => {
    window.candidates = [];
    window.pc = new RTCPeerConnection({iceServers: []});
    window.messages = [];
    pc.onicecandidate = event => candidates.push(event.candidate ? event.candidate.toJSON() : null);
    window.lanes = Object.fromEntries(labels.map(label => {
        const channel = pc.createDataChannel(label);
        channel.binaryType = "arraybuffer";
        channel.onmessage = event => messages.push([label, Array.from(new Uint8Array(event.data))]);
        return [label, channel];
    }));
    await pc.setLocalDescription();
    return pc.localDescription.sdp;
}"""
GATHERED = "() => candidates.includes(null)"
CANDIDATES = "() => candidates.filter(candidate => candidate && candidate.candidate)"
ANSWER = "sdp => pc.setRemoteDescription({type: 'answer', sdp})"
SEND = "([label, bytes]) => lanes[label].send(new Uint8Array(bytes))"
STATES = "() => Object.values(lanes).map(channel => channel.readyState)"


@pytest_asyncio.fixture
async def page() -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield await browser.new_page()
        finally:
            await browser.close()


@pytest.mark.parametrize("extra", [[], ["foreign"]])
async def test_a_browser_opens_all_lanes_and_sees_the_close(page: Page, extra: list[str]) -> None:
    labels = [*REQUIRED_LANES, *extra]
    peer = Peer([])
    frames: asyncio.Queue[tuple[Lane, Frame]] = asyncio.Queue()
    try:
        async with asyncio.timeout(20):
            offer = await page.evaluate(OFFER, labels)
            answer = await peer.accept_offer(offer)
            await page.evaluate(ANSWER, answer)
            await page.wait_for_function(GATHERED)
            for one in await page.evaluate(CANDIDATES):
                await peer.add_candidate(
                    Candidate(
                        candidate=one["candidate"],
                        sdp_mid=one["sdpMid"],
                        sdp_m_line_index=one["sdpMLineIndex"],
                        username_fragment=one["usernameFragment"],
                    )
                )
            wire = await peer.wire()
            wire.start(lambda lane, frame: frames.put_nowait((lane, frame)))
            await page.evaluate(SEND, ["control", [0x0D, 5]])
            assert await frames.get() == (Lane.CONTROL, Ping(5))
            wire.send(Lane.FILE_TRANSFER, Data(1, 0, bytes(100_000)))
            await page.wait_for_function("() => messages.length == 1")
            label, received = (await page.evaluate("() => messages"))[0]
            assert label == "file-transfer"
            assert len(received) == 100_003
            assert wire.max_frame == 256 * 1024
            await peer.close()
            await page.wait_for_function(
                f"() => ({STATES})().every(state => state == 'closed')", timeout=2000
            )
    finally:
        await peer.close()


async def test_a_browser_that_goes_away_is_noticed(page: Page) -> None:
    peer = Peer([])
    try:
        async with asyncio.timeout(20):
            answer = await peer.accept_offer(await page.evaluate(OFFER, list(REQUIRED_LANES)))
            await page.evaluate(ANSWER, answer)
            wire = await peer.wire()
            await page.evaluate("() => pc.close()")
            async with asyncio.timeout(1):
                assert await wire.wait_closed() == "the peer closed the connection"
    finally:
        await peer.close()
