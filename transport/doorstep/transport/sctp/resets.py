"""SCTP, pure: closing streams, so that their numbers can be used again (RFC 6525; RFC 8831 section 6.7)."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from doorstep.transport.sctp.chunks import Malformed, Parameter, parameter
from doorstep.transport.sctp.limits import RESET_TRIES, RESETS
from doorstep.transport.sctp.serial import WORD

__all__ = ["StreamResets"]

_OUTGOING = Struct("!LLL")
_RESPONSE = Struct("!LL")
_STREAM = Struct("!H")
_NOTHING, _PERFORMED, _DENIED, _IN_PROGRESS = 0, 1, 2, 6
_NEVER = float("inf")


class StreamResets:
    """Both directions. One request of ours is on its way at a time; one of the peer's may wait for data."""

    __slots__ = (
        "_await", "_body", "_deferred", "_peer", "_queue", "_request", "_sequence", "_streams", "_tries",
        "deadline",
    )  # fmt: skip

    def __init__(self, sequence: int, peer: int) -> None:
        self._sequence = sequence & WORD
        """Of our next request: it starts as our first TSN does."""
        self._peer = (peer - 1) & WORD
        """Of the peer's last request."""
        self._queue: list[int] = []
        self._request = -1
        self._streams: list[int] = []
        self._body = b""
        self._tries = 0
        self._await = 0.0
        self._deferred: tuple[int, int, list[int]] | None = None
        self.deadline = _NEVER

    # ours

    def close(self, stream: int) -> None:
        if stream not in self._queue and stream not in self._streams:
            self._queue.append(stream)

    def forget(self, stream: int) -> None:
        """``stream`` is known to be closed."""
        for streams in (self._queue, self._streams):
            if stream in streams:
                streams.remove(stream)

    @property
    def idle(self) -> bool:
        return not self._queue

    def next_request(
        self, busy: Callable[[int], bool], last_tsn: int, now: float, timeout: float
    ) -> bytes | None:
        """The parameter to send, if a request can go now. ``busy``: the stream has something to send."""
        if self._request >= 0 or not self._queue:
            return None
        self._streams = [stream for stream in self._queue if not busy(stream)][:RESETS]
        if not self._streams:
            return None
        self._queue = [stream for stream in self._queue if stream not in self._streams]
        self._request = self._sequence
        self._sequence = (self._sequence + 1) & WORD
        body = _OUTGOING.pack(self._request, self._peer, last_tsn & WORD)
        self._body = parameter(
            Parameter.RESET_OUTGOING, body + b"".join(_STREAM.pack(stream) for stream in self._streams)
        )
        self._tries = 0
        self._await = timeout
        self.deadline = now + timeout
        return self._body

    def expired(self, now: float) -> bytes | None:
        """Send the request again; None after too many, which ends the association."""
        self._tries += 1
        if self._tries > RESET_TRIES:
            return None
        self._await *= 2
        self.deadline = now + min(self._await, 2.0)
        return self._body

    def response(self, body: bytes, now: float) -> list[int]:
        """Take a response; return the streams whose outgoing side is now closed."""
        if len(body) < 8:
            raise Malformed("a short reset response")
        sequence, result = _RESPONSE.unpack_from(body)
        if sequence != self._request:
            return []
        if result == _IN_PROGRESS:
            self._tries = 0
            self.deadline = now + self._await
            return []
        closed, self._streams = self._streams, []
        self._request = -1
        self.deadline = _NEVER
        return closed

    # the peer's

    def asked(self, body: bytes) -> bytes | None:
        """Take an Outgoing Reset Request; return the answer for one that was done, or cannot be, at once."""
        if len(body) < 12 or len(body) & 1:
            raise Malformed("a short reset request")
        sequence, _, last_tsn = _OUTGOING.unpack_from(body)
        if sequence == self._peer:
            return None if self._deferred is not None else self._answer(sequence, _PERFORMED)
        if sequence != (self._peer + 1) & WORD:
            return self._answer(sequence, 5)  # bad sequence number
        self._peer = sequence
        self._deferred = (sequence, last_tsn, [one[0] for one in _STREAM.iter_unpack(body[12:])])
        return None

    def due(self, reached: Callable[[int], bool]) -> tuple[bytes, list[int]] | None:
        """The peer's request once all before its last TSN has come: the answer and the streams."""
        if self._deferred is None or not reached(self._deferred[1]):
            return None
        sequence, _, streams = self._deferred
        self._deferred = None
        return self._answer(sequence, _PERFORMED), streams

    def waiting(self) -> bytes | None:
        """The answer *in progress*, while the peer's request waits."""
        return None if self._deferred is None else self._answer(self._deferred[0], _IN_PROGRESS)

    def refuse(self, body: bytes) -> bytes:
        """Answer a request that is not for us: incoming resets, TSN resets, more streams."""
        if len(body) < 4:
            raise Malformed("a short request")
        sequence = int.from_bytes(body[:4], "big")
        if sequence == (self._peer + 1) & WORD:
            self._peer = sequence
        return self._answer(sequence, _DENIED)

    @staticmethod
    def _answer(sequence: int, result: int) -> bytes:
        return parameter(Parameter.RESET_RESPONSE, _RESPONSE.pack(sequence, result))
