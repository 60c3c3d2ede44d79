"""Agent: one client at the door: its machine and its peer connections, whose wires carry a session.

The adapter loop: receive → machine → run its effects → re-arm one timer (protocol.machine). Whatever goes
wrong here ends this caller's attempt or session and nobody else's.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import msgspec

from doorstep.agent.events import EventKind
from doorstep.agent.meetings import Meetings
from doorstep.protocol.answering import Answering, AnsweringEffect, AnsweringEvent, AnsweringState
from doorstep.protocol.errors import DoorstepError, LinkError, NotAllowed, PeerNotTrusted
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.machine import Report
from doorstep.protocol.proof import PrivateKey, PublicKey
from doorstep.protocol.signaling import (
    Candidate,
    ConnectionReady,
    ConnectionRefused,
    ConnectionRequest,
    IceServer,
    Message,
    Offer,
    dump,
)
from doorstep.protocol.steps import (
    AddCandidate,
    AnswerCreated,
    AnswerSent,
    ChannelLost,
    ClosePeer,
    CreateAnswer,
    Ignored,
    JoinSignaling,
    LeaveSignaling,
    LocalCandidate,
    PeerFailed,
    SendAnswer,
    SendCandidate,
    SendReady,
    SendRefused,
    WireLost,
    WireUp,
)
from doorstep.protocol.timing import Timing
from doorstep.protocol.trust import AgentProofs
from doorstep.runtime import Service
from doorstep.runtime.tasks import TaskOwner
from doorstep.transport.wire import Wire

if TYPE_CHECKING:
    from doorstep.transport.webrtc import Peer

__all__ = ["Caller", "House"]

_log = logging.getLogger("doorstep.agent")
_UNSENT = 64
"""Messages of one caller that wait for the signaling service; more are dropped, as a broadcast may be."""

Told = TypeVar("Told", ConnectionReady, ConnectionRefused)
Send = Callable[[str, Mapping[str, Any]], Awaitable[None]]


class House(Protocol):
    """What a caller finds behind the door: what all sessions of the agent share."""

    agent_id: AgentId
    services: Mapping[str, Service]
    about: Mapping[str, Any]
    ice_servers: Callable[[], tuple[IceServer, ...]]
    ice_policy: Literal["all", "relay"]
    timing: Timing
    key: PrivateKey | None
    require_proof: bool
    tasks: TaskOwner

    async def send_agents(self, event: str, payload: Mapping[str, Any]) -> None:
        """Broadcast on the agents channel. Raises LinkError."""
        ...

    async def send_signaling(self, event: str, payload: Mapping[str, Any]) -> None:
        """Broadcast on the signaling channel. Raises LinkError."""
        ...

    @property
    def meetings(self) -> Meetings:
        """Where clients are waited for besides."""
        ...

    async def carry(self, session_id: SessionId | None, wire: Wire, client: PublicKey | None) -> bool:
        """Begin a session on this wire, or take a living one over to it (True).

        ``client`` is the key that was proved. Raises LinkError, PeerNotTrusted.
        """
        ...

    def vouch(self, session_id: SessionId | None, client: PublicKey | None) -> None:
        """Return if this client may take part in the session. Raises PeerNotTrusted."""
        ...

    def is_hopeful(self, session_id: SessionId | None) -> bool:
        """Whether the session lives, or may yet begin by another road."""
        ...

    def need_signaling(self, caller: Caller, serial: int) -> None: ...

    def release_signaling(self, caller: Caller) -> None: ...

    def connected(self, caller: Caller) -> None: ...

    def retire(self, caller: Caller) -> None: ...

    def tell(self, kind: EventKind, session_id: SessionId | None, **facts: Any) -> None: ...


class Caller:
    """Owns one machine, and a task per peer connection it asks for."""

    def __init__(self, house: House, session_id: SessionId | None) -> None:
        self.session_id = session_id
        self._house = house
        self._loop = asyncio.get_running_loop()
        self._knocked = self._loop.time()
        self._machine = Answering(
            house.agent_id,
            session_id,
            ice_servers=house.ice_servers() or None,
            capabilities=house.meetings.kinds,
            timing=house.timing,
        )
        self._proofs = AgentProofs(
            house.key,
            house.agent_id,
            session_id,
            secrets.token_bytes,
            required=house.require_proof,
            vouch=partial(house.vouch, session_id),
        )
        self._events: deque[AnsweringEvent | None] = deque()
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None
        self._runs: dict[int, asyncio.Task[None]] = {}
        self._peers: dict[int, Peer] = {}
        self._sending: asyncio.Task[None] | None = None
        self._unsent = 0
        self._wire = ""
        self._client: PublicKey | None = None
        self._resumed = self._was_connected = False

    def __repr__(self) -> str:
        return f"<Caller {self.session_id or 'anonymous'} {self.state}>"

    @property
    def state(self) -> AnsweringState:
        return self._machine.state

    def receive(self, message: ConnectionRequest | Offer | Candidate) -> None:
        """Give the machine a message of the client, unless its proof fails or is of another attempt."""
        try:
            if isinstance(message, ConnectionRequest):
                self._proofs.request(message)
                self._come(message.capabilities)
            elif isinstance(message, Offer) and not self._proofs.offer(message):
                _log.debug("session %s: an offer of another attempt is ignored", self.session_id)
                return
        except PeerNotTrusted as error:
            self._turn_away(error)
        else:
            self.handle(message)

    def _come(self, capabilities: tuple[str, ...]) -> None:
        if self.session_id is not None:
            self._house.meetings.come(
                self.session_id, capabilities, self._proofs.client_key, self._loop.time()
            )

    def _turn_away(self, error: PeerNotTrusted) -> None:
        """Nothing is given to the machine, so that nobody's forgery ends an attempt or a live connection."""
        self._house.tell(EventKind.REFUSED, self.session_id, reason=str(error))
        refusal = ConnectionRefused(
            agent_id=self._house.agent_id, session_id=self.session_id, code=error.code, message=error.message
        )
        self._post(self._house.send_agents, refusal)
        if not self._machine.serial:  # its first knock
            self._house.retire(self)

    def carried(self) -> None:
        """The session has a wire by another road: that this one may fail is no news."""
        self._was_connected = True

    def handle(self, event: AnsweringEvent | None) -> None:
        """Give the machine an event (None = its timer rang) and do what it asks for.

        An effect may cause the next event at once; that one waits for its turn.
        """
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._events:
                self._step(self._events.popleft())
        finally:
            self._handling = False
        self._arm()

    def _step(self, event: AnsweringEvent | None) -> None:
        now = self._loop.time()
        try:
            if event is None:
                self._machine.handle_timer(now)
            else:
                self._machine.handle(event, now)
        except NotAllowed:
            _log.exception("session %s: an event out of turn", self.session_id)
        for effect in self._machine.effects():
            self._act(effect)

    def _act(self, effect: AnsweringEffect) -> None:
        match effect:
            case JoinSignaling(serial):
                self._house.need_signaling(self, serial)
            case LeaveSignaling():
                self._house.release_signaling(self)
            case SendReady(serial, message):
                ready = self._proofs.ready(self._coming(message))
                self._post(self._house.send_agents, ready, serial, acknowledged=ready.answer is not None)
            case SendRefused(serial, message):
                self._house.tell(EventKind.REFUSED, self.session_id, reason=message.message)
                self._post(self._house.send_agents, self._coming(message))
            case SendAnswer(serial, message):
                answer = self._proofs.answer(message)
                self._post(self._house.send_signaling, answer, serial, acknowledged=True)
            case SendCandidate(_, message):
                self._post(self._house.send_signaling, message)
            case CreateAnswer(serial, sdp):
                run = self._run(serial, sdp, self._proofs.client_key)
                self._runs[serial] = self._spawn(run, "peer")
            case AddCandidate(serial, candidate):
                if serial in self._peers:
                    self._spawn(self._peers[serial].add_candidate(candidate), "candidate")
            case ClosePeer(serial):
                if (ended := self._runs.pop(serial, None)) is not None:
                    ended.cancel()
            case Report():
                self._report(effect)
            case Ignored(name, why):
                _log.debug("session %s: %s ignored (%s)", self.session_id, name, why)

    def _coming(self, message: Told) -> Told:
        """Promise only what has not failed meanwhile."""
        comes = [word for word in message.capabilities if self._house.meetings.comes(self.session_id, word)]
        return msgspec.structs.replace(message, capabilities=tuple(comes))

    def _report(self, report: Report[AnsweringState]) -> None:
        reason = report.reason
        _log.info("session %s: %s %s", self.session_id, report.state, f"({reason})" if reason else "")
        if report.state is AnsweringState.CONNECTED:
            self._was_connected = True
            self._house.connected(self)
            seconds = round(self._loop.time() - self._knocked, 3)
            key = None if self._client is None else self._client.fingerprint
            facts = {"wire": self._wire, "seconds": seconds, "client_key": key}
            kind = EventKind.RESUMED if self._resumed else EventKind.CONNECTED
            self._house.tell(kind, self.session_id, **facts)
        elif report.state is AnsweringState.CLEANUP and not self._was_connected:
            if not self._house.is_hopeful(self.session_id):
                self._house.tell(EventKind.FAILED, self.session_id, reason=reason)
        elif report.state is AnsweringState.IDLE:
            self._house.retire(self)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._machine.deadline()
        self._timer = None if deadline is None else self._loop.call_at(deadline, self.handle, None)

    # Messages out, in order.

    def _post(
        self, send: Send, message: Message, serial: int | None = None, acknowledged: bool = False
    ) -> None:
        """Send behind what was posted before.

        With a serial the machine hears of a failure, and if ``acknowledged`` of the acknowledgement.
        """
        if self._unsent >= _UNSENT:
            _log.warning("session %s: too much to send; %s is dropped", self.session_id, message.event)
            return
        self._unsent += 1
        self._sending = self._spawn(
            self._send(self._sending, send, message, serial, acknowledged), message.event
        )

    async def _send(
        self,
        before: asyncio.Task[None] | None,
        send: Send,
        message: Message,
        serial: int | None,
        acknowledged: bool,
    ) -> None:
        if before is not None:
            await asyncio.wait({before})
        self._unsent -= 1
        try:
            await send(*dump(message))
        except LinkError as error:
            _log.info("session %s: %s was not sent: %s", self.session_id, message.event, error)
            if serial is not None:
                self.handle(ChannelLost(serial, str(error)))
            return
        if serial is not None and acknowledged:
            self.handle(AnswerSent(serial))

    # A peer connection, from the offer to the end of its wire.

    async def _run(self, serial: int, offer: str, client: PublicKey | None) -> None:
        """The machine is told of the end when everything of it has been released."""
        ended = await self._converse(serial, offer, client)
        self._runs.pop(serial, None)
        self.handle(ended)

    async def _converse(self, serial: int, offer: str, client: PublicKey | None) -> PeerFailed | WireLost:
        from doorstep.transport.webrtc import Peer

        house = self._house
        peer = Peer(house.ice_servers(), timing=house.timing, policy=house.ice_policy)
        peer.on_candidate = lambda candidate: self.handle(LocalCandidate(serial, candidate))
        try:
            answer = await peer.accept_offer(offer)
            self._peers[serial] = peer
            self.handle(AnswerCreated(serial, answer))
            wire = await peer.wire()
            self._resumed = await self._house.carry(self.session_id, wire, client)
            self._wire, self._client = wire.kind, client
            self.handle(WireUp(serial))
            return WireLost(serial, await wire.wait_closed())
        except DoorstepError as error:
            return PeerFailed(serial, str(error))
        except Exception:  # noqa: BLE001 - logged; one client's fault is nobody else's
            _log.exception("session %s: the peer connection failed", self.session_id)
            return PeerFailed(serial, "internal error of the agent")
        finally:
            self._peers.pop(serial, None)
            await peer.close()

    def _spawn(self, work: Any, what: str) -> asyncio.Task[None]:
        return self._house.tasks.spawn(work, f"session {self.session_id} {what}")
