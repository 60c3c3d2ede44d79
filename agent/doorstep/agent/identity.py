"""Agent: who this machine is: an id for ever, a name; and that only one agent runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import socket
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from doorstep.protocol.errors import InvalidInput, UsageError
from doorstep.protocol.ids import AgentId, agent_id
from doorstep.protocol.limits import NAME_CHARACTERS

__all__ = ["AlreadyRunning", "Identity", "agent_name", "default_name", "load_identity", "only_agent"]

_FILE = "agent.json"
_LOCK = "agent.lock"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class AlreadyRunning(UsageError):
    """Another agent runs with this state directory."""

    code = "already-running"
    exit_code = 73


class Identity(msgspec.Struct, frozen=True):
    """The content of ``agent.json``."""

    id: AgentId
    name: str

    def __post_init__(self) -> None:
        agent_id(self.id)
        agent_name(self.name)


def agent_name(text: str) -> str:
    """Check a name (1 to 64 of letters, digits, ``. _ -``); raise :class:`InvalidInput` otherwise."""
    if not _NAME.fullmatch(text):
        raise InvalidInput("name", "must be 1 to 64 of letters, digits, '.', '_' and '-'")
    return text


def default_name() -> str:
    """Make a name from the host's, without its domain."""
    host = socket.gethostname().split(".")[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", host).strip("-")[:NAME_CHARACTERS] or "machine"


def load_identity(state_dir: Path, name: str | None = None) -> Identity:
    """Return the identity of this state directory, made at the first call; ``name`` renames it.

    Two first calls at once agree on one id. Raises :class:`InvalidInput` for a bad name or a damaged file.
    """
    if name is not None:
        agent_name(name)
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = state_dir / _FILE
    if not path.exists():
        _write(path, Identity(AgentId(str(uuid.uuid4())), name or default_name()), replace=False)
    identity = _read(path)
    if name is not None and name != identity.name:
        identity = Identity(identity.id, name)
        _write(path, identity, replace=True)
    return identity


@contextmanager
def only_agent(state_dir: Path) -> Generator[None, None, None]:
    """Hold the state directory's lock; raise :class:`AlreadyRunning` when another process holds it.

    The kernel frees it with the process, however that ends (flock(2)).
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(state_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            raise AlreadyRunning(
                f"an agent (process {holder}) runs with {state_dir}; stop it or choose another --state-dir"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def _read(path: Path) -> Identity:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Identity)
    except (msgspec.MsgspecError, InvalidInput) as error:
        raise InvalidInput(
            str(path), f"is damaged ({error}); restore it, or remove it to become a new agent"
        ) from error


def _write(path: Path, identity: Identity, *, replace: bool) -> None:
    """Write the whole file or nothing; without ``replace`` the first of two writers wins."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.encode(identity) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
