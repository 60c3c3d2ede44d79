"""Agent: the door: who knocks, who is answered, and the one signaling channel all callers share.

Admission is protocol.answering.admit, the channel's time is protocol.lease.SignalingLease; this is the thin
adapter of both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from doorstep.agent.caller import Caller
from doorstep.agent.events import EventKind
from doorstep.agent.meetings import Meetings
from doorstep.protocol.answering import Admission, admit, busy
from doorstep.protocol.errors import (
    DoorstepError,
    LinkError,
    MalformedMessage,
    PeerNotTrusted,
    SignalingLost,
    WireClosed,
)
from doorstep.protocol.ids import AgentId, SessionId, signaling_topic
from doorstep.protocol.lease import SignalingLease
from doorstep.protocol.proof import PrivateKey, PublicKey
from doorstep.protocol.signaling import Candidate, ConnectionRequest, IceServer, Message, Offer, dump, parse
from doorstep.protocol.steps import ChannelLost, JoinSignaling, LeaveSignaling, SignalingJoined, Stop
from doorstep.protocol.timing import Timing
from doorstep.runtime import Role, Service, Session
from doorstep.runtime.session import SessionState
from doorstep.runtime.tasks import TaskOwner
from doorstep.transport.road import Road
from doorstep.transport.signaling import Channel, ChannelSpec, Signaling
from doorstep.transport.wire import Wire

__all__ = ["Door"]

_log = logging.getLogger("doorstep.agent")
_BEST = "webrtc"
"""A session on such a wire waits for no other."""

Tell = Callable[..., None]


class Door:
    """Owns every caller, their tasks, and the signaling channel. Satisfies :class:`~.caller.House`."""

    def __init__(
        self,
        *,
        agent_id: AgentId,
        signaling: Signaling,
        services: Mapping[str, Service],
        about: Mapping[str, Any],
        ice_servers: Callable[[], tuple[IceServer, ...]],
        ice_policy: Literal["all", "relay"] = "all",
        timing: Timing,
        limit: int,
        tell: Tell,
        roads: Sequence[Road] = (),
        key: PrivateKey | None = None,
        require_proof: bool = False,
    ) -> None:
        self.agent_id = agent_id
        self.services = services
        self.about = about
        self.ice_servers = ice_servers
        self.ice_policy: Literal["all", "relay"] = ice_policy
        self.timing = timing
        self.key = key
        self.require_proof = require_proof
        self.tasks = TaskOwner()
        self.agents_channel: Channel | None = None
        self._limit = limit
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._signaling = signaling
        self._channel: Channel | None = None
        self._lease = SignalingLease(timing)
        self._lease_timer: asyncio.TimerHandle | None = None
        self._leasing: asyncio.Task[None] | None = None
        self._joining: asyncio.Task[Channel] | None = None
        self._waiting: dict[Caller, int] = {}
        self._callers: dict[SessionId | None, Caller] = {}
        self._everybody: set[Caller] = set()
        self._sessions: dict[SessionId, Session] = {}  # those that another wire can find
        self._keys: dict[SessionId, PublicKey | None] = {}  # of those who began them
        self._living: set[Session] = set()
        self.meetings = Meetings(self, roads, timing)
        self._stopped = False

    @property
    def callers(self) -> int:
        """Sessions and attempts there are."""
        return self._count(None)

    def _count(self, apart_from: SessionId | None) -> int:
        known = {caller.session_id for caller in self._everybody if caller.session_id is not None}
        known |= self._sessions.keys() | self.meetings.sessions
        anonymous = sum(caller.session_id is None for caller in self._everybody)
        return len(known - {apart_from}) + anonymous

    # Messages in.

    def receive(self, event: str, payload: dict[str, Any]) -> None:
        """Take a broadcast of the agents channel. A knock at another agent leaves no trace."""
        if event != ConnectionRequest.event or payload.get("agentId") != self.agent_id or self._stopped:
            return
        message = self._parse(event, payload)
        if isinstance(message, ConnectionRequest):
            self._knock(message)

    def _receive_signaling(self, event: str, payload: dict[str, Any]) -> None:
        message = self._parse(event, payload)
        if isinstance(message, Offer | Candidate) and (caller := self._callers.get(message.session_id)):
            caller.receive(message)

    def _parse(self, event: str, payload: dict[str, Any]) -> Message | None:
        try:
            return parse(event, payload)
        except MalformedMessage as error:
            _log.warning("a malformed message is dropped: %s", error)
            return None

    def _knock(self, request: ConnectionRequest) -> None:
        current = self._callers.get(request.session_id)
        state = None if current is None else current.state
        session = self._session(request.session_id)
        resumes = session is not None and session.resumable
        others = self._count(request.session_id)
        match admit(request, self.agent_id, state, others, self._limit, resumes=resumes):
            case Admission.START:
                caller = Caller(self, request.session_id)
                self._callers[request.session_id] = caller
                self._everybody.add(caller)
                self.tell(EventKind.KNOCK, request.session_id)
                caller.receive(request)
            case Admission.REPEAT if current is not None:
                current.receive(request)
            case Admission.BUSY:
                self.tell(EventKind.REFUSED, request.session_id, reason="busy")
                self.tasks.spawn(self._refuse(request), "refuse")
            case _:
                return

    async def _refuse(self, request: ConnectionRequest) -> None:
        try:
            await self.send_agents(*dump(busy(request, self.timing)))
        except LinkError as error:
            _log.info("a refusal was not sent: %s", error)

    # Sessions, which outlive the callers that began them.

    async def carry(self, session_id: SessionId | None, wire: Wire, client: PublicKey | None) -> bool:
        """Begin a session on ``wire``, or take a living one over to it, which returns True.

        Whoever makes wires to this agent hands them over here, with the key that the client has proved.
        Raises LinkError, and PeerNotTrusted for another key than the session began with; the wire is closed
        then.
        """
        if self._stopped:
            await wire.close("the agent stops")
            raise WireClosed("the agent stops")
        try:
            self.vouch(session_id, client)
        except PeerNotTrusted as error:
            await wire.close(error.message)
            raise
        session = self._session(session_id) or self._new_session(session_id, client)
        try:
            await session.carry(wire)
        finally:
            if session.state is SessionState.NEW:  # and no other wire is being greeted
                await session.close("no client came of it")
        if session_id is not None and wire.kind == _BEST:
            self.meetings.over(session_id)
        if (caller := self._callers.get(session_id)) is not None:
            caller.carried()
        return session.wires > 1

    def vouch(self, session_id: SessionId | None, client: PublicKey | None) -> None:
        """Return if no living session of this id was begun with another key. Raises PeerNotTrusted."""
        session = self._session(session_id)
        if session_id is None or session is None or self._keys[session_id] == client:
            return
        began = self._keys[session_id]
        raise PeerNotTrusted(
            "another client has begun this session, so the connection was refused",
            None if began is None else began.fingerprint,
            None if client is None else client.fingerprint,
        )

    def is_hopeful(self, session_id: SessionId | None) -> bool:
        """Whether the session lives, or somebody may yet come for it."""
        session = self._session(session_id)
        return session_id in self.meetings.sessions or (session is not None and session.wires > 0)

    def missed(self, session_id: SessionId, reason: str) -> None:
        """Nobody came by a road; whoever is the last to fail says so."""
        if session_id not in self._callers and not self.is_hopeful(session_id):
            self.tell(EventKind.FAILED, session_id, reason=reason)

    def _session(self, session_id: SessionId | None) -> Session | None:
        """The living one."""
        session = None if session_id is None else self._sessions.get(session_id)
        return None if session is None or session.closed else session

    def _new_session(self, session_id: SessionId | None, client: PublicKey | None) -> Session:
        session = Session(
            role=Role.AGENT,
            session_id=session_id or SessionId("anonymous"),
            services=self.services,
            about=self.about,
            timing=self.timing,
            resume=session_id is not None,
        )
        session.agent_key = "" if self.key is None else self.key.public.fingerprint
        session.client_key = "" if client is None else client.fingerprint
        self._living.add(session)
        if session_id is not None:
            self._sessions[session_id], self._keys[session_id] = session, client
        self.tasks.spawn(self._see_off(session_id, session), f"session {session.id}")
        return session

    async def _see_off(self, session_id: SessionId | None, session: Session) -> None:
        reason = await session.wait_closed()
        self._living.discard(session)
        if session_id is not None and self._sessions.get(session_id) is session:
            del self._sessions[session_id], self._keys[session_id]
        if session.wires:
            self.tell(EventKind.SESSION_ENDED, session_id, reason=reason)

    # What callers ask for.

    async def send_agents(self, event: str, payload: Mapping[str, Any]) -> None:
        await _send(self.agents_channel, event, payload)

    async def send_signaling(self, event: str, payload: Mapping[str, Any]) -> None:
        await _send(self._channel, event, payload)

    def need_signaling(self, caller: Caller, serial: int) -> None:
        self._waiting[caller] = serial
        self._lease.need(caller, self._loop.time())
        if self._lease.is_joined:
            self._announce_joined()
        self._run_lease()

    def release_signaling(self, caller: Caller) -> None:
        self._waiting.pop(caller, None)
        self._lease.release(caller)
        self._run_lease()

    def connected(self, caller: Caller) -> None:
        self._lease.connected(caller, self._loop.time())
        self._run_lease()

    def retire(self, caller: Caller) -> None:
        self._everybody.discard(caller)
        if self._callers.get(caller.session_id) is caller:
            del self._callers[caller.session_id]

    def tell(self, kind: EventKind, session_id: SessionId | None, **facts: Any) -> None:
        self._tell(kind, session_id=session_id, **facts)

    # The signaling channel.

    def _run_lease(self) -> None:
        for effect in self._lease.effects():
            if isinstance(effect, LeaveSignaling) and self._joining is not None:
                self._joining.cancel()
            self._leasing = self.tasks.spawn(self._lease_step(self._leasing, effect), "signaling channel")
        if self._lease_timer is not None:
            self._lease_timer.cancel()
        deadline = self._lease.deadline()
        self._lease_timer = None if deadline is None else self._loop.call_at(deadline, self._lease_over)

    def _lease_over(self) -> None:
        self._lease.handle_timer(self._loop.time())
        self._run_lease()

    async def _lease_step(
        self, before: asyncio.Task[None] | None, effect: JoinSignaling | LeaveSignaling
    ) -> None:
        """A leave must be over before the next join."""
        if before is not None:
            await asyncio.wait({before})
        if isinstance(effect, JoinSignaling):
            await self._join(effect.serial)
        elif self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.leave()

    async def _join(self, serial: int) -> None:
        spec = ChannelSpec(topic=signaling_topic(self.agent_id), on_message=self._receive_signaling)
        self._joining = asyncio.ensure_future(self._signaling.join(spec, timeout=self.timing.signaling_join))
        await asyncio.wait({self._joining})
        joining, self._joining = self._joining, None
        if joining.cancelled():
            return
        error = joining.exception()
        if error is None:
            self._channel = joining.result()
            self._lease.joined(serial)
            self._announce_joined()
        else:
            self._announce_failed(serial, error)

    def _announce_joined(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for caller, serial in waiting.items():
            caller.handle(SignalingJoined(serial))

    def _announce_failed(self, serial: int, error: BaseException) -> None:
        if not isinstance(error, DoorstepError):
            _log.error("the signaling channel could not be joined", exc_info=error)
        self._lease.failed(serial)
        waiting, self._waiting = self._waiting, {}
        for caller, its_serial in waiting.items():
            caller.handle(ChannelLost(its_serial, str(error)))

    # The end.

    async def stop(self, reason: str) -> None:
        """End every session and attempt, leave the signaling channel, leave no task or timer. Idempotent."""
        self._stopped = True
        self.meetings.stop()
        closing = [session.close(reason) for session in self._living]
        await asyncio.gather(*closing)
        for caller in list(self._everybody):
            caller.handle(Stop(reason))
        self._lease.stop()
        self._run_lease()
        await self.tasks.ended(2 * self.timing.shutdown)
        self.tasks.cancel()


async def _send(channel: Channel | None, event: str, payload: Mapping[str, Any]) -> None:
    if channel is None:
        raise SignalingLost(f"{event} was not sent: the channel is not joined")
    await channel.send(event, payload)
