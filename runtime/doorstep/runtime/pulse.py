"""Runtime: is the peer still there? Counts ticks of our own loop, not time.

A loop that was blocked or a process that was suspended makes one late tick, not many: our own sleep is never
taken for the peer's silence (wire.md §6, PING).
"""

from __future__ import annotations

import math
from enum import StrEnum

from doorstep.protocol.timing import Timing

__all__ = ["Beat", "Pulse"]

_TICKS_PER_PING = 4


class Beat(StrEnum):
    """What a tick calls for."""

    NOTHING = "nothing"
    PING = "ping"
    LOST = "lost"


class Pulse:
    """Silence in both directions, in ticks of :attr:`interval` seconds."""

    def __init__(self, timing: Timing, *, resumable: bool = False, patience: float = 1.0) -> None:
        """A wire whose session can resume is given up early: within ``Timing.silence``.

        With ``patience`` everything takes so many times longer.
        """
        interval = timing.ping / _TICKS_PER_PING
        self.interval = interval * patience
        self._silence = math.ceil(timing.silence / interval)
        self._give_up = math.ceil(timing.give_up / interval)
        if resumable:  # the tick after the last frame counts nothing yet
            self._give_up = max(self._silence - 1, 1)
        self._heard = True
        self._silent = 0
        self._idle = 0
        self._sent = 0

    @property
    def stalled(self) -> bool:
        """Nothing came for ``Timing.silence``."""
        return self._silent >= self._silence and not self._heard

    def heard(self) -> None:
        """A frame came."""
        self._heard = True

    def tick(self, frames_sent: int) -> Beat:
        """Count one tick; ``frames_sent`` is the session's total so far."""
        self._silent = 0 if self._heard else self._silent + 1
        self._heard = False
        self._idle = 0 if frames_sent != self._sent else self._idle + 1
        self._sent = frames_sent
        if self._silent >= self._give_up:
            return Beat.LOST
        if self._idle >= _TICKS_PER_PING:
            return Beat.PING
        return Beat.NOTHING
