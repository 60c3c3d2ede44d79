"""Peers, stock and ours, connected over real sockets; and what must not be left of them."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from doorstep.protocol.frames import Frame
from doorstep.protocol.lanes import REQUIRED_LANES, Lane
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.testing.deadlines import SCALE
from doorstep.transport.webrtc import Peer, WebRtcWire

SOON = 4.0 * SCALE  # less than what aiortc alone waits for a silent server
CONNECT = 10.0 * SCALE


@asynccontextmanager
async def nothing_remains() -> AsyncIterator[None]:
    """No task, timer, descriptor or complaint of the loop is left after the block."""
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
