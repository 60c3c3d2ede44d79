"""Measure the session: codec, bulk, echo and calls, over a wire in this process; CPU time, best of a few.

CPU time is what this code costs; a real wire's cost comes on top (scripts/bench_datachannel.py).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / room) for room in ("protocol", "transport", "runtime", "testing")]

from doorstep.protocol.frames import Data, Frame, Window, decode, encode  # noqa: E402 - after the path
from doorstep.protocol.ids import SessionId  # noqa: E402
from doorstep.protocol.lanes import Lane  # noqa: E402
from doorstep.protocol.limits import DATA_CHUNK, MAX_FRAME  # noqa: E402
from doorstep.runtime import Role, Session  # noqa: E402
from doorstep.testing.echo import EchoService  # noqa: E402
from doorstep.transport.local import LocalWire  # noqa: E402

ROUNDS = 3
BULK = 256 * 1024 * 1024
SMALL = 5_000


class CodecWire(LocalWire):
    """A wire in this process that serialises what it carries, as every other wire does."""

    def arrive(self, lane: Lane, frame: Frame, size: int) -> None:
        again = decode(encode(frame))
        assert again is not None
        super().arrive(lane, again, size)


@asynccontextmanager
async def sessions(kind: type[LocalWire]) -> AsyncGenerator[Session, None]:
    one, other = kind(None, MAX_FRAME), kind(None, MAX_FRAME)
    one.join(other)
    other.join(one)
    client = Session(role=Role.CLIENT, session_id=SessionId("benchmark"))
    agent = Session(role=Role.AGENT, session_id=SessionId("benchmark"), services={"echo": EchoService()})
    await asyncio.gather(client.start(one), agent.start(other))
    try:
        yield client
    finally:
        await client.close()
        await agent.close()


def best(play: Callable[[], None]) -> float:
    """Return the least CPU seconds of a few rounds."""
    rounds: list[float] = []
    for _ in range(ROUNDS):
        start = time.process_time()
        play()
        rounds.append(time.process_time() - start)
    return min(rounds)


def best_async(kind: type[LocalWire], work: Callable[[Session], Coroutine[Any, Any, None]]) -> float:
    async def play() -> float:
        async with sessions(kind) as client:
            start = time.process_time()
            await work(client)
            return time.process_time() - start

    return min(asyncio.run(play()) for _ in range(ROUNDS))


def codec_times() -> dict[str, float]:
    """Microseconds per frame."""
    found: dict[str, float] = {}
    frames: dict[str, Frame] = {
        "DATA 16 KiB": Data(1, 5_000_000, bytes(DATA_CHUNK)),
        "DATA 32 B": Data(1, 5_000_000, bytes(32)),
        "WINDOW": Window(1, 5_000_000, 9_000_000),
    }
    for name, frame in frames.items():
        message, count = encode(frame), 100_000

        def encoding(frame: Frame = frame, count: int = count) -> None:
            for _ in range(count):
                encode(frame)

        def decoding(message: bytes = message, count: int = count) -> None:
            for _ in range(count):
                decode(message)

        found[f"encode {name}"] = best(encoding) / count * 1e6
        found[f"decode {name}"] = best(decoding) / count * 1e6
    return found


async def bulk(client: Session) -> None:
    stream = await client.open("echo", "sink", lane=Lane.FILE_TRANSFER)
    piece = bytes(1 << 20)
    for _ in range(BULK >> 20):
        await stream.write(piece)
    await stream.finish()
    assert await stream.read() == b""
    assert stream.trailer == {"received": BULK}


async def echo(client: Session) -> None:
    stream = await client.open("echo", "back", lane=Lane.TERMINAL_IO)
    for _ in range(SMALL):
        await stream.write(b"x" * 32)
        await stream.read()


async def calls(client: Session) -> None:
    for _ in range(SMALL):
        await client.call("echo.say", {"n": 1})


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    as_json = arguments.parse_args().json
    found = {f"{name} (us)": seconds for name, seconds in codec_times().items()}
    for name, kind in (("local", LocalWire), ("local, encoded", CodecWire)):
        seconds = best_async(kind, bulk)
        found[f"bulk, {name} (MB per CPU second, both ends)"] = BULK / 1e6 / seconds
        found[f"bulk, {name} (us per 16 KiB, both ends)"] = seconds / (BULK / DATA_CHUNK) * 1e6
        found[f"echo of 32 B, {name} (us, there and back)"] = best_async(kind, echo) / SMALL * 1e6
        found[f"call, {name} (us, there and back)"] = best_async(kind, calls) / SMALL * 1e6
    found = {name: round(value, 2) for name, value in found.items()}
    if as_json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:55} {value:10.2f}")


if __name__ == "__main__":
    main()
