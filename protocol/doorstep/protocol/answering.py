"""Protocol: the agent's connection machine, one per session (wire.md §4), and who may have one.

An adapter holds its machines by ``sessionId`` (None: the anonymous session), one :class:`SignalingLease`, and

* asks :func:`admit` about every ``connection-request``: start a machine, use the one there is, or refuse;
* hands ``offer`` and ``candidate`` to the machine of their ``sessionId``, if there is one;
* drops a machine when it reports ``idle``.

``connected`` lasts as long as the wire does. What is left 120 s after it is the signaling channel; that is
the lease's business, and nothing in it can reach a peer. JoinSignaling and LeaveSignaling of a machine are
what one session wishes (``lease.need`` and ``lease.release``); those of the lease are what is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from doorstep.protocol.errors import ConnectFailed, NotAllowed, SignalingLost
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.lease import SignalingLease
from doorstep.protocol.limits import SESSIONS_PER_AGENT, TEXT_BYTES
from doorstep.protocol.machine import Machine, Report
from doorstep.protocol.signaling import (
    Answer,
    Candidate,
    ConnectionReady,
    ConnectionRefused,
    ConnectionRequest,
    IceServer,
    Message,
    Offer,
    ice_ufrags,
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
    Numbered,
    PeerFailed,
    SendAnswer,
    SendCandidate,
    SendReady,
    SendRefused,
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
    "Admission",
    "AnswerCreated",
    "AnswerSent",
    "Answering",
    "AnsweringEffect",
    "AnsweringEvent",
    "AnsweringState",
    "AnsweringTrigger",
    "ChannelLost",
    "ClosePeer",
    "CreateAnswer",
    "Ignored",
    "JoinSignaling",
    "LeaveSignaling",
    "LocalCandidate",
    "PeerFailed",
    "Report",
    "SendAnswer",
    "SendCandidate",
    "SendReady",
    "SendRefused",
    "SignalingJoined",
    "SignalingLease",
    "Stop",
    "WireLost",
    "WireUp",
    "admit",
    "busy",
]


class AnsweringState(StrEnum):
    """What observers see."""

    IDLE = "idle"
    CHANNEL_CREATED = "channel-created"
    OFFER_RECEIVED = "offer-received"
    ANSWER_SENT = "answer-sent"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    CLEANUP = "cleanup"


class AnsweringTrigger(StrEnum):
    """What the table is asked."""

    SIGNALING_JOINED = "signaling-joined"
    OFFER = "offer"
    REPLACE = "replace"
    ANSWER_CREATED = "answer-created"
    ANSWER_SENT = "answer-sent"
    CONNECT = "connect"
    WIRE_UP = "wire-up"
    WIRE_LOST = "wire-lost"
    FAIL = "fail"
    STOP = "stop"
    CLEANED = "cleaned"


_S = AnsweringState
_T = AnsweringTrigger

TRANSITIONS: Mapping[tuple[AnsweringState, AnsweringTrigger], AnsweringState] = MappingProxyType(
    {
        (_S.IDLE, _T.SIGNALING_JOINED): _S.CHANNEL_CREATED,
        (_S.IDLE, _T.ANSWER_CREATED): _S.IDLE,  # express: the channel is still being joined
        (_S.CHANNEL_CREATED, _T.OFFER): _S.OFFER_RECEIVED,
        (_S.OFFER_RECEIVED, _T.ANSWER_CREATED): _S.OFFER_RECEIVED,
        (_S.OFFER_RECEIVED, _T.ANSWER_SENT): _S.ANSWER_SENT,
        (_S.ANSWER_SENT, _T.CONNECT): _S.CONNECTING,
        (_S.CONNECTING, _T.WIRE_UP): _S.CONNECTED,
        (_S.OFFER_RECEIVED, _T.REPLACE): _S.CHANNEL_CREATED,
        (_S.CONNECTING, _T.REPLACE): _S.CHANNEL_CREATED,
        **{
            (state, _T.FAIL): _S.CLEANUP
            for state in (_S.IDLE, _S.CHANNEL_CREATED, _S.OFFER_RECEIVED, _S.CONNECTING)
        },
        (_S.CONNECTED, _T.WIRE_LOST): _S.CLEANUP,
        **{
            (state, _T.STOP): _S.CLEANUP
            for state in _S
            if state not in (_S.ANSWER_SENT, _S.CLEANUP)  # these two are passed through
        },
        (_S.CLEANUP, _T.CLEANED): _S.IDLE,
    }
)
"""The machine. An entry that leads back to its own state says that the event is expected there."""

WAITS: Mapping[AnsweringState, str] = MappingProxyType(
    {
        _S.CHANNEL_CREATED: "total",  # by then the client has given up
        _S.OFFER_RECEIVED: "answer",  # the client waits no longer for it
        _S.CONNECTING: "ice",
    }
)
"""The wait that starts on entering a state; in ``idle`` ``signaling_join`` runs from the knock."""

AnsweringEvent = (
    SignalingJoined
    | AnswerCreated
    | AnswerSent
    | LocalCandidate
    | WireUp
    | WireLost
    | ChannelLost
    | PeerFailed
    | Stop
    | Message
)
AnsweringEffect = (
    JoinSignaling
    | SendReady
    | SendRefused
    | CreateAnswer
    | SendAnswer
    | SendCandidate
    | AddCandidate
    | ClosePeer
    | LeaveSignaling
    | Report[AnsweringState]
    | Ignored
)


class Admission(StrEnum):
    """What becomes of a knock."""

    IGNORE = "ignore"  # for another agent
    START = "start"  # a new machine takes it, in the place of its sessionId
    REPEAT = "repeat"  # the machine of its session takes it
    BUSY = "busy"  # refuse with busy()


def admit(
    request: ConnectionRequest,
    agent_id: AgentId,
    current: AnsweringState | None,
    sessions: int,
    limit: int = SESSIONS_PER_AGENT,
    *,
    resumes: bool = False,
) -> Admission:
    """Decide about a knock; ``current`` is the state of its session's machine, ``sessions`` counts the others
    or, with an anonymous knock, all.

    An anonymous knock takes over an anonymous attempt, but starts beside a live anonymous connection, whose
    machine then keeps only its peer and timer. So does a knock for a living session that ``resumes``: which
    of the two connections carries it is settled by the session's token.
    """
    if request.agent_id != agent_id:
        return Admission.IGNORE
    beside = (request.session_id is None or resumes) and current is AnsweringState.CONNECTED
    if current is not None and not beside:
        return Admission.REPEAT
    return Admission.START if sessions < limit else Admission.BUSY


def busy(request: ConnectionRequest, timing: Timing = DEFAULT_TIMING) -> ConnectionRefused:
    """Refuse a knock above the limit; attempts that lead nowhere are over after ``timing.total``."""
    return ConnectionRefused(
        agent_id=request.agent_id,
        session_id=request.session_id,
        code="busy",
        message="this agent has as many sessions as it takes",
        retry_after=timing.total,
    )


class Answering(Machine[AnsweringState, AnsweringTrigger, AnsweringEffect]):
    """Answers the knocks of one session until its wire is lost.

    A knock or offer that repeats is answered again; an offer that differs replaces the peer of the one
    before, and so does an anonymous knock. A live connection is replaced by neither: a client that lost its
    wire first knocks again until the agent has seen the loss too.
    """

    def __init__(
        self,
        agent_id: AgentId,
        session_id: SessionId | None,
        *,
        ice_servers: tuple[IceServer, ...] | None = None,
        capabilities: tuple[str, ...] = (),
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        """``capabilities`` are what the agent can; a ready names those that the client can too."""
        super().__init__(AnsweringState.IDLE, TRANSITIONS, WAITS, timing)
        self._agent_id = agent_id
        self._session_id = session_id
        self._ice_servers = ice_servers
        self._capabilities = capabilities
        self._common: tuple[str, ...] = ()
        self._channel = 0  # serial under which the signaling channel was asked for; 0 = it was not
        self._forget()

    def _forget(self) -> None:
        """Nothing is known of an offer."""
        self._offer: str | None = None
        self._express = False
        self._answer: str | None = None
        self._answer_out = False
        self._trickle = Trickle(self._session_id, "agent")

    @property
    def session_id(self) -> SessionId | None:
        """Whose machine this is; None is the anonymous session."""
        return self._session_id

    def handle_timer(self, now: float) -> None:
        """End the attempt if a limit is reached; otherwise do nothing."""
        wait = self._wait
        if wait is None or now < wait.at:
            return
        if self._state is _S.IDLE:
            self._refuse(SignalingLost.code, "the agent could not join its signaling channel", now)
        else:
            self._end(_T.FAIL, f"{wait.name}: nothing came within {wait.limit:g} s", now)

    def handle(self, event: AnsweringEvent, now: float) -> None:
        """Take one event. Raises :class:`NotAllowed`, never for a message of the network."""
        if isinstance(event, Numbered) and self._is_over(event):
            return
        match event:
            case SignalingJoined():
                self._joined(now)
            case AnswerCreated(_, sdp):
                self._created(sdp)
            case AnswerSent():
                self._sent(now)
            case LocalCandidate(_, candidate):
                self._send_candidates(self._trickle.gathered(candidate))
            case WireUp():
                self._wire_up(now)
            case WireLost(_, reason):
                self._end(_T.WIRE_LOST, reason, now)
            case ChannelLost(_, reason):
                self._channel_lost(reason, now)
            case PeerFailed(_, reason):
                self._peer_failed(reason, now)
            case Stop(reason):
                self._stop(reason, now)
            case ConnectionRequest():
                self._knocked(event, now)
            case Offer():
                self._offered(event, now)
            case Candidate():
                self._candidate(event)
            case _:
                pass  # connection-ready, -refused and answer: of an agent

    # Messages.

    def _knocked(self, message: ConnectionRequest, now: float) -> None:
        if message.agent_id != self._agent_id or message.session_id != self._session_id:
            return
        if self._state is _S.CONNECTED:
            self._emit(Ignored(message.event, "late"))
            return
        self._common = tuple(word for word in self._capabilities if word in message.capabilities)
        if not self._channel:
            self._open(now)
        elif self._session_id is None and self._offer is not None and message.offer != self._offer:
            self._replace("a newer anonymous knock", now)
        if message.offer is not None and message.offer != self._offer:
            self._take(message.offer, True, now)
        elif self._state is not _S.IDLE:
            self._ready_again(message, now)

    def _open(self, now: float) -> None:
        self._serial += 1
        self._attempt += 1
        self._channel = self._serial
        self._start_wait("signaling_join", now)
        self._emit(JoinSignaling(self._serial))

    def _ready_again(self, message: ConnectionRequest, now: float) -> None:
        if message.offer is None:
            self._start_wait(WAITS[_S.CHANNEL_CREATED], now)  # an offer is to follow, perhaps a new one
            self._emit(SendReady(self._serial, self._ready(None)))
        elif self._answer is not None:
            self._emit(SendReady(self._serial, self._ready(self._answer)))
        else:
            self._emit(Ignored(message.event, "repeat"))  # it is being answered

    def _offered(self, message: Offer, now: float) -> None:
        if message.session_id != self._session_id or not self._channel:
            return
        if self._state is _S.CONNECTED:
            self._emit(Ignored(message.event, "late"))
        elif message.sdp != self._offer:
            self._take(message.sdp, False, now)
        elif self._answer_out:
            self._emit(self._plain_answer(message.sdp, self._answer or ""))
        else:
            self._emit(Ignored(message.event, "repeat"))

    def _candidate(self, message: Candidate) -> None:
        if message.sender == "agent" or message.session_id != self._session_id or not self._channel:
            return
        if self._state is _S.CONNECTED:
            self._emit(Ignored(message.event, "late"))
            return
        candidates, why = self._trickle.receive(message)
        for candidate in candidates:
            self._emit(AddCandidate(self._serial, candidate))
        if why:
            self._emit(Ignored(message.event, why))

    # The offer and its answer.

    def _take(self, sdp: str, express: bool, now: float) -> None:
        if self._offer is not None:
            self._replace("a newer offer", now)
        self._offer = sdp
        self._express = express
        self._emit(CreateAnswer(self._serial, sdp))
        if self._state is _S.CHANNEL_CREATED:
            self._move(_T.OFFER, now)

    def _replace(self, reason: str, now: float) -> None:
        self._emit(ClosePeer(self._serial))
        self._forget()
        self._serial += 1
        self._attempt += 1
        if self._state is not _S.IDLE:
            self._move(_T.REPLACE, now, reason)

    def _joined(self, now: float) -> None:
        self._move(_T.SIGNALING_JOINED, now)
        if not self._express:
            self._emit(SendReady(self._serial, self._ready(None)))
        if self._offer is None:
            return
        self._move(_T.OFFER, now)
        if self._answer is not None:
            self._send_answer(self._offer, self._answer)

    def _created(self, sdp: str) -> None:
        self._check(_T.ANSWER_CREATED)
        if self._offer is None or self._answer is not None:
            raise NotAllowed("Answering", self._state, _T.ANSWER_CREATED)
        self._answer = sdp
        for candidate in self._trickle.described(self._offer):
            self._emit(AddCandidate(self._serial, candidate))
        if self._state is _S.OFFER_RECEIVED:
            self._send_answer(self._offer, sdp)

    def _send_answer(self, offer: str, answer: str) -> None:
        self._answer_out = True
        if self._express:
            self._emit(SendReady(self._serial, self._ready(answer)))
        else:
            self._emit(self._plain_answer(offer, answer))
        self._send_candidates(self._trickle.announced(answer))

    def _plain_answer(self, offer: str, answer: str) -> SendAnswer:
        message = Answer(sdp=answer, session_id=self._session_id, reply_to=_reply_to(offer))
        return SendAnswer(self._serial, message)

    def _ready(self, answer: str | None) -> ConnectionReady:
        return ConnectionReady(
            agent_id=self._agent_id,
            session_id=self._session_id,
            answer=answer,
            reply_to=None if answer is None else _reply_to(self._offer or ""),
            ice_servers=self._ice_servers,
            capabilities=self._common,
        )

    def _send_candidates(self, messages: list[Candidate]) -> None:
        if self._state is _S.CONNECTED:
            return
        for message in messages:
            self._emit(SendCandidate(self._serial, message))

    # Completions.

    def _is_over(self, event: Numbered) -> bool:
        if not 1 <= event.serial <= self._serial:
            raise NotAllowed("Answering", self._state, f"{type(event).__name__} of try {event.serial}")
        of_channel = isinstance(event, SignalingJoined | ChannelLost) and self._state is _S.IDLE
        return not self._channel or event.serial < (self._channel if of_channel else self._serial)

    def _sent(self, now: float) -> None:
        if not self._answer_out:
            raise NotAllowed("Answering", self._state, _T.ANSWER_SENT)
        if self._state is _S.OFFER_RECEIVED:  # otherwise the wire was up before the acknowledgement
            self._move(_T.ANSWER_SENT, now)
            self._move(_T.CONNECT, now)

    def _wire_up(self, now: float) -> None:
        if self._answer_out:
            self._sent(now)
        self._move(_T.WIRE_UP, now)

    # Endings.

    def _channel_lost(self, reason: str, now: float) -> None:
        if self._state is _S.IDLE:
            self._refuse(SignalingLost.code, reason, now)
        elif self._state not in (_S.CONNECTING, _S.CONNECTED):  # these need the channel no more
            self._end(_T.FAIL, reason, now)

    def _peer_failed(self, reason: str, now: float) -> None:
        if self._state is _S.CONNECTED:  # a wire that is up is lost by WireLost only
            return
        if self._offer is None:
            raise NotAllowed("Answering", self._state, "peer-failed")
        if self._answer_out:
            self._end(_T.FAIL, reason, now)
        else:
            self._refuse(ConnectFailed.code, reason, now)

    def _refuse(self, code: str, reason: str, now: float) -> None:
        refused = ConnectionRefused(
            agent_id=self._agent_id,
            session_id=self._session_id,
            code=code,
            message=_sentence(reason),
            capabilities=self._common,
        )
        self._emit(SendRefused(self._serial, refused))
        self._end(_T.FAIL, reason, now)

    def _stop(self, reason: str, now: float) -> None:
        if self._channel:
            self._end(_T.STOP, reason, now)

    def _end(self, trigger: AnsweringTrigger, reason: str, now: float) -> None:
        self._check(trigger)
        if self._offer is not None:
            self._emit(ClosePeer(self._serial))
        self._emit(LeaveSignaling(self._serial))
        self._channel = 0
        self._forget()
        self._move(trigger, now, reason)
        self._move(_T.CLEANED, now, reason)


def _reply_to(offer: str) -> str | None:
    return next(iter(ice_ufrags(offer)), None)


def _sentence(reason: str) -> str:
    """Cut a reason to what a message may hold."""
    return reason.encode(errors="replace")[:TEXT_BYTES].decode(errors="ignore")
