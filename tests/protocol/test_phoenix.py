"""Phoenix frames: the recorded ones, the dropped ones, and that no input does anything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.protocol.errors import InvalidInput, ProtocolError
from doorstep.protocol.phoenix import (
    BinaryPush,
    Outgoing,
    Push,
    UserBroadcast,
    Vsn,
    decode,
    encode,
    encode_user_broadcast,
)

VECTORS = json.loads((Path(__file__).parents[2] / "protocol/vectors/phoenix.json").read_text())


def frame_of(vector: dict[str, str]) -> str | bytes:
    return bytes.fromhex(vector["hex"]) if "hex" in vector else vector["text"]


@pytest.mark.parametrize("vector", VECTORS["client_frames"])
def test_reads_what_clients_send(vector: dict[str, Any]) -> None:
    expected = vector["message"]
    message = decode(Vsn(vector["vsn"]), frame_of(vector))
    kinds = {"push": Push, "broadcast": UserBroadcast, "binary": BinaryPush}
    assert type(message) is kinds[expected["kind"]]
    for name in ("join_ref", "ref", "topic", "event"):
        assert getattr(message, name) == expected[name]
    payload = bytes(message.payload)
    if "bytes" in expected:
        assert payload == bytes.fromhex(expected["bytes"])
    else:
        assert json.loads(payload) == expected["json"]
    if isinstance(message, UserBroadcast):
        assert message.binary == ("bytes" in expected)
        assert message.metadata.decode() == expected["metadata"]


@pytest.mark.parametrize("vector", VECTORS["dropped"])
def test_drops_everything_else(vector: dict[str, str]) -> None:
    with pytest.raises(ProtocolError):
        decode(Vsn(vector["vsn"]), frame_of(vector))


def test_drops_a_payload_too_deep_to_read() -> None:
    with pytest.raises(ProtocolError):
        decode(Vsn.V2, '["1","1","t","e",' + "[" * 5000 + "]" * 5000 + "]")


@pytest.mark.parametrize("vector", VECTORS["server_frames"])
def test_writes_what_clients_read(vector: dict[str, Any]) -> None:
    message = vector["message"]
    payload = msgspec.Raw(json.dumps(message.pop("json"), separators=(",", ":")).encode())
    assert encode(Vsn(vector["vsn"]), payload=payload, **message) == vector["text"]


@pytest.mark.parametrize("vector", VECTORS["user_broadcasts"])
def test_writes_user_broadcasts(vector: dict[str, Any]) -> None:
    binary = "bytes" in vector
    payload = (
        bytes.fromhex(vector["bytes"])
        if binary
        else json.dumps(vector["json"], ensure_ascii=False, separators=(",", ":")).encode()
    )
    frame = encode_user_broadcast(
        vector["topic"], vector["event"], payload, binary=binary, metadata=vector["metadata"].encode()
    )
    assert frame.hex() == vector["hex"]


@pytest.mark.parametrize("vector", VECTORS["fan_out"], ids=lambda vector: vector["about"])
def test_converts_for_each_receiver(vector: dict[str, Any]) -> None:
    sent = decode(Vsn(vector["sent"]["vsn"]), frame_of(vector["sent"]))
    assert not isinstance(sent, BinaryPush)
    message = Outgoing(sent)
    for vsn, expected in vector["received"].items():
        frame = message.frame(Vsn(vsn))
        assert frame == (None if expected is None else frame_of(expected))


def test_encodes_once_per_version() -> None:
    message = Outgoing.push("realtime:t", "presence_diff", msgspec.Raw(b"{}"))
    assert message.frame(Vsn.V1) is message.frame(Vsn.V1)
    assert message.frame(Vsn.V1) != message.frame(Vsn.V2)


def test_makes_broadcasts_of_the_servers_own() -> None:
    message = Outgoing.broadcast("realtime:t", "e", b"\x00", binary=True)
    assert message.frame(Vsn.V1) is None
    assert message.frame(Vsn.V2) == b"\x04\x0a\x01\x00\x00realtime:te\x00"


def test_metadata_of_the_servers_own_reaches_both_versions() -> None:
    message = Outgoing.broadcast("realtime:t", "e", b'{"a":1}', binary=False, metadata=b'{"id":"x"}')
    payload = '{"event":"e","meta":{"id":"x"},"payload":{"a":1},"type":"broadcast"}'
    assert message.frame(Vsn.V1) == (
        f'{{"ref":null,"event":"broadcast","payload":{payload},"topic":"realtime:t"}}'
    )
    assert message.frame(Vsn.V2) == b'\x04\x0a\x01\x0a\x01realtime:te{"id":"x"}{"a":1}'


@pytest.mark.parametrize("field", ["topic", "event", "metadata"])
def test_names_longer_than_their_length_byte_are_refused(field: str) -> None:
    names: dict[str, Any] = {"topic": "t", "event": "e", "metadata": b""}
    names[field] = b"x" * 256 if field == "metadata" else "ż" * 128
    with pytest.raises(InvalidInput, match=field):
        encode_user_broadcast(names["topic"], names["event"], b"", binary=True, metadata=names["metadata"])


@given(
    st.binary(max_size=200)
    | st.integers(0, 5).flatmap(lambda kind: st.binary(max_size=60).map(bytes([kind]).__add__))
)
def test_binary_input_is_read_or_refused(frame: bytes) -> None:
    for vsn in Vsn:
        try:
            message = decode(vsn, frame)
        except ProtocolError:
            continue
        assert isinstance(message, UserBroadcast | BinaryPush)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.text(max_size=200) | JSON.map(json.dumps) | st.lists(JSON, min_size=4, max_size=6).map(json.dumps))
def test_text_input_is_read_or_refused_and_stays_json(frame: str) -> None:
    for vsn in Vsn:
        try:
            message = decode(vsn, frame)
        except ProtocolError:
            continue
        assert isinstance(message, Push)
        json.loads(bytes(message.payload))


@given(payload=JSON, topic=st.text(max_size=40), event=st.text(max_size=40))
def test_a_push_arrives_as_it_was_sent(payload: object, topic: str, event: str) -> None:
    text = json.dumps(payload)
    for vsn in Vsn:
        sent = (
            json.dumps({"topic": topic, "event": event, "payload": payload, "ref": "1"})
            if vsn is Vsn.V1
            else json.dumps(["1", "1", topic, event, payload])
        )
        message = decode(vsn, sent)
        assert isinstance(message, Push)
        assert json.loads(bytes(message.payload)) == json.loads(text)
        received = json.loads(
            encode(vsn, topic=message.topic, event=message.event, payload=message.payload, ref=message.ref)
        )
        shown = (received["topic"], received["event"]) if vsn is Vsn.V1 else tuple(received[2:4])
        assert shown == (topic, event)


@given(
    topic=st.text(max_size=60),
    event=st.text(max_size=60),
    payload=st.binary(max_size=100),
    binary=st.booleans(),
)
def test_a_user_broadcast_keeps_names_and_bytes(
    topic: str, event: str, payload: bytes, *, binary: bool
) -> None:
    names = [topic.encode(), event.encode()]
    if max(map(len, names)) > 255:
        return
    frame = encode_user_broadcast(topic, event, payload, binary=binary)
    assert frame == bytes([4, len(names[0]), len(names[1]), 0, not binary]) + b"".join(names) + payload
    pushed = bytes([3, 0, 0, len(names[0]), len(names[1]), 0, not binary]) + b"".join(names) + payload
    message = decode(Vsn.V2, pushed)
    assert isinstance(message, UserBroadcast)
    assert (message.topic, message.event, message.payload, message.binary) == (topic, event, payload, binary)
