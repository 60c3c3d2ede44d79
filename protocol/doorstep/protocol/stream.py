"""Protocol: one end of one stream (wire.md §6): offsets, repeats, credit, FIN and RESET. Sans I/O, no clock.

Both directions are byte streams with offsets from 0. What may be sent is bounded by the peer's window, what
can be received by our own; a window moves on when the reader has *consumed* half of it, so unread bytes never
exceed one window. Frames go out in the order of the calls that return them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from doorstep.protocol.errors import ProtocolError, RemoteError, StreamClosed
from doorstep.protocol.frames import Accept, Data, Fin, Reset, Window

__all__ = ["TRANSITIONS", "StreamEvent", "StreamMachine", "StreamState"]


class StreamState(StrEnum):
    """Where a stream stands, seen from one end."""

    OPENING = "opening"  # OPEN was sent or received, ACCEPT not yet
    OPEN = "open"
    LOCAL_FINISHED = "local-finished"  # our direction ended whole
    PEER_FINISHED = "peer-finished"  # the peer's direction ended whole
    FINISHED = "finished"  # both did
    RESET = "reset"


class StreamEvent(StrEnum):
    """What moves a stream."""

    ACCEPT = "accept"  # sent or received
    SEND_FIN = "send-fin"
    RECEIVE_FIN = "receive-fin"
    RESET = "reset"  # sent or received


TRANSITIONS: Mapping[tuple[StreamState, StreamEvent], StreamState] = MappingProxyType(
    {
        (StreamState.OPENING, StreamEvent.ACCEPT): StreamState.OPEN,
        (StreamState.OPENING, StreamEvent.RESET): StreamState.RESET,
        (StreamState.OPEN, StreamEvent.SEND_FIN): StreamState.LOCAL_FINISHED,
        (StreamState.OPEN, StreamEvent.RECEIVE_FIN): StreamState.PEER_FINISHED,
        (StreamState.OPEN, StreamEvent.RESET): StreamState.RESET,
        (StreamState.LOCAL_FINISHED, StreamEvent.RECEIVE_FIN): StreamState.FINISHED,
        (StreamState.LOCAL_FINISHED, StreamEvent.RESET): StreamState.RESET,
        (StreamState.PEER_FINISHED, StreamEvent.SEND_FIN): StreamState.FINISHED,
        (StreamState.PEER_FINISHED, StreamEvent.RESET): StreamState.RESET,
    }
)
"""The whole machine. An event that is not listed for a state is refused and changes nothing."""

_SENDING = frozenset({StreamState.OPEN, StreamState.PEER_FINISHED})
_RECEIVING = frozenset({StreamState.OPEN, StreamState.LOCAL_FINISHED})


class StreamMachine:
    """One end of a stream.

    Methods named after what this side does (``accept``, ``send``, ``finish``, ``reset``, ``consume``) return
    the frame to send and raise :class:`StreamClosed` or :class:`RemoteError` when the stream no longer allows
    it. Methods named ``receive_…`` take what the peer sent and raise :class:`ProtocolError` when it may not;
    after a RESET they take everything and do nothing, for it was sent before the peer knew. A call that
    raises has changed nothing.
    """

    __slots__ = (
        "_state",
        "allowed",
        "consumed",
        "granted",
        "opener",
        "received",
        "reset_by_peer",
        "sent",
        "stream_id",
        "trailer",
        "window",
    )

    def __init__(self, stream_id: int, *, opener: bool, window: int = 0, peer_window: int = 0) -> None:
        """``window`` is our own: what the opener puts into OPEN, 0 for the acceptor until :meth:`accept`.
        ``peer_window`` is what OPEN carried, 0 for the opener until ACCEPT."""
        self._state = StreamState.OPENING
        self.stream_id = stream_id
        self.opener = opener
        self.window = window
        self.sent = 0
        """Bytes we have sent."""
        self.allowed = peer_window
        """Bytes we may have sent before the next WINDOW."""
        self.received = 0
        """Bytes received without a gap."""
        self.consumed = 0
        """Bytes the reader has taken."""
        self.granted = window
        """Bytes the peer may have sent before our next WINDOW."""
        self.trailer: dict[str, Any] | None = None
        """What the peer's FIN carried; ``None`` until then."""
        self.reset_by_peer: Reset | None = None

    @property
    def state(self) -> StreamState:
        return self._state

    @property
    def ended(self) -> bool:
        """No further frame is expected in either direction."""
        return self._state is StreamState.FINISHED or self._state is StreamState.RESET

    @property
    def whole(self) -> bool:
        """The peer's direction ended whole; a later RESET does not change that."""
        return self.trailer is not None

    @property
    def credit(self) -> int:
        """How many bytes may be sent now."""
        return self.allowed - self.sent if self._state in _SENDING else 0

    # --- what this side does ---

    def accept(self, result: dict[str, Any], window: int) -> Accept:
        """Take the stream that the peer opened; ``window`` bounds what we keep unread."""
        self.check_acceptable()
        self._move(StreamEvent.ACCEPT)
        self.window = self.granted = window
        return Accept(self.stream_id, result, window)

    def send(self, payload: bytes) -> Data:
        """Send bytes, at most :attr:`credit` of them."""
        if self._state not in _SENDING:
            self.check_writable()
        offset = self.sent
        end = offset + len(payload)
        if end > self.allowed:
            raise StreamClosed("more bytes than the peer's window allows")
        self.sent = end
        return Data(self.stream_id, offset, payload)

    def finish(self, trailer: dict[str, Any]) -> Fin:
        """End our direction whole."""
        self.check_writable()
        self._move(StreamEvent.SEND_FIN)
        return Fin(self.stream_id, self.sent, trailer)

    def reset(self, code: str, message: str) -> Reset | None:
        """End what has not ended yet; ``None`` when there is nothing left to end."""
        if self.ended:
            return None
        self._move(StreamEvent.RESET)
        return Reset(self.stream_id, code, message)

    def consume(self, count: int) -> Window | None:
        """Note that the reader took ``count`` bytes; the WINDOW frame when one is due."""
        if self.consumed + count > self.received:
            raise StreamClosed("more bytes consumed than were received")
        self.consumed += count
        limit = self.consumed + self.window
        if self._state not in _RECEIVING or 2 * (limit - self.granted) < self.window or limit == self.granted:
            return None
        self.granted = limit
        return Window(self.stream_id, self.received, limit)

    # --- what the peer sent ---

    def receive_accept(self, frame: Accept) -> None:
        if self._state is StreamState.RESET:
            return
        if not self.opener or self._state is not StreamState.OPENING:
            raise ProtocolError(f"stream {self.stream_id}: ACCEPT for a stream that is not being opened")
        self._move(StreamEvent.ACCEPT)
        self.allowed = frame.window

    def receive_data(self, frame: Data) -> bytes:
        """Return the bytes that are new, without those a repeat brings again."""
        offset, payload, received = frame.offset, frame.payload, self.received
        end = offset + len(payload)
        if end <= received:
            return b""
        if self._state not in _RECEIVING:
            if self._state is StreamState.RESET:
                return b""
            raise ProtocolError(f"stream {self.stream_id}: DATA while {self._state}")
        if offset > received:
            raise ProtocolError(f"stream {self.stream_id}: a gap before offset {offset}")
        if end > self.granted:
            raise ProtocolError(f"stream {self.stream_id}: more bytes than the window allows")
        self.received = end
        return payload if offset == received else payload[received - offset :]

    def receive_window(self, frame: Window) -> None:
        """Widen our credit; a limit below the present one is an old frame."""
        if self._state is StreamState.RESET:
            return
        if self._state is StreamState.OPENING or frame.received > self.sent or frame.received > frame.limit:
            raise ProtocolError(f"stream {self.stream_id}: WINDOW for bytes that were not sent")
        self.allowed = max(self.allowed, frame.limit)

    def receive_fin(self, frame: Fin) -> None:
        """Note that the peer's direction ended whole; a repeat changes nothing."""
        if self._state is StreamState.RESET or (self.whole and frame.length == self.received):
            return
        if self._state not in _RECEIVING or frame.length != self.received:
            raise ProtocolError(
                f"stream {self.stream_id}: FIN after {frame.length} bytes while {self._state}, "
                f"{self.received} came"
            )
        self._move(StreamEvent.RECEIVE_FIN)
        self.trailer = frame.trailer

    def receive_reset(self, frame: Reset) -> None:
        """End what has not ended yet."""
        if not self.ended:
            self._move(StreamEvent.RESET)
            self.reset_by_peer = frame

    # --- the one setter, and the checks ---

    def _move(self, event: StreamEvent) -> None:
        self._state = TRANSITIONS[self._state, event]

    def _check_alive(self) -> None:
        """Raise why the stream was reset, if it was."""
        if self.reset_by_peer is not None:
            raise RemoteError(self.reset_by_peer.code, self.reset_by_peer.message)
        if self._state is StreamState.RESET:
            raise StreamClosed("this side has reset the stream")

    def check_acceptable(self) -> None:
        """Raise why the stream cannot be accepted, if it cannot."""
        self._check_alive()
        if self.opener or self._state is not StreamState.OPENING:
            raise StreamClosed("only a stream that the peer is opening can be accepted")

    def check_writable(self) -> None:
        """Raise why nothing can be sent, if nothing can."""
        self._check_alive()
        if self._state is StreamState.OPENING:
            raise StreamClosed("the stream has not been accepted yet")
        if self._state not in _SENDING:
            raise StreamClosed("this side has already finished the stream")

    def check_readable(self) -> None:
        """Raise why no further byte will come, unless the peer's direction is open or ended whole."""
        if not self.whole:
            self._check_alive()
