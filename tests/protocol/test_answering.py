"""The agent's machine beyond its vectors: admission, limits, and what a refusal may say."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.protocol import answering
from doorstep.protocol.answering import (
    Admission,
    AnswerCreated,
    Answering,
    AnsweringEvent,
    AnsweringState,
    AnswerSent,
    PeerFailed,
    Report,
    SendRefused,
    SignalingJoined,
    SignalingLease,
    admit,
    busy,
)
from doorstep.protocol.errors import NotAllowed
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.limits import SESSIONS_PER_AGENT, TEXT_BYTES
from doorstep.protocol.signaling import ConnectionRequest, Offer
from doorstep.protocol.timing import DEFAULT_TIMING, Timing

AGENT = AgentId("01234567-89ab-4cde-8f01-23456789abcd")
OTHER = AgentId("99999999-89ab-4cde-8f01-23456789abcd")
SESSION = SessionId("session-1")
EPSILON = 1e-6
KNOCK = ConnectionRequest(agent_id=AGENT, session_id=SESSION)
ANONYMOUS = ConnectionRequest(agent_id=AGENT)
S = AnsweringState
ATTEMPTS = [state for state in S if state is not S.CONNECTED]
STEPS: dict[AnsweringState, list[AnsweringEvent]] = {
    S.IDLE: [KNOCK],
    S.CHANNEL_CREATED: [SignalingJoined(1)],
    S.OFFER_RECEIVED: [Offer(sdp="v=0", session_id=SESSION)],
    S.CONNECTING: [AnswerCreated(1, "v=0"), AnswerSent(1)],
}


def machine_in(state: AnsweringState, timing: Timing = DEFAULT_TIMING) -> Answering:
    machine = Answering(AGENT, SESSION, timing=timing)
    for reached, events in STEPS.items():
        for event in events:
            machine.handle(event, 0.0)
        assert machine.state is reached
        if reached is state:
            break
    machine.effects()
    return machine


@pytest.mark.parametrize(
    ("state", "limit"),
    [
        (S.IDLE, "signaling_join"),
        (S.CHANNEL_CREATED, "total"),
        (S.OFFER_RECEIVED, "answer"),
        (S.CONNECTING, "ice"),
    ],
)
@given(seconds=st.floats(0.01, 1000.0))
def test_a_wait_ends_at_its_limit_and_not_before(state: AnsweringState, limit: str, seconds: float) -> None:
    machine = machine_in(state, dataclasses.replace(DEFAULT_TIMING, **{limit: seconds}))
    assert machine.deadline() == seconds
    machine.handle_timer(seconds - EPSILON)
    assert (machine.state, machine.effects()) == (state, [])
    machine.handle_timer(seconds)
    effects = machine.effects()
    assert [one.state for one in effects if isinstance(one, Report)] == [S.CLEANUP, S.IDLE]
    assert any(isinstance(one, SendRefused) for one in effects) == (state is S.IDLE)
    assert machine.deadline() is None


def test_a_knock_for_another_agent_is_ignored() -> None:
    for state in (None, *S):
        assert admit(dataclasses_replace(KNOCK, OTHER), AGENT, state, 0) is Admission.IGNORE


def dataclasses_replace(request: ConnectionRequest, agent: AgentId) -> ConnectionRequest:
    return ConnectionRequest(agent_id=agent, session_id=request.session_id)


@pytest.mark.parametrize("knock", [KNOCK, ANONYMOUS])
def test_a_new_session_starts_below_the_limit_and_is_refused_at_it(knock: ConnectionRequest) -> None:
    assert admit(knock, AGENT, None, SESSIONS_PER_AGENT - 1) is Admission.START
    assert admit(knock, AGENT, None, SESSIONS_PER_AGENT) is Admission.BUSY
    assert admit(knock, AGENT, None, 1, limit=1) is Admission.BUSY


@pytest.mark.parametrize("knock", [KNOCK, ANONYMOUS])
@pytest.mark.parametrize("state", ATTEMPTS)
def test_the_machine_of_an_attempt_takes_the_next_knock(
    knock: ConnectionRequest, state: AnsweringState
) -> None:
    assert admit(knock, AGENT, state, SESSIONS_PER_AGENT) is Admission.REPEAT


def test_a_live_connection_is_never_replaced() -> None:
    assert admit(KNOCK, AGENT, S.CONNECTED, 1) is Admission.REPEAT
    assert admit(ANONYMOUS, AGENT, S.CONNECTED, 1) is Admission.START
    assert admit(ANONYMOUS, AGENT, S.CONNECTED, SESSIONS_PER_AGENT) is Admission.BUSY


def test_busy_says_when_to_come_back() -> None:
    refusal = busy(KNOCK)
    assert (refusal.agent_id, refusal.session_id, refusal.code) == (AGENT, SESSION, "busy")
    assert refusal.retry_after == DEFAULT_TIMING.total
    assert busy(ANONYMOUS).session_id is None


@given(st.text(st.characters(codec=None, categories=None), max_size=2000))
def test_a_refusal_holds_any_reason(reason: str) -> None:
    machine = machine_in(S.OFFER_RECEIVED)
    machine.handle(PeerFailed(1, reason), 1.0)
    (refused,) = (one for one in machine.effects() if isinstance(one, SendRefused))
    assert len(refused.message.message.encode()) <= TEXT_BYTES
    assert refused.message.code == "connect-failed"


def test_a_machine_knows_whose_it_is() -> None:
    assert Answering(AGENT, SESSION).session_id == SESSION
    assert Answering(AGENT, None).session_id is None


def test_an_event_of_a_try_that_was_never_begun_is_a_mistake() -> None:
    machine = machine_in(S.CHANNEL_CREATED)
    with pytest.raises(NotAllowed, match="AnswerSent of try 7"):
        machine.handle(AnswerSent(7), 1.0)
    assert (machine.state, machine.effects()) == (S.CHANNEL_CREATED, [])


@given(seconds=st.floats(0.01, 1000.0))
def test_the_lease_ends_at_its_limit_and_not_before(seconds: float) -> None:
    lease = SignalingLease(dataclasses.replace(DEFAULT_TIMING, signaling_linger=seconds))
    lease.need("session", 0.0)
    lease.connected("session", 5.0)
    assert lease.deadline() == 5.0 + seconds
    lease.effects()
    lease.handle_timer(5.0 + seconds - EPSILON)
    assert lease.effects() == []
    lease.handle_timer(5.0 + seconds)
    assert [type(one).__name__ for one in lease.effects()] == ["LeaveSignaling"]
    assert lease.deadline() is None


def test_the_lease_is_part_of_what_an_adapter_imports() -> None:
    assert "SignalingLease" in answering.__all__
