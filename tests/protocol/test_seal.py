"""The sealed channel: its vectors, and everything that a relay might do to what it forwards."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.protocol import seal as sealing
from doorstep.protocol.errors import InvalidInput, ProtocolError
from doorstep.protocol.frame_types import Role
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import MAX_FRAME
from doorstep.protocol.seal import OVERHEAD, PROOF_BYTES, Handshake, Prover, SealedChannel
from doorstep.protocol.trust import TranscriptProofs

VECTORS = json.loads((Path(__file__).parents[2] / "protocol" / "vectors" / "seal.json").read_text())
SESSION = SessionId("session-0001")
AGENT = AgentId("6f2c1e0a-0b5e-4c7e-9a51-3f1f5f4f9d10")
RANDOM = bytes(range(64))
OTHER = bytes(range(100, 164))
Unproved = partial(TranscriptProofs, None)


class Named:
    """Proves by a name; believes one name."""

    def __init__(self, name: bytes, believes: bytes = b"") -> None:
        self.name, self.believes = name, believes
        self.signed = self.verified = b""

    def sign(self, transcript: bytes) -> bytes:
        self.signed = transcript
        return self.name

    def verify(self, transcript: bytes, proof: bytes) -> None:
        self.verified = transcript
        if proof != self.believes:
            raise ProtocolError("not the one that was expected")


def pair(
    *,
    client: tuple[SessionId, AgentId] = (SESSION, AGENT),
    agent: tuple[SessionId, AgentId] = (SESSION, AGENT),
) -> tuple[SealedChannel, SealedChannel]:
    ours, theirs = Handshake(Role.CLIENT, *client, RANDOM), Handshake(Role.AGENT, *agent, OTHER)
    return ours.complete(theirs.greeting()), theirs.complete(ours.greeting())


def proved() -> tuple[SealedChannel, SealedChannel]:
    client, agent = pair()
    agent.check(client.prove(Unproved()), Unproved())
    client.check(agent.prove(Unproved()), Unproved())
    return client, agent


@pytest.mark.parametrize("case", VECTORS["handshakes"], ids=lambda case: case["name"])
def test_handshake_vectors(case: dict[str, Any]) -> None:
    session, agent_id = SessionId(case["sessionId"]), AgentId(case["agentId"])
    client = Handshake(Role.CLIENT, session, agent_id, bytes.fromhex(case["client"]["random"]))
    agent = Handshake(Role.AGENT, session, agent_id, bytes.fromhex(case["agent"]["random"]))
    assert client.greeting().hex() == case["client"]["greeting"]
    assert agent.greeting().hex() == case["agent"]["greeting"]
    channels = {
        "client": client.complete(agent.greeting()),
        "agent": agent.complete(client.greeting()),
    }
    for role in Role:
        assert channels["client"].transcript(role).hex() == case[role]["transcript"]
        assert channels["agent"].transcript(role).hex() == case[role]["transcript"]
        prover = Named(bytes.fromhex(case[role]["proof"]))
        assert channels[role].prove(prover).hex() == case[role]["proofMessage"]
        assert prover.signed.hex() == case[role]["transcript"]
    for role, peer in ((Role.CLIENT, Role.AGENT), (Role.AGENT, Role.CLIENT)):
        prover = Named(b"", believes=bytes.fromhex(case[role]["proof"]))
        channels[peer].check(bytes.fromhex(case[role]["proofMessage"]), prover)
        assert prover.verified.hex() == case[role]["transcript"]
        for sent in case[role]["frames"]:
            frame = bytes.fromhex(sent["frame"])
            assert channels[role].seal(Lane(sent["lane"]), frame).hex() == sent["message"]
            assert channels[peer].open(bytes.fromhex(sent["message"])) == (Lane(sent["lane"]), frame)
        count = case[role]["count"]
        assert channels[role].seal_count(count["taken"]).hex() == count["message"]
        assert channels[peer].open(bytes.fromhex(count["message"])) == count["taken"]
        farewell = case[role]["farewell"]
        frame = bytes.fromhex(farewell["frame"])
        assert channels[role].seal_farewell(frame).hex() == farewell["message"]
        assert channels[peer].open(bytes.fromhex(farewell["message"])) == (Lane.CONTROL, frame)


@pytest.mark.parametrize("case", VECTORS["refused_greetings"], ids=lambda case: case["name"])
def test_refused_greetings(case: dict[str, Any]) -> None:
    handshake = Handshake(Role(case["role"]), SESSION, AGENT, RANDOM)
    with pytest.raises(ProtocolError) as caught:
        handshake.complete(bytes.fromhex(case["greeting"]))
    assert caught.value.position == case["position"]


@given(st.lists(st.tuples(st.sampled_from(Lane), st.binary(max_size=200)), max_size=20))
def test_what_is_sealed_opens_in_order_both_ways(frames: list[tuple[Lane, bytes]]) -> None:
    for sender, receiver in (proved(), proved()[::-1]):
        for lane, frame in frames:
            message = sender.seal(lane, frame)
            assert len(message) == len(frame) + OVERHEAD
            assert receiver.open(message) == (lane, frame)


@given(st.data())
def test_no_changed_message_opens_and_none_after_it(data: st.DataObject) -> None:
    client, agent = proved()
    message = client.seal(data.draw(st.sampled_from(Lane)), data.draw(st.binary(max_size=64)))
    position = data.draw(st.integers(0, len(message) - 1))
    changed = bytearray(message)
    changed[position] ^= data.draw(st.integers(1, 255))
    for attempt in (bytes(changed), message, client.seal(Lane.CONTROL, b"next")):
        with pytest.raises(ProtocolError):
            agent.open(attempt)


@given(st.binary(max_size=100))
def test_anything_is_opened_or_refused(garbage: bytes) -> None:
    client, _ = proved()
    with pytest.raises(ProtocolError):
        client.open(garbage)
    with pytest.raises(ProtocolError):
        Handshake(Role.CLIENT, SESSION, AGENT, RANDOM).complete(garbage)
    with pytest.raises(ProtocolError):
        pair()[0].check(garbage, Unproved())


def test_a_repeated_message_is_refused() -> None:
    client, agent = proved()
    message = client.seal(Lane.CONTROL, b"once")
    agent.open(message)
    with pytest.raises(ProtocolError, match="repeated"):
        agent.open(message)


def test_reordered_and_missing_messages_are_refused() -> None:
    client, agent = proved()
    client.seal(Lane.CONTROL, b"first")
    with pytest.raises(ProtocolError, match="left out"):
        agent.open(client.seal(Lane.CONTROL, b"second"))


def test_a_farewell_may_come_at_any_time_and_is_the_last() -> None:
    client, agent = proved()
    farewell = client.seal_farewell(b"bye")
    agent.open(client.seal(Lane.CONTROL, b"first"))
    client.seal(Lane.CONTROL, b"was never sent")
    assert agent.open(farewell) == (Lane.CONTROL, b"bye")
    for later in (farewell, client.seal(Lane.CONTROL, b"later"), client.seal(Lane.CONTROL, b"later")):
        with pytest.raises(ProtocolError):
            agent.open(later)


def test_a_second_farewell_is_not_sealed() -> None:
    client, _ = proved()
    client.seal_farewell(b"bye")
    with pytest.raises(AssertionError, match="one farewell"):
        client.seal_farewell(b"something else")


def test_nobody_else_says_farewell() -> None:
    """Not by one of another handshake or direction, a changed or cut one, or what was sealed as a frame."""
    client, agent = proved()
    again = Handshake(Role.CLIENT, SESSION, AGENT, OTHER[::-1])
    older = again.complete(Handshake(Role.AGENT, SESSION, AGENT, OTHER).greeting())
    own = client.seal_farewell(b"bye")
    frame = client.seal(Lane.CONTROL, b"not the last")
    forged = [
        older.seal_farewell(b"bye"),
        agent.seal_farewell(b"bye"),
        own[:-1] + bytes([own[-1] ^ 1]),
        own[:10],
        own[:1],
        bytes([0x83]) + frame[1:],
        bytes([0]) + own[1:],
    ]
    for message in forged:
        _, agent = proved()
        with pytest.raises(ProtocolError):
            agent.open(message)
        with pytest.raises(ProtocolError):
            agent.open(own)


@pytest.mark.parametrize("length", [0, 1, 16, 17, 20])
def test_a_cut_message_is_refused(length: int) -> None:
    client, agent = proved()
    message = client.seal(Lane.FILE_TRANSFER, b"0123456789")
    with pytest.raises(ProtocolError):
        agent.open(message[:length])


def test_a_message_sent_back_is_refused() -> None:
    client, _ = proved()
    with pytest.raises(ProtocolError):
        client.open(client.seal(Lane.CONTROL, b"to the agent"))


def test_a_greeting_sent_back_is_refused() -> None:
    client = Handshake(Role.CLIENT, SESSION, AGENT, RANDOM)
    with pytest.raises(ProtocolError, match="other role"):
        client.complete(client.greeting())


@pytest.mark.parametrize(
    "agent", [(SessionId("session-0002"), AGENT), (SESSION, AgentId("6f2c1e0a-0b5e-4c7e-9a51-3f1f5f4f9d11"))]
)
def test_nothing_of_another_session_or_agent_opens(agent: tuple[SessionId, AgentId]) -> None:
    client, other = pair(agent=agent)
    with pytest.raises(ProtocolError):
        other.check(client.prove(Unproved()), Unproved())


def test_nothing_of_an_older_handshake_opens() -> None:
    client, agent = proved()
    again = Handshake(Role.CLIENT, SESSION, AGENT, OTHER[::-1])
    older = client.seal(Lane.CONTROL, b"older")
    agent = Handshake(Role.AGENT, SESSION, AGENT, OTHER).complete(again.greeting())
    with pytest.raises(ProtocolError):
        agent.check(older, Unproved())
    with pytest.raises(ProtocolError):
        agent.check(client.prove(Unproved()), Unproved())


def test_the_relay_in_the_middle_is_seen_by_the_proof() -> None:
    """It can make a handshake with either side; the transcripts of the two sides then differ."""
    client = Handshake(Role.CLIENT, SESSION, AGENT, RANDOM)
    agent = Handshake(Role.AGENT, SESSION, AGENT, OTHER)
    false_agent = Handshake(Role.AGENT, SESSION, AGENT, bytes(64))
    false_client = Handshake(Role.CLIENT, SESSION, AGENT, bytes(64))
    one = client.complete(false_agent.greeting())
    two = agent.complete(false_client.greeting())
    assert one.transcript(Role.AGENT) != two.transcript(Role.AGENT)
    assert one.transcript(Role.CLIENT) != two.transcript(Role.CLIENT)


def test_a_frame_before_the_proof_is_refused() -> None:
    client, agent = pair()
    client.prove(Unproved())
    with pytest.raises(ProtocolError, match="before the proof"):
        agent.open(client.seal(Lane.CONTROL, b"early"))


def test_the_proof_comes_once_and_first() -> None:
    client, agent = pair()
    message = client.prove(Unproved())
    agent.check(message, Unproved())
    with pytest.raises(ProtocolError, match="not the proof"):
        agent.check(client.prove(Unproved()), Unproved())
    client, agent = pair()
    with pytest.raises(ProtocolError, match="not the proof"):
        agent.check(client.seal(Lane.CONTROL, b""), Unproved())


def test_after_a_refused_proof_nothing_opens() -> None:
    client, agent = pair()
    with pytest.raises(ProtocolError, match="expected"):
        agent.check(client.prove(Named(b"mallory")), Named(b"", believes=b"alice"))
    with pytest.raises(ProtocolError, match="before the proof"):
        agent.open(client.seal(Lane.CONTROL, b"let me in"))


def test_limits() -> None:
    client, agent = proved()
    assert agent.open(client.seal(Lane.CONTROL, bytes(MAX_FRAME))) == (Lane.CONTROL, bytes(MAX_FRAME))
    with pytest.raises(ProtocolError, match="at most"):
        agent.open(client.seal(Lane.CONTROL, bytes(MAX_FRAME + 1)))
    with pytest.raises(InvalidInput, match="proof"):
        pair()[0].prove(Named(bytes(PROOF_BYTES + 1)))
    client, agent = pair()
    largest = Named(bytes(PROOF_BYTES), believes=bytes(PROOF_BYTES))
    message = client.prove(largest)
    with pytest.raises(ProtocolError, match="at most"):
        agent.check(message + b"x", largest)
    agent.check(message, largest)
    with pytest.raises(InvalidInput, match="random"):
        Handshake(Role.CLIENT, SESSION, AGENT, bytes(63))


def test_a_lane_that_does_not_exist_is_refused() -> None:
    client, agent = proved()
    with pytest.raises(ProtocolError, match="not a lane"):
        agent.open(client._out.seal(b"\x04", b"sealed with the right key"))


@pytest.mark.parametrize("content", [b"", bytes(7), bytes(9)])
def test_a_count_of_another_size_is_refused(content: bytes) -> None:
    client, agent = proved()
    with pytest.raises(ProtocolError, match="a count has 8 bytes"):
        agent.open(client._out.seal(b"\x82", content))


def test_a_key_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_MOST_SEALED", 3)
    client, agent = proved()
    for _ in range(2):
        agent.open(client.seal(Lane.CONTROL, b"x"))
    with pytest.raises(ProtocolError, match="last frame"):
        client.seal(Lane.CONTROL, b"x")


def test_a_prover_is_what_it_says() -> None:
    provers: list[Prover] = [Unproved(), Named(b"")]
    assert [prover.sign(b"") for prover in provers] == [b"", b""]
