"""Transport: HTTP whose answers have an end: in bytes, in time, and not to be unpacked into more."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

__all__ = ["BoundedClient", "read_bounded", "unpacked"]

ANSWER_BYTES = 16 * 1024 * 1024
"""The longest answer that anybody needs: a thousand agents, each with more to say of itself than any has."""

unpacked = {"Accept-Encoding": "identity"}
"""The header that asks for an answer as it is: a few bytes can unpack to any number."""


class BoundedClient(httpx.AsyncClient):
    """A client that reads no answer beyond ``most_bytes``, nor for longer than ``seconds`` from the request.

    Beyond it raises ``httpx.RemoteProtocolError`` or ``httpx.ReadTimeout``, both of them ``httpx.HTTPError``.
    An answer that is streamed is its reader's to bound, by :func:`read_bounded`.
    """

    def __init__(self, seconds: float, *, most_bytes: int = ANSWER_BYTES, trust_env: bool = True) -> None:
        super().__init__(timeout=seconds, trust_env=trust_env)
        self._seconds = seconds
        self._most_bytes = most_bytes

    async def send(self, request: httpx.Request, *, stream: bool = False, **how: Any) -> httpx.Response:
        request.headers.update(unpacked)
        if stream:
            return await super().send(request, stream=True, **how)
        try:
            async with asyncio.timeout(self._seconds):
                return await self._whole(await super().send(request, stream=True, **how))
        except TimeoutError:
            raise httpx.ReadTimeout(f"no whole answer within {self._seconds:g} s", request=request) from None

    async def _whole(self, answer: httpx.Response) -> httpx.Response:
        try:
            content = await read_bounded(answer, self._most_bytes)
        finally:
            await answer.aclose()
        return httpx.Response(
            answer.status_code,
            headers=answer.headers,
            content=content,
            request=answer.request,
            extensions=answer.extensions,
            history=answer.history,
        )


async def read_bounded(answer: httpx.Response, most_bytes: int) -> bytes:
    """The body of an answer that is being streamed and was asked for :data:`unpacked`.

    Raises ``httpx.RemoteProtocolError`` for one that is packed all the same, or longer; no more than that is
    read of it.
    """
    packed = answer.headers.get("content-encoding", "identity")
    if packed != "identity":
        raise httpx.RemoteProtocolError(f"the answer is packed ({packed[:20]})", request=answer.request)
    content = bytearray()
    async for piece in answer.aiter_raw():
        content += piece
        if len(content) > most_bytes:
            message = f"the answer has more than {most_bytes} bytes"
            raise httpx.RemoteProtocolError(message, request=answer.request)
    return bytes(content)
