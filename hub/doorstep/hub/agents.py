"""Hub: the agents table as functions on a database connection, under the row rules of ``sql/``."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from doorstep.hub.changes import Change
from doorstep.hub.rest_filters import Where
from doorstep.hub.rest_query import Query
from doorstep.hub.rest_values import RestError, from_sql, json_to_sql
from doorstep.hub.schema import AGENT_COLUMNS
from doorstep.protocol.access import DEFAULT_ROWS, Role, RowAction, RowRule, Subject, may_rows

__all__ = [
    "TABLE",
    "Access",
    "Conflict",
    "count",
    "delete",
    "delete_of",
    "insert",
    "mark_stale",
    "select",
    "update",
]

TABLE = "agents"
_KEYS: dict[tuple[str, ...], str] = {("id",): "agents_pkey", ("owner_id", "name"): "agents_owner_id_name_key"}
_TWICE = (
    "Ensure that no rows proposed for insertion within the same command have duplicate constrained values."
)
_POLICY = 'new row violates row-level security policy for table "agents"'

Row = sqlite3.Row


@dataclass(frozen=True, slots=True)
class Conflict:
    """What an insert does about a row that is already there."""

    columns: tuple[str, ...]
    merge: bool


class Access:
    """What one request may do with the table (nothing, its own rows, or everything), and what it did."""

    def __init__(self, subject: Subject, rules: tuple[RowRule, ...] = DEFAULT_ROWS) -> None:
        self.changes: list[Change] = []
        """What was changed, for those who listen; to be told after the commit."""
        self._subject = subject
        self._actions, self._owner = may_rows(subject, TABLE, rules=rules)

    def require(self, action: RowAction) -> None:
        """Refuse a role that has no grant at all; rows of others are not seen, which is no error."""
        if action not in self._actions:
            status = 401 if self._subject.role == Role.ANON else 403
            raise RestError(status, "42501", f"permission denied for table {TABLE}")

    @property
    def where(self) -> Where:
        return Where("1") if self._owner is None else Where(f"{self._owner} = ?", (self._subject.sub,))

    def check(self, row: Mapping[str, Any]) -> None:
        """The ``WITH CHECK`` of the policies, for a row as it would be stored."""
        if self._owner is not None and row[self._owner] != self._subject.sub:
            raise RestError(403, "42501", _POLICY)

    def note(self, old: Row | None, new: Row | None) -> None:
        """Keep one change."""
        self.changes.append(Change(_shown(old), _shown(new)))

    def defaults(self) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat()
        return {
            "id": str(uuid.uuid4()),
            "owner_id": self._subject.sub,
            "status": "online",
            "last_seen": now,
            "metadata": "{}",
            "created_at": now,
        }


def select(db: sqlite3.Connection, access: Access, query: Query) -> list[Row]:
    where = Where.all_of((access.where, query.where))
    sql = f"SELECT * FROM agents WHERE {where.sql} ORDER BY {query.order} LIMIT ? OFFSET ?"  # noqa: S608 (names are checked, values are bound)
    return db.execute(sql, (*where.values, query.limit, query.offset)).fetchall()


def count(db: sqlite3.Connection, access: Access, query: Query) -> int:
    where = Where.all_of((access.where, query.where))
    number: int = db.execute(f"SELECT count(*) FROM agents WHERE {where.sql}", where.values).fetchone()[0]  # noqa: S608
    return number


def insert(
    db: sqlite3.Connection,
    access: Access,
    objects: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    conflict: Conflict | None,
) -> tuple[list[Row], int]:
    """Add rows; on a conflict merge ``columns`` into, or leave, the row that is there.

    Returns the rows added or merged (not those left alone), and how many of them were added.
    """
    done: dict[str, None] = {}
    added = 0
    for given in objects:
        row = access.defaults() | _stored(given)
        access.check(row)
        present = None if conflict is None else _present(db, row, conflict.columns or ("id",))
        if present is None or conflict is None:
            done[_add(db, access, row)] = None
            added += 1
        elif conflict.merge:
            if present["id"] in done:
                message = "ON CONFLICT DO UPDATE command cannot affect row a second time"
                raise RestError(500, "21000", message, hint=_TWICE)
            done[_merge(db, access, present, {name: row.get(name) for name in columns})] = None
    return _by_id(db, tuple(done)), added


def update(db: sqlite3.Connection, access: Access, query: Query, changes: Mapping[str, Any]) -> list[Row]:
    """Change the rows of ``query``; without any change none is touched, and none returned."""
    stored = _stored(changes)
    if not stored:
        return []
    where = Where.all_of((access.where, query.where))
    rows = db.execute(f"SELECT id, owner_id FROM agents WHERE {where.sql}", where.values).fetchall()  # noqa: S608
    for row in rows:
        access.check({"owner_id": row["owner_id"]} | stored)
        _update(db, access, row["id"], stored)
    return _by_id(db, [stored.get("id", row["id"]) for row in rows])


def delete(db: sqlite3.Connection, access: Access, query: Query) -> list[Row]:
    where = Where.all_of((access.where, query.where))
    rows = db.execute(f"DELETE FROM agents WHERE {where.sql} RETURNING *", where.values).fetchall()  # noqa: S608
    for row in rows:
        access.note(row, None)
    return rows


def delete_of(db: sqlite3.Connection, access: Access, owner: str) -> None:
    """Remove all agents of an account that is about to go."""
    for row in db.execute("DELETE FROM agents WHERE owner_id = ? RETURNING *", (owner,)).fetchall():
        access.note(row, None)


def mark_stale(db: sqlite3.Connection, access: Access, before: str) -> None:
    """Mark the agents offline that were last seen before that time."""
    sql = "SELECT id FROM agents WHERE status = 'online' AND last_seen < ?"
    for row in db.execute(sql, (before,)).fetchall():
        _update(db, access, row["id"], {"status": "offline"})


def _add(db: sqlite3.Connection, access: Access, row: Mapping[str, Any]) -> str:
    names = ", ".join(row)
    marks = ", ".join("?" * len(row))
    _execute(db, f"INSERT INTO agents ({names}) VALUES ({marks})", tuple(row.values()))  # noqa: S608
    identity: str = row["id"]
    access.note(None, _one(db, identity))
    return identity


def _merge(db: sqlite3.Connection, access: Access, present: Row, changes: Mapping[str, Any]) -> str:
    # A row there that is somebody else's: PostgreSQL's USING clause refuses to update it.
    access.check({"owner_id": present["owner_id"]})
    _update(db, access, present["id"], changes)
    identity: str = changes.get("id", present["id"])
    return identity


def _present(db: sqlite3.Connection, row: Mapping[str, Any], keys: Sequence[str]) -> Row | None:
    if tuple(keys) not in _KEYS:
        message = "there is no unique or exclusion constraint matching the ON CONFLICT specification"
        raise RestError(400, "42P10", message)
    condition = " AND ".join(f"{key} = ?" for key in keys)
    found: Row | None = db.execute(
        f"SELECT * FROM agents WHERE {condition}",  # noqa: S608
        tuple(row[key] for key in keys),
    ).fetchone()
    return found


def _update(db: sqlite3.Connection, access: Access, identity: str, stored: Mapping[str, Any]) -> None:
    if stored:
        before = _one(db, identity)
        changes = ", ".join(f"{name} = ?" for name in stored)
        _execute(db, f"UPDATE agents SET {changes} WHERE id = ?", (*stored.values(), identity))  # noqa: S608
        access.note(before, _one(db, stored.get("id", identity)))


def _by_id(db: sqlite3.Connection, ids: Sequence[str]) -> list[Row]:
    rows = (_one(db, each) for each in ids)
    return [row for row in rows if row is not None]


def _one(db: sqlite3.Connection, identity: str) -> Row | None:
    row: Row | None = db.execute("SELECT * FROM agents WHERE id = ?", (identity,)).fetchone()
    return row


def _shown(row: Row | None) -> dict[str, Any] | None:
    return None if row is None else from_sql(row, {name: name for name in AGENT_COLUMNS}, AGENT_COLUMNS)


def _stored(given: Mapping[str, Any]) -> dict[str, Any]:
    stored: dict[str, Any] = {}
    for name, value in given.items():
        if name not in AGENT_COLUMNS:
            message = f"Could not find the '{name}' column of 'agents' in the schema cache"
            raise RestError(400, "PGRST204", message)
        stored[name] = json_to_sql(name, AGENT_COLUMNS[name], value)
    return stored


def _execute(db: sqlite3.Connection, sql: str, values: tuple[Any, ...]) -> None:
    """Run a change; SQLite's constraint errors become PostgreSQL's."""
    try:
        db.execute(sql, values)
    except sqlite3.IntegrityError as error:
        raise _violation(str(error)) from None


def _violation(text: str) -> RestError:
    kind, _, where = text.partition(" constraint failed: ")
    name = where.replace("agents.", "")
    match kind:
        case "UNIQUE":
            constraint = _KEYS.get(tuple(name.split(", ")), "agents_pkey")
            message = f'duplicate key value violates unique constraint "{constraint}"'
            return RestError(409, "23505", message, details=f"Key ({name}) already exists.")
        case "NOT NULL":
            message = f'null value in column "{name}" of relation "agents" violates not-null constraint'
            return RestError(400, "23502", message)
        case "CHECK":
            message = f'new row for relation "agents" violates check constraint "{name}"'
            return RestError(400, "23514", message)
        case _:
            message = (
                'insert or update on table "agents" violates foreign key constraint "agents_owner_id_fkey"'
            )
            return RestError(409, "23503", message)
