"""Client: this side's files in a transfer; a worker thread touches the disk and hashes, 256 KiB at a time."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncGenerator
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Protocol

__all__ = ["PIECE", "Digest", "PartFile", "read_pieces"]

PIECE = 256 * 1024
"""Bytes of one step of a transfer."""


class Digest(Protocol):
    """What :mod:`hashlib` makes."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class PartFile:
    """A file that is written beside its place and moved there by :meth:`keep`; otherwise it vanishes."""

    def __init__(self, target: Path, mode: int) -> None:
        self._target = target
        self._mode = mode
        self._digest = hashlib.sha256()
        self._held = bytearray()

    async def __aenter__(self) -> PartFile:
        fd, name = tempfile.mkstemp(
            prefix=f".{self._target.name[:100]}.", suffix=".part", dir=self._target.parent
        )
        self._file = os.fdopen(fd, "wb")
        self._part: Path | None = Path(name)
        return self

    async def write(self, data: bytes) -> None:
        self._held += data
        if len(self._held) >= PIECE:
            await self._flush()

    async def hashed(self) -> str:
        """Return the SHA-256 of all that was written, in hexadecimal."""
        await self._flush()
        return self._digest.hexdigest()

    async def keep(self) -> None:
        """Put the file in its place, whole and on disk."""
        await self._flush()
        await asyncio.to_thread(self._put_in_place)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._part is not None:
            self._part.unlink(missing_ok=True)

    async def _flush(self) -> None:
        held, self._held = self._held, bytearray()
        await asyncio.to_thread(self._write, held)

    def _write(self, data: bytearray) -> None:
        self._file.write(data)
        self._digest.update(data)

    def _put_in_place(self) -> None:
        assert self._part is not None
        self._file.flush()
        os.fchmod(self._file.fileno(), self._mode)
        os.fsync(self._file.fileno())
        self._part.replace(self._target)
        self._part = None


async def read_pieces(path: str | PathLike[str], digest: Digest) -> AsyncGenerator[bytes, None]:
    """Yield a local file's bytes; ``digest`` has seen them before, in the thread that read them."""
    file = await asyncio.to_thread(open, path, "rb")

    def read() -> bytes:
        piece = file.read(PIECE)
        digest.update(piece)
        return piece

    try:
        while piece := await asyncio.to_thread(read):
            yield piece
    finally:
        file.close()
