"""The client's machine beyond its vectors: every wait at its limit, whatever the limits are."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.protocol.attempt import (
    AgentsJoined,
    Attempt,
    AttemptEvent,
    AttemptState,
    ChannelLost,
    Connect,
    JoinAgents,
    OfferCreated,
    OfferSent,
    Pause,
    Report,
    RequestSent,
    Retry,
    SendRequest,
    SignalingJoined,
    Stop,
    WireUp,
)
from doorstep.protocol.errors import AgentUnreachable, ConnectFailed, NotAllowed, SignalingLost
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.signaling import Answer, ConnectionReady
from doorstep.protocol.timing import DEFAULT_TIMING, Timing

AGENT = AgentId("01234567-89ab-4cde-8f01-23456789abcd")
SESSION = SessionId("session-1")
EPSILON = 1e-6
STEPS: dict[AttemptState, list[AttemptEvent]] = {
    AttemptState.REQUESTING: [Connect()],
    AttemptState.WAITING_READY: [AgentsJoined(1), RequestSent(1)],
    AttemptState.CREATING_OFFER: [ConnectionReady(agent_id=AGENT, session_id=SESSION)],
    AttemptState.WAITING_ANSWER: [SignalingJoined(1), OfferCreated(1, "v=0"), OfferSent(1)],
    AttemptState.CONNECTING: [Answer(sdp="v=0", session_id=SESSION)],
    AttemptState.CONNECTED: [WireUp(1)],
}


def machine_in(state: AttemptState, timing: Timing = DEFAULT_TIMING, *, retries: int = 3) -> Attempt:
    machine = Attempt(AGENT, SESSION, express=False, timing=timing, retries=retries)
    for reached, events in STEPS.items():
        for event in events:
            machine.handle(event, 0.0)
        assert machine.state is reached
        if reached is state:
            break
    machine.effects()
    return machine


@pytest.mark.parametrize(
    ("state", "limit", "error", "wait"),
    [
        (AttemptState.REQUESTING, "join", SignalingLost, None),
        (AttemptState.WAITING_READY, "ready", AgentUnreachable, None),
        (AttemptState.CREATING_OFFER, "join", SignalingLost, None),
        (AttemptState.WAITING_ANSWER, "answer", ConnectFailed, "answer"),
        (AttemptState.CONNECTING, "ice", ConnectFailed, "ice"),
    ],
)
@given(data=st.data())
def test_a_wait_ends_at_its_limit_and_not_before(
    state: AttemptState, limit: str, error: type[Exception], wait: str | None, data: st.DataObject
) -> None:
    seconds = data.draw(st.floats(0.01, 29.0))
    machine = machine_in(state, dataclasses.replace(DEFAULT_TIMING, **{limit: seconds}))
    assert machine.deadline() == seconds
    machine.handle_timer(seconds - EPSILON)
    assert (machine.state, machine.effects()) == (state, [])
    machine.handle_timer(seconds)
    assert machine.state is AttemptState.FAILED
    assert machine.outcome is not None
    assert type(machine.outcome.error) is error
    assert getattr(machine.outcome.error, "wait", None) == wait
    assert isinstance(machine.effects()[-1], Report)


@pytest.mark.parametrize("state", [state for state in STEPS if state is not AttemptState.CONNECTED])
def test_the_total_deadline_ends_every_state_and_not_before(state: AttemptState) -> None:
    patient = dataclasses.replace(DEFAULT_TIMING, join=100, ready=100, answer=100, ice=100)
    machine = machine_in(state, patient)
    assert machine.deadline() == 30
    machine.handle_timer(30 - EPSILON)
    assert machine.state is state
    machine.handle_timer(30)
    assert machine.state is AttemptState.FAILED
    assert machine.outcome is not None
    assert not machine.outcome.retryable


def test_connected_has_no_limit() -> None:
    machine = machine_in(AttemptState.CONNECTED)
    assert machine.deadline() is None
    machine.handle_timer(1e9)
    assert machine.state is AttemptState.CONNECTED


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_retries_are_counted(retries: int) -> None:
    quick = dataclasses.replace(DEFAULT_TIMING, ready=0.5, retry_pause=0.25)
    machine = Attempt(AGENT, SESSION, express=False, timing=quick, retries=retries)
    now, reports = 0.0, []
    machine.handle(Connect(), now)
    while True:
        machine.handle(AgentsJoined(machine.serial), now)
        machine.handle(RequestSent(machine.serial), now)
        now += 0.5
        machine.handle_timer(now)
        reports += [effect.attempt for effect in machine.effects() if isinstance(effect, Report)]
        assert machine.outcome is not None
        if not machine.outcome.retryable:
            break
        assert machine.outcome.pause == 0.25
        machine.handle(Pause(), now)
        now += machine.outcome.pause
        machine.handle(Retry(), now)
    assert (machine.attempt, now) == (retries + 1, 0.5 * (retries + 1) + 0.25 * retries)
    assert reports == sorted(reports)
    with pytest.raises(NotAllowed, match="failed for good"):
        machine.handle(Pause(), now)


def test_after_a_stop_nothing_is_left_to_wait_for() -> None:
    machine = machine_in(AttemptState.CONNECTING)
    machine.handle(Stop(), 1.0)
    assert (machine.state, machine.deadline(), machine.outcome) == (AttemptState.IDLE, None, None)
    machine.handle_timer(1e9)
    machine.handle(WireUp(1), 2.0)
    assert machine.state is AttemptState.IDLE


def test_one_that_only_knocks_makes_no_offer_and_knocks_again() -> None:
    machine = Attempt(AGENT, SESSION, offers=False)
    machine.handle(Connect(), 0.0)
    machine.handle(AgentsJoined(1), 0.0)
    machine.handle(RequestSent(1), 0.0)
    machine.handle(ConnectionReady(agent_id=AGENT, session_id=SESSION), 0.0)
    assert machine.state is AttemptState.CREATING_OFFER
    done = [type(effect) for effect in machine.effects() if not isinstance(effect, Report)]
    assert done == [JoinAgents, SendRequest]
    machine.handle_timer(DEFAULT_TIMING.join)
    assert machine.outcome is not None
    assert str(machine.outcome.error) == "the agent did not come within 10 s"
    assert machine.outcome.pause == DEFAULT_TIMING.retry_pause
    machine.handle(Pause(), 10.0)
    machine.handle(Retry(), 13.0)
    assert machine.state is AttemptState.REQUESTING


@pytest.mark.parametrize(
    ("reason", "limited"), [("Too many messages per second", True), ("CHANNEL_ERROR", False)]
)
def test_a_limit_of_the_server_is_told_apart(reason: str, limited: bool) -> None:
    machine = machine_in(AttemptState.WAITING_READY)
    machine.handle(ChannelLost(1, reason), 1.0)
    assert machine.outcome is not None
    assert (machine.outcome.limited, machine.outcome.retryable) == (limited, True)
