"""Protocol: the relay's own words, and who is paired with whom (docs/wire.md, "The relay").

A socket says ``join`` first, in a text message; the access token is in there and never in a URL. The relay
answers ``waiting`` and, when the other role of the session has joined, tells both ``paired``. From then on
binary messages go through unread. ``token`` brings a newer access token, which is answered with ``renewed``.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Generic, TypeVar

import msgspec

from doorstep.protocol.errors import InvalidInput, ProtocolError
from doorstep.protocol.frame_types import Role
from doorstep.protocol.ids import AgentId, SessionId, agent_id, session_id

__all__ = [
    "PATH",
    "End",
    "Join",
    "Joined",
    "NewToken",
    "Notice",
    "Paired",
    "Pairings",
    "Renewed",
    "Request",
    "Waiting",
    "dump",
    "parse_notice",
    "parse_request",
]

PATH = "/relay/v1"

M = TypeVar("M", bound=Hashable)


class End(IntEnum):
    """The close codes (RFC 6455 section 7.4.2 leaves 4000 to 4999 to us); the reason is one sentence."""

    INVALID = 4400
    """A message that is not allowed there."""
    UNAUTHORIZED = 4401
    """The token is not accepted, or has expired and no newer one came."""
    FORBIDDEN = 4403
    """The agent is not the token's."""
    TIMEOUT = 4408
    """The other side did not come, or nothing was said for too long."""
    REPLACED = 4409
    """A newer socket of the same session and role has come."""
    PEER_LEFT = 4410
    QUOTA = 4413
    """The pairing has used up its bytes or its time."""
    SLOW = 4414
    """The reader took nothing for too long."""
    BUSY = 4429
    """Too many sockets."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag_field="event"):
    """How every text message is written."""


class Join(_Message, frozen=True, kw_only=True, tag="join"):
    """The first message of a socket."""

    session_id: SessionId
    agent_id: AgentId
    role: Role
    token: str

    def __post_init__(self) -> None:
        session_id(self.session_id)
        agent_id(self.agent_id)

    def __repr__(self) -> str:  # a token is not for logs
        return f"<Join {self.role} {self.session_id}>"


class NewToken(_Message, frozen=True, kw_only=True, tag="token"):
    """A newer access token of the same user."""

    token: str

    def __repr__(self) -> str:
        return "<NewToken>"


class Waiting(_Message, frozen=True, kw_only=True, tag="waiting"):
    """The other side is waited for, so many seconds."""

    seconds: float


class Paired(_Message, frozen=True, kw_only=True, tag="paired"):
    """Both are here. A newer token must come within ``token_seconds``."""

    token_seconds: float
    max_message: int


class Renewed(_Message, frozen=True, kw_only=True, tag="renewed"):
    """The new token is accepted; the next one must come within ``token_seconds``."""

    token_seconds: float


Request = Join | NewToken
Notice = Waiting | Paired | Renewed

_encode = msgspec.json.Encoder().encode


def parse_request(text: str) -> Request:
    """Read what a socket says to the relay; raise :class:`ProtocolError`."""
    request: Request = _parse(text, Request)
    return request


def parse_notice(text: str) -> Notice:
    """Read what the relay says; raise :class:`ProtocolError`."""
    notice: Notice = _parse(text, Notice)
    return notice


def dump(message: Request | Notice) -> str:
    """The text of a message."""
    return _encode(message).decode()


def _parse(text: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, InvalidInput, RecursionError, UnicodeEncodeError) as error:
        raise ProtocolError(f"not a message of the relay: {error}") from None


@dataclass(frozen=True, slots=True)
class Joined(Generic[M]):
    """What a join led to: the ``partner`` if it is there, and those that must go: their place is taken."""

    partner: M | None
    replaced: tuple[M, ...]


@dataclass(slots=True)
class _Session(Generic[M]):
    waiting: dict[Role, M] = field(default_factory=dict[Role, M])
    paired: dict[Role, M] = field(default_factory=dict[Role, M])


class Pairings(Generic[M]):
    """Who waits for whom. One session has at most one pair, and beside it one waiting member per role.

    A newer member waits beside the pair and takes its place when its own partner comes: a session that
    changes over to a new relay wire keeps the old one until then.
    """

    def __init__(self) -> None:
        self._sessions: dict[Hashable, _Session[M]] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def join(self, key: Hashable, role: Role, member: M) -> Joined[M]:
        """Add a member of the session ``key``. The newest of a role wins."""
        session = self._sessions.setdefault(key, _Session())
        replaced = [session.waiting.pop(role)] if role in session.waiting else []
        partner = session.waiting.pop(_other(role), None)
        if partner is None:
            session.waiting[role] = member
        else:
            replaced += session.paired.values()
            session.paired = {role: member, _other(role): partner}
        return Joined(partner, tuple(replaced))

    def leave(self, key: Hashable, role: Role, member: M) -> M | None:
        """Take a member out; return the partner it leaves alone. One that was replaced is out already."""
        session = self._sessions.get(key)
        if session is None:
            return None
        partner = None
        if session.waiting.get(role) == member:
            del session.waiting[role]
        elif session.paired.get(role) == member:
            partner = session.paired[_other(role)]
            session.paired = {}
        if not session.waiting and not session.paired:
            del self._sessions[key]
        return partner


def _other(role: Role) -> Role:
    return Role.AGENT if role is Role.CLIENT else Role.CLIENT
