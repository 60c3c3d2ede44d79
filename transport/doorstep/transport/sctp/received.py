"""SCTP, pure: which TSNs have come (RFC 9260 section 6.2): what a SACK says."""

from __future__ import annotations

from bisect import bisect_right

from doorstep.transport.sctp.limits import DUPLICATES, GAP_BLOCKS, MAX_AHEAD

__all__ = ["Received"]


class Received:
    """A cumulative TSN, and above it disjoint ranges that do not touch, in order.

    TSNs are unbounded ints. Memory: at most ``MAX_AHEAD / 2`` ranges.
    """

    __slots__ = ("_firsts", "_lasts", "cumulative", "duplicates")

    def __init__(self, cumulative: int) -> None:
        self.cumulative = cumulative
        self.duplicates: list[int] = []
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    @property
    def has_gaps(self) -> bool:
        return bool(self._firsts)

    def add(self, tsn: int) -> bool:
        """Note ``tsn``; return False for one that has come before, or that no gap block could name."""
        if tsn <= self.cumulative:
            return self._again(tsn)
        if tsn > self.cumulative + MAX_AHEAD:
            return False
        if tsn == self.cumulative + 1:
            self._advance(tsn)
            return True
        return self._insert(tsn)

    def _again(self, tsn: int) -> bool:
        if len(self.duplicates) < DUPLICATES:
            self.duplicates.append(tsn)
        return False

    def _insert(self, tsn: int) -> bool:
        firsts, lasts = self._firsts, self._lasts
        at = bisect_right(firsts, tsn)
        if at and tsn <= lasts[at - 1]:
            return self._again(tsn)
        joins_left = at > 0 and lasts[at - 1] == tsn - 1
        joins_right = at < len(firsts) and firsts[at] == tsn + 1
        if joins_left and joins_right:
            lasts[at - 1] = lasts.pop(at)
            del firsts[at]
        elif joins_left:
            lasts[at - 1] = tsn
        elif joins_right:
            firsts[at] = tsn
        else:
            firsts.insert(at, tsn)
            lasts.insert(at, tsn)
        return True

    def skip_to(self, tsn: int) -> bool:
        """Take all up to ``tsn`` as received (RFC 3758 section 3.6); False when that says nothing new."""
        if tsn <= self.cumulative:
            return False
        self._advance(tsn)
        return True

    def _advance(self, tsn: int) -> None:
        """Move the cumulative TSN to ``tsn``, and over the ranges that this reaches."""
        firsts, lasts = self._firsts, self._lasts
        reached = bisect_right(firsts, tsn + 1)
        if reached:
            tsn = max(tsn, lasts[reached - 1])
            del firsts[:reached], lasts[:reached]
        self.cumulative = tsn

    def blocks(self) -> list[tuple[int, int]]:
        """The gap blocks of a SACK: offsets from the cumulative TSN, nearest first."""
        base = self.cumulative
        return [
            (first - base, last - base)
            for first, last in zip(self._firsts[:GAP_BLOCKS], self._lasts[:GAP_BLOCKS], strict=True)
        ]
