"""Transport, layer 0: ``LocalWire``: both ends in one process; passes frame objects, serialises nothing."""

from __future__ import annotations

import asyncio
from collections import deque

from doorstep.protocol.errors import WireClosed
from doorstep.protocol.frames import Frame
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import LANE_LOW_WATER, MAX_FRAME
from doorstep.transport.wire import ORDINARY, Receiver

__all__ = ["LocalWire", "local_pair"]

_FRAME_COST = 32
"""What a frame is taken to weigh beside its bytes."""


def local_pair(*, rate: float | None = None, max_frame: int = MAX_FRAME) -> tuple[LocalWire, LocalWire]:
    """Return two connected wires. ``rate`` in bytes per second slows each direction down; the more urgent
    lane goes first, frame by frame. Without it, what was sent arrives in the next turn of the event loop."""
    one, other = LocalWire(rate, max_frame), LocalWire(rate, max_frame)
    one.join(other)
    other.join(one)
    return one, other


class LocalWire:
    """One end. Other frames still queued when either end closes are lost, as on a real wire."""

    kind = "local"
    traits = ORDINARY

    def __init__(self, rate: float | None, max_frame: int) -> None:
        self.max_frame = max_frame
        self._rate = rate
        self._peer: LocalWire | None = None
        self._receiver: Receiver | None = None
        self._queues: dict[Lane, deque[tuple[Frame, int]]] = {lane: deque() for lane in Lane}
        self._buffered = dict.fromkeys(Lane, 0)
        self._inbox: list[tuple[Lane, Frame]] = []
        self._waiting: list[tuple[Lane, asyncio.Future[None]]] = []
        self._delivery: asyncio.Handle | None = None
        self._held = False
        self._reason: str | None = None
        self._closed = asyncio.Event()
        self._sent = 0
        self._received = 0

    def join(self, peer: LocalWire) -> None:
        """Say who the other end is; called by :func:`local_pair`."""
        self._peer = peer

    def start(self, receiver: Receiver) -> None:
        """Hand over what has arrived so far, then every further frame."""
        self._receiver = receiver
        inbox, self._inbox = self._inbox, []
        for lane, frame in inbox:
            receiver(lane, frame)

    # --- sending ---

    def send(self, lane: Lane, frame: Frame) -> None:
        """Queue a frame; raise :class:`WireClosed`."""
        if self._reason is not None:
            raise WireClosed(self._reason)
        size = len(getattr(frame, "payload", b"")) + _FRAME_COST
        self._queues[lane].append((frame, size))
        self._buffered[lane] += size
        if self._delivery is None and not self._held:
            self._delivery = asyncio.get_running_loop().call_soon(self._deliver)

    def buffered(self, lane: Lane) -> int:
        return self._buffered[lane]

    async def drained(self, lane: Lane) -> None:
        """Wait until this lane and those above it are at most at :data:`LANE_LOW_WATER`."""
        if self._reason is not None:
            raise WireClosed(self._reason)
        if self._is_drained(lane):
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((lane, future))
        await future

    def _is_drained(self, lane: Lane) -> bool:
        for other in Lane:
            if self._buffered[other] > LANE_LOW_WATER:
                return False
            if other is lane:
                break
        return True

    def hold(self) -> None:
        """Deliver nothing until :meth:`release`: the link has gone silent."""
        self._held = True
        if self._delivery is not None:
            self._delivery.cancel()
            self._delivery = None

    def release(self, frames: int | None = None) -> None:
        """Deliver the next ``frames`` frames and hold on; without a number, all and from now on."""
        if frames is not None:
            for _ in range(frames):
                self._deliver_one()
            self._wake()
            return
        self._held = False
        if self._delivery is None and self._reason is None:
            self._delivery = asyncio.get_running_loop().call_soon(self._deliver)

    # --- delivering ---

    def _deliver(self) -> None:
        self._delivery = None
        loop = asyncio.get_running_loop()
        if self._rate is not None:
            size = self._deliver_one()
            if size and not self._held and self._reason is None:
                self._delivery = loop.call_later(size / self._rate, self._deliver)
        else:
            for _ in range(sum(map(len, self._queues.values()))):
                self._deliver_one()
            if self._delivery is None and not self._held and any(self._queues.values()):
                self._delivery = loop.call_soon(self._deliver)
        self._wake()

    def _deliver_one(self) -> int:
        """Hand the next frame of the most urgent lane to the peer; return its size, 0 when there is none."""
        for lane, queue in self._queues.items():
            if queue and self._peer is not None:
                frame, size = queue.popleft()
                self._buffered[lane] -= size
                self._sent += size
                self._peer.arrive(lane, frame, size)
                return size
        return 0

    def arrive(self, lane: Lane, frame: Frame, size: int) -> None:
        """Take a frame from the other end."""
        self._received += size
        if self._receiver is None:
            self._inbox.append((lane, frame))
        elif self._reason is None:
            self._receiver(lane, frame)

    def _wake(self) -> None:
        still: list[tuple[Lane, asyncio.Future[None]]] = []
        for lane, future in self._waiting:
            if future.done():
                continue
            if self._is_drained(lane):
                future.set_result(None)
            else:
                still.append((lane, future))
        self._waiting = still

    # --- the end ---

    async def wait_closed(self) -> str:
        """Wait until the wire is gone and return the reason."""
        await self._closed.wait()
        return self._reason or "closed"

    async def close(self, reason: str = "closed") -> None:
        """Close both ends, after the last words on the control lane. Idempotent."""
        control = self._queues[Lane.CONTROL]
        while control and self._peer is not None and not self._held:
            frame, size = control.popleft()
            self._peer.arrive(Lane.CONTROL, frame, size)
        self.lose(reason)
        if self._peer is not None:
            self._peer.lose(f"closed by the peer: {reason}")

    def lose(self, reason: str) -> None:
        """End this end alone, as when a link dies."""
        if self._reason is not None:
            return
        self._reason = reason
        if self._delivery is not None:
            self._delivery.cancel()
            self._delivery = None
        for queue in self._queues.values():
            queue.clear()
        self._inbox.clear()
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(WireClosed(reason))
        self._waiting.clear()
        self._closed.set()

    def stats(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "state": "open" if self._reason is None else "closed",
            "bytesIn": self._received,
            "bytesOut": self._sent,
            "buffered": {lane.value: size for lane, size in self._buffered.items()},
        }
