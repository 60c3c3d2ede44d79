"""Hub: what the process around the hub may show live: agents coming and going, knocks, sign-ins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["HubEvent", "HubEventKind", "OnEvent"]


class HubEventKind(StrEnum):
    """The things worth showing."""

    AGENT_ONLINE = "agent-online"
    AGENT_OFFLINE = "agent-offline"
    KNOCK = "knock"
    SIGN_IN = "sign-in"
    SIGN_IN_FAILED = "sign-in-failed"


@dataclass(frozen=True, slots=True)
class HubEvent:
    """One thing that happened. ``subject`` is the user id (for sign-ins the address); ``agent`` is its id."""

    kind: HubEventKind
    subject: str
    agent: str | None = None
    detail: str = ""


OnEvent = Callable[[HubEvent], None]
"""Called in the event loop; must not block and must not raise."""
