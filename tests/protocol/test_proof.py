"""Keys, fingerprints, statements and proofs; the vectors are those of the TypeScript mirror."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.protocol.errors import InvalidInput, PeerNotTrusted
from doorstep.protocol.frame_types import Role
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.proof import (
    PrivateKey,
    Proof,
    PublicKey,
    fingerprints,
    sign_transcript,
    statement,
    verify_transcript,
)
from doorstep.protocol.seal import RANDOM_BYTES, Handshake
from doorstep.protocol.signaling import Answer, ConnectionReady, ConnectionRequest, Offer, dump, parse
from doorstep.protocol.trust import AgentProofs, ClientProofs, TranscriptProofs

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "protocol" / "vectors" / "proof.json").read_text()
)
AGENT = AgentId("01234567-89ab-4cde-8f01-23456789abcd")
SESSION = SessionId("session-1")
KEY = PrivateKey(bytes(32))
CLIENT_KEY, AGENT_KEY = PrivateKey(bytes([1] * 32)), PrivateKey(bytes([2] * 32))


def named(cases: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(case, id=case.get("name")) for case in cases]


def sdp(byte: int) -> str:
    return f"v=0\r\na=ice-ufrag:u\r\na=fingerprint:sha-256 {':'.join([f'{byte:02X}'] * 32)}\r\n"


@pytest.mark.parametrize("case", VECTORS["keys"])
def test_keys(case: dict[str, str]) -> None:
    key = PrivateKey(bytes.fromhex(case["seed"])).public
    assert (str(key), key.fingerprint) == (case["key"], case["fingerprint"])
    assert PublicKey.parse(case["key"]) == key


def test_a_private_key_does_not_show() -> None:
    assert KEY.public.fingerprint in repr(KEY)
    assert "00000000" not in repr(KEY)
    with pytest.raises(InvalidInput):
        PrivateKey(bytes(31))


@pytest.mark.parametrize("case", named(VECTORS["fingerprints"]))
def test_fingerprints(case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(InvalidInput) as caught:
            fingerprints(case["sdp"])
        assert caught.value.field == case["error"]
    else:
        assert list(fingerprints(case["sdp"])) == case["result"]


def test_a_description_without_bounds() -> None:
    with pytest.raises(InvalidInput, match="bytes"):
        fingerprints(sdp(1) + "a" * 70_000)


@pytest.mark.parametrize("case", VECTORS["statements"])
def test_statements(case: dict[str, Any]) -> None:
    parts = [bytes.fromhex(part) for part in case["parts"]]
    assert statement(case["purpose"], *parts).hex() == case["bytes"]


@given(st.lists(st.binary(max_size=8), max_size=4), st.lists(st.binary(max_size=8), max_size=4))
def test_a_statement_can_be_read_in_one_way_only(one: list[bytes], other: list[bytes]) -> None:
    assert (statement("dtls", *one) == statement("dtls", *other)) == (one == other)


@pytest.mark.parametrize("case", named(VECTORS["parse"]))
def test_the_json_form(case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(InvalidInput) as caught:
            Proof.parse(case["proof"])
        assert caught.value.field == case["error"]
    else:
        known = {name: case["proof"][name] for name in ("key", "nonce", "signature")}
        assert Proof.parse(case["proof"]).dump() == known


@given(st.dictionaries(st.sampled_from(["key", "nonce", "signature"]), st.text(max_size=100)))
def test_anything_for_a_proof_is_read_or_a_documented_error(fields: dict[str, str]) -> None:
    with suppress(InvalidInput):
        assert not Proof.parse(fields).holds(statement("dtls"))


@pytest.mark.parametrize("case", named(VECTORS["flows"]))
def test_flows(case: dict[str, Any]) -> None:
    """Each side says exactly this, and takes what the other one says."""
    agent_id, session = AgentId(case["agentId"]), case["sessionId"]
    client_key, agent_key = (PrivateKey(bytes.fromhex(case[f"{side}Seed"])) for side in ("client", "agent"))
    client = ClientProofs(client_key, agent_id, session, lambda _: bytes.fromhex(case["clientNonce"]))
    agent = AgentProofs(agent_key, agent_id, session, lambda _: bytes.fromhex(case["agentNonce"]))
    for said in case["messages"]:
        message = parse(said["event"], said["payload"])
        bare: Any = msgspec.structs.replace(message, proof=None)
        match message:
            case ConnectionRequest():
                assert client.request(bare) == message
                agent.request(message)
            case ConnectionReady(answer=None):
                assert agent.ready(bare) == message
                assert client.ready(message.proof) == agent_key.public
            case ConnectionReady(answer=str(answer)):
                assert agent.ready(bare) == message
                assert client.answer(answer, message.proof) == agent_key.public
            case Offer():
                assert client.offer(bare) == message
                assert agent.offer(message)
            case Answer():
                assert agent.answer(bare) == message
                assert client.answer(message.sdp, message.proof) == agent_key.public
            case _:
                raise AssertionError(said)
        assert dump(message) == (said["event"], said["payload"])
    assert agent.client_key == client_key.public


class Nonces:
    """A new one each time."""

    def __init__(self, seed: int) -> None:
        self._next = seed

    def __call__(self, size: int) -> bytes:
        self._next += 1
        return self._next.to_bytes(size, "big")


def pair(session: SessionId | None = SESSION) -> tuple[ClientProofs, AgentProofs]:
    agent_key = PrivateKey(bytes([1] * 32))
    return ClientProofs(KEY, AGENT, session, Nonces(0)), AgentProofs(
        agent_key, AGENT, session, Nonces(1 << 64)
    )


def knock(client: ClientProofs, offer: str | None = None) -> ConnectionRequest:
    return client.request(ConnectionRequest(agent_id=AGENT, session_id=SESSION, offer=offer))


def test_an_offer_of_an_older_attempt_is_told_apart() -> None:
    client, agent = pair()
    agent.request(knock(client))
    older = client.offer(Offer(sdp=sdp(1), session_id=SESSION))
    agent.request(knock(client))
    assert not agent.offer(older)
    assert agent.offer(client.offer(Offer(sdp=sdp(1), session_id=SESSION)))


def test_a_replayed_ready_does_not_hold_in_the_next_attempt() -> None:
    client, agent = pair()
    agent.request(knock(client, sdp(1)))
    ready = agent.ready(ConnectionReady(agent_id=AGENT, session_id=SESSION, answer=sdp(2)))
    agent.request(knock(client, sdp(1)))
    with pytest.raises(PeerNotTrusted, match="does not hold"):
        client.answer(sdp(2), ready.proof)


def test_an_answer_by_another_agent_key_state_than_the_ready() -> None:
    client, agent = pair()
    request = knock(client)
    agent.request(request)
    client.ready(agent.ready(ConnectionReady(agent_id=AGENT, session_id=SESSION)).proof)
    offer = client.offer(Offer(sdp=sdp(1), session_id=SESSION))
    _, restarted = pair()
    restarted._random = Nonces(7)
    restarted.request(request)
    with pytest.raises(PeerNotTrusted):
        restarted.offer(offer)
    answer = restarted.answer(Answer(sdp=sdp(2), session_id=SESSION))
    with pytest.raises(PeerNotTrusted):
        client.answer(sdp(2), answer.proof)


def test_a_proof_is_of_one_session_and_one_agent() -> None:
    client, _ = pair()
    request = knock(client, sdp(1))
    for agent, session in ((AGENT, SessionId("session-2")), (AGENT, None), (AgentId(AGENT[::-1]), SESSION)):
        with pytest.raises(PeerNotTrusted):
            AgentProofs(KEY, agent, session, Nonces(0)).request(request)


def test_an_offer_must_keep_the_proof_and_key_of_its_knock() -> None:
    client, agent = pair()
    agent.request(knock(client))
    agent.ready(ConnectionReady(agent_id=AGENT, session_id=SESSION))
    with pytest.raises(PeerNotTrusted):
        agent.offer(Offer(sdp=sdp(1), session_id=SESSION))
    _, plain = pair()
    plain.request(ConnectionRequest(agent_id=AGENT, session_id=SESSION))
    assert plain.offer(Offer(sdp=sdp(1), session_id=SESSION))
    with pytest.raises(PeerNotTrusted, match="the knock had no proof"):
        plain.offer(client.offer(Offer(sdp=sdp(1), session_id=SESSION)))


def test_the_transcript_of_the_relay() -> None:
    given = VECTORS["transcript"]
    key, transcript = PrivateKey(bytes.fromhex(given["seed"])), bytes.fromhex(given["transcript"])
    proof = sign_transcript(key, transcript)
    assert proof.hex() == given["proof"]
    assert verify_transcript(transcript, proof) == key.public
    for wrong in (b"", proof[:-1], proof + b"\0", bytes([proof[0] ^ 1]) + proof[1:], proof[:-1] + b"\xff"):
        with pytest.raises(PeerNotTrusted):
            verify_transcript(transcript, wrong)
    with pytest.raises(PeerNotTrusted):
        verify_transcript(transcript + b"\0", proof)


def test_keys_that_are_none() -> None:
    with pytest.raises(InvalidInput, match="32 bytes"):
        PublicKey(bytes(31))
    with pytest.raises(PeerNotTrusted, match="a key that is none"):
        verify_transcript(b"what was said", bytes(96))


def test_without_proofs_plain_peers_are_taken_unless_the_agent_asks_for_proofs() -> None:
    client, agent = pair()
    agent.request(ConnectionRequest(agent_id=AGENT, session_id=SESSION))
    assert agent.client_key is None
    assert agent.offer(Offer(sdp=sdp(1), session_id=SESSION))
    ready = ConnectionReady(agent_id=AGENT, session_id=SESSION)
    answer = Answer(sdp=sdp(2), session_id=SESSION)
    assert agent.ready(ready) is ready
    assert agent.answer(answer) is answer
    assert client.ready(None) is None
    assert client.answer(sdp(2), None) is None
    strict = AgentProofs(None, AGENT, SESSION, bytes, required=True)
    with pytest.raises(PeerNotTrusted, match="no proof came"):
        strict.request(ConnectionRequest(agent_id=AGENT, session_id=SESSION))


def test_an_offer_with_a_proof_after_a_knock_without_one_is_refused() -> None:
    client, agent = pair()
    proven = client.request(ConnectionRequest(agent_id=AGENT, session_id=SESSION))
    agent.request(msgspec.structs.replace(proven, proof=None))
    with pytest.raises(PeerNotTrusted, match="the knock had no proof"):
        agent.offer(client.offer(Offer(sdp=sdp(1), session_id=SESSION)))


def test_proofs_and_descriptions_that_cannot_be_read() -> None:
    client, agent = pair()
    proven = client.request(ConnectionRequest(agent_id=AGENT, session_id=SESSION))
    with pytest.raises(PeerNotTrusted, match="cannot be read"):
        agent.request(msgspec.structs.replace(proven, proof={"key": "no", "nonce": "no", "signature": "no"}))
    agent.request(proven)
    with pytest.raises(PeerNotTrusted, match="cannot be trusted"):
        agent.offer(msgspec.structs.replace(client.offer(Offer(sdp=sdp(1), session_id=SESSION)), sdp="v=0"))


def test_a_repeated_knock_changes_nothing_and_another_key_cannot_take_it_over() -> None:
    client, agent = pair()
    request = knock(client)
    agent.request(request)
    agent.request(request)
    thief = ClientProofs(PrivateKey(bytes([9] * 32)), AGENT, SESSION, Nonces(0))
    knock(thief)  # the same nonces, seen on the back end
    with pytest.raises(PeerNotTrusted, match="not that of the knock"):
        agent.offer(thief.offer(Offer(sdp=sdp(1), session_id=SESSION)))
    assert agent.offer(client.offer(Offer(sdp=sdp(1), session_id=SESSION)))


def test_a_foreign_knock_in_a_running_attempt_changes_nothing() -> None:
    client, agent = pair()
    agent.request(knock(client, sdp(1)))
    plain = ConnectionRequest(agent_id=AGENT, session_id=SESSION)
    other = ClientProofs(PrivateKey(bytes([9] * 32)), AGENT, SESSION, Nonces(7))
    for foreign in (plain, knock(other)):
        with pytest.raises(PeerNotTrusted, match="another client has begun"):
            agent.request(foreign)
    answer = agent.answer(Answer(sdp=sdp(2), session_id=SESSION))
    assert client.answer(answer.sdp, answer.proof) == PrivateKey(bytes([1] * 32)).public


def test_anonymous_knocks_replace_each_other() -> None:
    agent = AgentProofs(AGENT_KEY, AGENT, None, Nonces(100))
    proven = ClientProofs(CLIENT_KEY, AGENT, None, Nonces(0)).request(ConnectionRequest(agent_id=AGENT))
    agent.request(proven)
    agent.request(ConnectionRequest(agent_id=AGENT))
    assert agent.client_key is None


def test_who_may_not_take_part_changes_nothing() -> None:
    def vouch(key: PublicKey | None) -> None:
        if key != CLIENT_KEY.public:
            raise PeerNotTrusted("another client has begun this session")

    client = ClientProofs(CLIENT_KEY, AGENT, SESSION, Nonces(0))
    agent = AgentProofs(AGENT_KEY, AGENT, SESSION, Nonces(100), vouch=vouch)
    with pytest.raises(PeerNotTrusted):
        agent.request(ConnectionRequest(agent_id=AGENT, session_id=SESSION))
    assert agent.client_key is None
    agent.request(knock(client))
    assert agent.client_key == CLIENT_KEY.public


# The handshake of a wire that needs no descriptions.


def handshake(client: TranscriptProofs, agent: TranscriptProofs) -> None:
    """Both sign and check each other, over a channel that nobody has touched."""
    ids = SESSION, AGENT
    sides = [Handshake(role, *ids, bytes([number]) * RANDOM_BYTES) for number, role in enumerate(Role, 1)]
    one, other = (side.complete(peer.greeting()) for side, peer in zip(sides, reversed(sides), strict=True))
    other.check(one.prove(client), agent)
    one.check(other.prove(agent), client)


def test_both_sides_of_a_handshake_learn_the_others_key() -> None:
    client, agent = TranscriptProofs(CLIENT_KEY), TranscriptProofs(AGENT_KEY, expected=CLIENT_KEY.public)
    handshake(client, agent)
    assert (client.shown, agent.shown) == (AGENT_KEY.public, CLIENT_KEY.public)


def test_one_without_a_key_is_believed_until_a_key_is_asked_for() -> None:
    client, agent = TranscriptProofs(None), TranscriptProofs(None)
    handshake(client, agent)
    assert (client.shown, agent.shown) == (None, None)
    for demand in (TranscriptProofs(None, required=True), TranscriptProofs(None, expected=CLIENT_KEY.public)):
        with pytest.raises(PeerNotTrusted, match="no proof"):
            handshake(TranscriptProofs(None), demand)


def test_another_key_than_the_expected_one() -> None:
    agent = TranscriptProofs(AGENT_KEY, expected=AGENT_KEY.public)
    with pytest.raises(PeerNotTrusted, match="another key") as caught:
        handshake(TranscriptProofs(CLIENT_KEY), agent)
    assert (caught.value.known, caught.value.shown) == (
        AGENT_KEY.public.fingerprint,
        CLIENT_KEY.public.fingerprint,
    )
    assert agent.shown is None
