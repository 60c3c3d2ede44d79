"""Testing: work that shows every lost, repeated or misplaced byte, and cuts that go through it.

Used by tests/faults with a few cuts and by scripts/soak with many.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from doorstep.client import Agent

__all__ = ["Load", "cut_often", "working"]

_LINES = """
stty -opost -echo
i=1
while [ ! -e "$0" ]; do seq $i $((i + 499)); i=$((i + 500)); sleep 0.05; done
echo end
"""
_BLOCK = 1 << 20


@dataclass
class Load:
    """What was moved without a fault so far."""

    lines: int = 0
    transfers: int = 0
    bytes: int = 0
    keys: int = 0
    changes: list[float] = field(default_factory=list[float])
    """Seconds from each cut to the next answer."""


@asynccontextmanager
async def working(agent: Agent, directory: Path, size: int) -> AsyncGenerator[Load, None]:
    """Keep a terminal that prints numbered lines, one that echoes keys and transfers of ``size`` bytes going
    for the time of the block; then wait for their ends. Raises what went wrong."""
    load = Load()
    stop, stopped = directory / "stop", asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_lines(agent, stop, load))
        group.create_task(_keys(agent, stopped, load))
        group.create_task(_transfers(agent, directory, size, stopped, load))
        try:
            yield load
        finally:
            stopped.set()
            await asyncio.to_thread(stop.touch)


async def cut_often(
    agent: Agent, load: Load, count: int, chance: random.Random, cut: Callable[[Agent], Awaitable[None]]
) -> None:
    """Cut ``count`` times at random moments; wait for a sign of life after each."""
    loop = asyncio.get_running_loop()
    for number in range(count):
        await asyncio.sleep(chance.uniform(0, 0.6))
        start = loop.time()
        await cut(agent)
        told = {"n": number, "session": "lives"}
        assert await agent.call("terminal.list", timeout=60) is not None, told
        load.changes.append(round(loop.time() - start, 3))


async def _lines(agent: Agent, stop: Path, load: Load) -> None:
    async with agent.terminal(command=["/bin/sh", "-c", _LINES, str(stop)]) as terminal:
        rest = b""
        while b"end\n" not in rest:
            rest += await terminal.read()
            *lines, rest = rest.split(b"\n") if b"end" not in rest else [*rest.split(b"\n")[:-2], b"end\n"]
            for line in lines:
                load.lines += 1
                assert int(line) == load.lines, f"line {load.lines} is {line!r}"


async def _keys(agent: Agent, stopped: asyncio.Event, load: Load) -> None:
    async with agent.terminal(command=["/bin/sh", "-c", "stty raw -echo; echo ready; exec cat"]) as terminal:
        await terminal.expect("ready\n", timeout=30)
        while not stopped.is_set():
            key = b"%08d" % load.keys
            await terminal.write(key)
            found = b""
            while len(found) < len(key):
                found += await terminal.read()
            assert found == key
            load.keys += 1


async def _transfers(agent: Agent, directory: Path, size: int, stopped: asyncio.Event, load: Load) -> None:
    there, back = directory / "there", directory / "back"
    sent = hashlib.sha256()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, size, _BLOCK):
            block = os.urandom(min(_BLOCK, size - at))
            sent.update(block)
            yield block

    while True:
        sent = hashlib.sha256()
        await agent.files.write(str(there), pieces())
        await agent.files.download(str(there), back)
        assert await asyncio.to_thread(_hash, back) == sent.hexdigest()
        load.transfers += 2
        load.bytes += 2 * size
        if stopped.is_set():
            return


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
