"""A hostile relay, and hostile guests at it: nothing is read of them, and both sides say why."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from doorstep.agent.agent import Agent
from doorstep.agent.events import AgentEvent, EventKind
from doorstep.agent.exec import ExecService
from doorstep.agent.identity import Identity
from doorstep.client.known import KnownAgents
from doorstep.client.way import Way
from doorstep.protocol.errors import ConnectFailed, DoorstepError, PeerNotTrusted
from doorstep.protocol.frames import Frame
from doorstep.protocol.ids import SessionId, agents_topic
from doorstep.protocol.proof import PrivateKey
from doorstep.protocol.seal import Prover
from doorstep.protocol.signaling import ConnectionReady, ConnectionRequest, dump
from doorstep.protocol.timing import Timing
from doorstep.protocol.trust import ClientProofs, TranscriptProofs
from doorstep.runtime import Role, Session
from doorstep.runtime.session import SessionState
from doorstep.testing.hostile import HostileBus, Said
from doorstep.testing.place import Place
from doorstep.transport.ice_servers import IceServers
from doorstep.transport.keys import CLIENT_KEY, load_key

from .door import AGENT, USER
from .host import Host
from .test_hostile import described, swapped

pytestmark = pytest.mark.asyncio
TIMING = Timing(retry_pause=0.05)
KEY = PrivateKey(os.urandom(32))
MALLORY = PrivateKey(os.urandom(32))


class World:
    """An agent that comes to a place, and clients on their way to it; the bus lies if it is told to."""

    def __init__(self, bus: HostileBus, directory: Path) -> None:
        self.bus = bus
        self.place = Place(timing=TIMING)
        self.directory = directory
        self.events: list[AgentEvent] = []
        self.row: str | None = str(KEY.public)

    @asynccontextmanager
    async def agent(self, key: PrivateKey | None = KEY, **policy: Any) -> AsyncIterator[Agent]:
        signaling = self.bus.signaling("agent")
        agent = Agent(
            identity=Identity(AGENT, "box"),
            owner=USER,
            signaling=signaling,
            services=(ExecService(),),
            timing=TIMING,
            key=key,
            roads=(self.place.road,),
            on_event=self.events.append,
            **policy,
        )
        await agent.start()
        try:
            yield agent
        finally:
            await agent.stop()
            await signaling.close()

    @asynccontextmanager
    async def way(self, force: Any = "relay") -> AsyncIterator[Way]:
        way = Way(
            "box",
            "http://hub.test",
            Host(self.bus, self.row).sign_in,
            timing=TIMING,
            ice_servers=IceServers(None, timing=TIMING),
            roads={"relay": lambda _: self.place.road},
            state_dir=self.directory,
            force=force,
        )
        try:
            yield way
        finally:
            await way.session.close()
            await way.close()

    async def works(self) -> None:
        async with self.way() as way:
            await way.open()
            assert way.session.peer["name"] == "box"

    async def distrusted(self, match: str) -> PeerNotTrusted:
        async with self.way() as way:
            with pytest.raises(PeerNotTrusted, match=match) as caught:
                await way.open()
            assert way.session.wires == 0
        return caught.value

    def kinds(self) -> list[EventKind]:
        return [event.kind for event in self.events]

    @asynccontextmanager
    async def forged(self, prover: Prover) -> AsyncIterator[list[Frame]]:
        """Somebody answers the knocks and comes in the agent's place. Yields what it could read."""
        read: list[Frame] = []
        tasks: list[asyncio.Task[None]] = []

        async def come(session_id: SessionId) -> None:
            try:
                wire = await self.place.road.meet(
                    role=Role.AGENT, session_id=session_id, agent_id=AGENT, prover=prover
                )
            except DoorstepError:
                return
            wire.start(lambda lane, frame: read.append(frame))
            await wire.wait_closed()

        async def lie(event: str, payload: dict[str, Any]) -> Iterable[Said]:
            if event == "connection-request":
                session_id = SessionId(payload["sessionId"])
                tasks.append(asyncio.create_task(come(session_id), name="mallory"))
                ready = ConnectionReady(agent_id=AGENT, session_id=session_id, capabilities=("relay",))
                self.bus.say(agents_topic(USER), dump(ready))
            return []

        self.bus.lie = lie
        try:
            yield read
        finally:
            self.bus.lie = None
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)


@pytest_asyncio.fixture
async def world(nothing_left: None, tmp_path: Path) -> AsyncIterator[World]:
    bus = HostileBus()
    yield World(bus, tmp_path)
    await bus.close()


class Replayed:
    """Proves by what somebody else has said in another session."""

    def __init__(self, proof: bytes) -> None:
        self._proof = proof

    def sign(self, transcript: bytes) -> bytes:
        return self._proof

    def verify(self, transcript: bytes, proof: bytes) -> None:
        return None


class Recorded(TranscriptProofs):
    """Keeps what was said to it."""

    heard = b""

    def verify(self, transcript: bytes, proof: bytes) -> None:
        self.heard = proof
        super().verify(transcript, proof)


async def test_in_good_faith_the_key_is_pinned_and_the_client_is_known(world: World) -> None:
    async with world.agent():
        await world.works()
        await world.works()
    (pin,) = KnownAgents(world.directory).all()
    assert (pin.name, pin.key) == ("box", str(KEY.public))
    own = load_key(world.directory, CLIENT_KEY).public.fingerprint
    connected = [event for event in world.events if event.kind is EventKind.CONNECTED]
    assert [(event.wire, event.client_key) for event in connected] == [("relay", own), ("relay", own)]


async def test_another_key_than_the_pinned_one(world: World) -> None:
    async with world.agent():
        await world.works()
    world.row = None
    async with world.forged(TranscriptProofs(MALLORY)) as read:
        error = await world.distrusted("the key of box has changed")
    assert (error.known, error.shown) == (KEY.public.fingerprint, MALLORY.public.fingerprint)
    assert read == []


async def test_another_key_than_the_back_end_names(world: World) -> None:
    async with world.forged(TranscriptProofs(MALLORY)) as read:
        await world.distrusted("proves another key than the back end says")
    assert read == []
    assert KnownAgents(world.directory).all() == []


@pytest.mark.parametrize("pinned", [True, False])
async def test_one_that_proves_nothing(world: World, pinned: bool) -> None:
    if pinned:
        async with world.agent():
            await world.works()
        world.row = None
    async with world.forged(TranscriptProofs(None)) as read:
        await world.distrusted("without a proof")
    assert read == []


async def test_the_proof_of_another_session(world: World) -> None:
    """The agent's own words, as it has said them to somebody else."""
    mine = Recorded(MALLORY)
    ids: dict[str, Any] = {"session_id": SessionId("mallorys-own"), "agent_id": AGENT}
    wires = await asyncio.gather(
        world.place.road.meet(role=Role.CLIENT, prover=mine, **ids),
        world.place.road.meet(role=Role.AGENT, prover=TranscriptProofs(KEY), **ids),
    )
    assert mine.shown == KEY.public
    for wire in wires:
        await wire.close()
    async with world.forged(Replayed(mine.heard)) as read:
        await world.distrusted("does not hold")
    assert read == []


async def test_an_agent_without_a_key_is_believed_until_one_is_known(world: World) -> None:
    world.row = None
    async with world.agent(key=None):
        await world.works()
        world.row = str(KEY.public)
        await world.distrusted("without a proof")


async def knock(world: World, key: PrivateKey | None, session: str) -> None:
    request = ConnectionRequest(agent_id=AGENT, session_id=SessionId(session), capabilities=("relay",))
    if key is not None:
        request = ClientProofs(key, AGENT, SessionId(session), os.urandom).request(request)
    world.bus.say(agents_topic(USER), dump(request))


async def told(world: World, kind: EventKind) -> AgentEvent:
    async with asyncio.timeout(30):
        while True:
            for event in world.events:
                if event.kind is kind:
                    return event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("prover", [TranscriptProofs(MALLORY), TranscriptProofs(None)], ids=["key", "none"])
async def test_somebody_else_than_the_one_that_knocked(world: World, prover: Prover) -> None:
    async with world.agent() as agent:
        await knock(world, KEY, "somebodys")
        ids: dict[str, Any] = {"session_id": SessionId("somebodys"), "agent_id": AGENT}
        with pytest.raises(DoorstepError):
            wire = await world.place.road.meet(role=Role.CLIENT, prover=prover, **ids)
            session = Session(role=Role.CLIENT, session_id=ids["session_id"], timing=TIMING)
            await session.start(wire)
        refused = await told(world, EventKind.REFUSED)
        assert "proof" in (refused.reason or "") or "another key" in (refused.reason or "")
        assert EventKind.CONNECTED not in world.kinds()
        del agent


async def test_an_agent_that_requires_a_proof(world: World) -> None:
    async with world.agent(require_proof=True):
        await knock(world, None, "somebodys")
        await told(world, EventKind.REFUSED)
        assert world.place.came == []
        await world.works()


async def test_a_session_goes_on_only_for_the_key_that_began_it(world: World) -> None:
    async with world.agent() as agent, world.way() as way:
        await way.open()
        await knock(world, MALLORY, way.session.id)
        refused = await told(world, EventKind.REFUSED)
        assert "another client has begun this" in (refused.reason or "")
        door = agent._door
        for key in (MALLORY.public, None):
            wire = (await _pair(world))[0]
            with pytest.raises(PeerNotTrusted, match="another client"):
                await door.carry(way.session.id, wire, key)
            assert "another client" in await wire.wait_closed()
        assert way.session.wires == 1
        await world.place.wires[0].close("cut")
        await way.open()  # its own key may
        assert way.session.wires == 2


async def _pair(world: World) -> Any:
    ids: dict[str, Any] = {"session_id": SessionId("another-one"), "agent_id": AGENT}
    return await asyncio.gather(
        *(world.place.road.meet(role=role, prover=TranscriptProofs(None), **ids) for role in Role)
    )


async def test_a_lie_on_one_road_ends_the_session_on_the_other(world: World) -> None:
    """Whichever comes first: either nothing begins, or what has begun ends."""

    async def lie(event: str, payload: dict[str, Any]) -> Iterable[Said]:
        if (field := described(event, payload)) is not None:
            payload[field] = swapped(payload[field])
        return [(event, payload)]

    async with world.agent(), world.way(force=None) as way:
        world.bus.lie = lie
        try:
            await way.open()
        except PeerNotTrusted:  # what the other road had begun in the same moment has no wire either
            async with asyncio.timeout(30):
                while way.session.state is SessionState.OPEN:
                    await asyncio.sleep(0.01)
        else:
            async with asyncio.timeout(30):
                assert "does not hold" in await way.session.wait_closed()


async def test_a_relay_that_drops_the_words_is_no_relay(world: World) -> None:
    """The back end strips what the two say of the relay: the connect goes on without it."""

    async def lie(event: str, payload: dict[str, Any]) -> Iterable[Said]:
        payload.pop("capabilities", None)
        return [(event, payload)]

    async with world.agent(), world.way() as way:
        world.bus.lie = lie
        with pytest.raises(ConnectFailed, match="does not come by relay"):
            await way.open()
    async with world.agent(), world.way(force=None) as way:
        await way.open()
        assert way.session.stats()["wire"] == "webrtc"
