#!/usr/bin/env python3
"""Measure the DataChannel wire: bulk throughput, and a 32-byte echo idle and under bulk.

The peer runs in a process of its own (``--together``: in this one). Read ratios, not absolutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / room) for room in ("protocol", "runtime", "transport")]

from doorstep.protocol.frames import Data, Fin, Frame  # noqa: E402 - needs the path above
from doorstep.protocol.lanes import Lane  # noqa: E402
from doorstep.protocol.limits import DATA_CHUNK  # noqa: E402
from doorstep.transport.webrtc import Peer, WebRtcWire  # noqa: E402

Answer = Callable[[str], Awaitable[str]]


class Echo:
    """The far end: sends terminal bytes back, counts file bytes, answers FIN with the count."""

    def __init__(self, wire: WebRtcWire) -> None:
        self.wire = wire
        self.received = 0
        wire.start(self.receive)

    def receive(self, lane: Lane, frame: Frame) -> None:
        if lane is Lane.TERMINAL_IO:
            self.wire.send(lane, frame)
        elif isinstance(frame, Data):
            self.received += len(frame.payload)
        elif isinstance(frame, Fin):
            self.wire.send(Lane.CONTROL, Fin(1, self.received, {}))
            self.received = 0


class Near:
    """This end: one echo at a time, and a count that the far end sends back."""

    def __init__(self, wire: WebRtcWire) -> None:
        self.wire = wire
        self.echo = asyncio.Event()
        self.counted = asyncio.Event()
        wire.start(self.receive)

    def receive(self, lane: Lane, _frame: Frame) -> None:
        (self.echo if lane is Lane.TERMINAL_IO else self.counted).set()

    async def ping(self) -> float:
        self.echo.clear()
        began = time.perf_counter()
        self.wire.send(Lane.TERMINAL_IO, Data(2, 0, bytes(32)))
        await self.echo.wait()
        return time.perf_counter() - began

    async def bulk(self, size: int) -> float:
        """Send ``size`` bytes; return MB/s until the far end has counted them."""
        chunk = bytes(DATA_CHUNK)
        self.counted.clear()
        began = time.perf_counter()
        for offset in range(0, size, len(chunk)):
            self.wire.send(Lane.FILE_TRANSFER, Data(1, offset, chunk))
            await self.wire.drained(Lane.FILE_TRANSFER)
        self.wire.send(Lane.FILE_TRANSFER, Fin(1, size, {}))
        await self.counted.wait()
        return size / 1e6 / (time.perf_counter() - began)


async def echoes(near: Near, count: int, pause: float) -> list[float]:
    found: list[float] = []
    for _ in range(count):
        found.append(await near.ping())
        await asyncio.sleep(pause)
    return found


async def echoes_while(near: Near, task: asyncio.Task[float]) -> list[float]:
    found: list[float] = []
    while not task.done():
        found.append(await near.ping())
        await asyncio.sleep(0.002)
    return found


async def measure(wire: WebRtcWire, megabytes: int, runs: int) -> None:
    near = Near(wire)
    await echoes(near, 50, 0)
    idle = await echoes(near, 500, 0.0005)
    await near.bulk(2_000_000)
    rates = [await near.bulk(megabytes * 1_000_000) for _ in range(runs)]
    busy: list[float] = []
    for _ in range(runs):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(near.bulk(megabytes * 1_000_000))
            busy += await echoes_while(near, task)
    report("32 B echo, idle", idle)
    report("32 B echo, under bulk", busy)
    each = " ".join(f"{rate:.1f}" for rate in rates)
    print(
        f"bulk, {DATA_CHUNK // 1024} KiB frames    median {statistics.median(rates):.1f} MB/s   runs {each}"
    )
    print(f"round trip (SCTP)      {wire.stats()['roundTripMs']} ms")


def report(name: str, seconds: list[float]) -> None:
    ordered = sorted(value * 1e6 for value in seconds)
    p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    print(f"{name:22} p50 {p50:8.0f} µs   p99 {p99:8.0f} µs   worst {ordered[-1]:8.0f} µs   n {len(ordered)}")


async def offer_to(answer: Answer, megabytes: int, runs: int) -> None:
    peer = Peer([])
    try:
        await peer.apply_answer(await answer(await peer.create_offer()))
        await measure(await peer.wire(), megabytes, runs)
    finally:
        await peer.close()


async def together(megabytes: int, runs: int) -> None:
    far = Peer([])

    async def echo() -> None:
        Echo(await far.wire())

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(echo())
            await offer_to(far.accept_offer, megabytes, runs)
    finally:
        await far.close()


@asynccontextmanager
async def far_process() -> AsyncIterator[Answer]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--far", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    reader, writer = child.stdout, child.stdin

    async def answer(offer: str) -> str:
        writer.write(json.dumps(offer).encode() + b"\n")
        return str(json.loads(await reader.readline()))

    try:
        yield answer
    finally:
        writer.close()
        await child.wait()


async def be_far() -> None:
    peer = Peer([])
    offer = json.loads(await asyncio.to_thread(sys.stdin.readline))
    print(json.dumps(await peer.accept_offer(offer)), flush=True)
    wire = await peer.wire()
    Echo(wire)
    await wire.wait_closed()
    await peer.close()


async def apart(megabytes: int, runs: int) -> None:
    async with far_process() as answer:
        await offer_to(answer, megabytes, runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=20, help="per bulk run (default: 20)")
    parser.add_argument("--runs", type=int, default=3, help="bulk runs (default: 3)")
    parser.add_argument("--together", action="store_true", help="both peers in this process")
    parser.add_argument("--far", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.far:
        asyncio.run(be_far())
    else:
        asyncio.run((together if options.together else apart)(options.megabytes, options.runs))


if __name__ == "__main__":
    main()
