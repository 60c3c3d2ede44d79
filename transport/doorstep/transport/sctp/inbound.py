"""SCTP, pure: the receiving half of an association: DATA in, messages and acknowledgements out.

DTLS has authenticated what comes in: checksums are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from doorstep.transport.sctp import chunks as wire
from doorstep.transport.sctp.chunks import DATA, IMMEDIATE, Kind
from doorstep.transport.sctp.limits import (
    DATA_HEADER,
    HEADER,
    MAX_MESSAGE,
    SACK_AT_MOST,
    SACK_DELAY,
    SACK_EVERY,
    WINDOW,
)
from doorstep.transport.sctp.outlet import Outlet
from doorstep.transport.sctp.reassembly import Reassembly, Violation
from doorstep.transport.sctp.receive_window import ReceiveWindow
from doorstep.transport.sctp.received import Received
from doorstep.transport.sctp.serial import WORD, unwrap

__all__ = ["Inbound"]

_NEVER = float("inf")
_OTHERS_SACK, _OTHERS_SACK_FAR = 4, 1
"""Packets one SACK answers at most for a peer that is not ours: in slow start its window grows by SACKs
(libwebrtc: by one packet for each, and each releases four at most), which matters when there is a round trip
to fill. When it is full, a SACK only costs both sides."""
_ASKED, _HEARTBEAT_INFO = Struct("!HHd"), 1
_FAR = 0.004
"""Seconds of round trip from which on a peer is far."""


class Inbound:
    """``sack_at``: when an acknowledgement is due."""

    __slots__ = (
        "_came", "_far", "_limit", "_now", "_outlet", "_window", "no_data", "reassembly", "received",
        "sack_at", "unacknowledged",
    )  # fmt: skip

    def __init__(self, outlet: Outlet, no_data: Callable[[int], None]) -> None:
        """``no_data`` is called for a chunk without data, with its TSN."""
        self._outlet = outlet
        self.no_data = no_data
        self.reassembly = Reassembly()
        self.received = Received(0)
        self.unacknowledged = 0
        """Packets with data since the last acknowledgement."""
        self.sack_at = _NEVER
        self._now = False
        """An acknowledgement does not wait."""
        self._limit = _OTHERS_SACK
        self._far = False
        self._window: ReceiveWindow | None = None
        """Of a peer that is not ours: ours do not fill the buffers of links."""
        self._came = 0
        """Bytes of packets with data since the last batch."""

    def begin(self, first: int) -> None:
        """The peer's first TSN is known. One turn above zero: earlier ones are not negative."""
        self.received = Received((first - 1) + (1 << 32))

    def know(self, ours: bool, round_trip: float) -> None:
        """``ours``: the peer counts bytes, not acknowledgements, and needs fewer of them."""
        if ours:
            self._limit = SACK_AT_MOST
            self._window = None
        else:
            self._window = self._window or ReceiveWindow()
            self._far = round_trip > _FAR
            self._choose_limit(self._window)

    def _choose_limit(self, window: ReceiveWindow) -> None:
        self._limit = _OTHERS_SACK_FAR if self._far and not window.full else _OTHERS_SACK

    # data

    def take_packet(self, packet: bytes) -> int:
        """Take the DATA chunks a packet begins with; return where the others begin. Raises Violation."""
        at, end = HEADER, len(packet)
        received, reassembly = self.received, self.reassembly
        self.unacknowledged += 1
        self._came += end
        while at + DATA_HEADER <= end and packet[at] == 0:
            _, flags, length, tsn, stream, sequence, protocol = DATA.unpack_from(packet, at)
            stop = at + length
            if length <= DATA_HEADER or stop > end:
                if length == DATA_HEADER and stop <= end:
                    self.no_data(tsn)
                return end
            if (received.cumulative + 1) & WORD == tsn and not received.has_gaps:
                tsn = received.cumulative = received.cumulative + 1
                if reassembly.buffered > WINDOW + MAX_MESSAGE:
                    raise Violation("the peer sends more than the window")
                reassembly.add(tsn, flags, stream, sequence, protocol, packet[at + DATA_HEADER : stop])
            elif self._note(unwrap(tsn, received.cumulative), length):
                tsn = unwrap(tsn, received.cumulative)
                reassembly.add(tsn, flags, stream, sequence, protocol, packet[at + DATA_HEADER : stop])
            if flags & IMMEDIATE:
                self._now = True
            at = (stop + 3) & ~3
        if self.unacknowledged >= self._limit:
            self.acknowledge()
        return at

    def take_late(self, flags: int, body: bytes) -> None:
        """DATA behind another chunk of its packet. Raises Violation."""
        head = DATA.pack(0, flags, 4 + len(body), 0, 0, 0, 0)[:4]
        self.take_packet(bytes(HEADER) + head + body + bytes(-len(body) & 3))

    def _note(self, tsn: int, length: int) -> bool:
        """Note a chunk out of order; False when it is not to be looked at."""
        self._now = True
        received = self.received
        if self.reassembly.buffered + length > WINDOW + MAX_MESSAGE and tsn != received.cumulative + 1:
            return False  # not acknowledged either: it will come again
        new = received.add(tsn)
        if new and received.has_gaps and self.unacknowledged >= SACK_EVERY:
            self.acknowledge()  # other senders count SACKs until they send a missing one again
        return new

    def take_answer(self, body: bytes, now: float) -> None:
        """HEARTBEAT ACK."""
        if self._window is not None and len(body) == _ASKED.size:
            self._window.answered(_ASKED.unpack(body)[2], now)

    def take_forward(self, body: bytes) -> None:
        """FORWARD TSN (RFC 3758 section 3.6)."""
        cumulative, streams = wire.read_forward(body)
        point = unwrap(cumulative, self.received.cumulative)
        self._now = True
        if point <= self.received.cumulative + 0xFFFF and self.received.skip_to(point):
            self.reassembly.skip(point, streams)

    def reached(self, tsn: int) -> bool:
        """True when all up to ``tsn`` (32 bits) has come."""
        return unwrap(tsn, self.received.cumulative) <= self.received.cumulative

    # acknowledging

    def sack(self) -> bytes:
        """The chunk that acknowledges everything."""
        received = self.received
        self.unacknowledged = 0
        self._now = False
        self.sack_at = _NEVER
        window = WINDOW - self.reassembly.buffered
        if self._window is not None:
            window = min(window, self._window.size)
        if not received.has_gaps and not received.duplicates:
            return wire.SACK.pack(Kind.SACK, 0, 16, received.cumulative & WORD, max(0, window), 0, 0)
        made = wire.sack(received.cumulative, window, received.blocks(), received.duplicates)
        received.duplicates = []
        return made

    def acknowledge(self) -> None:
        self._outlet.seal(self.sack())

    def flush(self, now: float) -> None:
        """A batch is over."""
        if self._came:
            if self._window is not None:
                self._batch(self._window, now)
            self._came = 0
        if self.unacknowledged >= SACK_EVERY or self._now:
            self.acknowledge()
        elif self.unacknowledged and self.sack_at == _NEVER:
            self.sack_at = now + SACK_DELAY

    def _batch(self, window: ReceiveWindow, now: float) -> None:
        if window.arrived(self._came, now):
            self._outlet.control(Kind.HEARTBEAT, _asked(now))
        self._choose_limit(window)


def _asked(now: float) -> bytes:
    """A HEARTBEAT that says when it was sent (RFC 9260 section 3.3.6)."""
    return _ASKED.pack(_HEARTBEAT_INFO, _ASKED.size, now)
