"""Testing: a PostgreSQL to throw away: its own cluster in a new directory, on a free loopback port."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Postgres", "PostgresMissingError", "throw_away_postgres"]

OLDEST = 15
"""The version Supabase projects had when ``sql/`` was written."""
STATUS_LINE = 7
"""Line of ``postmaster.pid`` that becomes ``ready`` when connections are accepted (as ``pg_ctl`` waits)."""
POLL = 0.02
CARELESS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off")
"""Durability costs time, and nobody will ever read this cluster again."""


class PostgresMissingError(Exception):
    """This machine has no PostgreSQL server programs."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server. All of its login roles are meant to share ``password``."""

    host: str
    port: int
    superuser: str
    password: str = field(repr=False)
    programs: Path

    def url(self, user: str, database: str = "postgres") -> str:
        """Give the connection string of a role."""
        return f"postgresql://{user}:{self.password}@{self.host}:{self.port}/{database}"


@contextmanager
def throw_away_postgres(*, superuser: str, start_limit: float = 30.0) -> Generator[Postgres]:
    """Make a cluster, run it, and leave nothing of it. Raises :class:`PostgresMissingError`."""
    programs = _programs()
    password = secrets.token_urlsafe(16)
    directory = Path(tempfile.mkdtemp(prefix="doorstep-postgres-"))
    try:
        _make_cluster(programs, directory, superuser, password)
        port = _free_port()
        with _running(programs, directory, port, start_limit):
            yield Postgres("127.0.0.1", port, superuser, password, programs)
    finally:
        shutil.rmtree(directory)


def _programs() -> Path:
    """Find the server programs: on PATH, or where Debian puts them, the newest first."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    numbers = {int(path.parent.name): path for path in versions if path.parent.name.isdigit()}
    if not numbers or max(numbers) < OLDEST:
        raise PostgresMissingError(f"PostgreSQL {OLDEST} or newer is needed (Debian package: postgresql)")
    return numbers[max(numbers)]


def _make_cluster(programs: Path, directory: Path, superuser: str, password: str) -> None:
    account = _account()
    if account is not None:
        shutil.chown(directory, account, account)
    secret = directory / "password"
    secret.write_text(password)
    secret.chmod(0o644)  # the directory itself is 0700
    _run(
        (programs / "initdb", "--pgdata", directory / "data", "--username", superuser),
        ("--pwfile", secret, "--auth", "scram-sha-256"),
        ("--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"),
    )


@contextmanager
def _running(programs: Path, directory: Path, port: int, start_limit: float) -> Generator[None]:
    settings = ("listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=", *CARELESS)
    arguments = [argument for setting in settings for argument in ("-c", setting)]
    log = directory / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [programs / "postgres", "-D", directory / "data", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            user=_account(),
            group=_account(),
        )
    try:
        _wait_until_ready(server, directory, start_limit)
        yield
    finally:
        _stop(server)


def _wait_until_ready(server: subprocess.Popen[bytes], directory: Path, limit: float) -> None:
    end = time.monotonic() + limit
    while not _ready(directory / "data" / "postmaster.pid"):
        if server.poll() is not None or time.monotonic() > end:
            log = (directory / "log").read_text(errors="replace")
            raise RuntimeError(f"PostgreSQL did not start within {limit:g} s: {log[-2000:]}")
        time.sleep(POLL)


def _ready(pid_file: Path) -> bool:
    try:
        lines = pid_file.read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > STATUS_LINE and lines[STATUS_LINE].strip() == "ready"


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGINT)  # "fast": open connections are ended
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGQUIT)
        server.wait(10)


def _run(*parts: Sequence[str | Path]) -> None:
    arguments = [argument for part in parts for argument in part]
    done = subprocess.run(
        arguments, capture_output=True, check=False, cwd="/", user=_account(), group=_account()
    )
    if done.returncode != 0:
        raise RuntimeError(f"{arguments[0]} failed: {done.stderr.decode(errors='replace')}")


def _account() -> str | None:
    """PostgreSQL refuses to run as root; Debian's package makes an account for it."""
    return "postgres" if os.geteuid() == 0 else None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
