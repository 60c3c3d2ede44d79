"""Testing: a Realtime service in memory, with the faults of a real one on request.

The supervisor above it is the one that ``transport.realtime`` uses; only the socket is a double. Payloads
pass through JSON and arrive in a later turn of the event loop, as from a network.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from doorstep.protocol.errors import SignalingLost, Unauthorized
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.transport.signaling import ChannelSpec, Presence
from doorstep.transport.supervisor import SupervisedSignaling

__all__ = ["MemoryBus", "MemorySignaling"]


class MemoryBus:
    """The server: topics, members, presence, policies."""

    def __init__(self) -> None:
        self.down = False
        """No connection is accepted."""
        self.silent = False
        """Frames are taken and never answered: a half-open link."""
        self.allows: Callable[[str, str], bool] = lambda user, topic: True  # noqa: ARG005
        """The policies: may this user join this topic?"""
        self.arrivals: Callable[[], Iterable[float]] = lambda: (0.0,)
        """Asked for each receiver of a broadcast: the delays in seconds after which it comes; none = lost."""
        self.joins: list[str] = []
        """The topic of every join that was asked for, refused ones included."""
        self._sockets: set[_MemorySocket] = set()
        self._members: dict[str, list[_MemoryMembership]] = {}

    def signaling(self, user: str = "owner", timing: Timing = DEFAULT_TIMING) -> MemorySignaling:
        """Sign ``user`` in on a socket of its own."""
        return MemorySignaling(self, user, timing)

    def drop(self) -> None:
        """Cut every socket."""
        for socket in list(self._sockets):
            socket.cut("the bus dropped the socket")

    def close_channel(self, topic: str) -> None:
        """Close the channel of every member, as a server does on an expired token."""
        for member in list(self._members.get(topic, ())):
            member.end("CLOSED")

    def members(self, topic: str) -> int:
        """How many have joined ``topic``."""
        return len(self._members.get(topic, ()))

    def connect(self, user: str) -> _MemorySocket:
        if self.down:
            raise SignalingLost("the bus is down")
        socket = _MemorySocket(self, user)
        self._sockets.add(socket)
        return socket

    def enter(self, member: _MemoryMembership) -> None:
        self._members.setdefault(member.topic, []).append(member)
        if member.spec.on_presence is not None:
            asyncio.get_running_loop().call_soon(member.see, self._presence(member.topic))

    def exit(self, member: _MemoryMembership) -> None:
        members = self._members.get(member.topic, [])
        if member in members:
            members.remove(member)
            if not members:
                del self._members[member.topic]
            if member.meta is not None:
                self.tell_presence(member.topic)

    def disconnect(self, socket: _MemorySocket) -> None:
        self._sockets.discard(socket)

    def broadcast(self, sender: _MemoryMembership, event: str, text: str) -> None:
        loop = asyncio.get_running_loop()
        for member in self._members.get(sender.topic, ()):
            for delay in self.arrivals() if member is not sender else ():
                if delay:
                    loop.call_later(delay, member.hear, event, text)
                else:
                    loop.call_soon(member.hear, event, text)

    def tell_presence(self, topic: str) -> None:
        state = self._presence(topic)
        loop = asyncio.get_running_loop()
        for member in self._members.get(topic, ()):
            loop.call_soon(member.see, state)

    def _presence(self, topic: str) -> Presence:
        members = self._members.get(topic, ())
        return {member.spec.presence_key: member.meta for member in members if member.meta is not None}


class MemorySignaling(SupervisedSignaling):
    """Satisfies ``transport.signaling.Signaling`` over a :class:`MemoryBus`."""

    def __init__(self, bus: MemoryBus, user: str = "owner", timing: Timing = DEFAULT_TIMING) -> None:
        async def token() -> str:
            return f"token of {user}"

        async def open_socket(token: str) -> _MemorySocket:  # noqa: ARG001
            return bus.connect(user)

        super().__init__(open_socket, token, timing)


class _MemorySocket:
    """Satisfies ``supervisor.Socket``."""

    def __init__(self, bus: MemoryBus, user: str) -> None:
        self.bus = bus
        self.user = user
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.memberships: list[_MemoryMembership] = []

    async def join(self, spec: ChannelSpec, token: str) -> _MemoryMembership:  # noqa: ARG002
        self.bus.joins.append(spec.topic)
        await self.answer()
        if not self.bus.allows(self.user, spec.topic):
            raise Unauthorized(f"the bus's policies refuse {spec.topic}")
        member = _MemoryMembership(self, spec)
        self.memberships.append(member)
        self.bus.enter(member)
        return member

    async def set_token(self, token: str) -> None:
        """Tokens of the bus do not expire."""

    async def probe(self) -> None:
        await self.answer()

    async def close(self) -> None:
        self.cut("the socket was closed")

    def cut(self, reason: str) -> None:
        self.bus.disconnect(self)
        if not self.lost.done():
            self.lost.set_result(reason)
        for member in list(self.memberships):
            member.end(reason)

    async def answer(self) -> None:
        """Take a turn of the loop, as the network would; for ever when the bus is silent."""
        await asyncio.sleep(0)
        if self.bus.silent:
            await asyncio.shield(self.lost)
        if self.lost.done():
            raise SignalingLost(self.lost.result())


class _MemoryMembership:
    """Satisfies ``supervisor.Membership``."""

    def __init__(self, socket: _MemorySocket, spec: ChannelSpec) -> None:
        self.spec = spec
        self.meta: dict[str, Any] | None = None
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._socket = socket

    @property
    def topic(self) -> str:
        return self.spec.topic

    async def send(self, event: str, payload: Mapping[str, Any]) -> None:
        text = json.dumps(dict(payload))
        await self._socket.answer()
        if self.lost.done():
            raise SignalingLost(self.lost.result())
        self._socket.bus.broadcast(self, event, text)

    async def track(self, meta: Mapping[str, Any] | None) -> None:
        await self._socket.answer()
        if not self.lost.done():
            self.meta = None if meta is None else json.loads(json.dumps(dict(meta)))
            self._socket.bus.tell_presence(self.topic)

    async def leave(self) -> None:
        self.end("the channel was left")

    def end(self, reason: str) -> None:
        if self in self._socket.memberships:
            self._socket.memberships.remove(self)
            self._socket.bus.exit(self)
        if not self.lost.done():
            self.lost.set_result(reason)

    def hear(self, event: str, text: str) -> None:
        if not self.lost.done():
            self.spec.on_message(event, json.loads(text))

    def see(self, state: Presence) -> None:
        if not self.lost.done() and self.spec.on_presence is not None:
            self.spec.on_presence(state)
