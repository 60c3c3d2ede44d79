"""Protocol: one end of one stream (wire.md §6): offsets, repeats, credit, FIN and RESET. Sans I/O, no clock.

Both directions are byte streams with offsets from 0. What may be sent is bounded by the peer's window, what
can be received by our own; a window moves on when the reader has *consumed* half of it, so unread bytes never
exceed one window. Frames go out in the order of the calls that return them.

Of a session that can resume (``replay``) a machine also keeps what the peer has not acknowledged: the frame
that opened it, the bytes from ``acked`` on (never more than the peer's window), FIN and RESET. On another
wire :meth:`StreamMachine.resume` takes them back and :meth:`StreamMachine.pull` gives them out, in order.

The peer acknowledges by *positions* (wire.md §7): the bytes it has received without a gap, one more once it
has our FIN, and :data:`ENDED` once both directions have ended or the stream was reset.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from doorstep.protocol.errors import ProtocolError, RemoteError, StreamClosed
from doorstep.protocol.frames import NUMBER_LIMIT, Accept, Data, Fin, Open, Reset, Window

__all__ = ["ENDED", "TRANSITIONS", "StreamEvent", "StreamMachine", "StreamState"]

ENDED = NUMBER_LIMIT - 1
"""The position of one who needs nothing further of this stream."""


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
        "_end_acked",
        "_fin",
        "_fin_acked",
        "_fin_due",
        "_kept",
        "_resent",
        "_reset",
        "_reset_due",
        "_state",
        "acked",
        "allowed",
        "consumed",
        "first",
        "first_due",
        "granted",
        "opener",
        "received",
        "replay",
        "reset_by_peer",
        "sent",
        "stream_id",
        "trailer",
        "window",
    )

    def __init__(
        self, stream_id: int, *, opener: bool, window: int = 0, peer_window: int = 0, replay: bool = False
    ) -> None:
        """``window`` is our own: what the opener puts into OPEN, 0 for the acceptor until :meth:`accept`.
        ``peer_window`` is what OPEN carried, 0 for the opener until ACCEPT."""
        self._state = StreamState.OPENING
        self.stream_id = stream_id
        self.opener = opener
        self.replay = replay
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
        self.first: Open | Accept | None = None
        """The frame that began our side, while the peer may not have it; an opener sets it."""
        self.acked = 0
        """Bytes the peer has acknowledged; those from here to ``sent`` are kept."""
        self._kept = bytearray()
        self._resent = 0  # what the present wire has been given; below ``sent`` only after resume()
        self._fin: Fin | None = None
        self._reset: Reset | None = None
        self._fin_acked = self._end_acked = False
        self.first_due = False
        """That frame is to be sent again."""
        self._fin_due = self._reset_due = False

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
    def settled(self) -> bool:
        """It has ended, and the peer knows: the machine can be forgotten."""
        if not self.replay:
            return self.ended
        return self.ended and (self._end_acked or (self._fin_acked and self._state is StreamState.FINISHED))

    @property
    def position(self) -> int:
        """What we acknowledge of the peer's direction."""
        return ENDED if self.ended else self.received + self.whole

    @property
    def behind(self) -> bool:
        """There is something to :meth:`pull` before anything new may be sent."""
        lost = self.first_due or self._resent < self.sent or self._fin_due or self._reset_due
        return self.replay and lost

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
        frame = Accept(self.stream_id, result, window)
        if self.replay:
            self.first = frame
        return frame

    def send(self, payload: bytes) -> Data:
        """Send bytes, at most :attr:`credit` of them."""
        if self._state not in _SENDING:
            self.check_writable()
        offset = self.sent
        end = offset + len(payload)
        if end > self.allowed:
            raise StreamClosed("more bytes than the peer's window allows")
        if self.replay:
            if self.behind:
                raise StreamClosed("what the last wire lost goes first")
            self._kept += payload
            self._resent = end
        self.sent = end
        return Data(self.stream_id, offset, payload)

    def finish(self, trailer: dict[str, Any]) -> Fin | None:
        """End our direction whole; ``None`` when :meth:`pull` will give the frame in its turn."""
        self.check_writable()
        self._move(StreamEvent.SEND_FIN)
        frame = Fin(self.stream_id, self.sent, trailer)
        if self.replay:
            self._fin, self._fin_due = frame, self.behind
        return None if self._fin_due else frame

    def reset(self, code: str, message: str) -> Reset | None:
        """End what has not ended yet; ``None`` when nothing is left to end or :meth:`pull` will give it."""
        if self.ended:
            return None
        self._move(StreamEvent.RESET)
        frame = Reset(self.stream_id, code, message)
        if self.replay:
            if self._fin is None:  # a direction that ended whole stays whole, any other ends here
                self._drop(self.sent)
            self._reset, self._reset_due = frame, self.behind
        return None if self._reset_due else frame

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

    def acknowledge(self) -> Window:
        """The WINDOW frame that states our position: due after FIN, RESET and a change of wires."""
        position = self.position
        return Window(self.stream_id, position, max(self.granted, position))

    # --- on another wire ---

    def resume(self, position: int | None = None) -> None:
        """Everything the peer may not have is to be sent again; ``position`` is what it said it has."""
        if position is not None:
            self._check_position(position)
            self._acknowledged(position)
        heard = not self.opener and (self.received or self.acked or self.whole)  # it must have our ACCEPT
        self.first_due = self.first is not None and not heard
        self._resent = self.acked
        self._fin_due = self._fin is not None and not self._fin_acked
        self._reset_due = self._reset is not None and not self._end_acked

    def pull(self, most: int) -> Open | Accept | Data | Fin | Reset | None:
        """The next frame to send again, with at most ``most`` bytes; ``None`` when we are not behind."""
        if self.first_due:
            self.first_due = False
            return self.first
        if self._resent < self.sent:
            start = self._resent
            self._resent = min(start + most, self.sent)
            return Data(
                self.stream_id, start, bytes(self._kept[start - self.acked : self._resent - self.acked])
            )
        if self._fin_due:
            self._fin_due = False
            return self._fin
        if self._reset_due:
            self._reset_due = False
            return self._reset
        return None

    def _acknowledged(self, position: int) -> None:
        if position == ENDED:
            self._end_acked = True
        if position > self.sent:
            self._fin_acked, self._fin_due = self._fin is not None, False
        self._drop(min(position, self.sent))
        if self._end_acked:
            self.first = None
            self.first_due = self._fin_due = self._reset_due = False

    def _drop(self, until: int) -> None:
        """Keep only the bytes from ``until`` on."""
        if until > self.acked:
            del self._kept[: until - self.acked]
            self.acked = until
            self._resent = max(self._resent, until)

    def _check_position(self, position: int) -> None:
        most = self.sent + (self._fin is not None)
        if position > most and not (self.replay and position == ENDED):
            raise ProtocolError(f"stream {self.stream_id}: WINDOW for bytes that were not sent")

    # --- what the peer sent ---

    def receive_accept(self, frame: Accept) -> None:
        if self._state is StreamState.RESET or self._accepted_before:
            return
        if not self.opener or self._state is not StreamState.OPENING:
            raise ProtocolError(f"stream {self.stream_id}: ACCEPT for a stream that is not being opened")
        self._move(StreamEvent.ACCEPT)
        self.allowed = frame.window
        self.first = None

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
        """Widen our credit and forget what is acknowledged; what is below the present is an old frame."""
        if self._state is not StreamState.RESET:
            if self._state is StreamState.OPENING or frame.received > frame.limit:
                raise ProtocolError(f"stream {self.stream_id}: WINDOW for bytes that were not sent")
            self._check_position(frame.received)
        if self.replay:
            self._acknowledged(frame.received)
        if frame.received != ENDED:
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
        """End what has not ended yet; the peer needs nothing more of us."""
        if not self.ended:
            self._move(StreamEvent.RESET)
            self.reset_by_peer = frame
        self._acknowledged(ENDED)

    @property
    def _accepted_before(self) -> bool:
        return self.replay and self.opener and self._state is not StreamState.OPENING

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
