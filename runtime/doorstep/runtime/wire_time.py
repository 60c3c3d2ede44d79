"""Runtime: clocks that stand still while no wire carries their lane, for limits that shall wait meanwhile."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from doorstep.protocol.lanes import Lane

__all__ = ["WireTime"]


class WireTime:
    """One clock per lane; all of them go until the first :meth:`change`."""

    def __init__(self) -> None:
        self._stood = dict.fromkeys(Lane, 0.0)
        self._since: dict[Lane, float] = {}

    def change(self, lanes: AbstractSet[Lane], now: float) -> None:
        """From now on these lanes are carried, and no others."""
        for lane in Lane:
            if lane not in lanes:
                self._since.setdefault(lane, now)
            elif lane in self._since:
                self._stood[lane] += now - self._since.pop(lane)

    def read(self, lane: Lane, now: float) -> float:
        """Seconds."""
        return self._since.get(lane, now) - self._stood[lane]
