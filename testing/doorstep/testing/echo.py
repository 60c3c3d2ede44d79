"""Testing: a service that gives back what it gets, the smallest thing to talk to over a session."""

from __future__ import annotations

from typing import Any

from doorstep.runtime import Session, StreamRequest
from doorstep.runtime.services import CallHandler, StreamHandler

__all__ = ["EchoService"]


class EchoService:
    """Calls ``echo.say``; streams ``echo.back`` (bytes come back), ``echo.sink`` (bytes are counted)."""

    name = "echo"

    def __init__(self) -> None:
        self.calls: dict[str, CallHandler] = {"say": self._say}
        self.streams: dict[str, StreamHandler] = {"back": self._back, "sink": self._sink}

    async def _say(self, _: Session, params: dict[str, Any]) -> dict[str, Any]:
        return params

    async def _back(self, request: StreamRequest) -> None:
        stream = await request.accept(request.params)
        async for chunk in stream:
            await stream.write(chunk)
        await stream.finish(stream.trailer or {})

    async def _sink(self, request: StreamRequest) -> None:
        stream = await request.accept(request.params)
        while await stream.read(1 << 20):
            pass
        await stream.finish({"received": stream.received})
