"""Transport, below the wire: keep the standing queue on the way short. Pure: no clock, no I/O.

aiortc's congestion window grows until something is lost; by then a megabyte of a file stands in some buffer,
and every keystroke stands behind it. The smallest round trip of a round, less the smallest of the last
seconds, is the time spent in queues (the idea of TCP Vegas and LEDBAT, RFC 6817): the window stops growing
when that is noticeable and shrinks when it is a nuisance.
"""

from __future__ import annotations

import math

__all__ = ["DelayControl"]

_GROW_BELOW = (0.002, 1 / 8)
"""Up to so much queue the window grows: seconds, and a part of the smallest round trip, as jitter is."""
_SHRINK_ABOVE = (0.006, 1 / 2)
"""Above so much it shrinks, by :data:`_SHRINK` each round."""
_SHRINK = 0.85
_FLOOR = 18_000
"""Bytes the window keeps, whatever the delay: somebody else may be filling the queue."""
_BASE_AGE = 10.0
"""Seconds after which the smallest round trip is measured anew: routes change, and so do queues of others."""


class DelayControl:
    """Bounds a congestion window by the queueing delay it causes."""

    __slots__ = ("_base", "_base_until", "_best", "_grow", "_round_until", "_shrink")

    def __init__(self) -> None:
        self._base = self._best = math.inf
        self._base_until = self._round_until = 0.0
        self._grow, self._shrink = True, False

    def measured(self, now: float, trip: float) -> None:
        """Take one round trip of ``trip`` seconds that ended ``now``."""
        self._best = min(self._best, trip)
        if now < self._round_until:
            return
        if self._best <= self._base or now >= self._base_until:
            self._base, self._base_until = self._best, now + _BASE_AGE
        queue = self._best - self._base
        self._grow = queue <= _GROW_BELOW[0] + _GROW_BELOW[1] * self._base
        self._shrink = queue > _SHRINK_ABOVE[0] + _SHRINK_ABOVE[1] * self._base
        self._round_until = now + trip
        self._best = math.inf

    def window(self, before: int, after: int) -> int:
        """Bound the step of the window from ``before`` to ``after`` bytes."""
        if self._shrink:
            self._shrink = False
            return min(after, max(int(before * _SHRINK), _FLOOR))
        return after if self._grow else min(before, after)
