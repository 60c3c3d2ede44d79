"""Runtime, layer 2: the gate out: every frame of a session leaves here, bulk writers in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from doorstep.protocol.errors import SessionClosed, WireClosed
from doorstep.protocol.frames import HEADER_BYTES, Frame
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import DATA_CHUNK, LANE_HIGH_WATER, LANE_LIMIT
from doorstep.transport.wire import Wire

__all__ = ["LaneGate", "Outbound"]


class LaneGate:
    """One writer at a time, first come first served: ``async with gate`` and then send one chunk.

    Entering waits while this lane, or one more urgent, holds :data:`LANE_HIGH_WATER` bytes or more. So the
    writers of one lane alternate chunk by chunk, and a bulk lane stands back behind the lanes above it.
    """

    __slots__ = ("_lane", "_lock", "_watched", "_wire")

    def __init__(self, wire: Wire, lane: Lane) -> None:
        self._wire = wire
        self._lane = lane
        lanes = tuple(Lane)
        self._watched = lanes[lanes.index(lane) :: -1]
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        try:
            for lane in self._watched:
                if self._wire.buffered(lane) >= LANE_HIGH_WATER:
                    await self._wire.drained(self._lane)
                    break
        except BaseException:
            self._lock.release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


class Outbound:
    """A session's way out, over the wire it has."""

    def __init__(self, wire: Wire, lost: Callable[[WireClosed], None]) -> None:
        self._wire = wire
        self._lost = lost
        self._ended: str | None = None
        self.gates = {lane: LaneGate(wire, lane) for lane in Lane}
        self.chunk = DATA_CHUNK
        self.frames = 0
        self.bytes = 0

    def limit_frames(self, max_frame: int) -> None:
        """Heed the smaller of both sides' ``maxFrame``."""
        self.chunk = min(DATA_CHUNK, max_frame - HEADER_BYTES, self._wire.max_frame - HEADER_BYTES)

    def send(self, lane: Lane, frame: Frame) -> None:
        """Queue a frame; raise :class:`SessionClosed` when the session has ended or the wire is gone."""
        if self._ended is not None:
            raise SessionClosed(self._ended)
        try:
            if self._wire.buffered(lane) > LANE_LIMIT:
                raise WireClosed(f"the peer does not read: {LANE_LIMIT} bytes wait on lane {lane}")
            self._wire.send(lane, frame)
        except WireClosed as error:
            raise self.lost(error) from error
        self.frames += 1

    async def send_in_turn(self, lane: Lane, frame: Frame) -> None:
        """:meth:`send` once the lane has room: for frames of which there may be many."""
        try:
            async with self.gates[lane]:
                self.send(lane, frame)
        except WireClosed as error:
            raise self.lost(error) from error

    def lost(self, error: WireClosed) -> SessionClosed:
        """Report that the wire is gone; return what to raise."""
        self._lost(error)
        return SessionClosed(self._ended or str(error))

    def end(self, reason: str) -> None:
        """Refuse every further frame."""
        self._ended = reason
