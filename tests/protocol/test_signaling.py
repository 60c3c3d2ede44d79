"""Signaling messages beyond their vectors: what we build is checked too, no input gets past the checks."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.protocol import limits
from doorstep.protocol.errors import InvalidInput, MalformedMessage
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.signaling import (
    Answer,
    Candidate,
    ConnectionReady,
    ConnectionRefused,
    ConnectionRequest,
    IceCandidate,
    IceServer,
    Offer,
    dump,
    parse,
)

AGENT = AgentId("01234567-89ab-4cde-8f01-23456789abcd")
SESSION = SessionId("session-1")
EVENTS = ["connection-request", "connection-ready", "connection-refused", "offer", "answer", "candidate"]
FIELDS = [
    *(
        "agentId",
        "sessionId",
        "clientId",
        "capabilities",
        "offer",
        "proof",
        "answer",
        "replyTo",
        "iceServers",
    ),
    *("code", "message", "retryAfter", "sdp", "candidate", "sdpMid", "sdpMLineIndex", "usernameFragment"),
    *("from", "more", "urls", "username", "credential"),
]


def test_our_own_mistakes_are_ours() -> None:
    with pytest.raises(InvalidInput, match="agentId"):
        ConnectionRequest(agent_id=AgentId("laptop"))
    with pytest.raises(InvalidInput, match="sdp: must not be empty"):
        Offer(sdp="")
    with pytest.raises(InvalidInput, match="iceServers: must have at most 1024 bytes"):
        IceServer(urls=("stun:" + "x" * 1024,))
    with pytest.raises(InvalidInput, match="more: must have at most 1024 bytes"):
        Candidate(candidate="", sdp_mid=None, more=(IceCandidate(candidate="x" * 1025, sdp_mid=None),))


@pytest.mark.parametrize("pause", [math.nan, math.inf, -0.5])
def test_a_pause_is_a_number_of_seconds(pause: float) -> None:
    """JSON in Python reads NaN and Infinity, which JSON in a browser does not."""
    with pytest.raises(MalformedMessage, match="retryAfter"):
        parse("connection-refused", {"agentId": AGENT, "code": "busy", "message": "", "retryAfter": pause})


def test_a_field_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(MalformedMessage) as refused:
        parse("offer", {"sdp": "v=0", 1: 2})
    assert refused.value.field == "payload"


def test_a_malformed_message_says_where_in_one_line() -> None:
    with pytest.raises(MalformedMessage) as refused:
        parse("signal-offer", {"sdp": 7})
    assert str(refused.value) == "signal-offer: sdp: Expected `str`, got `int`"


def test_a_long_event_name_is_cut_in_the_log() -> None:
    with pytest.raises(MalformedMessage) as refused:
        parse("x" * 10_000, {})
    assert len(str(refused.value)) < 400


def test_candidates_can_be_taken_apart() -> None:
    more = (IceCandidate(candidate="b", sdp_mid="1", sdp_m_line_index=1, username_fragment="u"),)
    message = Candidate(candidate="a", sdp_mid="0", session_id=SESSION, sender="agent", more=more)
    assert message.each() == (
        Candidate(candidate="a", sdp_mid="0"),
        Candidate(candidate="b", sdp_mid="1", sdp_m_line_index=1, username_fragment="u"),
    )


@pytest.mark.parametrize(
    "message",
    [
        ConnectionRequest(
            agent_id=AGENT, session_id=SESSION, capabilities=("a",), offer="v=0", proof={"k": "s"}
        ),
        ConnectionReady(
            agent_id=AGENT, answer="v=0", reply_to="u", ice_servers=(IceServer(urls=("stun:x",)),)
        ),
        ConnectionRefused(agent_id=AGENT, code="busy", message="no", retry_after=2.5),
        Offer(sdp="v=0"),
        Answer(sdp="v=0", reply_to="u"),
        Candidate(candidate="", sdp_mid=None, more=(IceCandidate(candidate="a", sdp_mid="0"),)),
    ],
)
def test_what_is_dumped_parses_to_the_same(message: Any) -> None:
    event, payload = dump(message)
    assert parse(event, json.loads(json.dumps(payload))) == message


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, categories=None), max_size=12)
    | st.sampled_from([AGENT, "session-1", "v=0", "x" * (limits.SDP_BYTES + 1)]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=24,
)


def accepted_or_documented(event: str, payload: Any) -> None:
    field = "event"
    try:
        name, dumped = dump(message := parse(event, payload))
    except MalformedMessage as error:
        field = error.field
    else:
        assert parse(name, json.loads(json.dumps(dumped))) == message
    assert field in {*FIELDS, "event", "payload"}


@given(st.sampled_from([*EVENTS, "signal-offer", "hello"]) | st.text(max_size=12), values)
def test_any_input_is_accepted_or_a_documented_error(event: str, payload: Any) -> None:
    accepted_or_documented(event, payload)


@given(st.dictionaries(st.sampled_from(FIELDS), values, max_size=8), st.sampled_from(EVENTS))
def test_so_is_any_change_to_a_good_message(changes: dict[str, Any], event: str) -> None:
    good = {"agentId": AGENT, "code": "busy", "message": "no", "sdp": "v=0", "candidate": "", "sdpMid": "0"}
    accepted_or_documented(event, good | changes)
