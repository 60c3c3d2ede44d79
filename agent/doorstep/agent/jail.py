"""Agent: the file jail: a path becomes an open directory below the root and a name in it, or an error.

The walk goes from the root's descriptor one component at a time, never following what it has not looked at:
openat with O_NOFOLLOW, symlinks read and resolved here, ``..`` by walking again from the root. Whatever is
swapped for a symlink meanwhile is met as a symlink, and one that points outside is refused
(path_resolution(7))."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from doorstep.runtime import ServiceError

__all__ = ["Jail", "Place", "os_error"]

_LINKS = 40
"""Symlinks in one path, as in Linux (path_resolution(7))."""
_PATH_BYTES = 4096
_COMPONENTS = 256
_SEARCH = getattr(os, "O_PATH", os.O_RDONLY)
"""Linux: walking through a directory takes the right to search it, not to list it."""
_OPEN_DIRECTORY = _SEARCH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Place:
    """Entry ``name`` of the open directory ``fd`` (``.`` = that directory itself); it need not exist."""

    fd: int
    name: str
    path: str
    """Where it is, from the root, for showing; without a leading slash."""


class Jail:
    """A root directory that no path leads out of. Blocking: call it off the event loop."""

    def __init__(self, root: Path) -> None:
        """Open the root. Raises :class:`OSError`."""
        self.root = os.path.realpath(root)
        self._prefixes = {self.root, os.path.abspath(root)}  # both spellings of absolute paths are understood
        self._home = os.environ.get("HOME") or os.path.expanduser("~")
        self._fd = os.open(self.root, _SEARCH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the root. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @contextmanager
    def place(self, path: str, *, follow: bool, parents: bool = False) -> Generator[Place, None, None]:
        """Resolve ``path``; its directory is open inside the ``with``.

        ``follow``: when the last component is a symlink, go where it points. ``parents``: make what is
        missing. Raises ServiceError ``invalid``, ``permission`` or ``not-found``.
        """
        walk = _Walk(self, self._components(path), follow=follow, parents=parents)
        try:
            with os_error(path):
                walk.run()
            yield Place(walk.fd, walk.name, "/".join(walk.done))
        finally:
            walk.close()

    def open_root(self) -> int:
        return os.open(".", _OPEN_DIRECTORY, dir_fd=self._fd)

    def inside(self, absolute: str) -> list[str]:
        """Return an absolute path as components below the root; ServiceError ``permission`` outside."""
        parts = _split(absolute)
        for prefix in self._prefixes:
            base = _split(prefix)
            if parts[: len(base)] == base:
                return parts[len(base) :]
        raise ServiceError("permission", "params.path: outside the directory this machine shares")

    def _components(self, path: str) -> list[str]:
        if "\0" in path:
            raise ServiceError("invalid", "params.path: must not contain a NUL")
        try:
            size = len(path.encode())
        except UnicodeEncodeError as error:
            raise ServiceError("invalid", "params.path: must be Unicode text") from error
        if size > _PATH_BYTES:
            raise ServiceError("invalid", f"params.path: at most {_PATH_BYTES} bytes")
        if path == "~" or path.startswith("~/"):
            path = self._home + path[1:]
        return self.inside(path) if path.startswith("/") else _split(path)


class _Walk:
    """One resolution: ``done`` is where it is, ``todo`` what is left, ``fd`` the directory it stands in."""

    def __init__(self, jail: Jail, todo: list[str], *, follow: bool, parents: bool) -> None:
        self._jail = jail
        self._todo = todo[::-1]  # the next one is the last
        self._follow = follow
        self._parents = parents
        self._links = 0
        self.done: list[str] = []
        self.name = "."
        self.fd = jail.open_root()

    def run(self) -> None:
        while self._todo:
            if len(self._todo) + len(self.done) > _COMPONENTS:
                raise ServiceError("invalid", f"params.path: at most {_COMPONENTS} directories deep")
            component = self._todo.pop()
            if component == "..":
                self._up()
            elif self._todo:
                self._down(component)
            else:
                self._last(component)

    def close(self) -> None:
        os.close(self.fd)

    def _down(self, component: str) -> None:
        try:
            self._enter(component)
        except NotADirectoryError:  # a symlink too: O_DIRECTORY with O_NOFOLLOW
            self._through_link(component)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            self._through_link(component)
        else:
            self.done.append(component)

    def _enter(self, component: str) -> None:
        try:
            inner = os.open(component, _OPEN_DIRECTORY, dir_fd=self.fd)
        except FileNotFoundError:
            if not self._parents:
                raise
            self._make(component)
            inner = os.open(component, _OPEN_DIRECTORY, dir_fd=self.fd)
        self._stand_in(inner)

    def _make(self, component: str) -> None:
        try:
            os.mkdir(component, dir_fd=self.fd)
        except FileExistsError:
            return  # somebody was quicker; opening it says what it is

    def _last(self, component: str) -> None:
        if self._follow and self._is_link(component):
            self._through_link(component)
        else:
            self.name = component
            self.done.append(component)

    def _is_link(self, component: str) -> bool:
        try:
            os.readlink(component, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return True

    def _through_link(self, component: str) -> None:
        try:
            target = os.readlink(component, dir_fd=self.fd)
        except OSError as error:
            if error.errno == errno.EINVAL:  # no symlink: a file where a directory should be
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
            raise
        self._links += 1
        if self._links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if target.startswith("/"):
            self._todo += self._jail.inside(target)[::-1]
            self._restart([])
        else:
            self._todo += _split(target)[::-1]

    def _up(self) -> None:
        if not self.done:
            raise ServiceError("permission", "params.path: outside the directory this machine shares")
        self._restart(self.done[:-1])

    def _restart(self, known: list[str]) -> None:
        """Stand in ``known`` again, entering it anew: what became a symlink meanwhile ends the walk."""
        self._stand_in(self._jail.open_root())
        for component in known:
            self._stand_in(os.open(component, _OPEN_DIRECTORY, dir_fd=self.fd))
        self.done = known

    def _stand_in(self, fd: int) -> None:
        os.close(self.fd)
        self.fd = fd


def _split(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


_CODES = {
    errno.ENOENT: "not-found",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.EROFS: "permission",
    errno.EEXIST: "exists",
    errno.ENOSPC: "too-large",
    errno.EDQUOT: "too-large",
    errno.EFBIG: "too-large",
    errno.EMFILE: "busy",
    errno.ENFILE: "busy",
    errno.EBUSY: "busy",
}


@contextmanager
def os_error(path: str) -> Generator[None, None, None]:
    """Turn an :class:`OSError` into a ServiceError that names ``path`` and nothing else of the machine."""
    try:
        yield
    except OSError as error:
        code = _CODES.get(error.errno or 0, "invalid")
        reason = os.strerror(error.errno) if error.errno else "not possible"
        raise ServiceError(code, f"{path[:256]}: {reason}") from error
