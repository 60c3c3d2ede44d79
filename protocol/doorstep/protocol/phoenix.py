"""Protocol: the Phoenix channel frames of Supabase Realtime, versions 1.0.0 and 2.0.0, text and binary.

Source: Supabase Realtime 2.129.8 on the wire. The payload of a frame is never parsed here: it is checked to
be JSON and carried raw, so that a hub forwards what it was given, encoded once per broadcast and version.

=========  ==================================================================================================
1.0.0      client ``{topic, event, payload, ref, join_ref?}``; server ``{ref, event, payload, topic}``
2.0.0      ``[join_ref, ref, topic, event, payload]`` both ways, and the binary kinds below
kind 0     client to server: stock Phoenix binary push, ``0 | joinRef ref topic event (lengths) | … | data``
kind 3     client to server: user broadcast, ``3 | joinRef ref topic event meta (lengths) | encoding | …``
kind 4     server to client: user broadcast, ``4 | topic event meta (lengths) | encoding | …``
=========  ==================================================================================================

Lengths are one byte each and count UTF-8 bytes; encoding is 0 for bytes, 1 for JSON.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from doorstep.protocol.errors import InvalidInput, ProtocolError

__all__ = [
    "EMPTY",
    "BinaryPush",
    "Incoming",
    "Outgoing",
    "Push",
    "Ref",
    "UserBroadcast",
    "Vsn",
    "decode",
    "encode",
    "encode_user_broadcast",
]

Ref = str | int | None
"""Refs are echoed as they came; official clients send strings, some others numbers."""

EMPTY = msgspec.Raw(b"{}")
_NAME_BYTES = 255
_PUSH, _USER_PUSH, _USER_BROADCAST = 0, 3, 4


class Vsn(StrEnum):
    """The serializer of one socket, chosen by the ``vsn`` of its URL."""

    V1 = "1.0.0"
    V2 = "2.0.0"


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """One text frame from a client; ``payload`` is any JSON value, unparsed."""

    join_ref: Ref = None
    ref: Ref
    topic: str
    event: str
    payload: msgspec.Raw


class UserBroadcast(msgspec.Struct, frozen=True, kw_only=True):
    """A kind 3 frame: ``event`` is the user's event, ``payload`` is JSON text or bytes as ``binary`` says."""

    join_ref: Ref
    ref: Ref
    topic: str
    event: str
    metadata: bytes = b""
    binary: bool
    payload: bytes


class BinaryPush(msgspec.Struct, frozen=True, kw_only=True):
    """A kind 0 frame: a push whose payload is bytes."""

    join_ref: Ref
    ref: Ref
    topic: str
    event: str
    payload: bytes


Incoming = Push | UserBroadcast | BinaryPush


class _Array(msgspec.Struct, frozen=True, array_like=True):
    join_ref: Ref
    ref: Ref
    topic: str
    event: str
    payload: msgspec.Raw


class _Object(msgspec.Struct, frozen=True):
    ref: Ref
    event: str
    payload: msgspec.Raw
    topic: str


_decode_v1 = msgspec.json.Decoder(Push).decode
_decode_v2 = msgspec.json.Decoder(_Array).decode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode
_encode = msgspec.json.Encoder().encode


def decode(vsn: Vsn, frame: str | bytes) -> Incoming:
    """Read one client frame; raise :class:`ProtocolError` for anything else (servers drop it in silence)."""
    if isinstance(frame, bytes):
        if vsn is Vsn.V1:
            raise ProtocolError("version 1.0.0 has no binary frames", 0)
        return _decode_binary(frame)
    try:
        if vsn is Vsn.V1:
            return _decode_v1(frame)
        array = _decode_v2(frame)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ProtocolError(f"not a frame of version {vsn}: {error}") from None
    return Push(
        join_ref=array.join_ref, ref=array.ref, topic=array.topic, event=array.event, payload=array.payload
    )


def encode(
    vsn: Vsn, *, topic: str, event: str, payload: msgspec.Raw, ref: Ref = None, join_ref: Ref = None
) -> str:
    """Write one server text frame. Version 1.0.0 always has ``ref`` and never ``join_ref``."""
    frame = (
        _Object(ref=ref, event=event, payload=payload, topic=topic)
        if vsn is Vsn.V1
        else _Array(join_ref=join_ref, ref=ref, topic=topic, event=event, payload=payload)
    )
    return _encode(frame).decode()


def encode_user_broadcast(
    topic: str, event: str, payload: bytes, *, binary: bool, metadata: bytes = b""
) -> bytes:
    """Write a kind 4 frame; raise :class:`InvalidInput` when a name does not fit its length byte."""
    names = (
        _name("topic", topic.encode()),
        _name("event", event.encode()),
        _name("metadata", metadata),
    )
    lengths = bytes(len(name) for name in names)
    return bytes((_USER_BROADCAST,)) + lengths + bytes((not binary,)) + b"".join(names) + payload


class Outgoing:
    """One message to many sockets, encoded at most once per version.

    ``Outgoing.push`` carries a text payload unchanged. ``Outgoing.broadcast`` carries a user broadcast: a
    binary frame in version 2.0.0, a text frame in 1.0.0, and nothing at all in 1.0.0 if its payload is bytes.
    """

    __slots__ = ("_frames", "_metadata", "_source")

    def __init__(self, source: Push | UserBroadcast, metadata: bytes = b"") -> None:
        """``metadata`` is a JSON object of the server's own; what a client sent as such goes no further."""
        self._source = source
        self._metadata = metadata
        self._frames: dict[Vsn, str | bytes | None] = {}

    @classmethod
    def push(cls, topic: str, event: str, payload: msgspec.Raw) -> Outgoing:
        return cls(Push(ref=None, topic=topic, event=event, payload=payload))

    @classmethod
    def broadcast(
        cls, topic: str, event: str, payload: bytes, *, binary: bool, metadata: bytes = b""
    ) -> Outgoing:
        """A user broadcast of the server's own making."""
        message = UserBroadcast(
            join_ref=None, ref=None, topic=topic, event=event, binary=binary, payload=payload
        )
        return cls(message, metadata)

    def frame(self, vsn: Vsn) -> str | bytes | None:
        """The frame for a receiver of that version; ``None`` when it cannot be told in it."""
        if vsn not in self._frames:
            self._frames[vsn] = self._encode(vsn)
        return self._frames[vsn]

    def _encode(self, vsn: Vsn) -> str | bytes | None:
        source = self._source
        if isinstance(source, Push):
            return encode(vsn, topic=source.topic, event=source.event, payload=source.payload)
        if vsn is Vsn.V2:
            return encode_user_broadcast(
                source.topic,
                source.event,
                source.payload,
                binary=source.binary,
                metadata=self._metadata,
            )
        if source.binary or not _is_json(source.payload):
            return None
        meta = b'"meta":%b,' % self._metadata if self._metadata else b""
        payload = b'{"event":%b,%b"payload":%b,"type":"broadcast"}' % (
            _encode(source.event),
            meta,
            source.payload,
        )
        return encode(vsn, topic=source.topic, event="broadcast", payload=msgspec.Raw(payload))


def _is_json(payload: bytes) -> bool:
    try:
        _check_json(payload.decode())
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return True


def _name(field: str, name: bytes) -> bytes:
    if len(name) > _NAME_BYTES:
        raise InvalidInput(field, f"must be at most {_NAME_BYTES} bytes of UTF-8")
    return name


def _decode_binary(frame: bytes) -> Incoming:
    kind = frame[0] if frame else -1
    if kind == _USER_PUSH:
        (join_ref, ref, topic, event, metadata), rest = _fields(frame, 5, header=7)
        return UserBroadcast(
            join_ref=_text(join_ref) or None,
            ref=_text(ref) or None,
            topic=_text(topic),
            event=_text(event),
            metadata=metadata,
            binary=frame[6] == 0,
            payload=rest,
        )
    if kind == _PUSH:
        (join_ref, ref, topic, event), rest = _fields(frame, 4, header=5)
        return BinaryPush(
            join_ref=_text(join_ref) or None,
            ref=_text(ref) or None,
            topic=_text(topic),
            event=_text(event),
            payload=rest,
        )
    raise ProtocolError("unknown kind of binary frame", 0)


def _fields(frame: bytes, count: int, *, header: int) -> tuple[list[bytes], bytes]:
    """Cut the length-prefixed fields out of a binary frame; what is left is the payload."""
    if len(frame) < header:
        raise ProtocolError("truncated header", len(frame))
    fields: list[bytes] = []
    position = header
    for length in frame[1 : 1 + count]:
        fields.append(frame[position : position + length])
        position += length
    if position > len(frame):
        raise ProtocolError("truncated field", len(frame))
    return fields, frame[position:]


def _text(field: bytes) -> str:
    try:
        return field.decode()
    except UnicodeDecodeError:
        raise ProtocolError("a name is not UTF-8") from None
