"""Transport, below a wire: what waits on each lane, the most urgent first, and who waits for room."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from doorstep.protocol.lanes import Lane

__all__ = ["LaneQueues"]


@dataclass(slots=True)
class _Road:
    """One lane's queue, and who waits for it to drain."""

    above: tuple[_Road, ...]
    queue: deque[bytes] = field(default_factory=deque[bytes])
    buffered: int = 0
    waiters: list[asyncio.Future[None]] = field(default_factory=list[asyncio.Future[None]])

    def over(self, mark: int) -> bool:
        return self.buffered > mark or any(road.buffered > mark for road in self.above)

    def wake(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()


class LaneQueues:
    """Encoded frames by lane. A writer waits above ``high`` bytes until there are no more than ``low``."""

    def __init__(self, lanes: Iterable[Lane], high: int, low: int) -> None:
        self._high, self._low = high, low
        self._roads: dict[Lane, _Road] = {}
        for lane in lanes:
            self._roads[lane] = _Road(tuple(self._roads.values()))

    def __bool__(self) -> bool:
        """Whether anything is buffered."""
        return any(road.buffered for road in self._roads.values())

    @property
    def buffered(self) -> dict[Lane, int]:
        """Bytes that wait, by lane."""
        return {lane: road.buffered for lane, road in self._roads.items()}

    def waiting(self, lane: Lane) -> int:
        """Bytes that wait on one lane; 0 for one that is not there."""
        road = self._roads.get(lane)
        return 0 if road is None else road.buffered

    def put(self, lane: Lane, data: bytes) -> None:
        road = self._roads[lane]
        road.queue.append(data)
        road.buffered += len(data)

    def take(self, lanes: Container[Lane] = frozenset(Lane)) -> tuple[Lane, bytes] | None:
        """The next frame of the most urgent of ``lanes`` that has one; buffered until :meth:`gone`."""
        for lane, road in self._roads.items():
            if road.queue and lane in lanes:
                return lane, road.queue.popleft()
        return None

    def gone(self, lane: Lane, data: bytes) -> None:
        """What was taken has been handed to the network."""
        self._roads[lane].buffered = max(self._roads[lane].buffered - len(data), 0)  # it may be cleared
        for road in self._roads.values():
            if road.waiters and not road.over(self._low):
                road.wake()

    def clear(self) -> None:
        """Forget everything; nobody waits any more."""
        for road in self._roads.values():
            road.queue.clear()
            road.buffered = 0
            road.wake()

    async def room(self, lane: Lane) -> None:
        """Wait while this lane, or one above it, is full."""
        road = self._roads[lane]
        if road.over(self._high):
            while road.over(self._low):
                await _turn(road)


async def _turn(road: _Road) -> None:
    waiter = asyncio.get_running_loop().create_future()
    road.waiters.append(waiter)
    try:
        await waiter
    finally:
        if waiter in road.waiters:
            road.waiters.remove(waiter)
