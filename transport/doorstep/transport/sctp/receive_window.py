"""SCTP, pure: how much a peer may have in flight towards us that only stops at losses.

Such a peer grows its window until the buffer of the link overflows, and then mends for seconds: Chromium has
a third of 20 Mbit/s at 50 ms. Here the receiver says no in time, as rLEDBAT does (RFC 9840): the window it
advertises is what arrives in an empty round trip, and a short queue. HEARTBEATs measure the round trip while
data comes. A queue longer than what we allow is not this peer's: then its window is as long as the queue, and
losses decide, as they do for the others there.
"""

from __future__ import annotations

from collections import deque

from doorstep.transport.sctp.limits import LEAST_WINDOW, PACKET, WINDOW
from doorstep.transport.sctp.roundtrip import RoundTrips

__all__ = ["ReceiveWindow"]

_LEAST = 64 * 1024
"""Bytes allowed, unless they are drained: a turn or two of two event loops."""
_QUEUE_LEAST, _QUEUE_MOST = 0.02, 0.07
"""Seconds of queue allowed: a round trip, so that slow start may double, but at least what a late loop needs,
and at most what the buffers of most links hold."""
_FOREIGN = 1.5
"""As many times the allowed queue that it is somebody else's."""
_PERIOD, _PERIOD_LEAST, _PERIODS = 1 / 2, 0.01, 16
"""Round trips, and seconds at least, over which a rate is measured, and how many of them the best one counts:
a pause of the sender is not a slower path."""
_PAUSE = 4
"""Periods without a packet after which nothing was measured."""
_FULL = 1 / 2
"""Part of the allowed queue that stands when the peer has all it is allowed."""
_ASK_EVERY = 0.25
"""Seconds between two HEARTBEATs."""
_ANSWER_WITHIN = 10.0
"""Seconds after which an answer is not believed."""
_DRAIN_EVERY, _DRAIN_TRIPS, _DRAIN_PART = 10.0, 2.0, 1 / 2
"""Seconds after which, and full round trips for which, the peer has this part of the empty round trip, so
that a HEARTBEAT sees the path without its queue, sooner than ``RoundTrips`` forgets it."""


class ReceiveWindow:
    """``size`` in bytes. Times in seconds."""

    __slots__ = ("_arrived", "_asked_at", "_began", "_drain_at", "_drained_at", "_rates", "_trips", "size")

    def __init__(self) -> None:
        self.size = WINDOW
        """All, until a round trip is known."""
        self._trips = RoundTrips()
        self._asked_at = float("-inf")
        self._began = 0.0
        self._arrived = 0
        self._rates: deque[float] = deque(maxlen=_PERIODS)
        self._drain_at = self._drained_at = 0.0

    @property
    def full(self) -> bool:
        """True when the peer uses the window, and so has nothing to gain by a larger one of its own."""
        return self._trips.latest > self._trips.base + _FULL * self._queue

    @property
    def _queue(self) -> float:
        return min(max(self._trips.base, _QUEUE_LEAST), _QUEUE_MOST)

    def arrived(self, size: int, now: float) -> bool:
        """So many bytes have come; True when it is time to ask for the round trip."""
        period = max(_PERIOD * self._trips.base, _PERIOD_LEAST)
        took = now - self._began
        self._arrived += size
        if took >= period:
            if took < _PAUSE * period:
                self._rates.append(self._arrived / took)
            self._resize(now)
            self._began, self._arrived = now, 0
        if now < self._asked_at + (period if now < self._drained_at else _ASK_EVERY):
            return False
        self._asked_at = now
        return True

    def answered(self, asked_at: float, now: float) -> None:
        if 0 < now - asked_at < _ANSWER_WITHIN:
            self._trips.sample(now - asked_at, now)

    def _resize(self, now: float) -> None:
        trips = self._trips
        if not trips.base or not self._rates:
            self._drain_at = now + _DRAIN_EVERY
            return
        rate = max(self._rates)
        queue = self._queue
        if now >= self._drain_at:
            self._drain_at = now + _DRAIN_EVERY
            self._drained_at = now + _DRAIN_TRIPS * (trips.base + queue)
        if now < self._drained_at:
            self.size = min(max(int(rate * trips.base * _DRAIN_PART), LEAST_WINDOW * PACKET), self.size)
            return
        foreign = trips.latest > trips.base + _FOREIGN * queue
        trip = trips.latest if foreign else trips.base
        self.size = min(max(int(rate * (trip + queue)), _LEAST), WINDOW)
