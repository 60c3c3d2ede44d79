"""A back end that lies between a real client and a real agent: nothing is exchanged, the client says why."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import pytest_asyncio

from doorstep.agent.agent import Agent
from doorstep.agent.events import AgentEvent, EventKind
from doorstep.agent.exec import ExecService
from doorstep.agent.identity import Identity
from doorstep.client.attempts import AttemptState, Connector, Target
from doorstep.client.known import KnownAgents, Stranger
from doorstep.client.trust import Trust
from doorstep.protocol.errors import PeerNotTrusted, RemoteError
from doorstep.protocol.ids import SessionId, agents_topic
from doorstep.protocol.proof import PrivateKey, Proof
from doorstep.protocol.signaling import (
    ConnectionReady,
    ConnectionRequest,
    Offer,
    dump,
    ice_ufrags,
    parse,
)
from doorstep.protocol.timing import Timing
from doorstep.protocol.trust import AgentProofs, ClientProofs
from doorstep.runtime import Session
from doorstep.testing.hostile import HostileBus, Said
from doorstep.transport.keys import CLIENT_KEY, load_key
from doorstep.transport.webrtc import Peer

from .door import AGENT, USER

pytestmark = pytest.mark.asyncio
BOX = Stranger("http://hub.test", AGENT, "box")
FAST = Timing(retry_pause=0.05, ready=3, answer=3, ice=5, total=20)
M = TypeVar("M", ConnectionRequest, Offer)
KEY = PrivateKey(os.urandom(32))
MALLORY = PrivateKey(os.urandom(32))
OTHER_PRINT = ":".join(["66"] * 32)


class World:
    """The agent, the bus between, and a client that keeps its keys in ``directory``."""

    def __init__(self, bus: HostileBus, agent: Agent, events: list[AgentEvent], directory: Path) -> None:
        self.bus = bus
        self.agent = agent
        self.events = events
        self.directory = directory
        self.row: str | None = str(KEY.public)
        self.states: list[AttemptState] = []

    @property
    def known(self) -> KnownAgents:
        return KnownAgents(self.directory)

    async def connect(self, *, express: bool = True, plain: bool = False, name: str = "box") -> Session:
        session_id = SessionId(secrets.token_urlsafe(12))
        stranger = Stranger(BOX.backend, AGENT, name)
        trust = None if plain else await Trust.open(self.directory, stranger, session_id, self.row)
        signaling = self.bus.signaling("client")
        target = Target(user_id=USER, agent_id=AGENT, session_id=session_id)
        try:
            self.states.clear()
            connector = Connector(
                target,
                signaling,
                timing=FAST,
                express=express,
                trust=trust,
                on_state=lambda report: self.states.append(report.state),
            )
            return await connector.connect()
        finally:
            await signaling.close()

    async def works(self, **how: Any) -> None:
        session = await self.connect(**how)
        try:
            assert session.peer["name"] == "box"
        finally:
            await session.close()

    async def distrusted(self, match: str, **how: Any) -> PeerNotTrusted:
        """The connect fails, for good and at once, and no session has begun at the agent."""
        before = self.count(EventKind.CONNECTED)
        with pytest.raises(PeerNotTrusted, match=match) as caught:
            await self.connect(**how)
        assert AttemptState.RETRYING not in self.states  # nobody gets a second chance
        assert self.count(EventKind.CONNECTED) == before
        return caught.value

    def count(self, kind: EventKind) -> int:
        return sum(event.kind is kind for event in self.events)


@pytest_asyncio.fixture
async def bus(nothing_left: None) -> AsyncIterator[HostileBus]:
    bus = HostileBus()
    yield bus
    await bus.close()


@asynccontextmanager
async def running_agent(
    bus: HostileBus, directory: Path, key: PrivateKey | None, **policy: Any
) -> AsyncIterator[World]:
    events: list[AgentEvent] = []
    signaling = bus.signaling("agent")
    agent = Agent(
        identity=Identity(AGENT, "box"),
        owner=USER,
        signaling=signaling,
        services=(ExecService(),),
        timing=FAST,
        key=key,
        on_event=events.append,
        **policy,
    )
    await agent.start()
    try:
        yield World(bus, agent, events, directory)
    finally:
        await agent.stop()
        await signaling.close()


@pytest_asyncio.fixture
async def world(bus: HostileBus, tmp_path: Path) -> AsyncIterator[World]:
    async with running_agent(bus, tmp_path, KEY) as world:
        yield world


def parsed(event: str, payload: dict[str, Any], kind: type[M]) -> M:
    message = parse(event, payload)
    assert isinstance(message, kind)
    return message


def swapped(sdp: str) -> str:
    """The same description with another certificate."""
    line = next(line for line in sdp.splitlines() if "fingerprint" in line)
    return sdp.replace(line, f"a=fingerprint:sha-256 {OTHER_PRINT}")


both = pytest.mark.parametrize("express", [True, False], ids=["express", "plain"])


def described(event: str, payload: dict[str, Any]) -> str | None:
    """The field that carries an answer of the agent, if there is one."""
    if event == "answer":
        return "sdp"
    return "answer" if event == "connection-ready" and "answer" in payload else None


# In good faith.


@both
async def test_the_key_is_pinned_at_the_first_contact_and_holds(world: World, express: bool) -> None:
    await world.works(express=express)
    (pin,) = world.known.all()
    assert (pin.name, pin.id, pin.key) == ("box", AGENT, str(KEY.public))
    world.row = None  # the row's word is no longer needed
    await world.works(express=express)
    assert world.known.all() == [pin]
    own = load_key(world.directory, CLIENT_KEY).public.fingerprint
    connected = [event for event in world.events if event.kind is EventKind.CONNECTED]
    assert [event.client_key for event in connected] == [own, own]


@both
async def test_a_plain_client_connects_and_gets_no_proof(world: World, express: bool) -> None:
    await world.works(express=express, plain=True)
    assert [payload for _, payload in world.bus.said if "proof" in payload] == []
    assert next(e for e in world.events if e.kind is EventKind.CONNECTED).client_key is None


@both
async def test_an_agent_without_a_key_connects_until_one_is_known(
    bus: HostileBus, tmp_path: Path, express: bool
) -> None:
    async with running_agent(bus, tmp_path, None) as world:
        world.row = None
        await world.works(express=express)
        assert world.known.all() == []
        world.row = str(KEY.public)
        await world.distrusted("without a proof", express=express)


@both
async def test_an_agent_that_requires_a_proof_refuses_a_plain_client(
    bus: HostileBus, tmp_path: Path, express: bool
) -> None:
    async with running_agent(bus, tmp_path, KEY, require_proof=True) as world:
        await world.distrusted("takes only clients that prove", express=express, plain=True)
        assert world.agent.sessions == 0
        await world.works(express=express)


async def test_a_renamed_agent_is_the_same_agent(world: World) -> None:
    await world.works()
    await world.works(name="crate")
    assert [pin.name for pin in world.known.all()] == ["crate"]


# In bad faith.


@both
async def test_a_man_in_the_middle_with_a_real_peer(world: World, express: bool) -> None:
    """Mallory answers in the agent's place, with a connection that would work and a proof by another key."""
    await world.works(express=express)
    mallory = Peer((), timing=FAST)
    proofs: list[AgentProofs] = []

    async def lie(event: str, payload: dict[str, Any]) -> Iterable[Said]:
        if event == "connection-request":
            request = parsed(event, payload, ConnectionRequest)
            proofs.append(AgentProofs(MALLORY, AGENT, request.session_id, os.urandom))
            proofs[-1].request(request)
            answer = None if request.offer is None else await mallory.accept_offer(request.offer)
            ready = ConnectionReady(agent_id=AGENT, session_id=request.session_id, answer=answer)
            world.bus.say(agents_topic(USER), dump(proofs[-1].ready(ready)))
        return []

    world.bus.lie = lie
    try:
        error = await world.distrusted("the key of box has changed", express=express)
        assert (error.known, error.shown) == (KEY.public.fingerprint, MALLORY.public.fingerprint)
        last = [event for event, _ in world.bus.said][-1]
        assert last in ("connection-request", "candidate")  # no offer for Mallory in the plain flow
        with pytest.raises(TimeoutError):  # nobody has called on Mallory's connection
            async with asyncio.timeout(0.2):
                await mallory.wire()
    finally:
        await mallory.close()


@both
@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "first contact"])
async def test_a_swapped_fingerprint(world: World, express: bool, pinned: bool) -> None:
    if pinned:
        await world.works(express=express)

    async def lie(event: str, payload: dict[str, Any]) -> Iterable[Said]:
        if (field := described(event, payload)) is not None:
            payload[field] = swapped(payload[field])
        return [(event, payload)]

    world.bus.lie = lie
    await world.distrusted("proof does not hold", express=express)
    assert len(world.known.all()) == pinned


@both
async def test_a_second_fingerprint_beside_the_right_one(world: World, express: bool) -> None:
    async def lie(event: str, payload: dict[str, Any]) -> Iterable[Said]:
        if (field := described(event, payload)) is not None:
            payload[field] += f"a=fingerprint:sha-256 {OTHER_PRINT}\r\n"
        return [(event, payload)]

    world.bus.lie = lie
    await world.distrusted("proof does not hold", express=express)


@both
async def test_a_stripped_proof_is_a_downgrade(world: World, express: bool) -> None:
    async def lie(event: str, payload: dict[str, Any]) -> Iterable[Said]:
        payload.pop("proof", None)
        return [(event, payload)]

    world.bus.lie = lie
    await world.distrusted("without a proof", express=express)  # the row says that it has a key
    world.bus.lie = None
    await world.works(express=express)
    world.row = None
    world.bus.lie = lie
    await world.distrusted("without a proof", express=express)  # and the pin says so


@both
async def test_an_answer_of_an_older_attempt(world: World, express: bool) -> None:
    await world.works(express=express)
    old = {event: payload for event, payload in world.bus.said if event in ("connection-ready", "answer")}
    offers: list[str] = []

    async def lie(event: str, payload: dict[str, Any]) -> Iterable[Said]:
        offers.extend(payload[field] for field in ("offer", "sdp") if event != "answer" and field in payload)
        if event not in old:
            return [(event, payload)]
        new = {**old[event], "sessionId": payload["sessionId"]}
        if offers and described(event, new):
            new["replyTo"] = ice_ufrags(offers[-1])[0]
        return [(event, new)]

    world.bus.lie = lie
    await world.distrusted("proof does not hold", express=express)
    if not express:
        assert sum(event == "offer" for event, _ in world.bus.said) == 1  # the replayed ready was enough


@both
async def test_the_clients_own_proof_thrown_back(world: World, express: bool) -> None:
    ours: dict[str, Any] = {}

    async def lie(event: str, payload: dict[str, Any]) -> Iterable[Said]:
        if event in ("connection-request", "offer"):
            ours.update(payload["proof"])
        elif "proof" in payload:
            payload["proof"] = dict(ours)
        return [(event, payload)]

    world.bus.lie = lie
    await world.distrusted("proof does not hold", express=express)


@both
async def test_a_changed_offer_is_refused_by_the_agent(world: World, express: bool) -> None:
    async def lie(event: str, payload: dict[str, Any]) -> Iterable[Said]:
        field = "offer" if event == "connection-request" else "sdp"
        if event in ("connection-request", "offer") and field in payload:
            payload[field] = swapped(payload[field])
        return [(event, payload)]

    world.bus.lie = lie
    await world.distrusted("client's proof does not hold", express=express)
    assert world.count(EventKind.REFUSED) == 1


@both
async def test_somebody_else_in_the_clients_place(world: World, express: bool) -> None:
    """Mallory makes the agent answer an offer of its own and passes the agent's true answer on."""
    mallory: list[ClientProofs] = []

    async def lie(event: str, payload: dict[str, Any]) -> Iterable[Said]:
        if event == "connection-request":
            request = parsed(event, payload, ConnectionRequest)
            nonce = Proof.parse(payload["proof"]).nonce
            mallory.append(ClientProofs(MALLORY, AGENT, request.session_id, lambda _: nonce))
            offer = None if request.offer is None else swapped(request.offer)
            return [dump(mallory[-1].request(msgspec.structs.replace(request, offer=offer)))]
        if event == "offer":
            offered = parsed(event, payload, Offer)
            return [dump(mallory[-1].offer(msgspec.structs.replace(offered, sdp=swapped(offered.sdp))))]
        if event == "connection-ready" and "answer" not in payload:
            mallory[-1].ready(payload["proof"])
        return [(event, payload)]

    world.bus.lie = lie
    await world.distrusted("agent's proof does not hold", express=express)


async def test_another_key_in_the_row_is_refused_before_a_word_is_said(world: World) -> None:
    await world.works()
    said = len(world.bus.said)
    world.row = str(MALLORY.public)
    error = await world.distrusted("the key of box has changed")
    assert (error.known, error.shown) == (KEY.public.fingerprint, MALLORY.public.fingerprint)
    assert len(world.bus.said) == said
    world.row = "nonsense"
    await world.distrusted("that the back end names for box is none")


async def test_another_key_in_the_row_at_the_first_contact(world: World) -> None:
    world.row = str(MALLORY.public)
    await world.distrusted("proves another key than the back end says")
    assert world.known.all() == []


async def test_a_changed_key_is_accepted_by_hand_only(world: World) -> None:
    new = PrivateKey(os.urandom(32))
    other = KnownAgents(world.directory)
    other.check(BOX, new.public)
    for _ in range(2):
        error = await world.distrusted("doorstep known accept box")
        assert (error.known, error.shown) == (new.public.fingerprint, KEY.public.fingerprint)
    world.known.accept("box")
    await world.works()


@pytest.mark.parametrize(
    "proof",
    [
        {},
        {"key": "A", "nonce": "B", "signature": "C"},
        {"key": "A" * 43, "nonce": "A" * 22, "signature": "A" * 86},  # of small order
        {"key": str(MALLORY.public), "nonce": "A" * 22, "signature": "A" * 86},
    ],
)
@pytest.mark.parametrize("side", ["client", "agent"])
async def test_nonsense_for_a_proof(world: World, proof: dict[str, str], side: str) -> None:
    async def lie(event: str, payload: dict[str, Any]) -> Iterable[Said]:
        if (event in ("connection-request", "offer")) is (side == "client") and "proof" in payload:
            payload["proof"] = proof
        return [(event, payload)]

    world.bus.lie = lie
    await world.distrusted("proof")


async def test_a_forged_knock_does_not_end_a_live_session(world: World) -> None:
    session = await world.connect()
    try:
        proof = {"key": str(MALLORY.public), "nonce": "A" * 22, "signature": "A" * 86}
        request = ConnectionRequest(agent_id=AGENT, session_id=session.id, proof=proof)
        said = len(world.bus.said)
        world.bus.say(agents_topic(USER), dump(request))
        async with asyncio.timeout(5):
            while len(world.bus.said) == said:
                await asyncio.sleep(0)
        assert world.bus.said[-1][1]["code"] == "not-trusted"
        assert world.count(EventKind.SESSION_ENDED) == 0
        with pytest.raises(RemoteError):
            await session.call("exec.nothing", timeout=5)  # an answer, if only no
    finally:
        await session.close()
