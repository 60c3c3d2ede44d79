"""A Python peer of the tests and the benchmark: any channels, served by their labels as in ``core.mjs``.

``python plain.py direct|stock|aiortc`` is driven by one JSON command per line. ``direct`` and ``stock`` are
our peer on either road; ``aiortc`` is aiortc's own RTCPeerConnection.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[4]
    sys.path[:0] = [str(ROOT / room) for room in ("protocol", "transport")]
    os.environ["DOORSTEP_SCTP"] = "stock" if sys.argv[1:] == ["stock"] else "direct"

from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCDataChannelParameters,
    RTCPeerConnection,
    RTCSessionDescription,
)

from doorstep.transport import sdp
from doorstep.transport.webrtc import Peer

HIGH = 1 << 20
LABELS = {"echo": "terminal-io", "sink": "sink", "source": "source"}
"""By role: our road knows keystrokes by their label. The same in ``core.mjs``."""


class OpenPeer(Peer):
    """Our peer, with whatever channels either side opens."""

    def __init__(self) -> None:
        super().__init__([])
        self.on_channel: Callable[[RTCDataChannel], None] = serve

    def open(self, label: str, **options: Any) -> RTCDataChannel:
        channel = RTCDataChannel(self._sctp, RTCDataChannelParameters(label=label, **options))
        channel.on("open", self._settle)
        return channel

    async def create_offer(self) -> str:
        self._offers = self._ice.ice_controlling = True
        section = sdp.Section("application", "UDP/DTLS/SCTP", "webrtc-datachannel", "0")
        return await self._describe((section,), 0, "actpass")

    def _announced(self, channel: RTCDataChannel) -> None:
        self._settle()
        self.on_channel(channel)

    def _settle(self) -> None:
        self._up = True
        self._settled.set()


class StockPeer:
    """aiortc's own peer connection, with the same four methods."""

    def __init__(self) -> None:
        self.on_channel: Callable[[RTCDataChannel], None] = serve
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._pc.on("datachannel", lambda channel: self.on_channel(channel))

    def open(self, label: str, **options: Any) -> RTCDataChannel:
        return self._pc.createDataChannel(label, **options)

    async def create_offer(self) -> str:
        await self._pc.setLocalDescription(await self._pc.createOffer())
        return self._pc.localDescription.sdp

    async def accept_offer(self, offer: str) -> str:
        await self._pc.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await self._pc.setLocalDescription(await self._pc.createAnswer())
        return self._pc.localDescription.sdp

    async def apply_answer(self, answer: str) -> None:
        await self._pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    async def close(self) -> None:
        await self._pc.close()


pouring: set[asyncio.Task[None]] = set()
sunk = [0]
"""Bytes that all sinks have got."""


def serve(channel: RTCDataChannel) -> None:
    """Do what the channel's label says."""
    count = 0

    def sink(data: bytes | str) -> None:
        nonlocal count
        if isinstance(data, bytes):
            count += len(data)
            sunk[0] += len(data)
        else:
            channel.send(str(count))
            count = 0

    def source(data: str) -> None:
        total, size = (int(word) for word in data.split()[1:])
        task = asyncio.create_task(pour(channel, total, size))
        pouring.add(task)
        task.add_done_callback(pouring.discard)

    def echo(data: bytes | str) -> None:
        if channel.readyState == "open":
            channel.send(data)

    channel.on("message", {"sink": sink, "source": source}.get(channel.label, echo))


async def pour(channel: RTCDataChannel, total: int, size: int) -> None:
    message = bytes(size)
    channel.bufferedAmountLowThreshold = 1 << 18
    low = asyncio.Event()
    channel.on("bufferedamountlow", low.set)
    for sent in range(0, total, size):
        channel.send(message[: total - sent])
        while channel.bufferedAmount > HIGH:
            low.clear()
            await low.wait()
    channel.remove_listener("bufferedamountlow", low.set)


class Near:
    """The measuring side: ``echo``, ``sink`` and ``source``."""

    def __init__(self, peer: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self.channels = {role: peer.open(label) for role, label in LABELS.items()}
        self.opened = asyncio.Event()
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._pulled = self._wanted = 0
        for role, channel in self.channels.items():
            channel.on("open", self._one_open)
            channel.on("message", lambda data, role=role: self._got(role, data))

    def _one_open(self) -> None:
        if all(channel.readyState == "open" for channel in self.channels.values()):
            self.opened.set()

    def _got(self, role: str, data: bytes | str) -> None:
        if role == "source":
            self._pulled += len(data)
            if self._pulled < self._wanted:
                return
        if (waiter := self._waiting.pop(role, None)) is not None:
            waiter.set_result(data)

    def _next(self, role: str) -> asyncio.Future[Any]:
        self._waiting[role] = self._loop.create_future()
        return self._waiting[role]

    async def bulk(self, total: int, size: int) -> float:
        began = time.perf_counter()
        counted = self._next("sink")
        await pour(self.channels["sink"], total, size)
        self.channels["sink"].send("count")
        if int(await counted) != total:
            raise ValueError("bytes are missing")
        return time.perf_counter() - began

    async def pull(self, total: int, size: int) -> float:
        began = time.perf_counter()
        self._pulled, self._wanted = 0, total
        every = self._next("source")
        self.channels["source"].send(f"send {total} {size}")
        await every
        return time.perf_counter() - began

    async def ping(self) -> float:
        began = time.perf_counter()
        back = self._next("echo")
        self.channels["echo"].send(bytes(32))
        await back
        return (time.perf_counter() - began) * 1e6

    async def echo(self, count: int, pause: float) -> list[float]:
        times: list[float] = []
        for _ in range(count):
            times.append(await self.ping())
            if pause:
                await asyncio.sleep(pause / 1000)
        return times

    async def both(self, total: int, size: int) -> tuple[float, list[float]]:
        bulk = asyncio.ensure_future(self.bulk(total, size))
        times: list[float] = []
        while not bulk.done():
            times.append(await self.ping())
            await asyncio.sleep(0.002)
        return await bulk, times


def usage() -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
    return {"cpu": used.ru_utime + used.ru_stime, "rss": pages * 4096, "bytes": sunk[0]}


def without(lever: str) -> None:
    """Take one lever away in this process, to measure what it gives."""
    from doorstep.transport import webrtc_udp as udp
    from doorstep.transport.sctp import congestion, inbound, pacing

    if lever in ("segments", "batches"):
        udp._UDP_GRO, udp.UdpTransport.segments = -1, False
    if lever == "batches":
        udp._READS = 1
    elif lever == "clock":
        udp._TIMESTAMP = -1
    elif lever == "sacks":
        inbound.SACK_AT_MOST = inbound._OTHERS_SACK = inbound.SACK_EVERY = 1
    elif lever == "window":
        inbound.WINDOW = 1 << 17
    elif lever == "pacing":
        pacing._FAST = 1e9
    elif lever == "delay":  # losses only, each halves the window
        congestion._WEATHER = congestion._CONGESTION = 0.5
        congestion._TARGET_LEAST = congestion._TARGET_MOST = congestion._STARTED_LEAST = 10.0
        congestion._STARTED_MOST = 10.0


class Commands:
    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make
        self.peer = make()
        self.others: list[Any] = []
        """Connections that are only there."""
        self.near: Near
        self.began = self.took = 0.0

    async def offer(self, _: Any) -> str:
        self.began = time.perf_counter()
        self.near = Near(self.peer)
        return await self.peer.create_offer()

    async def accept(self, one: dict[str, Any]) -> str:
        return await self.peer.accept_offer(one["sdp"])

    async def answer(self, one: dict[str, Any]) -> None:
        await self.peer.apply_answer(one["sdp"])
        await self.near.opened.wait()
        self.took = time.perf_counter() - self.began

    async def opened(self, _: Any) -> float:
        return self.took

    async def bulk(self, one: dict[str, Any]) -> float:
        return await self.near.bulk(one["bytes"], one["size"])

    async def pull(self, one: dict[str, Any]) -> float:
        return await self.near.pull(one["bytes"], one["size"])

    async def echo(self, one: dict[str, Any]) -> list[float]:
        return await self.near.echo(one["count"], one["pause"])

    async def both(self, one: dict[str, Any]) -> tuple[float, list[float]]:
        return await self.near.both(one["bytes"], one["size"])

    async def another(self, _: Any) -> str:
        self.others.append(self.make())
        self.others[-1].open("echo")
        return await self.others[-1].create_offer()

    async def accept_another(self, one: dict[str, Any]) -> str:
        self.others.append(self.make())
        return await self.others[-1].accept_offer(one["sdp"])

    async def answer_another(self, one: dict[str, Any]) -> None:
        await self.others[-1].apply_answer(one["sdp"])

    async def close(self) -> None:
        for peer in (self.peer, *self.others):
            await peer.close()

    async def usage(self, _: Any) -> dict[str, float]:
        return usage()


async def main(road: str) -> None:
    commands = Commands(StockPeer if road == "aiortc" else OpenPeer)
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        command = json.loads(line)
        print(json.dumps(await getattr(commands, command["do"])(command)), flush=True)  # noqa: T201
    await commands.close()


if __name__ == "__main__":
    for name in sys.argv[2:]:
        without(name)
    asyncio.run(main(sys.argv[1]))
