"""Hub: how many of something there are per second, as the real server counts: an average over a minute.

The count is looked at once per tick (5 s) and averaged over the ticks that have passed, twelve at most. So a
burst is allowed until the next tick, and a limit that was passed stays so till the burst is a minute ago.
"""

from __future__ import annotations

from collections import deque

__all__ = ["Rate"]


class Rate:
    """One counter and its ``limit`` per second. Times are seconds of one clock."""

    __slots__ = ("_average", "_buckets", "_count", "_due", "_limit", "_tick")

    def __init__(self, limit: float, *, tick: float, buckets: int, now: float) -> None:
        self._limit = limit
        self._tick = tick
        self._buckets: deque[int] = deque(maxlen=buckets)
        self._count = 0
        self._average = 0.0
        self._due = now + tick

    def add(self, count: int = 1) -> None:
        self._count += count

    def exceeded(self, now: float) -> bool:
        """Whether the average at the last tick was above the limit."""
        return self.average(now) > self._limit

    def average(self, now: float) -> float:
        """How many there were per second at the last tick."""
        if now >= self._due:
            self._roll(now)
        return self._average

    def _roll(self, now: float) -> None:
        passed = int((now - self._due) / self._tick) + 1
        self._due += passed * self._tick
        self._buckets.append(self._count)
        self._count = 0
        # More ticks than there are buckets leave nothing but empty ones.
        self._buckets.extend([0] * min(passed - 1, self._buckets.maxlen or 0))
        self._average = sum(self._buckets) / (len(self._buckets) * self._tick)
