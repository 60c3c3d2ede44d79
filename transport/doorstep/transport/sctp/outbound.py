"""SCTP, pure: the sending half of an association: messages in, DATA out, as window, pace and peer allow."""

from __future__ import annotations

from collections.abc import Callable

from doorstep.transport.sctp import chunks as wire
from doorstep.transport.sctp.chunks import DATA, IMMEDIATE
from doorstep.transport.sctp.congestion import Congestion
from doorstep.transport.sctp.limits import (
    BURST,
    DATA_HEADER,
    HEADER,
    LOST_AFTER,
    MOST_TIMEOUT,
    URGENT_RESERVE,
)
from doorstep.transport.sctp.outlet import Bundle, Outlet
from doorstep.transport.sctp.outstanding import Fragment, Outstanding
from doorstep.transport.sctp.pacing import Pacer
from doorstep.transport.sctp.reassembly import BEGIN, END, UNORDERED
from doorstep.transport.sctp.roundtrip import RoundTrips
from doorstep.transport.sctp.scheduler import Message, Scheduler
from doorstep.transport.sctp.serial import WORD, unwrap

__all__ = ["Outbound"]

_NEVER = float("inf")


class Outbound:
    """``departed``: bytes per stream that have left, for the caller to drain."""

    __slots__ = (
        "_forwarded", "_fragment", "_late_at", "_limited", "_message", "_outlet", "_pace_at", "_pacer",
        "_partial", "_t3_at", "_timeouts", "congestion", "departed", "heard", "outstanding", "peer_forwards",
        "peer_window", "round_trips", "scheduler",
    )  # fmt: skip

    def __init__(self, outlet: Outlet, first: int, fragment: int) -> None:
        """``first`` is the first TSN, ``fragment`` the bytes of user data in a chunk."""
        mtu = HEADER + DATA_HEADER + fragment
        self._outlet = outlet
        self._fragment = fragment
        self.departed: dict[int, int] = {}
        self.round_trips = RoundTrips()
        self.congestion = Congestion(self.round_trips, mtu)
        self.scheduler = Scheduler()
        # One turn above zero, so that TSNs before the first are not negative.
        self.outstanding = Outstanding(first + (1 << 32))
        self.peer_forwards = False
        """The peer understands FORWARD TSN."""
        self.peer_window = 0
        self.heard = 0.0
        """When something was last acknowledged."""
        self._pacer = Pacer(mtu)
        self._message: Message | None = None
        """Some of its fragments have left."""
        self._partial = False
        """True once a message that may be given up was sent."""
        self._forwarded = 0
        self._t3_at = self._pace_at = self._late_at = _NEVER
        self._timeouts = 0
        self._limited = False

    @property
    def deadline(self) -> float:
        return min(self._pace_at, self._t3_at, self._late_at)

    @property
    def idle(self) -> bool:
        """True when all that was sent has been acknowledged, and nothing waits."""
        return not self.outstanding.by_tsn and not self._wants

    @property
    def _wants(self) -> bool:
        return self._message is not None or bool(self.scheduler)

    def send(self, message: Message) -> None:
        self._partial |= message.partial
        self.scheduler.push(message)

    def busy(self, stream: int) -> bool:
        """True when something of ``stream`` waits to be sent for the first time."""
        return self.scheduler.waiting(stream) or (
            self._message is not None and self._message.stream == stream
        )

    def stop(self) -> None:
        self._t3_at = self._pace_at = self._late_at = _NEVER

    def handle_timer(self, now: float) -> bool:
        """Do what is due; False when the peer has been silent for too long."""
        if now >= self._late_at:
            self._find_lost(now, now - self.round_trips.late)
        if now >= self._t3_at:
            if now - self.heard > LOST_AFTER:
                return False
            self._t3_expired(now)
        if now >= self._pace_at:
            self._pace_at = _NEVER
        return True

    # acknowledged

    def take_sack(self, body: bytes, now: float) -> bool:
        """Take a SACK; False for an old one."""
        cumulative, window, blocks, duplicates = wire.read_sack(body)
        outstanding = self.outstanding
        if not outstanding.acknowledge(unwrap(cumulative, outstanding.cumulative), blocks, duplicates):
            return False
        self.peer_window = window
        self.heard = now
        newest = outstanding.last_ack
        if newest is not None:
            self._measure(newest, now)
        elif not outstanding.by_tsn:
            self._t3_at = _NEVER
        self._find_lost(now)
        if self.round_trips.round_over(outstanding.newest, outstanding.transmissions, now):
            self.congestion.round_over(now)
        if self._partial:
            self._forward(now)
        return True

    def _measure(self, newest: Fragment, now: float) -> None:
        outstanding = self.outstanding
        if newest.count == 1:
            self.round_trips.sample(now - newest.sent, now)
        else:
            outstanding.resent_arrived(now, self.round_trips.base)
        self._timeouts = 0
        self._t3_at = now + self.round_trips.timeout if outstanding.by_tsn else _NEVER
        self.congestion.acked(outstanding.acked_bytes, newest.count == 1, self._limited, now)

    # lost

    def _find_lost(self, now: float, overdue: float = 0.0) -> None:
        outstanding, trips = self.outstanding, self.round_trips
        for fragment in outstanding.find_lost(max(trips.smoothed, trips.latest), overdue):
            self.congestion.lost(fragment.size, fragment.transmission, outstanding.transmissions, now)
            self._maybe_abandon(fragment, now)
        oldest = outstanding.oldest
        if oldest is not None and oldest.transmission < outstanding.newest:
            self._late_at = max(now, oldest.sent + trips.late) + 0.001
        else:
            self._late_at = _NEVER

    def _t3_expired(self, now: float) -> None:
        outstanding = self.outstanding
        self._timeouts += 1
        oldest = outstanding.oldest
        if self._timeouts == 1 and oldest is not None:
            # A probe: mostly only the last packets of a flight were lost (RFC 8985 section 7).
            if not self._maybe_abandon(oldest, now):
                outstanding.sent_again(oldest, now)
                self._outlet.seal(oldest.chunk)
        else:
            if self._timeouts <= 2:
                self.congestion.timed_out()
            outstanding.lose_all()
            for fragment in list(outstanding.again):
                self._maybe_abandon(fragment, now)
        if self._partial:
            self._forwarded = 0
            self._forward(now)
        timeout = self.round_trips.timeout
        self._t3_at = now + min(timeout * 2**self._timeouts, max(MOST_TIMEOUT, 2 * timeout))

    # partial reliability (RFC 3758)

    def _maybe_abandon(self, fragment: Fragment, now: float) -> bool:
        message = fragment.message
        if not message.partial or not self.peer_forwards:
            return False
        if message.abandoned:
            return True
        spent = message.retransmits is not None and fragment.count > message.retransmits
        if not spent and (message.expires is None or now < message.expires):
            return False
        if message is self._message:
            self._skip_rest(message)
        self.outstanding.abandon(message)
        return True

    def _skip_rest(self, message: Message) -> None:
        """Give TSNs to what of ``message`` was not sent: the peer is told to skip them (section 3.5 A3)."""
        outstanding = self.outstanding
        rest = len(message.data) - message.offset
        for _ in range(0, rest, self._fragment):
            message.last = outstanding.next
            outstanding.skip(Fragment(message.last, b"", message, 0, 0.0, 0))
        self._depart(message.stream, rest)
        self.scheduler.unsent -= rest
        self._message = None

    def _forward(self, now: float) -> None:
        """Send FORWARD TSN when there is something to skip; at most once per round trip and point."""
        outstanding = self.outstanding
        point = outstanding.abandoned_to()
        if point <= outstanding.cumulative or point <= self._forwarded:
            return
        self._forwarded = point
        streams: dict[int, int] = {}
        for tsn in range(outstanding.cumulative + 1, point + 1):
            message = outstanding.by_tsn[tsn].message
            if message.abandoned and not message.unordered:
                streams[message.stream] = message.sequence
        self._outlet.seal(wire.forward(point, list(streams.items())[:250]))
        if self._t3_at == _NEVER:
            self._t3_at = now + self.round_trips.timeout

    # sending

    def transmit(self, now: float, head: bytes, sack: Callable[[], bytes] | None) -> None:
        """Send again what was lost, then what is new, as far as window, pace and the peer allow.

        ``head``: a chunk that leaves in any case. ``sack`` makes one that goes along with data.
        """
        outstanding, congestion = self.outstanding, self.congestion
        window = congestion.window
        allowance = self._pacer.allowance(now, window, self.round_trips.smoothed, congestion.slow_start)
        before = outstanding.flight
        limit = min(congestion.for_bulk, self.peer_window)
        burst = before + (BURST * self._fragment if allowance is None else allowance)
        bundle = Bundle(self._outlet, HEADER + DATA_HEADER + self._fragment)
        if head:
            bundle.add(head)
        wants = bool(outstanding.again) or self._wants
        if wants and sack is not None and (before < min(limit, burst) or not before):
            bundle.add(sack())  # ahead of all DATA (RFC 9260 section 6.10): usrsctp insists
        if outstanding.again:
            self._send_again(bundle, min(window, burst), now)
        if wants and not outstanding.again:
            reserve = min(window + int(window * URGENT_RESERVE), self.peer_window)
            self._send_new(bundle, min(limit, burst), min(reserve, burst), now)
            wants = self._wants
        bundle.close()
        if allowance is not None:
            self._pacer.spent(outstanding.flight - before)
        self._limited = outstanding.flight + self._fragment > window or (wants and outstanding.flight < limit)
        if wants and outstanding.flight >= burst and outstanding.flight < limit:
            self._pace_at = self._pacer.next_at(now) if allowance is not None else now
        if self._t3_at == _NEVER and outstanding.by_tsn:
            self._t3_at = now + self.round_trips.timeout

    def _send_again(self, bundle: Bundle, limit: int, now: float) -> None:
        outstanding = self.outstanding
        again = outstanding.again
        while again:
            fragment = again[0]
            if fragment.acked or not fragment.lost:
                again.popleft()
                continue
            if outstanding.flight + fragment.size > limit and outstanding.flight:
                return
            again.popleft()
            outstanding.sent_again(fragment, now)
            bundle.add(fragment.chunk)

    def _send_new(self, bundle: Bundle, limit: int, urgent: int, now: float) -> None:
        """Make fragments of what is next, as long as the flight is below ``limit``; one if nothing flies.

        With ``urgent`` as the limit when that waits, and so for the rest of the message before it.
        """
        outstanding, scheduler, size = self.outstanding, self.scheduler, self._fragment
        message = self._message
        while (
            outstanding.flight < limit
            or not outstanding.flight
            or (scheduler.urgent and outstanding.flight < urgent)
        ):
            if message is None:
                message = scheduler.head(now)
                if message is None:
                    break
                message.first = outstanding.next
            data, offset = message.data, message.offset
            piece = data[offset : offset + size] if len(data) > size else data
            length = len(piece)
            last = offset + length >= len(data)
            flags = UNORDERED if message.unordered else 0
            if not offset:
                flags |= BEGIN
            if last:
                flags |= END if scheduler else END | IMMEDIATE
            tsn = outstanding.next
            stream = message.stream
            chunk = DATA.pack(
                0, flags, DATA_HEADER + length, tsn & WORD, stream, message.sequence, message.protocol
            )
            chunk += piece
            if length & 3:
                chunk += bytes(-length & 3)
            outstanding.sent(Fragment(tsn, chunk, message, length, now, outstanding.transmissions + 1))
            bundle.add(chunk)
            self._depart(stream, length)
            scheduler.unsent -= length
            message.last = tsn
            message.offset = offset + length
            if last:
                message = None
        self._message = message
        for expired in scheduler.expired:
            self._depart(expired.stream, len(expired.data))
        scheduler.expired.clear()

    def _depart(self, stream: int, size: int) -> None:
        self.departed[stream] = self.departed.get(stream, 0) + size
