"""Hub: what the server itself sends to a topic (``realtime.send``), and its replay to later joiners."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Mapping

import msgspec

from doorstep.hub.bus import Bus, Topic
from doorstep.hub.config import RealtimeLimits
from doorstep.hub.message import Message
from doorstep.hub.store import Store
from doorstep.protocol.phoenix import Outgoing

__all__ = ["Messages", "forget_messages"]

_encode = msgspec.json.Encoder().encode
_LIVE, _REPLAYED = b'{"id":"%b"}', b'{"replayed":true,"id":"%b"}'


class Messages:
    """Sends, and keeps what went to private topics; clients' own broadcasts are not kept, as on the real
    server."""

    def __init__(self, store: Store, bus: Bus, limits: RealtimeLimits) -> None:
        self._store = store
        self._bus = bus
        self._limits = limits

    async def send(
        self, payload: Mapping[str, object], event: str, topic: str, *, private: bool = True
    ) -> str:
        """Send an object as a broadcast of the server's own; gives its id, which is also put in the payload.

        Raises ``ValueError`` for names or payloads that are too long.
        """
        message_id = str(uuid.uuid4())
        body = _encode({"id": message_id, **payload})
        where = Topic(topic, private)
        longest = max(len(where.wire.encode()), len(event.encode()))
        if longest > self._limits.topic_bytes or len(body) > self._limits.payload_bytes:
            raise ValueError("topic, event or payload are too long")
        if private:
            row = (message_id, topic, event, body.decode(), time.time())
            await self._store.run(lambda db: _keep(db, row))
        self._bus.send(where, _message(where, event, body, message_id, _LIVE))
        return message_id

    async def replay(self, topic: Topic, since: float, limit: int) -> list[Message]:
        """The newest ``limit`` messages of a private topic since then (epoch seconds), the oldest first."""
        most = max(1, min(limit, self._limits.replay_messages))
        oldest = max(since, time.time() - self._limits.replay_seconds)
        rows = await self._store.run(lambda db: _newest(db, topic.name, oldest, most))
        return [_message(topic, event, body.encode(), each, _REPLAYED) for each, event, body in rows]


def forget_messages(db: sqlite3.Connection, seconds: float) -> None:
    """Delete what is too old to be replayed."""
    db.execute("DELETE FROM messages WHERE inserted_at < ?", (time.time() - seconds,))


def _message(topic: Topic, event: str, body: bytes, message_id: str, metadata: bytes) -> Message:
    outgoing = Outgoing.broadcast(
        topic.wire, event, body, binary=False, metadata=metadata % message_id.encode()
    )
    return Message(outgoing, message_id)


def _keep(db: sqlite3.Connection, row: tuple[str, str, str, str, float]) -> None:
    db.execute("INSERT INTO messages (id, topic, event, payload, inserted_at) VALUES (?, ?, ?, ?, ?)", row)


def _newest(db: sqlite3.Connection, topic: str, since: float, limit: int) -> list[tuple[str, str, str]]:
    sql = (
        "SELECT id, event, payload FROM messages WHERE topic = ? AND inserted_at >= ?"
        " ORDER BY inserted_at DESC, rowid DESC LIMIT ?"
    )
    rows = db.execute(sql, (topic, since, limit)).fetchall()
    return [(row["id"], row["event"], row["payload"]) for row in reversed(rows)]
