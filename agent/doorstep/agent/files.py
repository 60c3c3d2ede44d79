"""Agent: the ``files`` service: read and write whole files by stream, list and change directories by call.

Every path is relative to the jail's root; ``~`` and absolute paths inside it are understood. A written file
appears whole or not at all, and only when its announced size and hash are right.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from doorstep.agent.environment import home
from doorstep.agent.file_io import FileReader, FileWriter, WriteRules, describe, list_directory
from doorstep.agent.jail import Jail, Place, os_error
from doorstep.agent.workers import Workers
from doorstep.protocol.limits import KIB
from doorstep.runtime import ServiceError, Session, Stream, StreamRequest
from doorstep.runtime.params import convert

__all__ = ["FilesService"]

T = TypeVar("T")
_CHUNK = 256 * KIB
"""Per disk access: few enough changes of thread, small enough for many transfers at once."""

Size = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Mode = Annotated[int, msgspec.Meta(ge=0, le=0o777)]


class ReadParams(msgspec.Struct, frozen=True, rename="camel"):
    path: str
    offset: Size = 0
    length: Size | None = None


class WriteParams(msgspec.Struct, frozen=True, rename="camel"):
    path: str
    size: Size | None = None
    overwrite: Literal["overwrite", "refuse"] = "overwrite"
    mode: Mode | None = None
    make_parents: bool = False


class WriteTrailer(msgspec.Struct, frozen=True, rename="camel"):
    sha256: str | None = None


class ListParams(msgspec.Struct, frozen=True, rename="camel"):
    path: str = "."
    after: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 200


class StatParams(msgspec.Struct, frozen=True, rename="camel"):
    path: str
    follow: bool = True


class RemoveParams(msgspec.Struct, frozen=True, rename="camel"):
    path: str
    recursive: bool = False


class RenameParams(msgspec.Struct, frozen=True, rename={"source": "from", "target": "to"}):
    source: str
    target: str
    overwrite: Literal["overwrite", "refuse"] = "refuse"


class MkdirParams(msgspec.Struct, frozen=True, rename="camel"):
    path: str
    parents: bool = False


class FilesService:
    """The files below one root directory (default: the user's home). Owns the root and the file threads."""

    name = "files"

    def __init__(self, root: Path | None = None) -> None:
        """Raises :class:`OSError` when the root cannot be opened."""
        self._jail = Jail(root or home())
        self._workers = Workers()
        self._new_mode = 0o666 & ~_umask()
        self.calls: Mapping[str, Callable[[Session, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "list": self._call(ListParams, self._list),
            "stat": self._call(StatParams, self._stat),
            "remove": self._call(RemoveParams, self._remove),
            "rename": self._call(RenameParams, self._rename),
            "mkdir": self._call(MkdirParams, self._mkdir),
        }
        self.streams: Mapping[str, Callable[[StreamRequest], Awaitable[None]]] = {
            "read": self._read,
            "write": self._write,
        }

    @property
    def root(self) -> str:
        return self._jail.root

    def close(self) -> None:
        """End the threads and close the root; the sessions have ended before. Idempotent."""
        self._workers.close()
        self._jail.close()

    async def _read(self, request: StreamRequest) -> None:
        params = convert(request.params, ReadParams)
        reader = await self._workers.open(self._open_reader, params)
        try:
            stream = await request.accept(reader.accept())
            while data := await self._io(params.path, reader.read, _CHUNK):
                await stream.write(data)
            await stream.finish(reader.trailer())
        finally:
            reader.close()

    async def _write(self, request: StreamRequest) -> None:
        params = convert(request.params, WriteParams)
        writer = await self._workers.open(self._open_writer, params)
        try:
            stream = await request.accept()
            await self._receive(params.path, writer, stream)
            trailer = convert(stream.trailer or {}, WriteTrailer)
            await stream.finish(await self._io(params.path, writer.commit, trailer.sha256))
        finally:
            writer.close()

    async def _receive(self, path: str, writer: FileWriter, stream: Stream) -> None:
        held = bytearray()
        while data := await stream.read(_CHUNK):
            held += data
            if len(held) >= _CHUNK:
                await self._io(path, writer.write, held)
                held = bytearray()
        if held:
            await self._io(path, writer.write, held)

    async def _io(self, path: str, work: Callable[..., T], *arguments: object) -> T:
        def guarded() -> T:
            with os_error(path):
                return work(*arguments)

        return await self._workers.run(guarded)

    def _call(
        self, kind: type[T], work: Callable[[T], dict[str, Any]]
    ) -> Callable[[Session, dict[str, Any]], Awaitable[dict[str, Any]]]:
        async def call(_session: Session, raw: dict[str, Any]) -> dict[str, Any]:
            return await self._workers.run(work, convert(raw, kind))

        return call

    def _open_reader(self, params: ReadParams) -> FileReader:
        with self._jail.place(params.path, follow=True) as place, os_error(params.path):
            return FileReader(place, params.offset, params.length)

    def _open_writer(self, params: WriteParams) -> FileWriter:
        refuse = params.overwrite == "refuse"
        rules = WriteRules(size=params.size, refuse=refuse, mode=params.mode, new_mode=self._new_mode)
        with (
            self._jail.place(params.path, follow=not refuse, parents=params.make_parents) as place,
            os_error(params.path),
        ):
            return FileWriter(place, rules)

    def _list(self, params: ListParams) -> dict[str, Any]:
        with self._jail.place(params.path, follow=True) as place, os_error(params.path):
            entries, more = list_directory(place, params.after, params.limit)
            return {"path": place.path, "entries": entries, "more": more}

    def _stat(self, params: StatParams) -> dict[str, Any]:
        with self._jail.place(params.path, follow=params.follow) as place, os_error(params.path):
            status = os.stat(place.name, dir_fd=place.fd, follow_symlinks=False)
            return {"path": place.path, **describe(posixpath.basename(place.path), status)}

    def _remove(self, params: RemoveParams) -> dict[str, Any]:
        with self._jail.place(params.path, follow=False) as place, os_error(params.path):
            _refuse_whole_directory(place)
            status = os.stat(place.name, dir_fd=place.fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                os.unlink(place.name, dir_fd=place.fd)
            elif params.recursive:
                shutil.rmtree(place.name, dir_fd=place.fd)  # by descriptors: safe against swapped symlinks
            else:
                os.rmdir(place.name, dir_fd=place.fd)
        return {}

    def _rename(self, params: RenameParams) -> dict[str, Any]:
        with (
            self._jail.place(params.source, follow=False) as source,
            self._jail.place(params.target, follow=False) as target,
        ):
            _refuse_whole_directory(source)
            _refuse_whole_directory(target)
            with os_error(params.target):
                if params.overwrite == "refuse" and _is_there(target):
                    raise ServiceError("exists", f"{params.target[:256]}: exists")
            with os_error(params.source):
                os.rename(source.name, target.name, src_dir_fd=source.fd, dst_dir_fd=target.fd)
        return {}

    def _mkdir(self, params: MkdirParams) -> dict[str, Any]:
        with (
            self._jail.place(params.path, follow=False, parents=params.parents) as place,
            os_error(params.path),
        ):
            if place.name != "." and not (params.parents and _is_directory(place)):
                os.mkdir(place.name, dir_fd=place.fd)
        return {}


def _refuse_whole_directory(place: Place) -> None:
    if place.name == ".":  # the root, or a path that ends in ".."
        raise ServiceError("invalid", "params.path: must end in the name of an entry")


def _is_there(place: Place) -> bool:
    try:
        os.stat(place.name, dir_fd=place.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_directory(place: Place) -> bool:
    return _is_there(place) and stat.S_ISDIR(
        os.stat(place.name, dir_fd=place.fd, follow_symlinks=False).st_mode
    )


def _umask() -> int:
    """Read the process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
