"""Hub: the SQLite schema. ``agents`` has the columns that ``sql/`` states for a Supabase project."""

from __future__ import annotations

__all__ = ["AGENT_COLUMNS", "MIGRATIONS"]

AGENT_COLUMNS = {
    "id": "uuid",
    "owner_id": "uuid",
    "name": "text",
    "platform": "text",
    "version": "text",
    "status": "text",
    "last_seen": "timestamptz",
    "public_key": "text",
    "metadata": "jsonb",
    "created_at": "timestamptz",
}
"""Columns of ``public.agents`` in order, with their PostgreSQL types."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE users (
            id TEXT PRIMARY KEY,
            email TEXT NOT NULL UNIQUE,
            password_hash TEXT,
            app_metadata TEXT NOT NULL DEFAULT '{}',
            user_metadata TEXT NOT NULL DEFAULT '{}',
            created_at TEXT NOT NULL,
            updated_at TEXT NOT NULL,
            last_sign_in_at TEXT
        ) STRICT""",
        """CREATE TABLE sessions (
            id TEXT PRIMARY KEY,
            user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
            created_at REAL NOT NULL
        ) STRICT""",
        "CREATE INDEX sessions_user ON sessions (user_id)",
        """CREATE TABLE refresh_tokens (
            hash BLOB PRIMARY KEY,
            session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
            parent BLOB,
            used INTEGER NOT NULL DEFAULT 0,
            created_at REAL NOT NULL
        ) STRICT""",
        "CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id)",
        """CREATE TABLE links (
            hash BLOB PRIMARY KEY,
            user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
            expires_at REAL NOT NULL
        ) STRICT""",
        """CREATE TABLE agents (
            id TEXT PRIMARY KEY,
            owner_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
            name TEXT NOT NULL CONSTRAINT agents_name_check CHECK (length(name) BETWEEN 1 AND 64),
            platform TEXT,
            version TEXT,
            status TEXT NOT NULL DEFAULT 'online'
                CONSTRAINT agents_status_check CHECK (status IN ('online', 'offline')),
            last_seen TEXT NOT NULL,
            public_key TEXT,
            metadata TEXT NOT NULL DEFAULT '{}',
            created_at TEXT NOT NULL,
            CONSTRAINT agents_owner_id_name_key UNIQUE (owner_id, name)
        ) STRICT""",
        "CREATE INDEX agents_last_seen ON agents (last_seen)",
    ),
    (
        "ALTER TABLE users ADD COLUMN role TEXT NOT NULL DEFAULT 'authenticated'",
        "ALTER TABLE users ADD COLUMN banned_until TEXT",
    ),
    (
        """CREATE TABLE messages (
            id TEXT PRIMARY KEY,
            topic TEXT NOT NULL,
            event TEXT NOT NULL,
            payload TEXT NOT NULL,
            inserted_at REAL NOT NULL
        ) STRICT""",
        "CREATE INDEX messages_topic ON messages (topic, inserted_at)",
        "CREATE INDEX messages_age ON messages (inserted_at)",
    ),
)
"""Each entry takes the database one version up; entries are only ever added."""
