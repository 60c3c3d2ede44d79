"""Runtime: clocks that stand still while no wire carries their lane, for limits that shall wait meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager

from doorstep.protocol.lanes import Lane

__all__ = ["WireTime"]


class WireTime:
    """One clock per lane; all of them go until the first :meth:`change`."""

    def __init__(self) -> None:
        self._stood = dict.fromkeys(Lane, 0.0)
        self._since: dict[Lane, float] = {}
        self._limits: dict[asyncio.Timeout, tuple[Lane, float]] = {}

    def change(self, lanes: AbstractSet[Lane], now: float) -> None:
        """From now on these lanes are carried, and no others."""
        for lane in Lane:
            if lane not in lanes:
                self._since.setdefault(lane, now)
            elif lane in self._since:
                self._stood[lane] += now - self._since.pop(lane)
        for limit in self._limits:
            self._arm(limit, now)

    def read(self, lane: Lane, now: float) -> float:
        """Seconds."""
        return self._since.get(lane, now) - self._stood[lane]

    @asynccontextmanager
    async def timeout(self, lane: Lane, seconds: float) -> AsyncGenerator[None]:
        """``asyncio.timeout()`` by the clock of ``lane``."""
        now = asyncio.get_running_loop().time()
        async with asyncio.timeout(None) as limit:
            self._limits[limit] = lane, self.read(lane, now) + seconds
            self._arm(limit, now)
            try:
                yield
            finally:
                del self._limits[limit]

    def _arm(self, limit: asyncio.Timeout, now: float) -> None:
        lane, end = self._limits[limit]
        if not limit.expired():
            limit.reschedule(None if lane in self._since else now + end - self.read(lane, now))
