"""SCTP, pure: spread the window over the round trip. A browser's UDP socket buffer holds 30 to 50 packets,
and the queue before a slow link not many more: a window sent at once is lost there.
"""

from __future__ import annotations

__all__ = ["Pacer"]

_FAST = 0.004
"""Round trips below this are not paced: the event loop's timers are no finer than 1 ms."""
_TICK = 0.002
"""Seconds between two portions; the loop's clock gives 1 ms to 2 ms."""
_PORTION = 10
"""Packets that may always go at once (RFC 9002 section 7.7)."""
_LATE, _LATE_PORTION = 0.02, 48
"""Seconds that a loop may be late without losing its turn, as far as so many packets go at once."""
_STEADY, _STARTING = 1.25, 2.0
"""Windows per round trip: above 1, so that it is the window that bounds the rate."""


class Pacer:
    """A bucket of bytes that fills with the window's rate."""

    __slots__ = ("_bucket", "_filled", "_mtu")

    def __init__(self, mtu: int) -> None:
        self._mtu = mtu
        self._bucket = 0.0
        self._filled = 0.0

    def grow_mtu(self, mtu: int) -> None:
        self._mtu = mtu

    def allowance(self, now: float, window: int, round_trip: float, starting: bool) -> int | None:
        """Bytes that may leave now; None when the path is not paced."""
        if round_trip < _FAST:
            return None
        rate = (_STARTING if starting else _STEADY) * window / round_trip
        most = max(_PORTION * self._mtu, rate * 2 * _TICK, min(rate * _LATE, _LATE_PORTION * self._mtu))
        self._bucket = min(self._bucket + (now - self._filled) * rate, most)
        self._filled = now
        return int(self._bucket)

    def spent(self, size: int) -> None:
        self._bucket -= size

    def next_at(self, now: float) -> float:
        """When to ask again after all was spent."""
        return now + _TICK
