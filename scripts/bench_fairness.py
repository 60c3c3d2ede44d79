#!/usr/bin/env python3
"""Measure who gets what when flows of ours share a link with the kernel's TCP. Needs root (namespaces, TUN).

Two namespaces, between them a link of ours with a rate, a round trip and a queue; in them peers as processes,
and a bulk flow of the kernel's TCP. Also ``scripts/bench sctp --tcp``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / room) for room in ("protocol", "testing", "transport")]

from doorstep.testing.lab_link import TunLink  # noqa: E402 - needs the path above
from doorstep.testing.lab_net import Namespaces, inside, sweep  # noqa: E402
from doorstep.testing.link import Conditions  # noqa: E402

PEERS = ROOT / "tests" / "transport" / "sctp" / "peers"
NEAR, FAR, PORT = "10.77.0.1", "10.77.0.2", 5201
LIMIT = 60.0
LOTS = 1 << 40


class Peer:
    """A program in a namespace that answers lines."""

    def __init__(self, namespace: str, *command: str) -> None:
        self._command = (*inside(namespace), sys.executable, *command)
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> Peer:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=-1, stdout=-1, limit=1 << 24
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        await self._process.wait()

    async def line(self) -> Any:
        assert self._process.stdout is not None
        async with asyncio.timeout(LIMIT):
            return json.loads(await self._process.stdout.readline())

    def say(self, what: str, **arguments: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}).encode() + b"\n")

    async def do(self, what: str, **arguments: object) -> Any:
        self.say(what, **arguments)
        return await self.line()


async def sctp(stack: AsyncExitStack, near: str, far: str) -> Peer:
    """Start a bulk flow of ours; return the end that counts."""
    ends = [
        await stack.enter_async_context(Peer(one, str(PEERS / "plain.py"), "direct")) for one in (near, far)
    ]
    answer = await ends[1].do("accept", sdp=await ends[0].do("offer"))
    await ends[0].do("answer", sdp=answer)
    ends[0].say("bulk", bytes=LOTS, size=65536)
    return ends[1]


async def tcp(stack: AsyncExitStack, near: str, far: str, congestion: str) -> Peer:
    listener = await stack.enter_async_context(Peer(far, str(PEERS / "tcp.py"), "listen", FAR, str(PORT)))
    await listener.line()
    await stack.enter_async_context(Peer(near, str(PEERS / "tcp.py"), "send", FAR, str(PORT), congestion))
    return listener


async def counted(peer: Peer) -> int:
    found = await peer.do("usage")
    return int(found["bytes"] if isinstance(found, dict) else found)


async def measure(options: argparse.Namespace, congestion: str) -> tuple[list[float], float]:
    """Mbit/s of each flow, and the median of the queue in ms."""
    await sweep()
    conditions = Conditions(rate=options.rate * 1e6, delay=options.rtt / 2000, queue=options.queue / 1000)
    namespaces, link = Namespaces(), TunLink(conditions)
    try:
        near, far = await namespaces.make("near", "far")
        await link.open((near, "path"), (far, "path"))
        for namespace, address in ((near, NEAR), (far, FAR)):
            await namespaces.ip(namespace, [f"addr add {address}/24 dev path", "link set path up"])
        async with AsyncExitStack() as stack:
            flows = [await tcp(stack, near, far, congestion)] if options.first else []
            for _ in range(options.ours):
                flows.append(await sctp(stack, near, far))
                await asyncio.sleep(1)
            if not options.first:
                flows.append(await tcp(stack, near, far, congestion))
            else:
                flows.append(flows.pop(0))
            await asyncio.sleep(options.warm)
            before = [await counted(flow) for flow in flows]
            queues: list[float] = []
            for _ in range(int(options.seconds * 10)):
                await asyncio.sleep(0.1)
                queues.append(link.waiting)
            after = [await counted(flow) for flow in flows]
        rates = [(b - a) * 8e-6 / options.seconds for a, b in zip(before, after, strict=True)]
        return rates, statistics.median(queues) * 1000
    finally:
        link.close()
        await namespaces.close()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=20, help="Mbit/s (default: 20)")
    parser.add_argument("--rtt", type=float, default=50, help="ms (default: 50)")
    parser.add_argument("--queue", type=float, default=100, help="ms (default: 100)")
    parser.add_argument("--ours", type=int, default=2, help="flows of ours (default: 2)")
    parser.add_argument(
        "--congestion",
        nargs="+",
        default=["cubic", "reno"],
        help="of the kernel's TCP (default: cubic, then reno)",
    )
    parser.add_argument("--first", action="store_true", help="the TCP comes first")
    parser.add_argument("--warm", type=float, default=15)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args(arguments)
    for congestion in options.congestion:
        rates, queue = asyncio.run(measure(options, congestion))
        fair = options.rate / len(rates)
        names = [*(f"ours {n + 1}" for n in range(options.ours)), f"TCP {congestion}"]
        for name, rate in zip(names, rates, strict=True):
            print(f"{name:12} {rate:6.2f} Mbit/s, {rate / fair:.2f} of a fair share of the link")
        print(f"queue, median: {queue:.0f} ms")


if __name__ == "__main__":
    main()
