"""Client: ``agent.terminal()`` - an interactive program on the machine (service ``terminal``)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from doorstep.client._waiting import limit
from doorstep.client.errors import TerminalEnded
from doorstep.protocol.limits import KIB

if TYPE_CHECKING:
    from doorstep.runtime import Session, Stream

__all__ = ["Terminal"]

EXPECT_BUFFER = 64 * KIB
"""Unread output that :meth:`Terminal.expect` looks at; older bytes are dropped."""


class Terminal:
    """An open terminal. Its output is read by one reader at a time; unread output makes the program wait.

    Reading waits as long as the session lives; a lost session ends it with ``SessionClosed``.
    """

    def __init__(self, session: Session, stream: Stream) -> None:
        self._session = session
        self._stream = stream
        self._buffer = bytearray()
        self._ended = False

    @property
    def id(self) -> str:
        """The agent's id of this terminal."""
        return str(self._stream.result["terminalId"])

    @property
    def pid(self) -> int:
        """The process id of the program on the machine."""
        return int(self._stream.result["pid"])

    async def write(self, data: bytes | str) -> None:
        """Type ``data``; waits while the program does not read."""
        await self._stream.write(data.encode() if isinstance(data, str) else data)

    async def read(self, most: int = 64 * KIB) -> bytes:
        """Return output, as soon as there is some; ``b""`` when the program has ended."""
        if not self._buffer and not self._ended:
            await self._fill(most)
        data = bytes(self._buffer[:most])
        del self._buffer[:most]
        return data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield output until the program ended."""
        while data := await self.read():
            yield data

    async def expect(self, pattern: str | re.Pattern[str], *, timeout: float = 30.0) -> re.Match[str]:
        """Read until the regular expression ``pattern`` is found and return the match.

        Output up to the end of the match is consumed, the rest stays for the next read. At most 64 KiB of
        unread output are looked at. Text is UTF-8; other bytes appear as surrogates (PEP 383). Raises
        :class:`DeadlineExceeded`, :class:`TerminalEnded`.
        """
        wanted = re.compile(pattern)
        async with limit(f"terminal.expect({wanted.pattern!r})", timeout):
            while True:
                text = self._buffer.decode("utf-8", "surrogateescape")
                if found := wanted.search(text):
                    del self._buffer[: len(text[: found.end()].encode("utf-8", "surrogateescape"))]
                    return found
                if self._ended:
                    raise TerminalEnded(wanted.pattern, bytes(self._buffer))
                await self._fill(EXPECT_BUFFER)
                del self._buffer[:-EXPECT_BUFFER]

    async def resize(self, cols: int, rows: int) -> None:
        """Tell the program that the window has another size."""
        await self._session.call("terminal.resize", {"terminalId": self.id, "cols": cols, "rows": rows})

    async def wait(self) -> int:
        """Read and drop what is left of the output; return :attr:`exit_code`."""
        self._buffer.clear()
        while not self._ended:
            await self._fill(EXPECT_BUFFER)
            self._buffer.clear()
        return self.exit_code

    @property
    def exit_code(self) -> int:
        """The exit code, or 128 + the signal that ended the program. Known once the output has ended."""
        trailer = self._stream.trailer or {}
        code: int | None = trailer.get("exitCode")
        return code if code is not None else 128 + int(trailer.get("signal") or 0)

    async def close(self) -> None:
        """Hang up: the program gets SIGHUP, a little later SIGKILL. Idempotent."""
        await self._stream.reset("cancelled", "the client hung up")

    async def _fill(self, most: int) -> None:
        chunk = await self._stream.read(most)
        self._buffer += chunk
        if not chunk:
            self._ended = True
            await self.close()
