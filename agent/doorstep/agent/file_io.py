"""Agent: the blocking half of the ``files`` service: one file read or written, one directory listed.

Everything here takes a :class:`Place` from the jail, works relative to its open directory and never follows
the last component. Only regular files are read or written: a FIFO would block, a device would never end.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from dataclasses import dataclass
from typing import Any

from doorstep.agent.jail import Place
from doorstep.runtime import ServiceError

__all__ = ["FileReader", "FileWriter", "WriteRules", "describe", "list_directory"]

_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_ENTRIES = 200_000
"""A larger directory is refused: sorting it takes memory and time for nobody's use."""


def describe(name: str, status: os.stat_result) -> dict[str, Any]:
    """Describe an entry as it goes over the wire."""
    return {
        "name": _text(name),
        "kind": _kind(status.st_mode),
        "size": status.st_size,
        "mtimeMs": status.st_mtime_ns // 1_000_000,
        "mode": stat.S_IMODE(status.st_mode),
    }


def list_directory(place: Place, after: str | None, limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Return up to ``limit`` entries behind the one named ``after``, and whether there are more.

    Directories first, then by name. Raises :class:`OSError`, ServiceError ``too-large``, ``not-found``.
    """
    fd = os.open(place.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
    try:
        with os.scandir(fd) as entries:
            names = _sorted_names(entries)
        start = 0 if after is None else _position(names, after)
        page = names[start : start + limit]
        return [entry for name in page if (entry := _entry(fd, name))], start + limit < len(names)
    finally:
        os.close(fd)


class FileReader:
    """An open regular file, from ``offset`` on, hashed as it is read."""

    def __init__(self, place: Place, offset: int, length: int | None) -> None:
        """Raises :class:`OSError`, ServiceError ``invalid`` for anything but a regular file."""
        self._fd = _open_regular(place)
        self.status = os.fstat(self._fd)
        rest = max(0, self.status.st_size - offset)
        self._left = rest if length is None else min(length, rest)
        self._hash = hashlib.sha256()
        self._size = 0
        os.lseek(self._fd, offset, os.SEEK_SET)

    def accept(self) -> dict[str, object]:
        entry = describe("", self.status)
        return {name: entry[name] for name in ("size", "mtimeMs", "mode")}

    def read(self, most: int) -> bytes:
        """Return the next bytes, ``b""`` at the end of what was asked for, or of a file now shorter."""
        data = os.read(self._fd, min(most, self._left))
        self._left -= len(data)
        self._size += len(data)
        self._hash.update(data)
        return data

    def trailer(self) -> dict[str, object]:
        return {"sha256": self._hash.hexdigest(), "size": self._size}

    def close(self) -> None:
        os.close(self._fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRules:
    """What the client wants: ``size`` is a promise, ``mode`` None keeps the old file's or is ``new_mode``."""

    size: int | None
    refuse: bool
    mode: int | None
    new_mode: int


class FileWriter:
    """A new file beside the place it is for, which takes that place whole or not at all."""

    def __init__(self, place: Place, rules: WriteRules) -> None:
        """Raises :class:`OSError`; ServiceError ``exists``, ``invalid``, ``too-large``."""
        self._place = place
        self._rules = rules
        self._hash = hashlib.sha256()
        self._size = 0
        old = self._old()
        self._directory = os.dup(place.fd)
        self._temporary = f".doorstep-{secrets.token_hex(8)}.part"
        try:
            self._fd = os.open(
                self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600, dir_fd=place.fd
            )
        except OSError:
            os.close(self._directory)
            raise
        self._whole = False
        self._owner = None if old is None else (old.st_uid, old.st_gid)
        self._mode = (
            rules.mode
            if rules.mode is not None
            else rules.new_mode
            if old is None
            else stat.S_IMODE(old.st_mode)
        )
        try:
            self._check_room()
        except BaseException:
            self.close()
            raise

    def write(self, data: bytes) -> None:
        """Append. Raises :class:`OSError`, ServiceError ``too-large`` beyond the promised size."""
        self._size += len(data)
        if self._rules.size is not None and self._size > self._rules.size:
            raise ServiceError("too-large", f"more than the {self._rules.size} bytes that were announced")
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def commit(self, sha256: str | None) -> dict[str, object]:
        """Check size and hash, make it durable, put it in its place; return the trailer.

        Raises :class:`OSError`; ServiceError ``invalid`` (something else arrived than was sent), ``exists``.
        """
        digest = self._hash.hexdigest()
        if self._rules.size is not None and self._size != self._rules.size:
            raise ServiceError(
                "invalid", f"{self._size} bytes came of the {self._rules.size} that were announced"
            )
        if sha256 is not None and sha256.lower() != digest:
            raise ServiceError("invalid", "the sha256 of what came is another than announced")
        self._set_owner_and_mode()
        os.fsync(self._fd)
        self._put_in_place()
        self._whole = True
        self._sync_directory()
        return {"size": self._size, "sha256": digest, "path": _text(self._place.path)}

    def close(self) -> None:
        """Close; without :meth:`commit` nothing of it is left."""
        os.close(self._fd)
        if not self._whole:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=self._directory)
        os.close(self._directory)

    def _old(self) -> os.stat_result | None:
        if self._place.name == ".":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        try:
            old = os.stat(self._place.name, dir_fd=self._place.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if self._rules.refuse:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        _require_regular(old)
        return old

    def _check_room(self) -> None:
        room = os.fstatvfs(self._fd)
        if self._rules.size is not None and self._rules.size > room.f_bavail * room.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _set_owner_and_mode(self) -> None:
        if self._owner is not None and self._owner != (os.geteuid(), os.getegid()):
            with contextlib.suppress(
                PermissionError
            ):  # only root may; then the file is ours, as with any editor
                os.fchown(self._fd, *self._owner)
        os.fchmod(self._fd, self._mode)

    def _put_in_place(self) -> None:
        names = (self._temporary, self._place.name)
        if not self._rules.refuse:
            os.replace(*names, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            return
        os.link(*names, src_dir_fd=self._directory, dst_dir_fd=self._directory, follow_symlinks=False)
        os.unlink(self._temporary, dir_fd=self._directory)

    def _sync_directory(self) -> None:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _open_regular(place: Place) -> int:
    fd = os.open(place.name, os.O_RDONLY | _OPEN, dir_fd=place.fd)
    try:
        _require_regular(os.fstat(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise ServiceError("invalid", f"params.path: a {_kind(status.st_mode)} entry, not a regular file")


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "symlink" if stat.S_ISLNK(mode) else "other"


def _sorted_names(entries: Any) -> list[str]:
    found: list[tuple[bool, str]] = []
    for entry in entries:
        if len(found) == _ENTRIES:
            raise ServiceError("too-large", f"more than {_ENTRIES} entries in this directory")
        found.append((not entry.is_dir(follow_symlinks=False), entry.name))
    return [name for _, name in sorted(found)]


def _position(names: list[str], after: str) -> int:
    try:
        return [_text(name) for name in names].index(after) + 1
    except ValueError:
        raise ServiceError("not-found", "params.after: the entry is gone; list from the start") from None


def _entry(fd: int, name: str) -> dict[str, Any] | None:
    try:
        return describe(name, os.stat(name, dir_fd=fd, follow_symlinks=False))
    except FileNotFoundError:  # removed between the listing and the look
        return None


def _text(name: str) -> str:
    """Make a name that is no UTF-8 sendable; it cannot be opened by what is shown."""
    return name.encode(errors="surrogateescape").decode(errors="replace")
