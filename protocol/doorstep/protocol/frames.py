"""Protocol: the session frames (wire.md §6) and their bytes; one binary message is one frame.

::

    01 HELLO    JSON              06 WINDOW  id received limit      0b TELL      length JSON payload
    02 WELCOME  JSON              07 FIN     id length JSON         0c DATAGRAM  id sequence bytes
    03 OPEN     id JSON           08 RESET   id JSON                0d PING      microseconds
    04 ACCEPT   id JSON           09 CALL    length JSON payload    0e PONG      the same number
    05 DATA     id offset bytes   0a REPLY   length JSON payload    0f SWITCH

Numbers are unsigned LEB128, at most 8 bytes, below 2^53, never over-long. A JSON body is one UTF-8 object
that fills the rest of the frame, except where its length comes first; the body of FIN may be empty, which
means ``{}``. Unknown members of a body are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from doorstep.protocol.errors import InvalidInput, ProtocolError
from doorstep.protocol.frame_types import (
    NUMBER_LIMIT,
    Accept,
    Call,
    CallError,
    Count,
    Data,
    Datagram,
    Fin,
    Frame,
    Hello,
    Name,
    Object,
    Open,
    Ping,
    Pong,
    Reply,
    Reset,
    Resume,
    Role,
    Route,
    Sentence,
    Switch,
    Tell,
    Welcome,
    Window,
)
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import JSON_BYTES, MAX_FRAME

__all__ = [
    "HEADER_BYTES",
    "NUMBER_LIMIT",
    "PROTOCOL_VERSION",
    "Accept",
    "Call",
    "CallError",
    "Data",
    "Datagram",
    "Fin",
    "Frame",
    "Hello",
    "Open",
    "Ping",
    "Pong",
    "Reply",
    "Reset",
    "Resume",
    "Role",
    "Switch",
    "Tell",
    "Welcome",
    "Window",
    "decode",
    "encode",
]

PROTOCOL_VERSION = 1
HEADER_BYTES = 17
"""The most a DATA frame adds to its bytes: the kind and two numbers."""

_NUMBER_BYTES = 8


class _OpenBody(Struct):
    service: Name
    method: Name
    params: Object
    lane: Lane
    window: Count


class _AcceptBody(Struct):
    result: Object
    window: Count


class _ResetBody(Struct):
    code: Name
    message: Sentence


class _CallHead(Struct, rename="camel", omit_defaults=True):
    request_id: Name
    route_key: Route
    timeout_ms: Annotated[int, Meta(ge=1, lt=1 << 31)]
    traceparent: Name | None = None


class _ReplyHead(Struct, rename="camel", omit_defaults=True):
    request_id: Name
    error: CallError | None = None


class _TellHead(Struct, rename="camel", omit_defaults=True):
    route_key: Route
    traceparent: Name | None = None


# --- bytes out ---------------------------------------------------------------------------------------------

_ONE_BYTE = [bytes([value]) for value in range(0x80)]
_to_json = msgspec.json.Encoder().encode


def encode(frame: Frame) -> bytes:
    """Return the bytes of ``frame``.

    Raises :class:`InvalidInput` when a number is out of range, a body is not JSON or the frame is too long.
    """
    if type(frame) is Data:  # nearly every frame
        message = b"\x05" + _number(frame.stream_id) + _number(frame.offset) + frame.payload
    else:
        message = _ENCODERS[type(frame)](frame)
    if len(message) > MAX_FRAME:
        raise InvalidInput("frame", f"is longer than {MAX_FRAME} bytes")
    return message


def _number(value: int) -> bytes:
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    if not 0 <= value < NUMBER_LIMIT:
        raise InvalidInput("number", "must be 0 or more and below 2^53")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _body(value: Struct | Mapping[str, Any]) -> bytes:
    try:
        body = _to_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput("body", f"is not JSON: {error}") from error
    if len(body) > JSON_BYTES:
        raise InvalidInput("body", f"is longer than {JSON_BYTES} bytes")
    return body


def _encode_open(frame: Open) -> bytes:
    body = _OpenBody(frame.service, frame.method, frame.params, frame.lane, frame.window)
    return b"\x03" + _number(frame.stream_id) + _body(body)


def _encode_accept(frame: Accept) -> bytes:
    return b"\x04" + _number(frame.stream_id) + _body(_AcceptBody(frame.result, frame.window))


def _encode_window(frame: Window) -> bytes:
    return b"\x06" + _number(frame.stream_id) + _number(frame.received) + _number(frame.limit)


def _encode_fin(frame: Fin) -> bytes:
    trailer = _body(frame.trailer) if frame.trailer else b""
    return b"\x07" + _number(frame.stream_id) + _number(frame.length) + trailer


def _encode_reset(frame: Reset) -> bytes:
    return b"\x08" + _number(frame.stream_id) + _body(_ResetBody(frame.code, frame.message))


def _with_payload(kind: bytes, head: Struct, payload: bytes) -> bytes:
    body = _body(head)
    return kind + _number(len(body)) + body + payload


def _encode_call(frame: Call) -> bytes:
    head = _CallHead(frame.request_id, frame.route_key, frame.timeout_ms, frame.traceparent)
    return _with_payload(b"\x09", head, frame.payload)


def _encode_reply(frame: Reply) -> bytes:
    return _with_payload(b"\x0a", _ReplyHead(frame.request_id, frame.error), frame.payload)


def _encode_tell(frame: Tell) -> bytes:
    return _with_payload(b"\x0b", _TellHead(frame.route_key, frame.traceparent), frame.payload)


def _encode_datagram(frame: Datagram) -> bytes:
    return b"\x0c" + _number(frame.stream_id) + _number(frame.sequence) + frame.payload


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    Hello: lambda frame: b"\x01" + _body(frame),
    Welcome: lambda frame: b"\x02" + _body(frame),
    Open: _encode_open,
    Accept: _encode_accept,
    Window: _encode_window,
    Fin: _encode_fin,
    Reset: _encode_reset,
    Call: _encode_call,
    Reply: _encode_reply,
    Tell: _encode_tell,
    Datagram: _encode_datagram,
    Ping: lambda frame: b"\x0d" + _number(frame.timestamp),
    Pong: lambda frame: b"\x0e" + _number(frame.timestamp),
    Switch: lambda _frame: b"\x0f",
}


# --- bytes in ----------------------------------------------------------------------------------------------

_Body = TypeVar("_Body")


def decode(message: bytes | memoryview) -> Frame | None:
    """Return the frame in ``message``, or ``None`` for an unknown kind that may be skipped (high bit set).

    Raises :class:`ProtocolError`; its position is the first byte of the field that is wrong.
    """
    if not message:
        raise ProtocolError("empty frame", 0)
    if len(message) > MAX_FRAME:
        raise ProtocolError("frame too long", MAX_FRAME)
    kind = message[0]
    if kind == 0x05:  # nearly every frame
        stream_id, position = _take_number(message, 1)
        offset, position = _take_number(message, position)
        return Data(stream_id, offset, bytes(message[position:]))
    decoder = _DECODERS.get(kind)
    if decoder is not None:
        return decoder(bytes(message))
    if kind & 0x80:
        return None
    raise ProtocolError("unknown kind", 0)


def _take_number(message: bytes | memoryview, position: int) -> tuple[int, int]:
    """Return the number at ``position`` and the position after it."""
    value = shift = 0
    for index, byte in enumerate(message[position : position + _NUMBER_BYTES], position):
        if byte < 0x80:
            value |= byte << shift
            if value >= NUMBER_LIMIT:
                raise ProtocolError("number out of range", position)
            if byte == 0 and shift:
                raise ProtocolError("over-long number", position)
            return value, index + 1
        value |= (byte & 0x7F) << shift
        shift += 7
    if len(message) < position + _NUMBER_BYTES:
        raise ProtocolError("number cut short", position)
    raise ProtocolError("number out of range", position)


def _take_body(decoder: msgspec.json.Decoder[_Body], body: bytes, position: int) -> _Body:
    if len(body) > JSON_BYTES:
        raise ProtocolError("JSON body too long", position)
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ProtocolError(f"bad JSON body: {error}", position) from error


def _take_head(decoder: msgspec.json.Decoder[_Body], message: bytes) -> tuple[_Body, bytes]:
    """Return the JSON body that follows its length, and the payload after it."""
    length, position = _take_number(message, 1)
    end = position + length
    if end > len(message):
        raise ProtocolError("JSON body cut short", position)
    return _take_body(decoder, message[position:end], position), message[end:]


def _at_end(message: bytes, position: int) -> None:
    if position != len(message):
        raise ProtocolError("bytes after the frame", position)


_hello_decoder = msgspec.json.Decoder(Hello)
_welcome_decoder = msgspec.json.Decoder(Welcome)
_open_decoder = msgspec.json.Decoder(_OpenBody)
_accept_decoder = msgspec.json.Decoder(_AcceptBody)
_trailer_decoder = msgspec.json.Decoder(Object)
_reset_decoder = msgspec.json.Decoder(_ResetBody)
_call_decoder = msgspec.json.Decoder(_CallHead)
_reply_decoder = msgspec.json.Decoder(_ReplyHead)
_tell_decoder = msgspec.json.Decoder(_TellHead)


def _decode_open(message: bytes) -> Open:
    stream_id, position = _take_number(message, 1)
    body = _take_body(_open_decoder, message[position:], position)
    return Open(stream_id, body.service, body.method, body.params, body.lane, body.window)


def _decode_accept(message: bytes) -> Accept:
    stream_id, position = _take_number(message, 1)
    body = _take_body(_accept_decoder, message[position:], position)
    return Accept(stream_id, body.result, body.window)


def _decode_window(message: bytes) -> Window:
    stream_id, position = _take_number(message, 1)
    received, position = _take_number(message, position)
    limit, position = _take_number(message, position)
    _at_end(message, position)
    return Window(stream_id, received, limit)


def _decode_fin(message: bytes) -> Fin:
    stream_id, position = _take_number(message, 1)
    length, position = _take_number(message, position)
    trailer = _take_body(_trailer_decoder, message[position:] or b"{}", position)
    return Fin(stream_id, length, trailer)


def _decode_reset(message: bytes) -> Reset:
    stream_id, position = _take_number(message, 1)
    body = _take_body(_reset_decoder, message[position:], position)
    return Reset(stream_id, body.code, body.message)


def _decode_call(message: bytes) -> Call:
    head, payload = _take_head(_call_decoder, message)
    return Call(head.request_id, head.route_key, head.timeout_ms, payload, head.traceparent)


def _decode_reply(message: bytes) -> Reply:
    head, payload = _take_head(_reply_decoder, message)
    return Reply(head.request_id, payload, head.error)


def _decode_tell(message: bytes) -> Tell:
    head, payload = _take_head(_tell_decoder, message)
    return Tell(head.route_key, payload, head.traceparent)


def _decode_datagram(message: bytes) -> Datagram:
    stream_id, position = _take_number(message, 1)
    sequence, position = _take_number(message, position)
    return Datagram(stream_id, sequence, message[position:])


def _decode_ping(message: bytes) -> Ping:
    timestamp, position = _take_number(message, 1)
    _at_end(message, position)
    return Ping(timestamp)


def _decode_pong(message: bytes) -> Pong:
    timestamp, position = _take_number(message, 1)
    _at_end(message, position)
    return Pong(timestamp)


def _decode_switch(message: bytes) -> Switch:
    _at_end(message, 1)
    return Switch()


_DECODERS: dict[int, Callable[[bytes], Frame]] = {
    0x01: lambda message: _take_body(_hello_decoder, message[1:], 1),
    0x02: lambda message: _take_body(_welcome_decoder, message[1:], 1),
    0x03: _decode_open,
    0x04: _decode_accept,
    0x06: _decode_window,
    0x07: _decode_fin,
    0x08: _decode_reset,
    0x09: _decode_call,
    0x0A: _decode_reply,
    0x0B: _decode_tell,
    0x0C: _decode_datagram,
    0x0D: _decode_ping,
    0x0E: _decode_pong,
    0x0F: _decode_switch,
}
