"""Protocol: what goes into the two connection machines (events) and comes out of them (effects).

Besides these, every message of :mod:`doorstep.protocol.signaling` is an event of both.
"""

from __future__ import annotations

from dataclasses import dataclass

from doorstep.protocol.signaling import (
    Answer,
    Candidate,
    ConnectionReady,
    ConnectionRefused,
    ConnectionRequest,
    IceServer,
    Offer,
)

__all__ = [
    "AddCandidate",
    "AgentsJoined",
    "AnswerCreated",
    "AnswerSent",
    "ApplyAnswer",
    "ChannelLost",
    "ClosePeer",
    "Connect",
    "CreateAnswer",
    "CreateOffer",
    "Denied",
    "Ignored",
    "JoinAgents",
    "JoinSignaling",
    "LeaveSignaling",
    "LocalCandidate",
    "NotTrusted",
    "Numbered",
    "OfferCreated",
    "OfferSent",
    "Pause",
    "PeerFailed",
    "RequestSent",
    "Retry",
    "SendAnswer",
    "SendCandidate",
    "SendOffer",
    "SendReady",
    "SendRefused",
    "SendRequest",
    "SignalingJoined",
    "Stop",
    "WireLost",
    "WireUp",
]


@dataclass(frozen=True, slots=True)
class Numbered:
    """Belongs to one try of one machine."""

    serial: int


# Events of both machines.


@dataclass(frozen=True, slots=True)
class SignalingJoined(Numbered):
    """The channel asked for by :class:`JoinSignaling` is joined and its listener in place."""


@dataclass(frozen=True, slots=True)
class ChannelLost(Numbered):
    """A channel could not be joined, or a send on it was not acknowledged."""

    reason: str


@dataclass(frozen=True, slots=True)
class LocalCandidate(Numbered):
    """Our peer found a candidate after its description was made."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class WireUp(Numbered):
    """Every required lane is open and the session greeted."""


@dataclass(frozen=True, slots=True)
class PeerFailed(Numbered):
    """Our peer could not make or take a description, or ICE, DTLS or the greeting failed. Means nothing once
    the wire is up."""

    reason: str


@dataclass(frozen=True, slots=True)
class WireLost(Numbered):
    """The wire that was up is gone."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Release everything and go to ``idle``. Allowed in every state."""

    reason: str = "stopped"


# Events of the client.


@dataclass(frozen=True, slots=True)
class Connect:
    """Start; the total deadline runs from here."""


@dataclass(frozen=True, slots=True)
class AgentsJoined(Numbered):
    """The channel asked for by :class:`JoinAgents` is joined and its listener in place."""


@dataclass(frozen=True, slots=True)
class RequestSent(Numbered):
    """The server has acknowledged :class:`SendRequest`."""


@dataclass(frozen=True, slots=True)
class OfferCreated(Numbered):
    """The peer asked for by :class:`CreateOffer` has this offer."""

    sdp: str


@dataclass(frozen=True, slots=True)
class OfferSent(Numbered):
    """The server has acknowledged :class:`SendOffer`."""


@dataclass(frozen=True, slots=True)
class NotTrusted(Numbered):
    """The agent's key or proof is not the one that was expected. Final. Fields as of ``PeerNotTrusted``."""

    reason: str
    known: str | None = None
    shown: str | None = None


@dataclass(frozen=True, slots=True)
class Denied(Numbered):
    """The back end's policies refused a join. Final."""

    reason: str


@dataclass(frozen=True, slots=True)
class Pause:
    """After a retryable outcome: the pause before the next attempt begins."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The pause is over."""


# Events of the agent.


@dataclass(frozen=True, slots=True)
class AnswerCreated(Numbered):
    """The peer asked for by :class:`CreateAnswer` has this answer."""

    sdp: str


@dataclass(frozen=True, slots=True)
class AnswerSent(Numbered):
    """The server has acknowledged a :class:`SendAnswer`, or a :class:`SendReady` that carries an answer."""


# Effects of both machines.


@dataclass(frozen=True, slots=True)
class JoinSignaling(Numbered):
    """Join ``agent:{agentId}:signaling`` with its listener, then SignalingJoined, ChannelLost or Denied."""


@dataclass(frozen=True, slots=True)
class LeaveSignaling(Numbered):
    """This try no longer needs the signaling channel. Never touches a peer."""


@dataclass(frozen=True, slots=True)
class SendCandidate(Numbered):
    """Broadcast on the signaling channel. Nothing is reported back."""

    message: Candidate


@dataclass(frozen=True, slots=True)
class AddCandidate(Numbered):
    """Give the peer a candidate of the other side; its remote description has been given before."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class ClosePeer(Numbered):
    """Close the peer of this try and cancel what is still being done for it."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """A message changed nothing: ``repeat``, ``stale`` (an older attempt), ``late`` or ``limit``."""

    event: str
    why: str


# Effects of the client.


@dataclass(frozen=True, slots=True)
class JoinAgents(Numbered):
    """Join ``user:{userId}:agents``, if it is not; then AgentsJoined, ChannelLost or Denied."""


@dataclass(frozen=True, slots=True)
class SendRequest(Numbered):
    """Broadcast on the agents channel, then RequestSent or ChannelLost."""

    message: ConnectionRequest


@dataclass(frozen=True, slots=True)
class CreateOffer(Numbered):
    """Make a peer and its offer, then OfferCreated or PeerFailed. ``ice_servers`` None = the client's own."""

    ice_servers: tuple[IceServer, ...] | None


@dataclass(frozen=True, slots=True)
class SendOffer(Numbered):
    """Broadcast on the signaling channel, then OfferSent, ChannelLost or NotTrusted.

    ``proof`` is that of the ``connection-ready`` that asked for it.
    """

    message: Offer
    proof: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ApplyAnswer(Numbered):
    """Check the answer's proof, give the answer to the peer and wait for its wire, then WireUp, PeerFailed or
    NotTrusted."""

    sdp: str
    proof: dict[str, str] | None = None


# Effects of the agent.


@dataclass(frozen=True, slots=True)
class SendReady(Numbered):
    """Broadcast on the agents channel; then ChannelLost, or AnswerSent if it carries an answer."""

    message: ConnectionReady


@dataclass(frozen=True, slots=True)
class SendRefused(Numbered):
    """Broadcast on the agents channel. Nothing is reported back."""

    message: ConnectionRefused


@dataclass(frozen=True, slots=True)
class CreateAnswer(Numbered):
    """Make a peer that takes this offer, then AnswerCreated or PeerFailed; wait for its wire: WireUp."""

    sdp: str


@dataclass(frozen=True, slots=True)
class SendAnswer(Numbered):
    """Broadcast on the signaling channel, then AnswerSent or ChannelLost."""

    message: Answer
