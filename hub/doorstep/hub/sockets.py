"""Hub: all realtime sockets of one hub: how many may come, and which are dropped because they do nothing."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from doorstep.hub.config import RealtimeLimits
from doorstep.hub.outbox import Flusher
from doorstep.hub.rate import Rate

__all__ = ["Socket", "Sockets"]


class Socket(Protocol):
    """What this module needs of a socket."""

    @property
    def idle(self) -> bool:
        """Whether it has no channel."""
        ...

    def drop(self) -> None: ...
    def ask_to_leave(self) -> None: ...


class Sockets:
    """The sockets, and among them the users: those that have joined a channel once."""

    def __init__(self, limits: RealtimeLimits) -> None:
        self._limits = limits
        self._all: dict[Socket, None] = {}
        self._users: dict[Socket, None] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self.joins = Rate(
            limits.joins_per_second,
            tick=limits.rate_tick,
            buckets=limits.rate_buckets,
            now=time.monotonic(),
        )
        self.flusher = Flusher()

    def __len__(self) -> int:
        return len(self._all)

    def refusal(self) -> str | None:
        """Why another socket is not let in, in the real server's words."""
        if len(self._users) >= self._limits.connections or len(self._all) >= self._limits.sockets:
            return "Too many connected users"
        if self.joins.exceeded(time.monotonic()):
            return "Too many joins per second"
        return None

    def add(self, socket: Socket) -> None:
        self._all[socket] = None

    def remove(self, socket: Socket) -> None:
        self._all.pop(socket, None)
        self._users.pop(socket, None)

    def may_be_user(self, socket: Socket) -> bool:
        """Whether this socket may join a channel, or is one user too many."""
        return socket in self._users or len(self._users) < self._limits.connections

    def is_user(self, socket: Socket) -> None:
        """Count a socket that has joined a channel."""
        self._users[socket] = None

    def ask_all_to_leave(self) -> None:
        """Close every channel, telling the clients that the server wants it so."""
        for socket in tuple(self._all):
            socket.ask_to_leave()

    def start(self) -> None:
        """Begin to sweep."""
        self._sweeping = asyncio.get_running_loop().call_later(self._limits.no_channel, self._sweep)

    def stop(self) -> None:
        """Stop sweeping, drop whoever is still there. Idempotent."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for socket in tuple(self._all):
            socket.drop()

    def _sweep(self) -> None:
        for socket in tuple(self._all):
            if socket.idle:
                socket.drop()
        self.start()
