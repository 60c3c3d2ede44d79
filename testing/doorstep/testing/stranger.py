"""Testing: an HTTP server that wishes nobody well: no end in bytes, none in time, much packed into little."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

__all__ = ["TOO_MUCH", "Says", "Stranger", "bomb", "endless", "stranger", "trickle"]

_MIB = 1 << 20
TOO_MUCH = 48 * _MIB
"""More than any answer of ours and what sockets hold: what is sent beyond it, somebody has read."""
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Stranger:
    """What it was asked (the requests' heads), and how many bytes of an endless answer it got rid of."""

    def __init__(self, url: str, says: Says) -> None:
        self.url = url
        self.asked: list[bytes] = []
        self.sent = 0
        self._says = says

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            await self._says(self, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


Says = Callable[[Stranger, asyncio.StreamWriter], Awaitable[None]]
"""Writes an answer, head and all."""


async def endless(stranger: Stranger, writer: asyncio.StreamWriter) -> None:
    """White space before a value of JSON. It has an end, for the machine of who takes the limits away."""
    writer.write(_HEAD + b"\r\n")
    while stranger.sent < 4 * TOO_MUCH:
        writer.write(b" " * _MIB)
        await writer.drain()
        stranger.sent += _MIB


async def bomb(_: Stranger, writer: asyncio.StreamWriter) -> None:
    """Packed, though nobody asked for that: 64 KiB that are 64 MiB."""
    body = gzip.compress(b" " * (64 * _MIB))
    writer.write(_HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()


async def trickle(_: Stranger, writer: asyncio.StreamWriter) -> None:
    """A byte often enough that no wait for the next one comes to its end."""
    writer.write(_HEAD + b"\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


@asynccontextmanager
async def stranger(says: Says) -> AsyncGenerator[Stranger, None]:
    """One on a loopback port, until whoever asked has hung up."""
    asking: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        asking.add(task)
        await one.answer(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    one = Stranger(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", says)
    try:
        yield one
    finally:
        server.close()
        if asking:
            await asyncio.wait(asking)
        await server.wait_closed()
