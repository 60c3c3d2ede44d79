"""Hub: topics, their members, and how messages reach them. Public and private ones of one name are two."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from doorstep.hub.config import RealtimeLimits
from doorstep.hub.message import Message
from doorstep.hub.presence import Diff, Presence
from doorstep.hub.rate import Rate
from doorstep.hub.watch import Watch
from doorstep.protocol.phoenix import Outgoing, Push, UserBroadcast

__all__ = ["PREFIX", "Bus", "Member", "Topic"]

PREFIX = "realtime:"
"""A topic's name on the wire is this and the name the application gave it."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the application names it."""

    name: str
    private: bool

    @property
    def wire(self) -> str:
        return PREFIX + self.name


class Member(Hashable, Protocol):
    """What the bus knows of a joined channel."""

    hears: bool
    """Whether it may hear broadcasts."""
    sees: bool
    """Whether it may see presence."""

    def deliver(self, message: Message) -> None:
        """Take one message; must neither block nor raise."""
        ...

    def fail(self, message: str) -> None:
        """Close for a reason the client is told. Idempotent."""
        ...


@dataclass(slots=True)
class _Room:
    # A dict keeps the order in which members joined.
    members: dict[Member, None] = field(default_factory=dict[Member, None])
    presence: Presence = field(default_factory=Presence)


class Bus:
    """All topics of one hub. A topic exists while it has a member.

    ``events`` counts broadcasts, each as one sent and one per receiver; while there are too many, whoever
    receives one is closed. ``presences`` counts tracks, states and diffs.
    """

    def __init__(self, watch: Watch, limits: RealtimeLimits) -> None:
        self._rooms: dict[Topic, _Room] = {}
        self._watch = watch
        self._limits = limits
        self.events = self.rate(limits.events_per_second)
        self.presences = self.rate(limits.presence_events_per_second)

    def __len__(self) -> int:
        return len(self._rooms)

    def rate(self, limit: float) -> Rate:
        """A counter that goes by this hub's ticks."""
        limits = self._limits
        return Rate(limit, tick=limits.rate_tick, buckets=limits.rate_buckets, now=time.monotonic())

    def topics(self) -> tuple[Topic, ...]:
        """The topics that have a member."""
        return tuple(self._rooms)

    def join(self, topic: Topic, member: Member) -> None:
        self._rooms.setdefault(topic, _Room()).members[member] = None

    def leave(self, topic: Topic, member: Member) -> None:
        """Take a member out; the others see its presence leave. Idempotent."""
        room = self._rooms.get(topic)
        if room is None or member not in room.members:
            return
        del room.members[member]
        self._tell(topic, room, room.presence.untrack(member))
        if not room.members:
            del self._rooms[topic]

    def broadcast(
        self,
        topic: Topic,
        source: Push | UserBroadcast,
        *,
        without: Member | None = None,
        message_id: str | None = None,
    ) -> None:
        """Send a broadcast to all members who may hear it, except ``without``."""
        self.send(topic, Message(Outgoing(source), message_id), without=without)
        if topic.private and topic in self._rooms:
            self._watch.broadcast(topic.name, topic.private, source)

    def send(self, topic: Topic, message: Message, *, without: Member | None = None) -> None:
        """Send a message to all members who may hear it, except ``without``."""
        self.events.add()
        room = self._rooms.get(topic)
        if room is None:
            return
        hearers = [member for member in room.members if member.hears and member is not without]
        for member in hearers:
            member.deliver(message)
        self.events.add(len(hearers))
        if self.events.exceeded(time.monotonic()):
            # After what this turn of the loop still has to say: the sender's acknowledgement.
            asyncio.get_running_loop().call_soon(_close, hearers)

    def track(self, topic: Topic, member: Member, key: str, payload: bytes) -> Diff | None:
        """Change a member's presence; the caller sends its reply and then :meth:`tell`s the diff."""
        return self._rooms[topic].presence.track(member, key, payload)

    def untrack(self, topic: Topic, member: Member) -> Diff | None:
        return self._rooms[topic].presence.untrack(member)

    def tell(self, topic: Topic, diff: Diff | None) -> None:
        """Send a presence diff to all members who may see it."""
        room = self._rooms.get(topic)
        if room is not None:
            self._tell(topic, room, diff)

    def presence(self, topic: Topic) -> Presence:
        return self._rooms[topic].presence

    def _tell(self, topic: Topic, room: _Room, diff: Diff | None) -> None:
        if diff is None:
            return
        self._watch.presence(topic.name, topic.private, diff, room.presence)
        message = Message(Outgoing.push(topic.wire, "presence_diff", diff.payload()))
        for member in tuple(room.members):
            if member.sees:
                member.deliver(message)
        self.presences.add(len(room.members))


def _close(members: Iterable[Member]) -> None:
    for member in members:
        member.fail("Too many messages per second")
