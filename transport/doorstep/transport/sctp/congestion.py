"""SCTP, pure: how much may be in flight. Delay decides; a loss counts when there is a queue.

The queue is what the least round-trip time of a round is above that of the empty path. Below a target the
window grows, above it it shrinks in proportion (as Swift and LEDBAT++ do): equal flows see one queue, grow by
the same amount and shrink by the same factor, so they come to equal shares. A loss without a queue is the
weather (radio, a policer): it costs 3 %. With a queue it is congestion: 30 %, as in CUBIC (RFC 9438).

A queue that stays although we shrink is not ours. Mostly it is another flow like this one, that came later
and takes the queue for the path: then we *drain*, so that it sees the path empty. When that does not help,
it is a flow that fills every buffer, as most TCPs do: then we *compete* (``company.py``) as it does.
"""

from __future__ import annotations

from doorstep.transport.sctp.company import Company
from doorstep.transport.sctp.limits import INITIAL_WINDOW, LEAST_WINDOW
from doorstep.transport.sctp.roundtrip import RoundTrips

__all__ = ["Congestion"]

_TARGET_PART, _TARGET_LEAST, _TARGET_MOST = 1 / 4, 0.001, 0.015
"""Target of the standing queue: a quarter of the round trip, at least what an event loop adds anyway, at most
what still leaves room for other flows' under 50 ms."""
_STARTED_PART, _STARTED_LEAST, _STARTED_MOST = 1 / 8, 0.002, 0.008
"""A queue of this much ends slow start."""
_STARTED_FOR, _STARTED_SAMPLES = 1 / 4, 8
"""Round trips for which every sample must show it, and how many (RFC 9406 section 4.3): a late wake-up delays
some, not all, and an acknowledgement that waited for a second packet is not a queue."""
_NEAR, _NEAR_WINDOW = 0.002, 128 * 1024
"""Below this round trip, in seconds, what looks like a queue is mostly two event loops taking turns: delay
does not shrink the window below these bytes, a few turns' worth. A keystroke waits for them to be read: four
times as many cost it milliseconds, and bring nothing."""
_CALM_WINDOW = 24 * 1024
"""Bytes of bulk in flight on such a path while somebody types. A keystroke stands behind them, and behind the
work that both ends have with them, which keeps the terminal from a processor. It costs bulk half its rate."""
_SHRINK = 0.4
"""Part of the window that a queue far above the target costs per round."""
_EMPTY_ROUNDS, _EMPTY_PART = 3, 1 / 8
"""Rounds with next to no queue after which the link is idle, and the window grows by a part of itself."""
_SEEK_PART = 1 / 4
"""The same from the end of slow start to the first queue, and the less the nearer the target is."""
_QUICKER_ROUNDS, _QUICKER_PART = 3, 1 / 32
"""Rounds of growing after which each grows by twice as much as the one before (as in Copa), up to a part of
the window: what a machine's stall, taken for a queue, has cost is made good in a second."""
_DRAIN_EVERY, _DRAIN_EVERY_TRIPS, _DRAIN_PART = 3.0, 30, 1 / 2
"""Seconds, or round trips if they are more, after which the window is cut for a round, to see the path
without our queue (as BBR does), and to show it to others of ours that took our queue for the path: every 10
s, five that came one after the other took each other for company before."""
_DRAIN_ROUNDS, _DRAIN_ROUNDS_COMPETING = 2, 3
"""The first round of a drain still sees the queue. Among competitors one more: theirs begin a round apart."""
_WEATHER, _CONGESTION = 0.97, 0.7
_HEAVY, _HEAVY_COUNT = 1 / 12, 4
"""Part of a round trip's bytes, and number of losses, that are congestion without a queue: a short buffer."""
_QUEUED = 0.020
"""Seconds of queue, or the target if that is more, from which on a loss is congestion."""


class Congestion:
    """``window`` is in bytes. Give it every acknowledgement, loss and time-out, in that order."""

    __slots__ = (
        "_acked_bytes",
        "_drain_at",
        "_drain_least",
        "_drain_rtt",
        "_draining",
        "_empty",
        "_growing",
        "_late",
        "_late_samples",
        "_limited",
        "_losses",
        "_lost_bytes",
        "_mtu",
        "_recover",
        "_restore",
        "_rtts",
        "_seeking",
        "calm",
        "company",
        "slow_start",
        "threshold",
        "window",
    )  # fmt: skip

    def __init__(self, rtts: RoundTrips, mtu: int) -> None:
        self._rtts = rtts
        self._mtu = mtu
        self.company = Company(rtts)
        self.window = INITIAL_WINDOW * mtu
        self.calm = False
        """Somebody types."""
        self.threshold = 1 << 40
        self.slow_start = True
        self._late = 0.0
        """When a sample last showed no queue."""
        self._late_samples = 0
        """That have shown one since."""
        self._empty = 0
        """Rounds without a queue, one after the other."""
        self._growing = 0
        """Rounds of growing, one after the other."""
        self._seeking = False
        self._limited = False
        self._recover = 0
        self._losses = 0
        self._lost_bytes = 0
        self._acked_bytes = 0
        self._draining = 0
        """Rounds left of a drain."""
        self._drain_least = self._drain_rtt = 0.0
        """Least round trip within the drain, and of the round before it."""
        self._restore = 0
        self._drain_at = 0.0

    @property
    def competing(self) -> bool:
        return self.company.present

    @property
    def target(self) -> float:
        return min(max(_TARGET_PART * self._rtts.base, _TARGET_LEAST), _TARGET_MOST)

    @property
    def queue(self) -> float:
        """Seconds of standing queue in the last round."""
        return max(0.0, self._rtts.least - self._rtts.base) if self._rtts.least else 0.0

    @property
    def _drain_every(self) -> float:
        return max(_DRAIN_EVERY, _DRAIN_EVERY_TRIPS * self._rtts.base)

    @property
    def _least(self) -> int:
        return LEAST_WINDOW * self._mtu

    @property
    def _near(self) -> bool:
        return self._rtts.base < _NEAR

    @property
    def for_bulk(self) -> int:
        """What of the window is for that which nobody waits for at the keyboard."""
        return min(self.window, _CALM_WINDOW) if self.calm and self._near else self.window

    @property
    def _floor(self) -> int:
        """Delay does not shrink the window below this."""
        return min(_NEAR_WINDOW, self.window) if self._near else self._least

    @property
    def _queued(self) -> float:
        return max(_QUEUED, self.target)

    def grow_mtu(self, mtu: int) -> None:
        """The path takes larger packets: what is counted in packets counts these."""
        self._mtu = mtu
        self.window = max(self.window, self._least)

    # acknowledgements

    def acked(self, size: int, sampled: bool, limited: bool, now: float) -> None:
        """``limited``: the window was what held the sender back; otherwise it is not a reason to grow it."""
        self._limited |= limited
        self._acked_bytes += size
        if self.slow_start and limited:
            self.window += size
            if self.window >= self.threshold:
                self._end_slow_start(self.window)
            elif sampled:
                self._watch_start(now)

    def _watch_start(self, now: float) -> None:
        rtts = self._rtts
        allowed = min(max(_STARTED_PART * rtts.base, _STARTED_LEAST), _STARTED_MOST)
        if rtts.latest <= rtts.base + allowed:
            self._late, self._late_samples = now, 0
            return
        self._late_samples += 1
        long = now - self._late >= max(_STARTED_FOR * rtts.base, 2 * _STARTED_LEAST)
        if long and self._late_samples >= _STARTED_SAMPLES:
            # What was sent a round trip ago filled the path: since then the window has nearly doubled.
            share = rtts.base / rtts.latest
            self._end_slow_start(int(self.window * min(0.5 + share / 4, 0.75)))

    def _end_slow_start(self, window: int) -> None:
        self.slow_start, self._seeking = False, True
        self._drain(window, _DRAIN_PART)

    def round_over(self, now: float) -> None:
        """Once per round trip: the verdict on its standing queue."""
        limited, self._limited = self._limited, False
        may_grow = limited and not self._losses
        self._losses = self._lost_bytes = self._acked_bytes = 0
        if not self._drain_at:
            self._drain_at = now + self._drain_every
        if self._draining:
            self._drain_on(now)
        elif self.slow_start:
            return
        elif self.competing:
            self._compete(limited, may_grow, now)
        elif limited and now >= self._drain_at:
            self._drain(self.window, _DRAIN_PART)
        elif self.queue > self.target:
            self._shrink(now)
        elif may_grow:
            self._grow(now)

    def _drain(self, restore: int, part: float) -> None:
        """Have ``part`` of the window for some rounds, and ``restore`` afterwards."""
        self._restore = max(restore, self._least)
        self._draining = _DRAIN_ROUNDS_COMPETING if self.competing else _DRAIN_ROUNDS
        self._drain_least = float("inf")
        self._drain_rtt = self._rtts.least
        self.window = max(int(self.window * part), self._floor)

    def _drain_whole(self, restore: int) -> None:
        """A drain that empties the path of our bytes, however deep they stand in a queue."""
        self._drain(restore, self._rtts.base / max(self._rtts.least, self._rtts.base) / 2)

    def _drain_on(self, now: float) -> None:
        self._draining -= 1
        self._drain_least = min(self._drain_least, self._rtts.least)
        if self._draining:
            return
        self.window = max(self.window, self._restore)
        if self.competing and self._drain_least - self._rtts.base < self.target / 2:
            self._leave(now)
        self._drain_at = now + (self.company.patience if self.competing else self._drain_every)
        self._empty = 0

    def _compete(self, limited: bool, may_grow: bool, now: float) -> None:
        self._empty = self._empty + 1 if self.queue < self.target / 2 else 0
        if self._empty > _EMPTY_ROUNDS:
            self._leave(now)
            return
        if self.company.others_drained(self.queue):
            self._drain_at = now + self.company.patience
        if limited and now >= self._drain_at + self.company.patience:
            self._drain_whole(self.window)  # a buffer without end, or a sender with little to say
        elif may_grow:
            self.window = self.company.cubic.next(self.window, self._mtu, self._rtts.smoothed, now)

    def _leave(self, now: float) -> None:
        """Nobody fills the path: have the window that fills it."""
        self.company.left(self.window, now)
        rtt = max(self._drain_rtt, self._rtts.base)
        self.window = max(int(self.window * self._rtts.base / rtt), self._least)

    def _enter(self, window: int, now: float) -> None:
        self.company.entered(max(window, self.window), now)
        self.window = max(window, self.window)
        self._drain_at = now + self.company.patience

    def _shrink(self, now: float) -> None:
        self._empty, self._growing, self._seeking = 0, 0, False
        queue, target = self.queue, self.target
        self.company.shrinking(self.window, now)
        if window := self.company.found(queue > self._queued, now):
            self._enter(window, now)
        elif self.company.may_be_ours(now):
            self._drain_whole(self.window)
        else:
            part = _SHRINK * (queue - target) / queue
            self.window = max(int(self.window * (1 - part)), self._floor)

    def _grow(self, now: float) -> None:
        self.company.none(self.window, now)
        self._empty = self._empty + 1 if self.queue < self.target / 4 else 0
        self._growing += 1
        if self._seeking:
            part = _SEEK_PART * (1 - self.queue / self.target)
        elif self._empty > _EMPTY_ROUNDS:
            part = _EMPTY_PART
        else:
            quicker = self._mtu << min(max(0, self._growing - _QUICKER_ROUNDS), 16)
            part = min(quicker / self.window, _QUICKER_PART)
        self.window += max(self._mtu, int(self.window * part))

    # losses

    def lost(self, size: int, transmission: int, transmissions: int, now: float) -> None:
        """A fragment was lost. It counts once per round, as ``transmission`` and the last one of all tell."""
        self._losses += 1
        self._lost_bytes += size
        if transmission < self._recover:
            return
        heavy = self._losses >= _HEAVY_COUNT and self._lost_bytes > _HEAVY * (self._acked_bytes + self.window)
        queued = self.queue > (self.target if self.competing else self._queued)
        if not self.slow_start:
            self._recover = transmissions + 1
            self._cut(heavy or queued, queued, now)
        elif heavy or queued:
            self._recover = transmissions + 1
            self._end_slow_start(self.window // 2)

    def _cut(self, congested: bool, queued: bool, now: float) -> None:
        factor = _CONGESTION if congested else _WEATHER
        if congested:
            self._growing = 0
        if self._draining:
            self._restore = int(self._restore * factor)
            return
        if queued and not self.competing and (window := self.company.overflowed()):
            self._enter(window, now)
        if self.competing and congested:
            self.company.cubic.cut(self.window, self._mtu, now)
            if now >= self._drain_at:
                self._drain_whole(int(self.window * factor))  # now, as others like this one do
                return
        self.window = max(int(self.window * factor), self._least)

    def timed_out(self) -> None:
        """Nothing has come back for long: begin anew, and learn the path anew (RFC 9260 section 7.2.3)."""
        self.threshold = max(self.window // 2, self._least)
        self.window = self._mtu
        self.slow_start = True
        self._late = 0.0
        self._empty = self._draining = 0
        self.company.forget()
        self._rtts.forget()
