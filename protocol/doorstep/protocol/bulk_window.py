"""Protocol: how much bulk may be under way on a relay wire, so that a keystroke never waits long behind it.

TCP fills whatever buffers lie between the two ends, the relay's among them, and what is urgent queues up
behind that. So the receiver says how many bytes of the bulk lanes it has taken (:class:`BulkTaken`), and
the sender keeps no more under way than the road carries in its shortest round trip plus :data:`TARGET`: a
full road, and a queue of about ``TARGET`` seconds (:class:`BulkWindow`).

The rate is the best of the last round trips, as in BBR (draft-ietf-ccwg-bbr); at first the window doubles
every round trip until a queue shows. A standing queue would in time pass for the road's own delay: every
:data:`PROBE` seconds it is let run empty to see the road as it is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from doorstep.protocol.errors import ProtocolError
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import KIB, MIB

__all__ = ["BULK_LANES", "BulkTaken", "BulkWindow"]

BULK_LANES = frozenset({Lane.BROWSER_STREAM, Lane.FILE_TRANSFER})
"""The others are never held back."""
TELL_EVERY = 32 * KIB
TELL_AFTER = 0.005
"""The receiver speaks after so many bytes or, on a slow road, seconds since it last did."""
FIRST = 128 * KIB
LEAST = TELL_EVERY
MOST = 16 * MIB
TARGET = 0.01
"""Seconds of queue that bulk may make."""
PROBE = 10.0
"""Seconds between two looks at the empty road."""
_INSTANT = 1e-6
_BURST = 1.25
"""At first a whole window goes out at once: its own queue, up to so much of the trip, is not the road's."""
_REMEMBERED = 0.05
"""Seconds for which a rate is remembered, beside four round trips."""


@dataclass(slots=True, frozen=True)
class _Mark:
    """A sent message: where it ends, when it went, what was taken then and since when, how full it was."""

    position: int
    at: float
    taken: int
    since: float
    filled: bool
    alone: bool


class BulkTaken:
    """The receiver's side."""

    def __init__(self, now: float) -> None:
        self.count = 0
        self._told = 0
        self._at = now

    def take(self, size: int, now: float) -> bool:
        """Bulk was taken; return whether to tell the sender :attr:`count` now."""
        self.count += size
        if self.count - self._told < TELL_EVERY and now - self._at < TELL_AFTER:
            return False
        self._told, self._at = self.count, now
        return True


class BulkWindow:
    """The sender's side. Times are seconds of any steady clock."""

    def __init__(self, now: float) -> None:
        self.window = FIRST
        self.round_trip: float | None = None
        """The shortest one seen since the last look at the empty road."""
        self._sent = 0
        self._taken = 0
        self._since = now
        self._marks: deque[_Mark] = deque()
        self._rates: deque[tuple[float, float]] = deque()
        """Times and rates, the best first: each is lower than the one before."""
        self._probe_at = now + PROBE
        self._probing = False
        self._starting = True

    @property
    def under_way(self) -> int:
        """Bytes sent and not said to be taken."""
        return self._sent - self._taken

    @property
    def open(self) -> bool:
        """Whether the next message may go."""
        return self.under_way < (LEAST if self._probing else self.window)

    def sent(self, size: int, now: float) -> None:
        """A message of ``size`` bytes was handed to the socket."""
        alone = self.under_way < TELL_EVERY
        if alone:
            self._since = now  # nothing was waited for: the time before says nothing about the road
        self._sent += size
        mark = _Mark(self._sent, now, self._taken, self._since, not self.open, self.under_way <= LEAST)
        self._marks.append(mark)

    def taken(self, count: int, now: float) -> None:
        """The receiver has taken ``count`` bytes since the beginning. Raises :class:`ProtocolError`."""
        if not self._taken <= count <= self._sent:
            raise ProtocolError("the peer says it has taken what was not sent")
        last = None
        while self._marks and self._marks[0].position <= count:
            last = self._marks.popleft()
        self._taken, self._since = count, now
        if last is not None:
            self._learn(last, now)

    def _learn(self, mark: _Mark, now: float) -> None:
        trip = max(now - mark.at, _INSTANT)
        if self._probing:
            self._look(mark, trip, now)
            return
        shortest = self.round_trip = min(self.round_trip or trip, trip)
        self._starting = self._starting and trip < shortest * _BURST + TARGET
        rate = (self._taken - mark.taken) / max(now - mark.since, _INSTANT)
        while self._rates and self._rates[0][0] < now - 4 * trip - _REMEMBERED:
            self._rates.popleft()
        if mark.filled or rate * (shortest + TARGET) > self.window:
            while self._rates and self._rates[-1][1] <= rate:
                self._rates.pop()
            self._rates.append((now, rate))
        if self._rates:
            gain = 2.0 if self._starting else 1.0
            self.window = min(max(int(self._rates[0][1] * (shortest * gain + TARGET)), LEAST), MOST)
        self._probing = now >= self._probe_at

    def _look(self, mark: _Mark, trip: float, now: float) -> None:
        """See the road when nothing stands on it; what was known of its rate stays."""
        if mark.alone:
            longer = self.round_trip is None or trip > self.round_trip * _BURST + TARGET
            self._starting = self._starting or longer
            self.round_trip, self._probing, self._probe_at = trip, False, now + PROBE
            self._rates = deque((now, rate) for _, rate in self._rates)
