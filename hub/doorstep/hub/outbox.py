"""Hub: the frames waiting for one socket: bounded, in order, standing still while a join is refused."""

from __future__ import annotations

import asyncio
from collections import deque

from doorstep.hub.config import RealtimeLimits

__all__ = ["Outbox"]


class Outbox:
    """A queue for one writer. Once it has overflowed it takes no more: the reader is too slow to keep."""

    def __init__(self, limits: RealtimeLimits) -> None:
        self._most_frames = limits.queue_frames
        self._most_bytes = limits.queue_bytes
        self._frames: deque[str | bytes] = deque()
        self._bytes = 0
        self._ready = asyncio.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.overflowed = asyncio.Event()

    def put(self, frame: str | bytes) -> None:
        """Queue a frame; at the limit set :attr:`overflowed` and drop everything."""
        if self.overflowed.is_set():
            return
        self._frames.append(frame)
        self._bytes += len(frame)
        self._ready.set()
        if len(self._frames) > self._most_frames or self._bytes > self._most_bytes:
            self._frames.clear()
            self.overflowed.set()

    async def get(self) -> str | bytes:
        """The next frame, when there is one and the socket is not frozen."""
        while not self._frames:
            self._ready.clear()
            await self._ready.wait()
        await self._flowing.wait()
        if not self._frames:
            return await self.get()
        frame = self._frames.popleft()
        self._bytes -= len(frame)
        return frame

    async def freeze(self, seconds: float) -> None:
        """Let nothing out for ``seconds``: the real server's socket stands still while it refuses a join."""
        self._flowing.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._flowing.set()
