"""SCTP, pure: fragments become messages, and ordered messages wait for their turn (RFC 9260 section 6.9).

Fragments of a message have consecutive TSNs. What has come of one is a *run*; a new fragment finds the run it
continues and the run it precedes by two dictionary look-ups, whatever the order of arrival and the size.
"""

from __future__ import annotations

from collections import deque

from doorstep.transport.sctp.limits import MAX_MESSAGE
from doorstep.transport.sctp.serial import behind16

__all__ = ["BEGIN", "END", "UNORDERED", "Reassembly", "Violation"]

END, BEGIN, UNORDERED = 0x01, 0x02, 0x04
"""Flags of a DATA chunk (RFC 9260 section 3.3.1)."""

Message = tuple[int, int, bytes]
"""Stream, payload protocol, data."""


class Violation(Exception):
    """The peer has sent what no sender may: the association is aborted with this sentence."""


class _Run:
    """Fragments with consecutive TSNs of one message; bounds are inclusive."""

    __slots__ = ("begun", "ended", "first", "key", "last", "parts", "protocol", "size")

    def __init__(self, tsn: int, flags: int, key: tuple[int, int, int], protocol: int, data: bytes) -> None:
        self.first = self.last = tsn
        self.begun = flags & BEGIN
        self.ended = flags & END
        self.key = key
        self.protocol = protocol
        self.parts = deque((data,))
        self.size = len(data)


class _Inbound:
    """One stream: the sequence number that is next, and whole messages that came before their turn."""

    __slots__ = ("next", "parked")

    def __init__(self) -> None:
        self.next = 0
        self.parked: dict[int, Message] = {}


class Reassembly:
    """Takes each DATA chunk once, whatever the order; appends messages to ``ready``, which the caller drains.

    ``buffered`` is what it holds in bytes; the caller keeps that within the window.
    """

    __slots__ = ("_current", "_firsts", "_lasts", "_streams", "buffered", "ready")

    def __init__(self) -> None:
        self.ready: list[Message] = []
        self.buffered = 0
        self._firsts: dict[int, _Run] = {}
        self._lasts: dict[int, _Run] = {}
        self._current: _Run | None = None
        self._streams: dict[int, _Inbound] = {}

    def add(self, tsn: int, flags: int, stream: int, sequence: int, protocol: int, data: bytes) -> None:
        """Take a chunk that has not come before. Raises :class:`Violation`."""
        if flags & 3 == 3:
            self._whole(flags & UNORDERED, sequence, (stream, protocol, data))
            return
        run = self._current
        key = (stream, sequence, flags & UNORDERED)
        if run is not None and run.last == tsn - 1 and not flags & BEGIN and not run.ended and run.key == key:
            del self._lasts[run.last]
            run.parts.append(data)
            run.size += len(data)
            run.last = tsn
            self._lasts[tsn] = run
            run.ended = flags & END
            self.buffered += len(data)
        else:
            run = self._join(_Run(tsn, flags, key, protocol, data))
        if run.size > MAX_MESSAGE:
            raise Violation("a message is larger than the description allows")
        if not flags & END and (right := self._firsts.get(tsn + 1)) is not None and right is not run:
            run = self._absorb(run, right)
        if run.begun and run.ended:
            self._complete(run)
        else:
            self._current = run

    def _join(self, run: _Run) -> _Run:
        self.buffered += run.size
        left = self._lasts.get(run.first - 1)
        self._firsts[run.first] = self._lasts[run.last] = run
        if left is None or left.ended:
            return run
        if run.begun:
            self._drop(left)  # the peer has given the rest of it up
            return run
        return self._absorb(left, run)

    def _absorb(self, left: _Run, right: _Run) -> _Run:
        if right.begun:
            if not left.ended:
                self._drop(left)
            return left
        if left.key != right.key:
            raise Violation("fragments of one message differ in their stream")
        del self._firsts[right.first], self._lasts[left.last], self._lasts[right.last]
        left.last, left.ended = right.last, right.ended
        left.size += right.size
        if len(left.parts) >= len(right.parts):
            left.parts.extend(right.parts)
        else:  # the smaller goes to the larger: a message that comes backwards costs no more
            right.parts.extendleft(reversed(left.parts))
            left.parts = right.parts
        self._lasts[left.last] = left
        if left.size > MAX_MESSAGE:
            raise Violation("a message is larger than the description allows")
        return left

    def _drop(self, run: _Run) -> None:
        self._firsts.pop(run.first, None)
        self._lasts.pop(run.last, None)
        self.buffered -= run.size
        if self._current is run:
            self._current = None

    def _complete(self, run: _Run) -> None:
        self._drop(run)
        stream, sequence, unordered = run.key
        self._whole(unordered, sequence, (stream, run.protocol, b"".join(run.parts)))

    def _whole(self, unordered: int, sequence: int, message: Message) -> None:
        if unordered:
            self.ready.append(message)
            return
        inbound = self._streams.get(message[0])
        if inbound is None:
            inbound = self._streams[message[0]] = _Inbound()
        if sequence == inbound.next:
            self.ready.append(message)
            inbound.next = (sequence + 1) & 0xFFFF
            if inbound.parked:
                self._release(inbound)
        elif not behind16(sequence, inbound.next) and sequence not in inbound.parked:
            inbound.parked[sequence] = message
            self.buffered += len(message[2])

    def _release(self, inbound: _Inbound) -> None:
        while (message := inbound.parked.pop(inbound.next, None)) is not None:
            self.buffered -= len(message[2])
            self.ready.append(message)
            inbound.next = (inbound.next + 1) & 0xFFFF

    def skip(self, cumulative: int, streams: list[tuple[int, int]]) -> None:
        """Give up what the peer has given up: everything to ``cumulative`` (RFC 3758 section 3.6).

        ``streams`` names the last sequence number given up of each ordered stream.
        """
        for run in list(self._firsts.values()):
            if run.last < cumulative or (run.first <= cumulative + 1 and not run.begun):
                self._drop(run)
        for stream, sequence in streams:
            inbound = self._streams.setdefault(stream, _Inbound())
            if not behind16(sequence, inbound.next):
                self._pass(inbound, sequence)
                self._release(inbound)

    def _pass(self, inbound: _Inbound, sequence: int) -> None:
        """Hand over what is parked up to ``sequence``, in order, and go on after it."""
        waiting = sorted(inbound.parked, key=lambda one: (one - inbound.next) & 0xFFFF)
        for one in waiting:
            if behind16(sequence, one):
                break
            message = inbound.parked.pop(one)
            self.buffered -= len(message[2])
            self.ready.append(message)
        inbound.next = (sequence + 1) & 0xFFFF

    def reset(self, stream: int) -> None:
        """The peer's side of ``stream`` begins again at sequence number 0 (RFC 6525 section 5.2.2)."""
        inbound = self._streams.pop(stream, None)
        if inbound is not None:
            self.buffered -= sum(len(message[2]) for message in inbound.parked.values())
        for run in list(self._firsts.values()):
            if run.key[0] == stream:
                self._drop(run)
