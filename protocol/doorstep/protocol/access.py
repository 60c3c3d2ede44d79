"""Protocol: who may read and write which topic and which row, as data and one pure decision.

The default rules state what ``sql/`` states as policies; the same vectors (``protocol/vectors/access.json``)
are run against both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Flag, StrEnum, auto
from functools import cache

__all__ = [
    "DEFAULT_ROWS",
    "DEFAULT_TOPICS",
    "Grant",
    "Role",
    "RowAction",
    "RowRule",
    "Subject",
    "TopicRule",
    "agent_in",
    "may_rows",
    "topic_grant",
]

_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


class Role(StrEnum):
    """The database roles a token may name."""

    ANON = "anon"
    AUTHENTICATED = "authenticated"
    SERVICE = "service_role"


class Grant(Flag):
    """What may be done on one private topic; policies on ``realtime.messages`` tell the same things apart."""

    NONE = 0
    BROADCAST_READ = auto()
    BROADCAST_WRITE = auto()
    PRESENCE_READ = auto()
    PRESENCE_WRITE = auto()
    BROADCAST = BROADCAST_READ | BROADCAST_WRITE
    PRESENCE = PRESENCE_READ | PRESENCE_WRITE
    ALL = BROADCAST | PRESENCE


class RowAction(Flag):
    """What may be done with the rows of a table."""

    NONE = 0
    SELECT = auto()
    INSERT = auto()
    UPDATE = auto()
    DELETE = auto()
    ALL = SELECT | INSERT | UPDATE | DELETE


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a verified token names: its ``role`` and, for a user, its ``sub``."""

    role: str
    sub: str | None = None


@dataclass(frozen=True, slots=True)
class TopicRule:
    """``role`` gets ``grant`` on the topics of ``pattern``.

    In a pattern ``{user}`` stands for the token's ``sub``, ``{agent}`` for the id of an agents row whose
    owner is the token's ``sub``, and ``*`` for anything; all other text stands for itself.
    """

    role: Role
    pattern: str
    grant: Grant

    def match(self, topic: str) -> Mapping[str, str] | None:
        """The ids in ``topic`` by the names above, or ``None`` when it is not of this pattern."""
        found = _compiled(self.pattern).fullmatch(topic)
        return None if found is None else found.groupdict()


@dataclass(frozen=True, slots=True)
class RowRule:
    """``role`` may do ``actions`` with the rows of ``table`` whose ``owner`` column is its ``sub``."""

    role: Role
    table: str
    owner: str
    actions: RowAction


DEFAULT_TOPICS = (
    TopicRule(Role.AUTHENTICATED, "user:{user}:agents", Grant.ALL),
    TopicRule(Role.AUTHENTICATED, "agent:{agent}:signaling", Grant.BROADCAST),
)
DEFAULT_ROWS = (RowRule(Role.AUTHENTICATED, "agents", "owner_id", RowAction.ALL),)


def agent_in(topic: str, rules: Iterable[TopicRule] = DEFAULT_TOPICS) -> str | None:
    """The agent whose owner must be looked up before :func:`topic_grant` can decide, if there is one."""
    for rule in rules:
        ids = rule.match(topic)
        if ids is not None and "agent" in ids:
            return ids["agent"]
    return None


def topic_grant(
    subject: Subject, topic: str, *, agent_owner: str | None, rules: Iterable[TopicRule] = DEFAULT_TOPICS
) -> Grant:
    """What ``subject`` may do on the private ``topic``; ``agent_owner`` owns the agent of :func:`agent_in`.

    Anything no rule names is refused; ``service_role`` passes every policy, as it does in a Supabase project.
    """
    if subject.role == Role.SERVICE:
        return Grant.ALL
    grant = Grant.NONE
    for rule in rules:
        ids = rule.match(topic)
        if ids is None or subject.role != rule.role or not subject.sub:
            continue
        is_user = ids.get("user", subject.sub) == subject.sub
        owns_agent = "agent" not in ids or agent_owner == subject.sub
        if is_user and owns_agent:
            grant |= rule.grant
    return grant


def may_rows(
    subject: Subject, table: str, *, rules: Iterable[RowRule] = DEFAULT_ROWS
) -> tuple[RowAction, str | None]:
    """What ``subject`` may do with ``table``, and the owner column that must equal its ``sub``.

    The column is ``None`` when every row is allowed (``service_role``).
    """
    if subject.role == Role.SERVICE:
        return RowAction.ALL, None
    for rule in rules:
        if rule.table == table and rule.role == subject.role and subject.sub:
            return rule.actions, rule.owner
    return RowAction.NONE, None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"(\{user\}|\{agent\}|\*)", pattern)
    special = {"{user}": f"(?P<user>{_UUID})", "{agent}": f"(?P<agent>{_UUID})", "*": ".*"}
    return re.compile("".join(special.get(piece, re.escape(piece)) for piece in pieces), re.DOTALL)
