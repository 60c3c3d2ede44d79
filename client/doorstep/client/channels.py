"""Client: one topic that attempts come and go on: joined when asked, left when no longer needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from doorstep.protocol.errors import SignalingLost
from doorstep.transport.signaling import Channel, ChannelSpec, ChannelState, Signaling

__all__ = ["Topic"]


class Topic:
    """A channel that attempts come and go on; its supervisor keeps it joined, ``on_lost`` hears of losses."""

    def __init__(
        self,
        signaling: Signaling,
        topic: str,
        *,
        on_message: Callable[[str, dict[str, Any]], None],
        on_lost: Callable[[str], None],
        timeout: float,
    ) -> None:
        self.name = topic
        self._signaling = signaling
        self._on_message = on_message
        self._on_lost = on_lost
        self._timeout = timeout
        self._channel: Channel | None = None
        self._turn = asyncio.Lock()
        self._joined = asyncio.Event()

    async def join(self) -> None:
        """Return when it is joined and its listener in place. Raises ``Unauthorized``, ``SignalingLost``."""
        async with self._turn:
            if self._channel is None:
                spec = ChannelSpec(topic=self.name, on_message=self._on_message, on_state=self._on_state)
                self._channel = await self._signaling.join(spec, timeout=self._timeout)
                self._joined.set()
        await self._joined.wait()  # its supervisor may be joining it again

    async def send(self, event: str, payload: Mapping[str, Any]) -> None:
        """Broadcast. Raises ``SignalingLost``."""
        if self._channel is None:
            raise SignalingLost(f"{self.name} was left; {event} was not sent")
        await self._channel.send(event, payload)

    async def leave(self) -> None:
        """Leave; the topic can be joined again. Idempotent."""
        async with self._turn:
            channel, self._channel = self._channel, None
            self._joined.clear()
            if channel is not None:
                await channel.leave()

    def _on_state(self, state: ChannelState) -> None:
        if state is ChannelState.JOINED:
            self._joined.set()
        elif self._channel is not None:
            self._joined.clear()
            self._on_lost(f"{self.name} is no longer joined: {self._channel.reason}")
