"""SCTP, pure: is there somebody on the path who fills every buffer? What a queue does when we shrink tells.

Alone on a link, half the window is half the round trip, down to the empty path's. A queue that falls by much
less when we shrink is not ours. While we *compete* with whom it belongs to, we grow as TCP does
(``cubic.py``), the path without a queue is remembered for longer, and at overflows, ``patience`` seconds
apart, all flows like this one drain together: if the path is then empty, nobody fills it. Was that an error,
then the next suspicion suffices, and the next look is twice as far away.
"""

from __future__ import annotations

from doorstep.transport.sctp.cubic import Cubic
from doorstep.transport.sctp.roundtrip import MEMORY, RoundTrips

__all__ = ["Company"]

_SHRINKS = 6
"""Rounds of shrinking before there is company: an effect takes some to be seen."""
_STANDS, _STANDS_ROUNDS = 0.050, 10
"""Seconds of queue that flows of ours do not leave each other, and rounds for which it has to stand while we
shrink: one of ours that starts needs some to see what it has done."""
_STARVED = 9.0
"""Seconds of shrinking after which we compete in any case: longer than the drains of others like this one
are apart, which would have shown them the path. Seconds of growing count twice against them."""
_GAP = 1.0
"""Seconds from one round to the next that count at most: a sender may have had nothing to say."""
_LOUD, _LOUD_WEIGHT = 0.030, 2
"""Seconds of queue that ours do not make, even when the last to come takes the others' queue for the path:
they count so much. Still, from one drain to the next must not be enough."""
_STARTS = 2.0
"""Seconds of shrinking before an overflow tells of company: one of ours may, when it starts."""
_OURS_ROUNDS, _OURS_EVERY = 4, 3.0
"""Rounds of shrinking in vain after which it is shown to others like this one how long the empty path is."""
_CUT = 0.85
"""Part of the window that shrinking must have left at most for its effect to be seen among others' noise."""
_FOLLOWS = 0.4
"""Part of the fall that a queue of ours would show, below which it is not ours."""
_USUAL = 10.0
"""Seconds over which the window is averaged that we begin to compete with: by then we have shrunk."""
_PATIENCE, _PATIENCE_MOST = 5.0, 20.0
"""Seconds between two looks whether the company has left."""
_RELAPSE, _RELAPSE_ROUNDS = 10.0, 2
"""Seconds after leaving in which so many rounds with a queue are enough to compete again."""
_MEMORY = 40.0
"""Seconds the empty path is believed in while competing: several looks."""
_FELL = 0.5
"""Part of the queue left from one round to the next that only a drain of others explains."""


class Company:
    """``present``: we compete. Windows are bytes; times are seconds."""

    __slots__ = (
        "_before", "_from", "_from_rtt", "_left_at", "_left_window", "_queue", "_round_at", "_rounds",
        "_rtts", "_shown_at", "_standing", "_starved", "_usual", "cubic", "patience", "present",
    )  # fmt: skip

    def __init__(self, rtts: RoundTrips) -> None:
        self._rtts = rtts
        self.present = False
        self.patience = _PATIENCE
        self.cubic = Cubic()
        self._rounds = 0
        """Of shrinking, one after the other."""
        self._standing = 0
        """Of these, with more of a queue than ours leave, one after the other."""
        self._from = self._before = 0
        """The windows when shrinking began, and the one that the last round has shown."""
        self._from_rtt = 0.0
        self._usual = 0.0
        """The mean window; 0 until there is one."""
        self._starved = self._round_at = 0.0
        self._shown_at = float("-inf")
        self._left_at = float("-inf")
        self._left_window = 0
        self._queue = 0.0

    # while delay decides

    def shrinking(self, window: int, now: float) -> None:
        """A round had too much of a queue with ``window``, and now it will shrink."""
        if not self._rounds:
            self._from, self._from_rtt = window, self._rtts.least
        self._rounds += 1
        queue = self._rtts.least - self._rtts.base
        self._standing = self._standing + 1 if queue > _STANDS else 0
        self._count(_LOUD_WEIGHT if queue > _LOUD else 1, window, now)
        self._before = window

    def none(self, window: int, now: float) -> None:
        """A round had no queue."""
        self._rounds = self._standing = 0
        self._count(-2, window, now)

    def _count(self, weight: float, window: int, now: float) -> None:
        since = min(now - self._round_at, _GAP)
        self._starved = max(0.0, self._starved + weight * since)
        self._usual += (window - self._usual) * since / _USUAL if self._usual else window
        self._round_at = now

    def _seen(self) -> bool:
        return self._before < _CUT * self._from

    def _follows(self) -> bool:
        """True when the round-trip time fell with the window as it does for who is alone on the link."""
        alone = min((1 - self._before / self._from) * self._from_rtt, self._from_rtt - self._rtts.base)
        return self._from_rtt - self._rtts.least >= _FOLLOWS * alone

    def found(self, queued: bool, now: float) -> int:
        """The window to compete with when there is company, else 0."""
        if queued and self._rounds >= _RELAPSE_ROUNDS and now - self._left_at < _RELAPSE:
            return self._left_window
        if self._rounds <= _SHRINKS:
            return 0
        if self._seen() and self._follows():
            self._rounds = 0
            return 0
        return int(self._usual) if self._standing >= _STANDS_ROUNDS or self._starved > _STARVED else 0

    def may_be_ours(self, now: float) -> bool:
        """True when it is time to show others like this one the empty path."""
        due = self._rounds > _OURS_ROUNDS and self._seen() and now >= self._shown_at + _OURS_EVERY
        if due:
            self._shown_at = now
            self._rounds = 0
        return due

    def overflowed(self) -> int:
        """The window to compete with when a buffer has overflowed while we were shrinking, else 0."""
        ours_to_come = self._starved < _STARTS
        return 0 if self._rounds < _RELAPSE_ROUNDS or ours_to_come else int(self._usual)

    # while competing

    def entered(self, window: int, now: float) -> None:
        again = now - self._left_at < _RELAPSE
        self.patience = min(2 * self.patience, _PATIENCE_MOST) if again else _PATIENCE
        self.present = True
        self.cubic.begin(window, now)
        self._rounds = self._standing = 0
        self._starved = 0.0
        self._queue = 0.0
        self._rtts.memory = _MEMORY

    def others_drained(self, queue: float) -> bool:
        """To be asked once per round: has the queue fallen as only a drain of others makes it fall?"""
        before, self._queue = self._queue, queue
        return queue < _FELL * before

    def left(self, window: int, now: float) -> None:
        self.forget()
        self._left_at, self._left_window = now, window

    def forget(self) -> None:
        """Delay decides again."""
        self.present = False
        self._rounds = 0
        self._usual = 0.0
        self._left_at = float("-inf")
        self._rtts.memory = MEMORY
