"""Transport, layer 0: what every wire of sealed frames is, whatever road brings their messages."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, ClassVar

from doorstep.protocol.errors import DoorstepError, InvalidInput, ProtocolError, WireClosed
from doorstep.protocol.frames import Frame, decode, encode
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import LANE_LIMIT, MAX_FRAME, MIB
from doorstep.protocol.seal import SealedChannel
from doorstep.transport.lane_queues import LaneQueues
from doorstep.transport.wire import Receiver, Traits

__all__ = ["SealedWire"]

_log = logging.getLogger("doorstep.transport")

FLUSH = 0.2
"""Seconds that what has arrived gets to be read when the road is gone."""


class SealedWire(ABC):
    """One end. See :class:`~doorstep.transport.wire.Wire` for the contract of each method.

    Frames wait by lane; the subclass takes them, seals them when their message goes, and says so. It begins
    by :meth:`_begin` when it is complete.
    """

    kind: ClassVar[str]
    traits: Traits
    max_frame = MAX_FRAME

    def __init__(self, channel: SealedChannel, queues: LaneQueues, steps: dict[str, float]) -> None:
        """``steps``: milliseconds that each step of the opening took."""
        self._channel = channel
        self._queues = queues
        self._steps = steps
        self._receiver: Receiver | None = None
        self._started = asyncio.Event()
        self._reason: str | None = None
        self._stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._bytes_out = self._bytes_in = self._frames_out = self._frames_in = 0
        self._running: asyncio.Task[None] | None = None

    def _begin(self, *parts: Coroutine[Any, Any, None]) -> None:
        """Read, and run what else there is to do, until the end."""
        self._running = asyncio.create_task(self._run(self._read(), self._watch(), *parts), name=self.kind)

    # for the subclass: the road

    @abstractmethod
    def _offer(self) -> None:
        """A frame waits."""

    @abstractmethod
    async def _arriving(self) -> bytes:
        """The next message. Raises :class:`WireClosed` when all that had arrived has been read."""

    @abstractmethod
    async def _gone(self) -> str:
        """Wait until the road is gone; return why."""

    @abstractmethod
    async def _flush(self) -> None:
        """Wait until all that waits has left, for a moment at most."""

    @abstractmethod
    async def _release(self) -> None:
        """Close the road. Bounded."""

    def _counted(self, count: int) -> None:
        """The peer's count of bulk came."""
        raise ProtocolError(f"a count of bulk ({count}), which is not carried")

    def _has_left(self, size: int) -> None:
        """A frame of this size was sealed and has gone."""
        self._frames_out += 1
        self._bytes_out += size

    # sending

    def send(self, lane: Lane, frame: Frame) -> None:
        if self._reason is not None:
            raise WireClosed(self._reason)
        if lane not in self.traits.lanes:
            raise InvalidInput("lane", f"{lane} is not carried over {self.kind}")
        data = encode(frame)
        if len(data) > self.max_frame:
            raise InvalidInput("frame", f"has {len(data)} bytes, the peer takes at most {self.max_frame}")
        if self.buffered(lane) + len(data) > LANE_LIMIT:
            self._end(f"more than {LANE_LIMIT // MIB} MiB wait on the lane {lane}")
            raise WireClosed(self._reason or "")
        self._queues.put(lane, data)
        self._offer()

    def buffered(self, lane: Lane) -> int:
        return self._queues.waiting(lane)

    async def drained(self, lane: Lane) -> None:
        if self._reason is None and lane in self.traits.lanes:
            await self._queues.room(lane)
        if self._reason is not None:
            raise WireClosed(self._reason)

    # receiving

    def start(self, receiver: Receiver) -> None:
        assert self._receiver is None, "start() is called once"
        self._receiver = receiver
        self._started.set()

    async def _read(self) -> None:
        await self._started.wait()  # until then what arrives stays where it is
        while True:
            opened = self._channel.open(await self._arriving())
            if isinstance(opened, int):
                self._counted(opened)
            else:
                self._deliver(*opened)

    def _deliver(self, lane: Lane, data: bytes) -> None:
        assert self._receiver is not None
        if lane not in self.traits.lanes:
            raise ProtocolError(f"a frame on lane {lane}, which is not carried")
        self._frames_in += 1
        self._bytes_in += len(data)
        frame = decode(data)
        if frame is not None and self._reason is None:
            self._receiver(lane, frame)

    # life

    async def _run(self, *work: Coroutine[Any, Any, None]) -> None:
        """Work until one part ends or we do; then say why and release everything."""
        parts = {asyncio.create_task(part, name=f"{self.kind} wire") for part in work}
        try:
            await asyncio.wait({*parts, self._stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._end(self._reason_of([part for part in parts if part.done() and not part.cancelled()]))
            for part in parts:
                part.cancel()
            await asyncio.wait(parts)
            await self._release()
            self._ended.set()

    async def _watch(self) -> None:
        reason = await self._gone()
        if self._started.is_set():
            await asyncio.sleep(FLUSH)  # what has arrived is read first; the reader then ends by itself
        raise WireClosed(reason)

    def _reason_of(self, parts: list[asyncio.Task[None]]) -> str:
        """Of what ended the wire a broken protocol says more than the lost road."""
        errors = [part.exception() for part in parts]
        for error in errors:
            if isinstance(error, ProtocolError):
                _log.warning("a %s wire ends: %s", self.kind, error)
                return f"protocol error: {error}"
        for error in errors:
            if error is not None and not isinstance(error, DoorstepError):
                _log.error("a %s wire ends", self.kind, exc_info=error)
                return "internal error"
        return next((str(error) for error in errors if error is not None), "closed")

    def _end(self, reason: str) -> None:
        """Say that the wire is gone; the first reason stays."""
        if self._reason is None:
            self._reason = reason
            self._queues.clear()
            self._stop.set_result(None)

    async def wait_closed(self) -> str:
        await self._ended.wait()
        return self._reason or "closed"

    async def close(self, reason: str = "closed") -> None:
        try:
            if self._reason is None:
                await self._flush()
        finally:
            self._end(reason)
        await self._ended.wait()

    def stats(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "state": "open" if self._reason is None else "closed",
            "bytesOut": self._bytes_out,
            "bytesIn": self._bytes_in,
            "framesOut": self._frames_out,
            "framesIn": self._frames_in,
            "buffered": {lane.value: waiting for lane, waiting in self._queues.buffered.items()},
            "connectMs": dict(self._steps),
        }
