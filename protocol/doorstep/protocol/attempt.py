"""Protocol: the client's connection machine (wire.md §3). One per session a client wants.

How an adapter uses it, besides the loop described in :mod:`doorstep.protocol.machine`::

    machine.handle(Connect(), now)      # … until machine.state is CONNECTED or FAILED
    machine.outcome                     # in FAILED: the error, whether to retry, after which pause
    machine.handle(Pause(), now)        # a retry is coming (tenacity: before_sleep)
    machine.handle(Retry(), now)        # the pause is over

Answers are told apart as :mod:`doorstep.protocol.signaling` says: ``sessionId`` says whose,
``replyTo`` to which of our offers. ``ready``, ``answer`` and ``candidate`` without a ``sessionId``
come from an agent that knows none, and count; a refusal without one refuses the anonymous session
and counts for that one alone. A message that can only be a reaction to what we are still sending
proves that it was sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from doorstep.protocol.errors import (
    AgentUnreachable,
    ConnectFailed,
    ConnectionRefused,
    DoorstepError,
    NotAllowed,
    PeerNotTrusted,
    SignalingLost,
    Unauthorized,
)
from doorstep.protocol.ids import AgentId, ClientId, SessionId
from doorstep.protocol.limits import RETRIES
from doorstep.protocol.machine import Machine, Report
from doorstep.protocol.signaling import (
    Answer,
    Candidate,
    ConnectionReady,
    ConnectionRequest,
    IceServer,
    Message,
    Offer,
    ice_ufrags,
)
from doorstep.protocol.signaling import ConnectionRefused as Refusal
from doorstep.protocol.steps import (
    AddCandidate,
    AgentsJoined,
    ApplyAnswer,
    ChannelLost,
    ClosePeer,
    Connect,
    CreateOffer,
    Denied,
    Ignored,
    JoinAgents,
    JoinSignaling,
    LeaveSignaling,
    LocalCandidate,
    NotTrusted,
    Numbered,
    OfferCreated,
    OfferSent,
    Pause,
    PeerFailed,
    RequestSent,
    Retry,
    SendCandidate,
    SendOffer,
    SendRequest,
    SignalingJoined,
    Stop,
    WireLost,
    WireUp,
)
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.protocol.trickle import Trickle

__all__ = [
    "TRANSITIONS",
    "WAITS",
    "AddCandidate",
    "AgentsJoined",
    "ApplyAnswer",
    "Attempt",
    "AttemptEffect",
    "AttemptEvent",
    "AttemptState",
    "AttemptTrigger",
    "ChannelLost",
    "ClosePeer",
    "Connect",
    "CreateOffer",
    "Denied",
    "Ignored",
    "JoinAgents",
    "JoinSignaling",
    "LeaveSignaling",
    "LocalCandidate",
    "NotTrusted",
    "OfferCreated",
    "OfferSent",
    "Outcome",
    "Pause",
    "PeerFailed",
    "Report",
    "RequestSent",
    "Retry",
    "SendCandidate",
    "SendOffer",
    "SendRequest",
    "SignalingJoined",
    "Stop",
    "WireLost",
    "WireUp",
]


class AttemptState(StrEnum):
    """What observers see."""

    IDLE = "idle"
    REQUESTING = "requesting"
    WAITING_READY = "waiting-ready"
    CREATING_OFFER = "creating-offer"
    WAITING_ANSWER = "waiting-answer"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    FAILED = "failed"
    RETRYING = "retrying"


class AttemptTrigger(StrEnum):
    """What the table is asked."""

    CONNECT = "connect"
    AGENTS_JOINED = "agents-joined"
    SIGNALING_JOINED = "signaling-joined"
    OFFER_CREATED = "offer-created"
    REQUEST_SENT = "request-sent"
    READY = "ready"
    OFFER_SENT = "offer-sent"
    ANSWER = "answer"
    WIRE_UP = "wire-up"
    WIRE_LOST = "wire-lost"
    FAIL = "fail"
    PAUSE = "pause"
    RETRY = "retry"
    STOP = "stop"


_S = AttemptState
_T = AttemptTrigger
_TRYING = (_S.REQUESTING, _S.WAITING_READY, _S.CREATING_OFFER, _S.WAITING_ANSWER, _S.CONNECTING)

TRANSITIONS: Mapping[tuple[AttemptState, AttemptTrigger], AttemptState] = MappingProxyType(
    {
        (_S.IDLE, _T.CONNECT): _S.REQUESTING,
        (_S.REQUESTING, _T.AGENTS_JOINED): _S.REQUESTING,
        (_S.REQUESTING, _T.SIGNALING_JOINED): _S.REQUESTING,
        (_S.REQUESTING, _T.OFFER_CREATED): _S.REQUESTING,
        (_S.REQUESTING, _T.REQUEST_SENT): _S.WAITING_READY,
        (_S.WAITING_READY, _T.READY): _S.CREATING_OFFER,
        (_S.CREATING_OFFER, _T.SIGNALING_JOINED): _S.CREATING_OFFER,
        (_S.CREATING_OFFER, _T.OFFER_CREATED): _S.CREATING_OFFER,
        (_S.CREATING_OFFER, _T.OFFER_SENT): _S.WAITING_ANSWER,
        (_S.WAITING_ANSWER, _T.ANSWER): _S.CONNECTING,
        (_S.CONNECTING, _T.WIRE_UP): _S.CONNECTED,
        (_S.CONNECTED, _T.WIRE_LOST): _S.REQUESTING,
        **{(state, _T.FAIL): _S.FAILED for state in (*_TRYING, _S.RETRYING)},
        (_S.FAILED, _T.PAUSE): _S.RETRYING,
        (_S.RETRYING, _T.RETRY): _S.REQUESTING,
        **{(state, _T.STOP): _S.IDLE for state in _S},
    }
)
"""The machine. An entry that leads back to its own state says that the event is expected there."""

WAITS: Mapping[AttemptState, str] = MappingProxyType(
    {
        _S.REQUESTING: "join",
        _S.WAITING_READY: "ready",
        _S.CREATING_OFFER: "join",  # its longest part is the join of the signaling channel
        _S.WAITING_ANSWER: "answer",
        _S.CONNECTING: "ice",
    }
)
"""The wait that starts on entering a state, by its name in :class:`Timing`."""


AttemptEvent = (
    Connect
    | AgentsJoined
    | SignalingJoined
    | RequestSent
    | OfferCreated
    | OfferSent
    | LocalCandidate
    | WireUp
    | WireLost
    | ChannelLost
    | Denied
    | PeerFailed
    | NotTrusted
    | Pause
    | Retry
    | Stop
    | Message
)


AttemptEffect = (
    JoinAgents
    | SendRequest
    | JoinSignaling
    | CreateOffer
    | SendOffer
    | SendCandidate
    | ApplyAnswer
    | AddCandidate
    | LeaveSignaling
    | ClosePeer
    | Report[AttemptState]
    | Ignored
)


_LIMIT = re.compile("Too many|RateLimit|HTTP 429")
"""What a Realtime server says of too many joins, messages or sockets (its ERROR_CODES)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt failed. ``pause`` is in seconds; without ``retryable`` this is the end."""

    error: DoorstepError
    retryable: bool
    pause: float

    @property
    def limited(self) -> bool:
        """It was a limit of the server: who has another wire does better not to ask again soon."""
        return isinstance(self.error, SignalingLost) and self.pause > 0


class Attempt(Machine[AttemptState, AttemptTrigger, AttemptEffect]):
    """Connects to one agent: at most 1 + ``retries`` attempts within ``timing.total``.

    ``session_id`` None is the anonymous session. With ``express`` the first attempt makes its offer and joins
    the signaling channel at once, so that the request carries the offer and every answer finds its listener:
    never later than the plain flow, two round trips sooner at best. The retries are plain, since the agent
    may be offline and a knock should not wait for an offer.

    A channel that was lost to a server's limit is asked for again after a pause, and not counted: there is
    time until ``timing.total``. ``jitter``, from -1 to 1, is the adapter's random number: clients that began
    in the same moment pause differently. It moves the attempts in between, not the end of the last one.

    With ``offers=False`` it only knocks, for a session that shall come by another road: after the ready it
    waits in ``creating-offer`` until its adapter stops it, or else the agent has not come and is knocked for
    again.
    """

    def __init__(
        self,
        agent_id: AgentId,
        session_id: SessionId | None,
        *,
        express: bool = True,
        offers: bool = True,
        client_id: ClientId | None = None,
        capabilities: tuple[str, ...] = (),
        timing: Timing = DEFAULT_TIMING,
        retries: int = RETRIES,
        jitter: float = 0.0,
    ) -> None:
        super().__init__(AttemptState.IDLE, TRANSITIONS, WAITS, timing)
        self._agent_id = agent_id
        self._session_id = session_id
        self._client_id = client_id
        self._capabilities = capabilities
        self._express = express and offers
        self._offers = offers
        self._retries = retries
        self._jitter = jitter
        self._uncounted = 0
        self._total: float = 0.0
        self._outcome: Outcome | None = None
        self._forget()

    def _forget(self) -> None:
        """Nothing is known of the try that begins."""
        self._agents = False
        self._signaling_asked = False
        self._signaling = False
        self._peer = False
        self._offer: str | None = None
        self._request_out = False
        self._offer_out = False
        self._ready_proof: dict[str, str] | None = None
        self._trickle = Trickle(self._session_id, "client")

    @property
    def outcome(self) -> Outcome | None:
        """Set in FAILED and RETRYING: how the last attempt ended."""
        return self._outcome

    def deadline(self) -> float | None:
        """The open wait or the total deadline, whichever is first."""
        if self._state not in _TRYING and self._state is not _S.RETRYING:
            return None
        wait = super().deadline()
        return self._total if wait is None else min(wait, self._total)

    def handle_timer(self, now: float) -> None:
        """End the attempt if a limit is reached; otherwise do nothing."""
        deadline = self.deadline()
        if deadline is None or now < deadline:
            return
        if now >= self._total:
            self._fail(self._total_error(), None, now)
        else:
            self._wait_over(now)

    def handle(self, event: AttemptEvent, now: float) -> None:
        """Take one event. Raises :class:`NotAllowed`, never for a message of the network."""
        if isinstance(event, Numbered) and self._is_over(event):
            return
        match event:
            case Connect():
                self._begin(_T.CONNECT, now)
            case AgentsJoined() | SignalingJoined() | OfferCreated():
                self._prepared(event)
            case RequestSent():
                self._sent(_T.REQUEST_SENT, self._request_out, _S.REQUESTING, now)
            case OfferSent():
                self._sent(_T.OFFER_SENT, self._offer_out, _S.CREATING_OFFER, now)
            case LocalCandidate(_, candidate):
                self._send_candidates(self._trickle.gathered(candidate))
            case WireUp():
                self._wire_up(now)
            case WireLost(_, reason):
                self._wire_lost(reason, now)
            case ChannelLost(_, reason):
                self._signaling_lost(reason, now)
            case Denied(_, reason):
                self._channel_lost(Unauthorized(reason), None, now)
            case PeerFailed(_, reason):
                self._peer_failed(reason, now)
            case NotTrusted(_, reason, known, shown):
                self._fail(PeerNotTrusted(reason, known, shown), None, now)
            case Pause():
                self._pause(now)
            case Retry():
                self._begin(_T.RETRY, now)
            case Stop(reason):
                self._stop(reason, now)
            case ConnectionReady():
                self._ready(event, now)
            case Refusal():
                self._refused(event, now)
            case Answer():
                if self._is_ours(event.session_id):
                    self._answer(event, event.sdp, now)
            case Candidate():
                self._candidate(event)
            case _:
                pass  # connection-request and offer: of another client

    # Commands.

    def _begin(self, trigger: AttemptTrigger, now: float, reason: str = "") -> None:
        self._check(trigger)
        if trigger is not _T.RETRY:
            self._attempt = self._uncounted = 0
            self._total = now + self._timing.total
        self._serial += 1
        self._attempt += 1
        self._outcome = None
        self._forget()
        self._move(trigger, now, reason)
        self._emit(JoinAgents(self._serial))
        if self._express and self._attempt == 1:
            self._prepare(None)

    def _pause(self, now: float) -> None:
        self._check(_T.PAUSE)
        if self._outcome is None or not self._outcome.retryable:
            raise NotAllowed("Attempt", "failed for good", _T.PAUSE)
        self._move(_T.PAUSE, now, f"again in {self._outcome.pause:g} s")

    def _stop(self, reason: str, now: float) -> None:
        self._release()
        self._outcome = None
        self._move(_T.STOP, now, reason)

    def _wire_lost(self, reason: str, now: float) -> None:
        self._check(_T.WIRE_LOST)
        self._release()
        self._begin(_T.WIRE_LOST, now, reason)

    # Completions.

    def _is_over(self, event: Numbered) -> bool:
        if not 1 <= event.serial <= self._serial:
            raise NotAllowed("Attempt", self._state, f"{type(event).__name__} of try {event.serial}")
        running = self._state in _TRYING or self._state is _S.CONNECTED
        return event.serial < self._serial or not running

    def _prepared(self, event: AgentsJoined | SignalingJoined | OfferCreated) -> None:
        if isinstance(event, AgentsJoined):
            self._expect(_T.AGENTS_JOINED, not self._agents)
            self._agents = True
        elif isinstance(event, SignalingJoined):
            self._expect(_T.SIGNALING_JOINED, self._signaling_asked and not self._signaling)
            self._signaling = True
        else:
            self._expect(_T.OFFER_CREATED, self._peer and self._offer is None)
            self._offer = event.sdp
        if self._state is _S.REQUESTING:
            self._send_request()
        else:
            self._send_offer()

    def _expect(self, trigger: AttemptTrigger, expected: bool) -> None:
        self._check(trigger)
        if not expected:
            raise NotAllowed("Attempt", self._state, trigger)

    def _sent(self, trigger: AttemptTrigger, out: bool, sending: AttemptState, now: float) -> None:
        if not out:
            raise NotAllowed("Attempt", self._state, trigger)
        if self._state is sending:  # otherwise the reaction was here before the acknowledgement
            self._move(trigger, now)

    def _wire_up(self, now: float) -> None:
        self._check(_T.WIRE_UP)
        self._emit(LeaveSignaling(self._serial))
        self._move(_T.WIRE_UP, now)

    # What is sent when all it needs is there.

    def _prepare(self, ice_servers: tuple[IceServer, ...] | None) -> None:
        self._signaling_asked = True
        self._peer = True
        self._emit(JoinSignaling(self._serial))
        self._emit(CreateOffer(self._serial, ice_servers))

    def _send_request(self) -> None:
        prepared = not self._peer or (self._signaling and self._offer is not None)
        if self._request_out or not self._agents or not prepared:
            return
        self._request_out = True
        self._offer_out = self._offer is not None
        request = ConnectionRequest(
            agent_id=self._agent_id,
            session_id=self._session_id,
            client_id=self._client_id,
            capabilities=self._capabilities,
            offer=self._offer,
        )
        self._emit(SendRequest(self._serial, request))

    def _send_offer(self) -> None:
        if self._offer is None or not self._signaling:
            return
        self._offer_out = True
        offer = Offer(sdp=self._offer, session_id=self._session_id)
        self._emit(SendOffer(self._serial, offer, self._ready_proof))
        self._send_candidates(self._trickle.announced(self._offer))

    def _send_candidates(self, messages: list[Candidate]) -> None:
        if self._state is _S.CONNECTED:
            return
        for message in messages:
            self._emit(SendCandidate(self._serial, message))

    # Messages.

    def _is_ours(self, session_id: SessionId | None) -> bool:
        return session_id is None or session_id == self._session_id

    def _is_reply(self, message: ConnectionReady | Answer) -> bool:
        if not self._offer_out or self._offer is None:
            return False
        return message.reply_to is None or message.reply_to in ice_ufrags(self._offer)

    def _ready(self, message: ConnectionReady, now: float) -> None:
        if message.agent_id != self._agent_id or not self._is_ours(message.session_id):
            return
        if self._state in (_S.CREATING_OFFER, _S.WAITING_ANSWER) and message.answer is not None:
            self._answer(message, message.answer, now)
        elif not self._request_out or (message.answer is not None and not self._is_reply(message)):
            self._emit(Ignored(message.event, "stale"))
        elif self._state in (_S.REQUESTING, _S.WAITING_READY):
            self._agent_ready(message, now)
        else:
            self._emit(Ignored(message.event, "repeat"))

    def _agent_ready(self, message: ConnectionReady, now: float) -> None:
        if self._state is _S.REQUESTING:
            self._move(_T.REQUEST_SENT, now)
        self._move(_T.READY, now)
        self._ready_proof = message.proof
        if not self._offers:
            return
        if not self._peer:
            self._prepare(message.ice_servers)
        elif message.answer is not None:
            self._answer(message, message.answer, now)
        else:
            self._send_offer()

    def _answer(self, message: ConnectionReady | Answer, sdp: str, now: float) -> None:
        if self._state in (_S.CONNECTING, _S.CONNECTED):
            self._emit(Ignored(message.event, "repeat"))
            return
        if self._state not in (_S.CREATING_OFFER, _S.WAITING_ANSWER) or not self._is_reply(message):
            self._emit(Ignored(message.event, "stale"))
            return
        if self._state is _S.CREATING_OFFER:
            self._move(_T.OFFER_SENT, now)
        self._emit(ApplyAnswer(self._serial, sdp, message.proof))
        assert self._offer is not None  # this is the reply to it
        # Ours for one that went in a knock: before, the agent need not have been there to hear them.
        self._send_candidates(self._trickle.announced(self._offer))
        self._move(_T.ANSWER, now)
        for candidate in self._trickle.described(sdp):
            self._emit(AddCandidate(self._serial, candidate))

    def _refused(self, message: Refusal, now: float) -> None:
        if message.agent_id != self._agent_id or message.session_id != self._session_id:
            return
        if self._state not in _TRYING or not self._request_out:
            self._emit(Ignored(message.event, "late"))
            return
        if message.code == PeerNotTrusted.code:
            error: DoorstepError = PeerNotTrusted(message.message, told=True)
        else:
            error = ConnectionRefused(message.code, message.message, message.retry_after)
        self._fail(error, None, now)

    def _candidate(self, message: Candidate) -> None:
        if message.sender == "client" or not self._is_ours(message.session_id):
            return
        if self._state not in _TRYING or not self._offer_out:
            self._emit(Ignored(message.event, "late" if self._state is _S.CONNECTED else "stale"))
            return
        candidates, why = self._trickle.receive(message)
        for candidate in candidates:
            self._emit(AddCandidate(self._serial, candidate))
        if why:
            self._emit(Ignored(message.event, why))

    # Endings.

    def _signaling_lost(self, reason: str, now: float) -> None:
        limited = _LIMIT.search(reason) is not None
        pause = self._timing.retry_pause * (1.5 + self._jitter / 2) if limited else 0.0
        self._uncounted += limited and self._state is not _S.CONNECTING
        self._channel_lost(SignalingLost(reason), pause, now)

    def _retry_pause(self) -> float:
        """What the first pause is longer or shorter, the last one makes up for."""
        counted = self._attempt - self._uncounted
        moved = (counted == 1) - (counted == self._retries)
        return self._timing.retry_pause * (1 + self._jitter / 2 * moved)

    def _channel_lost(self, error: DoorstepError, pause: float | None, now: float) -> None:
        if self._state not in (_S.CONNECTING, _S.CONNECTED):  # these need the channel no more
            self._fail(error, pause, now)

    def _peer_failed(self, reason: str, now: float) -> None:
        if self._state is not _S.CONNECTED:  # a wire that is up is lost by WireLost only
            self._fail(ConnectFailed(reason), self._retry_pause(), now)

    def _wait_over(self, now: float) -> None:
        wait = self._wait
        assert wait is not None  # it was the deadline
        within = f"within {wait.limit:g} s"
        pause = self._retry_pause()
        match self._state:
            case _S.WAITING_READY:
                self._fail(AgentUnreachable(), pause, now)
            case _S.WAITING_ANSWER:
                self._fail(ConnectFailed(f"no answer from the agent {within}", wait.name), pause, now)
            case _S.CONNECTING:
                self._fail(ConnectFailed(f"no wire to the agent was up {within}", wait.name), pause, now)
            case _S.CREATING_OFFER if not self._offers:
                self._fail(ConnectFailed(f"the agent did not come {within}", wait.name), pause, now)
            case _S.CREATING_OFFER if self._signaling:
                self._fail(ConnectFailed(f"no offer was made {within}", wait.name), pause, now)
            case _:
                self._fail(SignalingLost(f"no channel was joined {within}"), 0.0, now)

    def _total_error(self) -> DoorstepError:
        if self._state is _S.RETRYING and self._outcome is not None:
            return self._outcome.error
        if self._state is _S.WAITING_READY:
            return AgentUnreachable()
        total = self._timing.total
        return ConnectFailed(f"not connected within {total:g} s, still {self._state}", "total")

    def _fail(self, error: DoorstepError, pause: float | None, now: float) -> None:
        """End the attempt; ``pause`` None ends the connect."""
        self._check(_T.FAIL)
        counted = self._attempt - self._uncounted
        again = pause is not None and counted <= self._retries and now + pause < self._total
        self._release()
        self._outcome = Outcome(error, again, pause or 0.0)
        self._move(_T.FAIL, now, str(error))

    def _release(self) -> None:
        if self._peer:
            self._emit(ClosePeer(self._serial))
        if self._signaling_asked and self._state is not _S.CONNECTED:
            self._emit(LeaveSignaling(self._serial))
        self._peer = self._signaling_asked = False
