"""Hub: the frames waiting for one socket: bounded, in order, written once per turn of the event loop."""

from __future__ import annotations

import asyncio
from typing import Protocol

from doorstep.hub.config import RealtimeLimits

__all__ = ["Flusher", "Outbox", "Sink", "binary_frame", "text_frame"]

_CHUNK = 256 * 1024
"""Bytes put together for one write at most."""


def text_frame(payload: bytes) -> bytes:
    """A WebSocket text frame as a server sends it. It is the same for every receiver: it is encoded once."""
    return _header(0x81, len(payload)) + payload


def binary_frame(payload: bytes) -> bytes:
    """A WebSocket binary frame as a server sends it."""
    return _header(0x82, len(payload)) + payload


def _header(kind: int, length: int) -> bytes:
    if length < 126:
        return bytes((kind, length))
    if length < 1 << 16:
        return bytes((kind, 126)) + length.to_bytes(2, "big")
    return bytes((kind, 127)) + length.to_bytes(8, "big")


class Sink(Protocol):
    """Where frames go."""

    stuck: bool
    """The peer reads too slowly: nothing may be written until the sink says so."""

    def write(self, data: bytes) -> None: ...
    def overflowed(self) -> None:
        """More is waiting than may be."""
        ...


class Flusher:
    """Writes what the outboxes of one hub gathered, in one callback per turn of the event loop."""

    def __init__(self) -> None:
        self._full: list[Outbox] = []

    def add(self, outbox: Outbox) -> None:
        if not self._full:
            asyncio.get_running_loop().call_soon(self._flush)
        self._full.append(outbox)

    def _flush(self) -> None:
        full, self._full = self._full, []
        for outbox in full:
            outbox.flush()


class Outbox:
    """A queue for one socket. Once it has overflowed it takes no more: the reader is too slow to keep."""

    __slots__ = (
        "_bytes",
        "_closed",
        "_flusher",
        "_frames",
        "_most_bytes",
        "_most_frames",
        "_sink",
        "_waiting",
    )

    def __init__(self, limits: RealtimeLimits, sink: Sink, flusher: Flusher) -> None:
        self._most_frames = limits.queue_frames
        self._most_bytes = limits.queue_bytes
        self._sink = sink
        self._flusher = flusher
        self._frames: list[bytes] = []
        self._bytes = 0
        self._waiting = False
        self._closed = False

    def put(self, frame: bytes) -> None:
        """Queue a WebSocket frame; at the limit tell the sink and drop everything."""
        if self._closed:
            return
        frames = self._frames
        frames.append(frame)
        self._bytes += len(frame)
        if not self._waiting:
            self._waiting = True
            self._flusher.add(self)
        if len(frames) > self._most_frames or self._bytes > self._most_bytes:
            self._relieve()

    def flush(self) -> None:
        """Write what is queued, as much as the peer takes."""
        self._waiting = False
        frames = self._frames
        if len(frames) == 1 and not self._sink.stuck:
            self._frames, self._bytes = [], 0
            self._sink.write(frames[0])
            return
        done = 0
        while done < len(frames) and not self._sink.stuck:
            first, size = done, 0
            while done < len(frames) and size < _CHUNK:
                size += len(frames[done])
                done += 1
            self._bytes -= size
            self._sink.write(b"".join(frames[first:done]))
        del frames[:done]

    def close(self) -> None:
        """Take no more, forget what is queued. Idempotent."""
        self._closed = True
        self._frames, self._bytes = [], 0

    def _relieve(self) -> None:
        # A burst within one turn of the loop is not the reader's fault.
        waiting = self._waiting
        self.flush()
        self._waiting = waiting
        if len(self._frames) > self._most_frames or self._bytes > self._most_bytes:
            self.close()
            self._sink.overflowed()
