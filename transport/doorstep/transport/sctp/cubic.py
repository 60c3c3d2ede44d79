"""SCTP, pure: how a window grows beside TCP: as CUBIC's (RFC 9438), and no slower than Reno's does.

It follows the time since the last loss, so what a drain costs is made up for soon after.
"""

from __future__ import annotations

__all__ = ["Cubic"]

_BETA = 0.7
"""Part of the window that a loss leaves (section 4.6)."""
_C = 0.7
"""Packets per second cubed. A TCP has 0.4 (section 5) and no drains, of which each of ours costs a cut."""
_ALPHA = 0.75
"""Packets per round trip at least. 0.53 would be a Reno's equal (section 4.3), but for the drains."""
_MOST = 1.5
"""Times the window in a round trip (section 4.4)."""
_SEEK, _SEEK_PART = 3.0, 8
"""Seconds from the beginning, and the part of the window per round trip, for which we look for our place:
whoever fills the buffer left us little before we knew of it. For longer, an error would fill a deep one."""


class Cubic:
    """Windows are bytes; times are seconds."""

    __slots__ = ("_began", "_from", "_plateau", "_seeking", "_until_plateau")

    def __init__(self) -> None:
        self._plateau = self._from = 0.0
        self._began = self._until_plateau = 0.0
        self._seeking = False

    def begin(self, window: int, now: float) -> None:
        """There is more room than ``window``, as far as known."""
        self._plateau = self._from = window
        self._began, self._until_plateau = now, 0.0
        self._seeking = True

    def cut(self, window: int, mtu: int, now: float) -> None:
        """``window`` was too much. Who has less than before leaves room to others (section 4.7)."""
        self._plateau = window * (1 + _BETA) / 2 if window < self._plateau else window
        self._from, self._began = window * _BETA, now
        self._until_plateau = (max(0.0, self._plateau - self._from) / mtu / _C) ** (1 / 3)
        self._seeking = False

    def next(self, window: int, mtu: int, rtt: float, now: float) -> int:
        """The window after one more round trip."""
        since = now - self._began
        if self._seeking and since < _SEEK:
            return window + window // _SEEK_PART
        since += rtt
        cubic = self._plateau + _C * (since - self._until_plateau) ** 3 * mtu
        reno = self._from + _ALPHA * mtu * since / rtt
        return int(min(max(window, cubic, reno), _MOST * window))
