"""Hub: turns traffic on the owners' channels into :class:`HubEvent`s for the process around the hub."""

from __future__ import annotations

import re

import msgspec

from doorstep.hub.events import HubEvent, HubEventKind, OnEvent
from doorstep.hub.presence import Diff, Presence
from doorstep.protocol.phoenix import Push, UserBroadcast

__all__ = ["Watch"]

_AGENTS = re.compile("user:([0-9a-f-]{36}):agents")
_KNOCK = "connection-request"


class _Knock(msgspec.Struct):
    agentId: str = ""  # noqa: N815 (the wire's name)


class _Broadcast(msgspec.Struct):
    event: str = ""
    payload: _Knock = msgspec.field(default_factory=_Knock)


class Watch:
    """Looks at private ``user:*:agents`` topics only; what it cannot read it ignores."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event

    def presence(self, topic: str, private: bool, diff: Diff, present: Presence) -> None:
        owner = _owner(topic, private)
        if owner is None:
            return
        for key in diff.joins.keys() - diff.leaves.keys():
            self._on_event(HubEvent(HubEventKind.AGENT_ONLINE, owner, key))
        for key in diff.leaves.keys() - diff.joins.keys():
            if key not in present:
                self._on_event(HubEvent(HubEventKind.AGENT_OFFLINE, owner, key))

    def broadcast(self, topic: str, private: bool, source: Push | UserBroadcast) -> None:
        owner = _owner(topic, private)
        if owner is None:
            return
        agent = _knocked(source)
        if agent is not None:
            self._on_event(HubEvent(HubEventKind.KNOCK, owner, agent))


def _owner(topic: str, private: bool) -> str | None:
    found = _AGENTS.fullmatch(topic) if private else None
    return found[1] if found else None


def _knocked(source: Push | UserBroadcast) -> str | None:
    try:
        if isinstance(source, Push):
            message = msgspec.json.decode(source.payload, type=_Broadcast)
            return message.payload.agentId if message.event == _KNOCK else None
        if source.event != _KNOCK or source.binary:
            return None
        return msgspec.json.decode(source.payload, type=_Knock).agentId
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
