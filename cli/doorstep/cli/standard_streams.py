"""CLI: standard input and output as bytes, beside a running event loop.

Both may block for as long as they like (a terminal stopped with Ctrl-S, an empty pipe): that happens in
threads, so the session's loop never stands still. A reader that waits at exit dies with the process.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator

__all__ = ["read_input", "write_output"]

_CHUNK = 64 * 1024
_CHUNKS_AHEAD = 4


async def write_output(fd: int, data: bytes) -> None:
    """Write all of ``data``. Raises :class:`BrokenPipeError` when nobody reads any more."""
    await asyncio.to_thread(_write_all, fd, data)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


async def read_input(fd: int = 0) -> AsyncIterator[bytes]:
    """Yield what comes in, at once, until end of file."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[bytes] = asyncio.Queue(_CHUNKS_AHEAD)

    def reading() -> None:
        data = b"-"
        while data:
            data = _read(fd)
            try:
                asyncio.run_coroutine_threadsafe(arrived.put(data), loop).result()
            except (RuntimeError, asyncio.CancelledError):
                return  # the loop has ended: so has the command

    threading.Thread(target=reading, name="doorstep-stdin", daemon=True).start()
    while data := await arrived.get():
        yield data


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _CHUNK)
    except OSError:
        return b""  # a hung-up terminal reads as EIO: the same as its end
