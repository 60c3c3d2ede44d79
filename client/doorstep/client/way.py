"""Client: the way to one agent for one session: every road there is, tried side by side.

::

    Way ── WirePool ─┬─ webrtc ──▶ Connector, which knocks, and says by which other roads we come
         │           ├─ relay ───▶ Road.meet, proved by the handshake's transcript
         │           └─ …
         └─ Visit: the login, the agent's row, whom we believe; held while a road or its wire needs it

A road of the second kind waits for an agent that promises to come (``connection-ready``). One that does not
promise is not waited for.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doorstep.client.attempts import Connector, Target
from doorstep.client.force import Force
from doorstep.client.known import Stranger
from doorstep.client.login import signed_in
from doorstep.client.progress import OnState, Progress
from doorstep.client.shared import Shared
from doorstep.client.trust import Trust
from doorstep.protocol.errors import (
    AgentUnreachable,
    ConnectFailed,
    ConnectionRefused,
    DeadlineExceeded,
    DoorstepError,
    PeerNotTrusted,
    SignalingLost,
    Unauthorized,
    UsageError,
)
from doorstep.protocol.ids import SessionId
from doorstep.protocol.signaling import RELAY
from doorstep.protocol.timing import Timing
from doorstep.protocol.trust import TranscriptProofs
from doorstep.runtime import Role, Session
from doorstep.runtime.tasks import TaskOwner
from doorstep.transport.certificate import warm_up
from doorstep.transport.pool import Carry, Opener, WirePool
from doorstep.transport.road import Road, relay_road
from doorstep.transport.wire import Wire

if TYPE_CHECKING:
    from doorstep.transport.backend import AgentRow, Backend
    from doorstep.transport.credentials import Credentials
    from doorstep.transport.ice_servers import IceServers

__all__ = ["Visit", "Way", "ends_all"]

_log = logging.getLogger("doorstep.client")

WEBRTC = "webrtc"
_STILL_POSSIBLE = frozenset({ConnectFailed.code, SignalingLost.code})
"""Refusals that are about the agent's peer connection or its signaling, and not about us."""


def ends_all(error: DoorstepError) -> bool:
    """Whether what one road met is so on every other: nobody is there, or the answer is no."""
    if isinstance(error, ConnectionRefused):
        return error.reason not in _STILL_POSSIBLE
    return isinstance(error, UsageError | PeerNotTrusted | AgentUnreachable)


@dataclass(frozen=True, slots=True)
class Visit:
    """What the roads share while one of them is in use."""

    backend: Backend
    row: AgentRow
    trust: Trust


MakeRoad = Callable[[Visit], Road]


class _Coming:
    """Where we wait for the agent by one road, and what it has said to that."""

    def __init__(self) -> None:
        self.promised = False
        self.vain: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails when the agent will not come."""

    def give_up(self, why: str) -> None:
        if not self.vain.done():
            self.vain.set_exception(ConnectFailed(why))
            self.vain.exception()  # somebody may or may not be waiting


class Way:
    """Opens the wires of :attr:`session`, which it makes: by :meth:`open`, at first and after every loss."""

    def __init__(
        self,
        name_or_id: str,
        credentials: Credentials,
        *,
        timing: Timing,
        ice_servers: IceServers,
        relay: str,
        state_dir: Path,
        on_state: OnState | None = None,
        force: Force | None = None,
    ) -> None:
        """``relay`` is the URL of one; where there is none, that road is closed."""
        self.name = ""
        self._agent = name_or_id
        self._credentials = credentials
        self._timing = timing
        self._ice_servers = ice_servers
        self._state_dir = state_dir
        self._force = force
        self._progress = Progress(on_state)
        self._visiting = Shared(self._visit)
        self._coming: dict[str, _Coming] = {}
        self._until = 0.0
        self._tasks = TaskOwner()
        session_id = SessionId(secrets.token_urlsafe(16))
        self.session = Session(role=Role.CLIENT, session_id=session_id, timing=timing)
        self.session.relay_reason = self._reason
        self._roads: dict[str, MakeRoad] = {
            RELAY: lambda visit: relay_road(relay, visit.backend.access_token, timing)
        }
        self.pool = WirePool(self._openers(), self.session.carry, timing=timing, is_final=ends_all)

    def _openers(self) -> list[Opener]:
        """In order of preference."""
        if self._force in self._roads:
            return [Opener(self._force, partial(self._knock_and_meet, self._force))]
        webrtc = Opener(WEBRTC, self._connect)
        if self._force is not None:
            return [webrtc]
        return [webrtc, *(Opener(kind, partial(self._meet, kind)) for kind in self._roads)]

    def _reason(self) -> str:
        return "forced" if self._force in self._roads else self.pool.reason

    # A whole connect.

    def warm_up(self) -> None:
        """Load WebRTC's libraries meanwhile, if they will be needed."""
        if self._force not in self._roads:
            self._tasks.spawn(asyncio.to_thread(warm_up), "doorstep-warm-up")

    async def open(self) -> None:
        """Return when a new wire carries the session, within ``Timing.total``.

        Raises what ``connect()`` says.
        """
        self._until = self._now() + self._timing.total
        self._progress.begin()
        try:
            async with self._visiting.held():
                await self.pool.open(anew=True)
        finally:
            self._until = 0.0

    async def close(self) -> None:
        """Open nothing more; return when nothing is left, which is when the last wire is gone."""
        await self.pool.close()
        await self._tasks.ended(2 * self._timing.shutdown)
        self._tasks.cancel()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _left(self) -> float:
        """Seconds of the connect there is; a trial in between has its own."""
        return max(self._until - self._now(), self._timing.ping) if self._until else self._timing.total

    @asynccontextmanager
    async def _visit(self) -> AsyncGenerator[Visit]:
        """Sign in and look the agent up."""
        async with AsyncExitStack() as stack:
            backend = await stack.enter_async_context(signed_in(self._credentials, self._timing))
            await stack.enter_async_context(self._ice_servers.asked_beside(backend))
            row = await backend.find_agent(self._agent)
            self._agent, self.name = row.id, row.name
            stranger = Stranger(self._credentials.url.rstrip("/"), row.id, row.name)
            trust = await Trust.open(self._state_dir, stranger, self.session.id, row.public_key)
            yield Visit(backend, row, trust)

    def _distrust(self, error: PeerNotTrusted) -> None:
        """Who is not trusted on one road ends a session that runs on another: which one is the agent?"""
        if self.session.wires:
            _log.error("session %s: %s", self.session.id, error)
            self._tasks.spawn(self.session.close(str(error)), "doorstep-distrust")

    # By WebRTC.

    async def _connect(self, carry: Carry) -> None:
        timing = replace(self._timing, total=self._left())
        async with self._connector(carry, timing) as connector:
            try:
                await connector.connect()
            except PeerNotTrusted as error:
                self._distrust(error)
                raise
            except DoorstepError as error:
                for coming in self._coming.values():
                    if not coming.promised:
                        coming.give_up(str(error))
                raise

    @asynccontextmanager
    async def _connector(
        self, carry: Carry, timing: Timing, *, offers: bool = True
    ) -> AsyncGenerator[Connector]:
        async with (
            self._visiting.held() as visit,
            self._ice_servers.asked_beside(visit.backend) as more_servers,
        ):
            signaling = visit.backend.separate_signaling()
            target = Target(user_id=visit.backend.user_id, agent_id=visit.row.id, session_id=self.session.id)
            try:
                yield Connector(
                    target,
                    signaling,
                    timing=timing,
                    more_servers=more_servers,
                    on_state=self._progress.reporter(),
                    trust=visit.trust,
                    session=self.session,
                    carry=carry,
                    offers=offers,
                    force=self._force,
                    capabilities=lambda: tuple(self._coming),
                    on_ready=self._agent_ready,
                )
            finally:
                await signaling.close()

    def _agent_ready(self, capabilities: tuple[str, ...]) -> None:
        for kind, coming in self._coming.items():
            if kind in capabilities:
                coming.promised = True
            elif not coming.promised:
                coming.give_up(f"the agent does not come by {kind}")

    # By a road where both sides come.

    async def _meet(self, kind: str, carry: Carry) -> None:
        async with AsyncExitStack() as stack:
            visit = await stack.enter_async_context(self._visiting.held())
            wire = await self._met(kind, visit)
            await carry(wire)
            self._tasks.spawn(_hold(wire, stack.pop_all()), f"doorstep-hold-{kind}")
        self._progress.carried(kind)

    async def _met(self, kind: str, visit: Visit) -> Wire:
        """A wire to the agent that is meant, and no other."""
        coming = self._coming[kind] = _Coming()
        until = self._now() + self._left()
        meeting = asyncio.create_task(
            self._keep_meeting(self._roads[kind](visit), visit, until), name=f"doorstep-meet-{kind}"
        )
        try:
            either: set[asyncio.Future[Any]] = {meeting, coming.vain}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not meeting.done():
                coming.vain.result()
        except BaseException:
            await _undo(meeting)
            raise
        finally:
            if self._coming.get(kind) is coming:
                del self._coming[kind]
        return self._judged(meeting)

    def _judged(self, meeting: asyncio.Task[Wire]) -> Wire:
        try:
            return meeting.result()
        except PeerNotTrusted as error:
            self._progress.failed(str(error))
            self._distrust(error)
            raise
        except Unauthorized as error:  # the word of this road's guard, and of nobody else
            raise ConnectFailed(str(error)) from error

    async def _keep_meeting(self, road: Road, visit: Visit, until: float) -> Wire:
        """Come again when nobody came in time: an agent hears of us with every knock."""
        while True:
            proofs = TranscriptProofs(visit.trust.key)
            try:
                async with asyncio.timeout_at(until):
                    wire = await road.meet(
                        role=Role.CLIENT, session_id=self.session.id, agent_id=visit.row.id, prover=proofs
                    )
                break
            except TimeoutError:
                raise ConnectFailed(f"the agent did not come by {road.kind}", "total") from None
            except DeadlineExceeded as error:
                _log.info("not yet met by %s: %s", road.kind, error)
        try:
            await visit.trust.met(proofs.shown)
        except BaseException:
            await wire.close("the peer is not trusted")
            raise
        return wire

    async def _knock_and_meet(self, kind: str, carry: Carry) -> None:
        """This road only: somebody has to knock."""
        meeting = asyncio.create_task(self._meet(kind, carry), name=f"doorstep-only-{kind}")
        knocking = asyncio.create_task(self._knock(carry), name="doorstep-knock")
        try:
            await asyncio.wait({meeting, knocking}, return_when=asyncio.FIRST_COMPLETED)
            await (meeting if meeting.done() else knocking)
        finally:
            for task in (meeting, knocking):
                task.cancel()
            await asyncio.wait({meeting, knocking})

    async def _knock(self, carry: Carry) -> None:
        timing = replace(self._timing, total=self._left())
        async with self._connector(carry, timing, offers=False) as connector:
            await connector.connect()


async def _undo(meeting: asyncio.Task[Wire]) -> None:
    meeting.cancel()
    await asyncio.wait({meeting})
    if not meeting.cancelled() and meeting.exception() is None:
        await meeting.result().close("it is not needed any more")


async def _hold(wire: Wire, stack: AsyncExitStack) -> None:
    """Its login is renewed as long as the wire lives."""
    async with stack:
        await wire.wait_closed()
