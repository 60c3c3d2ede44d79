"""Protocol: the signaling messages, their wire form and their checks (wire.md §2).

A message is a broadcast event name and a JSON object. :func:`parse` turns what arrived into one
frozen message, or raises :class:`~doorstep.protocol.errors.MalformedMessage` (the peer's fault).
Building one with a bad value raises :class:`~doorstep.protocol.errors.InvalidInput` (ours). Both
run the same checks. An optional field that is null is absent; unknown fields are ignored.

One optional field is ours, beyond the table of wire.md: ``replyTo`` on ``answer`` and
``connection-ready`` is the ICE username fragment of the offer that is answered. A session keeps its
``sessionId`` over all its attempts; this is how a client tells an answer to its present offer from
a late answer to an older one. A peer that omits it is believed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import msgspec

from doorstep.protocol import limits
from doorstep.protocol.errors import InvalidInput, MalformedMessage
from doorstep.protocol.ids import AgentId, ClientId, SessionId, agent_id, client_id, session_id
from doorstep.protocol.texts import check_text

__all__ = [
    "BROADCAST",
    "RELAY",
    "Answer",
    "Candidate",
    "ConnectionReady",
    "ConnectionRefused",
    "ConnectionRequest",
    "IceCandidate",
    "IceServer",
    "Message",
    "Offer",
    "dump",
    "ice_ufrags",
    "parse",
]

RELAY = "relay"
"""The capability of one who comes to the relay that it is configured with."""
BROADCAST = "broadcast"
"""The capability of one who comes to the session's own Broadcast channel."""

_UFRAG = re.compile(r"^a=ice-ufrag:(\S+)\s*$", re.MULTILINE)  # RFC 8839 §5.4


class IceServer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A STUN or TURN server, as in W3C ``RTCIceServer``; ``urls`` is always a list here."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = None

    def __post_init__(self) -> None:
        _count("iceServers", self.urls, limits.ICE_SERVERS)
        for text in (*self.urls, self.username, self.credential):
            check_text("iceServers", text, limits.TEXT_BYTES)


class _Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """How every message is written: camelCase, optional fields left out when unset."""


class ConnectionRequest(_Message, frozen=True, kw_only=True):
    """The knock, client → agent. With ``offer`` it is the express knock.

    ``capabilities`` are words the peer may not know; :data:`RELAY` and :data:`BROADCAST` say where else the
    client comes at once for this session. Where that is each side knows by itself.
    """

    event: ClassVar[str] = "connection-request"
    agent_id: AgentId
    session_id: SessionId | None = None
    client_id: ClientId | None = None
    capabilities: tuple[str, ...] = ()
    offer: str | None = None
    proof: dict[str, str] | None = None

    def __post_init__(self) -> None:
        _ids(self.agent_id, self.session_id)
        if self.client_id is not None:
            client_id(self.client_id)
        _words("capabilities", self.capabilities)
        _sdp("offer", self.offer)
        _proof(self.proof)


class ConnectionReady(_Message, frozen=True, kw_only=True):
    """Agent → client: the signaling channel is joined. ``answer`` answers an express knock.

    ``capabilities`` are those of the request that the agent has too: it comes there as well.
    """

    event: ClassVar[str] = "connection-ready"
    agent_id: AgentId
    session_id: SessionId | None = None
    answer: str | None = None
    reply_to: str | None = None
    ice_servers: tuple[IceServer, ...] | None = None
    capabilities: tuple[str, ...] = ()
    proof: dict[str, str] | None = None

    def __post_init__(self) -> None:
        _ids(self.agent_id, self.session_id)
        _words("capabilities", self.capabilities)
        _sdp("answer", self.answer)
        check_text("replyTo", self.reply_to, limits.WORD_BYTES)
        _count("iceServers", self.ice_servers or (), limits.ICE_SERVERS)
        _proof(self.proof)


class ConnectionRefused(_Message, frozen=True, kw_only=True):
    """Agent → client: no. ``code`` is a word of the protocol, ``retry_after`` is in seconds.

    ``capabilities`` are as in a ready: the peer connection came to nothing, but the agent comes there.
    """

    event: ClassVar[str] = "connection-refused"
    agent_id: AgentId
    code: str
    message: str
    session_id: SessionId | None = None
    retry_after: float | None = None
    capabilities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _ids(self.agent_id, self.session_id)
        _words("capabilities", self.capabilities)
        check_text("code", self.code, limits.WORD_BYTES)
        check_text("message", self.message, limits.TEXT_BYTES)
        if self.retry_after is not None and not (math.isfinite(self.retry_after) and self.retry_after >= 0):
            raise InvalidInput("retryAfter", "must be a number of seconds, 0 or more")


class Offer(_Message, frozen=True, kw_only=True):
    """Client → agent: the SDP offer."""

    event: ClassVar[str] = "offer"
    sdp: str
    session_id: SessionId | None = None
    proof: dict[str, str] | None = None

    def __post_init__(self) -> None:
        _ids(None, self.session_id)
        _sdp("sdp", self.sdp)
        _proof(self.proof)


class Answer(_Message, frozen=True, kw_only=True):
    """Agent → client: the SDP answer. ``reply_to`` is the ICE username fragment of the offer it answers."""

    event: ClassVar[str] = "answer"
    sdp: str
    session_id: SessionId | None = None
    reply_to: str | None = None
    proof: dict[str, str] | None = None

    def __post_init__(self) -> None:
        _ids(None, self.session_id)
        _sdp("sdp", self.sdp)
        check_text("replyTo", self.reply_to, limits.WORD_BYTES)
        _proof(self.proof)


class IceCandidate(_Message, frozen=True, kw_only=True):
    """An ICE candidate, as in W3C ``RTCIceCandidateInit``; ``candidate=""`` means there are no more.

    ``username_fragment`` is that of the side the candidate belongs to. It is checked as part of a message.
    """

    candidate: str
    sdp_mid: str | None
    sdp_m_line_index: int | None = None
    username_fragment: str | None = None


class Candidate(IceCandidate, frozen=True, kw_only=True):
    """Both ways: a candidate and ``more`` of one side. ``sender`` (``from`` on the wire): client or agent."""

    event: ClassVar[str] = "candidate"
    session_id: SessionId | None = None
    sender: str | None = msgspec.field(default=None, name="from")
    more: tuple[IceCandidate, ...] = ()

    def __post_init__(self) -> None:
        _ice(self)
        _ids(None, self.session_id)
        check_text("from", self.sender, limits.WORD_BYTES)
        _count("more", self.more, limits.CANDIDATES_PER_MESSAGE - 1)
        for further in self.more:
            _ice(further, "more")

    def each(self) -> tuple[Candidate, ...]:
        """This candidate and those of ``more``, each on its own, with the four ICE fields only."""
        return tuple(
            Candidate(
                candidate=one.candidate,
                sdp_mid=one.sdp_mid,
                sdp_m_line_index=one.sdp_m_line_index,
                username_fragment=one.username_fragment,
            )
            for one in (self, *self.more)
        )


Message = ConnectionRequest | ConnectionReady | ConnectionRefused | Offer | Answer | Candidate

_TYPES: dict[str, type[Message]] = {
    "connection-request": ConnectionRequest,
    "connection-ready": ConnectionReady,
    "connection-refused": ConnectionRefused,
    "offer": Offer,
    "answer": Answer,
    "candidate": Candidate,
    "signal-offer": Offer,
    "signal-answer": Answer,
    "signal-candidate": Candidate,
}
_REQUIRED = {
    kind: tuple(field.encode_name for field in msgspec.structs.fields(kind) if field.required)
    for kind in _TYPES.values()
}


def parse(event: str, payload: object) -> Message:
    """Read a broadcast; raise :class:`MalformedMessage` with the top-level field that is wrong.

    ``field`` is ``event`` for an unknown event and ``payload`` for something that is not an object.
    """
    kind = _TYPES.get(event)
    if kind is None:
        raise MalformedMessage(event[: limits.WORD_BYTES], "event", "is not an event of this protocol")
    if not isinstance(payload, Mapping):
        raise MalformedMessage(event, "payload", "must be an object")
    for field in _REQUIRED[kind]:
        if field not in payload:
            raise MalformedMessage(event, field, "is required")
    given = {
        name: value
        for name, value in cast("Mapping[str, Any]", payload).items()
        if value is not None or name in _REQUIRED[kind]
    }
    try:
        return msgspec.convert(given, kind)
    except InvalidInput as error:
        raise MalformedMessage(event, error.field, error.message) from None
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        raise MalformedMessage(event, re.split(r"[`.\[]", path)[0] or "payload", reason) from None


def dump(message: Message) -> tuple[str, dict[str, Any]]:
    """Return the event name and the JSON-ready payload of a message."""
    return message.event, msgspec.to_builtins(message)


def ice_ufrags(sdp: str) -> tuple[str, ...]:
    """Return the ICE username fragments of a description (RFC 8839 §5.4), in order."""
    return tuple(_UFRAG.findall(sdp))


def _ids(agent: str | None, session: str | None) -> None:
    if agent is not None:
        agent_id(agent)
    if session is not None:
        session_id(session)


def _sdp(field: str, text: str | None) -> None:
    if text == "":
        raise InvalidInput(field, "must not be empty")
    check_text(field, text, limits.SDP_BYTES)


def _ice(one: IceCandidate, field: str = "") -> None:
    check_text(field or "candidate", one.candidate, limits.CANDIDATE_BYTES)
    check_text(field or "sdpMid", one.sdp_mid, limits.WORD_BYTES)
    check_text(field or "usernameFragment", one.username_fragment, limits.WORD_BYTES)
    if one.sdp_m_line_index is not None and not 0 <= one.sdp_m_line_index < 2**16:
        raise InvalidInput(field or "sdpMLineIndex", "must be 0 to 65535")


def _proof(proof: Mapping[str, str] | None) -> None:
    _count("proof", proof or {}, limits.CAPABILITIES)
    for key, value in (proof or {}).items():
        check_text("proof", key, limits.WORD_BYTES)
        check_text("proof", value, limits.TEXT_BYTES)


def _words(field: str, words: tuple[str, ...]) -> None:
    _count(field, words, limits.CAPABILITIES)
    for word in words:
        check_text(field, word, limits.WORD_BYTES)


def _count(field: str, items: Mapping[str, Any] | tuple[Any, ...], limit: int) -> None:
    if len(items) > limit:
        raise InvalidInput(field, f"must have at most {limit} entries")
