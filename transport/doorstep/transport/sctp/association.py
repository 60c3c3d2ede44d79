"""SCTP, pure: one association (RFC 9260, as RFC 8831 uses it): packets in, packets out, events out.

No I/O and no clock: every entry takes ``now`` in seconds. The caller hands in packets with :meth:`receive`,
says with :meth:`flush` that a batch is over, calls :meth:`handle_timer` at :attr:`deadline`, and then drains
``packets`` (to send), ``events`` (in order), and ``departed`` (bytes per stream that have left).

DTLS has authenticated what comes in: checksums are not looked at. What a peer must not send is dropped, or
ends the association where RFC 9260 says so; nothing here raises because of it.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from enum import Enum
from struct import Struct
from struct import error as TooShort  # noqa: N812

from doorstep.transport.sctp import chunks as wire
from doorstep.transport.sctp.chunks import DATA, IMMEDIATE, Cause, Envelope, Init, Kind, Malformed, Parameter
from doorstep.transport.sctp.congestion import Congestion
from doorstep.transport.sctp.limits import (
    BUNDLE_BELOW,
    BURST,
    DATA_HEADER,
    FRAGMENT,
    HANDSHAKE_TIMEOUT,
    HANDSHAKE_TRIES,
    HEADER,
    LOST_AFTER,
    MAX_MESSAGE,
    MOST_TIMEOUT,
    ROOM,
    SACK_AT_MOST,
    SACK_DELAY,
    SACK_EVERY,
    STREAMS,
    WINDOW,
)
from doorstep.transport.sctp.outstanding import Fragment, Outstanding
from doorstep.transport.sctp.pacing import Pacer
from doorstep.transport.sctp.reassembly import BEGIN, END, UNORDERED, Reassembly, Violation
from doorstep.transport.sctp.received import Received
from doorstep.transport.sctp.resets import StreamResets
from doorstep.transport.sctp.roundtrip import RoundTrips
from doorstep.transport.sctp.scheduler import Message, Scheduler
from doorstep.transport.sctp.serial import WORD, unwrap

__all__ = ["Association", "Closed", "Ended", "Established", "Event", "Reset", "State"]

_log = logging.getLogger("doorstep.transport")
_NEVER = float("inf")
_MAGIC = b"doorstep"
"""Begins our cookie, by which two of us know each other: a sender of ours counts bytes, not acknowledgements,
and needs fewer of them."""
_OTHERS_SACK, _OTHERS_SACK_FAR = 4, 1
"""Packets one SACK answers at most for a peer that is not ours: its window grows by SACKs (libwebrtc: by one
packet for each), which matters when there is a round trip to fill."""
_FAR = 0.004
"""Seconds of round trip from which on a peer is far."""
_TAG = Struct("!L")


class State(Enum):
    CLOSED = "closed"
    COOKIE_WAIT = "cookie-wait"
    COOKIE_ECHOED = "cookie-echoed"
    ESTABLISHED = "established"
    SHUTDOWN_RECEIVED = "shutdown-received"
    SHUTDOWN_ACK_SENT = "shutdown-ack-sent"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Established:
    """Both sides are ready for data."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The peer has closed its side of these streams."""

    streams: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Closed:
    """Our side of these streams is closed."""

    streams: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """The association is over; ``reason`` is one short sentence."""

    reason: str


Event = tuple[int, int, bytes] | Established | Reset | Closed | Ended
"""A tuple is a message: stream, payload protocol, data."""


class Association:
    """One end. ``first_tsn`` and ``tag`` are random unless a test says otherwise."""

    def __init__(
        self,
        *,
        port: int = 5000,
        tag: int | None = None,
        first_tsn: int | None = None,
        fragment: int = FRAGMENT,
    ) -> None:
        self.state = State.CLOSED
        self.packets: list[bytes] = []
        self.departed: dict[int, int] = {}
        self.round_trips = RoundTrips()
        self.congestion = Congestion(self.round_trips, HEADER + DATA_HEADER + fragment)
        self.reassembly = Reassembly()
        self.scheduler = Scheduler()
        self.events: list[Event] = self.reassembly.ready  # type: ignore[assignment]  # one list keeps the order
        first = first_tsn if first_tsn is not None else int.from_bytes(os.urandom(4), "big")
        self._first = first
        # One turn above zero, so that TSNs before the first are not negative.
        self.outstanding = Outstanding(first + (1 << 32))
        self.received = Received(0)
        self.peer_is_ours = False
        self._fragment = fragment
        self._pacer = Pacer(HEADER + DATA_HEADER + fragment)
        self._port = port
        self._tag = tag or int.from_bytes(os.urandom(4), "big") or 1
        self._tag_bytes = _TAG.pack(self._tag)
        self._cookie = _MAGIC + os.urandom(16)
        self._echo = b""
        self._echo_due = False
        self._peer: Init | None = None
        self._peer_tag = b""
        self._peer_forwards = False
        self._peer_window = 0
        self._envelope = Envelope(port, port, 0)
        self._remote_port = port
        self._resets = StreamResets(first, 0)
        self._message: Message | None = None
        self._partial = False
        """True once a message that may be given up was sent."""
        self._forwarded = 0
        self._unacknowledged = 0
        self._sack_now = False
        self._sack_limit = _OTHERS_SACK
        self._sack_at = _NEVER
        self._t1_at = self._t3_at = self._pace_at = self._late_at = _NEVER
        self._tries = 0
        self._timeouts = 0
        self._heard = 0.0
        self._limited = False

    # what the caller does

    @property
    def deadline(self) -> float:
        """When :meth:`handle_timer` is to be called; infinity = no time."""
        return min(
            self._sack_at, self._pace_at, self._t3_at, self._late_at, self._t1_at, self._resets.deadline
        )

    @property
    def room(self) -> bool:
        """True when more to send would not only queue up."""
        return self.scheduler.unsent < ROOM

    def start(self, remote_port: int, now: float) -> None:
        """Send INIT. Both ends do (RFC 8841 section 9.3)."""
        self._remote_port = remote_port
        self._heard = now
        self.state = State.COOKIE_WAIT
        self._tries = 0
        self._send_init()
        self._t1_at = now + HANDSHAKE_TIMEOUT

    def send(self, message: Message) -> None:
        """Queue a message; it leaves with the next :meth:`flush`."""
        self._partial |= message.partial
        self.scheduler.push(message)

    def close_stream(self, stream: int) -> None:
        """Close our side of ``stream`` when all queued on it has been sent; ends in :class:`Closed`."""
        self._resets.close(stream)

    def assume_closed(self, stream: int) -> None:
        """The peer uses ``stream`` again: it has closed our side, and its answer is still on its way."""
        self._resets.forget(stream)
        self.scheduler.reset(stream)

    def abort(self) -> None:
        """End at once, and tell the peer."""
        if self.state not in (State.CLOSED, State.ENDED):
            self._abort(Cause.USER_ABORT, b"", "closed")

    def flush(self, now: float) -> None:
        """A batch of packets or of messages to send is over: acknowledge, and send what may go."""
        if self.state is State.ENDED or self.state is State.CLOSED:
            return
        self._transmit(now)
        if self._unacknowledged >= SACK_EVERY or self._sack_now:
            self._acknowledge()
        elif self._unacknowledged and self._sack_at == _NEVER:
            self._sack_at = now + SACK_DELAY

    def handle_timer(self, now: float) -> None:
        """Do what is due. May be called early, late or for nothing."""
        if now >= self._sack_at:
            self._acknowledge()
        if now >= self._t1_at:
            self._t1_expired(now)
        if now >= self._resets.deadline:
            self._reset_expired(now)
        if now >= self._late_at:
            self._find_lost(now, now - self.round_trips.late)
        if now >= self._t3_at:
            self._t3_expired(now)
        self._pace_at = _NEVER if now >= self._pace_at else self._pace_at
        self.flush(now)

    # packets in

    def receive(self, packet: bytes, now: float) -> None:
        """Take one packet."""
        if len(packet) < HEADER + 4 or self.state is State.ENDED:
            return
        if packet[4:8] == self._tag_bytes and self._peer is not None:
            at = self._receive_data(packet) if packet[HEADER] == 0 else HEADER
            if at < len(packet):
                self._receive_chunks(packet, at, now)
        else:
            self._receive_untagged(packet, now)

    def _receive_data(self, packet: bytes) -> int:
        """Take the DATA chunks a packet begins with; return where the others begin."""
        at, end = HEADER, len(packet)
        received, reassembly = self.received, self.reassembly
        self._unacknowledged += 1
        try:
            while at + DATA_HEADER <= end and packet[at] == 0:
                _, flags, length, tsn, stream, sequence, protocol = DATA.unpack_from(packet, at)
                stop = at + length
                if length <= DATA_HEADER or stop > end:
                    if length == DATA_HEADER and stop <= end:
                        self._abort(Cause.NO_USER_DATA, _TAG.pack(tsn), "the peer sent a chunk without data")
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
                    self._sack_now = True
                at = (stop + 3) & ~3
        except Violation as violation:
            self._abort(Cause.PROTOCOL_VIOLATION, b"", f"the peer broke the SCTP protocol: {violation}")
            return end
        if self._unacknowledged >= self._sack_limit:
            self._acknowledge()
        return at

    def _note(self, tsn: int, length: int) -> bool:
        """Note a chunk out of order; False when it is not to be looked at."""
        self._sack_now = True
        received = self.received
        if self.reassembly.buffered + length > WINDOW + MAX_MESSAGE and tsn != received.cumulative + 1:
            return False  # not acknowledged either: it will come again
        new = received.add(tsn)
        if new and received.has_gaps and self._unacknowledged >= SACK_EVERY:
            self._acknowledge()  # other senders count SACKs until they send a missing one again
        return new

    def _receive_chunks(self, packet: bytes, at: int, now: float) -> None:
        reported = False
        try:
            for kind, flags, body in wire.walk_chunks(packet, at):
                if kind == Kind.SACK:
                    self._take_sack(body, now)
                elif kind == Kind.DATA:
                    self._late_data(flags, body)
                elif not self._take(kind, body, now):
                    if kind & 0x40 and not reported:
                        reported = True
                        self._control(Kind.ERROR, _cause(Cause.UNRECOGNIZED_CHUNK, body[:64]))
                    if not kind & 0x80:
                        return
                if self.state is State.ENDED:
                    return
        except (Malformed, TooShort) as error:
            _log.debug("dropped the rest of a packet: %s", error)

    def _late_data(self, flags: int, body: bytes) -> None:
        """DATA behind another chunk of its packet."""
        self._receive_data(
            bytes(HEADER) + DATA.pack(0, flags, 4 + len(body), 0, 0, 0, 0)[:4] + body + bytes(-len(body) & 3)
        )

    def _take(self, kind: int, body: bytes, now: float) -> bool:
        """Take a chunk that is neither DATA nor SACK; False when its type is not known."""
        match kind:
            case Kind.HEARTBEAT:
                self._control(Kind.HEARTBEAT_ACK, body)
            case Kind.HEARTBEAT_ACK | Kind.PAD | Kind.SHUTDOWN_ACK:
                pass
            case Kind.FORWARD_TSN:
                self._take_forward(body)
            case Kind.RECONFIG:
                self._take_reconfig(body, now)
            case Kind.INIT_ACK:
                self._take_init_ack(body, now)
            case Kind.COOKIE_ECHO:
                self._take_cookie(body, now)
            case Kind.COOKIE_ACK:
                if self.state is State.COOKIE_ECHOED:
                    self._establish(now)
            case Kind.ERROR:
                self._take_error(body, now)
            case Kind.ABORT:
                self._end("the peer closed the connection")
            case Kind.SHUTDOWN:
                self._take_shutdown(now)
            case Kind.SHUTDOWN_COMPLETE:
                if self.state is State.SHUTDOWN_ACK_SENT:
                    self._end("the peer closed the connection")
            case Kind.INIT:
                pass  # an INIT has the tag 0 and a packet of its own (RFC 9260 section 8.5.1)
            case _:
                return False
        return True

    def _receive_untagged(self, packet: bytes, now: float) -> None:
        """A packet without our tag: INIT, INIT ACK before we know the peer, or not for us."""
        tag = packet[4:8]
        kind, flags = packet[HEADER], packet[HEADER + 1]
        try:
            if kind == Kind.INIT and tag == b"\0\0\0\0":
                for _, _, body in wire.walk_chunks(packet):
                    self._take_init(wire.read_init(body))
                    return
            elif tag == self._tag_bytes and kind in (Kind.INIT_ACK, Kind.ABORT):
                self._receive_chunks(packet, HEADER, now)
            elif kind in (Kind.ABORT, Kind.SHUTDOWN_COMPLETE) and flags & 1 and tag == self._peer_tag:
                self._take(kind, b"", now)
        except (Malformed, TooShort) as error:
            _log.debug("dropped a packet: %s", error)

    # the handshake

    def _our_init(self, cookie: bytes = b"") -> bytes:
        parameters = wire.parameter(Parameter.FORWARD_TSN) + wire.parameter(
            Parameter.SUPPORTED_EXTENSIONS, bytes((Kind.FORWARD_TSN, Kind.RECONFIG))
        )
        if cookie:
            parameters = wire.parameter(Parameter.STATE_COOKIE, cookie) + parameters
        return bytes(Init(self._tag, WINDOW, STREAMS, STREAMS, self._first, parameters))

    def _send_init(self) -> None:
        envelope = Envelope(self._port, self._remote_port, 0)
        self.packets.append(envelope.seal(wire.chunk(Kind.INIT, self._our_init())))

    def _take_init(self, init: Init) -> None:
        if init.tag == 0 or self.state is State.CLOSED:
            return
        known = self._peer
        if known is not None and (known.tag, known.tsn) != (init.tag, init.tsn):
            return  # a restart would come with a DTLS connection of its own
        # Unlike on the open network, this one peer may make us remember it: the cookie holds no state.
        self._meet(init)
        envelope = Envelope(self._port, self._remote_port, init.tag)
        self.packets.append(envelope.seal(wire.chunk(Kind.INIT_ACK, self._our_init(self._cookie))))

    def _meet(self, init: Init) -> None:
        if self._peer is not None:
            return
        self._peer = init
        self._peer_tag = _TAG.pack(init.tag)
        self._envelope = Envelope(self._port, self._remote_port, init.tag)
        self.received = Received((init.tsn - 1) + (1 << 32))
        self._resets = StreamResets(self._first, init.tsn)
        self._peer_window = init.window
        for kind, _ in wire.walk_parameters(init.parameters):
            if kind == Parameter.FORWARD_TSN:
                self._peer_forwards = True

    def _take_init_ack(self, body: bytes, now: float) -> None:
        if self.state is not State.COOKIE_WAIT:
            return
        init = wire.read_init(body)
        cookie = next(
            (
                value
                for kind, value in wire.walk_parameters(init.parameters)
                if kind == Parameter.STATE_COOKIE
            ),
            b"",
        )
        if init.tag == 0 or not cookie:
            return
        if self._peer is not None and self._peer.tag != init.tag:
            return
        self._meet(init)
        self.peer_is_ours = cookie.startswith(_MAGIC)
        self._sack_limit = SACK_AT_MOST if self.peer_is_ours else _OTHERS_SACK
        self.state = State.COOKIE_ECHOED
        self._echo = wire.chunk(Kind.COOKIE_ECHO, cookie)
        self._echo_due = True
        self._tries = 0
        self._t1_at = now + HANDSHAKE_TIMEOUT
        self._transmit(now)  # what waits may share the packet (RFC 9260 section 5.1)

    def _take_cookie(self, body: bytes, now: float) -> None:
        if body != self._cookie:
            return
        self._control(Kind.COOKIE_ACK)
        if self.state in (State.COOKIE_WAIT, State.COOKIE_ECHOED):
            self._establish(now)

    def _establish(self, now: float) -> None:
        self.state = State.ESTABLISHED
        self._t1_at = _NEVER
        self._heard = now
        self.events.append(Established())

    def _take_error(self, body: bytes, now: float) -> None:
        for cause, _ in wire.walk_parameters(body):
            if cause == 3 and self.state is State.COOKIE_ECHOED:  # stale cookie: ask for another
                self.state = State.COOKIE_WAIT
                self._send_init()
                self._t1_at = now + HANDSHAKE_TIMEOUT
            _log.debug("the peer reports error cause %d", cause)

    def _t1_expired(self, now: float) -> None:
        self._tries += 1
        if self._tries > HANDSHAKE_TRIES:
            if self.state is State.SHUTDOWN_ACK_SENT:
                self._end("the peer closed the connection")
            else:
                self._end("the peer does not answer")
            return
        self._t1_at = now + min(HANDSHAKE_TIMEOUT * 2**self._tries, MOST_TIMEOUT * 4)
        if self.state is State.COOKIE_WAIT:
            self._send_init()
        elif self.state is State.COOKIE_ECHOED:
            self.packets.append(self._envelope.seal(self._echo))
        elif self.state is State.SHUTDOWN_ACK_SENT:
            self._control(Kind.SHUTDOWN_ACK)

    # acknowledging

    def _sack_chunk(self) -> bytes:
        received = self.received
        self._unacknowledged = 0
        self._sack_now = False
        self._sack_at = _NEVER
        window = WINDOW - self.reassembly.buffered
        if not received.has_gaps and not received.duplicates:
            return wire.SACK.pack(Kind.SACK, 0, 16, received.cumulative & WORD, max(0, window), 0, 0)
        made = wire.sack(received.cumulative, window, received.blocks(), received.duplicates)
        received.duplicates = []
        return made

    def _acknowledge(self) -> None:
        self.packets.append(self._envelope.seal(self._sack_chunk()))

    # acknowledged

    def _take_sack(self, body: bytes, now: float) -> None:
        cumulative, window, blocks, duplicates = wire.read_sack(body)
        outstanding = self.outstanding
        if not outstanding.acknowledge(unwrap(cumulative, outstanding.cumulative), blocks, duplicates):
            return
        self._peer_window = window
        self._heard = now
        newest = outstanding.last_ack
        if newest is not None:
            if newest.count == 1:
                self.round_trips.sample(now - newest.sent, now)
                if not self.peer_is_ours:
                    self._sack_limit = _OTHERS_SACK_FAR if self.round_trips.smoothed > _FAR else _OTHERS_SACK
            else:
                outstanding.resent_arrived(now, self.round_trips.base)
            self._timeouts = 0
            self._t3_at = now + self.round_trips.timeout if outstanding.by_tsn else _NEVER
            self.congestion.acked(outstanding.acked_bytes, newest.count == 1, self._limited, now)
        elif not outstanding.by_tsn:
            self._t3_at = _NEVER
        self._find_lost(now)
        if self.round_trips.round_over(outstanding.newest, outstanding.transmissions, now):
            self.congestion.round_over(now)
        if self._partial:
            self._forward(now)
        if self.state is State.SHUTDOWN_RECEIVED:
            self._take_shutdown(now)

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
        if now - self._heard > LOST_AFTER:
            self._end("the connection to the peer was lost")
            return
        self._timeouts += 1
        oldest = outstanding.oldest
        if self._timeouts == 1 and oldest is not None:
            # A probe: mostly only the last packets of a flight were lost (RFC 8985 section 7).
            if not self._maybe_abandon(oldest, now):
                outstanding.sent_again(oldest, now)
                self.packets.append(self._envelope.seal(oldest.chunk))
        else:
            if self._timeouts <= 2:
                self.congestion.timed_out()
            outstanding.lose_all()
            for fragment in list(outstanding.again):
                self._maybe_abandon(fragment, now)
        if self._partial:
            self._forwarded = 0
            self._forward(now)
        self._t3_at = now + min(
            self.round_trips.timeout * 2**self._timeouts, max(MOST_TIMEOUT, 2 * self.round_trips.timeout)
        )

    # partial reliability (RFC 3758)

    def _maybe_abandon(self, fragment: Fragment, now: float) -> bool:
        message = fragment.message
        if not message.partial or not self._peer_forwards:
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
        self.packets.append(self._envelope.seal(wire.forward(point, list(streams.items())[:250])))
        if self._t3_at == _NEVER:
            self._t3_at = now + self.round_trips.timeout

    def _take_forward(self, body: bytes) -> None:
        cumulative, streams = wire.read_forward(body)
        point = unwrap(cumulative, self.received.cumulative)
        self._sack_now = True
        if point > self.received.cumulative + 0xFFFF:
            return
        if self.received.skip_to(point):
            self.reassembly.skip(point, streams)
        self._answer_reset()

    # closing streams

    def _take_reconfig(self, body: bytes, now: float) -> None:
        if self.state is not State.ESTABLISHED:
            return
        answers: list[bytes] = []
        for kind, value in wire.walk_parameters(body):
            if kind == Parameter.RESET_RESPONSE:
                if closed := self._resets.response(value, now):
                    for stream in closed:
                        self.scheduler.reset(stream)
                    self.events.append(Closed(tuple(closed)))
            elif kind == Parameter.RESET_OUTGOING:
                if answer := self._resets.asked(value):
                    answers.append(answer)
                self._answer_reset()
                if waiting := self._resets.waiting():
                    answers.append(waiting)
            elif kind in (
                Parameter.RESET_INCOMING, Parameter.RESET_TSN, Parameter.ADD_OUTGOING, Parameter.ADD_INCOMING
            ):  # fmt: skip
                answers.append(self._resets.refuse(value))
        if answers:
            self._control(Kind.RECONFIG, b"".join(answers[:2]))

    def _answer_reset(self) -> None:
        due = self._resets.due(
            lambda last: unwrap(last, self.received.cumulative) <= self.received.cumulative
        )
        if due is not None:
            answer, streams = due
            for stream in streams:
                self.reassembly.reset(stream)
            self.events.append(Reset(tuple(streams)))
            self._control(Kind.RECONFIG, answer)

    def _request_resets(self, now: float) -> None:
        request = self._resets.next_request(
            self._busy, self.outstanding.next - 1, now, max(0.2, self.round_trips.timeout)
        )
        if request is not None:
            self._control(Kind.RECONFIG, request)

    def _busy(self, stream: int) -> bool:
        return self.scheduler.waiting(stream) or (
            self._message is not None and self._message.stream == stream
        )

    def _reset_expired(self, now: float) -> None:
        request = self._resets.expired(now)
        if request is None:
            self._end("the peer does not answer")
        else:
            self._control(Kind.RECONFIG, request)

    # ending

    def _take_shutdown(self, now: float) -> None:
        if self.state in (State.ESTABLISHED, State.SHUTDOWN_RECEIVED):
            self.state = State.SHUTDOWN_RECEIVED
            if not self.outstanding.by_tsn and not self.scheduler and self._message is None:
                self.state = State.SHUTDOWN_ACK_SENT
                self._tries = 0
                self._t1_at = now + HANDSHAKE_TIMEOUT
                self._control(Kind.SHUTDOWN_ACK)
        elif self.state is State.SHUTDOWN_ACK_SENT:
            self._control(Kind.SHUTDOWN_ACK)

    def _abort(self, cause: Cause, info: bytes, reason: str) -> None:
        self._control(Kind.ABORT, _cause(cause, info))
        self._end(reason)

    def fail(self, reason: str) -> None:
        """End without a word to the peer: it cannot be reached."""
        self._end(reason)

    def _end(self, reason: str) -> None:
        if self.state is not State.ENDED:
            self.state = State.ENDED
            self._sack_at = self._pace_at = self._t3_at = self._late_at = self._t1_at = _NEVER
            self._resets.deadline = _NEVER
            self.events.append(Ended(reason))

    # packets out

    def _control(self, kind: Kind, body: bytes = b"") -> None:
        self.packets.append(self._envelope.seal(wire.chunk(kind, body)))

    def _depart(self, stream: int, size: int) -> None:
        self.departed[stream] = self.departed.get(stream, 0) + size

    def _transmit(self, now: float) -> None:
        """Send again what was lost, then what is new, as far as window, pace and the peer allow."""
        if self.state not in (State.ESTABLISHED, State.COOKIE_ECHOED, State.SHUTDOWN_RECEIVED):
            return
        outstanding, congestion = self.outstanding, self.congestion
        window = congestion.window
        allowance = self._pacer.allowance(now, window, self.round_trips.smoothed, congestion.slow_start)
        before = outstanding.flight
        limit = min(window, self._peer_window)
        burst = before + (BURST * self._fragment if allowance is None else allowance)
        bundle = _Bundle(self.packets, self._envelope, HEADER + DATA_HEADER + self._fragment)
        if self._echo_due:
            bundle.add(self._echo)
            self._echo_due = False
        wants = bool(outstanding.again) or self._message is not None or bool(self.scheduler)
        if wants and self._unacknowledged and (before < min(limit, burst) or not before):
            bundle.add(self._sack_chunk())  # ahead of all DATA (RFC 9260 section 6.10): usrsctp insists
        if outstanding.again:
            self._send_again(bundle, min(window, burst), now)
        if wants and not outstanding.again:
            self._send_new(bundle, min(limit, burst), now)
            wants = self._message is not None or bool(self.scheduler)
        bundle.close()
        spent = outstanding.flight - before
        if allowance is not None and spent:
            self._pacer.spent(spent)
        paced = wants and outstanding.flight >= burst and outstanding.flight < limit
        self._limited = outstanding.flight + self._fragment > window or (wants and outstanding.flight < limit)
        if paced:
            self._pace_at = self._pacer.next_at(now) if allowance is not None else now
        if self._t3_at == _NEVER and outstanding.by_tsn:
            self._t3_at = now + self.round_trips.timeout
        if not self._resets.idle and self.state is State.ESTABLISHED:
            self._request_resets(now)

    def _send_again(self, bundle: _Bundle, limit: int, now: float) -> None:
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

    def _send_new(self, bundle: _Bundle, limit: int, now: float) -> None:
        """Make fragments of what is next, as long as the flight is below ``limit``; one if nothing flies."""
        outstanding, scheduler, size = self.outstanding, self.scheduler, self._fragment
        message = self._message
        while outstanding.flight < limit or not outstanding.flight:
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
            chunk = (
                DATA.pack(
                    0,
                    flags,
                    DATA_HEADER + length,
                    tsn & WORD,
                    message.stream,
                    message.sequence,
                    message.protocol,
                )
                + piece
            )
            if length & 3:
                chunk += bytes(-length & 3)
            outstanding.sent(Fragment(tsn, chunk, message, length, now, outstanding.transmissions + 1))
            bundle.add(chunk)
            self._depart(message.stream, length)
            scheduler.unsent -= length
            if last:
                message.last = tsn
                message = None
            else:
                message.offset = offset + length
                message.last = tsn
        self._message = message
        for expired in scheduler.expired:
            self._depart(expired.stream, len(expired.data))
        scheduler.expired.clear()


class _Bundle:
    """Chunks that share a packet while they fit; a full one leaves at once."""

    __slots__ = ("_envelope", "_most", "_open", "_packets", "_size")

    def __init__(self, packets: list[bytes], envelope: Envelope, most: int) -> None:
        self._packets = packets
        self._envelope = envelope
        self._most = most - HEADER
        self._open: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        size = len(chunk)
        if self._open and self._size + size > self._most:
            self.close()
        if size > BUNDLE_BELOW and not self._open:
            self._packets.append(self._envelope.seal(chunk))
        else:
            self._open.append(chunk)
            self._size += size

    def close(self) -> None:
        if self._open:
            self._packets.append(self._envelope.seal(b"".join(self._open)))
            self._open = []
            self._size = 0


def _cause(cause: Cause, info: bytes) -> bytes:
    return int(cause).to_bytes(2, "big") + (4 + len(info)).to_bytes(2, "big") + info
