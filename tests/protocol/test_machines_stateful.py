"""Stateful tests of both connection machines: whatever happens, in whatever order, the invariants hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from doorstep.protocol import answering, attempt, steps
from doorstep.protocol.answering import Answering, AnsweringState, SignalingLease
from doorstep.protocol.attempt import Attempt, AttemptState
from doorstep.protocol.errors import NotAllowed
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.limits import CANDIDATES_PER_MESSAGE, CANDIDATES_PER_SESSION, RETRIES
from doorstep.protocol.machine import Report
from doorstep.protocol.signaling import (
    Answer,
    Candidate,
    ConnectionReady,
    ConnectionRefused,
    ConnectionRequest,
    IceCandidate,
    Message,
    Offer,
    dump,
    parse,
)
from doorstep.protocol.timing import DEFAULT_TIMING
from doorstep.protocol.trickle import Trickle

AGENT = AgentId("01234567-89ab-4cde-8f01-23456789abcd")
OTHER = AgentId("99999999-89ab-4cde-8f01-23456789abcd")
SESSION = SessionId("session-1")
STRANGER = SessionId("session-2")

agents = st.sampled_from([AGENT, AGENT, AGENT, OTHER])
sessions = st.sampled_from([SESSION, SESSION, SESSION, STRANGER, None])
ufrags = st.sampled_from(["one", "two", "three", None])
sdps = st.sampled_from(["one", "two", "three"]).map(lambda ufrag: f"v=0\r\na=ice-ufrag:{ufrag}\r\n")
ices = st.builds(IceCandidate, candidate=st.just("c"), sdp_mid=st.just("0"), username_fragment=ufrags)
candidates = st.builds(
    Candidate,
    candidate=st.just("c"),
    sdp_mid=st.just("0"),
    username_fragment=ufrags,
    session_id=sessions,
    sender=st.sampled_from(["client", "agent", None]),
    more=st.lists(ices, max_size=CANDIDATES_PER_MESSAGE - 1).map(tuple),
)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(ConnectionRequest, agent_id=agents, session_id=sessions, offer=st.none() | sdps),
    st.builds(
        ConnectionReady, agent_id=agents, session_id=sessions, answer=st.none() | sdps, reply_to=ufrags
    ),
    st.builds(Offer, sdp=sdps, session_id=sessions),
    st.builds(Answer, sdp=sdps, session_id=sessions, reply_to=ufrags),
    candidates,
)
refusals = st.builds(
    ConnectionRefused, agent_id=agents, session_id=sessions, code=st.just("busy"), message=st.just("no")
)
ours = st.builds(Candidate, candidate=st.just("c"), sdp_mid=st.just("0"), username_fragment=ufrags)
reasons = st.sampled_from(["CHANNEL_ERROR", "closed"])


def inside(machine: Any) -> str:
    """Everything a machine holds, to compare before and after."""
    held = {key: vars(value) if isinstance(value, Trickle) else value for key, value in vars(machine).items()}
    return repr(held)


class Watched(RuleBasedStateMachine):
    """What is true of both machines. ``play`` feeds one input and watches every effect."""

    table: Any
    kind: str

    def __init__(self) -> None:
        super().__init__()
        self.machine: Any = self.make()
        self.now = 0.0
        self.seen: Any = self.machine.state
        self.peers: set[int] = set()
        self.joined: set[int] = set()
        self.counts: Counter[tuple[str, int]] = Counter()

    def make(self) -> Any:
        raise NotImplementedError

    def play(self, act: Callable[[], None], *, never_raises: bool = False) -> bool:
        """Whether the input was allowed; if not, nothing has changed."""
        before = inside(self.machine)
        try:
            act()
        except NotAllowed:
            assert not never_raises
            assert inside(self.machine) == before
            return False
        for effect in self.machine.effects():
            self.watch(effect)
        return True

    def handle(self, event: Any, *, never_raises: bool = False) -> bool:
        return self.play(lambda: self.machine.handle(event, self.now), never_raises=never_raises)

    def watch(self, effect: Any) -> None:
        match effect:
            case Report(state, number, _):
                ways = {(old, new) for (old, _), new in self.table.items()}
                assert (self.seen, state) in ways
                assert state is not self.seen
                assert number >= 1
                self.seen = state
            case steps.CreateOffer(serial) | steps.CreateAnswer(serial):
                assert not self.peers, "one peer at a time"
                self.peers.add(serial)
            case steps.ClosePeer(serial):
                self.peers.remove(serial)
            case steps.JoinSignaling(serial):
                assert not self.joined, "one join at a time"
                self.joined.add(serial)
            case steps.LeaveSignaling():
                assert self.joined
                self.joined.clear()
            case steps.AddCandidate(serial) | steps.ApplyAnswer(serial):
                assert serial in self.peers
            case steps.SendCandidate(serial, message):
                assert serial in self.peers
                self.counts["sent", serial] += 1 + len(message.more)
            case _:
                pass
        if isinstance(effect, steps.AddCandidate):
            self.counts["added", effect.serial] += 1
        if hasattr(effect, "message"):
            assert parse(*dump(effect.message)) == effect.message

    # What happens to both.

    @rule(seconds=st.floats(0.0, 12.0))
    def time_passes(self, seconds: float) -> None:
        """The adapter's one timer rings when it should."""
        until = self.now + seconds
        while (deadline := self.machine.deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.play(lambda: self.machine.handle_timer(self.now), never_raises=True)
            assert self.machine.deadline() != deadline, "a timer that rang is not open any more"
        self.now = until

    @rule()
    def a_timer_that_rings_early_does_nothing(self) -> None:
        if (deadline := self.machine.deadline()) is not None and self.now < deadline:
            before = inside(self.machine)
            self.machine.handle_timer(self.now)
            assert inside(self.machine) == before

    @rule(message=messages)
    def a_message_arrives(self, message: Message) -> None:
        self.handle(message, never_raises=True)

    @rule(message=messages)
    def a_message_arrives_twice(self, message: Message) -> None:
        self.handle(message, never_raises=True)
        self.handle(message, never_raises=True)

    @rule(candidate=ours)
    @precondition(lambda self: self.machine.serial > 0)
    def our_peer_finds_a_candidate(self, candidate: Candidate) -> None:
        for _ in range(20):
            self.handle(steps.LocalCandidate(self.machine.serial, candidate), never_raises=True)

    @rule(reason=reasons, back=st.integers(0, 2))
    @precondition(lambda self: self.machine.serial > 2)
    def something_fails(self, reason: str, back: int) -> None:
        self.handle(steps.ChannelLost(self.machine.serial - back, reason), never_raises=True)

    @rule(event=st.sampled_from([steps.SignalingJoined, steps.WireUp, steps.AgentsJoined, steps.AnswerSent]))
    def a_completion_of_a_try_that_was_never_begun(self, event: Any) -> None:
        if self.accepts(event):
            assert not self.handle(event(self.machine.serial + 1))

    def accepts(self, event: Any) -> bool:
        raise NotImplementedError

    @invariant()
    def observers_know_the_state(self) -> None:
        assert self.seen is self.machine.state

    @invariant()
    def candidates_are_bounded(self) -> None:
        assert all(count <= CANDIDATES_PER_SESSION for count in self.counts.values())
        trickle = self.machine._trickle
        assert len(trickle._early) <= CANDIDATES_PER_SESSION
        assert len(trickle._unsent) <= CANDIDATES_PER_SESSION

    @invariant()
    def a_connected_peer_lives(self) -> None:
        if self.seen == "connected":
            assert len(self.peers) == 1


class AttemptMachine(Watched):
    """The client: also the retries, the total deadline and its own completions."""

    table = attempt.TRANSITIONS

    def make(self) -> Attempt:
        self.began: float | None = None
        self.highest = 0
        return Attempt(AGENT, SESSION)

    def accepts(self, event: Any) -> bool:
        return event is not steps.AnswerSent

    def watch(self, effect: Any) -> None:
        if isinstance(effect, steps.LeaveSignaling) and self.seen is AttemptState.CONNECTED:
            raise AssertionError("the channel was left before")
        super().watch(effect)
        match effect:
            case Report(AttemptState.REQUESTING, 1, _):
                self.began = self.now
            case Report(_, number, _):
                assert number <= 1 + RETRIES
            case steps.SendOffer(serial) | steps.SendRequest(serial):
                self.counts[type(effect).__name__, serial] += 1
                assert self.counts[type(effect).__name__, serial] == 1, "sent once per attempt"
            case _:
                pass

    @rule()
    def connect(self) -> None:
        self.handle(steps.Connect())

    @rule(
        kind=st.sampled_from(["agents", "signaling", "request", "offer", "up"]),
        sdp=sdps,
        back=st.integers(0, 1),
    )
    @precondition(lambda self: self.machine.serial > 1)
    def something_completes(self, kind: str, sdp: str, back: int) -> None:
        serial = self.machine.serial - back
        event: Any = {
            "agents": steps.AgentsJoined(serial),
            "signaling": steps.SignalingJoined(serial),
            "request": steps.RequestSent(serial),
            "offer": steps.OfferSent(serial),
            "up": steps.WireUp(serial),
        }[kind]
        before = inside(self.machine)
        self.handle(event)
        if back:
            assert inside(self.machine) == before

    @rule(sdp=sdps)
    @precondition(lambda self: self.machine.serial > 0)
    def what_is_asked_for_completes(self, sdp: str) -> None:
        """Drive forward: otherwise chance alone seldom gets beyond requesting."""
        serial = self.machine.serial
        joined = (steps.AgentsJoined(serial), steps.SignalingJoined(serial))
        sent = (steps.RequestSent(serial), steps.OfferSent(serial))
        for event in (*joined, steps.OfferCreated(serial, sdp), *sent):
            self.handle(event)

    @rule(reply=st.booleans(), sdp=sdps)
    def the_agent_answers(self, reply: bool, sdp: str) -> None:
        self.handle(ConnectionReady(agent_id=AGENT, session_id=SESSION), never_raises=True)
        if reply:
            self.handle(Answer(sdp=sdp, session_id=SESSION), never_raises=True)

    @rule()
    @precondition(lambda self: self.seen is AttemptState.CONNECTING)
    def the_wire_comes_up(self) -> None:
        assert self.handle(steps.WireUp(self.machine.serial))
        assert self.seen is AttemptState.CONNECTED
        assert not self.joined

    @rule(message=refusals)
    def the_agent_refuses(self, message: ConnectionRefused) -> None:
        self.handle(message, never_raises=True)

    @rule(reason=reasons)
    @precondition(lambda self: self.machine.serial > 0)
    def the_peer_fails(self, reason: str) -> None:
        self.handle(steps.PeerFailed(self.machine.serial, reason), never_raises=True)

    @rule(reason=reasons)
    @precondition(lambda self: self.machine.serial > 0)
    def the_agent_is_not_trusted(self, reason: str) -> None:
        trying = self.seen not in (
            AttemptState.IDLE,
            AttemptState.FAILED,
            AttemptState.RETRYING,
            AttemptState.CONNECTED,
        )
        live = self.seen is AttemptState.CONNECTED  # it was asked before
        assert self.handle(steps.NotTrusted(self.machine.serial, reason)) != live
        if trying:
            assert self.machine.outcome is not None
            assert not self.machine.outcome.retryable

    @rule(reason=reasons)
    @precondition(lambda self: self.machine.serial > 0)
    def the_wire_is_lost(self, reason: str) -> None:
        over = self.seen in (AttemptState.IDLE, AttemptState.FAILED, AttemptState.RETRYING)
        live = self.seen is AttemptState.CONNECTED
        assert self.handle(steps.WireLost(self.machine.serial, reason)) == (over or live)

    @rule()
    def pause_and_retry(self) -> None:
        outcome = self.machine.outcome
        may = self.seen is AttemptState.FAILED and outcome is not None and outcome.retryable
        assert self.handle(steps.Pause()) == may
        if may:
            self.time_passes(outcome.pause)
            in_time = self.seen is AttemptState.RETRYING  # else the total deadline came first
            assert self.handle(steps.Retry()) == in_time

    @rule()
    def stop(self) -> None:
        self.handle(steps.Stop(), never_raises=True)
        assert (self.seen, self.peers, self.joined) == (AttemptState.IDLE, set(), set())

    @invariant()
    def the_total_deadline_is_never_passed(self) -> None:
        deadline = self.machine.deadline()
        if deadline is not None:
            assert self.began is not None
            assert deadline <= self.began + DEFAULT_TIMING.total

    @invariant()
    def what_is_over_holds_nothing(self) -> None:
        if self.seen in (AttemptState.IDLE, AttemptState.FAILED, AttemptState.RETRYING):
            assert not self.peers
            assert not self.joined
        if self.seen in (AttemptState.IDLE, AttemptState.FAILED, AttemptState.CONNECTED):
            assert self.machine.deadline() is None

    def teardown(self) -> None:
        """Left alone, it ends by the total deadline."""
        self.time_passes(DEFAULT_TIMING.total)
        assert self.seen in (AttemptState.IDLE, AttemptState.FAILED, AttemptState.CONNECTED)


class AnsweringMachine(Watched):
    """The agent: also what repeats, what replaces, and the lease."""

    table = answering.TRANSITIONS

    def make(self) -> Answering:
        self.lease = SignalingLease()
        self.held = False
        return Answering(AGENT, SESSION)

    def accepts(self, event: Any) -> bool:
        return event is not steps.AgentsJoined

    def watch(self, effect: Any) -> None:
        live = self.seen is AnsweringState.CONNECTED
        super().watch(effect)
        if isinstance(effect, steps.JoinSignaling):
            self.lease.need(self.machine, self.now)
        elif isinstance(effect, steps.LeaveSignaling):
            self.lease.release(self.machine)
        elif isinstance(effect, Report) and effect.state is AnsweringState.CONNECTED:
            self.lease.connected(self.machine, self.now)
        elif isinstance(effect, steps.CreateAnswer | steps.SendReady | steps.SendAnswer | steps.SendRefused):
            assert not live, "nothing is answered for a live connection"
        self.run_lease()

    def run_lease(self) -> None:
        for effect in self.lease.effects():
            assert self.held != isinstance(effect, steps.JoinSignaling)
            self.held = isinstance(effect, steps.JoinSignaling)
            if self.held:
                self.lease.joined(effect.serial)

    @rule(offer=st.none() | sdps)
    def a_knock(self, offer: str | None) -> None:
        self.handle(ConnectionRequest(agent_id=AGENT, session_id=SESSION, offer=offer), never_raises=True)

    @rule(sdp=sdps)
    def an_offer(self, sdp: str) -> None:
        self.handle(Offer(sdp=sdp, session_id=SESSION), never_raises=True)

    @rule(sdp=sdps)
    @precondition(lambda self: self.machine.serial > 0)
    def what_is_asked_for_completes(self, sdp: str) -> None:
        serial = self.machine.serial
        for event in (
            steps.SignalingJoined(serial),
            steps.AnswerCreated(serial, sdp),
            steps.AnswerSent(serial),
        ):
            self.handle(event)

    @rule(sdp=sdps)
    @precondition(lambda self: self.machine.serial > 1)
    def something_older_completes(self, sdp: str) -> None:
        before = inside(self.machine)
        serial = self.machine.serial - 1
        for event in (steps.AnswerCreated(serial, sdp), steps.AnswerSent(serial), steps.WireUp(serial)):
            assert self.handle(event)
            assert inside(self.machine) == before

    @rule()
    @precondition(lambda self: self.machine.serial > 0)
    def the_wire_comes_up(self) -> None:
        self.handle(steps.WireUp(self.machine.serial))

    @rule(reason=reasons, lost=st.booleans())
    @precondition(lambda self: self.machine.serial > 0)
    def the_peer_or_the_wire_is_lost(self, reason: str, lost: bool) -> None:
        event = steps.WireLost if lost else steps.PeerFailed
        self.handle(event(self.machine.serial, reason))

    @rule()
    def the_lease_rings(self) -> None:
        """Leaving the signaling channel never touches the peer."""
        deadline = self.lease.deadline()
        if deadline is not None and self.seen is AnsweringState.CONNECTED:
            before, peers = inside(self.machine), set(self.peers)
            self.lease.handle_timer(deadline)
            self.run_lease()
            assert not self.held
            assert (inside(self.machine), self.peers) == (before, peers)

    @rule()
    def stop(self) -> None:
        self.handle(steps.Stop(), never_raises=True)
        assert (self.seen, self.peers, self.joined) == (AnsweringState.IDLE, set(), set())
        assert not self.held

    @invariant()
    def an_attempt_has_a_limit(self) -> None:
        trying = bool(self.joined) and self.seen is not AnsweringState.CONNECTED
        assert (self.machine.deadline() is not None) == trying

    def teardown(self) -> None:
        """Left alone, an attempt ends and leaves nothing."""
        for _ in range(8):
            self.time_passes(DEFAULT_TIMING.total)
        assert self.seen in (AnsweringState.IDLE, AnsweringState.CONNECTED)
        if self.seen is AnsweringState.IDLE:
            assert (self.peers, self.joined, self.held) == (set(), set(), False)


AttemptMachine.TestCase.settings = AnsweringMachine.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None
)
TestAttempt = AttemptMachine.TestCase
TestAnswering = AnsweringMachine.TestCase
