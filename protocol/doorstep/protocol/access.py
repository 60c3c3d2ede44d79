"""Protocol: who may read and write which topic and which row, as data and one pure decision.

The default rules state what ``sql/`` states as policies; the same vectors (``protocol/vectors/access.json``)
are run against both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Flag, StrEnum, auto
from functools import cache, reduce
from typing import cast

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
    "pattern_fault",
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
    """Whom a verified token names: its ``role``, for a user its ``sub``, and all its ``claims``."""

    role: str
    sub: str | None = None
    claims: Mapping[str, object] = field(default_factory=dict[str, object], hash=False, repr=False)

    def claim(self, path: str) -> tuple[object, ...]:
        """The values of the claim at ``path`` (as ``app_metadata.team``): all of a list, else the one."""
        found = reduce(_member, path.split("."), cast("object", self.claims))
        if isinstance(found, list):
            return tuple(cast("list[object]", found))
        return () if found is None else (found,)


@dataclass(frozen=True, slots=True)
class TopicRule:
    """``role`` gets ``grant`` on the topics of ``pattern``, if the token has all of ``claims``.

    In a pattern ``{user}`` stands for the token's ``sub`` (a UUID), ``{agent}`` for the id of an agents row
    whose owner is the token's ``sub``, ``{claim:app_metadata.team}`` for that claim of the token (without a
    colon in it), and ``*`` for anything; all other text stands for itself. A claim that is a list stands for
    each of its members.
    """

    role: str
    pattern: str
    grant: Grant
    claims: tuple[tuple[str, str | int | bool], ...] = ()
    """What the token must have: pairs of a claim's path and its value."""

    def match(self, topic: str) -> Mapping[str, str] | None:
        """The ids in ``topic`` by the names above, or ``None`` when it is not of this pattern."""
        found = _compiled(self.pattern).fullmatch(topic)
        return None if found is None else found.groupdict()

    def fits(self, subject: Subject, topic: str) -> bool:
        """Whether role and claims, those in the topic too, are the rule's; whose agent it is is not asked."""
        ids = self.match(topic)
        if ids is None or subject.role != self.role:
            return False
        named = enumerate(_claims_in(self.pattern))
        return (
            ids.get("user", subject.sub) == subject.sub
            and all(ids[f"claim{number}"] in subject.claim(path) for number, path in named)
            and all(_holds(subject, path, value) for path, value in self.claims)
        )


@dataclass(frozen=True, slots=True)
class RowRule:
    """``role`` may do ``actions`` with the rows of ``table`` whose ``owner`` column is its ``sub``.

    Without an ``owner`` column it is all rows.
    """

    role: str
    table: str
    owner: str | None
    actions: RowAction


DEFAULT_TOPICS = (
    TopicRule(Role.AUTHENTICATED, "user:{user}:agents", Grant.ALL),
    TopicRule(Role.AUTHENTICATED, "agent:{agent}:signaling", Grant.BROADCAST),
    TopicRule(Role.AUTHENTICATED, "agent:{agent}:wire:*", Grant.BROADCAST),
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
    rules = tuple(rules)
    grant, agent = Grant.NONE, agent_in(topic, rules)
    for rule in rules:
        if not rule.fits(subject, topic):
            continue
        named = (rule.match(topic) or {}).get("agent")
        if named is None or (named == agent and agent_owner is not None and agent_owner == subject.sub):
            grant |= rule.grant
    return grant


def may_rows(
    subject: Subject, table: str, *, rules: Iterable[RowRule] = DEFAULT_ROWS
) -> tuple[RowAction, str | None]:
    """What ``subject`` may do with ``table``, and the owner column that must equal its ``sub``.

    The column is ``None`` when every row is allowed (``service_role``, or a rule that says so).
    """
    if subject.role == Role.SERVICE:
        return RowAction.ALL, None
    for rule in rules:
        if rule.table == table and rule.role == subject.role and (subject.sub or rule.owner is None):
            return rule.actions, rule.owner
    return RowAction.NONE, None


_CLAIM = re.compile(r"\w+(\.\w+)*")
_PLACEHOLDER = re.compile(r"(\{user\}|\{agent\}|\{claim:[^{}]*\}|\*)")


def _member(value: object, name: str) -> object:
    """What an object has under that name; ``None`` when it has nothing or is no object."""
    return cast("Mapping[str, object]", value).get(name) if isinstance(value, Mapping) else None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    special = {"{user}": f"(?P<user>{_UUID})", "{agent}": f"(?P<agent>{_UUID})", "*": ".*"}
    out, claims = "", 0
    for piece in _PLACEHOLDER.split(pattern):
        if piece.startswith("{claim:"):
            out += f"(?P<claim{claims}>[^:]+)"
            claims += 1
        else:
            out += special.get(piece, re.escape(piece))
    return re.compile(out, re.DOTALL)


@cache
def _claims_in(pattern: str) -> tuple[str, ...]:
    """The paths of the claims a pattern names, in order."""
    return tuple(piece[7:-1] for piece in _PLACEHOLDER.findall(pattern) if piece.startswith("{claim:"))


def pattern_fault(pattern: str) -> str | None:
    """What is wrong with a pattern, for people; ``None`` for a good one."""
    if not pattern:
        return "is empty"
    for name in ("{user}", "{agent}"):
        if pattern.count(name) > 1:
            return f"names {name} twice"
    if not all(_CLAIM.fullmatch(path) for path in _claims_in(pattern)):
        return "names a claim by something else than a path such as {claim:app_metadata.team}"
    odd = re.search(r"\{[^{}]*\}?|\}", _PLACEHOLDER.sub("", pattern))
    if odd is not None:
        return f"has {odd[0]}, which is none of {{user}}, {{agent}}, {{claim:PATH}}, *"
    return None


def _holds(subject: Subject, path: str, wanted: str | int | bool) -> bool:
    """Whether the token has the claim; ``true`` is not ``1``."""
    return any(type(value) is type(wanted) and value == wanted for value in subject.claim(path))
