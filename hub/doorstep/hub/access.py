"""Hub: the access rules applied to this hub's database."""

from __future__ import annotations

import sqlite3

from doorstep.hub.bus import Topic
from doorstep.hub.services import Services
from doorstep.protocol.access import Grant, Subject, agent_in, topic_grant

__all__ = ["grant_for"]


async def grant_for(hub: Services, subject: Subject, topic: Topic) -> Grant:
    """What ``subject`` may do on ``topic``; a public topic is open to everyone who got a socket."""
    if not topic.private:
        return Grant.ALL
    agent = agent_in(topic.name, hub.config.topics)
    owner = None if agent is None else await hub.store.run(lambda db: _owner(db, agent))
    return topic_grant(subject, topic.name, agent_owner=owner, rules=hub.config.topics)


def _owner(db: sqlite3.Connection, agent: str) -> str | None:
    row = db.execute("SELECT owner_id FROM agents WHERE id = ?", (agent,)).fetchone()
    return None if row is None else row["owner_id"]
