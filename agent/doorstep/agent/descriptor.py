"""Agent: one non-blocking file descriptor in the event loop, with back-pressure both ways.

Nothing is read ahead: a read touches the descriptor only while somebody waits for it, so a program whose
output nobody takes is stopped by the kernel's own buffer.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from functools import partial

__all__ = ["AFTER_EXIT_BYTES", "Descriptor"]

AFTER_EXIT_BYTES = 1 << 20
"""Taken at most after the program's exit: more than any pipe or terminal buffer holds (pipe(7)), so all that
the program wrote itself; a background job that floods the same pipe cannot keep the stream open."""


class Descriptor:
    """Owns ``fd`` from construction to :meth:`close`. One reader and one writer at a time."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self._left = AFTER_EXIT_BYTES
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def closed(self) -> bool:
        return self.fd < 0

    async def read(self, most: int) -> bytes:
        """Return what is there, at most ``most`` bytes, waiting for the first; ``b""`` at the end."""
        while True:
            if (data := self._take(most)) is not None:
                return data
            await self._ready(reading=True)

    async def read_until(self, exited: asyncio.Future[None], linger: float, most: int) -> bytes:
        """Like :meth:`read`, but end also when ``exited`` is done and nothing came for ``linger`` seconds.

        A background job may hold the other end open for ever; what the program itself wrote is still read.
        """
        while True:
            if (data := self._take(most)) is not None:
                return self._counted(data) if exited.done() else data
            if not await self._readable_or(exited, linger):
                return b""

    async def _readable_or(self, exited: asyncio.Future[None], linger: float) -> bool:
        """Wait for bytes or the exit; after the exit at most ``linger`` seconds, False when none came.

        On the way of every keystroke's echo: one future and one turn of the loop.
        """
        readable = self._watch(reading=True)
        wake = partial(_wake_by, readable)
        try:
            if exited.done():
                await asyncio.wait({readable}, timeout=linger)
                return readable.done()
            exited.add_done_callback(wake)
            await readable
        finally:
            exited.remove_done_callback(wake)
            self._unwatch(readable, reading=True)
        return True

    async def write(self, data: bytes) -> None:
        """Write all of ``data``, waiting whenever the kernel's buffer is full.

        Raises :class:`BrokenPipeError` when nobody will ever read it.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._open(), view) :]
            except BlockingIOError:
                await self._ready(reading=False)
            except OSError as error:
                if error.errno == errno.EIO:  # a terminal without a slave side
                    raise BrokenPipeError(errno.EPIPE, "the terminal is gone") from error
                raise

    def close(self) -> None:
        """Close the descriptor; a waiting reader sees the end. Idempotent."""
        if self.closed:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.fd)
        loop.remove_writer(self.fd)
        os.close(self.fd)
        self.fd = -1
        for waiting in self._waiting:
            _wake(waiting)

    def _open(self) -> int:
        if self.closed:
            raise BrokenPipeError(errno.EPIPE, "closed")
        return self.fd

    def _take(self, most: int) -> bytes | None:
        """Read without waiting: ``None`` = nothing there yet, ``b""`` = the end."""
        if self.closed:
            return b""
        parts: list[bytes] = []
        size = 0
        while size < most:  # a terminal gives 4 KiB at a time
            part = self._take_once(most - size)
            if part is None:
                break
            if not part:
                return b"".join(parts)
            parts.append(part)
            size += len(part)
        return b"".join(parts) if parts else None

    def _take_once(self, most: int) -> bytes | None:
        try:
            return os.read(self.fd, most)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EIO:  # Linux: the last slave side was closed
                return b""
            raise

    def _counted(self, data: bytes) -> bytes:
        data = data[: self._left]
        self._left -= len(data)
        return data

    async def _ready(self, *, reading: bool) -> None:
        waiting = self._watch(reading=reading)
        try:
            await waiting
        finally:
            self._unwatch(waiting, reading=reading)

    def _watch(self, *, reading: bool) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[None] = loop.create_future()
        add: Callable[..., None] = loop.add_reader if reading else loop.add_writer
        add(self.fd, _wake, waiting)
        self._waiting.add(waiting)
        return waiting

    def _unwatch(self, waiting: asyncio.Future[None], *, reading: bool) -> None:
        self._waiting.discard(waiting)
        waiting.cancel()
        if not self.closed:
            loop = asyncio.get_running_loop()
            (loop.remove_reader if reading else loop.remove_writer)(self.fd)


def _wake_by(waiting: asyncio.Future[None], _: object) -> None:
    _wake(waiting)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
