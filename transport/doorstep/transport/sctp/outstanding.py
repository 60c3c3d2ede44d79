"""SCTP, pure: what has been sent and not yet acknowledged; SACK in, losses and round trips out.

Losses are told by the order of transmission, as QUIC does it (RFC 9002 section 6.1, like RACK, RFC 8985): a
fragment is lost when one sent a few transmissions later, or more than 9/8 round trip later, has arrived. That
finds a lost retransmission too, which counting SACKs (RFC 9260 section 7.2.4) leaves to the T3 timer.
"""

from __future__ import annotations

from collections import deque

from doorstep.transport.sctp.limits import LATE, REORDERING, REORDERING_MOST
from doorstep.transport.sctp.scheduler import Message

__all__ = ["Fragment", "Outstanding"]


class Fragment:
    """One DATA chunk with its TSN. ``transmission`` numbers its latest sending; ``lost`` = not in flight."""

    __slots__ = ("acked", "chunk", "count", "lost", "message", "sent", "size", "transmission", "tsn")

    def __init__(
        self, tsn: int, chunk: bytes, message: Message, size: int, sent: float, transmission: int
    ) -> None:
        self.tsn = tsn
        self.chunk = chunk
        self.message = message
        self.size = size
        self.sent = sent
        self.transmission = transmission
        self.count = 1
        self.acked = self.lost = False


class Outstanding:
    """The fragments between the peer's cumulative TSN and ours. TSNs are unbounded ints."""

    __slots__ = (
        "_blocks",
        "_pending",
        "acked_bytes",
        "advanced",
        "again",
        "by_tsn",
        "cumulative",
        "flight",
        "last_ack",
        "newest",
        "newest_sent",
        "next",
        "reordering",
        "repeats",
        "transmissions",
    )  # fmt: skip

    def __init__(self, first: int) -> None:
        self.next = first
        """TSN of the next new fragment."""
        self.cumulative = first - 1
        self.flight = 0
        """Bytes sent and neither acknowledged nor lost."""
        self.transmissions = 0
        self.repeats = 0
        """Transmissions of what had been sent before."""
        self.newest = 0
        """The latest transmission that is known to have arrived."""
        self.newest_sent = 0.0
        self.again: deque[Fragment] = deque()
        """Lost, to be sent again."""
        self.by_tsn: dict[int, Fragment] = {}
        self.reordering = REORDERING
        self.acked_bytes = 0
        """Of the last SACK."""
        self.advanced = False
        """True when the last SACK moved the cumulative TSN."""
        self.last_ack: Fragment | None = None
        """Of the last SACK: the newest transmission it acknowledged."""
        self._pending: deque[Fragment] = deque()
        """In order of transmission; acknowledged ones leave when they come to the front."""
        self._blocks: dict[int, int] = {}
        """Gap blocks of the last SACK, first to last TSN: what they cover need not be looked at again."""

    def sent(self, fragment: Fragment) -> None:
        """Note the first transmission; ``fragment.tsn`` is :attr:`next`."""
        self.next = fragment.tsn + 1
        self.transmissions = fragment.transmission
        self.by_tsn[fragment.tsn] = fragment
        self._pending.append(fragment)
        self.flight += fragment.size

    def sent_again(self, fragment: Fragment, now: float) -> None:
        if not fragment.lost:
            self._pending.remove(fragment)  # a probe of what may still arrive: rare
            self.flight -= fragment.size
        self.transmissions += 1
        self.repeats += 1
        fragment.transmission = self.transmissions
        fragment.sent = now
        fragment.count += 1
        fragment.lost = False
        self._pending.append(fragment)
        self.flight += fragment.size

    def skip(self, fragment: Fragment) -> None:
        """Use up a TSN for what will never be sent (RFC 3758 section 3.5 A3)."""
        fragment.acked = True
        self.next = fragment.tsn + 1
        self.by_tsn[fragment.tsn] = fragment

    @property
    def sendings(self) -> tuple[int, int]:
        """All transmissions so far, and those of fragments that had been sent before."""
        return self.transmissions, self.repeats

    @property
    def oldest(self) -> Fragment | None:
        """The oldest transmission in flight."""
        pending = self._pending
        while pending and (pending[0].acked or pending[0].lost):
            pending.popleft()
        return pending[0] if pending else None

    # acknowledgements

    def acknowledge(self, cumulative: int, blocks: list[tuple[int, int]], duplicates: int) -> bool:
        """Take a SACK; False when it is older than one before, or names what was never sent."""
        if cumulative < self.cumulative or cumulative >= self.next:
            return False
        self.acked_bytes = 0
        self.last_ack = None
        self.advanced = cumulative > self.cumulative
        take = self.by_tsn.pop
        for tsn in range(self.cumulative + 1, cumulative + 1):
            fragment = take(tsn)
            if not fragment.acked:
                self._acked(fragment)
        self.cumulative = cumulative
        if blocks or self._blocks:
            self._take_blocks(cumulative, blocks)
        if duplicates and self.reordering < REORDERING_MOST:
            self.reordering *= 2  # it was not lost, only late
        return True

    def _acked(self, fragment: Fragment) -> None:
        fragment.acked = True
        self.acked_bytes += fragment.size
        if fragment.lost:
            fragment.lost = False  # it stays in ``again`` and is skipped there
        else:
            self.flight -= fragment.size
        if self.last_ack is None or fragment.transmission > self.last_ack.transmission:
            self.last_ack = fragment
        if fragment.transmission > self.newest and fragment.count == 1:
            self.newest, self.newest_sent = fragment.transmission, fragment.sent

    def _take_blocks(self, cumulative: int, blocks: list[tuple[int, int]]) -> None:
        known, self._blocks = self._blocks, {}
        by_tsn = self.by_tsn
        for first, last in blocks:
            begin, end = cumulative + first, min(cumulative + last, self.next - 1)
            if begin > end:
                break
            self._blocks[begin] = end
            for tsn in range(max(begin, known.get(begin, 0) + 1), end + 1):
                fragment = by_tsn[tsn]
                if not fragment.acked:
                    self._acked(fragment)

    def resent_arrived(self, now: float, least: float) -> None:
        """A resent fragment was acknowledged. It was the resent one, unless that could not be here yet."""
        fragment = self.last_ack
        if fragment is None or fragment.count == 1 or fragment.transmission <= self.newest:
            return
        if now - fragment.sent >= least:
            self.newest, self.newest_sent = fragment.transmission, fragment.sent

    # losses

    def find_lost(self, round_trip: float, overdue: float = 0.0) -> list[Fragment]:
        """Those lost by what has arrived so far; they leave the flight and wait in ``again``.

        So are those sent before ``overdue``, when a later one has arrived.
        """
        before = max(self.newest_sent - LATE * round_trip, overdue)
        lost: list[Fragment] = []
        pending = self._pending
        while pending:
            fragment = pending[0]
            if not fragment.acked:
                if not self._late(fragment, before):
                    break
                fragment.lost = True
                self.flight -= fragment.size
                self.again.append(fragment)
                lost.append(fragment)
            pending.popleft()
        return lost

    def _late(self, fragment: Fragment, before: float) -> bool:
        return fragment.transmission <= self.newest - self.reordering or (
            fragment.transmission < self.newest and fragment.sent < before
        )

    def lose_all(self) -> None:
        """T3 has expired for good: nothing is in flight any more, and gap blocks are not relied on."""
        self._pending.clear()
        self._blocks.clear()
        self.again.clear()
        for fragment in self.by_tsn.values():
            if not fragment.message.abandoned:
                fragment.acked = False  # a receiver may drop what it has only selectively acknowledged
                fragment.lost = True
                self.again.append(fragment)
        self.flight = 0

    def abandon(self, message: Message) -> None:
        """Give up all fragments of ``message`` (RFC 3758 section 3.5); they are in flight no more."""
        message.abandoned = True
        for tsn in range(max(message.first, self.cumulative + 1), message.last + 1):
            fragment = self.by_tsn.get(tsn)
            if fragment is not None and not fragment.acked:
                if not fragment.lost:
                    self.flight -= fragment.size
                fragment.acked = True  # as far as loss and flight are concerned
                fragment.lost = False

    def abandoned_to(self) -> int:
        """Advanced.Peer.Ack.Point: up to where all is acknowledged or given up (RFC 3758 section 3.5 C2)."""
        point = self.cumulative
        reached = point
        while (fragment := self.by_tsn.get(point + 1)) is not None and (
            fragment.message.abandoned or fragment.acked
        ):
            point += 1
            if fragment.message.abandoned:
                reached = point
        return reached
