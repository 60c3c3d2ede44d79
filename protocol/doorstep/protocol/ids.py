"""Protocol: the ids as distinct types, and the names of topics made from them."""

from __future__ import annotations

import re
from typing import NewType

from doorstep.protocol.errors import InvalidInput

__all__ = [
    "AgentId",
    "ClientId",
    "SessionId",
    "UserId",
    "agent_id",
    "agents_topic",
    "client_id",
    "session_id",
    "signaling_topic",
    "user_id",
    "wire_topic",
]

UserId = NewType("UserId", str)
AgentId = NewType("AgentId", str)
SessionId = NewType("SessionId", str)
ClientId = NewType("ClientId", str)

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{8,64}")


def user_id(text: str) -> UserId:
    """Check a user id (a lower-case UUID); raise :class:`InvalidInput` otherwise."""
    return UserId(_checked("userId", text, _UUID, "must be a lower-case UUID"))


def agent_id(text: str) -> AgentId:
    """Check an agent id (a lower-case UUID); raise :class:`InvalidInput` otherwise."""
    return AgentId(_checked("agentId", text, _UUID, "must be a lower-case UUID"))


def session_id(text: str) -> SessionId:
    """Check a session id (8 to 64 of ``A-Z a-z 0-9 _ -``); raise :class:`InvalidInput` otherwise."""
    return SessionId(_checked("sessionId", text, _TOKEN, "must be 8 to 64 of A-Z a-z 0-9 _ -"))


def client_id(text: str) -> ClientId:
    """Check a client id (8 to 64 of ``A-Z a-z 0-9 _ -``); raise :class:`InvalidInput` otherwise."""
    return ClientId(_checked("clientId", text, _TOKEN, "must be 8 to 64 of A-Z a-z 0-9 _ -"))


def agents_topic(user: UserId) -> str:
    """Name the presence channel of one owner's agents and clients."""
    return f"user:{user}:agents"


def signaling_topic(agent: AgentId) -> str:
    """Name the on-demand signaling channel of one agent."""
    return f"agent:{agent}:signaling"


def wire_topic(agent: AgentId, session: SessionId) -> str:
    """Name the channel over which one session may go when there is no other road."""
    return f"agent:{agent}:wire:{session}"


def _checked(field: str, text: str, pattern: re.Pattern[str], rule: str) -> str:
    if not pattern.fullmatch(text):
        raise InvalidInput(field, rule)
    return text
