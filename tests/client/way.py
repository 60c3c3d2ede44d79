"""``Way`` in virtual time: the agent is a few lines on a memory bus, the other road a place in a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from doorstep.client.known import KnownAgents, Stranger
from doorstep.client.progress import AttemptReport
from doorstep.client.trust import Trust
from doorstep.client.way import Way
from doorstep.protocol.attempt import AttemptState
from doorstep.protocol.errors import PeerNotTrusted
from doorstep.protocol.ids import agents_topic
from doorstep.protocol.proof import PrivateKey, PublicKey
from doorstep.protocol.signaling import ConnectionReady, ConnectionRequest, Offer, dump, parse
from doorstep.protocol.signaling import ConnectionRefused as Refusal
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.protocol.trust import TranscriptProofs
from doorstep.runtime import Role, Session
from doorstep.runtime.tasks import TaskOwner
from doorstep.testing.bus import MemoryBus
from doorstep.testing.clock import run_virtual
from doorstep.testing.place import Place
from doorstep.transport.ice_servers import IceServers
from doorstep.transport.signaling import Channel, ChannelSpec

from .door import AGENT, USER
from .host import Host

KEY = PrivateKey(bytes(32))


class NoPeer:
    """Virtual time knows no sockets: WebRTC comes to nothing here."""

    on_candidate = None

    async def create_offer(self) -> str:
        return "v=0\r\na=ice-ufrag:abcd\r\n"

    async def close(self) -> None:
        return None


class Believing(Trust):
    """Believes and pins without files or threads, which virtual time does not know."""

    distrusts = False

    async def renew(self, public_key: str | None) -> None:
        return None

    async def met(self, shown: PublicKey | None) -> None:
        if self.distrusts:
            raise PeerNotTrusted("it is somebody else")

    def request(self, message: ConnectionRequest) -> ConnectionRequest:
        return message

    async def offer(self, message: Offer, ready: object) -> Offer:
        return message


class Machine:
    """An agent that answers from knock number ``answers`` on; ``comes`` to the place, ``late`` by so many
    seconds; ``refuses`` by this code. It never answers an offer."""

    def __init__(
        self, place: Place, *, answers: int = 1, comes: bool = True, late: float = 0, refuses: str = ""
    ) -> None:
        self.knocks: list[tuple[float, tuple[str, ...]]] = []
        self.sessions: list[Session] = []
        self._place = place
        self._answers, self.comes, self._late, self.refuses = answers, comes, late, refuses
        self._tasks = TaskOwner()
        self._living: Session | None = None
        self._agents: Channel

    @asynccontextmanager
    async def open(self, bus: MemoryBus) -> AsyncIterator[Machine]:
        signaling = bus.signaling("agent")
        spec = ChannelSpec(topic=agents_topic(USER), on_message=self._hear)
        self._agents = await signaling.join(spec, timeout=5)
        try:
            yield self
        finally:
            self._tasks.cancel()
            await self._tasks.ended(1)
            for session in self.sessions:
                await session.close()
            await signaling.close()

    def _hear(self, event: str, payload: dict[str, Any]) -> None:
        message = parse(event, payload)
        if isinstance(message, ConnectionRequest):
            self.knocks.append((asyncio.get_running_loop().time(), message.capabilities))
            self._tasks.spawn(self._answer(message), "answer")

    async def _answer(self, request: ConnectionRequest) -> None:
        if len(self.knocks) < self._answers:
            return
        comes = "relay" in request.capabilities and self.comes
        if comes:
            self._tasks.spawn(self._come(request), "come")
        said: dict[str, Any] = {"agent_id": AGENT, "session_id": request.session_id}
        said["capabilities"] = ("relay",) if comes else ()
        if self.refuses:
            await self._agents.send(*dump(Refusal(code=self.refuses, message="no", **said)))
        else:
            await self._agents.send(*dump(ConnectionReady(**said)))

    async def _come(self, request: ConnectionRequest) -> None:
        assert request.session_id is not None
        await asyncio.sleep(self._late)
        wire = await self._place.road.meet(
            role=Role.AGENT, session_id=request.session_id, agent_id=AGENT, prover=TranscriptProofs(KEY)
        )
        if self._living is None or self._living.closed:
            self._living = Session(role=Role.AGENT, session_id=request.session_id, about={"name": "box"})
            self.sessions.append(self._living)
        await self._living.carry(wire)


class World:
    """A client's way to the machine."""

    def __init__(
        self,
        machine: Machine,
        place: Place,
        bus: MemoryBus,
        timing: Timing,
        *,
        roads: Mapping[str, Any] | None = None,
        force: Any = None,
    ) -> None:
        self.machine, self.place = machine, place
        self.reports: list[AttemptReport] = []
        self.host = Host(bus)
        self.way = Way(
            "box",
            "http://hub.test",
            self.host.sign_in,
            timing=timing,
            ice_servers=IceServers(None, timing=timing),
            roads=roads or {"relay": lambda _: place.road},
            state_dir=Path("/nonexistent"),
            on_state=self.reports.append,
            open_peer=_no_peer,
            force=force,
        )
        self.way._trust = Believing(
            KEY, KnownAgents(Path("/nonexistent")), Stranger("", AGENT, "box"), self.way.session.id
        )

    @property
    def session(self) -> Session:
        return self.way.session

    @property
    def states(self) -> list[AttemptState]:
        return [report.state for report in self.reports]

    async def fails(self, error: type[Exception]) -> float:
        """Seconds until the connect has failed so."""
        started = asyncio.get_running_loop().time()
        with pytest.raises(error):
            await self.way.open()
        return asyncio.get_running_loop().time() - started


W = TypeVar("W", bound=World)


async def _no_peer(servers: Sequence[object]) -> Any:
    return NoPeer()


def play(
    story: Callable[[World], Coroutine[Any, Any, None]],
    *,
    timing: Timing = DEFAULT_TIMING,
    place: Callable[[], Place] = Place,
    force: str | None = None,
    **manners: Any,
) -> None:
    """Run a story in virtual time; afterwards nothing is left, and everybody is signed out."""

    async def main() -> None:
        bus, where = MemoryBus(), place()
        machine = Machine(where, **manners)
        await live(machine, bus, lambda: World(machine, where, bus, timing, force=force), story)

    run_virtual(main())


async def live(
    machine: Machine, bus: MemoryBus, begin: Callable[[], W], story: Callable[[W], Coroutine[Any, Any, None]]
) -> None:
    """Open the machine, begin a world and let the story happen in it; then nothing may be left."""
    async with machine.open(bus):
        world = begin()
        try:
            await story(world)
        finally:
            await world.session.close()
            await world.way.close()
        assert world.host.signed_in == 0
    await asyncio.sleep(0)
    assert [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
