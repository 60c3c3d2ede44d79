"""Transport, layer 0: a wire of DataChannels, one per lane.

SCTP as aiortc has it sends in one line what all channels queue, so a file would stand before a keystroke.
The wire therefore keeps a queue per lane and hands SCTP the next message of a bulk lane only when all before
it has been sent: what a keystroke finds before it is the rest of one message, and what is in flight.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from doorstep.protocol.errors import InvalidInput, ProtocolError, WireClosed
from doorstep.protocol.frames import Frame, decode, encode
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import LANE_HIGH_WATER, LANE_LOW_WATER, MAX_FRAME, MIB
from doorstep.transport.wire import ORDINARY, Receiver

if TYPE_CHECKING:
    from aiortc import RTCDataChannel

__all__ = ["WebRtcWire"]

_log = logging.getLogger("doorstep.transport")

_EARLY_BYTES = 1 * MIB
"""What a peer may send before :meth:`WebRtcWire.start`; a greeting has a few hundred bytes."""
_QUEUE_BYTES = 64 * MIB
"""Queued on one lane by senders that do not wait for :meth:`WebRtcWire.drained`; above, the wire gives up."""
_URGENT = (Lane.CONTROL, Lane.TERMINAL_IO)
"""Lanes that do not wait for the message being sent in packets to be gone before they are next in line."""
_FLUSH = 0.2
"""Seconds that :meth:`WebRtcWire.close` gives to the last frames."""


class _Road:
    """One lane: its channel, what waits for it, and who waits for that to drain."""

    __slots__ = ("above", "channel", "lane", "queue", "queued", "waiters")

    def __init__(self, lane: Lane, above: tuple[_Road, ...]) -> None:
        self.lane = lane
        self.above = above
        self.channel: RTCDataChannel | None = None
        self.queue: deque[bytes] = deque()
        self.queued = 0
        self.waiters: list[asyncio.Future[None]] = []

    @property
    def handed(self) -> int:
        """Bytes in messages handed to SCTP of which it has not yet made packets."""
        return self.channel.bufferedAmount if self.channel is not None else 0

    @property
    def buffered(self) -> int:
        return self.queued + self.handed

    @property
    def behind(self) -> bool:
        """True when a message of this or a more urgent lane is waiting below."""
        return bool(self.handed) or any(road.handed for road in self.above)


class WebRtcWire:
    """A live connection of one :class:`~doorstep.transport.webrtc.Peer`, which creates it.

    See :class:`~doorstep.transport.wire.Wire` for the contract of each method.
    """

    kind = "webrtc"
    traits = ORDINARY

    def __init__(
        self,
        shut_down: Callable[[str], Awaitable[None]],
        lose: Callable[[str], None],
        has_room: Callable[[], bool],
        facts: Callable[[], dict[str, object]],
    ) -> None:
        self.max_frame = MAX_FRAME
        self._shut_down = shut_down
        self._lose = lose
        self._has_room = has_room
        self._facts = facts
        self._roads = _make_roads()
        self._ordered = tuple(self._roads.values())
        self._receiver: Receiver | None = None
        self._early: deque[tuple[Lane, Frame]] = deque()
        self._early_bytes = 0
        self._ended = asyncio.Event()
        self._reason = ""
        self._flushed: asyncio.Event | None = None
        self._pumping = False
        self._bytes_out = self._bytes_in = self._frames_out = self._frames_in = 0

    # for the peer that owns the wire

    def attach(self, lane: Lane, channel: RTCDataChannel) -> None:
        """Carry ``lane`` on ``channel`` from now on; what arrives before :meth:`start` is kept."""
        road = self._roads[lane]
        road.channel = channel
        channel.bufferedAmountLowThreshold = 0
        channel.on("bufferedamountlow", self.pump)
        channel.on("message", partial(self._arrived, lane))

    def end(self, reason: str) -> None:
        """Say that the wire is gone: wake everybody who waits on it. The first reason stays."""
        if self._ended.is_set():
            return
        self._reason = reason
        self._ended.set()
        for road in self._ordered:
            road.queue.clear()
            road.queued = 0
            _wake(road)
        if self._flushed is not None:
            self._flushed.set()

    # sending

    def send(self, lane: Lane, frame: Frame) -> None:
        if self._ended.is_set():
            raise WireClosed(self._reason)
        data = encode(frame)
        size = len(data)
        if size > self.max_frame:
            raise InvalidInput("frame", f"has {size} bytes, the peer takes at most {self.max_frame}")
        self._frames_out += 1
        self._bytes_out += size
        road = self._roads[lane]
        if not road.queue and self._free(road):
            self._hand(road, data)
        elif road.queued + size > _QUEUE_BYTES:
            self._fail(f"more than {_QUEUE_BYTES // MIB} MiB wait on the lane {lane}")
            raise WireClosed(self._reason)
        else:
            road.queue.append(data)
            road.queued += size

    def buffered(self, lane: Lane) -> int:
        return self._roads[lane].buffered

    async def drained(self, lane: Lane) -> None:
        road = self._roads[lane]
        if _over(road, LANE_HIGH_WATER):
            while _over(road, LANE_LOW_WATER) and not self._ended.is_set():
                await _turn(road)
        if self._ended.is_set():
            raise WireClosed(self._reason)

    def _hand(self, road: _Road, data: bytes) -> None:
        assert road.channel is not None
        road.channel.send(data)

    def _free(self, road: _Road) -> bool:
        return self._has_room() or (road.lane in _URGENT and not road.behind)

    def pump(self) -> None:
        """Hand on what may go now, most urgent lane first. Called when SCTP has room."""
        if self._pumping:
            return  # handing on is what made room: the loop below goes on
        self._pumping = True
        try:
            while self._hand_next():
                pass
        finally:
            self._pumping = False
        for road in self._ordered:
            if road.waiters and not _over(road, LANE_LOW_WATER):
                _wake(road)
        if self._flushed is not None and not self._waiting():
            self._flushed.set()

    def _hand_next(self) -> bool:
        for road in self._ordered:
            if road.queue and self._free(road):
                data = road.queue.popleft()
                road.queued -= len(data)
                self._hand(road, data)
                return True
        return False

    def _waiting(self) -> bool:
        return any(road.buffered for road in self._ordered)

    # receiving

    def start(self, receiver: Receiver) -> None:
        assert self._receiver is None, "start() is called once"
        self._receiver = receiver
        while self._early:
            self._deliver(*self._early.popleft())
        self._early_bytes = 0

    def _arrived(self, lane: Lane, message: bytes | str) -> None:
        if self._ended.is_set():
            return
        if isinstance(message, str):
            self._fail("protocol error: a text message instead of a frame")
            return
        self._frames_in += 1
        self._bytes_in += len(message)
        try:
            frame = decode(message)
        except ProtocolError as error:
            self._fail(f"protocol error: {error}")
            return
        if frame is None:
            return
        if self._receiver is not None:
            self._deliver(lane, frame)
        else:
            self._keep(lane, frame, len(message))

    def _keep(self, lane: Lane, frame: Frame, size: int) -> None:
        self._early_bytes += size
        if self._early_bytes > _EARLY_BYTES:
            self._early.clear()
            self._fail("protocol error: too much was sent before the greeting")
        else:
            self._early.append((lane, frame))

    def _deliver(self, lane: Lane, frame: Frame) -> None:
        assert self._receiver is not None
        try:
            self._receiver(lane, frame)
        except Exception:  # noqa: BLE001 - the wire ends with it
            # A receiver must not raise; one that does would end aiortc's receive task without a word.
            _log.exception("the receiver of a wire raised")
            self._fail("internal error")

    # ending

    def _fail(self, reason: str) -> None:
        _log.warning("a wire ends: %s", reason)
        self._lose(reason)

    async def wait_closed(self) -> str:
        await self._ended.wait()
        return self._reason

    async def close(self, reason: str = "closed") -> None:
        if not self._ended.is_set():
            await self._flush()
        await self._shut_down(reason)

    async def _flush(self) -> None:
        """Give the last frames, often the reason of this close, a moment to leave."""
        if self._waiting():
            self._flushed = asyncio.Event()
            try:
                async with asyncio.timeout(_FLUSH):
                    await self._flushed.wait()
            except TimeoutError:
                _log.debug("a wire was closed with frames unsent")
        await asyncio.sleep(0)  # aiortc sends from a task of its own

    def stats(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "state": "closed" if self._ended.is_set() else "open",
            "bytesOut": self._bytes_out,
            "bytesIn": self._bytes_in,
            "framesOut": self._frames_out,
            "framesIn": self._frames_in,
            "buffered": {road.lane.value: road.buffered for road in self._ordered},
            **self._facts(),
        }


def _make_roads() -> dict[Lane, _Road]:
    roads: dict[Lane, _Road] = {}
    for lane in Lane:
        roads[lane] = _Road(lane, tuple(roads.values()))
    return roads


def _over(road: _Road, mark: int) -> bool:
    return road.buffered > mark or any(urgent.buffered > mark for urgent in road.above)


async def _turn(road: _Road) -> None:
    waiter = asyncio.get_running_loop().create_future()
    road.waiters.append(waiter)
    try:
        await waiter
    finally:
        if waiter in road.waiters:
            road.waiters.remove(waiter)


def _wake(road: _Road) -> None:
    for waiter in road.waiters:
        if not waiter.done():
            waiter.set_result(None)
    road.waiters.clear()
