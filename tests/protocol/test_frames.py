"""The session frames against their vectors, and every way to refuse one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from doorstep.protocol import frames
from doorstep.protocol.errors import InvalidInput, ProtocolError
from doorstep.protocol.frames import (
    HEADER_BYTES,
    Accept,
    Call,
    CallError,
    Data,
    Datagram,
    Fin,
    Frame,
    Hello,
    Open,
    Ping,
    Pong,
    Reply,
    Reset,
    Role,
    Switch,
    Tell,
    Welcome,
    Window,
    decode,
    encode,
)
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import JSON_BYTES, MAX_FRAME

VECTORS = json.loads((Path(__file__).parents[2] / "protocol/vectors/frames.json").read_text(encoding="utf-8"))
KINDS: dict[str, type[Any]] = {
    kind.__name__.lower(): kind
    for kind in (
        Hello,
        Welcome,
        Open,
        Accept,
        Data,
        Window,
        Fin,
        Reset,
        Call,
        Reply,
        Tell,
        Datagram,
        Ping,
        Pong,
        Switch,
    )
}


def from_vector(vector: dict[str, Any]) -> Frame:
    """Build the frame that a vector describes."""
    fields = {_snake(name): value for name, value in vector.items() if name != "kind"}
    if "payload" in fields:
        fields["payload"] = bytes.fromhex(fields["payload"])
    if "error" in fields:
        fields["error"] = CallError(**fields["error"])
    for name, kind in (("role", Role), ("lane", Lane)):
        if name in fields:
            fields[name] = kind(fields[name])
    frame: Frame = KINDS[vector["kind"]](**fields)
    return frame


def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), name)


def named(group: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in VECTORS[group]])


@named("valid")
def test_valid_vectors_go_both_ways(vector: dict[str, Any]) -> None:
    frame, message = from_vector(vector["frame"]), bytes.fromhex(vector["hex"])
    assert encode(frame) == message
    assert decode(message) == frame
    assert decode(memoryview(message)) == frame


@named("lenient")
def test_lenient_vectors_are_understood(vector: dict[str, Any]) -> None:
    assert decode(bytes.fromhex(vector["hex"])) == from_vector(vector["frame"])


@named("skipped")
def test_unknown_kinds_with_the_high_bit_are_skipped(vector: dict[str, Any]) -> None:
    assert decode(bytes.fromhex(vector["hex"])) is None


@named("invalid")
def test_invalid_vectors_are_refused_with_their_position(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(bytes.fromhex(vector["hex"]))
    assert caught.value.message.startswith(vector["error"])
    assert caught.value.position == vector["position"]


def test_every_kind_has_a_vector() -> None:
    assert {vector["frame"]["kind"] for vector in VECTORS["valid"]} == set(KINDS)


def test_payload_of_a_memoryview_is_a_copy_of_its_own() -> None:
    buffer = bytearray(encode(Data(1, 0, b"before")))
    frame = decode(memoryview(buffer))
    buffer[-6:] = b"after!"
    assert frame == Data(1, 0, b"before")


def test_a_frame_of_the_largest_size_passes_and_one_byte_more_does_not() -> None:
    fits = Data(1, 0, bytes(MAX_FRAME - 3))
    assert len(encode(fits)) == MAX_FRAME
    assert decode(encode(fits)) == fits
    with pytest.raises(InvalidInput, match="longer than"):
        encode(Data(1, 0, bytes(MAX_FRAME - 2)))
    with pytest.raises(ProtocolError, match="frame too long") as caught:
        decode(encode(fits) + b"x")
    assert caught.value.position == MAX_FRAME


def test_header_bytes_is_what_the_largest_numbers_take() -> None:
    largest = frames.NUMBER_LIMIT - 1
    assert len(encode(Data(largest, largest, b""))) == HEADER_BYTES


def test_a_json_body_of_the_largest_size_passes_and_one_byte_more_does_not() -> None:
    trailer = {"x": "y" * (JSON_BYTES - len('{"x":""}'))}
    message = encode(Fin(1, 0, trailer))
    assert decode(message) == Fin(1, 0, trailer)
    with pytest.raises(ProtocolError, match="JSON body too long") as caught:
        decode(message + b" ")
    assert caught.value.position == 3
    with pytest.raises(InvalidInput, match="longer than"):
        encode(Fin(1, 0, {"x": trailer["x"] + "y"}))


@pytest.mark.parametrize("deep", [b'{"a":' * 20000, b'{"a":' + b"[" * 60000])
def test_deep_nesting_is_refused_not_a_crash(deep: bytes) -> None:
    with pytest.raises(ProtocolError, match="bad JSON body"):
        decode(b"\x07\x01\x00" + deep[:JSON_BYTES])


@pytest.mark.parametrize("value", [-1, 1 << 53, 1 << 70])
def test_numbers_out_of_range_are_not_encoded(value: int) -> None:
    with pytest.raises(InvalidInput, match="below 2"):
        encode(Ping(value))


@pytest.mark.parametrize("value", [object(), {"x": {1, object()}}, {"x": "\ud800"}])
def test_what_is_not_json_is_not_encoded(value: Any) -> None:
    with pytest.raises(InvalidInput, match="is not JSON"):
        encode(Accept(1, {"x": value}, 1))


def test_endless_nesting_is_not_encoded() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    with pytest.raises(InvalidInput, match="is not JSON"):
        encode(Accept(1, endless, 1))


def test_frames_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Data(1, 0, b"").offset = 1  # type: ignore[misc]
    assert all(issubclass(kind, msgspec.Struct) for kind in KINDS.values())
