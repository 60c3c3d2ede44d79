"""Transport: who is signed in, kept as files of mode 0600 in a directory of mode 0700.

``credentials.json`` holds the URL and key of the back end, the e-mail address, and the refresh token or
password. A refresh token is good for one use, so processes that share the file take turns: :func:`locked`.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import platformdirs

from doorstep.protocol.errors import InvalidInput, LinkError, NotSignedIn

__all__ = ["Credentials", "load", "locked", "save", "state_dir", "write_private"]

FILE = "credentials.json"
LOCK = "credentials.lock"
LOCK_POLL = 0.02
"""Seconds between two tries of the lock: a renewal holds it for one HTTP request."""

log = logging.getLogger("doorstep.transport")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user of a back end. Secrets do not show in ``repr``."""

    url: str
    key: str = field(repr=False)
    email: str
    password: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    directory: Path | None = field(default=None, compare=False)
    """Where the refresh token is kept and its successors are written; None = in memory only."""

    def same_user(self, other: Credentials) -> bool:
        """Whether a refresh token of one is one of the other."""
        return (self.url, self.email) == (other.url, other.email)


def state_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """Name the state directory: DOORSTEP_STATE_DIR, or the platform's place for a user's state."""
    chosen = environment.get("DOORSTEP_STATE_DIR")
    return Path(chosen).expanduser() if chosen else platformdirs.user_state_path("doorstep")


def load(directory: Path | None = None, environment: Mapping[str, str] = os.environ) -> Credentials:
    """Read the credentials; DOORSTEP_URL, _KEY, _EMAIL and _PASSWORD_FILE override the file.

    Raises :class:`NotSignedIn` when something is missing, :class:`InvalidInput` when a file cannot be used.
    """
    directory = directory or state_dir(environment)
    stored = _read(directory / FILE)
    chosen = {
        name: environment.get(f"DOORSTEP_{name.upper()}") or stored.get(name)
        for name in ("url", "key", "email")
    }
    missing = [f"DOORSTEP_{name.upper()}" for name, value in chosen.items() if not value]
    if missing:
        raise NotSignedIn(f"not signed in; run “doorstep login”, or set {', '.join(missing)}")
    found = Credentials(chosen["url"] or "", chosen["key"] or "", chosen["email"] or "")
    if (stored.get("url"), stored.get("email")) == (found.url, found.email):
        secrets_kept = stored.get("password"), stored.get("refresh_token")
        found = Credentials(found.url, found.key, found.email, *secrets_kept, directory=directory)
    password_file = environment.get("DOORSTEP_PASSWORD_FILE")
    if password_file:
        found = replace(found, password=_password(Path(password_file)))
    if found.password is None and found.refresh_token is None:
        raise NotSignedIn(
            f"no password for {found.email}; run “doorstep login”, or set DOORSTEP_PASSWORD_FILE"
        )
    return found


def save(directory: Path, credentials: Credentials) -> None:
    """Write the credentials whole or not at all. Callers that rotate a token hold :func:`locked`."""
    fields = ("url", "key", "email", "password", "refresh_token")
    known = {name: value for name in fields if (value := getattr(credentials, name)) is not None}
    write_private(directory / FILE, json.dumps(known, indent=2).encode() + b"\n")


def write_private(path: Path, content: bytes) -> None:
    """Replace ``path`` atomically by a file of mode 0600; its directory is made with mode 0700."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


@asynccontextmanager
async def locked(directory: Path, timeout: float) -> AsyncGenerator[None]:
    """Hold the credentials against other processes. Raises :class:`LinkError` after ``timeout`` seconds."""
    descriptor = _open_lock(directory)
    try:
        try:
            async with asyncio.timeout(timeout):
                while not _try_lock(descriptor):  # noqa: ASYNC110 - another process sets no event of ours
                    await asyncio.sleep(LOCK_POLL)
        except TimeoutError:
            raise LinkError(f"another process has held {directory / LOCK} for {timeout:g} s") from None
        yield
    finally:
        os.close(descriptor)


def _open_lock(directory: Path) -> int:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> dict[str, str]:
    try:
        if path.stat().st_mode & 0o077:
            log.warning("%s could be read by others; it is private now", path)
            path.chmod(0o600)
        stored: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidInput(str(path), f"cannot be read ({error}); run “doorstep login” again") from None
    fields: dict[str, Any] = cast("dict[str, Any]", stored) if isinstance(stored, dict) else {"": None}
    if not all(isinstance(value, str) for value in fields.values()):
        raise InvalidInput(str(path), "must be an object of strings; run “doorstep login” again")
    return fields


def _password(path: Path) -> str:
    try:
        return path.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("DOORSTEP_PASSWORD_FILE", f"cannot be read: {error}") from None
