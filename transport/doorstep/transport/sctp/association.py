"""SCTP, pure: one association (RFC 9260, as RFC 8831 uses it): packets in, packets out, events out.

No I/O and no clock: every entry takes ``now`` in seconds. The caller hands in packets with :meth:`receive`,
says with :meth:`flush` that a batch is over, calls :meth:`handle_timer` at :attr:`deadline`, and then drains
``packets`` (to send), ``events`` (in order), and ``departed`` (bytes per stream that have left).

What a peer must not send is dropped, or ends the association where RFC 9260 says so; nothing here raises
because of it. The two directions are ``inbound`` and ``outbound``, beginning and end are ``handshake``.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from struct import error as TooShort  # noqa: N812

from doorstep.transport.sctp import chunks as wire
from doorstep.transport.sctp.chunks import Cause, Init, Kind, Malformed, Parameter
from doorstep.transport.sctp.handshake import Handshake, State
from doorstep.transport.sctp.inbound import Inbound
from doorstep.transport.sctp.limits import FRAGMENT, HEADER, ROOM
from doorstep.transport.sctp.outbound import Outbound
from doorstep.transport.sctp.outlet import Outlet, cause
from doorstep.transport.sctp.reassembly import Violation
from doorstep.transport.sctp.resets import StreamResets
from doorstep.transport.sctp.scheduler import Message

__all__ = ["Association", "Closed", "Ended", "Established", "Event", "Reset", "State"]

_log = logging.getLogger("doorstep.transport")
_NEVER = float("inf")
_REFUSED = (
    Parameter.RESET_INCOMING, Parameter.RESET_TSN, Parameter.ADD_OUTGOING, Parameter.ADD_INCOMING
)  # fmt: skip


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
        first = first_tsn if first_tsn is not None else int.from_bytes(os.urandom(4), "big")
        self.outlet = Outlet(port)
        self.handshake = Handshake(self.outlet, port, tag, first, self._meet)
        self.inbound = Inbound(self.outlet, self._no_data)
        self.outbound = Outbound(self.outlet, first, fragment)
        self.events: list[Event] = self.inbound.reassembly.ready  # type: ignore[assignment]  # one list keeps the order
        self._first = first
        self._resets = StreamResets(first, 0)

    # what the caller does

    @property
    def state(self) -> State:
        return self.handshake.state

    @property
    def packets(self) -> list[bytes]:
        return self.outlet.packets

    def take_packets(self) -> list[bytes]:
        """What is to be sent, in order; it is the caller's now."""
        packets, self.outlet.packets = self.outlet.packets, []
        return packets

    def take_departed(self) -> dict[int, int]:
        """Bytes per stream that have left since the last time."""
        departed, self.outbound.departed = self.outbound.departed, {}
        return departed

    @property
    def deadline(self) -> float:
        """When :meth:`handle_timer` is to be called; infinity = no time."""
        return min(
            self.inbound.sack_at, self.outbound.deadline, self.handshake.deadline, self._resets.deadline
        )

    @property
    def room(self) -> bool:
        """True when more to send would not only queue up."""
        return self.outbound.scheduler.unsent < ROOM

    def start(self, remote_port: int, now: float) -> None:
        """Begin. Both ends do."""
        self.outbound.heard = now
        self.handshake.start(remote_port, now)

    def send(self, message: Message) -> None:
        """Queue a message; it leaves with the next :meth:`flush`."""
        self.outbound.send(message)

    def close_stream(self, stream: int) -> None:
        """Close our side of ``stream`` when all queued on it has been sent; ends in :class:`Closed`."""
        self._resets.close(stream)

    def assume_closed(self, stream: int) -> None:
        """The peer uses ``stream`` again: it has closed our side, and its answer is still on its way."""
        self._resets.forget(stream)
        self.outbound.scheduler.reset(stream)

    def abort(self) -> None:
        """End at once, and tell the peer."""
        if self.state not in (State.CLOSED, State.ENDED):
            self._abort(Cause.USER_ABORT, b"", "closed")

    def fail(self, reason: str) -> None:
        """End without a word to the peer: it cannot be reached."""
        if self.state is not State.ENDED:
            self.handshake.end()
            self.outbound.stop()
            self.inbound.sack_at = self._resets.deadline = _NEVER
            self.events.append(Ended(reason))

    def flush(self, now: float) -> None:
        """A batch of packets or of messages to send is over: acknowledge, and send what may go."""
        if self.state is State.ENDED or self.state is State.CLOSED:
            return
        self._transmit(now)
        self.inbound.flush(now)

    def handle_timer(self, now: float) -> None:
        """Do what is due. May be called early, late or for nothing."""
        if now >= self.inbound.sack_at:
            self.inbound.acknowledge()
        if now >= self.handshake.deadline and (reason := self.handshake.expired(now)):
            self.fail(reason)
        if now >= self._resets.deadline:
            self._reset_expired(now)
        if not self.outbound.handle_timer(now):
            self.fail("the connection to the peer was lost")
        self.flush(now)

    def _transmit(self, now: float) -> None:
        if self.handshake.may_send:
            inbound = self.inbound
            sack = inbound.sack if inbound.unacknowledged else None
            self.outbound.transmit(now, self.handshake.take_echo(), sack)
            if not self._resets.idle and self.state is State.ESTABLISHED:
                self._request_resets(now)

    # packets in

    def receive(self, packet: bytes, now: float) -> None:
        """Take one packet; ``now`` is when it came."""
        handshake = self.handshake
        if len(packet) < HEADER + 4 or handshake.state is State.ENDED:
            return
        if packet[4:8] != handshake.tag_bytes or handshake.peer is None:
            self._receive_untagged(packet, now)
            return
        try:
            at = self.inbound.take_packet(packet) if packet[HEADER] == 0 else HEADER
            if at < len(packet):
                self._receive_chunks(packet, at, now)
        except Violation as violation:
            self._abort(Cause.PROTOCOL_VIOLATION, b"", f"the peer broke the SCTP protocol: {violation}")

    def _no_data(self, tsn: int) -> None:
        self._abort(Cause.NO_USER_DATA, tsn.to_bytes(4, "big"), "the peer sent a chunk without data")

    def _receive_chunks(self, packet: bytes, at: int, now: float) -> None:
        reported = False
        try:
            for kind, flags, body in wire.walk_chunks(packet, at):
                if kind == Kind.SACK:
                    self._take_sack(body, now)
                elif kind == Kind.DATA:
                    self.inbound.take_late(flags, body)
                elif not self._take(kind, body, now):
                    if kind & 0x40 and not reported:
                        reported = True
                        self.outlet.control(Kind.ERROR, cause(Cause.UNRECOGNIZED_CHUNK, body[:64]))
                    if not kind & 0x80:
                        return
                if self.state is State.ENDED:
                    return
        except (Malformed, TooShort) as error:
            _log.debug("dropped the rest of a packet: %s", error)

    def _take(self, kind: int, body: bytes, now: float) -> bool:
        """Take a chunk that is neither DATA nor SACK; False when its type is not known."""
        match kind:
            case Kind.HEARTBEAT:
                self.outlet.control(Kind.HEARTBEAT_ACK, body)
            case Kind.HEARTBEAT_ACK:
                self.inbound.take_answer(body, now)
            case Kind.PAD | Kind.SHUTDOWN_ACK:
                pass
            case Kind.FORWARD_TSN:
                self.inbound.take_forward(body)
                self._answer_reset()
            case Kind.RECONFIG:
                self._take_reconfig(body, now)
            case Kind.INIT_ACK:
                if self.handshake.take_init_ack(body, now):
                    self.inbound.know(self.handshake.peer_is_ours, 0.0)
                    self._transmit(now)
            case Kind.COOKIE_ECHO:
                if self.handshake.take_cookie(body):
                    self._established(now)
            case Kind.COOKIE_ACK:
                if self.handshake.take_cookie_ack():
                    self._established(now)
            case Kind.ERROR:
                self._take_error(body, now)
            case Kind.ABORT:
                self.fail("the peer closed the connection")
            case Kind.SHUTDOWN:
                self.handshake.take_shutdown(self.outbound.idle, now)
            case Kind.SHUTDOWN_COMPLETE:
                if self.state is State.SHUTDOWN_ACK_SENT:
                    self.fail("the peer closed the connection")
            case Kind.INIT:
                pass  # an INIT has the tag 0 and a packet of its own (RFC 9260 section 8.5.1)
            case _:
                return False
        return True

    def _receive_untagged(self, packet: bytes, now: float) -> None:
        """A packet without our tag: INIT, INIT ACK before we know the peer, or not for us."""
        tag = packet[4:8]
        kind, flags = packet[HEADER], packet[HEADER + 1]
        handshake = self.handshake
        try:
            if kind == Kind.INIT and tag == b"\0\0\0\0":
                for _, _, body in wire.walk_chunks(packet):
                    handshake.take_init(wire.read_init(body))
                    return
            elif tag == handshake.tag_bytes and kind in (Kind.INIT_ACK, Kind.ABORT):
                self._receive_chunks(packet, HEADER, now)
            elif kind in (Kind.ABORT, Kind.SHUTDOWN_COMPLETE) and flags & 1 and tag == handshake.peer_tag:
                self._take(kind, b"", now)
        except (Malformed, TooShort) as error:
            _log.debug("dropped a packet: %s", error)

    def _meet(self, init: Init) -> None:
        """What the peer says of itself."""
        self.inbound.begin(init.tsn)
        self._resets = StreamResets(self._first, init.tsn)
        self.outbound.peer_window = init.window
        if self.handshake.peer_is_ours:
            self.inbound.know(True, 0.0)
        for kind, _ in wire.walk_parameters(init.parameters):
            if kind == Parameter.FORWARD_TSN:
                self.outbound.peer_forwards = True

    def _established(self, now: float) -> None:
        self.outbound.heard = now
        self.events.append(Established())

    def _take_error(self, body: bytes, now: float) -> None:
        for code, _ in wire.walk_parameters(body):
            self.handshake.take_error(code, now)
            _log.debug("the peer reports error cause %d", code)

    def _take_sack(self, body: bytes, now: float) -> None:
        if self.outbound.take_sack(body, now):
            if not self.handshake.peer_is_ours:
                self.inbound.know(False, self.outbound.round_trips.smoothed)
            if self.state is State.SHUTDOWN_RECEIVED:
                self.handshake.take_shutdown(self.outbound.idle, now)

    # closing streams

    def _take_reconfig(self, body: bytes, now: float) -> None:
        if self.state is not State.ESTABLISHED:
            return
        answers: list[bytes] = []
        for kind, value in wire.walk_parameters(body):
            if kind == Parameter.RESET_RESPONSE:
                if closed := self._resets.response(value, now):
                    for stream in closed:
                        self.outbound.scheduler.reset(stream)
                    self.events.append(Closed(tuple(closed)))
            elif kind == Parameter.RESET_OUTGOING:
                if answer := self._resets.asked(value):
                    answers.append(answer)
                self._answer_reset()
                if waiting := self._resets.waiting():
                    answers.append(waiting)
            elif kind in _REFUSED:
                answers.append(self._resets.refuse(value))
        if answers:
            self.outlet.control(Kind.RECONFIG, b"".join(answers[:2]))

    def _answer_reset(self) -> None:
        due = self._resets.due(self.inbound.reached)
        if due is not None:
            answer, streams = due
            for stream in streams:
                self.inbound.reassembly.reset(stream)
            self.events.append(Reset(tuple(streams)))
            self.outlet.control(Kind.RECONFIG, answer)

    def _request_resets(self, now: float) -> None:
        outbound = self.outbound
        request = self._resets.next_request(
            outbound.busy, outbound.outstanding.next - 1, now, max(0.2, outbound.round_trips.timeout)
        )
        if request is not None:
            self.outlet.control(Kind.RECONFIG, request)

    def _reset_expired(self, now: float) -> None:
        request = self._resets.expired(now)
        if request is None:
            self.fail("the peer does not answer")
        else:
            self.outlet.control(Kind.RECONFIG, request)

    # ending

    def _abort(self, code: Cause, info: bytes, reason: str) -> None:
        self.outlet.control(Kind.ABORT, cause(code, info))
        self.fail(reason)
