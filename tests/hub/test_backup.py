"""Backups: whole, private, never over another file, and as good as the hub they were made of."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from doorstep.hub.backup import BackupError, back_up, restore
from doorstep.hub.schema import MIGRATIONS
from doorstep.hub.store import Store, migrate
from doorstep.testing.hub import ThrowAwayHub, throw_away_hub

pytestmark = pytest.mark.asyncio


async def test_a_running_hub_is_backed_up_and_restored(
    hub: ThrowAwayHub, client: Any, tmp_path: Path
) -> None:
    user = await hub.user()
    official = await client(hub, user)
    row = (await official.table("agents").insert({"name": "box"}).execute()).data[0]
    session = await official.auth.get_session()
    file = tmp_path / "hub.backup"
    await asyncio.to_thread(back_up, tmp_path / "hub", file)
    assert file.stat().st_mode & 0o777 == 0o600
    await official.table("agents").insert({"name": "later"}).execute()
    other = tmp_path / "other"
    await asyncio.to_thread(restore, file, other / "hub")
    assert sorted(path.name for path in (other / "hub").iterdir()) == ["hub.sqlite", "secrets.json"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in (other, *(other / "hub").iterdir()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "hub.backup", "other"]
    async with throw_away_hub(other) as restored:
        assert restored.anon_key == hub.anon_key
        again = await client(restored, user)
        assert (await again.table("agents").select("*").execute()).data == [row]
        assert (await again.auth.get_user(session.access_token)).user.id == user.id
        assert (await again.auth.refresh_session(session.refresh_token)).user.id == user.id
    content = (other / "hub/hub.sqlite").read_bytes()
    assert hub.server.keys.jwt_secret.encode() not in content


async def test_nothing_is_overwritten(hub: ThrowAwayHub, tmp_path: Path) -> None:
    file = tmp_path / "hub.backup"
    file.write_text("mine")
    with pytest.raises(BackupError, match="not overwritten"):
        await asyncio.to_thread(back_up, tmp_path / "hub", file)
    assert file.read_text() == "mine"
    with pytest.raises(BackupError, match="already"):
        await asyncio.to_thread(restore, file, tmp_path / "hub")
    with pytest.raises(BackupError, match="no hub"):
        await asyncio.to_thread(back_up, tmp_path / "nowhere", tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        await asyncio.to_thread(back_up, tmp_path / "hub", tmp_path / "no/such/x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "hub.backup"]


@pytest.mark.parametrize("fault", ["nothing", "text", "database", "newer", "cut", "no secrets"])
async def test_what_is_no_backup_restores_nothing(hub: ThrowAwayHub, tmp_path: Path, fault: str) -> None:
    file = tmp_path / "hub.backup"
    if fault == "text":
        file.write_text("not a database at all" * 100)
    elif fault == "database":
        sqlite3.connect(file).execute("CREATE TABLE x (y)").connection.close()
    elif fault != "nothing":
        await asyncio.to_thread(back_up, tmp_path / "hub", file)
        damage = {
            "newer": f"PRAGMA user_version = {len(MIGRATIONS) + 1}",
            "no secrets": "UPDATE backup SET secrets = x'00'",
            "cut": "SELECT 1",
        }[fault]
        database = sqlite3.connect(file)
        database.execute(damage)
        database.commit()
        database.close()
    if fault == "cut":
        with file.open("r+b") as content:
            content.truncate(file.stat().st_size // 2)
    with pytest.raises(BackupError):
        await asyncio.to_thread(restore, file, tmp_path / "other/hub")
    assert list((tmp_path / "other").glob("*")) == []


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_a_database_of_every_older_version_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
    path = tmp_path / "hub.sqlite"
    old = sqlite3.connect(path)
    for statement in (each for step in MIGRATIONS[:version] for each in step):
        old.execute(statement)
    old.execute(f"PRAGMA user_version = {version}")
    now = "2026-01-01T00:00:00+00:00"
    old.execute("INSERT INTO users (id, email, created_at, updated_at) VALUES ('u', 'a@b', ?, ?)", (now, now))
    old.commit()
    old.close()
    store = Store(path)
    await store.open()
    try:
        row = await store.run(lambda db: dict(db.execute("SELECT * FROM users").fetchone()))
        assert (row["email"], row["role"], row["banned_until"]) == ("a@b", "authenticated", None)
        assert await store.run(lambda db: db.execute("PRAGMA user_version").fetchone()[0]) == len(MIGRATIONS)
    finally:
        await store.close()
    assert path.stat().st_mode & 0o077 == 0


async def test_a_step_that_fails_changes_nothing(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "x", isolation_level=None)
    database.execute("CREATE TABLE agents (id)")  # in the way of the first step, after others of it
    database.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError):
        migrate(database)
    database.execute("ROLLBACK")
    names = [row[0] for row in database.execute("SELECT name FROM sqlite_schema")]
    assert names == ["agents"]
    assert database.execute("PRAGMA user_version").fetchone() == (0,)
    database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(RuntimeError, match="newer version"):
        migrate(database)
    database.close()
