#!/usr/bin/env python3
"""Measure each step from nothing to an open WebRTC wire, both peers on this machine.

Prints medians over N connects in one process, and what is paid once. ``--stock`` adds aiortc's own
``RTCPeerConnection`` with the same four channels for comparison.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / room) for room in ("protocol", "runtime", "transport")]

from doorstep.protocol.lanes import REQUIRED_LANES  # noqa: E402 - needs the path above

BEGAN = time.perf_counter()
from doorstep.transport.webrtc import Peer  # noqa: E402

IMPORTED = time.perf_counter()
from doorstep.transport.certificate import process_certificate  # noqa: E402

process_certificate()
CERTIFIED = time.perf_counter()

Steps = dict[str, list[float]]


async def connect(steps: Steps) -> None:
    def step(name: str, since: float) -> float:
        now = time.perf_counter()
        steps[name].append((now - since) * 1000)
        return now

    began = at = time.perf_counter()
    near, far = Peer([]), Peer([])
    at = step("two peers made", at)
    offer = await near.create_offer()
    at = step("offer, gathered", at)
    answer = await far.accept_offer(offer)
    at = step("answer, gathered", at)
    await near.apply_answer(answer)
    at = step("answer applied", at)
    wire, _ = await asyncio.gather(near.wire(), far.wire())
    at = step("applied to open", at)
    step("all", began)
    taken = wire.stats()["connectMs"]
    assert isinstance(taken, dict)
    for name, milliseconds in taken.items():
        steps[f"  of which {name}"].append(milliseconds)
    at = time.perf_counter()
    await near.close()
    await far.close()
    step("both closed", at)


async def connect_stock(steps: Steps) -> None:
    from aiortc import RTCConfiguration, RTCPeerConnection

    began = time.perf_counter()
    near, far = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    opened = asyncio.Event()
    channels = [near.createDataChannel(lane.value) for lane in REQUIRED_LANES]

    def check() -> None:
        if all(channel.readyState == "open" for channel in channels):
            opened.set()

    for channel in channels:
        channel.on("open", check)
    await near.setLocalDescription(await near.createOffer())
    await far.setRemoteDescription(near.localDescription)
    await far.setLocalDescription(await far.createAnswer())
    await near.setRemoteDescription(far.localDescription)
    await opened.wait()
    steps["stock aiortc, all"].append((time.perf_counter() - began) * 1000)
    await near.close()
    await far.close()


async def measure(runs: int, stock: bool) -> Steps:
    steps: Steps = defaultdict(list)
    for _ in range(runs):
        await connect(steps)
        if stock:
            await connect_stock(steps)
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--stock", action="store_true", help="compare with RTCPeerConnection")
    options = parser.parse_args()
    print(f"{'once: import aiortc':24} {(IMPORTED - BEGAN) * 1000:8.1f} ms")
    print(f"{'once: certificate':24} {(CERTIFIED - IMPORTED) * 1000:8.1f} ms")
    for name, values in asyncio.run(measure(options.runs, options.stock)).items():
        print(f"{name:24} {statistics.median(values):8.2f} ms   worst {max(values):8.2f}")


if __name__ == "__main__":
    main()
