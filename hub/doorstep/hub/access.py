"""Hub: the access rules applied to this hub's database."""

from __future__ import annotations

import sqlite3

from doorstep.hub.bus import Topic
from doorstep.hub.store import Store
from doorstep.protocol.access import Grant, Subject, agent_in, topic_grant

__all__ = ["grant_for"]


async def grant_for(store: Store, subject: Subject, topic: Topic) -> Grant:
    """What ``subject`` may do on ``topic``; a public topic is open to everyone who got a socket."""
    if not topic.private:
        return Grant.ALL
    agent = agent_in(topic.name)
    owner = None if agent is None else await store.run(lambda db: _owner(db, agent))
    return topic_grant(subject, topic.name, agent_owner=owner)


def _owner(db: sqlite3.Connection, agent: str) -> str | None:
    row = db.execute("SELECT owner_id FROM agents WHERE id = ?", (agent,)).fetchone()
    return None if row is None else row["owner_id"]
