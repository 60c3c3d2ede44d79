"""SCTP, pure: how much may be in flight. Delay decides; a loss counts when there is a queue.

The queue is what the least round-trip time of a round is above that of the empty path. Below a target the
window grows, above it it shrinks in proportion (as Swift and LEDBAT++ do): equal flows see one queue, grow by
the same amount and shrink by the same factor, so they come to equal shares. A loss without a queue is the
weather (radio, a policer): it costs 3 %. With a queue it is congestion: 30 %, as in CUBIC (RFC 9438).

Alone on a link, half the window is half the round trip, down to the empty path's. A queue that falls by much
less when we shrink is not ours: a flow that fills every buffer, as most TCPs do, or a path that has become
longer. Then we *compete*: grow by a few packets per round, and give way to losses only, as that flow does.
From time to time the window is halved for a round, which shows the empty path, and whether we have company.
"""

from __future__ import annotations

from doorstep.transport.sctp.limits import INITIAL_WINDOW, LEAST_WINDOW
from doorstep.transport.sctp.roundtrip import RoundTrips

__all__ = ["Congestion"]

_TARGET_PART, _TARGET_LEAST, _TARGET_MOST = 1 / 4, 0.001, 0.015
"""Target of the standing queue: a quarter of the round trip, at least what an event loop adds anyway, at most
what still leaves room for other flows' under 50 ms."""
_STARTED_PART, _STARTED_LEAST, _STARTED_MOST = 1 / 8, 0.002, 0.008
"""A queue of this much ends slow start."""
_STARTED_FOR = 1 / 4
"""Round trips for which every sample must show it: a late wake-up of an event loop delays some, not all."""
_NEAR, _NEAR_WINDOW = 0.002, 512 * 1024
"""Below this round trip, in seconds, what looks like a queue is mostly two event loops taking turns: delay
does not shrink the window below these bytes, a few turns' worth."""
_SHRINK = 0.4
"""Part of the window that a queue far above the target costs per round."""
_EMPTY_ROUNDS = 3
"""Rounds with next to no queue after which the link is idle, and the window grows by a part of itself."""
_UNMOVED_ROUNDS = 8
"""Rounds of shrinking before it is judged whether the queue follows."""
_UNMOVED_CUT = 0.75
"""The part of the window that these rounds have left at most: less could go unseen in the noise of others."""
_OURS = 0.4
"""Part of the fall that a queue of ours would show, below which it is not ours."""
_COMPETING_GROWTH = 3
"""Packets per round beside a flow that fills every buffer: the rounds are long then; CUBIC grows by time."""
_DRAIN_EVERY, _DRAIN_COMPETING = 10.0, 5.0
"""Seconds after which the window is halved for a round, to see the path without our queue (as BBR does)."""
_WEATHER, _CONGESTION = 0.97, 0.7
_HEAVY, _HEAVY_COUNT = 1 / 12, 4
"""Part of a round trip's bytes, and number of losses, that are congestion without a queue: a short buffer."""
_QUEUED = 0.020
"""Seconds of queue, or the target if that is more, from which on a loss is congestion."""


class Congestion:
    """``window`` is in bytes. Give it every acknowledgement, loss and time-out, in that order."""

    __slots__ = (
        "_acked_bytes",
        "_alone",
        "_cut_before",
        "_cut_from",
        "_cut_rounds",
        "_cut_rtt",
        "_drain_at",
        "_drain_rtt",
        "_draining",
        "_empty",
        "_late",
        "_limited",
        "_losses",
        "_lost_bytes",
        "_mtu",
        "_recover",
        "_restore",
        "_rtts",
        "competing",
        "slow_start",
        "threshold",
        "window",
    )  # fmt: skip

    def __init__(self, rtts: RoundTrips, mtu: int) -> None:
        self._rtts = rtts
        self._mtu = mtu
        self.window = INITIAL_WINDOW * mtu
        self.threshold = 1 << 40
        self.slow_start = True
        self._late = 0.0
        """When a sample last showed no queue."""
        self._empty = 0
        self._limited = False
        self._recover = 0
        self._losses = 0
        self._lost_bytes = 0
        self._acked_bytes = 0
        self._cut_rounds = 0
        self._cut_from = self._cut_before = 0
        self._cut_rtt = 0.0
        self._draining = 0
        self._restore = 0
        self._drain_at = 0.0
        self._drain_rtt = 0.0
        self._alone = 0
        """Halved windows in a row that the queue has followed."""
        self.competing = False

    @property
    def target(self) -> float:
        return min(max(_TARGET_PART * self._rtts.base, _TARGET_LEAST), _TARGET_MOST)

    @property
    def queue(self) -> float:
        """Seconds of standing queue in the last round."""
        return max(0.0, self._rtts.least - self._rtts.base) if self._rtts.least else 0.0

    def grow_mtu(self, mtu: int) -> None:
        """The path takes larger packets: what is counted in packets counts these."""
        self._mtu = mtu
        self.window = max(self.window, LEAST_WINDOW * mtu)

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
            self._late = now
        elif now - self._late >= max(_STARTED_FOR * rtts.base, 2 * _STARTED_LEAST):
            # What was sent a round trip ago filled the path: since then the window has nearly doubled.
            share = rtts.base / rtts.latest
            self._end_slow_start(int(self.window * min(0.5 + share / 4, 0.75)))

    def _end_slow_start(self, window: int) -> None:
        self.slow_start = False
        self._restore = max(window, LEAST_WINDOW * self._mtu)
        self._begin_drain()

    def round_over(self, now: float) -> None:
        """Once per round trip: the verdict on its standing queue."""
        limited, self._limited = self._limited, False
        lost = self._losses
        self._losses = self._lost_bytes = self._acked_bytes = 0
        if not self._drain_at:
            self._drain_at = now + _DRAIN_EVERY
        if self._draining:
            self._drain_on(now)
        elif self.slow_start:
            return
        elif now >= self._drain_at and limited:
            self._restore = self.window
            self._begin_drain()
        elif self.competing:
            self._compete(limited and not lost)
        elif self.queue > self.target:
            self._shrink()
        elif limited and not lost:
            self._grow()

    def _begin_drain(self) -> None:
        self._draining = 2
        self._drain_rtt = self._rtts.least
        self.window = max(self._restore // 2, LEAST_WINDOW * self._mtu)

    def _drain_on(self, now: float) -> None:
        """Half a window for a round; the round after it sees the path drained."""
        self._draining -= 1
        if self._draining:
            return
        if self.competing:
            follows = self._follows(self._restore, self.window, self._drain_rtt)
            self._alone = self._alone + 1 if follows else 0
            if self._alone > 1:
                self._leave()
        self.window = max(self.window, self._restore)
        self._drain_at = now + (_DRAIN_COMPETING if self.competing else _DRAIN_EVERY)
        self._cut_rounds = self._empty = 0

    def _follows(self, before: int, after: int, rtt: float) -> bool:
        """True when the round-trip time fell with the window as it does for who is alone on the link."""
        alone = min((1 - after / before) * rtt, rtt - self._rtts.base)
        return rtt - self._rtts.least >= _OURS * alone

    def _leave(self) -> None:
        """No company any more: the path is what this round has seen, and the window what fills it."""
        self.competing = False
        self._alone = 0
        self._rtts.rebase()
        self._restore = min(self._restore, int(self._restore * self._rtts.base / self._drain_rtt))

    def _compete(self, may_grow: bool) -> None:
        self._empty = self._empty + 1 if self.queue < self.target else 0
        if self._empty > _EMPTY_ROUNDS:
            self.competing = False
        if may_grow:
            self.window += _COMPETING_GROWTH * self._mtu

    def _shrink(self) -> None:
        self._empty = 0
        queue, target = self.queue, self.target
        if not self._cut_rounds:
            self._cut_from, self._cut_rtt = self.window, self._rtts.least
        self._cut_rounds += 1
        self._cut_before = self.window  # what this round has shown is the doing of the window before
        part = _SHRINK * min(1.0, (queue - target) / queue)
        floor = _NEAR_WINDOW if self._rtts.base < _NEAR else LEAST_WINDOW * self._mtu
        self.window = max(int(self.window * (1 - part)), min(floor, self.window))
        least = LEAST_WINDOW * self._mtu
        enough = max(self._cut_from * _UNMOVED_CUT, least)
        if self._cut_rounds > _UNMOVED_ROUNDS and self._cut_before <= enough:
            high = queue > max(_QUEUED, 2 * target)  # less is what flows like this one leave
            if self._follows(self._cut_from, self._cut_before, self._cut_rtt):
                self._cut_rounds = 0
            elif high:
                self.competing = True
                self.window = self._cut_from
                self._cut_rounds = 0

    def _grow(self) -> None:
        self._cut_rounds = 0
        self._empty = self._empty + 1 if self.queue < self.target / 4 else 0
        if self._empty > _EMPTY_ROUNDS:
            self.window += max(self._mtu, self.window // 8)
        else:
            self.window += self._mtu

    # losses

    def lost(self, size: int, transmission: int, transmissions: int) -> None:
        """A fragment was lost. It counts once per round, as ``transmission`` and the last one of all tell."""
        self._losses += 1
        self._lost_bytes += size
        if transmission < self._recover:
            return
        heavy = self._losses >= _HEAVY_COUNT and self._lost_bytes > _HEAVY * (self._acked_bytes + self.window)
        congested = heavy or self.queue > max(_QUEUED, self.target)
        if self.slow_start:
            if congested:
                self._recover = transmissions + 1
                self._end_slow_start(self.window // 2)
            return
        self._recover = transmissions + 1
        factor = _CONGESTION if congested else _WEATHER
        self.window = max(int(self.window * factor), LEAST_WINDOW * self._mtu)
        self._restore = int(self._restore * factor)

    def timed_out(self) -> None:
        """Nothing has come back for long: begin anew, and learn the path anew (RFC 9260 section 7.2.3)."""
        self.threshold = max(self.window // 2, LEAST_WINDOW * self._mtu)
        self.window = self._mtu
        self.slow_start = True
        self._late = 0.0
        self._empty = self._cut_rounds = self._draining = 0
        self.competing = False
        self._rtts.forget()
