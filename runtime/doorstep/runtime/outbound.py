"""Runtime, layer 2: the gate out: every frame of a session leaves here, bulk writers in turn.

While a session has no wire, what is sent is dropped and writers wait: streams and calls know what the peer
may not have, and send it again over the next wire. A lane that the wire does not carry is as if there were
none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from doorstep.protocol.errors import SessionClosed, WireClosed
from doorstep.protocol.frames import HEADER_BYTES, Frame
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import DATA_CHUNK, LANE_LIMIT
from doorstep.transport.wire import Wire

__all__ = ["LaneGate", "Outbound"]


class LaneGate:
    """One writer at a time, first come first served: ``async with gate`` and then send one chunk.

    Entering waits while this lane, or one more urgent, holds as many bytes as the wire's ``high_water`` or
    more. So the writers of one lane alternate chunk by chunk, and a bulk lane stands back behind the lanes
    above it.
    """

    __slots__ = ("_lane", "_lock", "_outbound", "_watched")

    def __init__(self, outbound: Outbound, lane: Lane) -> None:
        self._outbound = outbound
        self._lane = lane
        lanes = tuple(Lane)
        self._watched = lanes[lanes.index(lane) :: -1]
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        try:
            await self._outbound.room(self._lane, self._watched)
        except BaseException:
            self._lock.release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


class Outbound:
    """A session's way out, over the wire it has."""

    def __init__(self, lost: Callable[[Wire, WireClosed], None]) -> None:
        """``lost`` hears that a wire is gone; it may call :meth:`use` or :meth:`end`."""
        self._lost = lost
        self._wire: Wire | None = None
        self._ended: str | None = None
        self._changed = asyncio.Event()  # there is another wire, or there never will be one
        self._drains: set[asyncio.Task[None]] = set()
        self.gates = {lane: LaneGate(self, lane) for lane in Lane}
        self.chunk = DATA_CHUNK
        self.frames = 0
        self.bytes = 0

    def use(self, wire: Wire | None, max_frame: int = 0) -> None:
        """Send over ``wire`` from now on, in frames that both sides take; None: over none."""
        self._wire = wire
        for drain in self._drains:
            drain.cancel()  # who waits for room on the last wire looks at this one
        if wire is not None:
            self.chunk = min(DATA_CHUNK, max_frame - HEADER_BYTES, wire.max_frame - HEADER_BYTES)
            self._tell_changed()

    def _tell_changed(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def send(self, lane: Lane, frame: Frame) -> None:
        """Queue a frame, or drop it without a wire that carries the lane.

        Raises :class:`SessionClosed` when all has ended.
        """
        if self._ended is not None:
            raise SessionClosed(self._ended)
        wire = self._wire
        if wire is None or lane not in wire.traits.lanes:
            return
        try:
            if wire.buffered(lane) > LANE_LIMIT:
                raise WireClosed(f"the peer does not read: {LANE_LIMIT} bytes wait on lane {lane}")
            wire.send(lane, frame)
        except WireClosed as error:
            self._lost(wire, error)
            if self._ended is not None:
                raise SessionClosed(self._ended) from error
            return
        self.frames += 1

    async def send_in_turn(self, lane: Lane, frame: Frame) -> None:
        """:meth:`send` once there is a wire and the lane has room: for frames of which there may be many."""
        async with self.gates[lane]:
            self.send(lane, frame)

    async def present(self, lane: Lane | None = None) -> Wire:
        """Wait for a wire (that carries ``lane``); raise :class:`SessionClosed` when there will be none."""
        while self._ended is None:
            if self._wire is not None and (lane is None or lane in self._wire.traits.lanes):
                return self._wire
            await self._changed.wait()
        raise SessionClosed(self._ended)

    async def room(self, lane: Lane, watched: tuple[Lane, ...]) -> None:
        """Wait for a wire that carries the lane, on which none of the ``watched`` lanes is full."""
        while True:
            wire = await self.present(lane)
            if all(wire.buffered(one) < wire.traits.high_water for one in watched):
                return
            if await self._drained(wire, lane):
                return

    async def _drained(self, wire: Wire, lane: Lane) -> bool:
        """Wait for the lane to drain, at most until the wire is another one; False: look again."""
        drain = asyncio.ensure_future(wire.drained(lane))
        self._drains.add(drain)
        try:
            await asyncio.wait({drain})
            if drain.cancelled():
                return False
            drain.result()
        except WireClosed as error:
            self._lost(wire, error)
            return False
        finally:
            drain.cancel()
            self._drains.discard(drain)
        return self._wire is wire

    def end(self, reason: str) -> None:
        """Refuse every further frame."""
        self._ended = reason
        self._tell_changed()
        for drain in self._drains:
            drain.cancel()
