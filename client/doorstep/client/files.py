"""Client: ``agent.files`` - read, write and move files on the machine (service ``files``).

Remote paths are relative to the agent's file root; ``~`` and absolute paths inside it are understood. Files
go both ways with a SHA-256 that is checked before anything is put in place.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from doorstep.client._waiting import patient
from doorstep.client.errors import TooLarge, TransferDamaged
from doorstep.client.local_file import PIECE, Digest, PartFile, read_pieces
from doorstep.protocol.errors import ProtocolError, RemoteError
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import MIB

if TYPE_CHECKING:
    from doorstep.protocol.timing import Timing
    from doorstep.runtime import Session, Stream

__all__ = ["FileInfo", "Files", "OnProgress"]

MAX_READ = 64 * MIB
"""Largest file that :meth:`Files.read` holds in memory unless told otherwise."""
_PAGE = 1000

T = TypeVar("T")
OnProgress = Callable[[int, int | None], None]
"""Told (bytes done, bytes in all or None when unknown) while a file is on its way."""


class FileInfo(msgspec.Struct, frozen=True, rename="camel"):
    """One entry of a directory."""

    name: str
    kind: Literal["file", "directory", "symlink", "other"]
    size: int
    mtime_ms: int
    mode: int


class Files:
    """Files on the machine. A call without progress for ``Timing.call`` ends with ``DeadlineExceeded``."""

    def __init__(self, session: Session, timing: Timing) -> None:
        self._session = session
        self._timing = timing

    async def read(self, path: str, *, max_bytes: int = MAX_READ) -> bytes:
        """Return a file's bytes, checked. Raises :class:`TooLarge` above ``max_bytes``."""
        content = bytearray()
        async with self._streaming("read", {"path": path}) as stream:
            size = int(stream.result["size"])
            if size > max_bytes:
                raise TooLarge(path, size, max_bytes)
            digest = hashlib.sha256()
            async for chunk in self._chunks(stream):
                content += chunk
                digest.update(chunk)
                if len(content) > max_bytes:
                    raise TooLarge(path, len(content), max_bytes)
            _compare(path, stream, digest.hexdigest())
        return bytes(content)

    async def read_text(self, path: str, *, encoding: str = "utf-8", max_bytes: int = MAX_READ) -> str:
        """Return a file's text."""
        return (await self.read(path, max_bytes=max_bytes)).decode(encoding)

    async def write(
        self,
        path: str,
        data: bytes | str | AsyncIterable[bytes],
        *,
        overwrite: bool = True,
        mode: int | None = None,
        make_parents: bool = False,
    ) -> None:
        """Write a file whole or not at all: it is put in place when all bytes and their hash are there.

        Raises :class:`RemoteError` (``exists``, ``permission``, ``not-found`` …).
        """
        content = data.encode() if isinstance(data, str) else data
        params = _write_params(path, overwrite=overwrite, mode=mode, make_parents=make_parents)
        digest = hashlib.sha256()
        if isinstance(content, bytes):
            params["size"] = len(content)
            content = _once(content)
        await self._send(path, params, _cut(content, digest), digest)

    async def download(
        self, remote: str, local: str | PathLike[str], *, on_progress: OnProgress | None = None
    ) -> Path:
        """Copy a file from the machine, in constant memory; return where it is.

        ``local`` may be a directory. It is written beside its place and moved there once the hash is right.
        Raises :class:`TransferDamaged` when it is not.
        """
        target = await asyncio.to_thread(_target, Path(local), Path(remote).name)
        async with (
            self._streaming("read", {"path": remote}) as stream,
            PartFile(target, mode=int(stream.result["mode"]) & 0o777) as part,
        ):
            done, size = 0, int(stream.result["size"])
            async for chunk in self._chunks(stream):
                await part.write(chunk)
                done += len(chunk)
                if on_progress is not None:
                    on_progress(done, size)
            _compare(remote, stream, await part.hashed())
            await part.keep()
        return target

    async def upload(
        self,
        local: str | PathLike[str],
        remote: str,
        *,
        overwrite: bool = True,
        make_parents: bool = False,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Copy a file to the machine, in constant memory, keeping its permission bits."""
        status = await asyncio.to_thread(os.stat, local)
        mode = status.st_mode & 0o777
        params = _write_params(remote, overwrite=overwrite, mode=mode, make_parents=make_parents)
        size, digest, done = status.st_size, hashlib.sha256(), 0

        def gone(count: int) -> None:
            nonlocal done
            done += count
            if on_progress is not None:
                on_progress(done, size)

        async with aclosing(read_pieces(local, digest)) as pieces:
            await self._send(remote, params | {"size": size}, pieces, digest, gone)

    async def list(self, path: str = ".") -> list[FileInfo]:
        """Return the entries of a directory, directories first, each kind sorted by name."""
        entries: list[FileInfo] = []
        after: dict[str, Any] = {}
        while True:
            page = await self._call("list", {"path": path, "limit": _PAGE} | after)
            entries += msgspec.convert(page["entries"], list[FileInfo])
            if not page["more"]:
                return entries
            if not page["entries"] or entries[-1].name == after.get("after"):
                raise ProtocolError("files.list: the agent promised more entries and sent none")
            after = {"after": entries[-1].name}

    async def stat(self, path: str) -> FileInfo:
        """Return what an entry is. Raises :class:`RemoteError` ``not-found``."""
        found = await self._call("stat", {"path": path})
        return msgspec.convert({"name": Path(path).name} | found, FileInfo)

    async def exists(self, path: str) -> bool:
        """Tell whether something is at ``path``."""
        try:
            await self._call("stat", {"path": path})
        except RemoteError as error:
            if error.code != "not-found":
                raise
            return False
        return True

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file or an empty directory; with ``recursive`` a directory with all it holds."""
        await self._call("remove", {"path": path, "recursive": recursive})

    async def rename(self, old: str, new: str, *, overwrite: bool = False) -> None:
        """Move an entry. Raises :class:`RemoteError` ``exists`` unless ``overwrite``."""
        rule = "overwrite" if overwrite else "refuse"
        await self._call("rename", {"from": old, "to": new, "overwrite": rule})

    async def mkdir(self, path: str, *, parents: bool = False) -> None:
        """Make a directory; with ``parents`` also those above it."""
        await self._call("mkdir", {"path": path, "parents": parents})

    async def _call(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return await self._session.call(f"files.{method}", params, timeout=self._timing.call)

    @asynccontextmanager
    async def _streaming(self, method: str, params: Mapping[str, Any]) -> AsyncGenerator[Stream, None]:
        """Open a transfer; whatever ends the block early resets it, so that the agent drops its half."""
        stream = await self._session.open(
            "files", method, params, lane=Lane.FILE_TRANSFER, timeout=self._timing.call
        )
        try:
            yield stream
        finally:
            await stream.reset("cancelled", "the client gave up the transfer")  # nothing, when it ended whole

    async def _chunks(self, stream: Stream) -> AsyncIterator[bytes]:
        """Yield the stream's bytes."""
        with suppress(RemoteError):  # a short file may be here, and its service gone, already
            await stream.finish()
        while chunk := await self._step("files.read", stream.read(PIECE)):
            yield chunk

    async def _send(
        self,
        path: str,
        params: Mapping[str, Any],
        pieces: AsyncIterable[bytes],
        digest: Digest,
        gone: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Send ``pieces``, each a step of its own; ``digest`` has seen all of them when they are over."""
        async with self._streaming("write", params) as stream:
            async for piece in pieces:
                await self._step("files.write", stream.write(piece))
                gone(len(piece))
            await stream.finish({"sha256": digest.hexdigest()})
            while await self._step("files.write", stream.read()):
                pass  # the agent has nothing to say before its trailer
            _compare(path, stream, digest.hexdigest())

    async def _step(self, wait: str, step: Awaitable[T]) -> T:
        return await patient(self._session, wait, self._timing.call, step, Lane.FILE_TRANSFER)


def _target(local: Path, name: str) -> Path:
    return local / name if local.is_dir() else local


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _cut(pieces: AsyncIterable[bytes], digest: Digest) -> AsyncIterator[bytes]:
    """Yield the same bytes, noted in ``digest``, in pieces small enough that each is a step of its own."""
    async for piece in pieces:
        digest.update(piece)
        for at in range(0, len(piece), PIECE):
            yield piece[at : at + PIECE]


def _compare(path: str, stream: Stream, got: str) -> None:
    announced = (stream.trailer or {}).get("sha256")
    if announced != got:
        raise TransferDamaged(path, str(announced), got)


def _write_params(path: str, *, overwrite: bool, mode: int | None, make_parents: bool) -> dict[str, Any]:
    params: dict[str, Any] = {"path": path, "overwrite": "overwrite" if overwrite else "refuse"}
    if mode is not None:
        params["mode"] = mode
    if make_parents:
        params["makeParents"] = True
    return params
