"""Hub: SQLite in one worker thread; one hop per transaction."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from doorstep.hub.rest_like import like
from doorstep.hub.schema import MIGRATIONS

__all__ = ["Store", "database", "migrate"]

R = TypeVar("R")
_BUSY_MS = 5_000


def database(directory: Path) -> Path:
    """Where the hub whose files are in ``directory`` keeps its database."""
    return directory / "hub.sqlite"


class Store:
    """The hub's database. :meth:`run` gives a function the connection, inside one transaction."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="doorstep-sqlite")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open the file (mode 0600) and bring its schema up to date."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self._open)

    async def run(self, work: Callable[[sqlite3.Connection], R]) -> R:
        """Run ``work`` in a transaction: committed when it returns, undone when it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._transaction, work)

    async def close(self) -> None:
        """Finish what is queued, fold the log into the file, close. Idempotent."""
        if self._connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._worker, self._close)
        self._worker.shutdown(wait=True)

    def _open(self) -> None:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        self._path.chmod(0o600)
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.create_function("pg_like", 3, like, deterministic=True)
        for pragma in (
            f"busy_timeout={_BUSY_MS}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "trusted_schema=OFF",
        ):
            connection.execute(f"PRAGMA {pragma}")
        self._connection = connection
        self._transaction(migrate)

    def _transaction(self, work: Callable[[sqlite3.Connection], R]) -> R:
        connection = self._connection
        if connection is None:
            raise RuntimeError("the store is not open")
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        return result

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a database to the newest version, inside the caller's transaction."""
    done = connection.execute("PRAGMA user_version").fetchone()[0]
    if done > len(MIGRATIONS):
        raise RuntimeError("the hub's database was made by a newer version; update doorstep")
    for number, statements in enumerate(MIGRATIONS[done:], start=done + 1):
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number}")
