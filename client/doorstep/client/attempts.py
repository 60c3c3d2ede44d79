"""Client: the adapter around the attempt machine (:mod:`doorstep.protocol.attempt`).

Its loop: something happened → ``machine.handle`` → run the effects → one timer for ``machine.deadline()``.
What the effects start tells the machine what came of it from tasks, never from within the loop. Tenacity
drives the retries; whether and when is the machine's verdict.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from doorstep.client.channels import Topic
from doorstep.client.force import Force, is_relayed, without_relayed, without_turn
from doorstep.client.peering import OpenPeer, Peering
from doorstep.client.progress import AttemptReport, OnState
from doorstep.protocol.attempt import (
    AddCandidate,
    AgentsJoined,
    ApplyAnswer,
    Attempt,
    AttemptEffect,
    AttemptEvent,
    AttemptState,
    ChannelLost,
    ClosePeer,
    Connect,
    CreateOffer,
    Denied,
    Ignored,
    JoinAgents,
    JoinSignaling,
    LeaveSignaling,
    NotTrusted,
    OfferSent,
    Pause,
    Report,
    RequestSent,
    Retry,
    SendCandidate,
    SendOffer,
    SendRequest,
    SignalingJoined,
    Stop,
)
from doorstep.protocol.errors import (
    ConnectFailed,
    DoorstepError,
    LinkError,
    MalformedMessage,
    PeerNotTrusted,
    UsageError,
)
from doorstep.protocol.ids import AgentId, SessionId, UserId, agents_topic, signaling_topic
from doorstep.protocol.signaling import (
    ConnectionReady,
    ConnectionRefused,
    ConnectionRequest,
    IceServer,
    Message,
    Offer,
    dump,
    parse,
)
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.runtime import Role, Session
from doorstep.runtime.session import SessionState
from doorstep.runtime.tasks import TaskOwner, uninterrupted
from doorstep.transport.pool import Carry

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from doorstep.client.trust import Trust
    from doorstep.transport.ice_servers import Soon
    from doorstep.transport.signaling import Signaling
    from doorstep.transport.webrtc import Peer

__all__ = ["AttemptReport", "AttemptState", "Connector", "OnState"]

logger = logging.getLogger("doorstep.client")

Sleep = Callable[[float], Awaitable[None]]

_NOT_ANSWERED = (AttemptState.REQUESTING, AttemptState.WAITING_READY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom to connect to, and as whom."""

    user_id: UserId
    agent_id: AgentId
    session_id: SessionId | None
    """None: the anonymous session, of which an agent has one."""


class Connector:
    """One ``connect()``: :meth:`connect` returns a greeted session, or raises and leaves nothing behind."""

    def __init__(
        self,
        target: Target,
        signaling: Signaling,
        *,
        timing: Timing = DEFAULT_TIMING,
        ice_servers: Sequence[IceServer] = (),
        more_servers: Soon | None = None,
        believe_servers: bool = True,
        on_state: OnState | None = None,
        trust: Trust | None = None,
        session: Session | None = None,
        carry: Carry | None = None,
        express: bool = True,
        offers: bool = True,
        force: Force | None = None,
        capabilities: Callable[[], tuple[str, ...]] = tuple,
        on_ready: Callable[[tuple[str, ...]], None] | None = None,
        open_peer: OpenPeer | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Without ``trust`` this is a plain client: it proves nothing and believes every agent.

        ``more_servers`` gives further ICE servers, soon, each time an offer is to be made; those that the
        agent names are asked too if ``believe_servers``.

        ``session`` is one that shall go on over another wire, which ``carry`` takes it to (its own ``carry``
        when there is none); without it every attempt starts a new one.

        Every request names the ``capabilities`` there are at that moment; ``on_ready`` hears those of every
        answer, yes or no, that is believed. Without ``offers`` it only knocks, until it is cancelled.
        """
        self._session = session
        self._carry = carry if carry is not None or session is None else session.carry
        self._target = target
        self._trust = trust
        self._timing = timing
        self._ice_servers = tuple(ice_servers)
        self._more_servers = more_servers
        self._believe_servers = believe_servers
        self._on_state = on_state
        self._open_peer = open_peer or self._real_peer
        self._sleep = sleep
        self._force = force
        self._capabilities = capabilities
        self._on_ready = on_ready
        self._machine = Attempt(
            target.agent_id,
            target.session_id,
            express=express,
            offers=offers,
            timing=timing,
            jitter=random.uniform(-1, 1),  # noqa: S311 - spreads retries, guards nothing
        )
        self._agents = self._topic(signaling, agents_topic(target.user_id))
        self._channel = self._topic(signaling, signaling_topic(target.agent_id))
        self._peering: Peering | None = None
        self._steps = TaskOwner()
        self._endings = TaskOwner()
        self._requested = 0
        self._joins: dict[int, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._settled = asyncio.Event()

    async def connect(self) -> Session:
        """Connect, with retries.

        Raises :class:`AgentUnreachable`, :class:`ConnectionRefused`, :class:`Unauthorized`,
        :class:`ConnectFailed`, :class:`SignalingLost`, :class:`PeerNotTrusted`.
        """
        try:
            await self._attempts()
            assert self._peering is not None
            session = self._peering.take_session()
        except BaseException:
            if self._machine.state is not AttemptState.FAILED:  # which has released everything already
                self._handle(Stop("cancelled"))
            await self._release()
            raise
        try:
            await self._release()
        except BaseException:
            if self._session is None:
                await session.close()
            raise
        return session

    async def _attempts(self) -> None:
        from tenacity import AsyncRetrying, retry_if_exception_type

        attempts = AsyncRetrying(
            retry=retry_if_exception_type(DoorstepError),
            stop=lambda _: not self._may_retry(),
            wait=self._pause,
            sleep=self._sleep,
            before_sleep=lambda _: self._handle(Pause()),
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                await self._attempt(Connect() if attempt.retry_state.attempt_number == 1 else Retry())

    async def _attempt(self, begin: Connect | Retry) -> None:
        """One attempt; raises the machine's error."""
        if isinstance(begin, Connect) or self._machine.state is AttemptState.RETRYING:
            self._settled.clear()
            self._handle(begin)
            await self._settled.wait()
        if self._machine.state is not AttemptState.CONNECTED:
            outcome = self._machine.outcome
            raise outcome.error if outcome is not None else ConnectFailed()

    def _may_retry(self) -> bool:
        outcome = self._machine.outcome
        if self._machine.state is not AttemptState.FAILED or outcome is None:
            return False
        return outcome.retryable and not (outcome.limited and self._has_another_wire())

    def _has_another_wire(self) -> bool:
        return self._session is not None and self._session.state is SessionState.OPEN

    def _pause(self, _state: RetryCallState) -> float:
        outcome = self._machine.outcome
        return outcome.pause if outcome is not None else 0.0

    # The loop.

    def _handle(self, event: AttemptEvent) -> None:
        self._machine.handle(event, asyncio.get_running_loop().time())
        self._drain()

    def _ring(self) -> None:
        self._machine.handle_timer(asyncio.get_running_loop().time())
        self._drain()

    def _drain(self) -> None:
        for effect in self._machine.effects():
            self._perform(effect)
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._machine.deadline()
        self._timer = None if deadline is None else asyncio.get_running_loop().call_at(deadline, self._ring)
        if self._machine.state in (AttemptState.CONNECTED, AttemptState.FAILED):
            self._settled.set()

    def _perform(self, effect: AttemptEffect) -> None:
        match effect:
            case Report():
                self._report(effect)
            case JoinAgents(serial):
                self._join(self._agents, AgentsJoined(serial))
            case JoinSignaling(serial):
                self._join(self._channel, SignalingJoined(serial))
            case LeaveSignaling(serial):
                self._leave(serial)
            case SendRequest(serial, message):
                self._requested = serial
                self._send(self._agents, message, RequestSent(serial), serial)
            case SendOffer(serial, message, ready):
                self._send(self._channel, message, OfferSent(serial), serial, ready)
            case SendCandidate(serial, message):
                self._send(self._channel, message, None, serial)
            case CreateOffer(serial, servers):
                self._peering = Peering(serial, self._new_session, self._handle, self._carry)
                told = servers if servers and self._believe_servers else ()
                self._peering.create_offer(self._open_peer, self._ice_servers + told)
            case ApplyAnswer(_, sdp, proof) if self._peering is not None:
                trust = self._trust
                check = None if trust is None else partial(trust.answer, sdp, proof)
                self._peering.apply_answer(without_relayed(sdp) if self._force == "direct" else sdp, check)
            case AddCandidate(_, candidate) if self._peering is not None:
                if self._force != "direct" or not is_relayed(candidate.candidate):
                    self._peering.add_candidate(candidate)
            case ClosePeer():
                self._close_peer()
            case Ignored(event, why):
                logger.debug("%s ignored: %s", event, why)
            case ApplyAnswer() | AddCandidate():
                pass  # its peer is gone

    def _report(self, report: AttemptReport) -> None:
        logger.info(
            "agent %s: %s (attempt %d) %s", self._target.agent_id, report.state, report.attempt, report.reason
        )
        if self._on_state is not None:
            try:
                self._on_state(report)
            except Exception:
                logger.exception("the state listener failed")

    # Channels.

    def _topic(self, signaling: Signaling, name: str) -> Topic:
        return Topic(
            signaling, name, on_message=self._on_message, on_lost=self._on_lost, timeout=self._timing.join
        )

    def _on_message(self, event: str, payload: dict[str, Any]) -> None:
        try:
            message = parse(event, payload)
        except MalformedMessage as error:
            logger.info("dropped a message about agent %s: %s", self._target.agent_id, error)
            return
        if self._is_late(message):
            logger.info("agent %s: a ready for an earlier knock is ignored", self._target.agent_id)
            return
        before = self._machine.state
        self._handle(message)
        if self._on_ready is None or before is self._machine.state:
            return  # it was not believed
        match message:
            case ConnectionReady() if before in _NOT_ANSWERED:
                self._on_ready(message.capabilities)
            case ConnectionRefused():
                self._on_ready(message.capabilities)
            case _:
                pass

    def _is_late(self, message: Message) -> bool:
        if self._trust is None or not isinstance(message, ConnectionReady) or message.answer is not None:
            return False
        return self._trust.is_late(message.proof)

    def _on_lost(self, reason: str) -> None:
        if self._machine.serial and self._machine.state is not AttemptState.IDLE:
            self._handle(ChannelLost(self._machine.serial, reason))

    def _join(self, topic: Topic, joined: AgentsJoined | SignalingJoined) -> None:
        async def joining() -> None:
            try:
                await topic.join()
            except UsageError as error:
                self._handle(Denied(joined.serial, str(error)))
            except LinkError as error:
                self._handle(ChannelLost(joined.serial, str(error)))
            else:
                self._handle(joined)
                if isinstance(joined, AgentsJoined):
                    await self._knock_early(joined.serial)

        task = self._steps.spawn(joining(), f"doorstep-join-{joined.serial}")
        if isinstance(joined, SignalingJoined):
            self._joins[joined.serial] = task

    async def _knock_early(self, serial: int) -> None:
        """The agent need not wait for our offer to come where we come besides, if that takes a while."""
        if self._machine.serial != serial or self._requested == serial:
            return
        await asyncio.sleep(self._timing.early_knock)
        waits = self._machine.serial == serial and self._machine.state is AttemptState.REQUESTING
        if waits and self._requested != serial and self._capabilities():
            request = ConnectionRequest(agent_id=self._target.agent_id, session_id=self._target.session_id)
            self._send(self._agents, request, None, serial)

    def _leave(self, serial: int) -> None:
        joining = self._joins.pop(serial, None)
        if joining is not None:
            joining.cancel()
        self._endings.spawn(self._channel.leave(), f"doorstep-leave-{serial}")

    def _send(
        self,
        topic: Topic,
        message: Message,
        sent: RequestSent | OfferSent | None,
        serial: int,
        ready: dict[str, str] | None = None,
    ) -> None:
        if isinstance(message, ConnectionRequest):
            message = self._knock(message)

        async def sending() -> None:
            try:
                await topic.send(*dump(await self._proved(message, ready)))
            except PeerNotTrusted as error:
                self._handle(NotTrusted(serial, error.message, error.known, error.shown))
            except DoorstepError as error:
                if sent is not None:
                    self._handle(ChannelLost(serial, str(error)))
                else:
                    logger.info("%s was not sent: %s", message.event, error)
            else:
                if sent is not None:
                    self._handle(sent)

        self._steps.spawn(sending(), f"doorstep-send-{message.event}-{serial}")

    def _knock(self, message: ConnectionRequest) -> ConnectionRequest:
        """Begin: from now on a ready for an earlier knock is late, not only from when this one is sent."""
        message = msgspec.structs.replace(message, capabilities=self._capabilities())
        return message if self._trust is None else self._trust.request(message)

    async def _proved(self, message: Message, ready: dict[str, str] | None) -> Message:
        """Return an offer with our proof; ``ready`` is the proof of what it reacts to."""
        if self._trust is not None and isinstance(message, Offer):
            return await self._trust.offer(message, ready)
        return message

    # The peer.

    def _new_session(self) -> Session:
        if self._session is not None:
            return self._session
        session_id = self._target.session_id or SessionId(f"anonymous-{id(self):x}")
        return Session(role=Role.CLIENT, session_id=session_id, timing=self._timing)

    async def _real_peer(self, servers: Sequence[IceServer]) -> Peer:
        from doorstep.transport.certificate import warm_up

        await asyncio.to_thread(warm_up)
        from doorstep.transport.webrtc import Peer

        more = await self._more_servers() if self._more_servers is not None else ()
        known = {url for one in more for url in one.urls}
        asked = (*more, *(one for one in servers if not known.issuperset(one.urls)))
        chosen = without_turn(asked) if self._force == "direct" else asked
        return Peer(chosen, timing=self._timing, policy="relay" if self._force == "turn" else "all")

    def _close_peer(self) -> None:
        peering, self._peering = self._peering, None
        if peering is not None:
            self._endings.spawn(peering.close(), "doorstep-close-peer")

    async def _release(self) -> None:
        """Leave what was joined for signaling and end every task, within ``Timing.shutdown``."""
        if self._timer is not None:
            self._timer.cancel()
        await uninterrupted(self._clear_away(), "doorstep-connect-release")

    async def _clear_away(self) -> None:
        self._steps.cancel()
        await self._steps.ended(self._timing.shutdown)
        for topic in (self._channel, self._agents):
            self._endings.spawn(topic.leave(), f"doorstep-leave-{topic.name}")
        await self._endings.ended(self._timing.shutdown)
        self._endings.cancel()
