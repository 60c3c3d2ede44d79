"""Measure the hub's realtime sockets: fan-out, latency, joins, memory. The hub runs in a process of its own.

    fan-out   one client broadcasts 200 bytes to 50: CPU of the hub per delivered message
    latency   one client broadcasts to another 1,000 times a second: from send to receive, on loopback
    joins     ten sockets join and leave a public topic, and a private one with a token
    memory    sockets that have joined and do nothing: resident memory of the hub for each

The clients are plain asyncio protocols, so that they leave the machine to the hub. Limits are raised.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / room) for room in ("protocol", "hub", "testing")]

from doorstep.hub.config import RealtimeLimits  # noqa: E402 - after the path
from doorstep.testing.hub import throw_away_hub  # noqa: E402

MOST = 10**9
LIMITS = RealtimeLimits(
    connections=MOST, sockets=MOST, joins_per_second=MOST, events_per_second=MOST, channels_per_socket=MOST
)
TARGETS = {"fan-out": 25.0, "p50": 2.0, "p99": 10.0, "joins": 300.0, "memory": 40.0}
READY = b"\r\n\r\n"


# The hub's process


async def serve(directory: Path) -> None:
    """Run a hub; on each line of the standard input tell CPU seconds and resident memory."""
    async with throw_away_hub(directory, realtime=LIMITS) as hub:
        user = await hub.user()
        about = {"url": hub.url, "key": hub.anon_key, "token": user.access_token}
        print(json.dumps(about | {"topic": f"user:{user.id}:agents"}), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            used = resource.getrusage(resource.RUSAGE_SELF)
            print(json.dumps({"cpu": used.ru_utime + used.ru_stime, "rss": resident()}), flush=True)


def resident() -> int:
    """This process's resident memory in bytes."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        found = subprocess.check_output(["ps", "-o", "rss=", "-p", str(os.getpid())], text=True)
        return int(found) * 1024
    return pages * resource.getpagesize()


class Hub:
    """The hub's process, seen from here."""

    def __init__(self, process: asyncio.subprocess.Process, about: dict[str, str]) -> None:
        self._process = process
        self.host, port = about["url"].removeprefix("http://").split(":")
        self.port = int(port)
        self.key, self.token, self.topic = about["key"], about["token"], about["topic"]

    async def usage(self) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        usage: dict[str, float] = json.loads(await self._process.stdout.readline())
        return usage


@asynccontextmanager
async def hub_process() -> AsyncGenerator[Hub, None]:
    pipe = asyncio.subprocess.PIPE
    with tempfile.TemporaryDirectory() as directory:
        command = (sys.executable, __file__, "--serve", directory)
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        try:
            assert process.stdout is not None
            yield Hub(process, json.loads(await process.stdout.readline()))
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()


# The clients


class Client(asyncio.Protocol):
    """A realtime socket as cheap as Python makes one: counts frames, keeps none unless asked to."""

    def __init__(self) -> None:
        self.frames = 0
        self.on_frame: Callable[[bytes], None] | None = None
        self._buffer = b""
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._wanted = 0

    @classmethod
    async def connect(cls, hub: Hub, vsn: str = "2.0.0") -> Client:
        loop = asyncio.get_running_loop()
        transport, client = await loop.create_connection(cls, hub.host, hub.port)
        path = f"/realtime/v1/websocket?apikey={hub.key}&vsn={vsn}"
        headers = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13"
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        request = f"GET {path} HTTP/1.1\r\nHost: {hub.host}\r\n{headers}\r\n{key}\r\n\r\n"
        transport.write(request.encode())
        await client.until(1)
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        position = 0
        if self.frames == 0:
            position = data.find(READY) + len(READY)
            if position < len(READY):
                self._buffer = data
                return
            self.frames = 1  # the handshake counts as one
        while (end := frame_end(data, position)) is not None:
            self.frames += 1
            if self.on_frame is not None:
                self.on_frame(data[position:end])
            position = end
        self._buffer = data[position:]
        if self._waiter is not None and self.frames >= self._wanted and not self._waiter.done():
            self._waiter.set_result(None)

    async def until(self, frames: int, seconds: float = 60) -> None:
        """Wait until so many frames have come in all."""
        if self.frames < frames:
            self._wanted = frames
            self._waiter = asyncio.get_running_loop().create_future()
            async with asyncio.timeout(seconds):
                await self._waiter

    def send(self, *message: Any) -> None:
        self.write(json.dumps(message).encode())

    def write(self, payload: bytes) -> None:
        """Send a text frame; its mask is zero."""
        length = len(payload)
        head = bytes((0x81, 0x80 | length)) if length < 126 else b"\x81\xfe" + length.to_bytes(2, "big")
        self._transport.write(head + b"\0\0\0\0" + payload)

    async def join(self, ref: str, topic: str, token: str | None = None) -> None:
        """Join and wait for the reply."""
        payload: dict[str, Any] = {"config": {"private": token is not None}}
        if token is not None:
            payload["access_token"] = token
        frames = self.frames
        self.send(ref, ref, f"realtime:{topic}", "phx_join", payload)
        await self.until(frames + 1)

    async def leave(self, ref: str, topic: str) -> None:
        frames = self.frames
        self.send(ref, ref, f"realtime:{topic}", "phx_leave", {})
        await self.until(frames + 2)

    def close(self) -> None:
        self._transport.abort()


def frame_end(data: bytes, start: int) -> int | None:
    """Where the server's frame at ``start`` ends, if all of it is there."""
    if len(data) < start + 2:
        return None
    length, head = data[start + 1], 2
    if length >= 126:
        head = 4 if length == 126 else 10
        length = int.from_bytes(data[start + 2 : start + head], "big")
    end = start + head + length
    return end if end <= len(data) else None


@asynccontextmanager
async def clients(hub: Hub, count: int, vsn: str = "2.0.0") -> AsyncGenerator[list[Client], None]:
    async with AsyncExitStack() as stack:
        made: list[Client] = []
        for _ in range(count):
            made.append(await Client.connect(hub, vsn))
            stack.callback(made[-1].close)
        yield made


def tick(number: int, filling: int = 150) -> bytes:
    payload = {"n": number, "at": time.perf_counter(), "fill": "x" * filling}
    message = {"type": "broadcast", "event": "tick", "payload": payload}
    return json.dumps(["1", str(number), "realtime:bench", "broadcast", message]).encode()


async def paced(rate: float, count: int, send: Callable[[int], None]) -> None:
    """Call ``send`` so many times, ``rate`` a second."""
    began = time.perf_counter()
    for number in range(count):
        left = began + number / rate - time.perf_counter()
        if left > 0.0005:
            await asyncio.sleep(left)
        send(number)


# What is measured


async def fan_out(hub: Hub, vsn: str, *, rate: float, seconds: float, receivers: int = 50) -> float:
    """CPU microseconds of the hub per delivered message."""
    count = int(rate * seconds)
    async with clients(hub, receivers + 1, vsn) as (sender, *others):
        for client in (sender, *others):
            await join_as(client, vsn)
        before = await hub.usage()
        began = time.perf_counter()
        await paced(rate, count, lambda number: sender.write(as_vsn(tick(number), vsn)))
        await asyncio.gather(*(client.until(count + 2) for client in others))
        took = time.perf_counter() - began
        cpu = (await hub.usage())["cpu"] - before["cpu"]
    each = cpu / (count * receivers) * 1e6
    print(
        f"fan-out 1 -> {receivers}, vsn {vsn}: {each:.1f} us CPU per delivered message"
        f" ({count * receivers / took:,.0f}/s, {cpu / took:.2f} cores)"
    )
    return each


async def join_as(client: Client, vsn: str) -> None:
    frames = client.frames
    client.write(as_vsn(json.dumps(["1", "1", "realtime:bench", "phx_join", {"config": {}}]).encode(), vsn))
    await client.until(frames + 1)


def as_vsn(frame: bytes, vsn: str) -> bytes:
    """A frame written as an array, as the version has it."""
    if vsn == "2.0.0":
        return frame
    names = ("join_ref", "ref", "topic", "event", "payload")
    return json.dumps(dict(zip(names, json.loads(frame), strict=True))).encode()


async def latency(hub: Hub, *, rate: float, seconds: float) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    waits: list[float] = []

    def take(frame: bytes) -> None:
        at = frame.find(b'"at": ')
        if at > 0:
            waits.append(time.perf_counter() - float(frame[at + 6 : frame.index(b",", at)]))

    async with clients(hub, 2) as (sender, receiver):
        await sender.join("1", "bench")
        await receiver.join("1", "bench")
        receiver.on_frame = take
        count = int(rate * seconds)
        await paced(rate, count, lambda number: sender.write(tick(number)))
        await receiver.until(count + 2)
    waits.sort()
    p50, p99 = waits[len(waits) // 2] * 1e3, waits[len(waits) * 99 // 100] * 1e3
    most = waits[-1] * 1e3
    print(f"broadcast between two at {rate:,.0f}/s: p50 {p50:.2f} ms, p99 {p99:.2f} ms, most {most:.1f} ms")
    return p50, p99


async def joins(hub: Hub, *, seconds: float, private: bool, sockets: int = 10) -> float:
    """Joins, each followed by a leave, per second."""
    topic, token = (hub.topic, hub.token) if private else ("bench", None)

    async def again(client: Client) -> int:
        made, limit = 0, time.perf_counter() + seconds
        while time.perf_counter() < limit:
            await client.join(str(made), topic, token)
            await client.leave(str(made), topic)
            made += 1
        return made

    async with clients(hub, sockets) as all_clients:
        before = await hub.usage()
        made = sum(await asyncio.gather(*map(again, all_clients)))
        cpu = (await hub.usage())["cpu"] - before["cpu"]
    what = "private with a token" if private else "public"
    print(f"joins, {what}: {made / seconds:,.0f}/s ({cpu / made * 1e6:.0f} us CPU with the leave)")
    return made / seconds


async def memory(hub: Hub, count: int) -> float:
    """KiB of resident memory per idle joined socket."""
    async with clients(hub, 50) as some:  # whatever grows once has grown
        await asyncio.gather(*(client.join("1", "warm") for client in some))
    before = await hub.usage()
    async with clients(hub, count) as idle:
        for number, client in enumerate(idle):
            await client.join("1", f"idle{number % 100}")
        after = await hub.usage()
    each = (after["rss"] - before["rss"]) / count / 1024
    mib = after["rss"] / 2**20
    print(f"memory: {each:.1f} KiB per idle joined socket ({count} of them, {mib:.0f} MiB in all)")
    return each


def processor() -> str:
    """The machine's processor, as far as the platform tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=4.0, help="per measurement")
    parser.add_argument("--sockets", type=int, default=1000, help="idle ones, for memory")
    given = parser.parse_args()
    if given.serve is not None:
        await serve(given.serve)
        return 0
    machine = f"{processor()}, {os.cpu_count()} cores"
    print(f"{machine}, {platform.platform()}, Python {platform.python_version()}")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    async with hub_process() as hub:
        each = await memory(hub, given.sockets)
        slowest = max(
            [await fan_out(hub, vsn, rate=300, seconds=given.seconds) for vsn in ("1.0.0", "2.0.0")]
        )
        p50, p99 = await latency(hub, rate=1000, seconds=given.seconds)
        fewest = min(
            [await joins(hub, seconds=given.seconds / 2, private=private) for private in (False, True)]
        )
    reached = {
        "fan-out": slowest <= TARGETS["fan-out"],
        "p50": p50 <= TARGETS["p50"],
        "p99": p99 <= TARGETS["p99"],
        "joins": fewest >= TARGETS["joins"],
        "memory": each <= TARGETS["memory"],
    }
    missed = [f"{name} ({TARGETS[name]:g})" for name, met in reached.items() if not met]
    print("all targets reached" if not missed else f"missed: {', '.join(missed)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
