"""Protocol: the messages of a wire over Realtime broadcasts, and the records in the stream they carry.

Both ends join the private topic of the session (``ids.wire_topic``). Each has a name of
its own there: several wires of one session, an old and a new one, may use the topic. An end talks to the
first one of the other role that speaks to it or to nobody yet (:class:`Party`); that it is the right one is
for the handshake to show (:mod:`doorstep.protocol.seal`).

The stream (:mod:`doorstep.protocol.arq`) is a sequence of records, each with its length in 4 bytes,
big-endian: the greeting, the proof, then sealed frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from doorstep.protocol.arq import Parcel
from doorstep.protocol.errors import InvalidInput, MalformedMessage, ProtocolError
from doorstep.protocol.frame_types import Role
from doorstep.protocol.ids import client_id
from doorstep.protocol.limits import BROADCAST_BYTES, MAX_FRAME, TEXT_BYTES
from doorstep.protocol.seal import OVERHEAD
from doorstep.protocol.texts import check_text

__all__ = ["EVENT", "Letter", "Party", "Records", "dump", "parse", "record"]

EVENT = "wire"
_LENGTH = 4
_BITS = 31
"""Of ``beyond``: the window without the piece that is missing."""
_MOST = 2**53


class Letter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One broadcast. ``place`` and ``data`` go together; ``bye`` says that its sender is gone, and why."""

    event: ClassVar[str] = EVENT
    role: Role
    sender: str = msgspec.field(name="from")
    to: str = ""
    number: int
    seen: int = 0
    received: int = 0
    beyond: int = 0
    place: int | None = None
    data: bytes = b""
    bye: str | None = None

    def __post_init__(self) -> None:
        for field, text in (("from", self.sender), ("to", self.to)):
            if text or field == "from":
                _name(field, text)
        counts = {"number": self.number, "seen": self.seen, "received": self.received}
        for field, count in {**counts, "place": self.place or 0}.items():
            if not 0 <= count < _MOST:
                raise InvalidInput(field, "must be a whole number from 0")
        if not 0 <= self.beyond < 1 << _BITS:
            raise InvalidInput("beyond", f"must have {_BITS} bits")
        if (self.place is None) != (not self.data) or len(self.data) > BROADCAST_BYTES:
            raise InvalidInput("data", f"must be 1 to {BROADCAST_BYTES} bytes, with a place")
        check_text("bye", self.bye, TEXT_BYTES)

    @property
    def parcel(self) -> Parcel:
        return Parcel(self.number, self.seen, self.received, self.beyond, self.place, self.data)


def parse(payload: Mapping[str, Any]) -> Letter:
    """Read a broadcast of the event :data:`EVENT`; raise :class:`MalformedMessage`."""
    try:
        return msgspec.convert(payload, Letter)
    except InvalidInput as error:
        raise MalformedMessage(EVENT, error.field, error.message) from None
    except msgspec.ValidationError as error:
        raise MalformedMessage(EVENT, "payload", str(error)) from None


def dump(letter: Letter) -> dict[str, Any]:
    """The JSON-ready payload."""
    payload: dict[str, Any] = msgspec.to_builtins(letter)
    return payload


class Party:
    """Who we are on the topic, and whom we talk to there."""

    def __init__(self, role: Role, ours: str) -> None:
        self.role = role
        self.ours = ours
        self.peer = ""

    def letter(self, parcel: Parcel, bye: str | None = None) -> Letter:
        return Letter(
            role=self.role,
            sender=self.ours,
            to=self.peer,
            number=parcel.number,
            seen=parcel.seen,
            received=parcel.received,
            beyond=parcel.beyond,
            place=parcel.place,
            data=parcel.data,
            bye=bye,
        )

    def concerns(self, letter: Letter) -> bool:
        """Whether the letter is for us; the first one chooses the peer.

        Raises :class:`ProtocolError` when the peer has chosen another one.
        """
        if letter.role is self.role:
            return False
        ours = letter.to in ("", self.ours)
        if not self.peer and ours and letter.bye is None:
            self.peer = letter.sender
        if letter.sender != self.peer:
            return False
        if not ours:
            raise ProtocolError("the peer talks to another connection of this session")
        return True


def record(data: bytes) -> bytes:
    """``data`` as it stands in the stream."""
    return len(data).to_bytes(_LENGTH, "big") + data


class Records:
    """Takes the stream apart."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The records that are whole now; raise :class:`ProtocolError` for one that is too large."""
        self._rest += data
        found: list[bytes] = []
        while len(self._rest) >= _LENGTH:
            size = int.from_bytes(self._rest[:_LENGTH], "big")
            if size > MAX_FRAME + OVERHEAD:
                raise ProtocolError(f"a record of {size} bytes")
            if len(self._rest) < _LENGTH + size:
                break
            found.append(bytes(self._rest[_LENGTH : _LENGTH + size]))
            del self._rest[: _LENGTH + size]
        return found


def _name(field: str, text: str) -> None:
    try:
        client_id(text)
    except InvalidInput as error:
        raise InvalidInput(field, error.message) from None
