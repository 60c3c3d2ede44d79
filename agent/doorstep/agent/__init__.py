"""The agent: the daemon on the machine behind the NAT. It registers, answers knocks, serves sessions.

``doorstep.agent.run`` runs it as a process, with lock, sign-in and signals.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from doorstep.agent.agent import Agent
    from doorstep.agent.events import AgentEvent, EventKind
    from doorstep.agent.exec import ExecService
    from doorstep.agent.files import FilesService
    from doorstep.agent.identity import Identity
    from doorstep.agent.settings import Settings
    from doorstep.agent.terminal import TerminalService

__all__ = [
    "Agent",
    "AgentEvent",
    "EventKind",
    "ExecService",
    "FilesService",
    "Identity",
    "Settings",
    "TerminalService",
]

_HOMES = {
    "Agent": "agent",
    "AgentEvent": "events",
    "EventKind": "events",
    "ExecService": "exec",
    "FilesService": "files",
    "Identity": "identity",
    "Settings": "settings",
    "TerminalService": "terminal",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, when it is asked for: a service does not cost the others' imports."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
