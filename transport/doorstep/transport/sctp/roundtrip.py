"""SCTP, pure: the round-trip time. Smoothed for the time-out (RFC 6298), and its least of each round trip.

A *round* ends when a fragment sent after its beginning is acknowledged. The least round-trip time of a round
is the path with the queue that never empties: jitter, and acknowledgements that wait, are above it.
"""

from __future__ import annotations

from doorstep.transport.sctp.limits import FIRST_TIMEOUT, LEAST_TIMEOUT, MOST_TIMEOUT

__all__ = ["MEMORY", "RoundTrips"]

MEMORY = 15.0
"""Seconds a smallest round-trip time is believed without being seen again: routes change."""
_SHORTEST = 0.004
"""Seconds of a round at least: on a loopback a round trip has too few samples for its least to say much."""


class RoundTrips:
    """Times in seconds, from any one clock."""

    __slots__ = (
        "_bucket", "_bucket_end", "_end", "_least", "_round_began", "base", "deviation", "latest", "least",
        "memory", "smoothed",
    )  # fmt: skip

    def __init__(self) -> None:
        self.smoothed = 0.0
        """0 until measured."""
        self.deviation = 0.0
        self.latest = 0.0
        self.base = 0.0
        """The path without our queue, as far as known; 0 until measured."""
        self.least = 0.0
        """Of the last whole round."""
        self.memory = MEMORY
        """Seconds that ``base`` is believed in without being seen again."""
        self._least = float("inf")
        self._end = 0
        self._round_began = 0.0
        self._bucket = float("inf")
        self._bucket_end = 0.0

    @property
    def timeout(self) -> float:
        """T3 without back-off."""
        if not self.smoothed:
            return FIRST_TIMEOUT
        return min(max(LEAST_TIMEOUT, 1.5 * self.smoothed + 4 * self.deviation), 4 * MOST_TIMEOUT)

    @property
    def late(self) -> float:
        """After this time a packet that a later one has overtaken will not come any more."""
        return self.smoothed + max(self.smoothed / 4, 4 * self.deviation)

    def sample(self, rtt: float, now: float) -> None:
        self.latest = rtt
        if not self.smoothed:
            self.smoothed, self.deviation = rtt, rtt / 2
        else:
            self.deviation += (abs(self.smoothed - rtt) - self.deviation) / 4
            self.smoothed += (rtt - self.smoothed) / 8
        self._least = min(self._least, rtt)
        self._bucket = min(self._bucket, rtt)
        if not self.base or rtt < self.base:
            self.base = rtt
        elif now > self._bucket_end:
            self.base = self._bucket
        else:
            return
        if now > self._bucket_end:
            self._bucket, self._bucket_end = float("inf"), now + self.memory

    def round_over(self, arrived: int, sent: int, now: float) -> bool:
        """``arrived``, ``sent``: the newest transmission known to have arrived, and the last one sent."""
        if arrived < self._end or now - self._round_began < _SHORTEST:
            return False
        self._end = sent + 1
        self._round_began = now
        if self._least == float("inf"):
            return False
        self.least, self._least = self._least, float("inf")
        return True

    def forget(self) -> None:
        """Nothing came back for long: the path may be another one. Learn its round-trip time anew."""
        self.base = self.least = 0.0
        self._least = self._bucket = float("inf")
