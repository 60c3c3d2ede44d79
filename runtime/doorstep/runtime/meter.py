"""Runtime, layer 2: how much went each way lately, from running totals that are looked at now and then."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple, Self

__all__ = ["SPAN", "Meter", "Totals"]

SPAN = 5.0
"""Seconds that "lately" is."""
_STEP = SPAN / 10
"""Least seconds between two samples that are kept."""
_SHORTEST = 0.05
"""Below so many seconds a rate would be a guess."""


class Totals(NamedTuple):
    """Of streams, both ways, in bytes; of the wire, what it sent and what of that was sent again."""

    octets_in: int
    octets_out: int
    chunks: int | None = None
    """None: the wire does not know."""
    again: int | None = None

    @classmethod
    def of(cls, octets_in: int, octets_out: int, told: Mapping[str, object]) -> Self:
        """``told`` are the wire's ``stats()``."""
        chunks, again = told.get("chunksOut"), told.get("chunksResent")
        if isinstance(chunks, int) and isinstance(again, int):
            return cls(octets_in, octets_out, chunks, again)
        return cls(octets_in, octets_out)


class Meter:
    """Keeps at most a dozen samples, however often it is shown some."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Totals]] = deque(maxlen=round(SPAN / _STEP) + 2)

    def note(self, now: float, totals: Totals) -> None:
        """Remember the totals of this moment, unless those of a moment ago are known."""
        if not self._samples or now - self._samples[-1][0] >= _STEP:
            self._samples.append((now, totals))

    def restart(self, now: float, totals: Totals) -> None:
        """Another wire counts anew."""
        self._samples.clear()
        self._samples.append((now, totals))

    def rates(self, now: float, totals: Totals) -> tuple[float | None, float | None]:
        """Bytes per second (in, out) over the last :data:`SPAN` seconds; None before there is anything."""
        then, before = self._since(now)
        took = now - then
        if before is None or took < _SHORTEST:
            return None, None
        return (
            round((totals.octets_in - before.octets_in) / took, 1),
            round((totals.octets_out - before.octets_out) / took, 1),
        )

    def loss(self, now: float, totals: Totals) -> float | None:
        """The part of what was sent lately that had been sent before, 0 to 1; None: the wire has no count."""
        _, before = self._since(now)
        if before is None or before.chunks is None or before.again is None:
            return None
        if totals.chunks is None or totals.again is None:
            return None
        sent = totals.chunks - before.chunks
        return round((totals.again - before.again) / sent, 4) if sent > 0 else 0.0

    def _since(self, now: float) -> tuple[float, Totals | None]:
        """The oldest sample that is not too old, or the newest one."""
        for then, totals in self._samples:
            if now - then <= SPAN:
                return then, totals
        return self._samples[-1] if self._samples else (now, None)
