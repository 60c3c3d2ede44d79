"""Client: the way to one agent for one session: every road there is, tried side by side.

::

    Way ── WirePool ─┬─ webrtc ──▶ Connector, which knocks, and says by which other roads we come
         │           ├─ relay ───▶ Road.meet, proved by the handshake's transcript
         │           └─ broadcast  likewise, when the others have failed or are late
         └─ Visit: the login, the agent's row, whom we believe; held while a road or its wire needs it

A road of the second kind waits for an agent that promises to come (``connection-ready``). One that does not
promise is not waited for; one that does, as long as somebody knocks, and at least for ``Timing.promise``.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from doorstep.client.attempts import Connector, Target
from doorstep.client.force import Force
from doorstep.client.known import Stranger
from doorstep.client.peering import OpenPeer
from doorstep.client.progress import OnState, Progress
from doorstep.client.shared import Shared
from doorstep.client.trust import Trust
from doorstep.protocol.errors import (
    AgentUnreachable,
    ConnectFailed,
    ConnectionRefused,
    DeadlineExceeded,
    DoorstepError,
    InvalidInput,
    PeerNotTrusted,
    SignalingLost,
    Unauthorized,
    UsageError,
)
from doorstep.protocol.ids import SessionId, UserId
from doorstep.protocol.timing import Timing
from doorstep.protocol.trust import TranscriptProofs
from doorstep.runtime import Role, Session
from doorstep.runtime.tasks import TaskOwner, uninterrupted
from doorstep.transport.certificate import warm_up
from doorstep.transport.pool import Carry, Opener, WirePool
from doorstep.transport.road import Road
from doorstep.transport.signaling import Signaling
from doorstep.transport.wire import Wire

if TYPE_CHECKING:
    import httpx

    from doorstep.protocol.proof import PublicKey
    from doorstep.transport.backend import AgentRow
    from doorstep.transport.ice_servers import IceServers

__all__ = ["Host", "MakeRoad", "Way", "ends_all"]

_log = logging.getLogger("doorstep.client")

WEBRTC = "webrtc"
_STILL_POSSIBLE = frozenset({ConnectFailed.code, SignalingLost.code})
"""Refusals that are about the agent's peer connection or its signaling, and not about us."""


def ends_all(error: DoorstepError) -> bool:
    """Whether what one road met is so on every other: nobody is there, or the answer is no."""
    if isinstance(error, ConnectionRefused):
        return error.reason not in _STILL_POSSIBLE
    return isinstance(error, UsageError | PeerNotTrusted | AgentUnreachable)


class Host(Protocol):
    """What is needed of a back end that we are signed in to, as ``transport.backend.Backend`` has it."""

    @property
    def user_id(self) -> UserId: ...

    @property
    def http(self) -> httpx.AsyncClient: ...

    async def access_token(self) -> str: ...

    async def find_agent(self, name_or_id: str) -> AgentRow: ...

    def separate_signaling(self) -> ClosingSignaling: ...


class ClosingSignaling(Signaling, Protocol):
    """Signaling that is ours to close."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Visit:
    """What the roads share while one of them is in use."""

    host: Host
    row: AgentRow
    trust: Trust


MakeRoad = Callable[[Host], Road]
SignIn = Callable[[], AbstractAsyncContextManager[Host]]


class _Coming:
    """Where we wait for the agent by one road, and what it has said to that."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._promised: float | None = None
        self._last_call: asyncio.TimerHandle | None = None
        self.vain: asyncio.Future[None] = self._loop.create_future()
        """Fails when the agent will not come."""

    def promise(self) -> None:
        """The agent says that it comes."""
        self._promised = self._loop.time()
        self.again()

    def again(self) -> None:
        """Somebody knocks, or it has come: there is no last call."""
        if self._last_call is not None:
            self._last_call.cancel()

    def nobody_knocks(self, why: str, patience: float) -> None:
        """It has so many seconds from its last promise; without one it does not come."""
        self.again()
        if self._promised is None:
            self.give_up(why)
        else:
            self._last_call = self._loop.call_at(self._promised + patience, self.give_up, why)

    def answered(self, why: str) -> None:
        """It says nothing of this road."""
        if self._promised is None:
            self.give_up(why)

    def give_up(self, why: str) -> None:
        if not self.vain.done():
            self.vain.set_exception(ConnectFailed(why))
            self.vain.exception()  # somebody may or may not be waiting


class Way:
    """Opens the wires of :attr:`session`, which it makes: by :meth:`open`, at first and after every loss."""

    def __init__(
        self,
        name_or_id: str,
        backend: str,
        sign_in: SignIn,
        *,
        timing: Timing,
        ice_servers: IceServers,
        roads: Mapping[str, MakeRoad],
        state_dir: Path,
        on_state: OnState | None = None,
        force: Force | None = None,
        open_peer: OpenPeer | None = None,
    ) -> None:
        """``backend`` is its URL, as pins are noted for it. ``roads`` are those besides WebRTC, by their kind
        and in order of preference.
        """
        self.name = ""
        self._agent = name_or_id
        self._backend = backend.rstrip("/")
        self._sign_in = sign_in
        self._roads = dict(roads)
        self._open_peer = open_peer
        self._timing = timing
        self._ice_servers = ice_servers
        self._state_dir = state_dir
        self._force: Force | None = force
        self._progress = Progress(on_state)
        self._visiting = Shared(self._visit)
        self._trust: Trust | None = None
        self._coming: dict[str, _Coming] = {}
        self._until = 0.0
        self._tasks = TaskOwner()
        session_id = SessionId(secrets.token_urlsafe(16))
        self.session = Session(role=Role.CLIENT, session_id=session_id, timing=timing)
        self.session.relay_reason = self._reason
        self.pool = WirePool(self._openers(), self.session.carry, timing=timing, is_final=ends_all)

    def _openers(self) -> list[Opener]:
        """In order of preference."""
        if self._force in self._roads:
            return [Opener(self._force, partial(self._knock_and_meet, self._force))]
        webrtc = Opener(WEBRTC, self._connect)
        if self._force in ("direct", "turn"):
            return [webrtc]
        if self._force is not None:
            raise InvalidInput("force", f"this client has no road called {self._force}")
        return [webrtc, *(Opener(kind, partial(self._meet, kind)) for kind in self._roads)]

    def _reason(self) -> str:
        if self.session.wires and self.session.wire.kind == WEBRTC:
            return ""  # the pool hears of it a moment later
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
            self.session.connect_ms = self._progress.steps
        finally:
            self._until = 0.0

    async def close(self) -> None:
        """Open nothing more; return when nothing is left, which is when the last wire is gone."""
        await self.pool.close()
        await self._tasks.ended(2 * self._timing.shutdown)
        self._tasks.cancel()
        await self._tasks.ended(self._timing.shutdown)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _left(self) -> float:
        """Seconds of the connect there is; a trial in between has its own."""
        return max(self._until - self._now(), self._timing.ping) if self._until else self._timing.total

    @asynccontextmanager
    async def _visit(self) -> AsyncGenerator[Visit]:
        """Sign in and look the agent up."""
        async with AsyncExitStack() as stack:
            host = await stack.enter_async_context(self._sign_in())
            await stack.enter_async_context(self._ice_servers.asked_beside(host))
            row = await host.find_agent(self._agent)
            self._agent, self.name = row.id, row.name
            yield Visit(host, row, await self._trust_in(row))

    def _met_agent(self, key: PublicKey | None) -> None:
        self.session.agent_key = "" if key is None else key.fingerprint

    async def _trust_in(self, row: AgentRow) -> Trust:
        """What was proved to an earlier knock of the session stays known."""
        if self._trust is None:
            stranger = Stranger(self._backend, row.id, row.name)
            self._trust = await Trust.open(self._state_dir, stranger, self.session.id, row.public_key)
            self._trust.on_met = self._met_agent
            self.session.client_key = self._trust.key.public.fingerprint
        else:
            await self._trust.renew(row.public_key)
        return self._trust

    def _distrust(self, error: PeerNotTrusted) -> None:
        """Who is not trusted on one road ends a session that runs on another: which one is the agent?

        That we were told not to be trusted says nothing of the session: anybody may have told us.
        """
        if self.session.wires and not error.told:
            _log.error("session %s: %s", self.session.id, error)
            self._tasks.spawn(self.session.close(str(error)), "doorstep-distrust")

    # By WebRTC.

    async def _connect(self, carry: Carry) -> None:
        timing = replace(self._timing, total=self._left())
        for coming in self._coming.values():
            coming.again()
        async with self._connector(carry, timing) as connector:
            try:
                await connector.connect()
            except PeerNotTrusted as error:
                self._distrust(error)
                raise
            except DoorstepError as error:
                for coming in self._coming.values():
                    coming.nobody_knocks(str(error), self._timing.promise)
                raise

    @asynccontextmanager
    async def _connector(
        self, carry: Carry, timing: Timing, *, offers: bool = True
    ) -> AsyncGenerator[Connector]:
        async with (
            self._visiting.held() as visit,
            self._ice_servers.asked_beside(visit.host) as more_servers,
        ):
            signaling = visit.host.separate_signaling()
            target = Target(user_id=visit.host.user_id, agent_id=visit.row.id, session_id=self.session.id)
            try:
                yield Connector(
                    target,
                    signaling,
                    timing=timing,
                    more_servers=more_servers,
                    believe_servers=self._ice_servers.asks,
                    on_state=self._progress.reporter(),
                    trust=visit.trust,
                    session=self.session,
                    carry=carry,
                    offers=offers,
                    open_peer=self._open_peer,
                    force=self._force,
                    capabilities=lambda: tuple(self._coming),
                    on_ready=self._agent_ready,
                )
            finally:
                await uninterrupted(signaling.close(), "doorstep-signaling-close")

    def _agent_ready(self, capabilities: tuple[str, ...]) -> None:
        for kind, coming in self._coming.items():
            if kind in capabilities:
                coming.promise()
            else:
                coming.answered(f"the agent does not come by {kind}")

    # By a road where both sides come.

    async def _meet(self, kind: str, carry: Carry) -> None:
        coming = self._coming[kind] = _Coming()  # before anybody can have knocked
        async with AsyncExitStack() as stack:
            try:
                visit = await stack.enter_async_context(self._visiting.held())
                wire = await self._met(self._roads[kind](visit.host), visit, coming)
            finally:
                coming.again()
                if self._coming.get(kind) is coming:
                    del self._coming[kind]
            await carry(wire)
            self._tasks.spawn(_hold(wire, stack.pop_all()), f"doorstep-hold-{kind}")
        self._progress.carried(kind)

    async def _met(self, road: Road, visit: Visit, coming: _Coming) -> Wire:
        """A wire to the agent that is meant, and no other."""
        until = self._now() + self._left()
        meeting = asyncio.create_task(
            self._keep_meeting(road, visit, until), name=f"doorstep-meet-{road.kind}"
        )
        try:
            either: set[asyncio.Future[Any]] = {meeting, coming.vain}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not meeting.done():
                coming.vain.result()
        except BaseException:
            await uninterrupted(_undo(meeting), "doorstep-unmeet")
            raise
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
        if road.costly and self._force != road.kind:
            await self._wait_for_others(road)
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
            await asyncio.sleep(self._timing.reconnect_first)  # the word of a relay is no pace to follow
        try:
            await visit.trust.met(proofs.shown)
        except BaseException as error:
            await wire.close(str(error) or "it is not needed any more")
            raise
        return wire

    async def _wait_for_others(self, road: Road) -> None:
        await asyncio.sleep(self._timing.broadcast_pause)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.broadcast_after):
                for kind in self._roads.keys() - {road.kind}:
                    await self.pool.wait_ended(kind)

    async def _knock_and_meet(self, kind: str, carry: Carry) -> None:
        """This road only: somebody has to knock."""
        meeting = asyncio.create_task(self._meet(kind, carry), name=f"doorstep-only-{kind}")
        knocking = asyncio.create_task(self._knock(carry), name="doorstep-knock")
        try:
            await asyncio.wait({meeting, knocking}, return_when=asyncio.FIRST_COMPLETED)
            await (meeting if meeting.done() else knocking)
        finally:
            await uninterrupted(_stopped(meeting, knocking), "doorstep-only-end")

    async def _knock(self, carry: Carry) -> None:
        timing = replace(self._timing, total=self._left())
        async with self._connector(carry, timing, offers=False) as connector:
            await connector.connect()


async def _stopped(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # that of the one that ended first is told


async def _undo(meeting: asyncio.Task[Wire]) -> None:
    meeting.cancel()
    await asyncio.wait({meeting})
    if not meeting.cancelled() and meeting.exception() is None:
        await meeting.result().close("it is not needed any more")


async def _hold(wire: Wire, stack: AsyncExitStack) -> None:
    """Its login is renewed as long as the wire lives."""
    async with stack:
        await wire.wait_closed()
