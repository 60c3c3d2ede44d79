"""Both machines on a simulated network that loses, repeats and delays.

Both adapters are as simple as they can be, the clock is simulated, and a wire comes up only between the two
peers whose descriptions belong to each other.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.protocol import steps
from doorstep.protocol.answering import Admission, Answering, AnsweringState, SignalingLease, admit
from doorstep.protocol.attempt import Attempt, AttemptState
from doorstep.protocol.errors import AgentUnreachable
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.machine import Report
from doorstep.protocol.signaling import (
    Candidate,
    ConnectionRequest,
    Message,
    Offer,
    dump,
    ice_ufrags,
    parse,
)

AGENT = AgentId("01234567-89ab-4cde-8f01-23456789abcd")
Fate = Callable[[], list[float]]
"""Delays of the copies of one message that arrive."""


class World:
    """A clock, a network, one agent and any number of clients."""

    def __init__(self, fate: Fate) -> None:
        self.now = 0.0
        self.fate = fate
        self.order = count()
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.agent = Agent(self)
        self.clients: list[Client] = []

    def later(self, delay: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.agenda, (self.now + delay, next(self.order), act))

    def send(self, message: Message, receivers: list[Callable[[Message], None]]) -> None:
        """A broadcast: through JSON's shape and back, each receiver with its own luck."""
        for receive in receivers:
            for delay in self.fate():
                self.later(delay, lambda receive=receive: receive(parse(*dump(message))))  # type: ignore[misc]

    def to_clients(self) -> list[Callable[[Message], None]]:
        return [client.receive for client in self.clients]

    def run(self, until: float) -> None:
        while self.agenda and self.agenda[0][0] <= until:
            self.now, _, act = heapq.heappop(self.agenda)
            act()
        self.now = until


class Client:
    """The adapter of one :class:`Attempt`; its peers are their username fragments."""

    def __init__(self, world: World, session: SessionId | None, *, express: bool, sends: bool = True) -> None:
        self.world = world
        self.name = f"client{len(world.clients)}"
        self.machine = Attempt(AGENT, session, express=express)
        self.states: list[AttemptState] = []
        self.offer = ""
        self.answered_by = ""
        self.candidates: list[str] = []
        self.sends = sends
        world.clients.append(self)

    def start(self) -> None:
        self.handle(steps.Connect())

    def receive(self, message: Message) -> None:
        self.handle(message)

    def handle(self, event: Any) -> None:
        self.machine.handle(event, self.world.now)
        self.drain()

    def ring(self) -> None:
        self.machine.handle_timer(self.world.now)
        self.drain()

    def drain(self) -> None:
        for effect in self.machine.effects():
            self.run(effect)
        deadline = self.machine.deadline()
        if deadline is not None:
            self.world.later(max(0.0, deadline - self.world.now), self.ring)

    def soon(self, event: Any, delay: float = 0.01) -> None:
        self.world.later(delay, lambda: self.handle(event))

    def run(self, effect: Any) -> None:
        match effect:
            case Report(state, _, _):
                self.states.append(state)
                if state is AttemptState.FAILED:
                    self.retry()
            case steps.JoinAgents(serial):
                self.soon(steps.AgentsJoined(serial))
            case steps.JoinSignaling(serial):
                self.soon(steps.SignalingJoined(serial))
            case steps.CreateOffer(serial):
                self.offer = f"{self.name}-{serial}"
                self.soon(steps.LocalCandidate(serial, Candidate(candidate=self.offer, sdp_mid="0")))
                self.soon(steps.OfferCreated(serial, f"a=ice-ufrag:{self.offer}"), 0.02)
            case steps.SendRequest(serial, message):
                self.broadcast(message)
                self.soon(steps.RequestSent(serial))
            case steps.SendOffer(serial, message):
                self.broadcast(message)
                self.soon(steps.OfferSent(serial))
            case steps.SendCandidate(_, message):
                self.broadcast(message)
            case steps.ApplyAnswer(serial, sdp):
                (self.answered_by,) = ice_ufrags(sdp)
                assert self.answered_by.endswith(f"for-{self.offer}"), (
                    "an answer to an older offer was applied"
                )
                self.world.agent.wire(self, serial)
            case steps.AddCandidate(_, candidate):
                assert candidate.candidate == self.answered_by
                self.candidates.append(candidate.candidate)
            case steps.ClosePeer():
                self.offer = self.answered_by = ""
            case _:
                pass

    def broadcast(self, message: Message) -> None:
        if self.sends:
            others = [one.receive for one in self.world.clients if one is not self]
            self.world.send(message, [self.world.agent.receive, *others])

    def retry(self) -> None:
        outcome = self.machine.outcome
        assert outcome is not None
        if outcome.retryable:
            self.soon(steps.Pause(), 0.0)
            self.soon(steps.Retry(), outcome.pause)


class Agent:
    """The adapter of the agent's machines and of their lease."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.machines: dict[SessionId | None, Answering] = {}
        self.aside: list[Answering] = []
        self.lease = SignalingLease()
        self.states: dict[Answering, list[AnsweringState]] = {}
        self.peers: dict[tuple[Answering, int], str] = {}
        self.up: list[Client] = []

    def receive(self, message: Message) -> None:
        if isinstance(message, ConnectionRequest):
            current = self.machines.get(message.session_id)
            verdict = admit(message, AGENT, current.state if current else None, len(self.machines))
            assert verdict in (Admission.START, Admission.REPEAT)
            if verdict is Admission.START:
                if current is not None:
                    self.aside.append(current)
                self.machines[message.session_id] = Answering(AGENT, message.session_id)
            self.handle(self.machines[message.session_id], message)
        elif isinstance(message, Offer | Candidate):
            machine = self.machines.get(message.session_id)
            if machine is not None:
                self.handle(machine, message)

    def handle(self, machine: Answering, event: Any) -> None:
        machine.handle(event, self.world.now)
        self.drain(machine)

    def ring(self, machine: Answering) -> None:
        machine.handle_timer(self.world.now)
        self.drain(machine)

    def drain(self, machine: Answering) -> None:
        for effect in machine.effects():
            self.run(machine, effect)
        deadline = machine.deadline()
        if deadline is not None:
            self.world.later(max(0.0, deadline - self.world.now), lambda: self.ring(machine))
        self.run_lease()

    def run_lease(self) -> None:
        for effect in self.lease.effects():
            if isinstance(effect, steps.JoinSignaling):
                self.world.later(0.01, lambda serial=effect.serial: self.joined(serial))  # type: ignore[misc]
        deadline = self.lease.deadline()
        if deadline is not None:
            self.world.later(max(0.0, deadline - self.world.now), self.lease_rings)

    def lease_rings(self) -> None:
        self.lease.handle_timer(self.world.now)
        self.lease.effects()

    def joined(self, serial: int) -> None:
        self.lease.joined(serial)
        for machine in list(self.machines.values()):
            if self.lease.is_joined and machine.serial and machine.state is AnsweringState.IDLE:
                self.handle(machine, steps.SignalingJoined(machine.serial))

    def soon(self, machine: Answering, event: Any, delay: float = 0.01) -> None:
        self.world.later(delay, lambda: self.handle(machine, event))

    def run(self, machine: Answering, effect: Any) -> None:
        match effect:
            case Report(state, _, _):
                self.states.setdefault(machine, []).append(state)
                if state is AnsweringState.CONNECTED:
                    self.lease.connected(machine, self.world.now)
                if state is AnsweringState.IDLE and self.machines.get(machine.session_id) is machine:
                    del self.machines[machine.session_id]
            case steps.JoinSignaling(serial):
                self.lease.need(machine, self.world.now)
                if self.lease.is_joined:
                    self.soon(machine, steps.SignalingJoined(serial))
            case steps.LeaveSignaling():
                self.lease.release(machine)
            case steps.CreateAnswer(serial, sdp):
                (offer,) = ice_ufrags(sdp)
                peer = self.peers[machine, serial] = f"agent-{serial}-for-{offer}"
                self.soon(machine, steps.AnswerCreated(serial, f"a=ice-ufrag:{peer}"), 0.02)
                self.soon(machine, steps.LocalCandidate(serial, Candidate(candidate=peer, sdp_mid="0")), 0.03)
            case steps.SendReady(serial, ready):
                self.world.send(ready, self.world.to_clients())
                if ready.answer is not None:
                    self.soon(machine, steps.AnswerSent(serial))
            case steps.SendAnswer(serial, answer):
                self.world.send(answer, self.world.to_clients())
                self.soon(machine, steps.AnswerSent(serial))
            case steps.SendCandidate(_, message) | steps.SendRefused(_, message):
                self.world.send(message, self.world.to_clients())
            case steps.AddCandidate(serial, candidate):
                assert self.peers[machine, serial].endswith(f"for-{candidate.candidate}")
            case steps.ClosePeer(serial):
                del self.peers[machine, serial]
            case _:
                pass

    def wire(self, client: Client, serial: int) -> None:
        """Both ends applied the other's description: the wire is up a little later, if both still live."""
        for (machine, number), peer in self.peers.items():
            if peer == client.answered_by:

                def up(machine: Answering = machine, number: int = number, peer: str = peer) -> None:
                    if self.peers.get((machine, number)) == peer == client.answered_by:
                        self.up.append(client)
                        self.handle(machine, steps.WireUp(number))
                        client.handle(steps.WireUp(serial))

                self.world.later(0.1, up)
                return


def at_once() -> list[float]:
    return [0.02]


PLAIN = ["requesting", "waiting-ready", "creating-offer", "waiting-answer", "connecting", "connected"]


@pytest.mark.parametrize("express", [True, False])
@pytest.mark.parametrize("session", [SessionId("session-1"), None])
def test_on_a_good_network_the_first_attempt_connects(express: bool, session: SessionId | None) -> None:
    world = World(at_once)
    client = Client(world, session, express=express)
    client.start()
    world.run(5.0)
    assert [str(state) for state in client.states] == PLAIN
    (states,) = world.agent.states.values()
    assert [str(state) for state in states] == [
        *("channel-created", "offer-received", "answer-sent", "connecting", "connected")
    ]
    world.run(1000.0)
    assert client.machine.state is AttemptState.CONNECTED
    assert (world.agent.lease.deadline(), world.agent.lease.is_joined) == (None, False)


def test_the_express_knock_is_two_round_trips_sooner() -> None:
    took: dict[bool, float] = {}
    for express in (True, False):
        world = World(lambda: [1.0])
        client = Client(world, SessionId("session-1"), express=express)
        client.start()
        while client.machine.state is not AttemptState.CONNECTED:
            world.run(world.agenda[0][0])
        took[express] = world.now
    assert took[False] - took[True] > 1.9


def test_many_clients_connect_at_once() -> None:
    world = World(at_once)
    clients = [Client(world, SessionId(f"session-{n}"), express=n % 2 == 0) for n in range(12)]
    clients.append(Client(world, None, express=False))
    for client in clients:
        client.start()
    world.run(5.0)
    assert {client.machine.state for client in clients} == {AttemptState.CONNECTED}
    assert {client.machine.attempt for client in clients} == {1}
    assert len(world.agent.up) == len(clients)


def test_anonymous_clients_one_after_the_other_all_live() -> None:
    world = World(at_once)
    for _ in range(3):
        client = Client(world, None, express=False)
        client.start()
        world.run(world.now + 5.0)
        assert client.machine.state is AttemptState.CONNECTED
    assert {client.machine.state for client in world.clients} == {AttemptState.CONNECTED}
    assert len(world.agent.peers) == 3


def test_the_newer_anonymous_knock_wins_and_the_older_client_comes_back() -> None:
    world = World(at_once)
    older, newer = Client(world, None, express=False), Client(world, None, express=False)
    older.start()
    world.run(0.06)
    newer.start()
    world.run(30.0)
    assert newer.machine.state is AttemptState.CONNECTED
    assert newer.machine.attempt == 1
    assert older.machine.state is AttemptState.CONNECTED
    assert older.machine.attempt == 2


def test_an_agent_that_hears_nothing_is_unreachable_after_29_seconds() -> None:
    world = World(list)
    client = Client(world, SessionId("session-1"), express=False, sends=False)
    client.start()
    while client.machine.outcome is None or client.machine.outcome.retryable:
        world.run(world.agenda[0][0])
    assert isinstance(client.machine.outcome.error, AgentUnreachable)
    assert 29.0 <= world.now < 29.1


@given(data=st.data(), express=st.booleans())
def test_on_any_network_it_connects_or_ends_in_time(data: st.DataObject, express: bool) -> None:
    """Losing, repeating, overtaking: never a wrong answer, never two states at odds, always an end."""
    delays = st.lists(st.sampled_from([0.02, 0.3, 2.0, 6.0, 12.0]), max_size=2)
    fates = iter(data.draw(st.lists(delays, max_size=40)))
    world = World(lambda: next(fates, [0.02]))
    client = Client(world, SessionId("session-1"), express=express)
    client.start()
    world.run(31.0)
    assert client.machine.state in (AttemptState.CONNECTED, AttemptState.FAILED)
    if client.machine.state is AttemptState.CONNECTED:
        (machine,) = world.agent.machines.values()
        assert machine.state is AnsweringState.CONNECTED
    else:
        assert client.machine.outcome is not None
        assert not client.machine.outcome.retryable
    world.run(200.0)
    live = [machine for machine in world.agent.machines.values() if machine.state is AnsweringState.CONNECTED]
    assert len(live) == len(world.agent.machines) == len(world.agent.peers)
    assert (client.machine.state is AttemptState.CONNECTED) == bool(live)


@given(losses=st.lists(st.booleans(), max_size=6), express=st.booleans())
def test_a_few_lost_messages_cost_attempts_but_not_the_connection(losses: list[bool], express: bool) -> None:
    """Each attempt needs few messages; at most three attempts can be spoilt by three losses."""
    lost = iter(losses)
    spoilt = [0]

    def fate() -> list[float]:
        if spoilt[0] < 2 and next(lost, False):
            spoilt[0] += 1
            return []
        return [0.02]

    world = World(fate)
    client = Client(world, SessionId("session-1"), express=express)
    client.start()
    world.run(31.0)
    assert client.machine.state is AttemptState.CONNECTED
