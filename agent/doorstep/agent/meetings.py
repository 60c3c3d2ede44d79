"""Agent: comes to the places that a knock names besides the peer connection: the relay, for one.

A session is waited for by each road once at a time. A wire that comes of it is handed to the door as any
other; nobody comes, or somebody else, and nothing is left of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

from doorstep.agent.events import EventKind
from doorstep.protocol.errors import DoorstepError, PeerNotTrusted
from doorstep.protocol.frame_types import Role
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.proof import PrivateKey, PublicKey
from doorstep.protocol.timing import Timing
from doorstep.protocol.trust import TranscriptProofs
from doorstep.runtime.tasks import TaskOwner
from doorstep.transport.road import Road
from doorstep.transport.wire import Wire

__all__ = ["Meetings"]

Place: TypeAlias = tuple[SessionId, str]
"""A session and the kind of road."""

_log = logging.getLogger("doorstep.agent")


class House(Protocol):
    """What is needed of the door."""

    agent_id: AgentId
    key: PrivateKey | None
    require_proof: bool
    tasks: TaskOwner

    async def carry(self, session_id: SessionId | None, wire: Wire, client: PublicKey | None) -> bool: ...

    def missed(self, session_id: SessionId, reason: str) -> None:
        """Nobody came by one of the roads."""
        ...

    def tell(self, kind: EventKind, session_id: SessionId | None, **facts: Any) -> None: ...


class Meetings:
    """Where clients are waited for now."""

    def __init__(self, house: House, roads: Sequence[Road], timing: Timing) -> None:
        self._house = house
        self._timing = timing
        self._roads = tuple(roads)
        self._waiting: dict[Place, asyncio.Task[None]] = {}
        self._met: set[Place] = set()  # where a wire is being handed over

    @property
    def kinds(self) -> tuple[str, ...]:
        """The capabilities that the roads give."""
        return tuple(road.kind for road in self._roads)

    @property
    def sessions(self) -> set[SessionId]:
        """Those that are waited for."""
        return {session_id for session_id, _ in self._waiting}

    def come(
        self, session_id: SessionId, capabilities: Sequence[str], client: PublicKey | None, knocked: float
    ) -> None:
        """Go where this client says it comes; ``client`` is the key that its knock has proved."""
        for road in self._roads:
            place = session_id, road.kind
            if road.kind in capabilities and place not in self._waiting:
                work = self._meet(road, session_id, client, knocked)
                task = self._house.tasks.spawn(work, f"session {session_id} {road.kind}")
                self._waiting[place] = task
                task.add_done_callback(partial(self._forget, place))

    def comes(self, session_id: SessionId | None, kind: str) -> bool:
        """Whether the session is waited for by this road, or has just been met there."""
        return session_id is not None and (session_id, kind) in self._waiting.keys() | self._met

    def over(self, session_id: SessionId) -> None:
        """The session needs no more of this: it has its best wire, or has ended."""
        for place, task in list(self._waiting.items()):
            if place[0] == session_id:
                self._forget(place, task)
                task.cancel()

    def stop(self) -> None:
        """Wait for nobody any more."""
        for session_id in self.sessions:
            self.over(session_id)

    def _forget(self, place: Place, task: asyncio.Task[None] | None) -> None:
        if self._waiting.get(place) is task:
            del self._waiting[place]

    async def _meet(
        self, road: Road, session_id: SessionId, client: PublicKey | None, knocked: float
    ) -> None:
        house, clock = self._house, asyncio.get_running_loop().time
        place, me = (session_id, road.kind), asyncio.current_task()
        proofs = TranscriptProofs(house.key, expected=client, required=house.require_proof)
        try:
            if road.costly:
                await self._wait_for_others(session_id)
            wire = await road.meet(
                role=Role.AGENT, session_id=session_id, agent_id=house.agent_id, prover=proofs
            )
            self._met.add(place)
            self._forget(place, me)  # a newer knock is answered beside it
            resumed = await house.carry(session_id, wire, proofs.shown)
        except PeerNotTrusted as error:
            house.tell(EventKind.REFUSED, session_id, reason=str(error))
        except DoorstepError as error:
            _log.info("session %s: no wire by %s: %s", session_id, road.kind, error)
            self._forget(place, me)
            house.missed(session_id, f"{road.kind}: {error}")
        except Exception:  # noqa: BLE001 - logged; one client's fault is nobody else's
            _log.exception("session %s: the wire by %s failed", session_id, road.kind)
        else:
            key = None if proofs.shown is None else proofs.shown.fingerprint
            kind = EventKind.RESUMED if resumed else EventKind.CONNECTED
            seconds = round(clock() - knocked, 3)
            house.tell(kind, session_id, wire=wire.kind, seconds=seconds, client_key=key)
            self._spare_costs(session_id)
        finally:
            self._met.discard(place)

    async def _wait_for_others(self, session_id: SessionId) -> None:
        await asyncio.sleep(self._timing.broadcast_pause)
        costless = {road.kind for road in self._roads if not road.costly}
        others = [
            self._waiting[place] for place in self._waiting if place[0] == session_id and place[1] in costless
        ]
        if others:
            await asyncio.wait(others, timeout=self._timing.broadcast_after)

    def _spare_costs(self, session_id: SessionId) -> None:
        """The session has a wire: those that cost are waited for no more."""
        for road in self._roads:
            if road.costly and (task := self._waiting.get((session_id, road.kind))) is not None:
                self._forget((session_id, road.kind), task)
                task.cancel()
