"""Hub: the embedded back end that the official Supabase clients talk to, in one process on SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from doorstep.hub.config import HubConfig, RealtimeLimits, SignInLimits
from doorstep.hub.events import HubEvent, HubEventKind

if TYPE_CHECKING:
    from doorstep.hub.server import HubServer

__all__ = ["HubConfig", "HubEvent", "HubEventKind", "HubServer", "RealtimeLimits", "SignInLimits"]


def __getattr__(name: str) -> object:
    """Import the server, and with it the web stack, only when it is asked for."""
    if name == "HubServer":
        from doorstep.hub.server import HubServer

        return HubServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
