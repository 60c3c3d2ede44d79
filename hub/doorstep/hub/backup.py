"""Hub: a backup is one file: a copy of the database with the hub's secrets in a table of its own."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from doorstep.hub.keys import load_keys, private_directory, secrets_file, write_private
from doorstep.hub.schema import MIGRATIONS
from doorstep.hub.store import database

__all__ = ["BackupError", "back_up", "restore"]

_MARK = 0x4473_4875
"""``application_id`` of a backup."""


class BackupError(Exception):
    """A backup that cannot be made or used; the text says why and what to do."""


def back_up(directory: Path, target: Path) -> None:
    """Copy the hub whose files are in ``directory``, running or not, to a new file of mode 0600.

    The file is there whole or not at all. Raises :class:`BackupError`, and ``OSError`` for what is wrong with
    the target's place.
    """
    if not database(directory).is_file():
        raise BackupError(f"there is no hub in {directory}")
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise BackupError(f"{target} is there already and is not overwritten") from None
    try:
        with _draft(target) as draft:
            _copy_out(directory, draft)
            _keep(draft)
            draft.replace(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    _keep(target.parent)


def restore(source: Path, directory: Path) -> None:
    """Make a hub's files in ``directory`` from a backup: all of them at once, and only where there are none.

    Raises :class:`BackupError`, and ``OSError`` for what is wrong with the place.
    """
    if directory.is_dir() and any(directory.iterdir()):
        raise BackupError(f"there is a hub in {directory} already; move it away, or use another --state-dir")
    parent = private_directory(directory.parent)
    draft = Path(tempfile.mkdtemp(prefix=".hub-", dir=parent))
    try:
        _copy_in(source, draft)
        _keep(draft)
        draft.rename(directory)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _keep(parent)


def _copy_out(directory: Path, draft: Path) -> None:
    with closing(_open(database(directory), "rw")) as hub, closing(_open(draft, "rw")) as copy:
        hub.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
        copy.execute("CREATE TABLE backup (secrets BLOB NOT NULL)")
        copy.execute("INSERT INTO backup VALUES (?)", (secrets_file(directory).read_bytes(),))
        copy.execute(f"PRAGMA application_id = {_MARK}")
        copy.commit()
        _check(copy, draft)


def _copy_in(source: Path, draft: Path) -> None:
    if not source.is_file():
        raise BackupError(f"there is no file {source}")
    target = database(draft)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with closing(_open(source, "ro")) as backup, closing(_open(target, "rw")) as hub:
            _check(backup, source)
            backup.backup(hub)
            (secrets,) = hub.execute("SELECT secrets FROM backup").fetchone()
            hub.execute("PRAGMA secure_delete = ON")
            hub.execute("DROP TABLE backup")
            hub.execute("PRAGMA application_id = 0")
            hub.commit()
    except sqlite3.DatabaseError as error:
        raise BackupError(f"{source} is not a backup of a hub, or is damaged ({error})") from None
    _keep(target)
    write_private(secrets_file(draft), secrets)
    try:
        load_keys(draft)
    except (ValueError, TypeError, msgspec.MsgspecError):
        raise BackupError(f"{source} has no usable secrets") from None


def _check(backup: sqlite3.Connection, path: Path) -> None:
    if backup.execute("PRAGMA application_id").fetchone()[0] != _MARK:
        raise BackupError(f"{path} is not a backup of a hub")
    if backup.execute("PRAGMA user_version").fetchone()[0] > len(MIGRATIONS):
        raise BackupError(f"{path} was made by a newer version; update doorstep")
    found = backup.execute("PRAGMA integrity_check").fetchone()[0]
    if found != "ok":
        raise BackupError(f"{path} is damaged ({found})")


def _open(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=5)


@contextmanager
def _draft(target: Path) -> Generator[Path, None, None]:
    """An empty file of mode 0600 beside ``target``, gone at the end if it is still there."""
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(number)
    draft = Path(name)
    try:
        yield draft
    finally:
        for path in (draft, Path(f"{name}-journal")):
            path.unlink(missing_ok=True)


def _keep(path: Path) -> None:
    """Have a file, or a directory's entries, written to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
