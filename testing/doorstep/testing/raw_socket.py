"""Testing: a realtime socket that sends whatever a test says, also what no official client would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

__all__ = ["Message", "RawSocket", "join_payload", "raw_socket"]

_SECONDS = 5.0


class Message:
    """A text frame from the server, the same for both versions. ``join_ref`` is ``None`` in version 1.0.0."""

    def __init__(self, frame: str) -> None:
        content: Any = json.loads(frame)
        array = isinstance(content, list)
        self.keys: set[str] | None = None if array else set(content)
        """The keys of a 1.0.0 frame."""
        self.join_ref: Any = content[0] if array else None
        self.ref: Any = content[1 if array else "ref"]
        self.topic: str = content[2 if array else "topic"]
        self.event: str = content[3 if array else "event"]
        self.payload: Any = content[4 if array else "payload"]

    def __repr__(self) -> str:
        return f"<{self.join_ref} {self.ref} {self.topic} {self.event} {self.payload}>"


def join_payload(
    *,
    token: str | None = None,
    private: bool = False,
    key: str = "",
    presence: bool = False,
    ack: bool = False,
    own: bool = False,
    changes: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The payload of ``phx_join`` as the official clients write it."""
    config = {
        "broadcast": {"ack": ack, "self": own},
        "presence": {"key": key, "enabled": presence},
        "postgres_changes": changes or [],
        "private": private,
    }
    return {"config": config} if token is None else {"config": config, "access_token": token}


class RawSocket:
    """One connection; ``vsn`` is 1.0.0 or 2.0.0."""

    def __init__(self, connection: ClientConnection, vsn: str) -> None:
        self.connection = connection
        self._vsn = vsn

    async def send(self, join_ref: Any, ref: Any, topic: str, event: str, payload: Any = None) -> None:
        """Send one text frame in the socket's version."""
        payload = {} if payload is None else payload
        if self._vsn == "2.0.0":
            frame: Any = [join_ref, ref, topic, event, payload]
        else:
            frame = {"topic": topic, "event": event, "payload": payload, "ref": ref, "join_ref": join_ref}
        await self.connection.send(json.dumps(frame))

    async def receive(self, seconds: float = _SECONDS) -> Message:
        """The next text frame."""
        frame = await self.frame(seconds)
        assert isinstance(frame, str), frame
        return Message(frame)

    async def frame(self, seconds: float = _SECONDS) -> str | bytes:
        """The next frame as it came."""
        async with asyncio.timeout(seconds):
            return await self.connection.recv()

    async def join(self, topic: str, ref: str = "1", **options: Any) -> Message:
        """Join ``realtime:topic`` and give the reply."""
        await self.send(ref, ref, f"realtime:{topic}", "phx_join", join_payload(**options))
        return await self.receive()

    async def barrier(self) -> list[Message]:
        """Everything the server had to say before it answers a heartbeat: nothing else is on its way."""
        await self.send(None, "barrier", "phoenix", "heartbeat")
        before: list[Message] = []
        while (message := await self.receive()).ref != "barrier":
            before.append(message)
        return before

    async def closed(self, seconds: float = _SECONDS) -> int:
        """Wait until the server closes the connection; its code."""
        async with asyncio.timeout(seconds):
            await self.connection.wait_closed()
        assert self.connection.close_code is not None
        return self.connection.close_code


@asynccontextmanager
async def raw_socket(
    url: str, key: str, *, vsn: str = "2.0.0", path: str = "/realtime/v1/websocket"
) -> AsyncGenerator[RawSocket, None]:
    """Connect to the hub at ``url`` (http) with the project key ``key``."""
    address = f"{url.replace('http', 'ws', 1)}{path}?apikey={key}&vsn={vsn}"
    async with connect(
        address, compression=None, ping_interval=None, proxy=None, max_size=None
    ) as connection:
        yield RawSocket(connection, vsn)
