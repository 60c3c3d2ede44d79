"""SCTP, pure: how an association begins and ends (RFC 9260 sections 5 and 9), and the timer of both."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import Enum
from struct import Struct

from doorstep.transport.sctp import chunks as wire
from doorstep.transport.sctp.chunks import Envelope, Init, Kind, Parameter
from doorstep.transport.sctp.limits import (
    HANDSHAKE_TIMEOUT,
    HANDSHAKE_TRIES,
    MOST_TIMEOUT,
    STREAMS,
    WINDOW,
)
from doorstep.transport.sctp.outlet import Outlet

__all__ = ["Handshake", "State"]

_NEVER = float("inf")
_MAGIC = b"doorstep"
"""Begins our cookie, by which two of us know each other."""
_PARAMETERS = wire.parameter(Parameter.FORWARD_TSN) + wire.parameter(
    Parameter.SUPPORTED_EXTENSIONS, bytes((Kind.FORWARD_TSN, Kind.RECONFIG))
)
_OURS = (WINDOW, STREAMS, STREAMS, _PARAMETERS)
"""What our INIT says. An end whose own INIT came too early to be answered sees no cookie of the other."""
_TAG = Struct("!L")
_STALE_COOKIE = 3


class State(Enum):
    CLOSED = "closed"
    COOKIE_WAIT = "cookie-wait"
    COOKIE_ECHOED = "cookie-echoed"
    ESTABLISHED = "established"
    SHUTDOWN_RECEIVED = "shutdown-received"
    SHUTDOWN_ACK_SENT = "shutdown-ack-sent"
    ENDED = "ended"


class Handshake:
    """The state, both tags, and what INIT and COOKIE carry."""

    __slots__ = (
        "_cookie", "_echo", "_echo_due", "_first", "_meet", "_outlet", "_port", "_remote_port", "_tries",
        "deadline", "peer", "peer_is_ours", "peer_tag", "state", "tag", "tag_bytes",
    )  # fmt: skip

    def __init__(
        self, outlet: Outlet, port: int, tag: int | None, first: int, meet: Callable[[Init], None]
    ) -> None:
        """``first`` is our first TSN; ``meet`` is called once, with what the peer says of itself."""
        self.state = State.CLOSED
        self.tag = tag or int.from_bytes(os.urandom(4), "big") or 1
        self.tag_bytes = _TAG.pack(self.tag)
        self.peer: Init | None = None
        self.peer_tag = b""
        self.peer_is_ours = False
        self.deadline = _NEVER
        self._outlet = outlet
        self._port = self._remote_port = port
        self._first = first
        self._meet = meet
        self._cookie = _MAGIC + os.urandom(16)
        self._echo = b""
        self._echo_due = False
        self._tries = 0

    def start(self, remote_port: int, now: float) -> None:
        """Send INIT. Both ends do (RFC 8841 section 9.3)."""
        self._remote_port = remote_port
        self._enter(State.COOKIE_WAIT, now)
        self._send_init()

    def _enter(self, state: State, now: float) -> None:
        self.state = state
        self._tries = 0
        self.deadline = now + HANDSHAKE_TIMEOUT

    def end(self) -> None:
        self.state = State.ENDED
        self.deadline = _NEVER

    @property
    def may_send(self) -> bool:
        return self.state in (State.ESTABLISHED, State.COOKIE_ECHOED, State.SHUTDOWN_RECEIVED)

    def take_echo(self) -> bytes:
        """COOKIE ECHO, when it has not been sent yet: data may share its packet (RFC 9260 section 5.1)."""
        if not self._echo_due:
            return b""
        self._echo_due = False
        return self._echo

    # beginning

    def _init(self, cookie: bytes = b"") -> bytes:
        parameters = _PARAMETERS
        if cookie:
            parameters = wire.parameter(Parameter.STATE_COOKIE, cookie) + parameters
        return bytes(Init(self.tag, WINDOW, STREAMS, STREAMS, self._first, parameters))

    def _send_init(self) -> None:
        envelope = Envelope(self._port, self._remote_port, 0)
        self._outlet.packets.append(envelope.seal(wire.chunk(Kind.INIT, self._init())))

    def take_init(self, init: Init) -> None:
        if init.tag == 0 or self.state is State.CLOSED:
            return
        known = self.peer
        if known is not None and (known.tag, known.tsn) != (init.tag, init.tsn):
            return  # a restart would come with a DTLS connection of its own
        # Unlike on the open network, this one peer may make us remember it: the cookie holds no state.
        self._know(init)
        self._outlet.control(Kind.INIT_ACK, self._init(self._cookie))

    def _know(self, init: Init) -> None:
        if self.peer is None:
            self.peer = init
            self.peer_is_ours = (init.window, init.outbound, init.inbound, init.parameters) == _OURS
            self.peer_tag = _TAG.pack(init.tag)
            self._outlet.envelope = Envelope(self._port, self._remote_port, init.tag)
            self._meet(init)

    def take_init_ack(self, body: bytes, now: float) -> bool:
        """True when the cookie may go."""
        if self.state is not State.COOKIE_WAIT:
            return False
        init = wire.read_init(body)
        parameters = wire.walk_parameters(init.parameters)
        cookie = next((value for kind, value in parameters if kind == Parameter.STATE_COOKIE), b"")
        if init.tag == 0 or not cookie or (self.peer is not None and self.peer.tag != init.tag):
            return False
        self._know(init)
        self.peer_is_ours = cookie.startswith(_MAGIC)
        self._enter(State.COOKIE_ECHOED, now)
        self._echo = wire.chunk(Kind.COOKIE_ECHO, cookie)
        self._echo_due = True
        return True

    def take_cookie(self, body: bytes) -> bool:
        """True when this establishes the association."""
        if body != self._cookie:
            return False
        self._outlet.control(Kind.COOKIE_ACK)
        return self.state in (State.COOKIE_WAIT, State.COOKIE_ECHOED) and self._establish()

    def take_cookie_ack(self) -> bool:
        """True when this establishes the association."""
        return self.state is State.COOKIE_ECHOED and self._establish()

    def _establish(self) -> bool:
        self.state = State.ESTABLISHED
        self.deadline = _NEVER
        return True

    def take_error(self, cause: int, now: float) -> None:
        if cause == _STALE_COOKIE and self.state is State.COOKIE_ECHOED:  # ask for another
            self.state = State.COOKIE_WAIT
            self._send_init()
            self.deadline = now + HANDSHAKE_TIMEOUT

    # ending

    def take_shutdown(self, idle: bool, now: float) -> None:
        """``idle``: all we had to send has arrived."""
        if self.state in (State.ESTABLISHED, State.SHUTDOWN_RECEIVED):
            self.state = State.SHUTDOWN_RECEIVED
            if idle:
                self._enter(State.SHUTDOWN_ACK_SENT, now)
        if self.state is State.SHUTDOWN_ACK_SENT:
            self._outlet.control(Kind.SHUTDOWN_ACK)

    # the timer

    def expired(self, now: float) -> str:
        """Send again what was not answered; after too many times say why it is over."""
        self._tries += 1
        if self._tries > HANDSHAKE_TRIES:
            ending = self.state is State.SHUTDOWN_ACK_SENT
            return "the peer closed the connection" if ending else "the peer does not answer"
        self.deadline = now + min(HANDSHAKE_TIMEOUT * 2**self._tries, MOST_TIMEOUT * 4)
        if self.state is State.COOKIE_WAIT:
            self._send_init()
        elif self.state is State.COOKIE_ECHOED:
            self._outlet.seal(self._echo)
        elif self.state is State.SHUTDOWN_ACK_SENT:
            self._outlet.control(Kind.SHUTDOWN_ACK)
        return ""
