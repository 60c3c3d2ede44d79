"""PostgreSQL's policies and the hub's rules, asked the same: the answers are equal in every cell."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from doorstep.hub.access import grant_for
from doorstep.hub.bus import Topic
from doorstep.protocol.access import Grant, Role, Subject
from doorstep.testing.hub import throw_away_hub

from .asking import rights
from .cells import AGENTS, RIGHT_TOPICS, SUBJECTS, TOPICS, USERS, WORLDS, World
from .conftest import HERE, Project

GRANTS = {
    Grant.BROADCAST_READ: "broadcast.read",
    Grant.BROADCAST_WRITE: "broadcast.write",
    Grant.PRESENCE_READ: "presence.read",
    Grant.PRESENCE_WRITE: "presence.write",
}
Answers = dict[tuple[Subject, str], Grant]


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
@pytest.mark.asyncio
async def test_equal_in_every_cell(migrated: Project, tmp_path: Path, world: World) -> None:
    expected = await the_hubs(tmp_path, world)
    found = postgresqls(migrated, world)
    different = {cell: (found[cell], expected[cell]) for cell in found if found[cell] != expected[cell]}
    assert not different, f"{len(different)} cells: (PostgreSQL, hub)"
    assert len(found) == len(SUBJECTS) * len(world.topics)


def test_an_older_realtime_finds_the_same(migrated: Project) -> None:
    """Its write probe needs the read policies too; ours give both or neither."""
    world = World("as migrated")
    assert postgresqls(migrated, world, returning=True) == postgresqls(migrated, world)


def test_the_matrix_asks_what_it_should(migrated: Project) -> None:
    """The topics are distinct, all but a few are wrong, and every kind of answer comes up."""
    assert len(SUBJECTS) * len(TOPICS) > 1000
    assert len(TOPICS) == len(set(TOPICS)) > 8 * len(RIGHT_TOPICS)
    found = postgresqls(migrated, World("as migrated"))
    of_users = {cell: grant for cell, grant in found.items() if cell[0].role == Role.AUTHENTICATED and grant}
    assert set(found.values()) == {Grant.NONE, Grant.BROADCAST, Grant.ALL}
    # The one more is an account-less user's own channel: it hears nobody.
    assert len(of_users) == len(USERS) + 1 + 2 * len(AGENTS)


def test_the_vectors_of_the_rules(migrated: Project) -> None:
    """``protocol/vectors/access.json`` holds for PostgreSQL too."""
    vectors = json.loads((HERE.parents[1] / "protocol/vectors/access.json").read_text())["topics"]
    assert len(vectors) > 10
    with migrated.connect("supabase_admin") as owner, migrated.connect("supabase_realtime_admin") as asked:
        for vector in vectors:
            owner.execute("truncate auth.users cascade")
            for agent, user in vector["agents"].items():
                owner.execute("insert into auth.users (id) values (%s) on conflict do nothing", (user,))
                row = (agent, user, agent)
                owner.execute("insert into public.agents (id, owner_id, name) values (%s, %s, %s)", row)
            found = rights(asked, Subject(vector["role"], vector["sub"]), vector["topic"])
            assert {GRANTS[grant] for grant in found} == set(vector["grant"]), vector


def postgresqls(project: Project, world: World, *, returning: bool = False) -> Answers:
    _populate(project, AGENTS)
    project.run("supabase_admin", *world.statements)
    with project.connect("supabase_realtime_admin", autocommit=False) as connection:
        return {
            (subject, topic): rights(connection, subject, topic, returning=returning)
            for subject in SUBJECTS
            for topic in world.topics
        }


async def the_hubs(directory: Path, world: World) -> Answers:
    async with throw_away_hub(directory) as hub:
        services = replace(
            hub.server.services, config=replace(hub.server.services.config, topics=world.rules)
        )
        await services.store.run(lambda db: _store(db, world.agents))
        return {
            (subject, topic): await grant_for(services, subject, Topic(topic, private=True))
            for subject in SUBJECTS
            for topic in world.topics
        }


def _populate(project: Project, agents: Mapping[str, str]) -> None:
    users = ", ".join(f"('{user}')" for user in USERS)
    rows = ", ".join(f"('{agent}', '{owner}', 'agent {agent[0]}')" for agent, owner in agents.items())
    project.run("supabase_auth_admin", f"insert into auth.users (id) values {users} on conflict do nothing")
    project.run(
        "postgres", f"insert into public.agents (id, owner_id, name) values {rows} on conflict do nothing"
    )


def _store(db: sqlite3.Connection, agents: Mapping[str, str]) -> None:
    for user in USERS:
        db.execute(
            "INSERT INTO users (id, email, created_at, updated_at) VALUES (?, ?, '', '')", (user, user)
        )
    for agent, owner in agents.items():
        db.execute(
            "INSERT INTO agents (id, owner_id, name, last_seen, created_at) VALUES (?, ?, ?, '', '')",
            (agent, owner, f"agent {agent[0]}"),
        )
