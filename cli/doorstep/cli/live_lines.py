"""CLI: what happens, as one line each, while ``doorstep up`` runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from doorstep.hub import HubEvent

__all__ = ["LiveLines"]

_Sentence = Callable[[Mapping[str, Any]], str]


def _reason(event: Mapping[str, Any]) -> str:
    return f": {event['reason']}" if event.get("reason") else ""


def _wire(event: Mapping[str, Any]) -> str:
    seconds = event.get("seconds")
    took = f" after {seconds:.2f} s" if isinstance(seconds, int | float) else ""
    return f"by {event.get('wire') or 'an unknown wire'}{took}"


_SENTENCES: dict[str, _Sentence] = {
    "online": lambda event: f"agent {event.get('name', '')} is online",
    "offline": lambda event: f"agent {event.get('name', '')} is offline{_reason(event)}",
    "knock": lambda _: "a client is knocking",
    "refused": lambda event: f"turned a client away{_reason(event)}",
    "connected": lambda event: f"connected {_wire(event)}",
    "resumed": lambda event: f"session goes on, now {_wire(event)}",
    "failed": lambda event: f"no connection came of it{_reason(event)}",
    "session-ended": lambda event: f"session ended{_reason(event)}",
    "agent-ended": lambda event: (
        f"the agent ended with code {event['exitCode']} and is not started again; its message is above"
    ),
    "agent-crashed": lambda event: (
        f"the agent ended with code {event['exitCode']}; starting it again in {event['restartIn']:g} s"
    ),
}


class LiveLines:
    """Prints what is worth a line; what is unknown is left out."""

    def __init__(self, out: Callable[[str], None] = click.echo) -> None:
        self._out = out

    def agent(self, event: Mapping[str, Any]) -> None:
        """Show an event line of the agent process."""
        sentence = _SENTENCES.get(str(event.get("event")))
        if sentence is not None:
            session = event.get("sessionId")
            self._line(sentence(event) + (f" [{str(session)[:8]}]" if session else ""))

    def hub(self, event: HubEvent) -> None:
        """Show what the hub alone knows: who signs in (by password: only our own processes do)."""
        if event.kind == "sign-in" and event.detail == "link":
            self._line("a browser signed in")
        elif event.kind == "sign-in-failed":
            self._line(f"a sign-in as {event.subject} was refused")

    def _line(self, text: str) -> None:
        printable = "".join(c if c.isprintable() else "?" for c in text)
        self._out(f"{datetime.now().astimezone():%H:%M:%S}  {printable}")
