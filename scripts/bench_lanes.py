"""Bench: keystroke echo beside a file at full speed, on WebRTC and on the relay, through the whole product.

Hub, agent and client are processes of their own on loopback; the echo is that of a raw PTY. What a lane above
the file is worth: WebRTC at most twice its idle p99, the relay at most 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from doorstep.client import Agent, Terminal, connect
from doorstep.testing.stack import StackUser, stack

MB = 1_000_000
_APART = 0.004
"""Seconds between two keys: a fast typist's repeat is 0.03."""
Road = Literal["direct", "relay"]


class Echo(NamedTuple):
    """Milliseconds, and the file's MB/s meanwhile."""

    p50: float
    p99: float
    most: float
    rate: float


async def main() -> None:
    options = _options()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, loopback")
    what = f"echo of {options.keys} keys, {options.runs} runs"
    print(f"\n{what:<30}     p50     p99  max ms   x idle p99    file MB/s")
    with tempfile.TemporaryDirectory() as directory:
        async with stack(Path(directory)) as running:
            user = await running.user()
            home = Path(directory) / "home"
            home.mkdir()
            await running.agent(user, "bench", environment={"HOME": str(home)})
            for road in options.roads:
                await _road(user, road, Path(directory), options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=500, help="keystrokes to time")
    parser.add_argument("--runs", type=int, default=3, help="of each, in turn; the medians are printed")
    parser.add_argument("--megabytes", type=int, default=64, help="size of the file, sent again and again")
    parser.add_argument("--roads", nargs="+", default=["direct", "relay"], choices=["direct", "relay"])
    return parser.parse_args()


async def _road(user: StackUser, road: Road, directory: Path, options: argparse.Namespace) -> None:
    source = directory / "bulk"
    source.write_bytes(os.urandom(options.megabytes * MB))
    async with (
        connect("bench", credentials=user.credentials, force=road) as session,
        session.terminal(80, 24, command=["cat"]) as terminal,
    ):
        wire = str(session.stats()["wire"])
        await session.files.upload(source, "bulk")
        runs: dict[str, list[Echo]] = {"idle": [], "upload": [], "download": []}
        for _ in range(options.runs):  # interleaved, so that a noisy machine is noisy for all
            for load, echoes in runs.items():
                async with _loaded(session, load, source) as moved:
                    echoes.append(await _echo(terminal, options.keys, moved))
    idle = _median(runs["idle"])
    for load, echoes in runs.items():
        echo = _median(echoes)
        beside = "" if load == "idle" else f"{echo.p99 / idle.p99:13.2f}{echo.rate:13.1f}"
        print(f"  {wire:<8}{load:<20}{echo.p50:8.2f}{echo.p99:8.2f}{echo.most:8.1f}{beside}", flush=True)


def _median(echoes: list[Echo]) -> Echo:
    return Echo(*(sorted(figures)[len(figures) // 2] for figures in zip(*echoes, strict=True)))


@asynccontextmanager
async def _loaded(session: Agent, load: str, source: Path) -> AsyncGenerator[list[float]]:
    """Move the file up or down again and again; yield the (growing) list of when a MB had gone."""
    moved: list[float] = []

    async def move() -> None:
        total = 0

        def progress(done: int, _size: int | None) -> None:
            nonlocal total
            while done // MB > total // MB:
                total += MB
                moved.append(time.perf_counter())

        while True:
            total = 0
            if load == "upload":
                await session.files.upload(source, "up", on_progress=progress)
            else:
                await session.files.download("bulk", source.with_name("down"), on_progress=progress)

    if load == "idle":
        yield moved
        return
    moving = asyncio.create_task(move())
    try:
        while len(moved) < 20 and not moving.done():  # past the start
            await asyncio.sleep(0.01)
        yield moved
    finally:
        moving.cancel()
        await asyncio.wait({moving})


async def _echo(terminal: Terminal, keys: int, moved: list[float]) -> Echo:
    took: list[float] = []
    began, before = time.perf_counter(), len(moved)
    for number in range(keys):
        start = time.perf_counter()
        await terminal.write(b"abcdefgh"[number % 8 : number % 8 + 1])
        await asyncio.wait_for(terminal.read(1), 20)
        took.append((time.perf_counter() - start) * 1000)
        await asyncio.sleep(_APART)
    rate = (len(moved) - before) / (time.perf_counter() - began)
    took.sort()
    return Echo(took[len(took) // 2], took[int(len(took) * 0.99)], took[-1], rate)


if __name__ == "__main__":
    asyncio.run(main())
