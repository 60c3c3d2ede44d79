"""The matrix: subjects by topics, and the worlds in which each pair is put to PostgreSQL and to the hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from doorstep.protocol.access import DEFAULT_TOPICS, Grant, Role, Subject, TopicRule

__all__ = ["AGENTS", "RIGHT_TOPICS", "SUBJECTS", "TOPICS", "USERS", "WORLDS", "World"]

ONE, TWO, THREE, NOBODY = (f"{digit * 8}-aaaa-4aaa-8aaa-{digit * 12}" for digit in "1234")
USERS = (ONE, TWO, THREE)
"""ONE has two agents, TWO has one, THREE has none; NOBODY has no account."""

FIRST, SECOND, THIRD, GONE = (f"{digit * 8}-bbbb-4bbb-8bbb-{digit * 12}" for digit in "abcd")
AGENTS = {FIRST: ONE, SECOND: ONE, THIRD: TWO}
"""GONE has no row."""

SUBJECTS = (
    *(Subject(Role.AUTHENTICATED, sub) for sub in (*USERS, NOBODY, None, "", "not-a-uuid", FIRST)),
    *(Subject(Role.ANON, sub) for sub in (None, ONE)),
    *(Subject(Role.SERVICE, sub) for sub in (None, ONE)),
    *(Subject(role, ONE) for role in ("supabase_admin", "no_such_role", "")),
)


RIGHT_TOPICS = (
    *(f"user:{user}:agents" for user in (*USERS, NOBODY)),
    *(f"agent:{agent}:signaling" for agent in (*AGENTS, GONE)),
    *(f"agent:{agent}:wire:session-0001" for agent in (*AGENTS, GONE)),
)


def _wrong_topics() -> Iterator[str]:
    yield from _misspelt(f"user:{ONE}:agents", ONE)
    yield from _misspelt(f"agent:{FIRST}:signaling", FIRST)
    agent, wire = f"agent:{FIRST}", f"agent:{FIRST}:wire"
    yield from (t for t in _misspelt(wire, FIRST) if t != agent and not t.startswith(wire + ":"))
    yield from (f"{wire}\n:x", f"{wire}s:x", f"{wire.upper()}:x", f"agent:{ONE}:wire:x", f"user:{ONE}:wire:x")
    yield from (f"user:{FIRST}:agents", f"agent:{ONE}:signaling", f"user:{ONE}:signaling")
    yield from (
        f"agent:{FIRST}:agents",
        f"room:{ONE}",
        "user::agents",
        "agent::signaling",
        "user:null:agents",
    )
    yield from ("", " ", ":", "::", "lobby", "%", "realtime", "'", "user:' or true --:agents", "x" * 5000)


def _misspelt(right: str, identity: str) -> Iterator[str]:
    kind, _, word = right.split(":")
    for other in (
        identity.upper(),
        identity.replace("-", ""),
        identity.replace("-", "_"),
        identity.replace("-", "‐"),  # noqa: RUF001 - a hyphen that is not ours
        identity.replace("1", "１").replace("a", "а"),  # noqa: RUF001 - a fullwidth digit, a Cyrillic letter
        "{" + identity + "}",
        identity + " ",
        "_" * len(identity),
        "%",
        "*",
        f"{identity},{identity}",
    ):
        yield f"{kind}:{other}:{word}"
    yield from (right + end for end in (" ", "\n", "\r\n", ":", ":x", "\u200b", "%", "/../x"))
    yield from (start + right for start in (" ", "\n", "realtime:", "x", "\ufeff"))
    yield from (right.upper(), right.replace(":", "::"), right.replace(":", "\uff1a"), f"{kind}:{identity}")


TOPICS = (*RIGHT_TOPICS, *_wrong_topics())


@dataclass(frozen=True, slots=True)
class World:
    """What was changed after the migrations: statements of the owner, and what the hub is told instead."""

    name: str
    topics: tuple[str, ...] = RIGHT_TOPICS
    statements: tuple[str, ...] = ()
    rules: tuple[TopicRule, ...] = DEFAULT_TOPICS
    agents: dict[str, str] = field(default_factory=lambda: dict(AGENTS))


USER, AGENT, WIRE = DEFAULT_TOPICS
READ_ONLY, WRITE_ONLY = (
    tuple(TopicRule(rule.role, rule.pattern, rule.grant & rights) for rule in DEFAULT_TOPICS)
    for rights in (Grant.BROADCAST_READ | Grant.PRESENCE_READ, Grant.BROADCAST_WRITE | Grant.PRESENCE_WRITE)
)
WORLDS = (
    World("as migrated", TOPICS),
    World("agents not granted", statements=("revoke select on public.agents from authenticated",), rules=()),
    World(
        "messages cannot be read",
        statements=("revoke select on realtime.messages from authenticated",),
        rules=WRITE_ONLY,
    ),
    World(
        "messages cannot be written",
        statements=("revoke insert on realtime.messages from authenticated",),
        rules=READ_ONLY,
    ),
    World(
        "no write policy for the agents channel",
        statements=('drop policy "Owners write their agents channel" on realtime.messages',),
        rules=(READ_ONLY[0], AGENT, WIRE),
    ),
    World(
        "no policy for signaling",
        statements=tuple(
            f"""drop policy "Owners {verb} their agents' signaling" on realtime.messages"""
            for verb in ("read", "write")
        ),
        rules=(USER, WIRE),
    ),
    World(
        "no write policy for wires",
        statements=("""drop policy "Owners write their agents' wires" on realtime.messages""",),
        rules=(USER, AGENT, READ_ONLY[2]),
    ),
    World(
        "wires of a project that has not got the last migration",
        statements=tuple(
            f"""drop policy "Owners {verb} their agents' wires" on realtime.messages"""
            for verb in ("read", "write")
        ),
        rules=(USER, AGENT),
    ),
    World(
        "an agent removed, an agent of another owner now",
        statements=(
            f"delete from public.agents where id = '{SECOND}'",
            f"update public.agents set owner_id = '{THREE}' where id = '{THIRD}'",
        ),
        agents={FIRST: ONE, THIRD: THREE},
    ),
)
