"""Hub: users, sessions, refresh tokens and sign-in links, as functions on a database connection."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
import time
import uuid
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = [
    "Changes",
    "EmailTaken",
    "Refreshed",
    "Refused",
    "count_users",
    "create_user",
    "end_sessions",
    "find_user",
    "is_banned",
    "list_users",
    "make_link",
    "refresh",
    "remove_user",
    "session_exists",
    "start_session",
    "update_user",
    "use_link",
    "user_json",
]

User = dict[str, Any]
"""A user as GoTrue shows one."""


class EmailTaken(Exception):
    """Another account has this address."""


class Refused(Exception):
    """A refresh token or link that is not accepted; ``code`` is GoTrue's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The outcome of a refresh: the session goes on for ``user`` with ``token``."""

    user: User
    session: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Changes:
    """What is changed of an account; ``None`` stays. Metadata is merged; a key whose value is null goes."""

    email: str | None = None
    password_hash: str | None = None
    role: str | None = None
    banned_until: str | None = None
    """ISO time, or ``""`` to lift the ban."""
    app_metadata: dict[str, Any] | None = None
    user_metadata: dict[str, Any] | None = None


def now_text() -> str:
    return datetime.now(UTC).isoformat()


def create_user(
    db: sqlite3.Connection,
    email: str,
    password_hash: str | None,
    *,
    user_id: str | None = None,
    role: str | None = None,
    app_metadata: dict[str, Any] | None = None,
    user_metadata: dict[str, Any] | None = None,
) -> User:
    """Add an account; raise :class:`EmailTaken`."""
    chosen, now = user_id or str(uuid.uuid4()), now_text()
    providers = {"provider": "email", "providers": ["email"]}
    try:
        db.execute(
            "INSERT INTO users"
            " (id, email, password_hash, role, app_metadata, user_metadata, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                chosen,
                email,
                password_hash,
                role or "authenticated",
                json.dumps(providers | (app_metadata or {})),
                json.dumps(user_metadata or {}),
                now,
                now,
            ),
        )
    except sqlite3.IntegrityError:
        raise EmailTaken from None
    row = find_user(db, user_id=chosen)
    assert row is not None
    return user_json(row)


def find_user(
    db: sqlite3.Connection, *, email: str | None = None, user_id: str | None = None
) -> sqlite3.Row | None:
    """The row of the account with that address or id."""
    by_id = user_id is not None
    sql = "SELECT * FROM users WHERE id = ?" if by_id else "SELECT * FROM users WHERE email = ?"
    row: sqlite3.Row | None = db.execute(sql, (user_id if by_id else email,)).fetchone()
    return row


def list_users(db: sqlite3.Connection, *, limit: int, offset: int) -> list[User]:
    rows = db.execute("SELECT * FROM users ORDER BY created_at DESC, id LIMIT ? OFFSET ?", (limit, offset))
    return [user_json(row) for row in rows]


def count_users(db: sqlite3.Connection) -> int:
    number: int = db.execute("SELECT count(*) FROM users").fetchone()[0]
    return number


def update_user(db: sqlite3.Connection, user_id: str, changes: Changes) -> User | None:
    """Change what is given. Raises :class:`EmailTaken`; ``None``: there is no such account."""
    row = find_user(db, user_id=user_id)
    if row is None:
        return None
    try:
        db.execute(
            "UPDATE users SET email = coalesce(?, email), password_hash = coalesce(?, password_hash),"
            " role = coalesce(?, role), banned_until = nullif(coalesce(?, banned_until), ''),"
            " app_metadata = ?, user_metadata = ?, updated_at = ? WHERE id = ?",
            (
                changes.email,
                changes.password_hash,
                changes.role,
                changes.banned_until,
                _merged(row["app_metadata"], changes.app_metadata),
                _merged(row["user_metadata"], changes.user_metadata),
                now_text(),
                user_id,
            ),
        )
    except sqlite3.IntegrityError:
        raise EmailTaken from None
    changed = find_user(db, user_id=user_id)
    return None if changed is None else user_json(changed)


def remove_user(db: sqlite3.Connection, user_id: str) -> bool:
    """Remove an account and everything it owns."""
    return db.execute("DELETE FROM users WHERE id = ?", (user_id,)).rowcount == 1


def user_json(row: sqlite3.Row) -> User:
    """The account as GoTrue shows it; never the password's hash."""
    return {
        "id": row["id"],
        "aud": "authenticated",
        "role": row["role"],
        "email": row["email"],
        "phone": "",
        "email_confirmed_at": row["created_at"],
        "confirmed_at": row["created_at"],
        "last_sign_in_at": row["last_sign_in_at"],
        "app_metadata": json.loads(row["app_metadata"]),
        "user_metadata": json.loads(row["user_metadata"]),
        "identities": [_identity(row)],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "is_anonymous": False,
    } | ({} if row["banned_until"] is None else {"banned_until": row["banned_until"]})


def is_banned(row: sqlite3.Row) -> bool:
    """Whether the account may not sign in now."""
    until: str | None = row["banned_until"]
    return until is not None and datetime.fromisoformat(until) > datetime.now(UTC)


def start_session(db: sqlite3.Connection, user_id: str) -> Refreshed:
    """Sign a user in: a new session with its first refresh token."""
    session, token = str(uuid.uuid4()), secrets.token_urlsafe(32)
    db.execute("UPDATE users SET last_sign_in_at = ? WHERE id = ?", (now_text(), user_id))
    db.execute("INSERT INTO sessions VALUES (?, ?, ?)", (session, user_id, time.time()))
    _add_token(db, session, token, parent=None)
    row = find_user(db, user_id=user_id)
    assert row is not None
    return Refreshed(user_json(row), session, token)


def refresh(db: sqlite3.Connection, token: str, secret: str) -> Refreshed | None:
    """Go on with the session of ``token``; the next token replaces it.

    Tokens are stored hashed, and each is derived from the one before it, so that a client that never got our
    answer and comes again with the parent of the active one can be given the active one again (GoTrue's reuse
    tolerance). Any older token ends the session: that returns ``None`` and does not raise, since it must be
    committed.
    """
    found = db.execute(
        "SELECT t.used, t.session_id, s.user_id FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id"
        " WHERE t.hash = ?",
        (_hash(token),),
    ).fetchone()
    if found is None:
        raise Refused("refresh_token_not_found", "Invalid Refresh Token: Refresh Token Not Found")
    session, following = found["session_id"], _next_token(token, secret)
    if not found["used"]:
        db.execute("UPDATE refresh_tokens SET used = 1 WHERE hash = ?", (_hash(token),))
        _add_token(db, session, following, parent=_hash(token))
        _forget_ancestors(db, session)
    elif not _is_active(db, following):
        db.execute("DELETE FROM sessions WHERE id = ?", (session,))
        return None
    row = find_user(db, user_id=found["user_id"])
    assert row is not None
    if is_banned(row):
        raise Refused("user_banned", "Invalid Refresh Token: User Banned")
    return Refreshed(user_json(row), session, following)


def end_sessions(db: sqlite3.Connection, user_id: str, session: str | None, scope: str) -> None:
    """Sign out: this session (``local``), all others (``others``) or all of the user's (``global``)."""
    if scope == "local":
        db.execute("DELETE FROM sessions WHERE user_id = ? AND id = ?", (user_id, session))
    elif scope == "others":
        db.execute("DELETE FROM sessions WHERE user_id = ? AND id IS NOT ?", (user_id, session))
    else:
        db.execute("DELETE FROM sessions WHERE user_id = ?", (user_id,))


def session_exists(db: sqlite3.Connection, session: str | None) -> bool:
    """Whether the session of an access token has not been signed out."""
    return db.execute("SELECT 1 FROM sessions WHERE id = ?", (session,)).fetchone() is not None


def make_link(db: sqlite3.Connection, user_id: str, seconds: float) -> str:
    """A token for one sign-in, good for ``seconds``."""
    token = secrets.token_urlsafe(32)
    db.execute("DELETE FROM links WHERE expires_at < ?", (time.time(),))
    db.execute("INSERT INTO links VALUES (?, ?, ?)", (_hash(token), user_id, time.time() + seconds))
    return token


def use_link(db: sqlite3.Connection, token: str) -> str | None:
    """The user a sign-in link belongs to; the link is spent whether it had expired or not."""
    sql = "DELETE FROM links WHERE hash = ? RETURNING user_id, expires_at"
    row = db.execute(sql, (_hash(token),)).fetchone()
    if row is None or row["expires_at"] < time.time():
        return None
    user_id: str = row["user_id"]
    return user_id


def _identity(row: sqlite3.Row) -> dict[str, Any]:
    """How the account signs in: clients take an account without any for one that was there before."""
    data = {"sub": row["id"], "email": row["email"], "email_verified": True, "phone_verified": False}
    return {
        "identity_id": row["id"],
        "id": row["id"],
        "user_id": row["id"],
        "identity_data": data,
        "provider": "email",
        "email": row["email"],
        "last_sign_in_at": row["last_sign_in_at"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }


def _merged(stored: str, changes: dict[str, Any] | None) -> str:
    merged = json.loads(stored) | (changes or {})
    return json.dumps({key: value for key, value in merged.items() if value is not None})


def _hash(token: str) -> bytes:
    # The tokens are 256 random bits: a plain hash is enough to make a stolen database useless.
    return hashlib.sha256(token.encode()).digest()


def _next_token(token: str, secret: str) -> str:
    digest = hmac.digest(secret.encode(), b"refresh:" + token.encode(), "sha256")
    return urlsafe_b64encode(digest).decode().rstrip("=")


def _add_token(db: sqlite3.Connection, session: str, token: str, *, parent: bytes | None) -> None:
    db.execute(
        "INSERT INTO refresh_tokens (hash, session_id, parent, created_at) VALUES (?, ?, ?, ?)",
        (_hash(token), session, parent, time.time()),
    )


def _is_active(db: sqlite3.Connection, token: str) -> bool:
    row = db.execute("SELECT used FROM refresh_tokens WHERE hash = ?", (_hash(token),)).fetchone()
    return row is not None and not row["used"]


def _forget_ancestors(db: sqlite3.Connection, session: str, keep: int = 64) -> None:
    """Bound what a long session leaves behind; a token older than ``keep`` refreshes is simply unknown."""
    db.execute(
        "DELETE FROM refresh_tokens WHERE session_id = ?1 AND hash NOT IN"
        " (SELECT hash FROM refresh_tokens WHERE session_id = ?1 ORDER BY created_at DESC LIMIT ?2)",
        (session, keep),
    )
