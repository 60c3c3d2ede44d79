"""Puts to PostgreSQL the questions that Realtime and PostgREST put, the way they put them."""

from __future__ import annotations

import json

import psycopg
from psycopg import errors, sql

from doorstep.protocol.access import Grant, Subject

__all__ = ["as_subject", "rights", "took_effect"]

Connection = psycopg.Connection[tuple[object, ...]]

READ = {"broadcast": Grant.BROADCAST_READ, "presence": Grant.PRESENCE_READ}
WRITE = {"broadcast": Grant.BROADCAST_WRITE, "presence": Grant.PRESENCE_WRITE}


def rights(connection: Connection, subject: Subject, topic: str, *, returning: bool = False) -> Grant:
    """What Realtime finds that ``subject`` may do on ``topic``; it logs in as the owner of realtime.messages.

    A policy that fails refuses. Before 2026 the write probe was ``insert … returning``, for which PostgreSQL
    asks the read policies too: ``returning`` asks that way.
    """
    return _readable(connection, subject, topic) | _writable(connection, subject, topic, returning)


def _readable(connection: Connection, subject: Subject, topic: str) -> Grant:
    """Insert a row per extension as the owner, become the subject, look which are seen, roll back."""
    found = Grant.NONE
    try:
        with connection.transaction(force_rollback=True):
            rows = connection.execute(
                "insert into realtime.messages (topic, extension) values (%(topic)s, 'broadcast'), "
                "(%(topic)s, 'presence') returning id",
                {"topic": topic},
            ).fetchall()
            as_subject(connection, subject, topic)
            seen = connection.execute(
                "select extension from realtime.messages where topic = %s and id = any(%s)",
                (topic, [row[0] for row in rows]),
            )
            for (extension,) in seen.fetchall():
                found |= READ[str(extension)]
    except psycopg.DatabaseError:
        return Grant.NONE
    return found


def _writable(connection: Connection, subject: Subject, topic: str, returning: bool) -> Grant:
    """Become the subject, insert a row per extension, each in a savepoint, roll back."""
    found = Grant.NONE
    insert = "insert into realtime.messages (topic, extension) values (%s, %s)"
    try:
        with connection.transaction(force_rollback=True):
            as_subject(connection, subject, topic)
            for extension, grant in WRITE.items():
                if _done(connection, insert + (" returning *" if returning else ""), (topic, extension)):
                    found |= grant
    except psycopg.DatabaseError:
        return Grant.NONE
    return found


def _done(connection: Connection, statement: str, values: tuple[str, str]) -> bool:
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(statement, values)
    except errors.InsufficientPrivilege:
        return False
    return True


def as_subject(connection: Connection, subject: Subject, topic: str = "") -> None:
    """Set role and claims until the end of the transaction, as Realtime and PostgREST do."""
    claims = {"role": subject.role} | ({} if subject.sub is None else {"sub": subject.sub})
    connection.execute(
        "select set_config('role', %s, true), set_config('realtime.topic', %s, true), "
        "set_config('request.jwt.claims', %s, true), set_config('request.jwt.claim.sub', %s, true), "
        "set_config('request.jwt.claim.role', %s, true), set_config('request.headers', '{}', true)",
        (subject.role, topic, json.dumps(claims), subject.sub or "", subject.role),
    )


def took_effect(connection: Connection, subject: Subject, statement: str) -> bool:
    """Whether PostgREST, asked by ``subject`` for ``statement``, would see or change a row; rolled back."""
    try:
        with connection.transaction(force_rollback=True):
            as_subject(connection, subject)
            return connection.execute(sql.SQL(statement)).rowcount > 0
    except (errors.InsufficientPrivilege, errors.NotNullViolation):
        return False  # the latter: a row without an owner, of the service role
