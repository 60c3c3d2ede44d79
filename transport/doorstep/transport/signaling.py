"""Transport: what a signaling service is, whoever provides it (Supabase Realtime, the hub, a memory bus)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

__all__ = ["Channel", "ChannelSpec", "ChannelState", "Presence", "Signaling"]

Presence = Mapping[str, Mapping[str, Any]]
"""Present members: presence key → the newest meta of that key."""


class ChannelState(StrEnum):
    """What a member sees of its channel."""

    JOINED = "joined"
    LOST = "lost"  # the socket or channel dropped; the supervisor is already at work
    LEFT = "left"  # left on purpose, or a rejoin was refused by the policies; final


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSpec:
    """A channel as it is joined, and joined again after every loss. Callbacks run in the event loop and must
    not block."""

    topic: str
    on_message: Callable[[str, dict[str, Any]], None]
    """Called with (event, payload) for each broadcast of others, never for one's own."""
    on_presence: Callable[[Presence], None] | None = None
    """Called with all present members after each (debounced) change. None = presence is not asked for."""
    on_state: Callable[[ChannelState], None] | None = None
    presence_key: str = ""
    """Key under which :meth:`Channel.track` announces this member."""


class Channel(Protocol):
    """A joined private channel that its supervisor keeps joined until :meth:`leave`."""

    @property
    def topic(self) -> str: ...

    @property
    def state(self) -> ChannelState: ...

    @property
    def reason(self) -> str:
        """Why it is not joined."""
        ...

    @property
    def presence(self) -> Presence: ...

    async def send(self, event: str, payload: Mapping[str, Any]) -> None:
        """Broadcast; return when the server has acknowledged it.

        Raises :class:`~doorstep.protocol.errors.SignalingLost` when the channel is not joined or no
        acknowledgement came; nothing is buffered for later.
        """
        ...

    async def track(self, meta: Mapping[str, Any]) -> None:
        """Announce ``meta`` under the presence key, now and again after every rejoin."""
        ...

    async def untrack(self) -> None: ...

    async def leave(self) -> None:
        """Leave the topic. Idempotent; the same topic can be joined again at once."""
        ...


class Signaling(Protocol):
    """One signed-in connection to a Realtime service; opens its socket at the first join."""

    async def join(self, spec: ChannelSpec, *, timeout: float) -> Channel:
        """Join a private channel.

        Raises :class:`~doorstep.protocol.errors.Unauthorized` when the policies refuse (not retried),
        :class:`~doorstep.protocol.errors.SignalingLost` when it is not joined within ``timeout`` seconds.
        """
        ...

    def topics(self) -> tuple[str, ...]:
        """The topics joined or being joined: an idle agent has one."""
        ...

    async def close(self) -> None:
        """Leave everything, close the socket, end every task. Idempotent."""
        ...
